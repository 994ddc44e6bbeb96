//! Route: from a model's name to where it is served, and the most that the call can use there.

use std::sync::{Arc, LazyLock};

use memchr::memmem::Finder;

use crate::accounting::directory::Caller;
use crate::dialect::endpoint::Metering;
use crate::domain::catalog::{Model, Target};
use crate::domain::settlement::Bound;
use crate::domain::usage::Usage;
use crate::proxy::catalog::Catalog;
use crate::proxy::receive::Call;
use crate::proxy::refuse::Refusal;
use crate::proxy::upstream::Upstream;

/// Where a call goes.
#[derive(Debug)]
pub struct Route {
    /// The model.
    pub model: Arc<Model>,
    /// Where it is served, first choice first.
    pub stops: Vec<Stop>,
    /// The most the call can use, wherever it is served.
    pub bound: Bound,
}

/// One place where a model is served.
#[derive(Debug)]
pub struct Stop {
    /// The upstream.
    pub upstream: Arc<Upstream>,
    /// Its lane in a worker's pool.
    pub lane: usize,
    /// The model's name there, if it is another.
    pub model: Option<Arc<str>>,
}

/// What refers to content that is not in the body, and so is not bound by its length.
static REFERENCES: LazyLock<[Finder<'static>; 6]> = LazyLock::new(|| {
    [
        "\"image_url\"",
        "\"file_id\"",
        "\"file_url\"",
        "\"file_data\"",
        "\"input_audio\"",
        "\"web_search_options\"",
    ]
    .map(Finder::new)
});

static ESCAPE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\\u00"));

/// Whether the body refers to content outside of it. A letter that is written as an escape might
/// hide the word that says so; no client writes letters so without a purpose.
fn refers(body: &[u8]) -> bool {
    let escapes = |at: usize| matches!(body.get(at + 4), Some(b'4'..=b'7'));
    REFERENCES.iter().any(|word| word.find(body).is_some()) || ESCAPE.find_iter(body).any(escapes)
}

/// What a context window is taken to be where the catalog does not say.
const WINDOW_TOKENS_DEFAULT: u64 = 1_000_000;

/// Finds the model, if this caller may use it and some upstream serves it in the call's dialect.
///
/// A call that refers to state kept at the provider goes to dedicated upstreams only: elsewhere the
/// state may be another tenant's.
pub fn route(catalog: &Catalog, caller: &Caller, call: &Call) -> Result<Route, Refusal> {
    let name = &call.request.model;
    let unknown = || Refusal::UnknownModel(name.chars().take(128).collect());
    let model = catalog.model(name).ok_or_else(unknown)?;
    let stop = |(target, upstream): (&Target, &Arc<Upstream>)| Stop {
        upstream: Arc::clone(upstream),
        lane: target.upstream,
        model: target.upstream_model.clone(),
    };
    let dialect = call.endpoint.dialect();
    let mut stops: Vec<Stop> = catalog.targets(&model, dialect).map(stop).collect();
    if stops.is_empty() {
        return Err(unknown());
    }
    if !caller.may_use_model(name) {
        return Err(Refusal::Forbidden("this key may not use this model"));
    }
    if let Some(field) = call.request.state {
        stops.retain(|stop| stop.upstream.settings.dedicated);
        if stops.is_empty() {
            return Err(kept_elsewhere(field));
        }
    }
    let bound = bound(&model, call);
    Ok(Route { model, stops, bound })
}

fn kept_elsewhere(field: &'static str) -> Refusal {
    let message = format!(
        "`{field}` refers to state kept at the provider, under a credential that others share; \
         send the content itself"
    );
    Refusal::Malformed { param: Some(field), message }
}

/// Input: no more tokens than bytes, for text in the body. Output: the client's own bound, else
/// the model's, for each choice. A call that only counts uses nothing.
fn bound(model: &Model, call: &Call) -> Bound {
    if call.endpoint.metering() == Metering::Request {
        return Bound::default();
    }
    let bytes = call.body.len() as u64;
    let window = model.max_input_tokens.unwrap_or(WINDOW_TOKENS_DEFAULT);
    let output = call.request.output_tokens_max.unwrap_or(model.max_output_tokens);
    Bound {
        input_tokens: if call.request.refers || refers(&call.body) {
            bytes.max(window)
        } else {
            bytes
        },
        output_tokens: output.saturating_mul(call.request.choices).min(Usage::COUNT_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounting::books::Books;
    use crate::dialect::endpoint::{Dialect, Endpoint};
    use crate::dialect::read;
    use crate::domain::counter::Counters;
    use crate::domain::ids::{ApiKeyId, OrganizationId, ProjectId};
    use crate::domain::limit::Amounts;
    use crate::domain::money::Nano;
    use crate::domain::price::Prices;
    use crate::domain::quota::Quota;
    use crate::domain::time::{ResetDay, UnixMs};
    use crate::domain::wallet::Wallet;
    use crate::settings::upstream::{Auth, BaseUrl, UpstreamSettings};

    #[test]
    fn content_that_is_elsewhere_is_seen_however_it_is_written() {
        for body in [r#"{"image_url":1}"#, r#"{"image\u005furl":1}"#, r#"{"fil\u0065_id":1}"#] {
            assert!(refers(body.as_bytes()), "{body}");
        }
        for body in [r#"{"content":"caf\u00e9 \u0022image_url\u0022"}"#, r#"{"a":"\u00"}"#] {
            assert!(!refers(body.as_bytes()), "{body}");
        }
    }

    fn anybody() -> Caller {
        let (books, now) = (Books::default(), UnixMs(0));
        let minute = (now.minute(), Amounts::default());
        let counters = || (Quota::default(), Counters::restore(ResetDay::FIRST, now, minute, []));
        Caller {
            key: ApiKeyId(1),
            project: books.open_project(ProjectId(1), counters),
            organization: books
                .open_organization(OrganizationId(1), || Wallet::restore(Nano(0), true)),
            enabled: true,
            expires_at: None,
            project_active: true,
            organization_active: true,
            allowed_models: Vec::new(),
            allowed_cidrs: None,
        }
    }

    fn upstream(name: &str, dialects: &[Dialect], dedicated: bool) -> Arc<Upstream> {
        Arc::new(Upstream::new(UpstreamSettings {
            name: name.into(),
            address: BaseUrl::parse("http://h").expect("an address"),
            dialects: dialects.to_vec(),
            auth: Auth::None,
            headers: Vec::new(),
            connect_timeout: std::time::Duration::ZERO,
            first_byte_timeout: std::time::Duration::ZERO,
            idle_timeout: std::time::Duration::ZERO,
            idle_connections_max: 0,
            dedicated,
            forward_limits: false,
        }))
    }

    /// The stops of a call for `m`, which all these upstreams serve.
    fn stops(
        upstreams: &[Arc<Upstream>],
        endpoint: Endpoint,
        state: Option<&'static str>,
    ) -> Result<(Vec<String>, Bound), Refusal> {
        let target = |upstream| Target { upstream, upstream_model: None };
        let model = Model {
            name: "m".into(),
            max_output_tokens: 7,
            max_input_tokens: None,
            prices: Prices::default(),
            price_version: "1".into(),
            targets: (0..upstreams.len()).map(target).collect(),
        };
        let catalog = Catalog::new([model], None, upstreams.to_vec());
        let body = br#"{"model":"m","messages":[],"max_tokens":3}"#;
        let mut request = read::request(endpoint, Some("m"), body).expect("a request");
        request.state = state;
        let (parts, ()) = http::Request::new(()).into_parts();
        let call = Call { endpoint, parts, body: body.to_vec().into(), request };
        let route = route(&catalog, &anybody(), &call)?;
        let names = route.stops.iter().map(|stop| stop.upstream.name().to_string()).collect();
        Ok((names, route.bound))
    }

    #[test]
    fn a_call_goes_where_its_dialect_is_spoken_and_one_that_only_counts_is_bound_by_nothing() {
        let upstreams = [
            upstream("a", &[Dialect::OpenAi], false),
            upstream("b", &[Dialect::Anthropic, Dialect::OpenAi], false),
        ];
        let (names, bound) = stops(&upstreams, Endpoint::ChatCompletions, None).expect("a route");
        assert_eq!((names, bound.output_tokens), (vec!["a".to_owned(), "b".to_owned()], 3));
        let (names, bound) = stops(&upstreams, Endpoint::CountMessageTokens, None).expect("one");
        assert_eq!((names, bound), (vec!["b".to_owned()], Bound::default()));
        let nowhere = stops(&upstreams, Endpoint::GenerateContent, None);
        assert_eq!(nowhere, Err(Refusal::UnknownModel("m".to_owned())));
    }

    #[test]
    fn what_refers_to_state_goes_to_dedicated_upstreams_only() {
        let (chat, state) = (Endpoint::ChatCompletions, Some("previous_response_id"));
        let shared = upstream("shared", &Dialect::ALL, false);
        let own = upstream("own", &Dialect::ALL, true);
        let (names, _) = stops(&[shared.clone(), own], chat, state).expect("a route");
        assert_eq!(names, ["own"]);
        let Err(Refusal::Malformed { param, message }) = stops(&[shared], chat, state) else {
            panic!("refused");
        };
        assert_eq!(param, state);
        assert!(message.starts_with("`previous_response_id` refers to state kept at the provider"));
    }
}
