//! Settings of an upstream: address, credential, timeouts and circuit breaker.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http::header::{HeaderName, HeaderValue};

use crate::dialect::endpoint::Dialect;
use crate::settings::secret::Secret;

/// Settings of a provider's endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamSettings {
    /// The name in logs, metrics and the API.
    pub name: Arc<str>,
    pub address: BaseUrl,
    /// The supported API formats; at least one.
    pub dialects: Vec<Dialect>,
    /// How the gateway authenticates to the upstream.
    pub auth: Auth,
    /// Additional headers of every request.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Timeout for connecting, TLS handshake included.
    pub connect_timeout: Duration,
    /// Timeout from sending the request to receiving the response head.
    pub first_byte_timeout: Duration,
    /// Timeout between two reads of a response body.
    pub idle_timeout: Duration,
    /// The maximum number of idle connections per worker.
    pub idle_connections_max: usize,
    /// Whether the upstream account is used by this gateway only, so that calls may reference
    /// objects stored there.
    pub dedicated: bool,
    /// Whether the provider generates and bills the whole response after a disconnect.
    pub bills_after_disconnect: bool,
    /// Whether the upstream's rate-limit headers are forwarded to callers.
    pub forward_limits: bool,
    pub circuit: CircuitSettings,
    /// The maximum cooldown, whatever `Retry-After` requests.
    pub retry_after_max: Duration,
}

/// Settings of an upstream's circuit breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CircuitSettings {
    /// The circuit opens after this many consecutive failures.
    pub failures_in_a_row: u32,
    /// The length of the consecutive windows in which attempts are counted.
    pub window: Duration,
    /// The minimum number of attempts in a window before its failure rate is evaluated.
    pub window_attempts_min: u32,
    /// The circuit opens if more than this percentage of the attempts in a window failed.
    pub window_failures_percent: u32,
    /// How long the circuit is open at first. Doubles after each failed probe.
    pub open_min: Duration,
    /// The maximum time that the circuit is open.
    pub open_max: Duration,
}

impl Default for CircuitSettings {
    fn default() -> Self {
        Self {
            failures_in_a_row: 5,
            window: Duration::from_secs(10),
            window_attempts_min: 20,
            window_failures_percent: 50,
            open_min: Duration::from_secs(1),
            open_max: Duration::from_mins(1),
        }
    }
}

/// The credential of the gateway at an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    None,
    /// A header. Its value is marked as sensitive, so that logs do not print it.
    Header {
        /// `authorization`, `x-api-key`, `api-key`, …
        name: HeaderName,
        /// The whole value, `Bearer ` included.
        value: HeaderValue,
    },
    Query {
        name: String,
        /// Contains letters, digits and `-._~` only, so that no escaping is needed.
        secret: Secret,
    },
}

/// The base URL to which the path of a call is appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl {
    pub tls: bool,
    /// Host name or IP address, without brackets.
    pub host: String,
    pub port: u16,
    /// The value of the `host` header, with the port only if it is not the scheme's default.
    pub authority: String,
    /// Empty, or `/…` without a trailing slash.
    pub path_prefix: String,
}

/// Why a text is not a base URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MalformedBaseUrl {
    /// No `http://` or `https://` URL with a host.
    NotHttp,
    /// Contains `user:password@`, which would be logged.
    HasCredentials,
    /// Contains `?…` or `#…`, which cannot precede the path of a call.
    HasQuery,
    /// The path ends in `/v1` or `/v1beta`, which the path of each call contains already.
    HasVersion,
}

impl MalformedBaseUrl {
    /// Returns the error message, to be printed after the configuration key.
    pub const fn message(self) -> &'static str {
        match self {
            Self::NotHttp => {
                "expected a URL such as https://api.openai.com or http://127.0.0.1:8000"
            }
            Self::HasCredentials => {
                "must not contain a user or password; configure credentials under `auth`"
            }
            Self::HasQuery => "must not contain a query or fragment",
            Self::HasVersion => "must not end in an API version; the path of each call contains it",
        }
    }
}

impl BaseUrl {
    /// Parses a URL such as `https://api.openai.com` or `http://localhost:11434/proxy`.
    pub fn parse(text: &str) -> Result<Self, MalformedBaseUrl> {
        if text.contains(['?', '#']) {
            return Err(MalformedBaseUrl::HasQuery);
        }
        let uri: Uri = text.parse().map_err(|_| MalformedBaseUrl::NotHttp)?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(MalformedBaseUrl::NotHttp),
        };
        let authority = uri.authority().ok_or(MalformedBaseUrl::NotHttp)?;
        if authority.as_str().contains('@') {
            return Err(MalformedBaseUrl::HasCredentials);
        }
        let explicit_port =
            authority.as_str().rsplit_once(':').filter(|(_, port)| !port.contains(']'));
        if authority.host().is_empty()
            || (explicit_port.is_some() && authority.port_u16().is_none())
        {
            return Err(MalformedBaseUrl::NotHttp);
        }
        let default = if tls { 443 } else { 80 };
        let port = authority.port_u16().unwrap_or(default);
        let host = authority.host();
        let path_prefix = uri.path().trim_end_matches('/').to_owned();
        if path_prefix.ends_with("/v1") || path_prefix.ends_with("/v1beta") {
            return Err(MalformedBaseUrl::HasVersion);
        }
        let authority = if port == default { host.to_owned() } else { format!("{host}:{port}") };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { tls, host, port, authority, path_prefix })
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.path_prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_parses_its_display_text() {
        for (text, tls, host, port, prefix) in [
            ("https://api.openai.com", true, "api.openai.com", 443, ""),
            ("http://127.0.0.1:11434", false, "127.0.0.1", 11434, ""),
            ("http://[::1]:8000/a/b", false, "::1", 8000, "/a/b"),
            ("https://x.example:8443/openai", true, "x.example", 8443, "/openai"),
        ] {
            let url = BaseUrl::parse(text).expect(text);
            assert_eq!((url.tls, url.host.as_str(), url.port), (tls, host, port), "{text}");
            assert_eq!(url.path_prefix, prefix);
            assert_eq!(url.to_string(), text);
        }
        let slash = BaseUrl::parse("https://api.openai.com:443/").expect("a slash is no path");
        assert_eq!(slash.to_string(), "https://api.openai.com");
        assert_eq!(slash.authority, "api.openai.com");
    }

    #[test]
    fn unusable_base_urls_are_rejected() {
        use MalformedBaseUrl::{HasCredentials, HasQuery, HasVersion, NotHttp};
        for (text, error) in [
            ("", NotHttp),
            ("api.openai.com", NotHttp),
            ("ftp://x", NotHttp),
            ("https://", NotHttp),
            ("https://x:99999", NotHttp),
            ("https://x:", NotHttp),
            ("https://a b", NotHttp),
            ("https://me:secret@x", HasCredentials),
            ("https://x/?a=1", HasQuery),
            ("https://x#a", HasQuery),
            ("https://api.openai.com/v1/", HasVersion),
            ("https://x/v1beta", HasVersion),
        ] {
            assert_eq!(BaseUrl::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_credential_is_never_printed() {
        let mut value = HeaderValue::from_static("Bearer sk-secret");
        value.set_sensitive(true);
        let header = Auth::Header { name: http::header::AUTHORIZATION, value };
        let query = Auth::Query { name: "key".into(), secret: Secret::new("sk-secret".into()) };
        let printed = format!("{header:?} {query:?}");
        assert!(!printed.contains("sk-secret"), "{printed}");
    }
}
