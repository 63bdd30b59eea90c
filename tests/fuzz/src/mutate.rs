//! Changes inputs at random: what the tests use in place of a fuzzer, and the fuzzer beside what it does itself.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Map, Value};

use crate::WORDS;

/// Longest input made, in bytes.
const MAX_INPUT: usize = 16 << 10;
/// Most changes at once.
const MAX_CHANGES: usize = 6;

/// Makes inputs out of seeds. The same number gives the same inputs.
#[derive(Debug)]
pub struct Mutator {
    rng: StdRng,
    seeds: Vec<Vec<u8>>,
}

impl Mutator {
    /// Begins with seeds.
    ///
    /// # Panics
    /// Without any.
    pub fn new(seeds: Vec<Vec<u8>>, number: u64) -> Self {
        assert!(!seeds.is_empty(), "a mutator needs seeds");
        Self { rng: StdRng::seed_from_u64(number), seeds }
    }

    fn seed(&mut self) -> Vec<u8> {
        let at = self.rng.random_range(0..self.seeds.len());
        self.seeds[at].clone()
    }

    /// The next input.
    pub fn input(&mut self) -> Vec<u8> {
        let mut input = self.seed();
        // Half of them stay well-formed, or little would get past the parser.
        if self.rng.random() {
            restructure(&mut self.rng, &mut input);
        } else {
            for _ in 0..self.rng.random_range(1..=MAX_CHANGES) {
                self.change(&mut input);
            }
        }
        input.truncate(MAX_INPUT);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.rng.random_range(0..=input.len());
        let to = self.rng.random_range(at..=input.len().min(at + 32));
        match self.rng.random_range(0..8) {
            0 if at < input.len() => input[at] ^= 1 << self.rng.random_range(0..8),
            1 if at < input.len() => input[at] = self.rng.random(),
            2 => drop(input.drain(at..to)),
            3 => {
                let part = input[at..to].to_vec();
                let times = self.rng.random_range(1..64);
                input.splice(at..at, part.repeat(times));
            }
            4 => {
                let word = WORDS[self.rng.random_range(0..WORDS.len())];
                input.splice(at..to, word.bytes());
            }
            5 => {
                // The beginning of this, the end of another.
                let other = self.seed();
                let from = self.rng.random_range(0..=other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            6 => {
                let number: i64 = match self.rng.random_range(0..4) {
                    0 => i64::MAX,
                    1 => i64::MIN,
                    2 => i64::from(i32::MAX) + 1,
                    _ => self.rng.random_range(-2..70_000),
                };
                input.splice(at..to, number.to_string().into_bytes());
            }
            _ => input.truncate(at),
        }
    }
}

/// Changes values in the JSON that an input is, or is but for its first byte. Whether there was any.
pub fn restructure(rng: &mut StdRng, input: &mut Vec<u8>) -> bool {
    let found = [0, 1].into_iter().find_map(|at| Some((at, serde_json::from_slice::<Value>(input.get(at..)?).ok()?)));
    let Some((at, mut value)) = found else { return false };
    for _ in 0..rng.random_range(1..=MAX_CHANGES) {
        change_in(rng, &mut value);
    }
    input.truncate(at);
    input.extend_from_slice(value.to_string().as_bytes());
    true
}

/// Changes a value somewhere below this one.
fn change_in(rng: &mut StdRng, value: &mut Value) {
    let here = rng.random_range(0..4) == 0;
    match value {
        Value::Object(map) if !map.is_empty() && !here => {
            let at = rng.random_range(0..map.len());
            if let Some((_, inner)) = map.iter_mut().nth(at) {
                change_in(rng, inner);
            }
        }
        Value::Array(list) if !list.is_empty() && !here => {
            let at = rng.random_range(0..list.len());
            change_in(rng, &mut list[at]);
        }
        Value::Object(map) if !map.is_empty() => change_object(rng, map),
        Value::Array(list) if !list.is_empty() => {
            let at = rng.random_range(0..list.len());
            match rng.random_range(0..3) {
                0 => drop(list.remove(at)),
                1 => list.push(list[at].clone()),
                _ => list[at] = any(rng),
            }
        }
        other => *other = any(rng),
    }
}

fn change_object(rng: &mut StdRng, map: &mut Map<String, Value>) {
    let at = rng.random_range(0..map.len());
    let Some(name) = map.keys().nth(at).cloned() else { return };
    match rng.random_range(0..4) {
        0 => drop(map.remove(&name)),
        1 => drop(map.insert(name, any(rng))),
        2 => {
            let value = map.remove(&name).unwrap_or_default();
            map.insert(word(rng), value);
        }
        _ => drop(map.insert(word(rng), any(rng))),
    }
}

/// A word without its quotes.
fn word(rng: &mut StdRng) -> String {
    WORDS[rng.random_range(0..WORDS.len())].trim_matches('"').to_owned()
}

fn any(rng: &mut StdRng) -> Value {
    match rng.random_range(0..12) {
        0 => Value::Null,
        1 => Value::from(rng.random::<bool>()),
        2 => Value::from(rng.random_range(-2..70_000_i64)),
        3 => Value::from(i64::MAX),
        4 => Value::from(u64::MAX),
        5 => Value::from(1.5),
        6 => Value::from(""),
        7 => Value::from("a".repeat(rng.random_range(1..300))),
        8 => Value::Array(Vec::new()),
        9 => Value::Object(Map::new()),
        10 => Value::from_iter([(word(rng), Value::from(word(rng)))]),
        _ => Value::from(word(rng)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_number_gives_the_same_inputs() {
        let seeds = vec![br#"{"a":[1,{"b":"c"}]}"#.to_vec(), b"\x03{}".to_vec()];
        let inputs = |number| {
            let mut mutator = Mutator::new(seeds.clone(), number);
            (0..200).map(|_| mutator.input()).collect::<Vec<_>>()
        };
        assert_eq!(inputs(1), inputs(1));
        assert_ne!(inputs(1), inputs(2));
        let well_formed = |i: &&Vec<u8>| {
            serde_json::from_slice::<Value>(i).is_ok() || i.get(1..).is_some_and(|i| serde_json::from_slice::<Value>(i).is_ok())
        };
        assert!(inputs(1).iter().filter(well_formed).count() > 80);
        assert!(inputs(1).iter().all(|i| i.len() <= MAX_INPUT));
    }
}
