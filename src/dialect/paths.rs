//! Paths of the data plane: which endpoint a method and a path lead to.

use crate::dialect::endpoint::{Dialect, Endpoint, PathPattern};

/// An endpoint that the gateway answers itself, without an upstream. Its calls are not metered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalEndpoint {
    /// The list of models, in the dialect that the headers of the request select.
    Models,
    /// The list of models in the Gemini dialect.
    GeminiModels,
    Limits,
    /// The health check for load balancers, which needs no API key.
    Health,
}

impl LocalEndpoint {
    pub const ALL: [Self; 4] = [Self::Models, Self::GeminiModels, Self::Limits, Self::Health];

    /// Returns the path; the method is always `GET`.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Models => "/v1/models",
            Self::GeminiModels => "/v1beta/models",
            Self::Limits => "/v1/limits",
            Self::Health => "/healthz",
        }
    }

    pub const fn dialect(self) -> Dialect {
        match self {
            Self::GeminiModels => Dialect::Gemini,
            Self::Models | Self::Limits | Self::Health => Dialect::OpenAi,
        }
    }
}

/// What a method and a path lead to. Anything else is 404 and never passed to an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathMatch {
    Proxied(Endpoint),
    Local(LocalEndpoint),
}

/// Prefixes of paths that name a model; newer Gemini SDKs use the first.
pub const MODEL_PATH_PREFIXES: [&str; 2] = ["/v1/models/", "/v1beta/models/"];

/// Returns what a method and a path lead to, and the model that the path names, still escaped.
pub fn match_path<'a>(method: &str, path: &'a str) -> Option<(PathMatch, Option<&'a str>)> {
    if method == "GET" {
        let local = LocalEndpoint::ALL.into_iter().find(|local| local.path() == path)?;
        return Some((PathMatch::Local(local), None));
    }
    if method != "POST" {
        return None;
    }
    let (pattern, model) = match split_model_path(path) {
        Some((_, model, verb)) => (verb.strip_prefix(':')?, Some(model)),
        None => (path, None),
    };
    let endpoint = Endpoint::ALL.into_iter().find(|endpoint| match endpoint.spec().path {
        PathPattern::Exact(path) => model.is_none() && path == pattern,
        PathPattern::ModelVerb(verb) => model.is_some() && verb == pattern,
    })?;
    Some((PathMatch::Proxied(endpoint), model))
}

/// Splits a path that names a model into the part before the name, the name, and the verb with its
/// colon. Returns none if the path names no model.
pub fn split_model_path(path: &str) -> Option<(&str, &str, &str)> {
    let prefix = MODEL_PATH_PREFIXES.iter().find(|prefix| path.starts_with(**prefix))?;
    let (before, rest) = path.split_at(prefix.len());
    let (model, verb) = rest.split_at(rest.rfind(':')?);
    (!model.is_empty() && !model.contains('/')).then_some((before, model, verb))
}

/// Returns the wire format of the 404 for a path that is no endpoint.
pub fn dialect_for_unknown_path(path: &str) -> Dialect {
    let is_below = |folder: &str| {
        path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if is_below("/v1/messages") {
        Dialect::Anthropic
    } else if is_below("/v1beta") {
        Dialect::Gemini
    } else {
        Dialect::OpenAi
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_their_endpoint_and_model() {
        for (method, path, found) in [
            ("POST", "/v1/chat/completions", Some((Endpoint::ChatCompletions, None))),
            ("GET", "/v1/chat/completions", None),
            ("POST", "/v1/completions", Some((Endpoint::Completions, None))),
            ("POST", "/v1/responses/compact", Some((Endpoint::CompactResponses, None))),
            ("POST", "/v1/responses/resp_1/cancel", None),
            ("DELETE", "/v1/responses/resp_1", None),
            ("POST", "/v1/messages/", None),
            (
                "POST",
                "/v1beta/models/gemini-2.5-flash:generateContent",
                Some((Endpoint::GenerateContent, Some("gemini-2.5-flash"))),
            ),
            ("POST", "/v1/models/a:b:countTokens", Some((Endpoint::CountTokens, Some("a:b")))),
            ("GET", "/v1beta/models/a:generateContent", None),
            ("POST", "/v1beta/models/a:predict", None),
            ("POST", "/v1beta/models/:generateContent", None),
            ("POST", "/v1beta/models/a/b:generateContent", None),
        ] {
            let found = found.map(|(endpoint, model)| (PathMatch::Proxied(endpoint), model));
            assert_eq!(match_path(method, path), found, "{method} {path}");
        }
    }

    #[test]
    fn local_endpoints_are_found_by_get_only() {
        for local in LocalEndpoint::ALL {
            assert_eq!(match_path("GET", local.path()), Some((PathMatch::Local(local), None)));
            assert_eq!(match_path("POST", local.path()), None);
        }
    }

    /// A stored response reports its usage again, so the gateway does not serve it.
    #[test]
    fn stored_responses_cannot_be_retrieved() {
        assert_eq!(match_path("GET", "/v1/responses/resp_1"), None);
        assert_eq!(match_path("GET", "/v1/responses/resp_1/input_items"), None);
        assert_eq!(match_path("GET", "/v1/chat/completions/chatcmpl-1"), None);
    }

    #[test]
    fn unknown_paths_are_refused_in_the_dialect_of_their_folder() {
        for (path, dialect) in [
            ("/v1/messages/batches", Dialect::Anthropic),
            ("/v1beta/models/a:predict", Dialect::Gemini),
            ("/v1/messagesx", Dialect::OpenAi),
            ("/v1/models/a:predict", Dialect::OpenAi),
        ] {
            assert_eq!(dialect_for_unknown_path(path), dialect, "{path}");
        }
    }
}
