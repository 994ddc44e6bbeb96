//! What is asked: a request, read whole, and who asks.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{ConnectInfo, FromRequest, FromRequestParts, Query as Pairs, RawPathParams};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use crate::admin::api_error::ApiError;
use crate::admin::body;
use crate::admin::body::Body;
use crate::admin::query::Query;
use crate::admin::response::Interrupt;
use crate::admin::state::AdminState;
use crate::domain::access::Cidr;
use crate::domain::ids::{MalformedId, ProjectId};
use crate::organization::access::{self, OrgContext, Principal};
use crate::organization::error::UseCaseError;
use crate::organization::quotas::QuotaSubject;
use crate::organization::unit_of_work::Origin;

/// A request by whoever.
#[derive(Debug)]
pub struct AdminRequest {
    /// What it is asked of.
    pub state: AdminState,
    /// The method.
    pub method: Method,
    /// The path and the query.
    pub uri: Uri,
    /// Its headers.
    pub headers: HeaderMap,
    /// All of its body.
    pub bytes: Bytes,
    /// Where it comes from.
    pub client_address: Option<IpAddr>,
    /// Its id.
    pub request_id: String,
    path: Vec<(String, String)>,
}

/// A request by somebody who is known.
#[derive(Debug)]
pub struct AuthenticatedRequest {
    /// The request.
    pub request: AdminRequest,
    /// Who asks.
    pub principal: Arc<Principal>,
}

/// The id that the outermost layer gives to a request.
#[derive(Debug, Clone)]
pub struct RequestId(pub String);

/// The name of the session's cookie; the first over TLS only, where its prefix binds it.
const COOKIE_NAMES: [&str; 2] = ["__Host-meteor_session", "meteor_session"];
const BODY_BYTES_MAX: usize = 1 << 20;
const BODY_READ_TIMEOUT: Duration = Duration::from_secs(30);

impl AdminRequest {
    async fn read(request: axum::extract::Request, state: &AdminState) -> Result<Self, ApiError> {
        let (mut parts, body) = request.into_parts();
        let path = path_params(&mut parts).await?;
        let limited = Limited::new(body, BODY_BYTES_MAX).collect();
        let bytes = match tokio::time::timeout(BODY_READ_TIMEOUT, limited).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(fault)) if fault.is::<LengthLimitError>() => {
                return Err(ApiError::body_too_large(BODY_BYTES_MAX));
            }
            _ => return Err(ApiError::body_timeout()),
        };
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip());
        let request_id = parts.extensions.get::<RequestId>().map(|id| id.0.clone());
        Ok(Self {
            client_address: peer
                .map(|peer| client_address(peer, &parts.headers, &state.settings.trusted_proxies)),
            state: state.clone(),
            method: parts.method,
            uri: parts.uri,
            headers: parts.headers,
            bytes,
            request_id: request_id.unwrap_or_default(),
            path,
        })
    }

    /// A header, if it is there once and is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body.
    pub fn body<B: Body>(&self) -> Result<B, ApiError> {
        let json = self.header("content-type").is_some_and(is_json);
        if !json && !self.bytes.is_empty() {
            return Err(ApiError::unsupported_media_type());
        }
        body::read(&self.bytes)
    }

    /// The query.
    pub fn query(&self) -> Query {
        let pairs = Pairs::<Vec<(String, String)>>::try_from_uri(&self.uri);
        Query::new(pairs.map(|pairs| pairs.0).unwrap_or_default())
    }

    /// An id of the path; one that is malformed is of nothing.
    pub fn path_id<T>(
        &self,
        name: &str,
        read: fn(&str) -> Result<T, MalformedId>,
    ) -> Result<T, UseCaseError> {
        let text = self.path.iter().find(|(known, _)| known == name);
        text.and_then(|(_, text)| read(text).ok()).ok_or(UseCaseError::NotFound)
    }

    /// Where a change comes from.
    pub fn origin(&self) -> Origin {
        let if_match = match self.header("if-match").map(str::trim) {
            None | Some("*") => None,
            // A tag that is none of ours names no version there is.
            Some(tag) => {
                let digits = tag.trim_start_matches("W/").trim_matches('"');
                Some(digits.parse().unwrap_or(-1))
            }
        };
        Origin { address: self.client_address, request_id: self.request_id.clone(), if_match }
    }

    /// The session or token that is shown, and whether a browser shows it by itself.
    fn credential(&self) -> Option<(&str, bool)> {
        if let Some(value) = self.header("authorization") {
            let (scheme, secret) = value.split_once(' ')?;
            return scheme.eq_ignore_ascii_case("bearer").then(|| (secret.trim(), false));
        }
        let cookies = self.headers.get_all(header::COOKIE).iter();
        let pairs = cookies.filter_map(|value| value.to_str().ok()).flat_map(|all| all.split(';'));
        let mut named = pairs.filter_map(|pair| pair.trim().split_once('='));
        let wanted = COOKIE_NAMES[usize::from(!self.state.is_secure())];
        named.find(|(name, _)| *name == wanted).map(|(_, secret)| (secret, true))
    }

    /// Whether a request that a browser signed by itself comes from the console.
    fn is_same_site(&self) -> bool {
        if self.method.is_safe() {
            return true;
        }
        if let Some(site) = self.header("sec-fetch-site") {
            return matches!(site, "same-origin" | "none");
        }
        let Some(origin) = self.header("origin") else { return true };
        let host = origin.split_once("://").map(|(_, host)| host);
        host.is_some() && host == self.header("host")
    }

    /// The cookie that begins or, without a secret, ends a session.
    pub fn session_cookie(&self, secret: Option<&str>) -> String {
        let secure = self.state.is_secure();
        let name = COOKIE_NAMES[usize::from(!secure)];
        let (secret, age) = secret.map_or(("", "; Max-Age=0"), |secret| (secret, ""));
        let tls = if secure { "; Secure" } else { "" };
        format!("{name}={secret}; Path=/; HttpOnly; SameSite=Lax{tls}{age}")
    }
}

impl AuthenticatedRequest {
    /// Whose quota the path is about: a project's where it names one, else the organization's.
    pub fn quota_subject(&self) -> Result<QuotaSubject, UseCaseError> {
        if self.request.path.is_empty() {
            return Ok(QuotaSubject::Organization);
        }
        Ok(QuotaSubject::Project(self.request.path_id("id", ProjectId::parse)?))
    }

    /// Takes the seat that the header, the token or the only membership names.
    pub async fn org_context(&self) -> Result<OrgContext, UseCaseError> {
        self.org_context_in(None).await
    }

    /// The same, where the body may name it as well.
    pub async fn org_context_in(&self, body: Option<&str>) -> Result<OrgContext, UseCaseError> {
        let header = self.request.header("x-organization-id");
        access::resolve_org(&self.request.state.services, &self.principal, header, body).await
    }

    /// The seat, if any organization is named or clear.
    pub async fn org_context_opt(&self) -> Result<Option<OrgContext>, UseCaseError> {
        match self.org_context().await {
            Ok(seat) => Ok(Some(seat)),
            Err(UseCaseError::Invalid(_)) => Ok(None),
            Err(denied) => Err(denied),
        }
    }
}

impl FromRequest<AdminState> for AdminRequest {
    type Rejection = Response;

    async fn from_request(
        request: axum::extract::Request,
        state: &AdminState,
    ) -> Result<Self, Response> {
        Self::read(request, state).await.map_err(IntoResponse::into_response)
    }
}

impl FromRequest<AdminState> for AuthenticatedRequest {
    type Rejection = Response;

    async fn from_request(
        request: axum::extract::Request,
        state: &AdminState,
    ) -> Result<Self, Response> {
        let visit = AdminRequest::from_request(request, state).await?;
        authenticate(visit).await.map_err(IntoResponse::into_response)
    }
}

async fn authenticate(visit: AdminRequest) -> Result<AuthenticatedRequest, Interrupt> {
    let shown = visit.credential().ok_or(UseCaseError::Unauthenticated("no_credential"))?;
    if shown.1 && !visit.is_same_site() {
        return Err(ApiError::cross_site().into());
    }
    let principal = access::authenticate(&visit.state.services, shown.0).await?;
    Ok(AuthenticatedRequest { principal: Arc::new(principal), request: visit })
}

async fn path_params(parts: &mut Parts) -> Result<Vec<(String, String)>, ApiError> {
    // What is no text names nothing.
    let params = RawPathParams::from_request_parts(parts, &()).await;
    let params = params.map_err(|_| ApiError::unknown_path())?;
    Ok(params.iter().map(|(name, text)| (name.to_owned(), text.to_owned())).collect())
}

fn is_json(content_type: &str) -> bool {
    let media = content_type.split(';').next().unwrap_or_default().trim();
    media.eq_ignore_ascii_case("application/json")
}

/// The last address on the way that is not one of our own proxies.
fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[Cidr]) -> IpAddr {
    let ours = |address: IpAddr| trusted.iter().any(|block| block.contains(address));
    let forwarded = headers.get_all("x-forwarded-for").iter().filter_map(|it| it.to_str().ok());
    let mut way: Vec<&str> = forwarded.flat_map(|all| all.split(',')).map(str::trim).collect();
    let mut address = peer;
    while ours(address) {
        let Some(before) = way.pop().and_then(|text| text.parse().ok()) else { break };
        address = before;
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarded_addresses_count_only_behind_our_own_proxies() {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", "9.9.9.9, 8.8.8.8, 10.0.0.2".parse().expect("a header"));
        let proxies = [Cidr::parse("10.0.0.0/8").expect("a block")];
        let from = |peer: &str, trusted: &[Cidr]| {
            client_address(peer.parse().expect(peer), &headers, trusted).to_string()
        };
        assert_eq!(from("10.0.0.1", &proxies), "8.8.8.8", "what the client wrote is not believed");
        assert_eq!(from("7.7.7.7", &proxies), "7.7.7.7");
        assert_eq!(from("10.0.0.1", &[]), "10.0.0.1");
    }
}
