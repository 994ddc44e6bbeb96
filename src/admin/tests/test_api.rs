//! Runs the admin API in-process: the router on a database in a temporary folder.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request};
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

use crate::accounting::key_directory::Directory;
use crate::admin::router::router;
use crate::admin::state::{AdminApiSettings, AdminState};
use crate::admin::tests::fixed_catalog::fixed_catalog;
use crate::clock;
use crate::domain::roles::{Scope, TokenKind};
use crate::domain::status::OnDisconnect;
use crate::journal::chains::{Durability, Journal, JournalSettings};
use crate::ledger::read_barrier::ReadBarrier;
use crate::organization::access::{OrgContext, Principal};
use crate::organization::bootstrap::{self, NewOperator};
use crate::organization::organizations::{self, NewOrganization};
use crate::organization::services::{DeploymentSettings, Services};
use crate::organization::tokens::{self, NewToken};
use crate::organization::unit_of_work::{Origin, UnitOfWork};
use crate::organization::{members, projects, wallet};
use crate::settings::admission::AdmissionSettings;
use crate::store::database::Database;

/// The admin API and the credential of a caller.
pub struct TestApi {
    _folder: tempfile::TempDir,
    pub services: Arc<Services>,
    pub router: Router,
    pub token: String,
    pub organization: String,
}

/// A response with its whole body.
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

    /// Asserts the form of an error response and returns its reason.
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
    /// Starts with an empty database.
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
        let catalog = fixed_catalog();
        let services = Services::new(database, Arc::new(directory), freshness, settings, catalog);
        let state = AdminState::new(Arc::clone(&services), AdminApiSettings::default());
        let router = router(state);
        let (token, organization) = (String::new(), String::new());
        Self { _folder: folder, services, router, token, organization }
    }

    /// Starts with an organization that has an Admin, a project and a balance; the caller is the
    /// operator.
    pub async fn new() -> Self {
        let api = Self::empty().await;
        let password = None;
        let new = NewOperator { email: "op@example.com".into(), name: "Op".into(), password };
        let operator = bootstrap::ensure_operator(&api.services, new).await.expect("an operator");
        let principal = Arc::new(Principal::system(operator));
        let mut work = UnitOfWork::begin(&api.services, Origin::default()).await.expect("work");
        let new = NewOrganization {
            name: "Demo".into(),
            description: None,
            self_funding: true,
            on_disconnect: OnDisconnect::Cancel,
            output_clamp: true,
            allowed_models: None,
        };
        let organization = organizations::create(&mut work, &principal, new).await.expect("one");
        let org = OrgContext::for_operator(Arc::clone(&principal), organization.clone());
        members::add_admin(&mut work, &org, "A@Example.com", "Ada").await.expect("an Admin");
        let amount = crate::domain::money::Nano::units(100);
        let new = wallet::NewRecharge { amount, description: None, reference: None };
        wallet::recharge(&mut work, &org, &new).await.expect("a recharge");
        let new = projects::NewProject { name: "First".into(), ..Default::default() };
        projects::create(&mut work, &org, new).await.expect("a project");
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
        Self { token, organization, ..api }
    }

    pub async fn send(&self, request: Request<Body>) -> TestResponse {
        let response = self.router.clone().oneshot(request).await.expect("a response");
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

    /// Returns the same API with the token of another caller.
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
