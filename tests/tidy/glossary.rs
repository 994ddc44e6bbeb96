//! The glossary is complete, sorted, and about words that the code uses.

use crate::names::{segments, words};
use crate::source::Tree;

/// A word in two senses is two words for every reader; an entry that nothing uses misleads.
pub fn glossary_matches_the_code(tree: &Tree) -> Vec<String> {
    let entries: Vec<(&str, &str)> = tree
        .glossary
        .lines()
        .filter_map(|line| line.strip_prefix("- **")?.split_once("**: "))
        .collect();
    let mut faults = Vec::new();
    if entries.is_empty() {
        faults.push("docs/glossary.md: define each term as `- **term**: one sentence.`".to_owned());
    }
    let mut used: Vec<String> =
        tree.modules().flat_map(|(source, _)| words(&source.code).flat_map(segments)).collect();
    used.sort_unstable();
    used.dedup();
    for (term, meaning) in &entries {
        let is_sentence = meaning.ends_with('.') && !meaning[..meaning.len() - 1].contains(". ");
        if !is_sentence {
            faults.push(format!("docs/glossary.md: define `{term}` in one sentence"));
        }
        let unused = term
            .split(' ')
            .map(str::to_lowercase)
            .find(|word| used.binary_search_by(|segment| segment.as_str().cmp(word)).is_err());
        if let Some(word) = unused {
            faults.push(format!(
                "docs/glossary.md: no identifier has the word `{word}` of `{term}`; use the term \
                 in the code or drop the entry"
            ));
        }
    }
    for pair in
        entries.windows(2).filter(|pair| pair[0].0.to_lowercase() >= pair[1].0.to_lowercase())
    {
        faults.push(format!(
            "docs/glossary.md: `{}` stands before `{}`; sort the terms and define each once",
            pair[0].0, pair[1].0
        ));
    }
    faults
}
