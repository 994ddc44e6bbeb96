//! Tests of the configuration: text and environment in, settings or report out.

use std::fs;
use std::time::Duration;

use crate::config::check::{Settings, load, read};
use crate::config::environment::Environment;
use crate::dialect::endpoint::Dialect;
use crate::domain::catalog::Model;
use crate::domain::money::Nano;
use crate::domain::price::PriceTable;
use crate::domain::service_tier::ServiceTier;
use crate::domain::time::UnixMs;
use crate::domain::usage::Unit;
use crate::settings::upstream::{Auth, CircuitSettings};

const GATEWAY: &str = include_str!("../../config/gateway.toml");
const DEVELOPMENT: &str = include_str!("../../config/development.toml");
const PRODUCTION: &str = include_str!("../../config/production.toml");
const README: &str = include_str!("../../README.md");

fn environment(variables: &[(&str, &str)]) -> Environment {
    variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

fn with_key() -> Environment {
    environment(&[("OPENAI_API_KEY", "sk-secret")])
}

fn settings(text: &str) -> Settings {
    read(text, &with_key()).unwrap_or_else(|report| panic!("{report}"))
}

fn prices_of(model: &Model) -> &PriceTable {
    model.targets[0].schedule.effective_at(UnixMs(0)).prices(ServiceTier::DEFAULT, 0)
}

fn report(text: &str) -> String {
    read(text, &with_key()).expect_err("errors").to_string()
}

/// The settings of `config/gateway.toml`, with its examples if `examples` is set.
fn uncommented(examples: bool) -> String {
    let setting = |line: &'static str| {
        let bare = line.strip_prefix('#')?;
        match bare.strip_prefix('?') {
            Some(example) => Some(example).filter(|_| examples),
            None => Some(bare).filter(|bare| !bare.is_empty() && !bare.starts_with(' ')),
        }
    };
    GATEWAY.lines().filter_map(setting).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_reference_shows_every_default() {
    assert_eq!(format!("{:?}", settings(&uncommented(false))), format!("{:?}", settings("")));
    assert_eq!(format!("{:?}", settings(GATEWAY)), format!("{:?}", settings("")));
}

#[test]
fn the_reference_shows_every_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let password = folder.path().join("password");
    fs::write(&password, "correct horse\n").expect("a file");
    let whole = uncommented(true);
    let text = whole.replace("/run/secrets/operator", &password.display().to_string());
    let found = settings(&text);
    let operator = found.admin.operator.expect("an operator");
    assert_eq!(operator.password.expose(), "correct horse");

    let minimal = settings("[[upstreams]]\nname = 'openai'\nbase_url = 'https://api.openai.com'");
    let (shown, minimal) = (&found.upstreams[0], &minimal.upstreams[0]);
    assert_eq!(format!("{:?}", shown.dialects), format!("{:?}", minimal.dialects));
    assert_eq!(shown.headers, minimal.headers);
    assert_eq!(
        (shown.connect_timeout, shown.first_byte_timeout, shown.idle_timeout),
        (minimal.connect_timeout, minimal.first_byte_timeout, minimal.idle_timeout)
    );
    assert_eq!(shown.idle_connections_max, minimal.idle_connections_max);

    // The error of an unknown key lists the keys of the section.
    let wrong = whole
        .lines()
        .flat_map(|line| [line, if line.starts_with('[') { "wrong = 1" } else { "" }])
        .collect::<Vec<_>>()
        .join("\n")
        .replace("{ upstream", "{ wrong = 1, upstream");
    let report = report(&format!("wrong = 1\n{wrong}"));
    let lists = report.lines().filter_map(|line| line.split_once("valid keys: "));
    let mut keys: Vec<&str> = lists.flat_map(|(_, keys)| keys.split(", ")).collect();
    keys.sort_unstable();
    keys.dedup();
    assert!(35 < keys.len(), "{report}");
    for key in keys {
        let shown = [format!("\n{key} = "), format!("[{key}]"), format!("{{ {key} = ")];
        let inside = format!(", {key} = ");
        assert!(
            shown.iter().chain([&inside]).any(|form| whole.contains(form.as_str())),
            "config/gateway.toml does not show `{key}`"
        );
    }
}

#[test]
fn the_other_files_are_valid() {
    let development = settings(DEVELOPMENT);
    assert!(development.fallback.is_some() && development.models.is_empty());
    let production = settings(PRODUCTION);
    assert_eq!(production.database, production.data.join("meteor.db"));
    assert!(production.admin.listen.ip().is_loopback());
    let (_, rest) = README.split_once("```toml\n").expect("the readme shows a configuration");
    let (example, _) = rest.split_once("```").expect("and ends it");
    assert_eq!(settings(example).models.len(), 1);
}

/// Lines of a file, each with the path of its error; `""` if it has none.
const LINES_AND_ERRORS: &[(&str, &str)] = &[
    ("colour = 'red'", "colour"),
    ("[proxy]", ""),
    ("listen = 'localhost'", "proxy.listen"),
    ("workers = -1", "proxy.workers"),
    ("body_bytes_max = '32 MiB'", "proxy.body_bytes_max"),
    ("header_read_timeout_ms = 0", "proxy.header_read_timeout_ms"),
    ("[admin]", "admin.operator_password_file"),
    ("operator_email = 'op@example.com'", ""),
    ("public_url = 'gateway'", "admin.public_url"),
    ("[journal]", ""),
    ("durability = 'paper'", "journal.durability"),
    ("segment_bytes = 1073741824", ""),
    ("backlog_bytes_max = 1048576", "journal.backlog_bytes_max"),
    ("[money]", ""),
    ("currency = 'dollars'", "money.currency"),
    ("[log]", ""),
    ("calls = 'yes'", "log.calls"),
    ("[store]", ""),
    ("url = 'postgres://meteor:hunter2@db/meteor'", "store.url"),
    ("[[upstreams]]", ""),
    ("name = 'a'", ""),
    ("base_url = 'https://me:hunter2@x'", "upstreams.0.base_url"),
    ("auth = { secret = 'hunter2' }", "upstreams.0.auth.secret"),
    ("headers.authorization = 'hunter2'", "upstreams.0.headers.authorization"),
    ("headers.'bad name' = 'hunter2'", "upstreams.0.headers.bad name"),
    ("headers.x-a = 1", "upstreams.0.headers.x-a"),
    ("dialects = ['openai', 'latin']", "upstreams.0.dialects"),
    ("[[upstreams]]", "upstreams.1.base_url"),
    ("name = 'a'", "upstreams.1.name"),
    ("auth.kind = 'header'", ""),
    ("auth.header = 'x y'", "upstreams.1.auth.header"),
    ("auth.secret.env = 'NOT_SET'", "upstreams.1.auth.secret.env"),
    ("[[models]]", "models.0.prices.outputTokens"),
    ("id = 'm'", ""),
    ("upstream = 'a'", ""),
    ("max_output_tokens = 10", ""),
    ("prices.inputTokens = 0.15", "models.0.prices.inputTokens"),
    ("prices.tokens = '1'", "models.0.prices.tokens"),
    ("[[models]]", "models.1.max_output_tokens"),
    ("id = 'm'", "models.1.id"),
    ("prices = { inputTokens = '1' }", "models.1.prices.outputTokens"),
    ("[[models.targets]]", ""),
    ("upstream = 'b'", "models.1.targets.0.upstream"),
    ("weight = 1001", "models.1.targets.0.weight"),
    ("share = 2", "models.1.targets.0.share"),
];

#[test]
fn all_errors_are_in_one_report() {
    let text: Vec<&str> = LINES_AND_ERRORS.iter().map(|(line, _)| *line).collect();
    let report = report(&text.join("\n"));
    let mut reported: Vec<&str> =
        report.lines().filter_map(|line| Some(line.split_once(": ")?.0)).collect();
    reported.sort_unstable();
    let paths = LINES_AND_ERRORS.iter().map(|(_, path)| *path);
    let mut expected: Vec<&str> = paths.filter(|path| !path.is_empty()).collect();
    expected.sort_unstable();
    assert_eq!(reported, expected, "{report}");
    assert!(!report.contains("hunter2"), "{report}");
}

#[test]
fn the_environment_wins_over_the_file() {
    let variables = [
        ("METEOR__PROXY__WORKERS", "3"),
        ("METEOR__LOG__CALLS", "false"),
        ("METEOR__DATA__FOLDER", "/srv/meteor"),
        ("METEOR__UPSTREAMS__0__AUTH__SECRET", "sk-of-the-environment"),
        ("METEOR__MODELS__0__PRICES__OUTPUTTOKENS", "0.7"),
        ("OPENAI_API_KEY", "sk-secret"),
    ];
    let found = read(PRODUCTION, &environment(&variables)).expect("no errors");
    assert_eq!((found.workers, found.log.calls), (3, false));
    assert_eq!(found.database.to_str(), Some("/srv/meteor/meteor.db"));
    let Auth::Header { name, value } = &found.upstreams[0].auth else { panic!("a header") };
    assert_eq!(
        (name.as_str(), value.as_bytes()),
        ("authorization", &b"Bearer sk-of-the-environment"[..])
    );
    assert_eq!(prices_of(&found.models[0]).price_of(Unit::OutputTokens), Some(Nano(700_000_000)));

    let wrong = environment(&[("METEOR__PROXY__WORKERS", "many"), ("METEOR__PORXY__LISTEN", "x")]);
    let report = read("", &wrong).expect_err("errors").to_string();
    assert!(report.contains("proxy.workers") && report.contains("METEOR__PROXY__WORKERS"));
    assert!(report.contains("porxy: unknown key"), "{report}");
}

#[test]
fn upstreams_and_models_are_read_completely() {
    let found = settings(
        r#"
        [[upstreams]]
        name = "a"
        base_url = "http://10.0.0.1:8000/openai/"
        dialects = ["openai", "gemini"]
        auth = { kind = "header", header = "API-Key", secret = { env = "OPENAI_API_KEY" } }
        headers = { "x-team" = "blue" }
        connect_timeout_ms = 1
        circuit = { failures = 2, percent = 90 }
        [[upstreams]]
        name = "b"
        base_url = "https://b.example"
        auth = { kind = "query", secret = { env = "OPENAI_API_KEY" } }
        [[models]]
        id = "m"
        aliases = ["n", "o"]
        targets = [{ upstream = "a", model = "m-1", priority = 2 }, { upstream = "b" }, { upstream = "a", weight = 3 }]
        max_output_tokens = 10
        prices = { inputTokens = "0.15", outputTokens = 1 }
        [[models]]
        id = "*"
        upstream = "b"
        max_output_tokens = 0
        prices = { inputTokens = "0" }
        "#,
    );
    let [a, b] = &found.upstreams[..] else { panic!("two upstreams") };
    assert_eq!(a.address.path_prefix, "/openai");
    assert_eq!(a.dialects, [Dialect::OpenAi, Dialect::Gemini]);
    assert_eq!(a.connect_timeout, Duration::from_millis(1));
    assert!(matches!(&a.auth, Auth::Header { name, value }
        if name == "api-key" && value == "sk-secret" && value.is_sensitive()));
    assert!(matches!(&b.auth, Auth::Query { name, .. } if name == "key"));
    let [model] = &found.models[..] else { panic!("one model") };
    let targets: Vec<_> =
        model.targets.iter().map(|t| (t.upstream, t.upstream_model.as_deref())).collect();
    assert_eq!(targets, [(0, None), (1, None), (0, Some("m-1"))], "by priority, then by weight");
    let ranks = model.targets.iter().map(|t| (t.rank.priority, t.rank.weight));
    assert_eq!(ranks.collect::<Vec<_>>(), [(0, 3), (0, 1), (2, 1)]);
    assert_eq!(model.aliases.iter().map(|alias| &**alias).collect::<Vec<_>>(), ["n", "o"]);
    let default = CircuitSettings::default();
    let custom = CircuitSettings { failures_in_a_row: 2, window_failures_percent: 90, ..default };
    assert_eq!((a.circuit, b.circuit), (custom, default));
    assert_eq!(prices_of(model).price_of(Unit::InputTokens), Some(Nano(150_000_000)));
    let version = model.targets[0].schedule.effective_at(UnixMs(0)).version();
    assert!(version.starts_with("file-") && version.len() == 13);
    assert_eq!(found.fallback.map(|model| model.targets[0].upstream), Some(1));
    assert!(!format!("{:?}", found.upstreams).contains("sk-secret"));
}

#[test]
fn an_unreadable_file_is_reported() {
    let folder = tempfile::tempdir().expect("a folder");
    let report = load(Some(&folder.path().join("none.toml"))).expect_err("no such file");
    assert!(report.to_string().contains("cannot read file"), "{report}");
    let file = folder.path().join("secret");
    fs::write(&file, "sk-of-a-file\r\n").expect("a file");
    let text = format!(
        "[[upstreams]]\nname = 'a'\nbase_url = 'http://x'\nauth.secret.file = '{}'",
        file.display()
    );
    let Auth::Header { value, .. } = &settings(&text).upstreams[0].auth else { panic!("a header") };
    assert_eq!(value, "Bearer sk-of-a-file");
}
