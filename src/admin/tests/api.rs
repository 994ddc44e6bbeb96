//! Sign-in, credentials, errors and the OpenAPI document.

use std::net::SocketAddr;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use serde_json::Value;

use crate::admin::router::document;
use crate::admin::tests::test_api::TestApi;
use crate::organization::bootstrap::{self, FirstStart, NewOperator};
use crate::organization::error::UseCaseError;
use crate::settings::secret::Secret;

#[tokio::test]
async fn a_setup_link_creates_the_first_operator_only_once() {
    let api = TestApi::empty().await;
    let first = bootstrap::first_start(&api.services, None).await.expect("a start");
    let FirstStart::Link(old) = first else { panic!("an operator exists") };
    let again = bootstrap::first_start(&api.services, None).await.expect("a start");
    let FirstStart::Link(link) = again else { panic!("an operator exists") };
    let body = |token: &str, password: &str| {
        format!(
            r#"{{"token":"{token}","email":" Op@Example.com","name":"Op","password":"{password}"}}"#
        )
    };
    let path = "/api/auth/setup";
    let replaced = api.post(path, &body(old.expose(), "long enough")).await;
    assert_eq!(replaced.expect_error(401), "invalid_setup_link", "replaced by a newer link");
    assert_eq!(
        api.post(path, &body(link.expose(), "short")).await.expect_error(400),
        "wrong_length"
    );
    let created = api.post(path, &body(link.expose(), "long enough")).await;
    assert_eq!(created.json["data"]["user"]["email"], "op@example.com", "{}", created.text);
    assert_eq!(created.json["data"]["user"]["isOperator"], true);
    assert!(
        created.headers["set-cookie"].to_str().expect("text").contains("HttpOnly; SameSite=Lax")
    );
    let twice = api.post(path, &body(link.expose(), "long enough")).await;
    assert_eq!(twice.expect_error(401), "invalid_setup_link");
    let ready = bootstrap::first_start(&api.services, None).await.expect("a start");
    assert!(matches!(ready, FirstStart::Ready));

    let wrong = r#"{"email":"op@example.com","password":"wrong"}"#;
    let unknown = r#"{"email":"nobody@example.com","password":"wrong"}"#;
    let wrong = api.post("/api/auth/login", wrong).await;
    assert_eq!(wrong.expect_error(401), "wrong_email_or_password");
    assert_eq!(
        wrong.text,
        api.post("/api/auth/login", unknown).await.text,
        "the responses do not differ"
    );
    let right = r#"{"email":"OP@example.com ","password":"long enough"}"#;
    let session = api.post("/api/auth/login", right).await.text_of("token");
    let signed_in = api.with_token(&session);
    assert_eq!(signed_in.get("/api/auth/me").await.text_of("name"), "Op");
    assert_eq!(signed_in.get("/api/projects").await.expect_error(400), "organization_required");
    assert_eq!(signed_in.post("/api/auth/logout", "").await.status, 200);
    assert_eq!(signed_in.get("/api/auth/me").await.expect_error(401), "invalid_credential");
}

#[tokio::test]
async fn a_configured_operator_can_sign_in() {
    let api = TestApi::empty().await;
    let operator = |password: &str| NewOperator {
        email: "Op@example.com".into(),
        name: "Op".into(),
        password: Some(Secret::new(password.into())),
    };
    let short = bootstrap::first_start(&api.services, Some(operator("short"))).await;
    assert!(matches!(short, Err(UseCaseError::Invalid(_))));
    for password in ["long enough", "another one, too late"] {
        let first = bootstrap::first_start(&api.services, Some(operator(password))).await;
        assert!(matches!(first, Ok(FirstStart::Ready)));
    }
    let body = r#"{"email":"op@example.com","password":"long enough"}"#;
    assert_eq!(api.post("/api/auth/login", body).await.data("user")["isOperator"], true);
}

#[tokio::test]
async fn sign_in_attempts_are_limited_per_address() {
    let api = TestApi::empty().await;
    let body = r#"{"email":"op@example.com","password":"wrong"}"#;
    let from = |last| {
        let mut request = api.request("POST", "/api/auth/login", body);
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([10, 0, 0, last], 1))));
        request
    };
    // A slow machine refills a few attempts during the loop.
    let mut attempts = 0;
    let response = loop {
        let response = api.send(from(1)).await;
        if response.status != 401 {
            break response;
        }
        attempts += 1;
        assert!(attempts < 40, "attempts are not limited");
    };
    assert!(20 <= attempts, "{attempts}");
    assert_eq!(response.expect_error(429), "too_many_attempts");
    assert!(response.headers.contains_key("retry-after"));
    assert_eq!(api.send(from(2)).await.status, 401);
}

#[tokio::test]
async fn the_session_cookie_is_rejected_from_other_sites() {
    let api = TestApi::empty().await;
    let first = bootstrap::first_start(&api.services, None).await.expect("a start");
    let FirstStart::Link(link) = first else { panic!("an operator exists") };
    let body = format!(
        r#"{{"token":"{}","email":"o@example.com","name":"O","password":"long enough"}}"#,
        link.expose()
    );
    let created = api.post("/api/auth/setup", &body).await;
    let cookie = created.headers["set-cookie"].to_str().expect("text").to_owned();
    let cookie = cookie.split(';').next().expect("a pair").to_owned();
    let with_cookie = |method: &str, path: &str, extra: (&str, &str)| {
        let request = Request::builder().method(method).uri(path).header("host", "gateway");
        let request = request.header("cookie", &cookie).header(extra.0, extra.1);
        let request = request.header("content-type", "application/json");
        request.body(Body::from(r#"{"name":"A"}"#)).expect("a request")
    };
    let path = "/api/organizations";
    let fetch_site = "sec-fetch-site";
    assert_eq!(
        api.send(with_cookie("POST", path, (fetch_site, "cross-site"))).await.expect_error(403),
        "cross_site"
    );
    let foreign = ("origin", "https://evil.example");
    assert_eq!(api.send(with_cookie("POST", path, foreign)).await.expect_error(403), "cross_site");
    assert_eq!(api.send(with_cookie("GET", "/api/auth/me", foreign)).await.status, 200);
    assert_eq!(api.send(with_cookie("POST", path, (fetch_site, "same-origin"))).await.status, 200);
    assert_eq!(api.send(with_cookie("POST", path, ("origin", "http://gateway"))).await.status, 200);
}

#[tokio::test]
async fn all_errors_have_the_same_form() {
    let api = TestApi::new().await;
    assert_eq!(api.get("/api/nothing").await.expect_error(404), "unknown_path");
    let response = api.send(api.request("PATCH", "/api/projects", "{}")).await;
    assert_eq!(response.expect_error(405), "method_not_allowed");
    assert!(response.headers["allow"].to_str().expect("text").contains("POST"));
    let big = format!(r#"{{"name":"{}"}}"#, "a".repeat(1 << 20));
    assert_eq!(api.post("/api/projects", &big).await.expect_error(413), "body_too_large");
    let mut form = api.request("POST", "/api/projects", "name=a");
    form.headers_mut().insert("content-type", "text/plain".parse().expect("a header"));
    assert_eq!(api.send(form).await.expect_error(415), "unsupported_media_type");
    assert_eq!(api.post("/api/projects", "{").await.expect_error(400), "malformed_json");
    assert_eq!(api.post("/api/projects", "[]").await.expect_error(400), "malformed_json");
    assert_eq!(api.get("/api/projects?money=gold").await.expect_error(400), "unknown_value");
    let response = api.get("/api/projects?page=0&size=101&sort=colour").await;
    assert_eq!(response.expect_error(400), "validation_failed");
    assert_eq!(response.json["error"]["errors"].as_array().expect("a list").len(), 3);
    assert!(response.headers.contains_key("x-request-id"));
    let anonymous = api.with_token("");
    assert_eq!(anonymous.get("/api/projects").await.expect_error(401), "invalid_credential");
    let key = "sk-mtr-0000000000000000000000000000000000000000000000000";
    let response = api.with_token(key).get("/api/projects").await;
    assert_eq!(response.expect_error(401), "data_plane_key");
    assert_eq!(response.headers["www-authenticate"], "Bearer");
    for id in ["nonsense", "%00", "%ff", "proj_00000000000000000000000000000000"] {
        api.get(&format!("/api/projects/{id}/quota")).await.expect_error(404);
    }
}

#[tokio::test]
async fn the_organization_comes_from_header_body_token_or_membership() {
    let api = TestApi::new().await;
    let other = api.post("/api/organizations", r#"{"name":"Other"}"#).await.text_of("id");
    let mut request = api.request("GET", "/api/organization", "");
    request.headers_mut().insert("x-organization-id", other.parse().expect("a header"));
    assert_eq!(api.send(request).await.text_of("id"), other, "the header wins");
    assert_eq!(api.get("/api/organization").await.text_of("id"), api.organization, "the token");
    let body = format!(r#"{{"name":"P","organizationId":"{other}"}}"#);
    assert_eq!(api.post("/api/projects", &body).await.text_of("organizationId"), other);
    let mut request = api.request("POST", "/api/projects", &body);
    let token_organization = api.organization.parse().expect("a header");
    request.headers_mut().insert("x-organization-id", token_organization);
    assert_eq!(api.send(request).await.expect_error(400), "organization_mismatch");
    let foreign = r#"{"name":"P","organizationId":"org_123"}"#;
    assert_eq!(api.post("/api/projects", foreign).await.expect_error(404), "not_found");
    let listed = api.get("/api/platform/organizations?query=OTH&sort=name").await;
    assert_eq!((listed.json["total"].as_i64(), listed.status), (Some(1), 200));
}

#[tokio::test]
async fn a_token_is_limited_to_its_scopes() {
    let api = TestApi::new().await;
    let path = "/api/auth/tokens";
    let body = r#"{"name":"o","kind":"Organization","scopes":["wallet.read","account.write"]}"#;
    let created = api.post(path, body).await;
    assert_eq!(created.text_of("kind"), "Organization");
    let token = api.with_token(&created.text_of("token"));
    assert_eq!(token.get("/api/organization/wallet").await.data("balance").to_string(), "100.0");
    let response = token.post("/api/organization/wallet/recharge", r#"{"amount":1}"#).await;
    assert_eq!(response.expect_error(403), "missing_scope");
    assert_eq!(response.json["error"]["param"], "wallet.write");
    assert_eq!(token.get("/api/platform/organizations").await.expect_error(403), "missing_scope");
    let more = r#"{"name":"x","kind":"Organization","scopes":["wallet.write"]}"#;
    let response = token.post(path, more).await;
    assert_eq!(
        response.expect_error(403),
        "missing_scope",
        "creating tokens requires organization.write"
    );
    let listed = api.get(path).await;
    assert!(listed.text.contains("\"total\":2") && !listed.text.contains("at-mtr-"));
    let id = created.text_of("id");
    assert_eq!(api.delete(&format!("{path}/{id}")).await.status, 200);
    assert_eq!(api.delete(&format!("{path}/{id}")).await.expect_error(404), "not_found");
    assert_eq!(token.get("/api/auth/me").await.expect_error(401), "revoked_credential");
}

#[test]
fn the_openapi_document_is_up_to_date() {
    let json = document().to_pretty_json().expect("JSON") + "\n";
    let snapshot = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");
    if std::fs::read_to_string(snapshot).unwrap_or_default() != json {
        std::fs::write(snapshot, &json).expect("docs is writable");
        panic!("docs/openapi.json was out of date; review the new version and commit it");
    }
    let document: Value = serde_json::from_str(&json).expect("JSON");
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/admin-api.md");
    let page = std::fs::read_to_string(page).expect("docs/admin-api.md");
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            assert!(operation["x-access"].is_object(), "{method} {path} has no x-access");
            let line = format!("`{} {path}`", method.to_uppercase());
            assert!(page.contains(&line), "docs/admin-api.md does not describe {line}");
        }
    }
}
