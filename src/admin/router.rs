//! The router of the admin listener: a table of contents.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, Request};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http_body_util::BodyExt;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::openapi::OpenApi;
use uuid::Uuid;

use crate::admin::api_error::ApiError;
use crate::admin::operation::Routes;
use crate::admin::request::RequestId;
use crate::admin::scalar::money_as_strings;
use crate::admin::state::AdminState;
use crate::admin::{
    account, catalog, export, keys, openapi, organizations, prices, projects, quotas, records,
    request_logs, tokens, upstreams, usage, wallet,
};
use crate::clock;
use crate::organization::error::FieldError;
use crate::store::columns::new_id;

fn all_routes() -> Routes {
    let operations = account::routes(Routes::default());
    let operations = tokens::routes(operations);
    let operations = organizations::routes(operations);
    let operations = catalog::routes(operations);
    let operations = prices::routes(operations);
    let operations = upstreams::routes(operations);
    let operations = projects::routes(operations);
    let operations = quotas::routes(operations);
    let operations = usage::routes(operations);
    let operations = keys::routes(operations);
    let operations = wallet::routes(operations);
    let operations = records::routes(operations);
    let operations = export::routes(operations);
    request_logs::routes(operations)
}

/// All that the admin listener answers. What else it shall answer can be merged into it.
pub fn router(state: AdminState) -> Router {
    let (router, paths, components) = all_routes().build();
    let json: Arc<str> = openapi::document(paths, components).to_json().unwrap_or_default().into();
    let document = move || {
        let json = json.to_string();
        async move { ([(header::CONTENT_TYPE, "application/json")], json) }
    };
    router
        .route("/openapi.json", get(document))
        .fallback(async || ApiError::unknown_path())
        .method_not_allowed_fallback(async || ApiError::method_not_allowed())
        .with_state(state)
        .layer(CatchPanicLayer::custom(|_| ApiError::internal("a panic").into_response()))
        .layer(middleware::from_fn(finish_response))
}

/// The OpenAPI document.
pub fn document() -> OpenApi {
    let (_, paths, components) = all_routes().build();
    openapi::document(paths, components)
}

/// What surrounds every answer: its id, that it is not kept, and how money is written.
async fn finish_response(mut request: Request, next: Next) -> Response {
    let id = Uuid::from_u128(new_id(clock::wall_now())).to_string();
    request.extensions_mut().insert(RequestId(id.clone()));
    let mut response = match money_as_strings_requested(&request) {
        Ok(as_text) => {
            let response = next.run(request).await;
            if as_text { with_money_as_strings(response).await } else { response }
        }
        Err(failure) => failure.into_response(),
    };
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::try_from(id) {
        headers.insert(HeaderName::from_static("x-request-id"), id);
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Whether `?money=string` is asked for.
fn money_as_strings_requested(request: &Request) -> Result<bool, ApiError> {
    let pairs = Query::<Vec<(String, String)>>::try_from_uri(request.uri());
    let pairs = pairs.map(|pairs| pairs.0).unwrap_or_default();
    match pairs.iter().find(|(name, _)| name == "money").map(|(_, form)| form.as_str()) {
        None | Some("number") => Ok(false),
        Some("string") => Ok(true),
        Some(_) => {
            let message = "money: give number or string";
            Err(ApiError::invalid(vec![FieldError::new("money", "unknown_word", message)]))
        }
    }
}

async fn with_money_as_strings(response: Response) -> Response {
    let is_json = response.headers().get(header::CONTENT_TYPE);
    if is_json.is_none_or(|media| media != "application/json") {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Ok(body) = body.collect().await else {
        return ApiError::internal("an answer in memory broke off").into_response();
    };
    let json = money_as_strings(&String::from_utf8_lossy(&body.to_bytes()));
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(json))
}
