//! `api-keys`: the API keys of a project.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use crate::admin::body::{Body, BodyReader, BodySchema, body};
use crate::admin::field_type::{
    Bool, CidrText, IntegerIn, ListOf, MODEL_GLOBS, MoneyAmount, NAME, ParsedString, StringMap,
    Timestamp,
};
use crate::admin::operation::{OperationSpec, Routes};
use crate::admin::request::{AdminRequest, AuthenticatedRequest};
use crate::admin::response::{AdminResponse, HandlerResult};
use crate::admin::scalar::{Money, Rfc3339};
use crate::clock;
use crate::domain::ids::{ApiKeyId, ProjectId, UserId};
use crate::domain::limit::Limits;
use crate::organization::error::UseCaseError;
use crate::organization::keys::{self, KeyChange, KeyPath};
use crate::organization::rights::Action;
use crate::organization::secrets::SecretKind;
use crate::settings::secret::Secret;
use crate::store::api_keys::{ApiKey, SORTS};

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ApiKey)]
struct ApiKeyView {
    id: String,
    project_id: String,
    name: String,
    /// The secret. Present only in the response that creates or rotates the key.
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
    ParsedString { expected: "a user id", parse: |text| UserId::parse(text).ok() };
const CIDRS: ListOf<CidrText> = ListOf { max: 100, item: CidrText };
const DAY_SECONDS: i64 = 86_400;
const QUERY: &[(&str, &str)] = &[
    ("page", "Page number, from 1."),
    ("size", "Rows per page, 1 to 100. Default: 20."),
    ("sort", "`name`, `createdAt` or `lastUsedAt`; prefix `-` for descending order."),
];

body! { KeyChange as "ApiKeyChange" {
    name: optional_update("name", NAME),
    owner: nullable("ownerUserId", USER_ID),
    enabled: optional_update("enabled", Bool),
    expires_at: nullable("expiresAt", Timestamp::Future),
    allowed_models: nullable("allowedModels", MODEL_GLOBS),
    allowed_cidrs: nullable("allowedCidrs", CIDRS),
    requests_per_minute: nullable("requestsPerMinuteLimit", IntegerIn { min: 0, max: Limits::MAX }),
    monthly_spend: nullable("monthlySpendLimit", MoneyAmount::NonNegative),
    metadata: optional_update("metadata", StringMap),
}}

body! { RotationBody as "Rotation" {
    grace_seconds: with_default("gracePeriodSeconds", IntegerIn { min: 0, max: 7 * DAY_SECONDS }, DAY_SECONDS),
}}

/// Creation takes the fields of an update, but requires a name.
impl Body for NewKeyBody {
    const NAME: &'static str = "NewApiKey";

    fn read(fields: &mut BodyReader) -> Option<Self> {
        let name = fields.required_in_patch("name", NAME);
        let change = KeyChange::read(fields)?;
        Some(Self(KeyChange { name: name?, ..change }))
    }

    fn describe(schema: &mut BodySchema) {
        schema.required_in_patch("name", NAME);
        KeyChange::describe(schema);
    }
}

pub fn routes(routes: Routes) -> Routes {
    let collection = "/api/projects/{id}/api-keys";
    let item = "/api/projects/{id}/api-keys/{keyId}";
    let rotate_path = "/api/projects/{id}/api-keys/{keyId}/rotate";
    let list_spec =
        OperationSpec::in_organization(Action::ViewKeys, "Lists the API keys of a project.");
    let create_spec = OperationSpec::in_organization(
        Action::ManageKeys,
        "Creates an API key. The secret is shown once.",
    );
    let change_spec = OperationSpec::in_organization(Action::ManageKeys, "Updates an API key.");
    let rotate_spec = OperationSpec::in_organization(
        Action::ManageKeys,
        "Replaces the secret of an API key. The new secret is shown once.",
    );
    let revoke_spec = OperationSpec::in_organization(Action::ManageKeys, "Revokes an API key.");
    routes
        .get(collection, list, list_spec.query_params(QUERY).list_response::<ApiKeyView>())
        .post(collection, create, create_spec.request_body::<NewKeyBody>().response::<ApiKeyView>())
        .put(item, change, change_spec.request_body::<KeyChange>().response::<ApiKeyView>())
        .delete(item, revoke, revoke_spec)
        .post(
            rotate_path,
            rotate,
            rotate_spec.request_body::<RotationBody>().response::<ApiKeyView>(),
        )
}

async fn list(request: AuthenticatedRequest) -> HandlerResult {
    let project = request.path_id("id", ProjectId::parse)?;
    let org = request.org_context().await?;
    let mut query = request.query();
    let (page, sort) = (query.page(), query.sort(SORTS));
    query.finish()?;
    let services = &request.state.services;
    let (rows, total) = keys::list(services, &org, project, page, sort).await?;
    let rows: Vec<ApiKeyView> = rows.into_iter().map(|row| to_view(row, None)).collect();
    Ok(AdminResponse::page(&rows, total, page))
}

async fn create(request: AuthenticatedRequest) -> HandlerResult {
    let project = request.path_id("id", ProjectId::parse)?;
    let new: NewKeyBody = request.body()?;
    let org = request.org_context().await?;
    let mut mutation = request.begin_mutation(Some(&org)).await?;
    let result = keys::create(&mut mutation.work, &org, project, new.0).await;
    request.finish_mutation(mutation, result.map(|(key, secret)| with_secret(key, &secret))).await
}

async fn change(request: AuthenticatedRequest) -> HandlerResult {
    let key = path_ids(&request)?;
    let change: KeyChange = request.body()?;
    let org = request.org_context().await?;
    let mut mutation = request.begin_mutation(Some(&org)).await?;
    let result = keys::change(&mut mutation.work, &org, key, change).await;
    let response = result.map(|key| {
        let version = key.version;
        AdminResponse::object(&to_view(key, None)).with_version(version)
    });
    request.finish_mutation(mutation, response).await
}

async fn rotate(request: AuthenticatedRequest) -> HandlerResult {
    let key = path_ids(&request)?;
    let rotation: RotationBody = request.body()?;
    let org = request.org_context().await?;
    let mut mutation = request.begin_mutation(Some(&org)).await?;
    let result = keys::rotate(&mut mutation.work, &org, key, rotation.grace_seconds).await;
    request.finish_mutation(mutation, result.map(|(key, secret)| with_secret(key, &secret))).await
}

async fn revoke(request: AuthenticatedRequest) -> HandlerResult {
    let key = path_ids(&request)?;
    let org = request.org_context().await?;
    let mut mutation = request.begin_mutation(Some(&org)).await?;
    let result = keys::revoke(&mut mutation.work, &org, key).await;
    request
        .finish_mutation(mutation, result.map(|()| AdminResponse::message("API key revoked")))
        .await
}

fn path_ids(request: &AdminRequest) -> Result<KeyPath, UseCaseError> {
    let project = request.path_id("id", ProjectId::parse)?;
    Ok(KeyPath { project, key: request.path_id("keyId", ApiKeyId::parse)? })
}

fn with_secret(key: ApiKey, secret: &Secret) -> AdminResponse {
    let version = key.version;
    let view = to_view(key, Some(secret.expose().to_owned()));
    AdminResponse::object(&view).with_version(version).with_secret(secret)
}

fn to_view(key: ApiKey, secret: Option<String>) -> ApiKeyView {
    let now = clock::wall_now();
    let status = match &key {
        ApiKey { revoked_at: Some(_), .. } => "Revoked",
        ApiKey { expires_at: Some(expires_at), .. } if *expires_at <= now => "Expired",
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
    use crate::admin::tests::test_api::TestApi;
    use crate::domain::limit::Limit;
    use crate::organization::secrets::hash;
    use crate::store::directory_rows;

    /// Whether the data plane accepts this secret.
    fn is_usable(api: &TestApi, secret: &str) -> bool {
        let keys = api.services.directory.keys();
        keys.find(&hash(secret)).is_some_and(|caller| caller.enabled)
    }

    #[tokio::test]
    async fn a_secret_is_shown_once_and_works_at_once() {
        let api = TestApi::new().await;
        let path = format!("/api/projects/{}/api-keys", api.project().await);
        let body = r#"{"name":"k","allowedModels":["gpt-4o*"],"allowedCidrs":["10.0.0.0/8"],
            "monthlySpendLimit":"1.5","metadata":{"team":"a"},"expiresAt":"2100-01-01T00:00:00Z"}"#;
        let mut request = api.request("POST", &path, body);
        request.headers_mut().insert("idempotency-key", "one".parse().expect("a header"));
        let created = api.send(request).await;
        let secret = created.text_of("key");
        assert!(is_usable(&api, &secret), "before the response was sent");
        assert_eq!(created.text_of("last4"), secret[secret.len() - 4..]);
        assert_eq!(created.text_of("status"), "Active");
        let mut request = api.request("POST", &path, body);
        request.headers_mut().insert("idempotency-key", "one".parse().expect("a header"));
        let again = api.send(request).await;
        assert!(again.data("key").is_null() && !again.text.contains(&secret), "{}", again.text);
        assert_eq!(again.data("id"), created.data("id"));
        let listed = api.get(&path).await;
        assert!(!listed.text.contains("\"key\"") && !listed.text.contains(&secret));
        let invalid = r#"{"allowedCidrs":["x"],"expiresAt":"2020-01-01","metadata":{"a":1}}"#;
        let response = api.post(&path, invalid).await;
        assert_eq!(response.expect_error(400), "validation_failed");
        assert_eq!(response.json["error"]["errors"].as_array().expect("a list").len(), 4);
        let stranger = r#"{"name":"k","ownerUserId":"01901234-5678-7abc-8def-0123456789ab"}"#;
        assert_eq!(api.post(&path, stranger).await.expect_error(400), "not_a_member");
    }

    #[tokio::test]
    async fn a_rotated_secret_works_during_the_grace_period_and_a_revoked_one_does_not() {
        let api = TestApi::new().await;
        let path = format!("/api/projects/{}/api-keys", api.project().await);
        let created = api.post(&path, r#"{"name":"k"}"#).await;
        let (first, key) = (created.text_of("key"), format!("{path}/{}", created.text_of("id")));
        let rotated = api.post(&format!("{key}/rotate"), "").await;
        let second = rotated.text_of("key");
        assert!(is_usable(&api, &first) && is_usable(&api, &second));
        assert_eq!(rotated.data("id"), created.data("id"));
        assert!(rotated.data("previousKeyExpiresAt").is_string());
        let third = api.post(&format!("{key}/rotate"), "{}").await.text_of("key");
        assert!(!is_usable(&api, &first), "a second rotation ends the first secret");
        assert!(is_usable(&api, &second) && is_usable(&api, &third));
        let body = r#"{"gracePeriodSeconds":0}"#;
        let fourth = api.post(&format!("{key}/rotate"), body).await.text_of("key");
        assert!(!is_usable(&api, &second) && !is_usable(&api, &third) && is_usable(&api, &fourth));
        let body = r#"{"gracePeriodSeconds":604801}"#;
        assert_eq!(
            api.post(&format!("{key}/rotate"), body).await.expect_error(400),
            "not_in_range"
        );
        assert_eq!(api.put(&key, r#"{"enabled":false}"#).await.text_of("status"), "Disabled");
        assert!(!is_usable(&api, &fourth));
        assert_eq!(api.put(&key, r#"{"enabled":true}"#).await.text_of("status"), "Active");
        assert_eq!(api.delete(&key).await.text_of("message"), "API key revoked");
        assert!(!is_usable(&api, &fourth));
        assert_eq!(api.delete(&key).await.expect_error(404), "not_found");
        assert_eq!(api.put(&key, r#"{"enabled":true}"#).await.expect_error(409), "key_revoked");
        assert_eq!(api.post(&format!("{key}/rotate"), "").await.expect_error(409), "key_revoked");
    }

    #[tokio::test]
    async fn the_limits_of_a_key_are_set_and_cleared() {
        let api = TestApi::new().await;
        let path = format!("/api/projects/{}/api-keys", api.project().await);
        let body = r#"{"name":"k","requestsPerMinuteLimit":60,"monthlySpendLimit":1.5}"#;
        let key = format!("{path}/{}", api.post(&path, body).await.text_of("id"));
        let in_force = async || {
            let (database, now) = (&api.services.database, crate::clock::wall_now());
            let rows =
                directory_rows::read(database, directory_rows::Scope::Everything, now, None).await;
            let limits = rows.expect("rows").keys[0].limits;
            (limits.get(Limit::RequestsPerMinute), limits.get(Limit::MonthlySpend))
        };
        assert_eq!(in_force().await, (Some(60), Some(1_500_000_000)));
        let changed = api.put(&key, r#"{"requestsPerMinuteLimit":0}"#).await;
        assert_eq!(changed.data("requestsPerMinuteLimit"), 0);
        assert_eq!(
            in_force().await,
            (Some(0), Some(1_500_000_000)),
            "an absent field is unchanged"
        );
        let body = r#"{"requestsPerMinuteLimit":null,"monthlySpendLimit":null}"#;
        let cleared = api.put(&key, body).await;
        assert!(cleared.data("requestsPerMinuteLimit").is_null());
        assert!(cleared.data("monthlySpendLimit").is_null());
        assert_eq!(in_force().await, (None, None));
    }
}
