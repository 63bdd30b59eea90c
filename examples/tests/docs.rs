//! What the documents quote is in the examples, word for word.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;

/// A block of code and what stands before it.
struct Block {
    from: Option<String>,
    language: String,
    lines: Vec<String>,
}

fn blocks(text: &str) -> Vec<Block> {
    let (mut blocks, mut from, mut open): (Vec<Block>, Option<String>, Option<Block>) = Default::default();
    for line in text.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => open = Some(Block { from: from.take(), language: language.into(), lines: Vec::new() }),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => block.lines.push(line.trim().into()),
            (None, None) => {
                let named = line.strip_prefix("<!-- from ").and_then(|rest| rest.strip_suffix(" -->"));
                from = named.map(Into::into);
            }
        }
    }
    blocks
}

/// Whether the lines stand in the source, one after the other; indentation does not count.
fn stands_in(piece: &[String], source: &[String]) -> bool {
    source.windows(piece.len()).any(|window| window == piece)
}

#[test]
fn quotations_are_true() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut quoted = 0;
    for document in ["docs/writing-a-runtime.md", "docs/embedding.md"] {
        for block in blocks(&std::fs::read_to_string(root.join(document)).unwrap()) {
            let Some(from) = &block.from else {
                assert!(!block.language.contains("ignore"), "{document}: a block is neither compiled nor quoted: {:?}", block.lines);
                continue;
            };
            let source: Vec<String> = std::fs::read_to_string(root.join(from)).unwrap().lines().map(|line| line.trim().into()).collect();
            for piece in block.lines.split(|line| line == "// ...") {
                assert!(stands_in(piece, &source), "{document}: not in {from}:\n{}", piece.join("\n"));
                quoted += 1;
            }
        }
    }
    assert!(quoted > 10, "only {quoted} quotations were found");
}

#[test]
fn the_runtime_is_as_short_as_it_is_said() {
    let lines = include_str!("../custom-runtime/process_runtime.rs").lines().count();
    assert!(lines <= 300, "the runtime has {lines} lines");
}
