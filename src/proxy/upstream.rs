//! An upstream: a provider's endpoint, ready to be called.

use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http::header::{HeaderName, HeaderValue};

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
}

impl Upstream {
    /// The target of a call that came with this path and query; `?key=` is left out.
    pub fn uri(&self, path_and_query: &str) -> Result<Uri, http::uri::InvalidUri> {
        let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        let kept = query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("key="));
        let query = kept.collect::<Vec<_>>().join("&");
        let mark = if query.is_empty() { "" } else { "?" };
        Uri::try_from(format!("{}{path}{mark}{query}", self.path_prefix))
    }
}
