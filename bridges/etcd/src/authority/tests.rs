use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use super::*;

const URL: &str = "http://127.0.0.1:2379";
const MENDED: &str = "httpx--127.0.0.1:2379";

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
}

/// A string as text, of less than 127 bytes.
fn string(text: &str) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
}

/// A header block with fields of all sorts around an authority.
fn block(authority: &str) -> Vec<u8> {
    let parts: [&[u8]; 10] = [
        // The size of the table: 31 and 4066 more.
        &[0x3f, 0xe2, 0x1f],
        // From the static table, and a path with its name from there.
        &[0x83, 0x86],
        &[0x44],
        &string("/etcdserverpb.Maintenance/Status"),
        &[0x41],
        &string(authority),
        // A name in text, an empty value; a name in a table after 15 more, never to be kept.
        &[&[0x00], string("x-empty").as_slice(), &[0]].concat(),
        &[&[0x1f, 0x10], string("value").as_slice()].concat(),
        // A long value that is not looked at.
        &[&[0x40], string("x-long").as_slice(), &[0x7f, 0x81, 0x01]].concat(),
        &[b'l'; 256],
    ];
    parts.concat()
}

/// Frames of a connection whose requests have these authorities.
fn connection(authorities: &[&str]) -> Vec<u8> {
    let mut sent = [PREFACE, &frame(4, 0, &[0; 12]), &frame(8, 0, &[0, 1, 0, 0])].concat();
    for authority in authorities {
        sent.extend(frame(HEADERS, END_HEADERS, &block(authority)));
        sent.extend(frame(0, 1, b"http://data"));
    }
    sent
}

fn pass(sent: &[u8]) -> Vec<u8> {
    let (mut mender, mut passed) = (Mender::new(), Vec::new());
    mender.push(sent, &mut passed);
    mender.finish(&mut passed);
    passed
}

#[test]
fn urls_become_authorities_of_the_same_length() {
    let again = "https://[::1]:2379/";
    assert_eq!(pass(&connection(&[URL, again, URL])), connection(&[MENDED, "httpsx--[::1]:2379-", MENDED]));
    // Ways to say that the next field is literal: to be kept, not to be kept, never to be kept.
    for literal in [0x41, 0x01, 0x11] {
        let sent = |url: &str| [PREFACE, &frame(HEADERS, END_HEADERS, &[&[literal], string(url).as_slice()].concat())].concat();
        assert_eq!(pass(&sent(URL)), sent(MENDED));
    }
}

#[test]
fn padding_priority_and_continuations_are_followed() {
    let sent = |url: &str| {
        let block = block(url);
        // The first ends within the path.
        let (first, rest) = block.split_at(20);
        let (second, third) = rest.split_at(90);
        let padded = [&[3], [9u8; 5].as_slice(), first, &[0x41; 3]].concat();
        [
            PREFACE,
            &frame(HEADERS, PADDED | PRIORITY, &padded),
            &frame(CONTINUATION, 0, second),
            &frame(CONTINUATION, 0, &[]),
            &frame(CONTINUATION, END_HEADERS, third),
            &frame(HEADERS, END_HEADERS, &[0x84]),
        ]
        .concat()
    };
    assert_eq!(pass(&sent(URL)), sent(MENDED));
}

#[test]
fn who_begins_with_an_authority_is_not_read_further() {
    let mut mender = Mender::new();
    let sent = connection(&["127.0.0.1:2379"]);
    let mut passed = Vec::new();
    mender.push(&sent, &mut passed);
    assert!(mender.is_done());
    assert_eq!(passed, sent);
    let mixed = connection(&["127.0.0.1:2379", URL]);
    assert_eq!(pass(&mixed), mixed);
    // Nor who does not speak HTTP/2.
    let mut mender = Mender::new();
    mender.push(b"GET /health HTTP/1.1\r\n", &mut passed);
    assert!(mender.is_done());
}

#[test]
fn what_makes_no_sense_passes_as_it_is() {
    let url = [&[0x41], string(URL).as_slice()].concat();
    let wrong = [
        // Padding, and a prologue, longer than the frame; a number without an end; a block that ends within a field.
        frame(HEADERS, END_HEADERS | PADDED, &[200, 0x41]),
        frame(HEADERS, END_HEADERS | PRIORITY, &[0; 4]),
        frame(HEADERS, END_HEADERS, &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
        frame(HEADERS, END_HEADERS, &[0x41, 5, b'a']),
        // A continuation of nothing, and something else within a block.
        frame(CONTINUATION, END_HEADERS, &url),
        [frame(HEADERS, 0, &[]), frame(0, 0, &[])].concat(),
    ];
    for wrong in wrong {
        let sent = [PREFACE, wrong.as_slice(), &frame(HEADERS, END_HEADERS, &url)].concat();
        let mut mender = Mender::new();
        let mut passed = Vec::new();
        mender.push(&sent, &mut passed);
        assert!(mender.is_done(), "{wrong:?}");
        assert_eq!(passed, sent);
    }
    // Too long for a host, and ended too early.
    let long = format!("{URL}{}", "/".repeat(600));
    let [low, high] = [(long.len() - 127) as u8 & 0x7f | 0x80, ((long.len() - 127) >> 7) as u8];
    let sent = [PREFACE, &frame(HEADERS, END_HEADERS, &[&[0x41, 0x7f, low, high], long.as_bytes()].concat())].concat();
    assert_eq!(pass(&sent), sent);
    let whole = connection(&[URL]);
    let at = whole.windows(URL.len()).position(|part| part == URL.as_bytes()).unwrap();
    let cut = &whole[..at + URL.len() - 1];
    assert_eq!(pass(cut), cut);
}

/// However the bytes come, the same goes on, as much as came; and nothing is ever held but an authority.
#[test]
fn any_cut_passes_on_the_same() {
    for seed in 0..400 {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut sent = connection(&[URL, "a", "https://h/", URL]);
        // Every other one with something wrong in it.
        for _ in 0..random.random_range(0..4u32) * u32::from(seed % 2 == 1) {
            let at = random.random_range(PREFACE.len()..sent.len());
            sent[at] = random.random();
        }
        let whole = pass(&sent);
        assert_eq!(whole.len(), sent.len());
        let (mut mender, mut passed) = (Mender::new(), Vec::new());
        let mut rest = sent.as_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(random.random_range(0..=rest.len().min(40)));
            mender.push(now, &mut passed);
            assert!(mender.held.len() as u64 <= MAX_VALUE);
            assert_eq!(passed.len() + mender.held.len() + later.len(), sent.len());
            rest = later;
        }
        mender.finish(&mut passed);
        assert_eq!(passed, whole, "seed {seed}");
    }
}

#[test]
fn noise_passes() {
    for seed in 0..2000 {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut sent = PREFACE.to_vec();
        for _ in 0..random.random_range(0..6) {
            let payload: Vec<u8> = (0..random.random_range(0..80)).map(|_| random.random()).collect();
            sent.extend(frame([HEADERS, CONTINUATION, 0][random.random_range(0..3usize)], random.random(), &payload));
        }
        assert_eq!(pass(&sent).len(), sent.len(), "seed {seed}");
    }
}
