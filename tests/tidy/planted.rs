//! Each rule bites: one planted violation apiece, and a clean tree that all rules accept.

use crate::source::Tree;
use crate::{
    FILE_LINES_MAX, RULES, Rule, UNDONE, architecture_is_complete, files_are_short_and_introduced,
    imports_follow_the_layers, names_have_one_home, names_say_something, parents_only_list,
    pure_modules_stay_pure, tests_close_a_file,
};

const LIB: &str = "//! Layers.\npub mod domain;\npub mod dialect;\npub mod counters;\n\
    pub mod ledger;\npub mod admin;\npub mod proxy;\n#[cfg(test)]\nmod tests;\n";

fn clean() -> Tree {
    let mut tree = Tree::default()
        .plant("src/lib.rs", LIB)
        .plant("src/main.rs", "//! The binary.\nuse meteor::proxy::stages::relay;\n")
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
    tree
}

/// Plants `text` at `file` in place of what stands there.
fn with(file: &str, text: &str) -> Tree {
    let mut tree = clean();
    tree.sources.retain(|source| source.file != file);
    tree.plant(file, text)
}

#[track_caller]
fn bites(rule: Rule, tree: &Tree, advice: &str) {
    let faults = rule(tree);
    let bitten = !faults.is_empty() && faults.iter().all(|fault| fault.contains(advice));
    assert!(bitten, "{advice:?} is not what {faults:?} says");
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
    bites(rule, &with("src/domain/money.rs", "//! M.\nuse crate::proxy::relay::R;\n"), advice);
    bites(rule, &with("src/domain/money.rs", "//! M.\nuse crate::{proxy::relay::R};\n"), advice);
    bites(rule, &with("src/domain/money.rs", "//! M.\nfn f() { crate::proxy::g() }\n"), advice);
    let advice = "`admit` may not name `relay`";
    bites(rule, &with("src/proxy/admit.rs", "//! A.\nuse crate::proxy::relay::R;\n"), advice);
    let advice = "`money` may not name `limit`";
    let nested = "//! M.\nuse crate::{\n    domain::{\n        limit::{A, B},\n    },\n};\n";
    bites(rule, &with("src/domain/money.rs", nested), advice);
}

#[test]
fn a_name_that_hides_its_layer_is_caught() {
    let rule = imports_follow_the_layers;
    bites(rule, &with("src/proxy/relay.rs", "//! R.\nuse super::admit::P;\n"), "write `crate::…`");
    bites(
        rule,
        &with("src/proxy/relay.rs", "//! R.\nuse crate::proxy::*;\n"),
        "name what you take",
    );
    bites(rule, &with("src/ledger.rs", "//! L.\nuse crate::*;\n"), "name what you take");
    bites(
        rule,
        &with("src/ledger.rs", "//! L.\nuse crate::{self as all};\n"),
        "name what you take",
    );
}

#[test]
fn strangers_that_meet_are_caught_whatever_their_order() {
    let rule = imports_follow_the_layers;
    let advice = "are strangers";
    bites(rule, &with("src/proxy/relay.rs", "//! R.\nuse crate::admin::page;\n"), advice);
    bites(rule, &with("src/admin.rs", "//! A.\nuse crate::proxy::relay::R;\n"), advice);
    bites(rule, &with("src/ledger.rs", "//! L.\nuse crate::counters::C;\n"), advice);
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
        bites(rule, &with("src/domain/money.rs", &format!("//! M.\n{line}\n")), word);
    }
    bites(rule, &with("src/dialect.rs", "//! D.\nuse serde_json::Value;\n"), "`serde_json`");
}

#[test]
fn a_second_home_for_a_name_is_caught() {
    let rule = names_have_one_home;
    for line in ["pub use crate::ledger::L;", "pub(crate) use crate::ledger::L;"] {
        bites(rule, &with("src/admin.rs", &format!("//! A.\n{line}\n")), "no `pub use`");
    }
}

#[test]
fn a_parent_with_code_and_a_folder_without_a_parent_are_caught() {
    let rule = parents_only_list;
    let code = "//! P.\nmod admit;\npub mod relay;\nfn f();\n";
    bites(rule, &with("src/proxy/mod.rs", code), "move `fn f();`");
    bites(rule, &with("src/admin.rs", "//! A.\nmod page;\n"), "a folder with a mod.rs");
    bites(rule, &clean().plant("src/store/sql.rs", "//! S.\n"), "src/store: a folder has a mod.rs");
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
        bites(rule, &with("src/admin.rs", &format!("//! A.\n{hidden}")), advice);
    }
}

#[test]
fn long_nameless_and_unfinished_files_are_caught() {
    let rule = files_are_short_and_introduced;
    let long = format!("//! A.\n{}", "//\n".repeat(FILE_LINES_MAX));
    bites(rule, &with("src/admin.rs", &long), "split by concept");
    bites(rule, &with("src/admin.rs", "fn f() {}\n"), "begin with a `//!` line");
    bites(rule, &with("tests/limits.rs", "fn f() {}\n"), "begin with a `//!` line");
    for word in UNDONE {
        bites(rule, &with("src/admin.rs", &format!("//! A.\n// {word} f\n")), "do it now");
    }
}

#[test]
fn names_without_a_meaning_are_caught() {
    let rule = names_say_something;
    bites(rule, &clean().plant("src/util.rs", "//! U.\n"), "`util` says nothing");
    bites(rule, &with("src/admin.rs", "//! A.\nmod helpers {}\n"), "`helpers` says nothing");
    bites(rule, &with("src/admin.rs", "//! A.\nfn admit_inner() {}\n"), "`admit_inner`");
    bites(rule, &clean().plant("src/admit_v2.rs", "//! A.\n"), "`admit_v2` says nothing");
}

#[test]
fn a_folder_missing_from_the_map_is_caught() {
    let mut tree = clean();
    tree.map = "`domain/` decides, `x_proxy/` is another.".into();
    bites(architecture_is_complete, &tree, "say what `src/proxy/` is for");
}
