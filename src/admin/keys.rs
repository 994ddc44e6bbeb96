//! `api-keys`: what opens a project.

use std::collections::BTreeMap;

use axum::http::Method;
use serde::Serialize;
use utoipa::ToSchema;

use crate::admin::body::{Body, BodyReader, BodySchema, body};
use crate::admin::field_type::{
    Bool, CidrText, IntegerIn, ListOf, MODEL_GLOBS, MoneyAmount, NAME, ParsedString, StringMap,
    Timestamp,
};
use crate::admin::operation::{OperationSpec, Routes};
use crate::admin::request::AuthenticatedRequest;
use crate::admin::response::{AdminResponse, HandlerResult};
use crate::admin::scalar::{Money, Rfc3339};
use crate::clock;
use crate::domain::ids::{ApiKeyId, ProjectId, UserId};
use crate::domain::limit::Limits;
use crate::organization::error::UseCaseError;
use crate::organization::keys::{self, KeyChange};
use crate::organization::rights::Action;
use crate::organization::secrets::SecretKind;
use crate::store::api_keys::{ApiKey, SORTS};

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ApiKey)]
struct ApiKeyView {
    id: String,
    project_id: String,
    name: String,
    /// Shown once, when it is made or rotated.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    prefix: &'static str,
    last4: String,
    #[schema(required)]
    owner_user_id: Option<String>,
    enabled: bool,
    status: &'static str,
    #[schema(required)]
    disabled_reason: Option<String>,
    #[schema(required)]
    expires_at: Option<Rfc3339>,
    #[schema(required)]
    allowed_models: Option<Vec<String>>,
    #[schema(required)]
    allowed_cidrs: Option<Vec<String>>,
    #[schema(required)]
    requests_per_minute_limit: Option<i64>,
    #[schema(required)]
    monthly_spend_limit: Option<Money>,
    metadata: BTreeMap<String, String>,
    #[schema(required)]
    previous_key_expires_at: Option<Rfc3339>,
    created_by: String,
    created_at: Rfc3339,
    updated_at: Rfc3339,
    #[schema(required)]
    last_used_at: Option<Rfc3339>,
    #[schema(required)]
    revoked_at: Option<Rfc3339>,
    version: i64,
}

struct NewKeyBody(KeyChange);

struct RotationBody {
    grace_seconds: i64,
}

const USER_ID: ParsedString<UserId> =
    ParsedString("the id of a user", |text| UserId::parse(text).ok());
const CIDRS: ListOf<CidrText> = ListOf(100, CidrText);
const DAY_SECONDS: i64 = 86_400;
const QUERY: &[(&str, &str)] = &[
    ("page", "From 1."),
    ("size", "Rows a page: 1 to 100, 20 by default."),
    ("sort", "name, createdAt or lastUsedAt, or one with - before it."),
];

body! { KeyChange as "ApiKeyChange" {
    name: optional_update("name", NAME),
    owner: nullable("ownerUserId", USER_ID),
    enabled: optional_update("enabled", Bool),
    expires_at: nullable("expiresAt", Timestamp::Future),
    allowed_models: nullable("allowedModels", MODEL_GLOBS),
    allowed_cidrs: nullable("allowedCidrs", CIDRS),
    requests_per_minute: nullable("requestsPerMinuteLimit", IntegerIn(0, Limits::MAX)),
    monthly_spend: nullable("monthlySpendLimit", MoneyAmount::NonNegative),
    metadata: optional_update("metadata", StringMap),
}}

body! { RotationBody as "Rotation" {
    grace_seconds: with_default("gracePeriodSeconds", IntegerIn(0, 7 * DAY_SECONDS), DAY_SECONDS),
}}

/// A new key is a change of a blank one, but for its name, which it must have.
impl Body for NewKeyBody {
    const NAME: &'static str = "NewApiKey";

    fn read(fields: &mut BodyReader) -> Option<Self> {
        let name = fields.required_in_patch("name", NAME);
        let change = KeyChange::read(fields)?;
        Some(Self(KeyChange { name: name?, ..change }))
    }

    fn describe(shape: &mut BodySchema) {
        shape.required_in_patch("name", NAME);
        KeyChange::describe(shape);
    }
}

/// What this file answers.
pub fn routes(operations: Routes) -> Routes {
    let all = "/api/projects/{id}/api-keys";
    let one = "/api/projects/{id}/api-keys/{keyId}";
    let rotate_path = "/api/projects/{id}/api-keys/{keyId}/rotate";
    let list_doc = OperationSpec::in_organization(Action::ViewKeys, "Lists a project's keys.");
    let create_doc =
        OperationSpec::in_organization(Action::ManageKeys, "Makes a key; it is shown once.");
    let change_doc = OperationSpec::in_organization(Action::ManageKeys, "Changes a key.");
    let rotate_doc = OperationSpec::in_organization(
        Action::ManageKeys,
        "Gives a key another secret, shown once.",
    );
    let revoke_doc = OperationSpec::in_organization(Action::ManageKeys, "Revokes a key.");
    operations
        .add(&Method::GET, all, list, list_doc.query_params(QUERY).list_response::<ApiKeyView>())
        .add(
            &Method::POST,
            all,
            create,
            create_doc.request_body::<NewKeyBody>().response::<ApiKeyView>(),
        )
        .add(
            &Method::PUT,
            one,
            change,
            change_doc.request_body::<KeyChange>().response::<ApiKeyView>(),
        )
        .add(&Method::DELETE, one, revoke, revoke_doc)
        .add(
            &Method::POST,
            rotate_path,
            rotate,
            rotate_doc.request_body::<RotationBody>().response::<ApiKeyView>(),
        )
}

async fn list(asked: AuthenticatedRequest) -> HandlerResult {
    let project = asked.request.path_id("id", ProjectId::parse)?;
    let seat = asked.org_context().await?;
    let mut query = asked.request.query();
    let (page, sort) = (query.page(), query.sort(SORTS));
    query.finish()?;
    let platform = &asked.request.state.services;
    let (rows, total) = keys::list(platform, &seat, project, page, sort).await?;
    let rows: Vec<ApiKeyView> = rows.into_iter().map(|row| to_view(row, None)).collect();
    Ok(AdminResponse::page(&rows, total, page))
}

async fn create(asked: AuthenticatedRequest) -> HandlerResult {
    let project = asked.request.path_id("id", ProjectId::parse)?;
    let new: NewKeyBody = asked.request.body()?;
    let seat = asked.org_context().await?;
    let mut begun = asked.begin_mutation(Some(&seat)).await?;
    let done = keys::create(&mut begun.work, &seat, project, new.0).await;
    asked.finish_mutation(begun, done.map(with_secret)).await
}

async fn change(asked: AuthenticatedRequest) -> HandlerResult {
    let which = path_ids(&asked)?;
    let change: KeyChange = asked.request.body()?;
    let seat = asked.org_context().await?;
    let mut begun = asked.begin_mutation(Some(&seat)).await?;
    let done = keys::change(&mut begun.work, &seat, which, change).await;
    let answer = done.map(|key| {
        let version = key.version;
        AdminResponse::object(&to_view(key, None)).with_version(version)
    });
    asked.finish_mutation(begun, answer).await
}

async fn rotate(asked: AuthenticatedRequest) -> HandlerResult {
    let which = path_ids(&asked)?;
    let rotation: RotationBody = asked.request.body()?;
    let seat = asked.org_context().await?;
    let mut begun = asked.begin_mutation(Some(&seat)).await?;
    let done = keys::rotate(&mut begun.work, &seat, which, rotation.grace_seconds).await;
    asked.finish_mutation(begun, done.map(with_secret)).await
}

async fn revoke(asked: AuthenticatedRequest) -> HandlerResult {
    let which = path_ids(&asked)?;
    let seat = asked.org_context().await?;
    let mut begun = asked.begin_mutation(Some(&seat)).await?;
    let done = keys::revoke(&mut begun.work, &seat, which).await;
    asked.finish_mutation(begun, done.map(|()| AdminResponse::message("API key revoked"))).await
}

fn path_ids(asked: &AuthenticatedRequest) -> Result<(ProjectId, ApiKeyId), UseCaseError> {
    let project = asked.request.path_id("id", ProjectId::parse)?;
    Ok((project, asked.request.path_id("keyId", ApiKeyId::parse)?))
}

fn with_secret((key, secret): (ApiKey, crate::settings::secret::Secret)) -> AdminResponse {
    let version = key.version;
    let shown = to_view(key, Some(secret.expose().to_owned()));
    AdminResponse::object(&shown).with_version(version).with_secret(&secret)
}

fn to_view(key: ApiKey, secret: Option<String>) -> ApiKeyView {
    let now = clock::wall_now();
    let status = match &key {
        ApiKey { revoked_at: Some(_), .. } => "Revoked",
        ApiKey { expires_at: Some(ends), .. } if *ends <= now => "Expired",
        ApiKey { enabled: false, .. } => "Disabled",
        _ => "Active",
    };
    ApiKeyView {
        id: key.id.to_string(),
        project_id: key.project.to_string(),
        name: key.name,
        key: secret,
        prefix: SecretKind::ApiKey.prefix(),
        last4: key.last4,
        owner_user_id: key.owner.map(|id| id.to_string()),
        enabled: key.enabled,
        status,
        disabled_reason: key.disabled_reason,
        expires_at: key.expires_at.map(Rfc3339),
        allowed_models: key.allowed_models,
        allowed_cidrs: key.allowed_cidrs,
        requests_per_minute_limit: key.requests_per_minute,
        monthly_spend_limit: key.monthly_spend.map(Money),
        metadata: key.metadata,
        previous_key_expires_at: key.previous_expires_at.map(Rfc3339),
        created_by: key.created_by.to_string(),
        created_at: Rfc3339(key.created_at),
        updated_at: Rfc3339(key.updated_at),
        last_used_at: key.last_used_at.map(Rfc3339),
        revoked_at: key.revoked_at.map(Rfc3339),
        version: key.version,
    }
}

#[cfg(test)]
mod tests {
    use crate::admin::tests::TestApi;
    use crate::domain::limit::Limit;
    use crate::organization::secrets::hash;
    use crate::store::directory_rows;

    /// Whether the data plane knows that secret, and lets it in.
    fn is_usable(scene: &TestApi, secret: &str) -> bool {
        let keys = scene.services.directory.keys();
        keys.find(&hash(secret)).is_some_and(|caller| caller.enabled)
    }

    #[tokio::test]
    async fn a_key_is_shown_once_and_known_at_once() {
        let scene = TestApi::new().await;
        let path = format!("/api/projects/{}/api-keys", scene.project().await);
        let body = r#"{"name":"k","allowedModels":["gpt-4o*"],"allowedCidrs":["10.0.0.0/8"],
            "monthlySpendLimit":"1.5","metadata":{"team":"a"},"expiresAt":"2100-01-01T00:00:00Z"}"#;
        let mut request = scene.request("POST", &path, body);
        request.headers_mut().insert("idempotency-key", "one".parse().expect("a header"));
        let made = scene.send(request).await;
        let secret = made.text_of("key");
        assert!(is_usable(&scene, &secret), "before the answer");
        assert_eq!(made.text_of("last4"), secret[secret.len() - 4..]);
        assert_eq!(made.text_of("status"), "Active");
        let mut request = scene.request("POST", &path, body);
        request.headers_mut().insert("idempotency-key", "one".parse().expect("a header"));
        let again = scene.send(request).await;
        assert!(again.data("key").is_null() && !again.text.contains(&secret), "{}", again.text);
        assert_eq!(again.data("id"), made.data("id"));
        let listed = scene.get(&path).await;
        assert!(!listed.text.contains("\"key\"") && !listed.text.contains(&secret));
        let wrong = r#"{"allowedCidrs":["x"],"expiresAt":"2020-01-01","metadata":{"a":1}}"#;
        let told = scene.post(&path, wrong).await;
        assert_eq!(told.expect_error(400), "several_faults");
        assert_eq!(told.json["error"]["errors"].as_array().expect("a list").len(), 4);
        let stranger = r#"{"name":"k","ownerUserId":"01901234-5678-7abc-8def-0123456789ab"}"#;
        assert_eq!(scene.post(&path, stranger).await.expect_error(400), "not_a_member");
    }

    #[tokio::test]
    async fn a_rotated_key_keeps_its_grace_and_a_revoked_one_nothing() {
        let scene = TestApi::new().await;
        let path = format!("/api/projects/{}/api-keys", scene.project().await);
        let made = scene.post(&path, r#"{"name":"k"}"#).await;
        let (first, one) = (made.text_of("key"), format!("{path}/{}", made.text_of("id")));
        let rotated = scene.post(&format!("{one}/rotate"), "").await;
        let second = rotated.text_of("key");
        assert!(is_usable(&scene, &first) && is_usable(&scene, &second));
        assert_eq!(rotated.data("id"), made.data("id"));
        assert!(rotated.data("previousKeyExpiresAt").is_string());
        let third = scene.post(&format!("{one}/rotate"), "{}").await.text_of("key");
        assert!(!is_usable(&scene, &first), "a second rotation ends the first secret");
        assert!(is_usable(&scene, &second) && is_usable(&scene, &third));
        let body = r#"{"gracePeriodSeconds":0}"#;
        let fourth = scene.post(&format!("{one}/rotate"), body).await.text_of("key");
        assert!(
            !is_usable(&scene, &second) && !is_usable(&scene, &third) && is_usable(&scene, &fourth)
        );
        let body = r#"{"gracePeriodSeconds":604801}"#;
        assert_eq!(
            scene.post(&format!("{one}/rotate"), body).await.expect_error(400),
            "not_in_range"
        );
        assert_eq!(scene.put(&one, r#"{"enabled":false}"#).await.text_of("status"), "Disabled");
        assert!(!is_usable(&scene, &fourth));
        assert_eq!(scene.put(&one, r#"{"enabled":true}"#).await.text_of("status"), "Active");
        assert_eq!(scene.delete(&one).await.text_of("message"), "API key revoked");
        assert!(!is_usable(&scene, &fourth));
        assert_eq!(scene.delete(&one).await.expect_error(404), "not_found");
        assert_eq!(scene.put(&one, r#"{"enabled":true}"#).await.expect_error(409), "key_revoked");
        assert_eq!(scene.post(&format!("{one}/rotate"), "").await.expect_error(409), "key_revoked");
    }

    #[tokio::test]
    async fn a_keys_own_limits_are_set_and_cleared() {
        let scene = TestApi::new().await;
        let path = format!("/api/projects/{}/api-keys", scene.project().await);
        let body = r#"{"name":"k","requestsPerMinuteLimit":60,"monthlySpendLimit":1.5}"#;
        let one = format!("{path}/{}", scene.post(&path, body).await.text_of("id"));
        let in_force = async || {
            let (database, now) = (&scene.services.database, crate::clock::wall_now());
            let rows =
                directory_rows::read(database, directory_rows::Scope::Everything, now, None).await;
            let limits = rows.expect("rows").keys[0].limits;
            (limits.get(Limit::RequestsPerMinute), limits.get(Limit::MonthlySpend))
        };
        assert_eq!(in_force().await, (Some(60), Some(1_500_000_000)));
        let changed = scene.put(&one, r#"{"requestsPerMinuteLimit":0}"#).await;
        assert_eq!(changed.data("requestsPerMinuteLimit"), 0);
        assert_eq!(in_force().await, (Some(0), Some(1_500_000_000)), "absent is unchanged");
        let body = r#"{"requestsPerMinuteLimit":null,"monthlySpendLimit":null}"#;
        let cleared = scene.put(&one, body).await;
        assert!(cleared.data("requestsPerMinuteLimit").is_null());
        assert!(cleared.data("monthlySpendLimit").is_null());
        assert_eq!(in_force().await, (None, None));
    }
}
