//! `api-keys`: what opens a project.

use std::collections::BTreeMap;

use axum::http::Method;
use serde::Serialize;
use utoipa::ToSchema;

use crate::admin::answer::{Answer, Reply};
use crate::admin::asked::Asked;
use crate::admin::fields::{Body, Fields, Shape, body};
use crate::admin::kind::{Amount, Block, Flag, GLOBS, Many, Moment, NAME, Notes, Parsed, Whole};
use crate::admin::operation::{Doc, Operations};
use crate::admin::scalar::{At, Money};
use crate::clock;
use crate::domain::ids::{ApiKeyId, ProjectId, UserId};
use crate::domain::limit::Limits;
use crate::organization::denied::Denied;
use crate::organization::keys::{self, KeyChange};
use crate::organization::rights::Right;
use crate::organization::secrets::SecretKind;
use crate::store::api_keys::{ApiKey, SORTS};

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ApiKey)]
struct KeyShape {
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
    expires_at: Option<At>,
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
    previous_key_expires_at: Option<At>,
    created_by: String,
    created_at: At,
    updated_at: At,
    #[schema(required)]
    last_used_at: Option<At>,
    #[schema(required)]
    revoked_at: Option<At>,
    version: i64,
}

struct NewKey(KeyChange);

struct Rotation {
    grace_seconds: i64,
}

const USER: Parsed<UserId> = Parsed("the id of a user", |text| UserId::parse(text).ok());
const BLOCKS: Many<Block> = Many(100, Block);
const DAY_SECONDS: i64 = 86_400;
const QUERY: &[(&str, &str)] = &[
    ("page", "From 1."),
    ("size", "Rows a page: 1 to 100, 20 by default."),
    ("sort", "name, createdAt or lastUsedAt, or one with - before it."),
];

body! { KeyChange as "ApiKeyChange" {
    name: change("name", NAME),
    owner: clearable("ownerUserId", USER),
    enabled: change("enabled", Flag),
    expires_at: clearable("expiresAt", Moment::Ahead),
    allowed_models: clearable("allowedModels", GLOBS),
    allowed_cidrs: clearable("allowedCidrs", BLOCKS),
    requests_per_minute: clearable("requestsPerMinuteLimit", Whole(0, Limits::MAX)),
    monthly_spend: clearable("monthlySpendLimit", Amount::Any),
    metadata: change("metadata", Notes),
}}

body! { Rotation as "Rotation" {
    grace_seconds: defaulted("gracePeriodSeconds", Whole(0, 7 * DAY_SECONDS), DAY_SECONDS),
}}

/// A new key is a change of a blank one, but for its name, which it must have.
impl Body for NewKey {
    const NAME: &'static str = "NewApiKey";

    fn read(fields: &mut Fields) -> Option<Self> {
        let name = fields.given("name", NAME);
        let change = KeyChange::read(fields)?;
        Some(Self(KeyChange { name: name?, ..change }))
    }

    fn shape(shape: &mut Shape) {
        shape.given("name", NAME);
        KeyChange::shape(shape);
    }
}

/// What this file answers.
pub fn operations(operations: Operations) -> Operations {
    let all = "/api/projects/{id}/api-keys";
    let one = "/api/projects/{id}/api-keys/{keyId}";
    let rotate_path = "/api/projects/{id}/api-keys/{keyId}/rotate";
    let list_doc = Doc::of(Right::ViewKeys, "Lists a project's keys.");
    let create_doc = Doc::of(Right::ManageKeys, "Makes a key; it is shown once.");
    let change_doc = Doc::of(Right::ManageKeys, "Changes a key.");
    let rotate_doc = Doc::of(Right::ManageKeys, "Gives a key another secret, shown once.");
    let revoke_doc = Doc::of(Right::ManageKeys, "Revokes a key.");
    operations
        .add(&Method::GET, all, list, list_doc.query(QUERY).list::<KeyShape>())
        .add(&Method::POST, all, create, create_doc.takes::<NewKey>().one::<KeyShape>())
        .add(&Method::PUT, one, change, change_doc.takes::<KeyChange>().one::<KeyShape>())
        .add(&Method::DELETE, one, revoke, revoke_doc)
        .add(&Method::POST, rotate_path, rotate, rotate_doc.takes::<Rotation>().one::<KeyShape>())
}

async fn list(asked: Asked) -> Reply {
    let project = asked.visit.id("id", ProjectId::parse)?;
    let seat = asked.seat().await?;
    let mut query = asked.visit.query();
    let (page, sort) = (query.page(), query.sort(SORTS));
    query.finish()?;
    let platform = &asked.visit.state.platform;
    let (rows, total) = keys::list(platform, &seat, project, page, sort).await?;
    let rows: Vec<KeyShape> = rows.into_iter().map(|row| shape(row, None)).collect();
    Ok(Answer::page(&rows, total, page))
}

async fn create(asked: Asked) -> Reply {
    let project = asked.visit.id("id", ProjectId::parse)?;
    let new: NewKey = asked.visit.body()?;
    let seat = asked.seat().await?;
    let mut begun = asked.begin(Some(&seat)).await?;
    let done = keys::create(&mut begun.work, &seat, project, new.0).await;
    asked.finish(begun, done.map(showing)).await
}

async fn change(asked: Asked) -> Reply {
    let which = which(&asked)?;
    let change: KeyChange = asked.visit.body()?;
    let seat = asked.seat().await?;
    let mut begun = asked.begin(Some(&seat)).await?;
    let done = keys::change(&mut begun.work, &seat, which, change).await;
    let answer = done.map(|key| {
        let version = key.version;
        Answer::one(&shape(key, None)).versioned(version)
    });
    asked.finish(begun, answer).await
}

async fn rotate(asked: Asked) -> Reply {
    let which = which(&asked)?;
    let rotation: Rotation = asked.visit.body()?;
    let seat = asked.seat().await?;
    let mut begun = asked.begin(Some(&seat)).await?;
    let done = keys::rotate(&mut begun.work, &seat, which, rotation.grace_seconds).await;
    asked.finish(begun, done.map(showing)).await
}

async fn revoke(asked: Asked) -> Reply {
    let which = which(&asked)?;
    let seat = asked.seat().await?;
    let mut begun = asked.begin(Some(&seat)).await?;
    let done = keys::revoke(&mut begun.work, &seat, which).await;
    asked.finish(begun, done.map(|()| Answer::message("API key revoked"))).await
}

fn which(asked: &Asked) -> Result<(ProjectId, ApiKeyId), Denied> {
    let project = asked.visit.id("id", ProjectId::parse)?;
    Ok((project, asked.visit.id("keyId", ApiKeyId::parse)?))
}

fn showing((key, secret): (ApiKey, crate::settings::secret::Secret)) -> Answer {
    let version = key.version;
    let shown = shape(key, Some(secret.expose().to_owned()));
    Answer::one(&shown).versioned(version).showing(&secret)
}

fn shape(key: ApiKey, secret: Option<String>) -> KeyShape {
    let now = clock::now();
    let status = match &key {
        ApiKey { revoked_at: Some(_), .. } => "Revoked",
        ApiKey { expires_at: Some(ends), .. } if *ends <= now => "Expired",
        ApiKey { enabled: false, .. } => "Disabled",
        _ => "Active",
    };
    KeyShape {
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
        expires_at: key.expires_at.map(At),
        allowed_models: key.allowed_models,
        allowed_cidrs: key.allowed_cidrs,
        requests_per_minute_limit: key.requests_per_minute,
        monthly_spend_limit: key.monthly_spend.map(Money),
        metadata: key.metadata,
        previous_key_expires_at: key.previous_expires_at.map(At),
        created_by: key.created_by.to_string(),
        created_at: At(key.created_at),
        updated_at: At(key.updated_at),
        last_used_at: key.last_used_at.map(At),
        revoked_at: key.revoked_at.map(At),
        version: key.version,
    }
}

#[cfg(test)]
mod tests {
    use crate::admin::tests::Scene;
    use crate::domain::limit::Limit;
    use crate::organization::secrets::hash;
    use crate::store::callers;

    /// Whether the data plane knows that secret, and lets it in.
    fn opens(scene: &Scene, secret: &str) -> bool {
        let keys = scene.platform.directory.keys();
        keys.find(&hash(secret)).is_some_and(|caller| caller.enabled)
    }

    #[tokio::test]
    async fn a_key_is_shown_once_and_known_at_once() {
        let scene = Scene::new().await;
        let path = format!("/api/projects/{}/api-keys", scene.project().await);
        let body = r#"{"name":"k","allowedModels":["gpt-4o*"],"allowedCidrs":["10.0.0.0/8"],
            "monthlySpendLimit":"1.5","metadata":{"team":"a"},"expiresAt":"2100-01-01T00:00:00Z"}"#;
        let mut request = scene.request("POST", &path, body);
        request.headers_mut().insert("idempotency-key", "one".parse().expect("a header"));
        let made = scene.send(request).await;
        let secret = made.text_of("key");
        assert!(opens(&scene, &secret), "before the answer");
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
        assert_eq!(told.refused(400), "several_faults");
        assert_eq!(told.json["error"]["errors"].as_array().expect("a list").len(), 4);
        let stranger = r#"{"name":"k","ownerUserId":"01901234-5678-7abc-8def-0123456789ab"}"#;
        assert_eq!(scene.post(&path, stranger).await.refused(400), "not_a_member");
    }

    #[tokio::test]
    async fn a_rotated_key_keeps_its_grace_and_a_revoked_one_nothing() {
        let scene = Scene::new().await;
        let path = format!("/api/projects/{}/api-keys", scene.project().await);
        let made = scene.post(&path, r#"{"name":"k"}"#).await;
        let (first, one) = (made.text_of("key"), format!("{path}/{}", made.text_of("id")));
        let rotated = scene.post(&format!("{one}/rotate"), "").await;
        let second = rotated.text_of("key");
        assert!(opens(&scene, &first) && opens(&scene, &second));
        assert_eq!(rotated.data("id"), made.data("id"));
        assert!(rotated.data("previousKeyExpiresAt").is_string());
        let third = scene.post(&format!("{one}/rotate"), "{}").await.text_of("key");
        assert!(!opens(&scene, &first), "a second rotation ends the first secret");
        assert!(opens(&scene, &second) && opens(&scene, &third));
        let body = r#"{"gracePeriodSeconds":0}"#;
        let fourth = scene.post(&format!("{one}/rotate"), body).await.text_of("key");
        assert!(!opens(&scene, &second) && !opens(&scene, &third) && opens(&scene, &fourth));
        let body = r#"{"gracePeriodSeconds":604801}"#;
        assert_eq!(scene.post(&format!("{one}/rotate"), body).await.refused(400), "not_in_range");
        assert_eq!(scene.put(&one, r#"{"enabled":false}"#).await.text_of("status"), "Disabled");
        assert!(!opens(&scene, &fourth));
        assert_eq!(scene.put(&one, r#"{"enabled":true}"#).await.text_of("status"), "Active");
        assert_eq!(scene.delete(&one).await.text_of("message"), "API key revoked");
        assert!(!opens(&scene, &fourth));
        assert_eq!(scene.delete(&one).await.refused(404), "not_found");
        assert_eq!(scene.put(&one, r#"{"enabled":true}"#).await.refused(409), "key_revoked");
        assert_eq!(scene.post(&format!("{one}/rotate"), "").await.refused(409), "key_revoked");
    }

    #[tokio::test]
    async fn a_keys_own_limits_are_set_and_cleared() {
        let scene = Scene::new().await;
        let path = format!("/api/projects/{}/api-keys", scene.project().await);
        let body = r#"{"name":"k","requestsPerMinuteLimit":60,"monthlySpendLimit":1.5}"#;
        let one = format!("{path}/{}", scene.post(&path, body).await.text_of("id"));
        let in_force = async || {
            let (database, now) = (&scene.platform.database, crate::clock::now());
            let rows = callers::read(database, callers::Scope::Everything, now, None).await;
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
