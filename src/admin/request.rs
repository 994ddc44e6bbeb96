//! Reads admin requests and authenticates them.

use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{ConnectInfo, FromRequest, FromRequestParts, Query as Pairs, RawPathParams};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use crate::admin::api_error::ApiError;
use crate::admin::body::{self, Body};
use crate::admin::query::Query;
use crate::admin::response::Interrupt;
use crate::admin::state::AdminState;
use crate::domain::access::Cidr;
use crate::domain::ids::{MalformedId, ProjectId};
use crate::organization::access::{self, OrgContext, Principal};
use crate::organization::error::UseCaseError;
use crate::organization::quotas::QuotaSubject;
use crate::organization::unit_of_work::Origin;

/// A request, before authentication.
#[derive(Debug)]
pub struct AdminRequest {
    pub state: AdminState,
    pub method: Method,
    pub uri: Uri,
    pub headers: HeaderMap,
    pub bytes: Bytes,
    /// Address of the client, behind trusted proxies the forwarded one.
    pub client_address: Option<IpAddr>,
    pub request_id: String,
    path: Vec<(String, String)>,
}

/// A request with its authenticated caller. Dereferences to the request.
#[derive(Debug)]
pub struct AuthenticatedRequest {
    request: AdminRequest,
    pub principal: Arc<Principal>,
}

impl Deref for AuthenticatedRequest {
    type Target = AdminRequest;

    fn deref(&self) -> &AdminRequest {
        &self.request
    }
}

/// The id of a request. The outermost layer sets it as a request extension.
#[derive(Debug, Clone)]
pub struct RequestId(pub String);

/// Names of the session cookie. The first is used with HTTPS only: its prefix makes browsers bind
/// it to the host.
const COOKIE_NAMES: [&str; 2] = ["__Host-meteor_session", "meteor_session"];

/// The session or token of a request.
struct Credential<'a> {
    secret: &'a str,
    /// Browsers send cookies by themselves, so that other sites can cause such requests.
    from_cookie: bool,
}

const BODY_BYTES_MAX: usize = 1 << 20;
const BODY_READ_TIMEOUT: Duration = Duration::from_secs(30);

impl AdminRequest {
    async fn read(request: axum::extract::Request, state: &AdminState) -> Result<Self, ApiError> {
        let (mut parts, body) = request.into_parts();
        let path = path_params(&mut parts).await?;
        let limited = Limited::new(body, BODY_BYTES_MAX).collect();
        let bytes = match tokio::time::timeout(BODY_READ_TIMEOUT, limited).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
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

    /// Returns a header, unless it is not text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Parses the body as JSON.
    pub fn body<B: Body>(&self) -> Result<B, ApiError> {
        let json = self.header("content-type").is_some_and(is_json);
        if !json && !self.bytes.is_empty() {
            return Err(ApiError::unsupported_media_type());
        }
        body::read(&self.bytes)
    }

    /// Returns the query parameters.
    pub fn query(&self) -> Query {
        let pairs = Pairs::<Vec<(String, String)>>::try_from_uri(&self.uri);
        Query::new(pairs.map(|pairs| pairs.0).unwrap_or_default())
    }

    /// Parses an id of the path. A malformed id is reported as not found.
    pub fn path_id<T>(
        &self,
        name: &str,
        read: fn(&str) -> Result<T, MalformedId>,
    ) -> Result<T, UseCaseError> {
        let param = self.path.iter().find(|(param, _)| param == name);
        param.and_then(|(_, text)| read(text).ok()).ok_or(UseCaseError::NotFound)
    }

    /// Returns what the audit log and the version check need to know about the request.
    pub fn origin(&self) -> Origin {
        let if_match = match self.header("if-match").map(str::trim) {
            None | Some("*") => None,
            // Versions are numbers; any other tag matches no version.
            Some(tag) => {
                let digits = tag.trim_start_matches("W/").trim_matches('"');
                Some(digits.parse().unwrap_or(-1))
            }
        };
        Origin { address: self.client_address, request_id: self.request_id.clone(), if_match }
    }

    /// Returns the credential, and whether it comes from a cookie, which browsers send by
    /// themselves.
    fn credential(&self) -> Option<Credential<'_>> {
        if let Some(value) = self.header("authorization") {
            let (scheme, secret) = value.split_once(' ')?;
            let is_bearer = scheme.eq_ignore_ascii_case("bearer");
            return is_bearer.then(|| Credential { secret: secret.trim(), from_cookie: false });
        }
        let cookies = self.headers.get_all(header::COOKIE).iter();
        let pairs =
            cookies.filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(';'));
        let mut cookies = pairs.filter_map(|pair| pair.trim().split_once('='));
        let session_cookie = COOKIE_NAMES[usize::from(!self.state.is_secure())];
        let (_, secret) = cookies.find(|(name, _)| *name == session_cookie)?;
        Some(Credential { secret, from_cookie: true })
    }

    /// Whether a request authenticated by cookie comes from the console's own origin.
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

    /// Returns a `Set-Cookie` value that sets the session cookie, or clears it without a secret.
    pub fn session_cookie(&self, secret: Option<&str>) -> String {
        let secure = self.state.is_secure();
        let name = COOKIE_NAMES[usize::from(!secure)];
        let (secret, age) = secret.map_or(("", "; Max-Age=0"), |secret| (secret, ""));
        let tls = if secure { "; Secure" } else { "" };
        format!("{name}={secret}; Path=/; HttpOnly; SameSite=Lax{tls}{age}")
    }
}

impl AuthenticatedRequest {
    /// Returns whose quota the path names: a project's with an id, else the organization's.
    pub fn quota_subject(&self) -> Result<QuotaSubject, UseCaseError> {
        if self.path.is_empty() {
            return Ok(QuotaSubject::Organization);
        }
        Ok(QuotaSubject::Project(self.path_id("id", ProjectId::parse)?))
    }

    /// Resolves the organization from the header, the token or the only membership.
    pub async fn org_context(&self) -> Result<OrgContext, UseCaseError> {
        self.org_context_in(None).await
    }

    /// Like [`org_context`](Self::org_context), but the body may name the organization too.
    pub async fn org_context_in(&self, body: Option<&str>) -> Result<OrgContext, UseCaseError> {
        let header = self.header("x-organization-id");
        access::resolve_org(&self.state.services, &self.principal, header, body).await
    }

    /// Returns `None` if no organization is named and none can be derived.
    pub async fn org_context_opt(&self) -> Result<Option<OrgContext>, UseCaseError> {
        match self.org_context().await {
            Ok(org) => Ok(Some(org)),
            Err(UseCaseError::Invalid(_)) => Ok(None),
            Err(error) => Err(error),
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
        let request = AdminRequest::from_request(request, state).await?;
        authenticate(request).await.map_err(IntoResponse::into_response)
    }
}

async fn authenticate(request: AdminRequest) -> Result<AuthenticatedRequest, Interrupt> {
    let credential = request.credential().ok_or(UseCaseError::Unauthenticated("no_credential"))?;
    if credential.from_cookie && !request.is_same_site() {
        return Err(ApiError::cross_site().into());
    }
    let principal = access::authenticate(&request.state.services, credential.secret).await?;
    Ok(AuthenticatedRequest { principal: Arc::new(principal), request })
}

async fn path_params(parts: &mut Parts) -> Result<Vec<(String, String)>, ApiError> {
    // A path that is not UTF-8 matches nothing.
    let params = RawPathParams::from_request_parts(parts, &()).await;
    let params = params.map_err(|_| ApiError::unknown_path())?;
    Ok(params.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

fn is_json(content_type: &str) -> bool {
    let media = content_type.split(';').next().unwrap_or_default().trim();
    media.eq_ignore_ascii_case("application/json")
}

/// Returns the last address of the forwarding chain that is not a trusted proxy.
fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[Cidr]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|block| block.contains(address));
    let forwarded =
        headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
    let mut hops: Vec<&str> = forwarded.flat_map(|list| list.split(',')).map(str::trim).collect();
    let mut address = peer;
    while is_trusted(address) {
        let Some(previous) = hops.pop().and_then(|text| text.parse().ok()) else { break };
        address = previous;
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarded_addresses_count_only_behind_trusted_proxies() {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", "9.9.9.9, 8.8.8.8, 10.0.0.2".parse().expect("a header"));
        let proxies = [Cidr::parse("10.0.0.0/8").expect("a CIDR")];
        let from = |peer: &str, trusted: &[Cidr]| {
            client_address(peer.parse().expect(peer), &headers, trusted).to_string()
        };
        assert_eq!(from("10.0.0.1", &proxies), "8.8.8.8", "the client's own entries are ignored");
        assert_eq!(from("7.7.7.7", &proxies), "7.7.7.7");
        assert_eq!(from("10.0.0.1", &[]), "10.0.0.1");
    }
}
