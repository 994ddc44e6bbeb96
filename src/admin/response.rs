//! Answers: what a request is given, in the envelope that it has.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::admin::api_error::ApiError;
use crate::admin::scalar::Rfc3339;
use crate::domain::time::UnixMs;
use crate::organization::error::UseCaseError;
use crate::settings::secret::Secret;
use crate::store::paging::Page;

/// A yes.
#[derive(Debug, Default)]
pub struct AdminResponse {
    /// The body.
    pub json: String,
    status: StatusCode,
    version: Option<i64>,
    cookie: Option<String>,
    secret: Option<Secret>,
    replayed: bool,
}

/// Why a request ends before its end.
#[derive(Debug)]
pub enum Interrupt {
    /// With a no.
    Error(ApiError),
    /// With an answer that was given before.
    Replay(Box<AdminResponse>),
}

/// What a request ends with.
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

/// Where an endless list goes on; `null` at its end.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct NextCursor(pub Option<String>);

/// What a list says of itself beside its rows.
#[derive(Debug)]
pub struct ListMeta {
    /// How many there are.
    pub total: i64,
    /// Which page this is.
    pub page: Page,
    /// For an endless list, where it goes on.
    pub next: Option<NextCursor>,
    /// Whether there may be more than `total`.
    pub total_is_minimum: bool,
    /// How old the picture may be.
    pub as_of: Option<UnixMs>,
}

#[derive(Serialize)]
struct Message {
    message: &'static str,
}

impl AdminResponse {
    /// One thing.
    pub fn object<T: Serialize>(data: &T) -> Self {
        Self::object_as_of(data, None)
    }

    /// One thing, as it was at that moment, if it may be older than the question.
    pub fn object_as_of<T: Serialize>(data: &T, as_of: Option<UnixMs>) -> Self {
        Self::enveloped(&ObjectEnvelope { data, code: 200, error: (), as_of: as_of.map(Rfc3339) })
    }

    /// A list.
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

    /// A page of a list that has an end.
    pub fn page<T: Serialize>(data: &[T], total: i64, page: Page) -> Self {
        let listed = ListMeta { total, page, next: None, total_is_minimum: false, as_of: None };
        Self::list(data, listed)
    }

    /// Words.
    pub fn message(message: &'static str) -> Self {
        Self::object(&Message { message })
    }

    /// An answer that was kept.
    pub fn replay(status: u16, json: String) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or_default();
        Self { json, status, replayed: true, ..Self::default() }
    }

    fn enveloped(body: &impl Serialize) -> Self {
        // Shapes are plain data: what they serialize to is never an error.
        let json = serde_json::to_string(body).unwrap_or_default();
        Self { json, ..Self::default() }
    }

    /// With the version of what it shows.
    #[must_use]
    pub fn with_version(self, version: i64) -> Self {
        Self { version: Some(version), ..self }
    }

    /// With a cookie.
    #[must_use]
    pub fn with_cookie(self, cookie: String) -> Self {
        Self { cookie: Some(cookie), ..self }
    }

    /// Which shows this secret, once.
    #[must_use]
    pub fn with_secret(self, secret: &Secret) -> Self {
        Self { secret: Some(secret.clone()), ..self }
    }

    /// The body to keep: `null` in the place of the secret.
    pub fn json_without_secret(&self) -> String {
        match &self.secret {
            Some(secret) => self.json.replace(&format!("\"{}\"", secret.expose()), "null"),
            None => self.json.clone(),
        }
    }
}

impl From<UseCaseError> for Interrupt {
    fn from(denied: UseCaseError) -> Self {
        Self::Error(denied.into())
    }
}

impl From<ApiError> for Interrupt {
    fn from(failure: ApiError) -> Self {
        Self::Error(failure)
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
            Self::Error(failure) => failure.into_response(),
            Self::Replay(answer) => answer.into_response(),
        }
    }
}
