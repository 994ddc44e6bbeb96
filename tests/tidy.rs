//! Rules of this code base that the compiler cannot check. Each violation says what to do.
//!
//! A rule is a function from a tree of sources to its violations. Every rule is listed in `RULES`,
//! runs on the real tree, and is proven by a planted violation.

#[path = "tidy/source.rs"]
mod source;
#[path = "tidy/names.rs"]
mod names;
#[path = "tidy/glossary.rs"]
mod glossary;
#[path = "tidy/cycles.rs"]
mod cycles;
#[path = "tidy/messages.rs"]
mod messages;
#[path = "tidy/planted.rs"]
mod planted;

use cycles::benches_have_no_cycle;
use glossary::glossary_matches_the_code;
use messages::messages_are_reviewed;
use names::{parameters_have_names, type_names_are_unique, words_are_standard};
use source::{Source, Tree, crate_paths, declared, dependencies, names_crate};

type Rule = fn(&Tree) -> Vec<String>;

const RULES: &[Rule] = &[
    imports_follow_the_layers,
    benches_have_no_cycle,
    pure_modules_stay_pure,
    names_have_one_home,
    parents_only_list,
    tests_close_a_file,
    files_are_short_and_introduced,
    names_have_a_meaning,
    type_names_are_unique,
    words_are_standard,
    parameters_have_names,
    architecture_is_complete,
    glossary_matches_the_code,
    messages_are_reviewed,
];

/// Modules that may not name each other, whatever their order.
const STRANGERS: &[(&str, &str)] =
    &[("admin", "proxy"), ("console", "proxy"), ("ledger", "counters")];

/// Modules of plain values, each with the only crates it may name beside `std`.
const PURE: &[(&str, &[&str])] = &[("domain", &[]), ("dialect", &["bytes", "memchr", "tiktoken"])];
const IMPURE: &[&str] = &[
    "async ",
    ".await",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "ToSocketAddrs",
    "std::fs",
    "std::env",
    "std::io",
    "std::thread",
    "std::process",
    "Instant",
    "SystemTime",
    "::now(",
    "println!",
];

const FILE_LINES_MAX: usize = 400;
const UNDONE: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
const EMPTY_NAMES: &[&str] = &[
    "util", "utils", "common", "helpers", "misc", "types", "models", "dto", "manager", "handler",
    "inner", "base", "core",
];
const EMPTY_ENDINGS: &[&str] = &["_inner", "_impl", "_v2"];

fn imports_follow_the_layers(tree: &Tree) -> Vec<String> {
    let mut faults = Vec::new();
    for (source, path) in tree.modules() {
        if source.code.contains("super::") {
            faults.push(format!("{}: write `crate::…` for `super::`", source.file));
        }
        for named in crate_paths(&source.code) {
            let shared = path.iter().zip(&named).take_while(|(a, b)| a == b).count();
            let (Some(here), Some(there)) = (path.get(shared), named.get(shared)) else { continue };
            if there.is_empty() {
                faults.push(format!("{}: name what you take, not `*` or all", source.file));
            }
            let order = tree.declared_in(&path[..shared]);
            let place = |module: &String| order.iter().position(|declared| declared == module);
            let (Some(from), Some(to)) = (place(here), place(there)) else { continue };
            let strangers = STRANGERS.iter().any(|pair| {
                pair == &(here.as_str(), there.as_str()) || pair == &(there.as_str(), here.as_str())
            });
            if strangers {
                faults.push(format!(
                    "{}: `{here}` and `{there}` are strangers; what both need belongs below them",
                    source.file
                ));
            } else if from < to {
                faults.push(format!(
                    "{}: `{here}` may not name `{there}`, which is declared below it; pass the \
                     value in, or move what is shared up the list",
                    source.file
                ));
            }
        }
    }
    faults
}

fn pure_modules_stay_pure(tree: &Tree) -> Vec<String> {
    let crates: Vec<String> = dependencies(&tree.manifest);
    let mut faults = Vec::new();
    for (source, path) in tree.modules() {
        let Some((_, allowed)) =
            PURE.iter().find(|(top, _)| path.first().is_some_and(|p| p == top))
        else {
            continue;
        };
        let words = IMPURE.iter().filter(|word| source.code.contains(**word)).map(|w| w.trim());
        let foreign = crates
            .iter()
            .map(String::as_str)
            .filter(|name| !allowed.contains(name) && names_crate(&source.code, name));
        faults.extend(words.chain(foreign).map(|word| {
            format!("{}: pure code names `{word}`; let the caller pass the value in", source.file)
        }));
    }
    faults
}

fn names_have_one_home(tree: &Tree) -> Vec<String> {
    let mut faults = Vec::new();
    for (source, _) in tree.modules() {
        for line in source.code.lines().map(str::trim).filter(|line| line.starts_with("pub")) {
            let Some((before, taken)) = line.split_once("use ") else { continue };
            if before.trim() != "pub" && !(before.starts_with("pub(") && before.ends_with(") ")) {
                continue;
            }
            let macro_of_its_own =
                source.code.contains(&format!("macro_rules! {}", taken.trim_end_matches(';')));
            if !macro_of_its_own {
                faults.push(format!("{}: no `pub use`; name `{taken}` at its home", source.file));
            }
        }
    }
    faults
}

fn parents_only_list(tree: &Tree) -> Vec<String> {
    let mut faults = Vec::new();
    for (source, path) in tree.modules() {
        for line in source.code.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let lists = declared(line).is_some();
            if source.parent && !lists && !line.starts_with('#') {
                faults.push(format!(
                    "{}: a parent holds docs and `mod` lines only; move `{line}` to a file",
                    source.file
                ));
            }
            if !source.parent && lists {
                faults.push(format!("{}: make it a folder with a mod.rs", source.file));
            }
        }
        if let Some((_, above)) = path.split_last().filter(|_| tree.parent_of(path).is_none()) {
            faults.push(format!("src/{}: a folder has a mod.rs that lists it", above.join("/")));
        }
    }
    faults
}

/// Rejects code after the tests, which every other rule would miss.
fn tests_close_a_file(tree: &Tree) -> Vec<String> {
    let close = |source: &Source| {
        let Some((_, rest)) = source.text.split_once("#[cfg(test)]") else { return true };
        let mut lines = rest.lines().map(str::trim_end).filter(|line| !line.starts_with("#["));
        let opens = lines.find(|line| !line.is_empty()).unwrap_or_default();
        let names_tests = |head: &str| head.starts_with("mod ") && head.ends_with("tests");
        match opens.strip_suffix(" {") {
            Some(head) => names_tests(head) && lines.skip_while(|line| *line != "}").eq(["}"]),
            None => opens.strip_suffix(';').is_some_and(names_tests) && lines.next().is_none(),
        }
    };
    tree.modules()
        .filter(|(source, _)| !close(source))
        .map(|(source, _)| {
            format!("{}: keep test code in one `mod tests` at the end of its file", source.file)
        })
        .collect()
}

fn files_are_short_and_introduced(tree: &Tree) -> Vec<String> {
    let mut faults = Vec::new();
    for Source { file, text, .. } in &tree.sources {
        let lines = text.lines().count();
        if FILE_LINES_MAX < lines {
            faults.push(format!("{file}: {lines} lines, limit {FILE_LINES_MAX}; split by concept"));
        }
        if !text.starts_with("//!") {
            faults.push(format!("{file}: begin with a `//!` line that says what it is for"));
        }
        faults.extend(
            UNDONE
                .iter()
                .filter(|word| text.contains(**word))
                .map(|word| format!("{file}: {word}: do it now or open an issue")),
        );
    }
    faults
}

fn names_have_a_meaning(tree: &Tree) -> Vec<String> {
    let mut faults = Vec::new();
    for (source, path) in tree.modules() {
        let ends_empty = |name: &str| EMPTY_ENDINGS.iter().any(|end| name.ends_with(end));
        let empty = |name: &str| EMPTY_NAMES.contains(&name) || ends_empty(name);
        for name in path.iter().filter(|name| empty(name)) {
            faults.push(format!("{}: `{name}` says nothing; name the concept", source.file));
        }
        let words: Vec<&str> =
            source.code.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
        for pair in words.windows(2).filter(|pair| ["fn", "mod", "struct"].contains(&pair[0])) {
            if ends_empty(pair[1]) || (pair[0] == "mod" && empty(pair[1])) {
                faults.push(format!("{}: `{}` says nothing; name it", source.file, pair[1]));
            }
        }
    }
    faults
}

fn architecture_is_complete(tree: &Tree) -> Vec<String> {
    let apart = |text: &str| !text.ends_with(|c: char| c.is_alphanumeric() || c == '_');
    tree.modules()
        .filter(|(source, path)| source.parent && !path.is_empty())
        .map(|(_, path)| format!("{}/", path.join("/")))
        .filter(|name| !tree.map.match_indices(name).any(|(at, _)| apart(&tree.map[..at])))
        .map(|name| format!("ARCHITECTURE.md: say what `src/{name}` is for"))
        .collect()
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test reads its own switch")]
fn this_tree_keeps_every_rule() {
    let tree = Tree::real();
    if std::env::var_os("METEOR_BLESS").is_some() {
        messages::bless(&tree);
    }
    let tree = Tree::real();
    let faults: Vec<String> = RULES.iter().flat_map(|rule| rule(&tree)).collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}
