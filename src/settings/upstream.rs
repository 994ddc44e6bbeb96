//! How a provider's endpoint is reached: address, credential, patience.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http::header::{HeaderName, HeaderValue};

use crate::dialect::endpoint::Dialect;
use crate::settings::secret::Secret;

/// A provider's endpoint, as it was configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamSettings {
    /// Its name in logs, metrics and the API.
    pub name: Arc<str>,
    /// Where it is.
    pub address: BaseUrl,
    /// The wire formats that it speaks; at least one.
    pub dialects: Vec<Dialect>,
    /// How the gateway proves who it is.
    pub auth: Auth,
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
    /// Whether what it keeps belongs to this gateway's callers alone: calls may refer to it.
    pub dedicated: bool,
    /// Whether it generates, and bills, to the end though its answer is not taken any more.
    pub bills_after_disconnect: bool,
    /// Whether callers are told of its own rate limits.
    pub forward_limits: bool,
    /// When it is asked after all others.
    pub circuit: CircuitSettings,
    /// How long it is left alone at most, however long it asks for.
    pub retry_after_max: Duration,
}

/// When the circuit of an upstream opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CircuitSettings {
    /// It opens after so many failures in a row.
    pub failures_in_a_row: u32,
    /// Windows in which tries are counted; one follows the other.
    pub window: Duration,
    /// How many tries a window must have had for their failures to mean anything.
    pub window_tries_min: u32,
    /// It opens when more of them have failed than this part, in percent.
    pub window_failures_percent: u32,
    /// How long it is open at first; after each probe that fails, twice as long as before.
    pub open_min: Duration,
    /// How long it is open at most.
    pub open_max: Duration,
}

impl Default for CircuitSettings {
    fn default() -> Self {
        Self {
            failures_in_a_row: 5,
            window: Duration::from_secs(10),
            window_tries_min: 20,
            window_failures_percent: 50,
            open_min: Duration::from_secs(1),
            open_max: Duration::from_mins(1),
        }
    }
}

/// What a call carries to prove who the gateway is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// Nothing: the endpoint asks for nothing.
    None,
    /// A header; its value is marked as sensitive, so that no log prints it.
    Header {
        /// `authorization`, `x-api-key`, `api-key`, …
        name: HeaderName,
        /// The whole value, `Bearer ` included.
        value: HeaderValue,
    },
    /// A parameter of the query.
    Query {
        /// The parameter.
        name: String,
        /// Its value; letters, digits and `-._~` only, so that it needs no escaping.
        secret: Secret,
    },
}

/// The address that the path of a call is appended to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseUrl {
    /// Whether it is reached by TLS.
    pub tls: bool,
    /// Host name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// What the `host` header says: the port only where it is not the scheme's own.
    pub authority: String,
    /// Empty, or `/…` without a slash at its end.
    pub path_prefix: String,
}

/// Why a text is no base address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MalformedBaseUrl {
    /// No `http://` or `https://`, or nothing behind it.
    NotHttp,
    /// `user:password@`: a secret where it would be logged.
    HasCredentials,
    /// `?…` or `#…`, which cannot come before the path of a call.
    HasQuery,
    /// A path in `/v1` or `/v1beta`, which would stand twice.
    HasVersion,
}

impl MalformedBaseUrl {
    /// What is wrong and what to do, to come after the name of the key.
    pub const fn message(self) -> &'static str {
        match self {
            Self::NotHttp => {
                "is no address; write it as https://api.openai.com or http://127.0.0.1:8000"
            }
            Self::HasCredentials => {
                "holds a user or a password; a credential has a place of its own, `auth`"
            }
            Self::HasQuery => "has a query or a fragment; leave it out",
            Self::HasVersion => {
                "ends in the version; leave that out: it comes with the path of each call"
            }
        }
    }
}

impl BaseUrl {
    /// Reads an address such as `https://api.openai.com` or `http://localhost:11434/proxy`.
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
        let named = authority.as_str().rsplit_once(':').filter(|(_, port)| !port.contains(']'));
        if authority.host().is_empty() || (named.is_some() && authority.port_u16().is_none()) {
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
    fn an_address_reads_what_it_writes() {
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
    fn what_a_call_could_not_be_sent_to_is_refused() {
        use MalformedBaseUrl::{HasCredentials, HasQuery, HasVersion, NotHttp};
        for (text, fault) in [
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
            assert_eq!(BaseUrl::parse(text), Err(fault), "{text}");
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
