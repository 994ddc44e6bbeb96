//! Every sentence that a client or an operator can read stands in one reviewed file.
//!
//! The rule reads string literals of the shipped code that hold prose: error texts, log lines and
//! answers of the command line. SQL, assertions and the texts of the demo's provider are left out.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;

use crate::source::{Literal, Tree, literals, root};

pub const REVIEWED: &str = "docs/messages.md";
const HEAD: &str = "# Messages\n\nEvery sentence that a client or an operator can read, as the \
    code has it: `{}` stands for a value. A test writes this page with `METEOR_BLESS=1 cargo test \
    --test tidy` and fails when a message is not in it, so that each new one is read once by a \
    second person.\n";
/// Code directly before a literal that makes it no message.
const NOT_SHOWN: &[&str] = &[
    "expect(",
    "reason =",
    "unreachable!(",
    "query(",
    "query_as(",
    "query_scalar(",
    "concat!(",
    "panic!(",
    "path =",
];
/// Code in the statement of a literal that makes it no message.
const ASSERTIONS: &[&str] = &["assert!(", "assert_eq!(", "assert_ne!("];
/// Marks of SQL.
const SQL: &[&str] = &[" = $", "WHERE ", "SELECT ", "VALUES ", "INSERT ", "DELETE ", "UPDATE "];
/// Folders without messages: the demo's canned texts, and SQL.
const LEFT_OUT: &[&str] = &["src/demo/"];

/// The page as the sources say.
pub fn page(tree: &Tree) -> String {
    let mut page = HEAD.to_owned();
    for (source, _) in tree.modules() {
        if LEFT_OUT.iter().any(|folder| source.file.starts_with(folder)) {
            continue;
        }
        let found: BTreeSet<String> =
            literals(&source.shipped).filter(is_message).map(|literal| literal.text).collect();
        if !found.is_empty() {
            let _ = writeln!(page, "\n## `{}`\n", source.file);
            for text in found {
                let _ = writeln!(page, "- {}", text.replace('\n', "⏎"));
            }
        }
    }
    page
}

/// Three words in a row are prose.
fn is_message(literal: &Literal) -> bool {
    let words = literal.text.split_whitespace().filter(|word| {
        let letters = word.trim_matches(|letter: char| letter.is_ascii_punctuation());
        letters.len() > 1
            && letters.chars().all(|letter| letter.is_alphabetic() || "'-".contains(letter))
    });
    words.count() >= 3
        && !NOT_SHOWN.iter().any(|code| literal.before.ends_with(code))
        && !ASSERTIONS.iter().any(|code| literal.before.contains(code))
        && !SQL.iter().any(|mark| literal.text.contains(mark))
}

/// A message that nobody has reviewed.
pub fn messages_are_reviewed(tree: &Tree) -> Vec<String> {
    let page = page(tree);
    let reviewed: BTreeSet<&str> = tree.messages.lines().collect();
    let current: BTreeSet<&str> = page.lines().collect();
    let new = current.difference(&reviewed).map(|line| {
        format!("{REVIEWED}: review `{line}`, then run METEOR_BLESS=1 cargo test --test tidy")
    });
    let gone = reviewed.difference(&current).map(|line| {
        format!("{REVIEWED}: `{line}` is gone; run METEOR_BLESS=1 cargo test --test tidy")
    });
    new.chain(gone).collect()
}

/// Writes the page.
pub fn bless(tree: &Tree) {
    fs::write(root().join(REVIEWED), page(tree)).expect("the page can be written");
}
