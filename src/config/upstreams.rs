//! `[[upstreams]]`: where calls go, and what they carry there.

use http::header::{self, HeaderName, HeaderValue};
use toml::Value;

use crate::config::pricing::PricingConfig;
use crate::config::section::{Section, parse_choice};
use crate::dialect::endpoint::Dialect;
use crate::settings::secret::Secret;
use crate::settings::upstream::{Auth, BaseUrl, CircuitSettings, UpstreamSettings};

/// The upstreams of a file. The names stand at the places of all rows, those with faults included,
/// so that a model that names such a row is not at fault too.
#[derive(Debug, Default)]
pub struct Upstreams {
    /// The name of each row; empty where it has none.
    pub names: Vec<String>,
    /// Whose models each row serves, as the price list calls them.
    pub providers: Vec<Option<String>>,
    /// The rows without faults.
    pub settings: Vec<UpstreamSettings>,
}

/// Reads all rows.
pub fn read_upstreams(root: &mut Section<'_>, pricing: &PricingConfig<'_>) -> Upstreams {
    let mut found = Upstreams::default();
    for mut row in root.rows("upstreams") {
        let name = row.required_text("name").unwrap_or_default();
        if !name.is_empty() && found.names.contains(&name) {
            row.error("name", format!("\"{name}\" is taken by another upstream; rename one"));
        }
        found.settings.extend(read_upstream(&mut row, &name));
        found.names.push(name);
        found.providers.push(row.parsed("provider", |name| pricing.check_provider(name)));
        row.finish();
    }
    found
}

fn read_upstream(row: &mut Section<'_>, name: &str) -> Option<UpstreamSettings> {
    // Each is read before the first `?`, so that one fault does not hide the next.
    let address = row.required_text("base_url").and_then(|text| {
        BaseUrl::parse(&text).map_err(|fault| row.error("base_url", fault.message())).ok()
    });
    let dialects = dialects(row);
    let auth = auth(row);
    let headers = headers(row);
    let connect_timeout = row.duration_ms("connect_timeout_ms", 5_000, 1);
    let first_byte_timeout = row.duration_ms("first_byte_timeout_ms", 600_000, 1);
    let idle_timeout = row.duration_ms("idle_timeout_ms", 300_000, 1);
    let idle_connections_max = row.size("connections_idle_max", 256, 0..=65_536);
    let dedicated = row.flag("dedicated", false);
    let bills_on = row.flag("bills_on", false);
    let forward_limits = row.flag("forward_limits", false);
    let retry_after_max = row.duration_ms("retry_after_max_ms", 60_000, 0);
    let circuit = circuit(row);
    Some(UpstreamSettings {
        name: name.into(),
        address: address?,
        dialects: dialects?,
        auth: auth?,
        headers: headers?,
        connect_timeout,
        first_byte_timeout,
        idle_timeout,
        idle_connections_max,
        dedicated,
        bills_after_disconnect: bills_on,
        forward_limits,
        circuit,
        retry_after_max,
    })
}

fn circuit(row: &mut Section<'_>) -> CircuitSettings {
    let usual = CircuitSettings::default();
    let mut part = row.section("circuit");
    let count = |part: &mut Section<'_>, key, most, usual| {
        part.integer(key, 1..=most).and_then(|count| u32::try_from(count).ok()).unwrap_or(usual)
    };
    let circuit = CircuitSettings {
        failures_in_a_row: count(&mut part, "failures", 1_000_000, usual.failures_in_a_row),
        window: part.duration_ms("window_ms", 10_000, 1),
        window_tries_min: count(&mut part, "tries_min", 60_000, usual.window_tries_min),
        window_failures_percent: count(&mut part, "percent", 100, usual.window_failures_percent),
        open_min: part.duration_ms("open_ms", 1_000, 1),
        open_max: part.duration_ms("open_max_ms", 60_000, 1),
    };
    part.finish();
    circuit
}

const DIALECTS: [(&str, Dialect); 3] = [
    (Dialect::OpenAi.name(), Dialect::OpenAi),
    (Dialect::Anthropic.name(), Dialect::Anthropic),
    (Dialect::Gemini.name(), Dialect::Gemini),
];

fn dialects(row: &mut Section<'_>) -> Option<Vec<Dialect>> {
    let Some(names) = row.texts("dialects") else { return Some(vec![Dialect::OpenAi]) };
    if names.is_empty() {
        row.error("dialects", "is empty; name what the upstream speaks, or leave the key out");
    }
    let known = |name: &String| {
        parse_choice(name, &DIALECTS).map_err(|message| row.error("dialects", message)).ok()
    };
    let dialects: Vec<_> = names.iter().map(known).collect();
    dialects.into_iter().collect()
}

#[derive(Clone, Copy)]
enum Kind {
    Bearer,
    Header,
    Query,
    None,
}

const KINDS: &[(&str, Kind)] = &[
    ("bearer", Kind::Bearer),
    ("header", Kind::Header),
    ("query", Kind::Query),
    ("none", Kind::None),
];

/// Without `auth` a call carries no credential; with it, one by `bearer` unless `kind` differs.
fn auth(row: &mut Section<'_>) -> Option<Auth> {
    let absent = !row.has("auth");
    let mut part = row.section("auth");
    if absent {
        part.finish();
        return Some(Auth::None);
    }
    let kind = if part.has("kind") { part.choice("kind", KINDS)? } else { Kind::Bearer };
    let auth = match kind {
        Kind::None => Some(Auth::None),
        Kind::Bearer => auth_header(&mut part, header::AUTHORIZATION, "Bearer "),
        Kind::Header => {
            let name = part.required_text("header").and_then(|text| {
                let name = HeaderName::try_from(text.as_str());
                name.map_err(|_| part.error("header", "is no name of a header; correct it")).ok()
            });
            // With a stand-in, so that a wrong name does not hide a wrong secret.
            let auth = auth_header(&mut part, name.clone().unwrap_or(header::AUTHORIZATION), "");
            name.and(auth)
        }
        Kind::Query => auth_query(&mut part),
    };
    part.finish();
    auth
}

fn auth_header(part: &mut Section<'_>, name: HeaderName, before: &str) -> Option<Auth> {
    let secret = required_secret(part)?;
    let Ok(mut value) = HeaderValue::try_from(format!("{before}{}", secret.expose())) else {
        part.error("secret", "holds what no header can carry, such as a line end; correct it");
        return None;
    };
    value.set_sensitive(true);
    Some(Auth::Header { name, value })
}

fn auth_query(part: &mut Section<'_>) -> Option<Auth> {
    let name = part.text("parameter").unwrap_or_else(|| "key".to_owned());
    let secret = required_secret(part)?;
    let plain = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
    };
    if !plain(&name) {
        part.error("parameter", "holds more than letters, digits and -._~; correct it");
    }
    if !plain(secret.expose()) {
        part.error("secret", "holds more than letters, digits and -._~; send it as a header");
    }
    Some(Auth::Query { name, secret })
}

fn required_secret(part: &mut Section<'_>) -> Option<Secret> {
    if !part.has("secret") {
        part.error("secret", "is missing; write { env = \"NAME\" } or { file = \"…\" }");
    }
    part.secret("secret")
}

/// Names that belong to `auth`, or that the gateway writes itself.
const NOT_SETTABLE: &[&str] = &[
    "authorization",
    "x-api-key",
    "x-goog-api-key",
    "api-key",
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "accept-encoding",
];

fn headers(row: &mut Section<'_>) -> Option<Vec<(HeaderName, HeaderValue)>> {
    let Some(table) = row.open_table("headers") else { return Some(Vec::new()) };
    let header = |(name, value): (String, Value)| {
        let key = format!("headers.{name}");
        let Ok(parsed) = HeaderName::try_from(name.as_str()) else {
            row.error(&key, "is no name of a header; correct it");
            return None;
        };
        if NOT_SETTABLE.contains(&parsed.as_str()) {
            row.error(&key, "is written by the gateway; use auth for a credential, else leave out");
            return None;
        }
        let value = value.as_str().and_then(|text| HeaderValue::try_from(text).ok());
        if value.is_none() {
            row.error(&key, "is not a text that a header can carry; correct it");
        }
        Some((parsed, value?))
    };
    table.into_iter().map(header).collect::<Vec<_>>().into_iter().collect()
}
