//! An upstream: a provider's endpoint, ready to be called.

use std::sync::Arc;

use http::Uri;
use http::header::{HOST, HeaderMap, HeaderValue};
use http::uri::PathAndQuery;
use metrics::{Counter, Gauge, counter, gauge};

use crate::dialect::endpoint::Dialect;
use crate::settings::upstream::{Auth, UpstreamSettings};
use crate::telemetry::metric;

/// A provider's endpoint. Built when the catalog is, so that a call builds nothing.
#[derive(Debug)]
pub struct Upstream {
    /// How it is reached.
    pub settings: UpstreamSettings,
    /// What the `host` header says.
    pub host_header: HeaderValue,
    /// How its tries come out.
    pub tries: Tries,
}

/// Counts how the tries of an upstream come out.
#[derive(Debug)]
pub struct Tries {
    answered: Counter,
    credential: Counter,
    unreachable: Counter,
    timed_out: Counter,
    up: Gauge,
}

/// How a try came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Try {
    /// With an answer.
    Answered,
    /// With a refusal of the gateway's own credential.
    Credential,
    /// Without a connection, or with a broken one.
    Unreachable,
    /// Not in time.
    TimedOut,
}

impl Tries {
    /// Counters for the upstream of that name.
    pub fn new(upstream: &str) -> Self {
        let counter = |result: &'static str| counter!(metric::UPSTREAM_TRIES, "upstream" => upstream.to_owned(), "result" => result);
        Self {
            answered: counter("answered"),
            credential: counter("credential"),
            unreachable: counter("unreachable"),
            timed_out: counter("timed_out"),
            up: gauge!(metric::UPSTREAM_UP, "upstream" => upstream.to_owned()),
        }
    }

    /// Counts a try.
    pub fn count(&self, result: Try) {
        let counter = match result {
            Try::Answered => &self.answered,
            Try::Credential => &self.credential,
            Try::Unreachable => &self.unreachable,
            Try::TimedOut => &self.timed_out,
        };
        counter.increment(1);
        self.up.set(if result == Try::Answered { 1.0 } else { 0.0 });
    }
}

impl Upstream {
    /// An upstream that is reached so.
    pub fn new(settings: UpstreamSettings) -> Self {
        let host_header = HeaderValue::try_from(&settings.address.authority)
            .unwrap_or(HeaderValue::from_static(""));
        Self { host_header, tries: Tries::new(&settings.name), settings }
    }

    /// Its name in logs, metrics and the API.
    pub const fn name(&self) -> &Arc<str> {
        &self.settings.name
    }

    /// Whether calls of that dialect can be forwarded to it.
    pub fn speaks(&self, dialect: Dialect) -> bool {
        self.settings.dialects.contains(&dialect)
    }

    /// The target of a call that came for `asked`. The caller's `?key=` is left out, the
    /// gateway's own credential is added where it belongs there.
    pub fn uri(&self, asked: &Uri) -> Result<Uri, http::uri::InvalidUri> {
        let prefix = &self.settings.address.path_prefix;
        let own = match &self.settings.auth {
            Auth::Query { name, secret } => Some(format!("{name}={}", secret.expose())),
            Auth::None | Auth::Header { .. } => None,
        };
        let is_origin_form = asked.query().is_none() && asked.authority().is_none();
        if prefix.is_empty() && own.is_none() && is_origin_form {
            return Ok(asked.clone());
        }
        let path_and_query = asked.path_and_query().map_or("/", PathAndQuery::as_str);
        let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        let kept = query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("key="));
        let query = kept.chain(own.as_deref()).collect::<Vec<_>>().join("&");
        let mark = if query.is_empty() { "" } else { "?" };
        Uri::try_from(format!("{prefix}{path}{mark}{query}"))
    }

    /// Puts the gateway's own headers into a request, the credential among them.
    pub fn sign(&self, fields: &mut HeaderMap) {
        fields.insert(HOST, self.host_header.clone());
        for (name, value) in &self.settings.headers {
            fields.insert(name.clone(), value.clone());
        }
        if let Auth::Header { name, value } = &self.settings.auth {
            fields.insert(name.clone(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::settings::secret::Secret;
    use crate::settings::upstream::BaseUrl;

    fn target(base: &str, auth: Auth, asked: &str) -> String {
        let settings = UpstreamSettings {
            name: "a".into(),
            address: BaseUrl::parse(base).expect(base),
            dialects: vec![Dialect::OpenAi],
            auth,
            headers: Vec::new(),
            connect_timeout: Duration::ZERO,
            first_byte_timeout: Duration::ZERO,
            idle_timeout: Duration::ZERO,
            idle_connections_max: 0,
        };
        let asked = asked.parse().expect("a target");
        Upstream::new(settings).uri(&asked).expect("a target").to_string()
    }

    #[test]
    fn the_callers_key_stays_and_the_gateways_goes() {
        let own = || Auth::Query { name: "key".to_owned(), secret: Secret::new("own".to_owned()) };
        assert_eq!(target("http://h", Auth::None, "/v1/x"), "/v1/x");
        assert_eq!(target("http://h/p", Auth::None, "/v1/x?a=1&key=k"), "/p/v1/x?a=1");
        assert_eq!(target("http://h", own(), "/v1/x?key=k"), "/v1/x?key=own");
    }
}
