//! Endpoints that the gateway serves itself: model lists, limits and health. They are not metered.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::accounting::key_directory::Caller;
use crate::dialect::endpoint::Dialect;
use crate::dialect::paths::{LocalEndpoint, PathMatch};
use crate::domain::catalog::Model;
use crate::proxy::catalog::Catalog;
use crate::proxy::limit_json::status_json;
use crate::proxy::request_context::RequestContext;
use crate::proxy::{headers, query_string};

/// Returns the dialect to answer in: that of the endpoint or, for a path that all dialects share,
/// the one that the credential headers indicate.
pub fn caller_dialect(matched: PathMatch, parts: &Parts) -> Dialect {
    match matched {
        PathMatch::Proxied(endpoint) => return endpoint.dialect(),
        PathMatch::Local(LocalEndpoint::Models) => {}
        PathMatch::Local(endpoint) => return endpoint.dialect(),
    }
    let mut query = query_string::params(parts.uri.query().unwrap_or_default());
    if parts.headers.contains_key("anthropic-version") {
        Dialect::Anthropic
    } else if parts.headers.contains_key("x-goog-api-key")
        || query.any(|param| query_string::value_of(param, query_string::KEY).is_some())
    {
        Dialect::Gemini
    } else {
        Dialect::OpenAi
    }
}

/// Lists the models that the caller may use in `dialect`, in the format of that dialect.
pub fn models(
    catalog: &Catalog,
    caller: &Caller,
    dialect: Dialect,
    ctx: &RequestContext,
) -> Response<Bytes> {
    let mut models = catalog.models_for(dialect);
    models.retain(|model| caller.may_use_model(&model.name));
    let body = match dialect {
        Dialect::OpenAi => openai_models(&models),
        Dialect::Anthropic => anthropic_models(&models),
        Dialect::Gemini => gemini_models(&models),
    };
    json_response(&body, dialect, ctx)
}

fn openai_models(models: &[&Model]) -> Value {
    let model = |model: &&Model| {
        let name = &*model.name;
        json!({ "id": name, "object": "model", "created": 0, "owned_by": "meteor" })
    };
    json!({ "object": "list", "data": models.iter().map(model).collect::<Vec<_>>() })
}

fn anthropic_models(models: &[&Model]) -> Value {
    let model = |model: &&Model| {
        let name = &*model.name;
        let created_at = "1970-01-01T00:00:00Z";
        json!({ "type": "model", "id": name, "display_name": name, "created_at": created_at })
    };
    let name = |model: Option<&&Model>| model.map(|model| model.name.to_string());
    json!({
        "data": models.iter().map(model).collect::<Vec<_>>(),
        "has_more": false,
        "first_id": name(models.first()),
        "last_id": name(models.last()),
    })
}

fn gemini_models(models: &[&Model]) -> Value {
    let model = |model: &&Model| {
        let embeds = model.max_output_tokens == 0;
        let methods: &[&str] = if embeds {
            &["embedContent", "batchEmbedContents", "countTokens"]
        } else {
            &["generateContent", "streamGenerateContent", "countTokens"]
        };
        json!({
            "name": format!("models/{}", model.name),
            "displayName": &*model.name,
            "inputTokenLimit": model.max_input_tokens,
            "outputTokenLimit": model.max_output_tokens,
            "supportedGenerationMethods": methods,
        })
    };
    json!({ "models": models.iter().map(model).collect::<Vec<_>>() })
}

/// Lists all limits that apply to the caller, with their usage.
pub fn limits(caller: &Caller, ctx: &RequestContext) -> Response<Bytes> {
    let statuses = caller.limit_statuses(ctx.received_at);
    let limits: Vec<Value> = statuses.iter().map(status_json).collect();
    json_response(&json!({ "object": "list", "data": limits }), Dialect::OpenAi, ctx)
}

/// Reports whether the gateway accepts calls.
pub fn health(is_draining: bool) -> Response<Bytes> {
    let (status, text) = if is_draining {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else {
        (StatusCode::OK, "ok\n")
    };
    let mut response = Response::new(Bytes::from_static(text.as_bytes()));
    *response.status_mut() = status;
    response
}

fn json_response(body: &Value, dialect: Dialect, ctx: &RequestContext) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body.to_string()));
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers::add_id(fields, ctx.id, dialect);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::endpoint::Endpoint;

    #[test]
    fn the_dialect_of_a_model_list_follows_from_the_request_headers() {
        for (uri, header, dialect) in [
            ("/v1/models", "authorization", Dialect::OpenAi),
            ("/v1/models?key=k", "anthropic-version", Dialect::Anthropic),
            ("/v1/models?a=1&key=k", "accept", Dialect::Gemini),
            ("/v1/models", "x-goog-api-key", Dialect::Gemini),
            ("/v1/models", "x-api-key", Dialect::OpenAi),
        ] {
            let request = http::Request::builder().uri(uri).header(header, "x");
            let (parts, ()) = request.body(()).expect("a request").into_parts();
            let models = PathMatch::Local(LocalEndpoint::Models);
            assert_eq!(caller_dialect(models, &parts), dialect, "{uri} {header}");
            let messages = PathMatch::Proxied(Endpoint::Messages);
            assert_eq!(caller_dialect(messages, &parts), Dialect::Anthropic);
        }
    }
}
