//! The admin API in-process: the router on a database in a temporary folder.

mod fixed_catalog;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, Request};
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

use crate::accounting::directory::Directory;
use crate::admin::router::{document, router};
use crate::admin::state::{AdminApiSettings, AdminState};
use crate::admin::tests::fixed_catalog::FixedCatalog;
use crate::clock;
use crate::journal::chains::{Durability, Journal, JournalSettings};
use crate::ledger::read_barrier::ReadBarrier;
use crate::organization::access::{OrgContext, Principal};
use crate::organization::bootstrap::{self, FirstStart, NewOperator};
use crate::organization::error::UseCaseError;
use crate::organization::organizations::{self, NewOrganization};
use crate::organization::roles::{Scope, TokenKind};
use crate::organization::services::{DeploymentSettings, Services};
use crate::organization::tokens::{self, NewToken};
use crate::organization::unit_of_work::{Origin, UnitOfWork};
use crate::organization::{members, projects, wallet};
use crate::settings::admission::AdmissionSettings;
use crate::settings::secret::Secret;
use crate::store::database::Database;

/// A platform with nothing in it.
pub struct TestApi {
    _folder: tempfile::TempDir,
    pub services: Arc<Services>,
    pub router: Router,
    pub token: String,
    pub organization: String,
}

/// An answer, read whole.
pub struct TestResponse {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
    pub json: Value,
}

impl TestResponse {
    pub fn data(&self, field: &str) -> Value {
        assert_eq!(self.status, 200, "{}", self.text);
        self.json["data"][field].clone()
    }

    pub fn text_of(&self, field: &str) -> String {
        self.data(field).as_str().unwrap_or_else(|| panic!("{field}: {}", self.text)).to_owned()
    }

    /// Checks that it is a no in the form of all, and gives its reason.
    pub fn expect_error(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.json["code"], status);
        assert!(self.json["data"].is_null());
        let error = self.json["error"].as_object().expect("an error");
        let fields: Vec<&str> = error.keys().map(String::as_str).collect();
        assert_eq!(fields, ["errors", "message", "param", "reason", "type"]);
        self.json["error"]["reason"].as_str().expect("a reason").to_owned()
    }
}

impl TestApi {
    /// Nobody is there yet.
    pub async fn empty() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let database = Database::open(&folder.path().join("meteor.db")).await.expect("a database");
        let directory = Directory::load(&database, AdmissionSettings::default(), clock::wall_now())
            .await
            .expect("a directory");
        let settings = JournalSettings {
            folder: folder.path().to_owned(),
            durability: Durability::Process,
            segment_bytes: 1 << 20,
            retention: Duration::ZERO,
            backlog_bytes_max: 1 << 20,
        };
        let journal = Arc::new(Journal::open(settings, 1, 0).expect("a journal"));
        let freshness = Arc::new(ReadBarrier::new(journal));
        let settings = DeploymentSettings { currency: "USD".into(), node: "node_1".into() };
        let reload = Arc::new(FixedCatalog);
        let platform = Services::new(database, Arc::new(directory), freshness, settings, reload);
        let state = AdminState::new(Arc::clone(&platform), AdminApiSettings::default());
        let router = router(state);
        let (token, organization) = (String::new(), String::new());
        Self { _folder: folder, services: platform, router, token, organization }
    }

    /// The operator has a token, and there is an organization with an Admin, a project and money.
    pub async fn new() -> Self {
        let scene = Self::empty().await;
        let password = None;
        let new = NewOperator { email: "op@example.com".into(), name: "Op".into(), password };
        let operator = bootstrap::ensure_operator(&scene.services, new).await.expect("an operator");
        let principal = Arc::new(Principal::system(operator));
        let mut work = UnitOfWork::begin(&scene.services, Origin::default()).await.expect("work");
        let new = NewOrganization {
            name: "Demo".into(),
            description: None,
            self_funding: true,
            on_disconnect: "cancel".into(),
            output_clamp: true,
            allowed_models: None,
        };
        let organization = organizations::create(&mut work, &principal, new).await.expect("one");
        let seat = OrgContext::for_operator(Arc::clone(&principal), organization.clone());
        members::add_admin(&mut work, &seat, "A@Example.com", "Ada").await.expect("an Admin");
        let amount = crate::domain::money::Nano::units(100);
        let new = wallet::NewRecharge { amount, description: None, reference: None };
        wallet::recharge(&mut work, &seat, &new).await.expect("a recharge");
        let new = projects::NewProject { name: "First".into(), ..Default::default() };
        projects::create(&mut work, &seat, new).await.expect("a project");
        let new = NewToken {
            name: "demo".into(),
            kind: TokenKind::Platform,
            organization: Some(organization.id),
            scopes: Scope::ALL.to_vec(),
            expires_at: Some(None),
        };
        let (_, secret) = tokens::create(&mut work, &principal, None, new).await.expect("a token");
        work.commit().await.expect("committed");
        let (token, organization) = (secret.expose().to_owned(), organization.id.to_string());
        Self { token, organization, ..scene }
    }

    pub async fn send(&self, request: Request<Body>) -> TestResponse {
        let response = self.router.clone().oneshot(request).await.expect("an answer");
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.expect("a body").to_bytes();
        let text = String::from_utf8(bytes.to_vec()).expect("text");
        let json = serde_json::from_str(&text).unwrap_or_default();
        TestResponse { status: parts.status.as_u16(), headers: parts.headers, text, json }
    }

    pub fn request(&self, method: &str, path: &str, body: &str) -> Request<Body> {
        let request = Request::builder().method(method).uri(path);
        let request = request.header("authorization", format!("Bearer {}", self.token));
        let request = request.header("content-type", "application/json");
        request.body(Body::from(body.to_owned())).expect("a request")
    }

    pub async fn get(&self, path: &str) -> TestResponse {
        self.send(self.request("GET", path, "")).await
    }

    pub async fn post(&self, path: &str, body: &str) -> TestResponse {
        self.send(self.request("POST", path, body)).await
    }

    pub async fn put(&self, path: &str, body: &str) -> TestResponse {
        self.send(self.request("PUT", path, body)).await
    }

    pub async fn delete(&self, path: &str) -> TestResponse {
        self.send(self.request("DELETE", path, "")).await
    }

    pub async fn project(&self) -> String {
        let list = self.get("/api/projects").await;
        list.json["data"][0]["id"].as_str().expect("an id").to_owned()
    }

    /// The same scene, as whoever has that token.
    pub fn with_token(&self, token: &str) -> Self {
        Self {
            _folder: tempfile::tempdir().expect("a folder"),
            services: Arc::clone(&self.services),
            router: self.router.clone(),
            token: token.to_owned(),
            organization: self.organization.clone(),
        }
    }
}

#[tokio::test]
async fn the_first_operator_comes_by_a_link_that_works_once() {
    let scene = TestApi::empty().await;
    let first = bootstrap::first_start(&scene.services, None).await.expect("a start");
    let FirstStart::Link(old) = first else { panic!("nobody is there yet") };
    let again = bootstrap::first_start(&scene.services, None).await.expect("a start");
    let FirstStart::Link(link) = again else { panic!("nobody is there yet") };
    let body = |token: &str, password: &str| {
        format!(
            r#"{{"token":"{token}","email":" Op@Example.com","name":"Op","password":"{password}"}}"#
        )
    };
    let path = "/api/auth/setup";
    let gone = scene.post(path, &body(old.expose(), "long enough")).await;
    assert_eq!(gone.expect_error(401), "invalid_setup_link", "a newer link replaces it");
    assert_eq!(
        scene.post(path, &body(link.expose(), "short")).await.expect_error(400),
        "wrong_length"
    );
    let made = scene.post(path, &body(link.expose(), "long enough")).await;
    assert_eq!(made.json["data"]["user"]["email"], "op@example.com", "{}", made.text);
    assert_eq!(made.json["data"]["user"]["isOperator"], true);
    assert!(made.headers["set-cookie"].to_str().expect("text").contains("HttpOnly; SameSite=Lax"));
    let twice = scene.post(path, &body(link.expose(), "long enough")).await;
    assert_eq!(twice.expect_error(401), "invalid_setup_link");
    let ready = bootstrap::first_start(&scene.services, None).await.expect("a start");
    assert!(matches!(ready, FirstStart::Ready));

    let wrong = r#"{"email":"op@example.com","password":"wrong"}"#;
    let unknown = r#"{"email":"nobody@example.com","password":"wrong"}"#;
    let wrong = scene.post("/api/auth/login", wrong).await;
    assert_eq!(wrong.expect_error(401), "wrong_email_or_password");
    assert_eq!(wrong.text, scene.post("/api/auth/login", unknown).await.text, "told the same");
    let right = r#"{"email":"OP@example.com ","password":"long enough"}"#;
    let session = scene.post("/api/auth/login", right).await.text_of("token");
    let own = scene.with_token(&session);
    assert_eq!(own.get("/api/auth/me").await.text_of("name"), "Op");
    assert_eq!(own.get("/api/projects").await.expect_error(400), "organization_required");
    assert_eq!(own.post("/api/auth/logout", "").await.status, 200);
    assert_eq!(own.get("/api/auth/me").await.expect_error(401), "invalid_credential");
}

#[tokio::test]
async fn an_operator_can_be_given_and_signs_in() {
    let scene = TestApi::empty().await;
    let given = |password: &str| NewOperator {
        email: "Op@example.com".into(),
        name: "Op".into(),
        password: Some(Secret::new(password.into())),
    };
    let short = bootstrap::first_start(&scene.services, Some(given("short"))).await;
    assert!(matches!(short, Err(UseCaseError::Invalid(_))));
    for password in ["long enough", "another one, too late"] {
        let first = bootstrap::first_start(&scene.services, Some(given(password))).await;
        assert!(matches!(first, Ok(FirstStart::Ready)));
    }
    let body = r#"{"email":"op@example.com","password":"long enough"}"#;
    assert_eq!(scene.post("/api/auth/login", body).await.data("user")["isOperator"], true);
}

#[tokio::test]
async fn sign_in_is_throttled_by_address() {
    let scene = TestApi::empty().await;
    let body = r#"{"email":"op@example.com","password":"wrong"}"#;
    let from = |last| {
        let mut request = scene.request("POST", "/api/auth/login", body);
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([10, 0, 0, last], 1))));
        request
    };
    // A slow machine earns itself a few more while it tries.
    let mut tries = 0;
    let told = loop {
        let told = scene.send(from(1)).await;
        if told.status != 401 {
            break told;
        }
        tries += 1;
        assert!(tries < 40, "nobody is stopped");
    };
    assert!(20 <= tries, "{tries}");
    assert_eq!(told.expect_error(429), "too_many_tries");
    assert!(told.headers.contains_key("retry-after"));
    assert_eq!(scene.send(from(2)).await.status, 401);
}

#[tokio::test]
async fn a_browser_signs_only_what_the_console_asks() {
    let scene = TestApi::empty().await;
    let first = bootstrap::first_start(&scene.services, None).await.expect("a start");
    let FirstStart::Link(link) = first else { panic!("nobody is there yet") };
    let body = format!(
        r#"{{"token":"{}","email":"o@example.com","name":"O","password":"long enough"}}"#,
        link.expose()
    );
    let made = scene.post("/api/auth/setup", &body).await;
    let cookie = made.headers["set-cookie"].to_str().expect("text").to_owned();
    let cookie = cookie.split(';').next().expect("a pair").to_owned();
    let ask = |method: &str, path: &str, extra: (&str, &str)| {
        let request = Request::builder().method(method).uri(path).header("host", "here");
        let request = request.header("cookie", &cookie).header(extra.0, extra.1);
        let request = request.header("content-type", "application/json");
        request.body(Body::from(r#"{"name":"A"}"#)).expect("a request")
    };
    let path = "/api/organizations";
    let site = "sec-fetch-site";
    assert_eq!(
        scene.send(ask("POST", path, (site, "cross-site"))).await.expect_error(403),
        "cross_site"
    );
    let foreign = ("origin", "https://evil.example");
    assert_eq!(scene.send(ask("POST", path, foreign)).await.expect_error(403), "cross_site");
    assert_eq!(scene.send(ask("GET", "/api/auth/me", foreign)).await.status, 200);
    assert_eq!(scene.send(ask("POST", path, (site, "same-origin"))).await.status, 200);
    assert_eq!(scene.send(ask("POST", path, ("origin", "http://here"))).await.status, 200);
}

#[tokio::test]
async fn every_no_has_one_form() {
    let scene = TestApi::new().await;
    assert_eq!(scene.get("/api/nothing").await.expect_error(404), "unknown_path");
    let told = scene.send(scene.request("PATCH", "/api/projects", "{}")).await;
    assert_eq!(told.expect_error(405), "method_not_allowed");
    assert!(told.headers["allow"].to_str().expect("text").contains("POST"));
    let big = format!(r#"{{"name":"{}"}}"#, "a".repeat(1 << 20));
    assert_eq!(scene.post("/api/projects", &big).await.expect_error(413), "body_too_large");
    let mut form = scene.request("POST", "/api/projects", "name=a");
    form.headers_mut().insert("content-type", "text/plain".parse().expect("a header"));
    assert_eq!(scene.send(form).await.expect_error(415), "unsupported_media_type");
    assert_eq!(scene.post("/api/projects", "{").await.expect_error(400), "malformed_json");
    assert_eq!(scene.post("/api/projects", "[]").await.expect_error(400), "malformed_json");
    assert_eq!(scene.get("/api/projects?money=gold").await.expect_error(400), "unknown_word");
    let told = scene.get("/api/projects?page=0&size=101&sort=colour").await;
    assert_eq!(told.expect_error(400), "several_faults");
    assert_eq!(told.json["error"]["errors"].as_array().expect("a list").len(), 3);
    assert!(told.headers.contains_key("x-request-id"));
    let nobody = scene.with_token("");
    assert_eq!(nobody.get("/api/projects").await.expect_error(401), "invalid_credential");
    let key = "sk-mtr-0000000000000000000000000000000000000000000000000";
    let told = scene.with_token(key).get("/api/projects").await;
    assert_eq!(told.expect_error(401), "data_plane_key");
    assert_eq!(told.headers["www-authenticate"], "Bearer");
    for id in ["nonsense", "%00", "%ff", "proj_00000000000000000000000000000000"] {
        scene.get(&format!("/api/projects/{id}/quota")).await.expect_error(404);
    }
}

#[tokio::test]
async fn an_organization_is_said_by_header_body_token_or_membership() {
    let scene = TestApi::new().await;
    let other = scene.post("/api/organizations", r#"{"name":"Other"}"#).await.text_of("id");
    let mut request = scene.request("GET", "/api/organization", "");
    request.headers_mut().insert("x-organization-id", other.parse().expect("a header"));
    assert_eq!(scene.send(request).await.text_of("id"), other, "the header wins");
    assert_eq!(scene.get("/api/organization").await.text_of("id"), scene.organization, "the token");
    let body = format!(r#"{{"name":"P","organizationId":"{other}"}}"#);
    assert_eq!(scene.post("/api/projects", &body).await.text_of("organizationId"), other);
    let mut request = scene.request("POST", "/api/projects", &body);
    let own = scene.organization.parse().expect("a header");
    request.headers_mut().insert("x-organization-id", own);
    assert_eq!(scene.send(request).await.expect_error(400), "organization_mismatch");
    let foreign = r#"{"name":"P","organizationId":"org_123"}"#;
    assert_eq!(scene.post("/api/projects", foreign).await.expect_error(404), "not_found");
    let listed = scene.get("/api/platform/organizations?query=OTH&sort=name").await;
    assert_eq!((listed.json["total"].as_i64(), listed.status), (Some(1), 200));
}

#[tokio::test]
async fn a_token_may_what_its_scopes_say_and_no_more() {
    let scene = TestApi::new().await;
    let path = "/api/auth/tokens";
    let body = r#"{"name":"o","kind":"Organization","scopes":["wallet.read","account.write"]}"#;
    let made = scene.post(path, body).await;
    assert_eq!(made.text_of("kind"), "Organization");
    let token = scene.with_token(&made.text_of("token"));
    assert_eq!(token.get("/api/organization/wallet").await.data("balance").to_string(), "100.0");
    let told = token.post("/api/organization/wallet/recharge", r#"{"amount":1}"#).await;
    assert_eq!(told.expect_error(403), "missing_scope");
    assert_eq!(told.json["error"]["param"], "wallet.write");
    assert_eq!(token.get("/api/platform/organizations").await.expect_error(403), "missing_scope");
    let more = r#"{"name":"x","kind":"Organization","scopes":["wallet.write"]}"#;
    let told = token.post(path, more).await;
    assert_eq!(told.expect_error(403), "missing_scope", "making tokens takes organization.write");
    let listed = scene.get(path).await;
    assert!(listed.text.contains("\"total\":2") && !listed.text.contains("at-mtr-"));
    let id = made.text_of("id");
    assert_eq!(scene.delete(&format!("{path}/{id}")).await.status, 200);
    assert_eq!(scene.delete(&format!("{path}/{id}")).await.expect_error(404), "not_found");
    assert_eq!(token.get("/api/auth/me").await.expect_error(401), "revoked_credential");
}

#[test]
fn the_document_is_what_is_kept() {
    let json = document().to_pretty_json().expect("JSON") + "\n";
    let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
    if std::fs::read_to_string(kept).unwrap_or_default() != json {
        std::fs::write(kept, &json).expect("docs is writable");
        panic!("docs/openapi.json was out of date and is written anew: look at it and commit it");
    }
    let document: Value = serde_json::from_str(&json).expect("JSON");
    let prose = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/admin-api.md");
    let prose = std::fs::read_to_string(prose).expect("docs/admin-api.md");
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            assert!(operation["x-access"].is_object(), "{method} {path} says who may");
            let line = format!("`{} {path}`", method.to_uppercase());
            assert!(prose.contains(&line), "docs/admin-api.md: say what {line} does");
        }
    }
}
