//! Modules of the benchmark import each other in one direction only.
//!
//! In `src` the order of the `mod` list rules out cycles. A benchmark has no such order.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{Tree, crate_paths};

/// A cycle makes the modules in it one module, whatever their files.
pub fn benches_have_no_cycle(tree: &Tree) -> Vec<String> {
    let mut imports: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for source in tree.sources.iter().filter(|source| source.file.starts_with("benches/")) {
        let module = source.file.trim_end_matches(".rs").rsplit('/').next().unwrap_or_default();
        let named = crate_paths(&source.all_code).into_iter();
        imports.entry(module).or_default().extend(named.filter_map(|path| path.into_iter().next()));
    }
    imports
        .keys()
        .filter(|module| reaches(&imports, module, module, &mut BTreeSet::new()))
        .map(|module| {
            format!(
                "benches: `{module}` imports itself through other modules; move what both need \
                 into a module below them"
            )
        })
        .collect()
}

/// True if the imports of `from` lead to `to`.
fn reaches<'a>(
    imports: &'a BTreeMap<&str, BTreeSet<String>>,
    from: &str,
    to: &str,
    visited: &mut BTreeSet<&'a str>,
) -> bool {
    imports
        .get(from)
        .into_iter()
        .flatten()
        .any(|next| next == to || (visited.insert(next) && reaches(imports, next, to, visited)))
}
