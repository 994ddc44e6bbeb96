//! Reads `[[upstreams]]`: address, credential, headers and timeouts.

use http::header::{self, HeaderName, HeaderValue};
use toml::Value;

use crate::config::pricing::PricingConfig;
use crate::config::section::{Section, parse_choice};
use crate::dialect::endpoint::Dialect;
use crate::settings::secret::Secret;
use crate::settings::upstream::{Auth, BaseUrl, CircuitSettings, UpstreamSettings};

/// The configured upstreams. Names and providers include the rows with errors, so that a model that
/// references such a row is not reported too.
#[derive(Debug, Default)]
pub struct Upstreams {
    /// The name of each row; empty if missing.
    pub names: Vec<String>,
    /// The provider of each row, by its name in the price list.
    pub providers: Vec<Option<String>>,
    /// The rows without errors.
    pub settings: Vec<UpstreamSettings>,
}

/// Reads all rows of `[[upstreams]]`.
pub fn read_upstreams(root: &mut Section<'_>, pricing: &PricingConfig<'_>) -> Upstreams {
    let mut found = Upstreams::default();
    for mut row in root.rows("upstreams") {
        let name = row.required_text("name").unwrap_or_default();
        if !name.is_empty() && found.names.contains(&name) {
            row.error("name", format!("duplicate upstream name \"{name}\""));
        }
        found.settings.extend(read_upstream(&mut row, &name));
        found.names.push(name);
        found.providers.push(row.parsed("provider", |name| pricing.check_provider(name)));
        row.finish();
    }
    found
}

fn read_upstream(row: &mut Section<'_>, name: &str) -> Option<UpstreamSettings> {
    // All keys are read before the first `?`, so that one error does not hide the next.
    let address = row.required_text("base_url").and_then(|text| {
        BaseUrl::parse(&text).map_err(|error| row.error("base_url", error.message())).ok()
    });
    let dialects = dialects(row);
    let auth = auth(row);
    let headers = headers(row);
    let connect_timeout = row.duration_ms("connect_timeout_ms", 5_000, 1);
    let first_byte_timeout = row.duration_ms("first_byte_timeout_ms", 600_000, 1);
    let idle_timeout = row.duration_ms("idle_timeout_ms", 300_000, 1);
    let idle_connections_max = row.size("connections_idle_max", 256, 0..=65_536);
    let dedicated = row.flag("dedicated", false);
    let bills_after_disconnect = row.flag("bills_after_disconnect", false);
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
        bills_after_disconnect,
        forward_limits,
        circuit,
        retry_after_max,
    })
}

fn circuit(row: &mut Section<'_>) -> CircuitSettings {
    let default = CircuitSettings::default();
    let mut part = row.section("circuit");
    let count = |part: &mut Section<'_>, key, max, default| {
        part.integer(key, 1..=max).and_then(|count| u32::try_from(count).ok()).unwrap_or(default)
    };
    let circuit = CircuitSettings {
        failures_in_a_row: count(&mut part, "failures", 1_000_000, default.failures_in_a_row),
        window: part.duration_ms("window_ms", 10_000, 1),
        window_attempts_min: count(&mut part, "attempts_min", 60_000, default.window_attempts_min),
        window_failures_percent: count(&mut part, "percent", 100, default.window_failures_percent),
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
        row.error("dialects", "must not be empty; list the supported dialects or remove the key");
    }
    let parse = |name: &String| {
        parse_choice(name, &DIALECTS).map_err(|message| row.error("dialects", message)).ok()
    };
    let dialects: Vec<_> = names.iter().map(parse).collect();
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

/// Reads `auth`. Without it, requests carry no credential; `kind` defaults to `bearer`.
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
                name.map_err(|_| part.error("header", "invalid header name")).ok()
            });
            // A placeholder name, so that an invalid name does not hide an invalid secret.
            let auth = auth_header(&mut part, name.clone().unwrap_or(header::AUTHORIZATION), "");
            name.and(auth)
        }
        Kind::Query => auth_query(&mut part),
    };
    part.finish();
    auth
}

fn auth_header(part: &mut Section<'_>, name: HeaderName, prefix: &str) -> Option<Auth> {
    let secret = required_secret(part)?;
    let Ok(mut value) = HeaderValue::try_from(format!("{prefix}{}", secret.expose())) else {
        part.error(
            "secret",
            "contains a character that is not allowed in a header, such as a line end",
        );
        return None;
    };
    value.set_sensitive(true);
    Some(Auth::Header { name, value })
}

fn auth_query(part: &mut Section<'_>) -> Option<Auth> {
    let name = part.text("parameter").unwrap_or_else(|| "key".to_owned());
    let secret = required_secret(part)?;
    let is_plain = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
    };
    if !is_plain(&name) {
        part.error("parameter", "may contain only letters, digits and -._~");
    }
    if !is_plain(secret.expose()) {
        part.error("secret", "may contain only letters, digits and -._~; else use a header");
    }
    Some(Auth::Query { name, secret })
}

fn required_secret(part: &mut Section<'_>) -> Option<Secret> {
    if !part.has("secret") {
        part.error("secret", "missing; expected { env = \"NAME\" } or { file = \"PATH\" }");
    }
    part.secret("secret")
}

/// Headers that `auth` or the gateway itself sets.
const RESERVED_HEADERS: &[&str] = &[
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
            row.error(&key, "invalid header name");
            return None;
        };
        if RESERVED_HEADERS.contains(&parsed.as_str()) {
            row.error(&key, "set by the gateway; use `auth` for credentials");
            return None;
        }
        let value = value.as_str().and_then(|text| HeaderValue::try_from(text).ok());
        if value.is_none() {
            row.error(&key, "expected a string that is a valid header value");
        }
        Some((parsed, value?))
    };
    table.into_iter().map(header).collect::<Vec<_>>().into_iter().collect()
}
