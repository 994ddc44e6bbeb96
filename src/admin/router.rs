//! The router of the admin listener: all routes and the layers around them.

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
    let routes = account::routes(Routes::default());
    let routes = tokens::routes(routes);
    let routes = organizations::routes(routes);
    let routes = catalog::routes(routes);
    let routes = prices::routes(routes);
    let routes = upstreams::routes(routes);
    let routes = projects::routes(routes);
    let routes = quotas::routes(routes);
    let routes = usage::routes(routes);
    let routes = keys::routes(routes);
    let routes = wallet::routes(routes);
    let routes = records::routes(routes);
    let routes = export::routes(routes);
    request_logs::routes(routes)
}

/// Builds the router. The caller may merge further routes into it.
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
        .layer(CatchPanicLayer::custom(|_| {
            ApiError::internal("panic in a handler").into_response()
        }))
        .layer(middleware::from_fn(finish_response))
}

/// Returns the OpenAPI document.
pub fn document() -> OpenApi {
    let (_, paths, components) = all_routes().build();
    openapi::document(paths, components)
}

/// Adds the request id and `Cache-Control`, and writes money as strings if requested.
async fn finish_response(mut request: Request, next: Next) -> Response {
    let id = Uuid::from_u128(new_id(clock::wall_now())).to_string();
    request.extensions_mut().insert(RequestId(id.clone()));
    let mut response = match money_as_strings_requested(&request) {
        Ok(as_strings) => {
            let response = next.run(request).await;
            if as_strings { with_money_as_strings(response).await } else { response }
        }
        Err(error) => error.into_response(),
    };
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::try_from(id) {
        headers.insert(HeaderName::from_static("x-request-id"), id);
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Whether the query contains `money=string`.
fn money_as_strings_requested(request: &Request) -> Result<bool, ApiError> {
    let pairs = Query::<Vec<(String, String)>>::try_from_uri(request.uri());
    let pairs = pairs.map(|pairs| pairs.0).unwrap_or_default();
    match pairs.iter().find(|(name, _)| name == "money").map(|(_, form)| form.as_str()) {
        None | Some("number") => Ok(false),
        Some("string") => Ok(true),
        Some(_) => {
            let message = "money: expected number or string";
            Err(ApiError::invalid(vec![FieldError::new("money", "unknown_value", message)]))
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
        return ApiError::internal("response body could not be read").into_response();
    };
    let json = money_as_strings(&String::from_utf8_lossy(&body.to_bytes()));
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(json))
}
