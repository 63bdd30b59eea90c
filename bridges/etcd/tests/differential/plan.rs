//! What is asked.

use etcd_client::proto::{
    PbCompare, PbDeleteRequest, PbPutRequest, PbRangeRequest, PbTargetUnion, PbTxnOpRequest, PbTxnRequest, PbTxnRequestOp,
};
use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;

use crate::support::op;

const KEYS: &[&[u8]] = &[b"k", b"k\0", b"ka", b"ka/1", b"ka/2", b"ka\xff", b"kb", b"kb\x80", b"kc", b"k\xff", b"k\xff\xff"];
const ENDS: &[&[u8]] = &[b"", b"", b"ka0", b"kb", b"kb\0", b"kc", b"k\xff", b"l", b"a"];
pub const LEASES: std::ops::Range<i64> = 1..5;

/// Requests that follow from a seed, and from where the store is.
pub struct Plan {
    pub random: Xoshiro256PlusPlus,
    pub counter: u64,
    pub revision: i64,
}

impl Plan {
    fn pick<'a>(&mut self, from: &'a [&'a [u8]]) -> Vec<u8> {
        from[self.random.random_range(0..from.len())].to_vec()
    }
    pub fn chance(&mut self, of: u32) -> bool {
        self.random.random_range(0..of) == 0
    }
    fn value(&mut self) -> Vec<u8> {
        self.counter += 1;
        // So that no two are equal, in no particular order.
        format!("{:x}", self.counter.wrapping_mul(0x9E37_79B9_7F4A_7C15)).into_bytes()
    }
    /// A revision of the past, or none, or now and then one to come.
    fn at(&mut self) -> i64 {
        if self.chance(3) { (self.revision - self.random.random_range(-1..20i64)).max(-1) } else { 0 }
    }
    fn number(&mut self) -> i64 {
        if self.chance(2) { self.random.random_range(0..4) } else { (self.revision - self.random.random_range(0..15i64)).max(0) }
    }

    pub fn range(&mut self, from_on: bool) -> PbRangeRequest {
        let mut request = PbRangeRequest { key: self.pick(KEYS), range_end: self.pick(ENDS), revision: self.at(), ..Default::default() };
        if from_on && self.chance(5) {
            request.range_end = vec![0];
        }
        if self.chance(2) {
            request.limit = self.random.random_range(0..5);
        }
        if self.chance(3) {
            // By values, of which no two are equal: etcd's order of equals is any.
            (request.sort_order, request.sort_target) = (self.random.random_range(0..3), [0, 4][self.random.random_range(0..2usize)]);
        } else if self.chance(4) {
            (request.sort_order, request.sort_target, request.limit) = (self.random.random_range(1..3), self.random.random_range(1..4), 0);
        }
        request.serializable = self.chance(4);
        request.keys_only = self.chance(6);
        request.count_only = self.chance(8);
        for bound in [
            &mut request.min_mod_revision,
            &mut request.max_mod_revision,
            &mut request.min_create_revision,
            &mut request.max_create_revision,
        ] {
            if self.random.random_range(0..12) == 0 {
                *bound = (self.revision - self.random.random_range(0..15i64)).max(0);
            }
        }
        request
    }
    pub fn put(&mut self) -> PbPutRequest {
        let mut request = PbPutRequest { key: self.pick(KEYS), value: self.value(), prev_kv: self.chance(2), ..Default::default() };
        if self.chance(4) {
            request.lease = self.random.random_range(LEASES);
        }
        if self.chance(8) {
            request.ignore_value = true;
            if !self.chance(4) {
                request.value = Vec::new();
            }
        }
        if self.chance(8) {
            request.ignore_lease = true;
            if !self.chance(4) {
                request.lease = 0;
            }
        }
        request
    }
    pub fn delete(&mut self) -> PbDeleteRequest {
        PbDeleteRequest { key: self.pick(KEYS), range_end: self.pick(ENDS), prev_kv: self.chance(2) }
    }
    fn compare(&mut self) -> PbCompare {
        let (target, number) = (self.random.random_range(0..5), self.number());
        let union = match target {
            0 => PbTargetUnion::Version(number),
            1 => PbTargetUnion::CreateRevision(number),
            2 => PbTargetUnion::ModRevision(number),
            3 => PbTargetUnion::Value(self.value()),
            _ => PbTargetUnion::Lease(number),
        };
        let range_end = if self.chance(3) { self.pick(ENDS) } else { Vec::new() };
        PbCompare { target, result: self.random.random_range(0..4), key: self.pick(KEYS), range_end, target_union: Some(union) }
    }
    fn ops(&mut self, depth: usize) -> Vec<PbTxnRequestOp> {
        let count = self.random.random_range(0..4);
        let ops = (0..count).map(|_| {
            op(match self.random.random_range(0..7) {
                0 | 1 => PbTxnOpRequest::RequestRange(self.range(false)),
                2..=4 => PbTxnOpRequest::RequestPut(self.put()),
                5 => PbTxnOpRequest::RequestDeleteRange(self.delete()),
                _ if depth > 0 => PbTxnOpRequest::RequestTxn(self.txn(depth - 1)),
                _ => PbTxnOpRequest::RequestPut(self.put()),
            })
        });
        ops.collect()
    }
    pub fn txn(&mut self, depth: usize) -> PbTxnRequest {
        let compare = (0..self.random.random_range(0..3)).map(|_| self.compare()).collect();
        PbTxnRequest { compare, success: self.ops(depth), failure: self.ops(depth) }
    }

    /// A transaction that writes no key twice, so that it is carried out, with transactions in transactions.
    pub fn apart(&mut self) -> PbTxnRequest {
        let mut keys: Vec<Vec<u8>> = KEYS.iter().map(|key| key.to_vec()).collect();
        for n in (1..keys.len()).rev() {
            keys.swap(n, self.random.random_range(0..=n));
        }
        self.apart_of(keys, 3)
    }

    fn apart_of(&mut self, keys: Vec<Vec<u8>>, depth: usize) -> PbTxnRequest {
        let compare = (0..self.random.random_range(0..3)).map(|_| if self.chance(2) { self.compare() } else { self.holds() }).collect();
        // Both branches may write the same, because only one of them does.
        let branches = [(); 2].map(|()| {
            let mut left = keys.clone();
            let mut ops = Vec::new();
            while let Some(key) = left.pop() {
                ops.push(op(match self.random.random_range(0..8) {
                    0 | 1 => PbTxnOpRequest::RequestRange(self.range(true)),
                    2 | 3 => PbTxnOpRequest::RequestPut(PbPutRequest { key, ..self.put() }),
                    4 => PbTxnOpRequest::RequestDeleteRange(PbDeleteRequest { key, range_end: Vec::new(), prev_kv: self.chance(2) }),
                    5 | 6 if depth > 0 => {
                        let nested = left.split_off(left.len() / 2);
                        PbTxnOpRequest::RequestTxn(self.apart_of(nested, depth - 1))
                    }
                    _ => continue,
                }));
            }
            ops
        });
        let [success, failure] = branches;
        PbTxnRequest { compare, success, failure }
    }

    /// A comparison that holds of a key whether it is there or not.
    fn holds(&mut self) -> PbCompare {
        let target_union = Some(PbTargetUnion::Version(-1));
        PbCompare { target: 0, result: 1, key: self.pick(KEYS), range_end: self.pick(ENDS), target_union }
    }

    /// Puts of many keys of a lease.
    pub fn leased(&mut self, lease: i64) -> PbTxnRequest {
        let count = self.random.random_range(1..60);
        let puts = (0..count).map(|n| {
            let put = PbPutRequest { key: format!("kz/{n:02}").into_bytes(), value: self.value(), lease, ..Default::default() };
            op(PbTxnOpRequest::RequestPut(put))
        });
        PbTxnRequest { success: puts.collect(), ..Default::default() }
    }

    /// A transaction with something about it that makes no sense, or is at the edge of it.
    pub fn odd_txn(&mut self) -> PbTxnRequest {
        let good = self.apart();
        let with = |request| PbTxnRequest { success: vec![op(request)], ..Default::default() };
        match self.random.random_range(0..9) {
            0 => PbTxnRequest { success: vec![PbTxnRequestOp { request: None }], ..good },
            1 => PbTxnRequest { compare: vec![PbCompare { key: Vec::new(), ..self.compare() }], ..good },
            2 => PbTxnRequest { compare: vec![PbCompare { target_union: None, ..self.compare() }], ..good },
            3 => PbTxnRequest { compare: vec![PbCompare { result: 9, ..self.compare() }], ..good },
            4 => with(PbTxnOpRequest::RequestRange(self.odd_range())),
            5 => with(PbTxnOpRequest::RequestPut(PbPutRequest { key: Vec::new(), ..self.put() })),
            6 => with(PbTxnOpRequest::RequestDeleteRange(PbDeleteRequest { key: Vec::new(), ..self.delete() })),
            7 => with(PbTxnOpRequest::RequestTxn(PbTxnRequest::default())),
            _ => PbTxnRequest::default(),
        }
    }

    /// The same of a range.
    pub fn odd_range(&mut self) -> PbRangeRequest {
        let good = self.range(true);
        match self.random.random_range(0..7) {
            0 => PbRangeRequest { key: Vec::new(), ..good },
            1 => PbRangeRequest { limit: -1, ..good },
            2 => PbRangeRequest { revision: i64::MAX, ..good },
            3 => PbRangeRequest { key: vec![1], range_end: vec![0], keys_only: true, ..Default::default() },
            4 => PbRangeRequest { revision: -7, ..good },
            5 => PbRangeRequest { min_mod_revision: 5, max_mod_revision: 3, revision: 0, ..good },
            _ => PbRangeRequest { count_only: true, limit: 2, revision: 0, ..good },
        }
    }
}
