//! What the rules look at, and just enough reading of Rust to look at it.

use std::fs;
use std::path::Path;

/// What the rules check: the sources, the list of crates, and the pages that a rule holds.
#[derive(Default)]
pub struct Tree {
    pub sources: Vec<Source>,
    pub manifest: String,
    /// ARCHITECTURE.md.
    pub map: String,
    pub glossary: String,
    /// The reviewed messages.
    pub messages: String,
}

pub struct Source {
    pub file: String,
    pub text: String,
    /// `text` up to its tests; empty for a file of tests.
    pub shipped: String,
    /// `shipped` without comments and string literals: prose may name what code may not.
    pub code: String,
    /// `text` without comments and string literals, tests included.
    pub all_code: String,
    /// Module path, such as `["proxy", "admit"]`; `None` for files that are no module of the crate.
    pub path: Option<Vec<String>>,
    pub parent: bool,
}

impl Tree {
    /// The modules of the crate, with their paths.
    pub fn modules(&self) -> impl Iterator<Item = (&Source, &[String])> {
        self.sources.iter().filter_map(|source| Some((source, source.path.as_deref()?)))
    }

    /// The file that must declare the module at `path`.
    pub fn parent_of(&self, path: &[String]) -> Option<&Source> {
        let (_, above) = path.split_last()?;
        self.modules().find(|(source, path)| source.parent && *path == above).map(|(s, _)| s)
    }

    /// The submodules that the module at `path` declares, in its order.
    pub fn declared_in(&self, path: &[String]) -> Vec<String> {
        let own = self.modules().find(|(source, own)| source.parent && *own == path);
        own.map(|(source, _)| source.code.lines().filter_map(declared).collect())
            .unwrap_or_default()
    }

    /// The sources of this repository.
    pub fn real() -> Self {
        let read = |file: &str| fs::read_to_string(root().join(file)).unwrap_or_default();
        let tree = Self {
            manifest: read("Cargo.toml"),
            map: read("ARCHITECTURE.md"),
            glossary: read("docs/glossary.md"),
            messages: read("docs/messages.md"),
            ..Self::default()
        };
        ["src", "tests", "benches", "fuzz"]
            .iter()
            .fold(tree, |tree, folder| collect(tree, &root().join(folder)))
    }

    /// Adds one file, real or made up.
    pub fn plant(mut self, file: &str, text: &str) -> Self {
        let steps: Vec<&str> = file.trim_end_matches(".rs").split('/').collect();
        let parent = ["lib", "mod"].iter().any(|name| steps.last() == Some(name));
        let path = (steps[0] == "src" && file != "src/main.rs").then(|| {
            let end = steps.len() - usize::from(parent);
            steps[1..end].iter().map(ToString::to_string).collect::<Vec<_>>()
        });
        let tests = path.as_ref().is_some_and(|path| path.iter().any(|name| name == "tests"));
        let shipped = text.split("#[cfg(test)]").next().filter(|_| !tests).unwrap_or_default();
        self.sources.push(Source {
            file: file.to_owned(),
            text: text.to_owned(),
            shipped: shipped.to_owned(),
            code: code_of(shipped),
            all_code: code_of(text),
            path,
            parent,
        });
        self
    }
}

/// The module that a line such as `pub mod proxy;` declares.
pub fn declared(line: &str) -> Option<String> {
    let (before, name) = line.trim().strip_suffix(';')?.split_once("mod ")?;
    (before.is_empty() || before.starts_with("pub")).then(|| name.to_owned())
}

pub fn dependencies(manifest: &str) -> Vec<String> {
    let section = manifest.split("\n[").find_map(|part| part.strip_prefix("dependencies]"));
    let names = section.unwrap_or_default().lines().filter_map(|line| line.split_once(" = "));
    names.map(|(name, _)| name.replace('-', "_")).collect()
}

/// Whether `code` names the crate, and not a module or value that is called the same.
pub fn names_crate(code: &str, name: &str) -> bool {
    code.match_indices(&format!("{name}::"))
        .any(|(at, _)| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'))
}

/// Every path named as `crate::a::b` or inside `crate::{a::b, c}`.
pub fn crate_paths(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for (at, marker) in code.match_indices("crate::") {
        expand(&code[at + marker.len()..], &[], &mut found);
    }
    found
}

/// Reads one use-tree at the start of `text`; returns how many bytes it took.
fn expand(text: &str, prefix: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let mut path = prefix.to_vec();
    let mut at = 0;
    loop {
        if text[at..].starts_with('{') {
            at += 1;
            while let Some(letter) = text[at..].chars().next().filter(|letter| *letter != '}') {
                let skip = letter.is_whitespace() || letter == ',';
                at += if skip { 1 } else { expand(&text[at..], &path, found).max(1) };
            }
            return at + 1;
        }
        let ends = |letter: char| !letter.is_alphanumeric() && letter != '_';
        let name = text[at..].split(ends).next().unwrap_or_default();
        at += name.len();
        path.push(if name == "self" { String::new() } else { name.to_owned() });
        if !text[at..].starts_with("::") {
            found.push(path);
            return at;
        }
        at += 2;
    }
}

/// A string literal, with the code of its statement before it.
pub struct Literal {
    pub before: String,
    pub text: String,
}

/// `text` without comments and string literals.
fn code_of(text: &str) -> String {
    let mut code = String::new();
    lex(text, &mut code, |_, _| ());
    code
}

/// The string literals of `text`, with line continuations joined.
pub fn literals(text: &str) -> impl Iterator<Item = Literal> + use<> {
    let mut found = Vec::new();
    lex(text, &mut String::new(), |code, literal| {
        let statement = code.rsplit([';', '{', '}']).next().unwrap_or_default();
        let before = statement.trim().to_owned();
        let mut text = String::new();
        let mut lines = literal.split("\\\n");
        text.extend(lines.next());
        lines.for_each(|line| text.push_str(line.trim_start()));
        found.push(Literal { before, text: text.replace("\\\"", "\"") });
    });
    found.into_iter()
}

/// Appends to `code` what is neither comment nor string literal; calls `literal` with the code so
/// far and the inside of each literal.
fn lex(text: &str, code: &mut String, mut literal: impl FnMut(&str, &str)) {
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let mut openings = ["r\"", "r#\"", "r##\"", "br\"", "br#\"", "br##\""].into_iter();
        let raw = openings.find(|open| rest.starts_with(open));
        let glued = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(open) = raw.filter(|_| !glued) {
            let close = format!("\"{}", "#".repeat(open.matches('#').count()));
            let inside = &rest[open.len()..];
            let end = inside.find(&close).unwrap_or(inside.len());
            literal(code, &inside[..end]);
            (open.len() + end + close.len()).min(rest.len())
        } else if letter == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|c| {
                let closes = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                closes
            });
            let end = end.unwrap_or(rest.len() - 1);
            literal(code, &rest[1..=end]);
            (end + 2).min(rest.len())
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\\"'") {
            // The one letter whose loss would turn code into text and text into code.
            rest[1..].find('\'').map_or(rest.len(), |end| end + 2)
        } else {
            code.push(letter);
            letter.len_utf8()
        };
        rest = &rest[length..];
    }
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn collect(tree: Tree, folder: &Path) -> Tree {
    let mut entries: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().collect();
    entries.sort_by_key(fs::DirEntry::path);
    entries.iter().map(fs::DirEntry::path).fold(tree, |tree, entry| {
        if entry.is_dir() {
            return collect(tree, &entry);
        }
        if entry.extension().is_none_or(|extension| extension != "rs") {
            return tree;
        }
        let text = fs::read_to_string(&entry).expect("a source is readable");
        let file = entry.strip_prefix(root()).expect("a source lies under the root");
        tree.plant(&file.display().to_string(), &text)
    })
}
