//! An upstream: a provider's endpoint, ready to be called.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::Uri;
use http::header::{HOST, HeaderMap, HeaderValue};
use http::uri::InvalidUri;

use crate::accounting::directory::KEY_PREFIX;
use crate::clock;
use crate::dialect::endpoint::{self, Dialect};
use crate::proxy::breaker::{Breaker, Leave};
use crate::proxy::query;
use crate::proxy::rest::Rests;
use crate::proxy::tries::{Tries, Try};
use crate::settings::upstream::{Auth, UpstreamSettings};

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
    /// Whether it is asked before others.
    pub breaker: Breaker,
    /// For which models it asked not to be called, and until when.
    pub rests: Rests,
}

impl Upstream {
    /// An upstream that is reached so.
    pub fn new(settings: UpstreamSettings) -> Self {
        let host_header = HeaderValue::try_from(&settings.address.authority)
            .unwrap_or(HeaderValue::from_static(""));
        let lane = NEXT_LANE.fetch_add(1, Ordering::Relaxed);
        Self {
            lane,
            host_header,
            tries: Tries::new(&settings.name),
            breaker: Breaker::new(&settings.name, settings.circuit),
            rests: Rests::default(),
            settings,
        }
    }

    /// Its name in logs, metrics and the API.
    pub const fn name(&self) -> &Arc<str> {
        &self.settings.name
    }

    /// Leave to ask it for `model` now.
    ///
    /// # Errors
    /// When it is to be asked again.
    pub fn ask(&self, model: &str, now: Instant) -> Result<Leave, Instant> {
        self.rests.until(model, now).map_or_else(|| self.breaker.ask(now), Err)
    }

    /// Notes how a try came out.
    pub fn came_out(&self, leave: Leave, result: Try) {
        self.tries.count(result);
        let now = clock::tick();
        match result {
            Try::Answered | Try::RateLimited => self.breaker.succeeded(leave, now),
            Try::Failed | Try::Unreachable | Try::TimedOut => self.breaker.failed(leave, now),
            Try::Credential => self.breaker.refused(leave, now),
        }
    }

    /// Notes that an answer of which a part was passed on broke off.
    pub fn broke_off(&self) {
        self.tries.cut.increment(1);
        self.breaker.broke_off(clock::tick());
    }

    /// Does as it asked: does not call it for `model` for a time, which settings bound.
    pub fn rest(&self, model: &str, time: Duration) {
        let time = time.min(self.settings.retry_after_max);
        self.rests.begin(model, clock::tick(), time);
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
    use super::*;
    use crate::settings::secret::Secret;
    use crate::settings::upstream::{BaseUrl, CircuitSettings};

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
            circuit: CircuitSettings::default(),
            retry_after_max: Duration::ZERO,
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
