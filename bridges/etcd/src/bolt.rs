//! The file format of etcd's storage engine (bbolt, version 2), written once from front to back: pages of 4 KiB, and in them B+ trees whose
//! leaves hold the elements in order and whose branches point to the pages below. What comes later in the file is planned from the sizes
//! of the elements alone, because the first pages already say where everything is.

use bytes::BufMut;

/// Bytes of a page.
pub(crate) const PAGE: usize = 4096;
/// Pages before the first tree: two copies of the meta page, the list of free pages, and the names of the buckets.
pub(crate) const FIRST_PAGE: u64 = 4;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
const FREE_LIST_AT: u64 = 2;
const NAMES_AT: u64 = 3;
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const META: u16 = 0x04;
const FREE_LIST: u16 = 0x10;
/// Marks an element of a leaf that is a bucket.
const BUCKET: u32 = 0x01;
/// Of a page: its number, flags, elements and how many pages it takes more.
const PAGE_HEADER: usize = 8 + 2 + 2 + 4;
/// Of an element, in a leaf and in a branch alike.
const ELEMENT_HEADER: usize = 16;

/// Where a bucket's tree is, or its elements themselves.
#[derive(Debug, Clone)]
pub(crate) enum Bucket {
    /// Its root is this page.
    Tree(u64),
    /// It is small, and kept with its name.
    Inline(Vec<(Vec<u8>, Vec<u8>)>),
}

/// The pages before the first tree, of a file of so many pages. The buckets are in order of names, and all fit one page.
pub(crate) fn head(buckets: &[(&str, Bucket)], pages: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(FIRST_PAGE as usize * PAGE);
    for number in 0..2 {
        page_header(&mut out, number, META, 0, 0);
        out.put_slice(&meta(pages, number));
        fill(&mut out);
    }
    page_header(&mut out, FREE_LIST_AT, FREE_LIST, 0, 0);
    fill(&mut out);
    let values: Vec<_> = buckets.iter().map(|(name, bucket)| (name.as_bytes().to_vec(), bucket_value(bucket))).collect();
    leaf(&mut out, NAMES_AT, 0, BUCKET, &values);
    fill(&mut out);
    out
}

fn meta(pages: u64, transaction: u64) -> Vec<u8> {
    let mut meta = Vec::with_capacity(64);
    meta.put_u32_le(MAGIC);
    meta.put_u32_le(VERSION);
    meta.put_u32_le(PAGE as u32);
    meta.put_u32_le(0);
    // The root bucket's page and sequence.
    meta.put_u64_le(NAMES_AT);
    meta.put_u64_le(0);
    meta.put_u64_le(FREE_LIST_AT);
    meta.put_u64_le(pages);
    meta.put_u64_le(transaction);
    let checksum = fnv(&meta);
    meta.put_u64_le(checksum);
    meta
}

/// FNV-1a of 64 bits.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn bucket_value(bucket: &Bucket) -> Vec<u8> {
    let mut value = Vec::new();
    match bucket {
        Bucket::Tree(root) => {
            value.put_u64_le(*root);
            value.put_u64_le(0);
        }
        Bucket::Inline(elements) => {
            value.put_u64_le(0);
            value.put_u64_le(0);
            leaf(&mut value, 0, 0, 0, elements);
        }
    }
    value
}

fn page_header(out: &mut Vec<u8>, number: u64, flags: u16, elements: usize, more_pages: u64) {
    out.put_u64_le(number);
    out.put_u16_le(flags);
    // A page holds 200 elements at most.
    out.put_u16_le(elements as u16);
    out.put_u32_le(more_pages as u32);
}

fn leaf(out: &mut Vec<u8>, number: u64, more_pages: u64, flags: u32, elements: &[(Vec<u8>, Vec<u8>)]) {
    page_header(out, number, LEAF, elements.len(), more_pages);
    let mut position = elements.len() * ELEMENT_HEADER;
    for (key, value) in elements {
        out.put_u32_le(flags);
        // From this element on.
        out.put_u32_le(position as u32);
        out.put_u32_le(key.len() as u32);
        out.put_u32_le(value.len() as u32);
        position = position + key.len() + value.len() - ELEMENT_HEADER;
    }
    for (key, value) in elements {
        out.put_slice(key);
        out.put_slice(value);
    }
}

fn branch(out: &mut Vec<u8>, number: u64, children: &[(Vec<u8>, u64)]) {
    page_header(out, number, BRANCH, children.len(), 0);
    let mut position = children.len() * ELEMENT_HEADER;
    for (key, page) in children {
        out.put_u32_le(position as u32);
        out.put_u32_le(key.len() as u32);
        out.put_u64_le(*page);
        position = position + key.len() - ELEMENT_HEADER;
    }
    for (key, _) in children {
        out.put_slice(key);
    }
}

/// Up to the end of the page.
fn fill(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(PAGE), 0);
}

#[derive(Debug, Clone, Copy)]
struct Leaf {
    elements: usize,
    pages: u64,
}

/// How a tree will be laid out.
#[derive(Debug)]
pub(crate) struct Plan {
    first: u64,
    leaves: Vec<Leaf>,
    /// Children of a branch page.
    fanout: usize,
    pages: u64,
}

impl Plan {
    /// Of a tree that begins at a page, with keys of one length and values of these lengths.
    pub(crate) fn new(first: u64, key: usize, values: impl Iterator<Item = usize>) -> Self {
        let mut leaves: Vec<Leaf> = Vec::new();
        let (mut elements, mut bytes) = (0, PAGE_HEADER);
        let close = |elements: usize, bytes: usize| Leaf { elements, pages: bytes.div_ceil(PAGE) as u64 };
        for value in values {
            let size = ELEMENT_HEADER + key + value;
            if elements > 0 && bytes + size > PAGE {
                leaves.push(close(elements, bytes));
                (elements, bytes) = (0, PAGE_HEADER);
            }
            (elements, bytes) = (elements + 1, bytes + size);
        }
        if elements > 0 {
            leaves.push(close(elements, bytes));
        }
        let fanout = (PAGE - PAGE_HEADER) / (ELEMENT_HEADER + key);
        let mut pages: u64 = leaves.iter().map(|leaf| leaf.pages).sum();
        let mut level = leaves.len();
        while level > 1 {
            level = level.div_ceil(fanout);
            pages += level as u64;
        }
        Self { first, leaves, fanout, pages }
    }

    /// The page after its last.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.pages
    }

    /// What its bucket says.
    pub(crate) fn bucket(&self) -> Bucket {
        match self.leaves.as_slice() {
            [] => Bucket::Inline(Vec::new()),
            [_] => Bucket::Tree(self.first),
            // The last page that is written is the topmost.
            _ => Bucket::Tree(self.end() - 1),
        }
    }
}

/// Writes a tree as planned.
#[derive(Debug)]
pub(crate) struct Tree {
    plan: Plan,
    /// The leaf that is being filled.
    leaf: usize,
    filling: Vec<(Vec<u8>, Vec<u8>)>,
    next: u64,
    /// First key and page of each leaf.
    children: Vec<(Vec<u8>, u64)>,
}

impl Tree {
    pub(crate) fn new(plan: Plan) -> Self {
        let next = plan.first;
        Self { plan, leaf: 0, filling: Vec::new(), next, children: Vec::new() }
    }

    /// The next element, of the planned size.
    pub(crate) fn push(&mut self, key: Vec<u8>, value: Vec<u8>, out: &mut Vec<u8>) {
        self.filling.push((key, value));
        let Some(planned) = self.plan.leaves.get(self.leaf).copied() else { return };
        if self.filling.len() == planned.elements {
            self.children.push((self.filling[0].0.clone(), self.next));
            let start = out.len();
            leaf(out, self.next, planned.pages - 1, 0, &self.filling);
            out.resize(start + planned.pages as usize * PAGE, 0);
            self.next += planned.pages;
            self.leaf += 1;
            self.filling.clear();
        }
    }

    /// After the last element.
    pub(crate) fn finish(mut self, out: &mut Vec<u8>) {
        while self.children.len() > 1 {
            let mut above = Vec::with_capacity(self.children.len().div_ceil(self.plan.fanout));
            for children in self.children.chunks(self.plan.fanout) {
                above.push((children[0].0.clone(), self.next));
                let start = out.len();
                branch(out, self.next, children);
                out.resize(start + PAGE, 0);
                self.next += 1;
            }
            self.children = above;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_takes_the_pages_that_were_planned() {
        // None, one leaf, a value of several pages, one branch page, two levels of them.
        for sizes in [vec![], vec![10; 3], vec![10, 20_000, 10], vec![1000; 50], vec![2000; 40_000]] {
            let plan = Plan::new(FIRST_PAGE, 17, sizes.iter().copied());
            let (end, bucket, count) = (plan.end(), plan.bucket(), sizes.len());
            let (mut tree, mut out) = (Tree::new(plan), Vec::new());
            for (n, size) in sizes.into_iter().enumerate() {
                tree.push(format!("{n:017}").into_bytes(), vec![7; size], &mut out);
            }
            tree.finish(&mut out);
            assert_eq!(out.len() as u64, (end - FIRST_PAGE) * PAGE as u64);
            match bucket {
                Bucket::Inline(elements) => assert!(elements.is_empty() && count == 0),
                Bucket::Tree(root) => {
                    let at = (root - FIRST_PAGE) as usize * PAGE;
                    assert_eq!(out[at..at + 8], root.to_le_bytes());
                    // The first key is that of the first leaf, from whatever height.
                    assert!(out[at..at + PAGE].windows(17).any(|key| key == b"00000000000000000"));
                }
            }
        }
    }

    #[test]
    fn the_checksum_is_fnv_1a() {
        assert_eq!(fnv(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn the_head_is_as_long_as_trees_expect() {
        let inline = Bucket::Inline(vec![(b"a".to_vec(), b"b".to_vec())]);
        assert_eq!(head(&[("a", inline), ("key", Bucket::Tree(4))], 5).len(), FIRST_PAGE as usize * PAGE);
    }
}
