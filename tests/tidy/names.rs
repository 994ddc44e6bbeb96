//! Rules of naming: one name for one type, the field's standard terms, parameters with names.

use std::collections::BTreeMap;

use crate::source::Tree;

/// Type names that several modules may define, because each part owns one of its own kind.
const SHARED_TYPE_NAMES: &[&str] = &["Settings"];

/// Words that are no terms of this field. Each has a standard term: a refusal, a timeout, a
/// snapshot, a context, a reservation, a position.
pub const BANNED_WORDS: &[&str] = &[
    "told",
    "tell",
    "tells",
    "asked",
    "ask",
    "asks",
    "said",
    "say",
    "says",
    "laid",
    "lay",
    "whose",
    "who",
    "seat",
    "desk",
    "look",
    "looks",
    "beside",
    "besides",
    "picture",
    "patience",
    "heard",
    "guest",
    "bells",
    "bystander",
    "shelf",
    "rehearsal",
    "throng",
    "dice",
    "bites",
    "aside",
    "keeper",
];

/// Names of the standard library that a banned word is a part of.
const STANDARD_NAMES: &[&str] = &[];

/// Two public types of one name make a reader open both files to know which is meant.
pub fn type_names_are_unique(tree: &Tree) -> Vec<String> {
    let mut homes: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (source, _) in tree.modules() {
        let words: Vec<&str> = words(&source.code).collect();
        for (at, pair) in words.windows(2).enumerate() {
            let defines = ["struct", "enum", "trait", "type"].contains(&pair[0]);
            let is_public =
                at.checked_sub(1).is_some_and(|before| ["pub", "crate"].contains(&words[before]));
            let is_type = pair[1].starts_with(|letter: char| letter.is_ascii_uppercase());
            if defines && is_public && is_type && !SHARED_TYPE_NAMES.contains(&pair[1]) {
                let files = homes.entry(pair[1]).or_default();
                // Two forms of one type, of which a feature selects one, are one name.
                if files.last() != Some(&&*source.file) {
                    files.push(&source.file);
                }
            }
        }
    }
    homes
        .into_iter()
        .filter(|(_, files)| files.len() > 1)
        .map(|(name, files)| {
            format!("{}: `{name}` is the name of two types; rename one", files.join(", "))
        })
        .collect()
}

/// A private language costs every reader the time to learn it.
pub fn words_are_standard(tree: &Tree) -> Vec<String> {
    let mut faults = Vec::new();
    for source in &tree.sources {
        let stem = source.file.trim_end_matches(".rs").rsplit('/').next().unwrap_or_default();
        let mut names: Vec<&str> = words(&source.all_code).chain([stem]).collect();
        names.sort_unstable();
        names.dedup();
        for name in names.into_iter().filter(|name| !STANDARD_NAMES.contains(name)) {
            for word in segments(name) {
                if BANNED_WORDS.contains(&&*word) {
                    faults.push(format!(
                        "{}: `{name}` has the word `{word}`; use a standard term of the field",
                        source.file
                    ));
                }
            }
        }
    }
    faults
}

/// A tuple in a parameter list hides parameters from the limit on their number, and lets two of
/// one type be swapped unseen.
pub fn parameters_have_names(tree: &Tree) -> Vec<String> {
    let mut faults = Vec::new();
    for (source, _) in tree.modules() {
        for (at, marker) in source.code.match_indices("fn ") {
            let rest = &source.code[at + marker.len()..];
            let Some((name, parameters)) = signature(rest) else { continue };
            if parameters.starts_with('(') || parameters.contains(", (") {
                faults.push(format!(
                    "{}: `{name}` takes a tuple pattern; name each parameter or define a struct",
                    source.file
                ));
            }
        }
    }
    faults
}

/// The name of a function and its parameters at nesting depth one, patterns first.
fn signature(text: &str) -> Option<(&str, String)> {
    let open = text.find('(')?;
    let name = text[..open].split('<').next()?.trim();
    if name.is_empty() || !name.chars().all(|letter| letter.is_alphanumeric() || letter == '_') {
        return None;
    }
    let mut depth = 0;
    let mut parameters = String::new();
    let mut in_type = false;
    for letter in text[open..].chars() {
        match letter {
            '(' | '[' | '<' | '{' => depth += 1,
            ')' | ']' | '>' | '}' => depth -= 1,
            ':' if depth == 1 => in_type = true,
            ',' if depth == 1 => in_type = false,
            _ => {}
        }
        let opens_pattern = letter == '(' && depth == 2 && !in_type;
        if depth == 0 {
            break;
        }
        if opens_pattern || (depth == 1 && letter != '(') {
            parameters.push(if letter.is_whitespace() { ' ' } else { letter });
        }
    }
    let parameters = parameters.split_whitespace().collect::<Vec<_>>().join(" ");
    Some((name, parameters))
}

/// Everything in `code` that is an identifier or a keyword.
pub fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|letter: char| !letter.is_alphanumeric() && letter != '_')
        .filter(|word| word.starts_with(|letter: char| letter.is_alphabetic() || letter == '_'))
}

/// The words of an identifier: `HoldTold`, `hold_told` and `HOLD_TOLD` are `hold` and `told`.
pub fn segments(name: &str) -> Vec<String> {
    let mut segments: Vec<String> = Vec::new();
    let mut before_is_lower = false;
    for letter in name.chars() {
        if letter == '_' || segments.is_empty() || (letter.is_uppercase() && before_is_lower) {
            segments.push(String::new());
        }
        if let Some(last) = segments.last_mut().filter(|_| letter != '_') {
            last.extend(letter.to_lowercase());
        }
        before_is_lower = letter.is_lowercase() || letter.is_numeric();
    }
    segments
}

#[test]
fn identifiers_split_into_words() {
    for name in ["hold_told", "HoldTold", "HOLD_TOLD", "_hold_told"] {
        let found: Vec<_> = segments(name).into_iter().filter(|word| !word.is_empty()).collect();
        assert_eq!(found, ["hold", "told"], "{name}");
    }
}
