//! An upstream: a provider's endpoint, ready to be called.

use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http::header::{HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use metrics::{Counter, Gauge, counter, gauge};

use crate::telemetry::metric;

/// A provider's endpoint. Built when the catalog is, so that a call builds nothing.
#[derive(Debug)]
pub struct Upstream {
    /// Its name in logs, metrics and the API.
    pub name: Arc<str>,
    /// Whether it is reached by TLS.
    pub tls: bool,
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// What the `host` header says.
    pub host_header: HeaderValue,
    /// What comes before the path of every call; empty or `/…` without a slash at its end.
    pub path_prefix: String,
    /// The credential: header and value (marked as sensitive).
    pub credential: Option<(HeaderName, HeaderValue)>,
    /// Headers that every call carries besides.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// How long connecting may take, TLS included.
    pub connect_timeout: Duration,
    /// How long it may take from the request to the head of the answer.
    pub first_byte_timeout: Duration,
    /// How long an answer may be silent.
    pub idle_timeout: Duration,
    /// How many idle connections each worker keeps.
    pub idle_connections_max: usize,
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
    /// The target of a call that came with this path and query; `?key=` is left out.
    pub fn uri(&self, asked: &Uri) -> Result<Uri, http::uri::InvalidUri> {
        if self.path_prefix.is_empty() && asked.query().is_none() && asked.authority().is_none() {
            return Ok(asked.clone());
        }
        let path_and_query = asked.path_and_query().map_or("/", PathAndQuery::as_str);
        let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        let kept = query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("key="));
        let query = kept.collect::<Vec<_>>().join("&");
        let mark = if query.is_empty() { "" } else { "?" };
        Uri::try_from(format!("{}{path}{mark}{query}", self.path_prefix))
    }
}
