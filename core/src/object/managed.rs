//! managedFields as they are kept: a JSON string in which what they are full of, names and punctuation, is two bytes a piece.
//!
//! managedFields are half of a pod as JSON, and nearly the same text in all pods. Nobody reads them but clients and writers, so that they
//! are kept short, in memory and on disk, and written out in full where an object is served. A text that holds anything but printable ASCII
//! is kept as it is.
//!
//! A code is a character from U+0080 on: below U+0100 one of [`PHRASES`], above it a field's name out of `words.txt`, twice. What is on disk
//! says them by number: new ones are added at the end of their list, and none is ever moved.

use std::collections::HashMap;
use std::sync::OnceLock;

/// The first code.
const FIRST: u32 = 0x80;
/// The first code of a name.
const FIRST_NAME: u32 = 0x100;
/// Past the last code that takes two bytes.
const END: u32 = 0x800;

/// What stands between names. The first three stand for what a JSON string would escape.
const PHRASES: &[&str] = &[
    r#"""#,
    r#"\""#,
    r"\",
    r#"{"apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{"#,
    r#"{"apiVersion":"apps/v1","fieldsType":"FieldsV1","fieldsV1":{"#,
    r#"{"apiVersion":""#,
    r#"","fieldsType":"FieldsV1","fieldsV1":{"#,
    r#"},"manager":""#,
    r#"","operation":"Update","time":""#,
    r#"","operation":"Update","subresource":"status","time":""#,
    r#"","operation":"Apply","time":""#,
    r#"","operation":"Update","#,
    r#""subresource":""#,
    r#"","time":""#,
    r#""},"#,
    r#""}]"#,
    r#"".":{},"#,
    r#""k:{\""#,
    r#"\":\""#,
    r#"\":"#,
    r#"\"}":{".":{},"#,
    r#"}":{".":{},"#,
    r#",\""#,
    r#"\",\""#,
    r#""v:\""#,
    r#"\"":{}"#,
    r#""k:{\"name\":\""#,
    r#""k:{\"type\":\""#,
    r#""k:{\"uid\":\""#,
    r#""k:{\"ip\":\""#,
    r#""k:{\"mountPath\":\""#,
    r#""k:{\"containerPort\":"#,
    r#""k:{\"port\":"#,
    r#",\"protocol\":\"TCP\"}":{".":{},"#,
    r#""k:{\"type\":\"Ready\"}":{".":{},"#,
    r#""k:{\"type\":\"Initialized\"}":{".":{},"#,
    r#""k:{\"type\":\"ContainersReady\"}":{".":{},"#,
    r#""k:{\"type\":\"PodScheduled\"}":{".":{},"#,
    r#""k:{\"type\":\"PodReadyToStartContainers\"}":{".":{},"#,
    r#""k:{\"type\":\"MemoryPressure\"}":{".":{},"#,
    r#""k:{\"type\":\"DiskPressure\"}":{".":{},"#,
    r#""k:{\"type\":\"PIDPressure\"}":{".":{},"#,
    r#""k:{\"type\":\"InternalIP\"}":{".":{},"#,
    r#""k:{\"type\":\"Hostname\"}":{".":{},"#,
    r#""f:lastProbeTime":{},"f:lastTransitionTime":{},"f:status":{},"f:type":{}}"#,
    r#""f:lastTransitionTime":{},"f:status":{},"f:type":{}}"#,
    r#""f:lastTransitionTime":{},"f:message":{},"f:reason":{},"f:status":{},"f:type":{}}"#,
    r#""f:annotations":{".":{},"#,
    r#""f:labels":{".":{},"#,
    r#""f:metadata":{"#,
    r#""f:resources":{".":{},"f:limits":{".":{},"f:cpu":{},"f:memory":{}},"f:requests":{".":{},"f:cpu":{},"f:memory":{}}}"#,
    r#""f:terminationMessagePath":{},"f:terminationMessagePolicy":{}"#,
    r#""f:dnsPolicy":{},"f:enableServiceLinks":{},"#,
    r#""f:restartPolicy":{},"f:schedulerName":{},"f:securityContext":{},"#,
    r#""f:failureThreshold":{},"#,
    r#""f:periodSeconds":{},"f:successThreshold":{},"f:timeoutSeconds":{}}"#,
    r#""f:httpGet":{".":{},"f:path":{},"f:port":{},"f:scheme":{}},"#,
    r#"kube-controller-manager"#,
    r#"kube-scheduler"#,
    r#"kubectl-client-side-apply"#,
    r#"kubectl-create"#,
    r#"kubelet"#,
    r#"kubernetes"#,
    r#".kubernetes.io/"#,
    r#"app.kubernetes.io/"#,
    r#"kubectl.kubernetes.io/last-applied-configuration"#,
    r#"pod-template-hash"#,
    r#"}},"#,
    r#"}}}"#,
    r#"}}}}"#,
    r#"}}},"#,
    r#"":{},"f:"#,
    r#"":{}"#,
    r#""f:"#,
];

const OPENED: &str = "\":{";
const LEAF: &str = "\":{},";

/// The lists, and how their pieces are found in a text.
struct Book {
    /// What the codes stand for, one after the other.
    text: Vec<u8>,
    /// Where in `text` each begins, from [`FIRST`] on; and the end.
    starts: Vec<u32>,
    codes: HashMap<&'static str, u32>,
    /// By first byte: phrases, the longest first.
    phrases: Vec<Vec<(&'static [u8], u32)>>,
}

fn book() -> &'static Book {
    static BOOK: OnceLock<Book> = OnceLock::new();
    BOOK.get_or_init(|| {
        let names = || include_str!("words.txt").lines();
        let codes = names().zip((FIRST_NAME..END).step_by(2)).collect();
        let (mut text, mut starts) = (Vec::new(), vec![0]);
        let mut put = |parts: [&str; 3]| {
            parts.iter().for_each(|part| text.extend_from_slice(part.as_bytes()));
            starts.push(u32::try_from(text.len()).unwrap_or(u32::MAX));
        };
        for code in FIRST..FIRST_NAME {
            put([PHRASES.get((code - FIRST) as usize).copied().unwrap_or_default(), "", ""]);
        }
        // A name stands for a node that is opened, and at the next code for a whole leaf that others follow.
        for name in names() {
            put(["\"f:", name, OPENED]);
            put(["\"f:", name, LEAF]);
        }
        let mut phrases = vec![Vec::new(); 128];
        for (phrase, code) in PHRASES.iter().zip(FIRST..FIRST_NAME) {
            if let Some(bucket) = phrase.as_bytes().first().and_then(|first| phrases.get_mut(usize::from(*first))) {
                bucket.push((phrase.as_bytes(), code));
            }
        }
        phrases.iter_mut().for_each(|bucket| bucket.sort_by_key(|(phrase, _)| std::cmp::Reverse(phrase.len())));
        Book { text, starts, codes, phrases }
    })
}

/// The field whose name a text begins with: its code, and how much of the text it stands for.
fn name(book: &Book, text: &str) -> Option<(u32, usize)> {
    const HEAD: &str = "\"f:";
    let rest = text.strip_prefix(HEAD)?;
    let length = rest.find('"')?;
    let code = *book.codes.get(rest.get(..length)?)?;
    let after = rest.get(length..)?;
    match (after.starts_with(LEAF), after.starts_with(OPENED)) {
        (true, _) => Some((code + 1, HEAD.len() + length + LEAF.len())),
        (_, true) => Some((code, HEAD.len() + length + OPENED.len())),
        _ => None,
    }
}

/// Appends a text as a JSON string; false, and nothing appended, for one that is to be kept as it is.
pub(super) fn shorten(text: &str, out: &mut Vec<u8>) -> bool {
    if !text.bytes().all(|b| (b' '..0x7f).contains(&b)) {
        return false;
    }
    let book = book();
    out.push(b'"');
    let mut at = 0;
    while let (Some(rest), Some(first)) = (text.get(at..), text.as_bytes().get(at)) {
        let phrase = || {
            let bucket = book.phrases.get(usize::from(*first))?;
            bucket.iter().find(|(phrase, _)| rest.as_bytes().starts_with(phrase)).map(|(phrase, code)| (*code, phrase.len()))
        };
        // Of both the longer: a phrase may hold names.
        let found = match (phrase(), name(book, rest)) {
            (Some(phrase), Some(name)) => Some(if phrase.1 > name.1 { phrase } else { name }),
            (phrase, name) => phrase.or(name),
        };
        match found {
            Some((code, length)) => {
                out.extend_from_slice(&[0xc0 | (code >> 6) as u8, 0x80 | (code & 0x3f) as u8]);
                at += length;
            }
            None => {
                out.push(*first);
                at += 1;
            }
        }
    }
    out.push(b'"');
    true
}

/// Gives the pieces of a shortened text, without its quotes, in order.
pub(super) fn expand(short: &[u8], mut piece: impl FnMut(&[u8])) {
    let book = book();
    let mut rest = short;
    while let Some(plain) = rest.iter().position(|b| *b >= 0x80) {
        piece(&rest[..plain]);
        let Some((&[head, tail], after)) = rest[plain..].split_first_chunk::<2>() else { return };
        let code = (u32::from(head & 0x1f) << 6) | u32::from(tail & 0x3f);
        let at = code.wrapping_sub(FIRST) as usize;
        if let (Some(from), Some(to)) = (book.starts.get(at), book.starts.get(at.wrapping_add(1))) {
            piece(&book.text[*from as usize..*to as usize]);
        }
        rest = after;
    }
    piece(rest);
}

/// How long a shortened text is in full.
pub(super) fn length(short: &[u8]) -> usize {
    let mut length = 0;
    expand(short, |piece| length += piece.len());
    length
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(short: &[u8]) -> String {
        let mut out = Vec::new();
        expand(short, |piece| out.extend_from_slice(piece));
        assert_eq!(length(short), out.len());
        String::from_utf8(out).unwrap()
    }

    fn there_and_back(text: &str) -> usize {
        let mut out = Vec::new();
        assert!(shorten(text, &mut out), "{text}");
        let parsed: String = serde_json::from_slice(&out).expect("a JSON string in which nothing is escaped");
        assert_eq!(parsed.as_bytes(), &out[1..out.len() - 1]);
        assert_eq!(full(&out[1..out.len() - 1]), text);
        out.len()
    }

    /// FNV-1a.
    fn fnv(bytes: &[u8]) -> u64 {
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
    }

    #[test]
    fn numbers_stand_for_what_they_stood_for() {
        // What is on disk knows these by number.
        let names: Vec<&str> = include_str!("words.txt").lines().collect();
        assert!(PHRASES.len() <= (FIRST_NAME - FIRST) as usize && names.len() <= ((END - FIRST_NAME) / 2) as usize);
        assert_eq!((PHRASES[3].len(), PHRASES[72], names[0], names[500]), (55, "\":{}", "Port", "revision"));
        // Nothing that was there is moved or changed: a sum over all of it, in order. What is added comes behind.
        let sum = |list: &[&str]| fnv(list.join("\n").as_bytes());
        assert_eq!((sum(&PHRASES[..74]), sum(&names[..695])), (3_749_423_648_408_518_687, 3_637_804_442_240_387_866));
        assert_eq!(
            full("[\u{83}\u{100}}\u{101}\u{4e8}}\u{8f}".as_bytes()),
            r#"[{"apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{"f:Port":{}"f:Port":{},"f:revision":{}"}]"#
        );
        let distinct: std::collections::BTreeSet<_> = names.iter().chain(PHRASES).collect();
        assert_eq!(distinct.len(), names.len() + PHRASES.len());
    }

    #[test]
    fn every_name_and_phrase_comes_back() {
        for phrase in PHRASES {
            there_and_back(phrase);
        }
        for name in include_str!("words.txt").lines() {
            there_and_back(&format!("\"f:{name}\":{{}},\"f:{name}\":{{\"f:{name}\":{{}}}}"));
        }
    }

    #[test]
    fn a_pods_take_a_quarter() {
        let pod = r#"[{"apiVersion":"v1","fieldsType":"FieldsV1","fieldsV1":{"f:metadata":{"f:labels":{".":{},"f:app":{}},"f:ownerReferences":{".":{},"k:{\"uid\":\"5d3f\"}":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"web\"}":{".":{},"f:env":{".":{},"k:{\"name\":\"A\"}":{".":{},"f:name":{},"f:value":{}}},"f:image":{},"f:imagePullPolicy":{},"f:name":{},"f:ports":{".":{},"k:{\"containerPort\":8080,\"protocol\":\"TCP\"}":{".":{},"f:containerPort":{},"f:protocol":{}}},"f:resources":{},"f:terminationMessagePath":{},"f:terminationMessagePolicy":{}}},"f:dnsPolicy":{},"f:enableServiceLinks":{},"f:restartPolicy":{},"f:schedulerName":{},"f:securityContext":{},"f:terminationGracePeriodSeconds":{}}},"manager":"kube-controller-manager","operation":"Update","time":"2026-01-01T00:00:00Z"}]"#;
        assert!(there_and_back(pod) * 4 < pod.len(), "{}", there_and_back(pod));
    }

    #[test]
    fn any_text_of_ascii_comes_back_and_other_text_is_refused() {
        let parts = [
            "\"",
            "\\",
            "f:",
            "\"f:name\":{",
            "}",
            "}},",
            "\"f:name\\\":{}",
            "k:{\\\"name\\\":\\\"a\\\\\\\"b\\\"}",
            ".",
            "x",
            "\":{},",
            "",
        ];
        let mut seed = 7_u64;
        for _ in 0..2_000 {
            let mut text = String::new();
            for _ in 0..12 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                text.push_str(parts[(seed >> 33) as usize % parts.len()]);
            }
            there_and_back(&text);
        }
        for bad in ["é", "a\nb", "\u{7f}"] {
            let mut out = b"x".to_vec();
            assert!(!shorten(bad, &mut out) && out == b"x");
        }
    }

    #[test]
    fn what_nobody_wrote_does_no_harm() {
        for bad in [&[0xc2][..], &[0xff, 0xff], &[0xc0, 0x00], &[0xdf, 0xbf], b"a\xc3"] {
            let _ = length(bad);
        }
    }
}
