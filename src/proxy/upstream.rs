//! An upstream: a provider's endpoint, ready to be called.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::Uri;
use http::header::{HOST, HeaderMap, HeaderValue};
use http::uri::InvalidUri;
use metrics::{Counter, Gauge, counter, gauge};

use crate::accounting::directory::KEY_PREFIX;
use crate::dialect::endpoint::{self, Dialect};
use crate::proxy::query;
use crate::settings::upstream::{Auth, UpstreamSettings};
use crate::telemetry::metric;

static NEXT_LANE: AtomicUsize = AtomicUsize::new(0);

/// A provider's endpoint. Built when the catalog is, so that a call builds nothing.
#[derive(Debug)]
pub struct Upstream {
    /// How it is reached.
    pub settings: UpstreamSettings,
    /// Its lane in a worker's pool: that of no other upstream, nor of an earlier form of it.
    pub lane: usize,
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
        let lane = NEXT_LANE.fetch_add(1, Ordering::Relaxed);
        Self { lane, host_header, tries: Tries::new(&settings.name), settings }
    }

    /// Its name in logs, metrics and the API.
    pub const fn name(&self) -> &Arc<str> {
        &self.settings.name
    }

    /// Whether calls of that dialect can be forwarded to it.
    pub fn speaks(&self, dialect: Dialect) -> bool {
        self.settings.dialects.contains(&dialect)
    }

    /// The secret, if it stands in the target of every call: then an answer may echo it.
    pub fn secret_in_target(&self) -> Option<&str> {
        match &self.settings.auth {
            Auth::Query { secret, .. } => Some(secret.expose()),
            Auth::None | Auth::Header { .. } => None,
        }
    }

    /// The target of a call that came for `asked`; `model` is the name to put into its path, where
    /// the path names one and it is called otherwise here. The caller's `?key=` is left out, and of a
    /// Gemini call what would hide its usage; the gateway's own credential is added where it
    /// belongs there.
    pub fn uri(&self, asked: &Uri, model: Option<&str>) -> Result<Uri, InvalidUri> {
        let prefix = &self.settings.address.path_prefix;
        let own = match &self.settings.auth {
            Auth::Query { name, secret } => Some((name, format!("{name}={}", secret.expose()))),
            Auth::None | Auth::Header { .. } => None,
        };
        let is_origin_form = asked.query().is_none() && asked.authority().is_none();
        let is_same = prefix.is_empty() && own.is_none() && model.is_none();
        if is_same && is_origin_form {
            return Ok(asked.clone());
        }
        let renamed = model.and_then(|model| {
            let (before, _, after) = endpoint::around_model(asked.path())?;
            Some(format!("{before}{}{after}", query::escaped(model)))
        });
        let path = renamed.as_deref().unwrap_or(asked.path());
        // Of those that are forwarded, only Gemini's paths name a model.
        let is_gemini = endpoint::around_model(asked.path()).is_some();
        let is_ours = |part: &&str| {
            let named = |name: &str| query::value_of(part, name).is_some();
            named(query::KEY)
                || part.contains(KEY_PREFIX)
                || own.as_ref().is_some_and(|(name, _)| named(name))
                || (is_gemini && query::stays_down(part))
        };
        let kept = query::parts(asked.query().unwrap_or_default()).filter(|part| !is_ours(part));
        let credential = own.as_ref().map(|(_, credential)| credential.as_str());
        let query = kept.chain(credential).collect::<Vec<_>>().join("&");
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

    fn target(base: &str, auth: Auth, asked: &str, model: Option<&str>) -> String {
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
            dedicated: false,
            bills_on: false,
            forward_limits: false,
        };
        let asked = asked.parse().expect("a target");
        Upstream::new(settings).uri(&asked, model).expect("a target").to_string()
    }

    #[test]
    fn the_callers_key_stays_and_the_gateways_goes() {
        let own = || Auth::Query { name: "code".to_owned(), secret: Secret::new("own".to_owned()) };
        for (base, auth, asked, sent) in [
            ("http://h", Auth::None, "/v1/x", "/v1/x"),
            ("http://h", Auth::None, "/v1/x?k%65y=k", "/v1/x"),
            ("http://h", Auth::None, "/v1/x?api-key=sk-mtr-0&a=1", "/v1/x?a=1"),
            ("http://h/p", Auth::None, "/v1/x?a=1&key=k&$alt=2", "/p/v1/x?a=1&$alt=2"),
            ("http://h", own(), "/v1/x?key=k&code=theirs&b", "/v1/x?b&code=own"),
        ] {
            assert_eq!(target(base, auth, asked, None), sent);
        }
    }

    #[test]
    fn a_model_that_the_path_names_is_called_there_as_it_is_called_there() {
        for (asked, sent) in [
            ("/v1/models/a:countTokens", "/p/v1/models/b%2Fc:countTokens"),
            ("/v1beta/models/a%2F:b:x?alt=sse&key=k", "/p/v1beta/models/b%2Fc:x?alt=sse"),
            ("/v1/messages?beta=true", "/p/v1/messages?beta=true"),
        ] {
            assert_eq!(target("http://h/p", Auth::None, asked, Some("b/c")), sent);
        }
    }
}
