//! Proves each rule: a planted violation is found, and a clean tree passes all rules.

use crate::cycles::benches_have_no_cycle;
use crate::glossary::glossary_matches_the_code;
use crate::messages::{messages_are_reviewed, page};
use crate::names::{
    BANNED_WORDS, parameters_have_names, type_names_are_unique, words_are_standard,
};
use crate::source::Tree;
use crate::{
    FILE_LINES_MAX, RULES, Rule, UNDONE, architecture_is_complete, files_are_short_and_introduced,
    imports_follow_the_layers, names_have_a_meaning, names_have_one_home, parents_only_list,
    pure_modules_stay_pure, tests_close_a_file,
};

const LIB: &str = "//! Layers.\npub mod domain;\npub mod dialect;\npub mod counters;\n\
    pub mod ledger;\npub mod admin;\npub mod proxy;\n#[cfg(test)]\nmod tests;\n";

fn clean() -> Tree {
    let mut tree = Tree::default()
        .plant("src/lib.rs", LIB)
        .plant("src/main.rs", "//! The binary.\nuse meteor::proxy::relay;\n")
        .plant("src/domain/mod.rs", "//! Pure.\npub mod money;\npub mod limit;\n")
        .plant("src/domain/money.rs", "//! Money, never async or `tokio::time`.\n")
        .plant(
            "src/domain/limit.rs",
            "//! Limits.\nuse crate::domain::money::Nano;\nconst A: &str = \"std::env super::\";\n\
             const B: &str = r#\"a \" async \"#;\nconst C: char = '\"';\n// Not Instant::now()\n\n\
             #[cfg(test)]\nmod tests {\n    use super::*;\n}\n",
        )
        .plant("src/dialect.rs", "//! Bytes in.\nuse memchr::memmem;\n")
        .plant("src/counters.rs", "//! Counts.\nmacro_rules! on {}\npub(crate) use on;\n")
        .plant("src/ledger.rs", "//! Books.\n")
        .plant("src/admin.rs", "//! Door.\n")
        .plant("src/proxy/mod.rs", "//! Door.\nmod admit;\npub mod relay;\n")
        .plant("src/proxy/admit.rs", "//! Admits.\nuse crate::{domain::{limit::Limit}, ledger};\n")
        .plant("src/proxy/relay.rs", "//! Relays.\nuse crate::proxy::admit::Permit;\n")
        .plant("src/tests.rs", "//! Tests may reach up.\nuse super::*;\n");
    tree.manifest =
        "[package]\n\n[dependencies]\nbytes = \"1\"\nmemchr = \"2\"\nserde-json = \"1\"\n\n[lib]\n"
            .into();
    tree.map = "`domain/` decides, `proxy/` forwards.".into();
    tree.glossary = "# Glossary\n\n- **limit**: A rule.\n- **Nano**: A unit.\n".into();
    tree.messages = page(&tree);
    tree
}

/// A clean tree in which `file` has the content `text`.
fn with(file: &str, text: &str) -> Tree {
    let mut tree = clean();
    tree.sources.retain(|source| source.file != file);
    tree.plant(file, text)
}

#[track_caller]
fn finds(rule: Rule, tree: &Tree, advice: &str) {
    let faults = rule(tree);
    let found = !faults.is_empty() && faults.iter().all(|fault| fault.contains(advice));
    assert!(found, "expected only {advice:?}, found {faults:?}");
}

#[test]
fn a_clean_tree_has_no_fault() {
    for rule in RULES {
        assert_eq!(rule(&clean()), Vec::<String>::new());
    }
}

#[test]
fn a_module_that_names_one_below_it_in_the_list_is_caught() {
    let rule = imports_follow_the_layers;
    let advice = "`domain` may not name `proxy`";
    finds(rule, &with("src/domain/money.rs", "//! M.\nuse crate::proxy::relay::R;\n"), advice);
    finds(rule, &with("src/domain/money.rs", "//! M.\nuse crate::{proxy::relay::R};\n"), advice);
    finds(rule, &with("src/domain/money.rs", "//! M.\nfn f() { crate::proxy::g() }\n"), advice);
    let advice = "`admit` may not name `relay`";
    finds(rule, &with("src/proxy/admit.rs", "//! A.\nuse crate::proxy::relay::R;\n"), advice);
    let advice = "`money` may not name `limit`";
    let nested = "//! M.\nuse crate::{\n    domain::{\n        limit::{A, B},\n    },\n};\n";
    finds(rule, &with("src/domain/money.rs", nested), advice);
}

#[test]
fn a_name_that_hides_its_layer_is_caught() {
    let rule = imports_follow_the_layers;
    finds(rule, &with("src/proxy/relay.rs", "//! R.\nuse super::admit::P;\n"), "write `crate::…`");
    finds(
        rule,
        &with("src/proxy/relay.rs", "//! R.\nuse crate::proxy::*;\n"),
        "name what you take",
    );
    finds(rule, &with("src/ledger.rs", "//! L.\nuse crate::*;\n"), "name what you take");
    finds(
        rule,
        &with("src/ledger.rs", "//! L.\nuse crate::{self as all};\n"),
        "name what you take",
    );
}

#[test]
fn strangers_that_meet_are_caught_whatever_their_order() {
    let rule = imports_follow_the_layers;
    let advice = "are strangers";
    finds(rule, &with("src/proxy/relay.rs", "//! R.\nuse crate::admin::page;\n"), advice);
    finds(rule, &with("src/admin.rs", "//! A.\nuse crate::proxy::relay::R;\n"), advice);
    finds(rule, &with("src/ledger.rs", "//! L.\nuse crate::counters::C;\n"), advice);
}

#[test]
fn impure_words_and_foreign_crates_in_pure_modules_are_caught() {
    let rule = pure_modules_stay_pure;
    for (line, word) in [
        ("pub async fn f() {}", "`async`"),
        ("use std::time::Instant;", "`Instant`"),
        ("use std::fs::File;", "`std::fs`"),
        ("use std::net::{IpAddr, TcpStream};", "`TcpStream`"),
        ("use bytes::Bytes;", "`bytes`"),
        ("use memchr::memmem;", "`memchr`"),
        ("#[derive(serde_json::S)]", "`serde_json`"),
    ] {
        finds(rule, &with("src/domain/money.rs", &format!("//! M.\n{line}\n")), word);
    }
    finds(rule, &with("src/dialect.rs", "//! D.\nuse serde_json::Value;\n"), "`serde_json`");
}

#[test]
fn a_second_home_for_a_name_is_caught() {
    let rule = names_have_one_home;
    for line in ["pub use crate::ledger::L;", "pub(crate) use crate::ledger::L;"] {
        finds(rule, &with("src/admin.rs", &format!("//! A.\n{line}\n")), "no `pub use`");
    }
}

#[test]
fn a_parent_with_code_and_a_folder_without_a_parent_are_caught() {
    let rule = parents_only_list;
    let code = "//! P.\nmod admit;\npub mod relay;\nfn f();\n";
    finds(rule, &with("src/proxy/mod.rs", code), "move `fn f();`");
    finds(rule, &with("src/admin.rs", "//! A.\nmod page;\n"), "a folder with a mod.rs");
    finds(rule, &clean().plant("src/store/sql.rs", "//! S.\n"), "src/store: a folder has a mod.rs");
}

#[test]
fn code_that_hides_behind_a_test_is_caught() {
    let rule = tests_close_a_file;
    let advice = "at the end of its file";
    for hidden in [
        "#[cfg(test)]\nmod tests {\n}\nfn shipped() {}\n",
        "#[cfg(test)]\nuse crate::proxy::relay;\nfn shipped() {}\n",
        "#[cfg(test)]\nmod tests;\nfn shipped() {}\n",
    ] {
        finds(rule, &with("src/admin.rs", &format!("//! A.\n{hidden}")), advice);
    }
}

#[test]
fn long_nameless_and_unfinished_files_are_caught() {
    let rule = files_are_short_and_introduced;
    let long = format!("//! A.\n{}", "//\n".repeat(FILE_LINES_MAX));
    finds(rule, &with("src/admin.rs", &long), "split by concept");
    finds(rule, &with("src/admin.rs", "fn f() {}\n"), "begin with a `//!` line");
    finds(rule, &with("tests/limits.rs", "fn f() {}\n"), "begin with a `//!` line");
    for word in UNDONE {
        finds(rule, &with("src/admin.rs", &format!("//! A.\n// {word} f\n")), "do it now");
    }
}

#[test]
fn names_without_a_meaning_are_caught() {
    let rule = names_have_a_meaning;
    finds(rule, &clean().plant("src/util.rs", "//! U.\n"), "`util` says nothing");
    finds(rule, &with("src/admin.rs", "//! A.\nmod helpers {}\n"), "`helpers` says nothing");
    finds(rule, &with("src/admin.rs", "//! A.\nfn admit_inner() {}\n"), "`admit_inner`");
    finds(rule, &clean().plant("src/admit_v2.rs", "//! A.\n"), "`admit_v2` says nothing");
}

#[test]
fn a_folder_missing_from_the_map_is_caught() {
    let mut tree = clean();
    tree.map = "`domain/` decides, `x_proxy/` is another.".into();
    finds(architecture_is_complete, &tree, "say what `src/proxy/` is for");
}

#[test]
fn two_public_types_of_one_name_are_caught() {
    let second = with("src/admin.rs", "//! A.\npub struct Claim;\nstruct Row;\n")
        .plant("src/store.rs", "//! S.\npub(crate) enum Claim {}\nstruct Row;\n");
    finds(type_names_are_unique, &second, "`Claim` is the name of two types");
}

#[test]
fn every_banned_word_is_caught_in_every_case() {
    for word in BANNED_WORDS {
        let (first, rest) = word.split_at(1);
        let capital = format!("{}{rest}", first.to_uppercase());
        for line in [
            format!("fn hold_{word}() {{}}"),
            format!("struct {capital}Hold;"),
            format!("const HOLD_{}: u8 = 1;", word.to_uppercase()),
            format!("fn f({word}: u8) {{}}"),
            format!("#[cfg(test)]\nmod tests {{\n    fn {word}() {{}}\n}}"),
        ] {
            let tree = with("src/admin.rs", &format!("//! A.\n{line}\n"));
            finds(words_are_standard, &tree, "use a standard term");
        }
        let file = clean().plant(&format!("tests/{word}.rs"), "//! T.\n");
        finds(words_are_standard, &file, "use a standard term");
    }
}

#[test]
fn a_tuple_pattern_among_parameters_is_caught() {
    for function in [
        "fn f((a, b): (u8, u8)) {}",
        "pub(crate) async fn g<T: Into<u8>>(\n    a: T,\n    (b, c): (u8, u8),\n) {}",
    ] {
        let tree = with("src/admin.rs", &format!("//! A.\n{function}\n"));
        finds(parameters_have_names, &tree, "takes a tuple pattern");
    }
    let named = with("src/admin.rs", "//! A.\nfn f(a: (u8, u8), g: impl Fn((u8, u8))) {}\n");
    assert_eq!(parameters_have_names(&named), Vec::<String>::new());
}

#[test]
fn a_term_without_use_order_or_sentence_is_caught() {
    for (entries, advice) in [
        ("- **penalty**: A word.\n", "no identifier has the word `penalty`"),
        ("- **limit**: A rule. It counts.\n", "in one sentence"),
        ("- **limit**: A rule\n", "in one sentence"),
        ("- **Nano**: A unit.\n- **limit**: A rule.\n", "sort the terms"),
        ("- **limit**: A rule.\n- **limit**: A bound.\n", "define each once"),
        ("no terms", "define each term"),
    ] {
        let tree = Tree { glossary: entries.into(), ..clean() };
        finds(glossary_matches_the_code, &tree, advice);
    }
}

#[test]
fn a_message_that_nobody_reviewed_is_caught() {
    let rule = messages_are_reviewed;
    for code in
        ["fn f() { fail(\"the body is too large\") }", "#[error(\"no such \\\n    project here\")]"]
    {
        finds(rule, &with("src/admin.rs", &format!("//! A.\n{code}\n")), "review `");
    }
    let mut tree = clean();
    tree.messages.push_str("- a text that was removed\n");
    finds(rule, &tree, "is gone");
}

#[test]
fn a_cycle_in_a_benchmark_is_caught() {
    let acyclic = clean()
        .plant("benches/side/a.rs", "//! A.\nuse crate::b::B;\n")
        .plant("benches/side/b.rs", "//! B.\nuse crate::c::C;\n");
    assert_eq!(benches_have_no_cycle(&acyclic), Vec::<String>::new());
    let cyclic = acyclic.plant("benches/side/c.rs", "//! C.\nuse crate::a::A;\n");
    finds(benches_have_no_cycle, &cyclic, "imports itself through other modules");
}
