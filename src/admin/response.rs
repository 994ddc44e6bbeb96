//! Successful responses and their JSON envelopes.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::admin::api_error::ApiError;
use crate::admin::scalar::Rfc3339;
use crate::domain::time::UnixMs;
use crate::organization::error::UseCaseError;
use crate::settings::secret::Secret;
use crate::store::paging::Page;

/// A successful response.
#[derive(Debug, Default)]
pub struct AdminResponse {
    pub json: String,
    status: StatusCode,
    version: Option<i64>,
    cookie: Option<String>,
    secret: Option<Secret>,
    replayed: bool,
}

/// A response that ends a handler early.
#[derive(Debug)]
pub enum Interrupt {
    Error(ApiError),
    /// The stored response of an earlier request with the same idempotency key.
    Replay(Box<AdminResponse>),
}

pub type HandlerResult = Result<AdminResponse, Interrupt>;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ObjectEnvelope<'a, T> {
    data: &'a T,
    code: u16,
    error: (),
    #[serde(skip_serializing_if = "Option::is_none")]
    as_of: Option<Rfc3339>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListEnvelope<'a, T> {
    data: &'a [T],
    total: i64,
    page: u32,
    size: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<NextCursor>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    total_is_minimum: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    as_of: Option<Rfc3339>,
}

/// The cursor of the next page; `null` on the last page.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct NextCursor(pub Option<String>);

/// Metadata of a list.
#[derive(Debug)]
pub struct ListMeta {
    /// Number of rows in the whole list.
    pub total: i64,
    pub page: Page,
    /// Cursor of the next page, for lists with cursors.
    pub next: Option<NextCursor>,
    /// Whether the list may hold more rows than `total`.
    pub total_is_minimum: bool,
    /// Age of the data, if the ledger has not caught up.
    pub as_of: Option<UnixMs>,
}

#[derive(Serialize)]
struct Message {
    message: &'static str,
}

impl AdminResponse {
    /// A response with one object.
    pub fn object<T: Serialize>(data: &T) -> Self {
        Self::object_as_of(data, None)
    }

    /// Like [`object`](Self::object), with the age of the data if it may be outdated.
    pub fn object_as_of<T: Serialize>(data: &T, as_of: Option<UnixMs>) -> Self {
        Self::enveloped(&ObjectEnvelope { data, code: 200, error: (), as_of: as_of.map(Rfc3339) })
    }

    /// A response with a list.
    pub fn list<T: Serialize>(data: &[T], listed: ListMeta) -> Self {
        Self::enveloped(&ListEnvelope {
            data,
            total: listed.total,
            page: listed.page.page,
            size: listed.page.size,
            next_cursor: listed.next,
            total_is_minimum: listed.total_is_minimum,
            as_of: listed.as_of.map(Rfc3339),
        })
    }

    /// A response with one page of a list without cursors.
    pub fn page<T: Serialize>(data: &[T], total: i64, page: Page) -> Self {
        let listed = ListMeta { total, page, next: None, total_is_minimum: false, as_of: None };
        Self::list(data, listed)
    }

    /// A response with a confirmation text.
    pub fn message(message: &'static str) -> Self {
        Self::object(&Message { message })
    }

    /// A response that was stored before.
    pub fn replay(status: u16, json: String) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or_default();
        Self { json, status, replayed: true, ..Self::default() }
    }

    fn enveloped(body: &impl Serialize) -> Self {
        // Views hold only plain data, so serialization cannot fail.
        let json = serde_json::to_string(body).unwrap_or_default();
        Self { json, ..Self::default() }
    }

    /// Adds the `ETag` of the version.
    #[must_use]
    pub fn with_version(self, version: i64) -> Self {
        Self { version: Some(version), ..self }
    }

    /// Adds a `Set-Cookie` header.
    #[must_use]
    pub fn with_cookie(self, cookie: String) -> Self {
        Self { cookie: Some(cookie), ..self }
    }

    /// Marks a secret in the body, to be removed from the stored response.
    #[must_use]
    pub fn with_secret(self, secret: &Secret) -> Self {
        Self { secret: Some(secret.clone()), ..self }
    }

    /// Returns the body to store, with `null` in place of the secret.
    pub fn json_without_secret(&self) -> String {
        match &self.secret {
            Some(secret) => self.json.replace(&format!("\"{}\"", secret.expose()), "null"),
            None => self.json.clone(),
        }
    }
}

impl From<UseCaseError> for Interrupt {
    fn from(error: UseCaseError) -> Self {
        Self::Error(error.into())
    }
}

impl From<ApiError> for Interrupt {
    fn from(error: ApiError) -> Self {
        Self::Error(error)
    }
}

impl IntoResponse for AdminResponse {
    fn into_response(self) -> Response {
        let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        let mut response = (self.status, json, self.json).into_response();
        let headers = response.headers_mut();
        if let Some(version) = self.version
            && let Ok(etag) = HeaderValue::try_from(format!("\"{version}\""))
        {
            headers.insert(header::ETAG, etag);
        }
        if let Some(cookie) = self.cookie.and_then(|cookie| HeaderValue::try_from(cookie).ok()) {
            headers.insert(header::SET_COOKIE, cookie);
        }
        if self.replayed {
            let name = HeaderName::from_static("idempotent-replayed");
            headers.insert(name, HeaderValue::from_static("true"));
        }
        response
    }
}

impl IntoResponse for Interrupt {
    fn into_response(self) -> Response {
        match self {
            Self::Error(error) => error.into_response(),
            Self::Replay(response) => response.into_response(),
        }
    }
}
