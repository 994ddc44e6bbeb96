//! An upstream: a provider's endpoint with its settings, breaker, cooldowns and metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::Uri;
use http::header::{HOST, HeaderMap, HeaderValue};
use http::uri::InvalidUri;

use crate::accounting::key_directory::KEY_PREFIX;
use crate::clock;
use crate::dialect::endpoint::Dialect;
use crate::dialect::paths::split_model_path;
use crate::proxy::query_string;
use crate::proxy::upstreams::attempt_metrics::{AttemptMetrics, AttemptResult};
use crate::proxy::upstreams::breaker::{Breaker, BreakerPass};
use crate::proxy::upstreams::cooldown::Cooldowns;
use crate::settings::upstream::{Auth, UpstreamSettings};

static NEXT_POOL_SLOT: AtomicUsize = AtomicUsize::new(0);

/// Built with the catalog, so that a call builds nothing.
#[derive(Debug)]
pub struct Upstream {
    pub settings: UpstreamSettings,
    /// Index of the connection pool slot. Unique per upstream and per version of its settings.
    pub pool_slot: usize,
    pub host_header: HeaderValue,
    pub attempts: AttemptMetrics,
    pub breaker: Breaker,
    pub cooldowns: Cooldowns,
}

impl Upstream {
    pub fn new(settings: UpstreamSettings) -> Self {
        let host_header = HeaderValue::try_from(&settings.address.authority)
            .unwrap_or(HeaderValue::from_static(""));
        let pool_slot = NEXT_POOL_SLOT.fetch_add(1, Ordering::Relaxed);
        Self {
            pool_slot,
            host_header,
            attempts: AttemptMetrics::new(&settings.name),
            breaker: Breaker::new(&settings.name, settings.circuit),
            cooldowns: Cooldowns::default(),
            settings,
        }
    }

    /// The name in logs, metrics and the API.
    pub const fn name(&self) -> &Arc<str> {
        &self.settings.name
    }

    /// Grants a pass for a call to `model`, if neither a cooldown nor the breaker forbids it.
    ///
    /// # Errors
    /// The instant at which to try again.
    pub fn try_acquire(&self, model: &str, now: Instant) -> Result<BreakerPass, Instant> {
        self.cooldowns.active_until(model, now).map_or_else(|| self.breaker.try_acquire(now), Err)
    }

    /// Records the result of an attempt in the metrics and the breaker.
    pub fn record_attempt(&self, pass: BreakerPass, result: AttemptResult) {
        self.attempts.record(result);
        let now = clock::monotonic_now();
        match result {
            AttemptResult::Answered | AttemptResult::RateLimited => {
                self.breaker.record_success(pass, now);
            }
            AttemptResult::Failed | AttemptResult::Unreachable | AttemptResult::TimedOut => {
                self.breaker.record_failure(pass, now);
            }
            AttemptResult::Credential => self.breaker.record_credential_refusal(pass, now),
        }
    }

    /// Records that a response broke off after a part was forwarded.
    pub fn record_interruption(&self) {
        self.attempts.interrupted.increment(1);
        self.breaker.record_interruption(clock::monotonic_now());
    }

    /// Starts the cooldown that the upstream requested, at most `retry_after_max`.
    pub fn cool_down(&self, model: &str, duration: Duration) {
        let duration = duration.min(self.settings.retry_after_max);
        self.cooldowns.start(model, clock::monotonic_now(), duration);
    }

    /// True if the upstream accepts calls in `dialect`.
    pub fn supports(&self, dialect: Dialect) -> bool {
        self.settings.dialects.contains(&dialect)
    }

    /// Returns the secret if it is sent in the query string. Responses may then echo it.
    pub fn query_secret(&self) -> Option<&str> {
        match &self.settings.auth {
            Auth::Query { secret, .. } => Some(secret.expose()),
            Auth::None | Auth::Header { .. } => None,
        }
    }

    /// Builds the request target from the URI that the client requested. `model` replaces the model
    /// name in the path. Strips the caller's `?key=` and, for Gemini, parameters that would hide
    /// usage; adds the gateway's credential if it belongs in the query.
    pub fn uri(&self, requested: &Uri, model: Option<&str>) -> Result<Uri, InvalidUri> {
        let prefix = &self.settings.address.path_prefix;
        let auth_param = match &self.settings.auth {
            Auth::Query { name, secret } => Some((name, format!("{name}={}", secret.expose()))),
            Auth::None | Auth::Header { .. } => None,
        };
        let is_origin_form = requested.query().is_none() && requested.authority().is_none();
        let is_same = prefix.is_empty() && auth_param.is_none() && model.is_none();
        if is_same && is_origin_form {
            return Ok(requested.clone());
        }
        let renamed = model.and_then(|model| {
            let (before, _, after) = split_model_path(requested.path())?;
            Some(format!("{before}{}{after}", query_string::escaped(model)))
        });
        let path = renamed.as_deref().unwrap_or(requested.path());
        // Among forwarded endpoints, only Gemini paths contain a model name.
        let is_gemini = split_model_path(requested.path()).is_some();
        let is_stripped = |param: &&str| {
            let named = |name: &str| query_string::value_of(param, name).is_some();
            named(query_string::KEY)
                || param.contains(KEY_PREFIX)
                || auth_param.as_ref().is_some_and(|(name, _)| named(name))
                || (is_gemini && query_string::is_stripped_param(param))
        };
        let params = query_string::params(requested.query().unwrap_or_default())
            .filter(|param| !is_stripped(param));
        let credential = auth_param.as_ref().map(|(_, credential)| credential.as_str());
        let query = params.chain(credential).collect::<Vec<_>>().join("&");
        let separator = if query.is_empty() { "" } else { "?" };
        Uri::try_from(format!("{prefix}{path}{separator}{query}"))
    }

    /// Adds the host, the configured headers and the gateway's credential.
    pub fn apply_auth(&self, fields: &mut HeaderMap) {
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

    fn target(base: &str, auth: Auth, requested: &str, model: Option<&str>) -> String {
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
            bills_after_disconnect: false,
            forward_limits: false,
            circuit: CircuitSettings::default(),
            retry_after_max: Duration::ZERO,
        };
        let requested = requested.parse().expect("a target");
        Upstream::new(settings).uri(&requested, model).expect("a target").to_string()
    }

    #[test]
    fn the_callers_key_is_stripped_and_the_gateways_key_is_added() {
        let query_auth =
            || Auth::Query { name: "code".to_owned(), secret: Secret::new("own".to_owned()) };
        for (base, auth, requested, sent) in [
            ("http://h", Auth::None, "/v1/x", "/v1/x"),
            ("http://h", Auth::None, "/v1/x?k%65y=k", "/v1/x"),
            ("http://h", Auth::None, "/v1/x?api-key=sk-mtr-0&a=1", "/v1/x?a=1"),
            ("http://h/p", Auth::None, "/v1/x?a=1&key=k&$alt=2", "/p/v1/x?a=1&$alt=2"),
            ("http://h", query_auth(), "/v1/x?key=k&code=theirs&b", "/v1/x?b&code=own"),
        ] {
            assert_eq!(target(base, auth, requested, None), sent);
        }
    }

    #[test]
    fn a_model_in_the_path_is_replaced_by_its_upstream_name() {
        for (requested, sent) in [
            ("/v1/models/a:countTokens", "/p/v1/models/b%2Fc:countTokens"),
            ("/v1beta/models/a%2F:b:x?alt=sse&key=k", "/p/v1beta/models/b%2Fc:x?alt=sse"),
            ("/v1/messages?beta=true", "/p/v1/messages?beta=true"),
        ] {
            assert_eq!(target("http://h/p", Auth::None, requested, Some("b/c")), sent);
        }
    }
}
