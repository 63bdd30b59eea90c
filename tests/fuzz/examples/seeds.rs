//! Writes the seeds of a target into a folder, and the words that inputs hold as libFuzzer's dictionary: `seeds TARGET FOLDER DICTIONARY`.

use std::fmt::Write;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [name, folder, dictionary] = arguments.as_slice() else {
        return Err(io::Error::other("usage: seeds TARGET FOLDER DICTIONARY"));
    };
    let Some(target) = wharf_fuzz::target(name) else {
        let known: Vec<&str> = wharf_fuzz::TARGETS.iter().map(|target| target.name).collect();
        return Err(io::Error::other(format!("there is no target {name}, only {}", known.join(", "))));
    };
    fs::create_dir_all(folder)?;
    for (n, seed) in (target.seeds)().into_iter().enumerate() {
        fs::write(format!("{folder}/seed-{n:03}"), seed)?;
    }
    let mut words = String::new();
    for word in wharf_fuzz::WORDS {
        words.push('"');
        for byte in word.bytes() {
            let _ = write!(words, "\\x{byte:02x}");
        }
        words.push_str("\"\n");
    }
    fs::write(dictionary, words)
}
