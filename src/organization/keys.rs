//! API keys: creation, change, rotation and revocation. A secret is shown once.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::domain::ids::{ApiKeyId, ProjectId, UserId};
use crate::domain::money::Nano;
use crate::domain::time::UnixMs;
use crate::organization::access::OrgContext;
use crate::organization::error::UseCaseError;
use crate::organization::projects;
use crate::organization::rights::{AccessLevel, Action, Forbidden};
use crate::organization::secrets::SecretKind;
use crate::organization::services::Services;
use crate::organization::unit_of_work::{AuditChange, AuditTarget, Effect, UnitOfWork};
use crate::settings::secret::Secret;
use crate::store::api_keys::{self, ApiKey};
use crate::store::columns::new_id;
use crate::store::members;
use crate::store::paging::{Page, Sort};

/// The project and the key in the path of a request.
#[derive(Debug, Clone, Copy)]
pub struct KeyPath {
    pub project: ProjectId,
    pub key: ApiKeyId,
}

/// A change of a key. `None` leaves a field unchanged, or at its default in a new key.
#[derive(Debug, Default)]
pub struct KeyChange {
    pub name: Option<String>,
    /// The owner; `Some(None)` makes the key belong to the project alone.
    pub owner: Option<Option<UserId>>,
    pub enabled: Option<bool>,
    /// `Some(None)`: the key does not expire.
    pub expires_at: Option<Option<UnixMs>>,
    /// Glob patterns of the models it may use; `Some(None)` allows all.
    pub allowed_models: Option<Option<Vec<String>>>,
    /// The client networks it may be used from; `Some(None)` allows all.
    pub allowed_cidrs: Option<Option<Vec<String>>>,
    /// The key's own limit of requests per minute.
    pub requests_per_minute: Option<Option<i64>>,
    /// The key's own limit of spend per month.
    pub monthly_spend: Option<Option<Nano>>,
    /// Free-form names and values of the client.
    pub metadata: Option<BTreeMap<String, String>>,
}

impl KeyChange {
    /// Returns the key after the change.
    fn apply(self, key: ApiKey, now: UnixMs) -> ApiKey {
        let old = key;
        ApiKey {
            name: self.name.unwrap_or(old.name),
            owner: self.owner.unwrap_or(old.owner),
            enabled: self.enabled.unwrap_or(old.enabled),
            disabled_reason: if self.enabled.is_some() { None } else { old.disabled_reason },
            expires_at: self.expires_at.unwrap_or(old.expires_at),
            allowed_models: self.allowed_models.unwrap_or(old.allowed_models),
            allowed_cidrs: self.allowed_cidrs.unwrap_or(old.allowed_cidrs),
            requests_per_minute: self.requests_per_minute.unwrap_or(old.requests_per_minute),
            monthly_spend: self.monthly_spend.unwrap_or(old.monthly_spend),
            metadata: self.metadata.unwrap_or(old.metadata),
            updated_at: now,
            version: old.version + 1,
            ..old
        }
    }
}

/// Creates a key. A person who may manage only their own keys becomes its owner.
pub async fn create(
    work: &mut UnitOfWork,
    org: &OrgContext,
    project: ProjectId,
    mut new: KeyChange,
) -> Result<(ApiKey, Secret), UseCaseError> {
    let (_, level) = projects::find_for_update(work, org, project, Action::ManageKeys).await?;
    let creator = org.principal.user.id;
    if level == AccessLevel::Own && new.owner.is_none() {
        new.owner = Some(Some(creator));
    }
    check_owner(work, org, level, &new).await?;
    let now = work.now();
    let generated = SecretKind::ApiKey.generate();
    let blank = ApiKey {
        id: ApiKeyId(new_id(now)),
        project,
        name: String::new(),
        last4: generated.last4,
        owner: None,
        enabled: true,
        disabled_reason: None,
        expires_at: None,
        allowed_models: None,
        allowed_cidrs: None,
        requests_per_minute: None,
        monthly_spend: None,
        metadata: BTreeMap::new(),
        previous_expires_at: None,
        created_by: creator,
        created_at: now,
        updated_at: now,
        last_used_at: None,
        revoked_at: None,
        version: 0,
    };
    let key = new.apply(blank, now);
    api_keys::insert(work.connection(), &key, &generated.hash).await?;
    work.after_commit(Effect::Project(project));
    audit(work, org, "key.create", None, Some(&key)).await?;
    Ok((key, generated.secret))
}

/// Returns one page of the project's keys, or of the principal's own keys, and the total count.
pub async fn list(
    services: &Services,
    org: &OrgContext,
    project: ProjectId,
    page: Page,
    sort: Sort,
) -> Result<(Vec<ApiKey>, i64), UseCaseError> {
    let (_, level) = projects::find_for(services, org, project, Action::ViewKeys).await?;
    let owner = (level == AccessLevel::Own).then_some(org.principal.user.id);
    Ok(api_keys::list(services.database.reader(), project, owner, page, sort).await?)
}

pub async fn change(
    work: &mut UnitOfWork,
    org: &OrgContext,
    path: KeyPath,
    change: KeyChange,
) -> Result<ApiKey, UseCaseError> {
    let (before, level) = find_for_update(work, org, path).await?;
    check_owner(work, org, level, &change).await?;
    work.check_version(before.version)?;
    let after = change.apply(before.clone(), work.now());
    api_keys::update(work.connection(), &after).await?;
    work.after_commit(Effect::Project(path.project));
    audit(work, org, "key.update", Some(&before), Some(&after)).await?;
    Ok(after)
}

/// Revokes a key; it cannot be enabled again.
pub async fn revoke(
    work: &mut UnitOfWork,
    org: &OrgContext,
    path: KeyPath,
) -> Result<(), UseCaseError> {
    let found = find_for_update(work, org, path).await;
    // Revoking a revoked key gives 404, like revoking a key that does not exist.
    let (before, _) = found.map_err(|error| match error {
        UseCaseError::Conflict("key_revoked", _) => UseCaseError::NotFound,
        other => other,
    })?;
    work.check_version(before.version)?;
    let now = work.now();
    let after = ApiKey {
        enabled: false,
        revoked_at: Some(now),
        updated_at: now,
        version: before.version + 1,
        ..before.clone()
    };
    api_keys::update(work.connection(), &after).await?;
    work.after_commit(Effect::Project(path.project));
    audit(work, org, "key.revoke", Some(&before), Some(&after)).await
}

/// Replaces the secret of a key. The current secret stays valid for `grace_seconds`; an older one
/// that is still in its grace period ends now.
pub async fn rotate(
    work: &mut UnitOfWork,
    org: &OrgContext,
    path: KeyPath,
    grace_seconds: i64,
) -> Result<(ApiKey, Secret), UseCaseError> {
    let (before, _) = find_for_update(work, org, path).await?;
    work.check_version(before.version)?;
    let now = work.now();
    let generated = SecretKind::ApiKey.generate();
    let grace = (0 < grace_seconds).then_some(UnixMs(now.0 + grace_seconds * 1_000));
    let after = ApiKey {
        last4: generated.last4,
        previous_expires_at: grace,
        updated_at: now,
        version: before.version + 1,
        ..before.clone()
    };
    api_keys::rotate(work.connection(), &after, &generated.hash).await?;
    work.after_commit(Effect::Project(path.project));
    audit(work, org, "key.rotate", Some(&before), Some(&after)).await?;
    Ok((after, generated.secret))
}

/// Finds a key that the principal may change.
async fn find_for_update(
    work: &mut UnitOfWork,
    org: &OrgContext,
    path: KeyPath,
) -> Result<(ApiKey, AccessLevel), UseCaseError> {
    let (_, level) = projects::find_for_update(work, org, path.project, Action::ManageKeys).await?;
    let key = api_keys::by_id(work.connection(), path.project, path.key).await?;
    let user = Some(org.principal.user.id);
    let key = key
        .filter(|key| level == AccessLevel::All || key.owner == user)
        .ok_or(UseCaseError::NotFound)?;
    if key.revoked_at.is_some() {
        return Err(UseCaseError::conflict("key_revoked", "the key is revoked; create another"));
    }
    Ok((key, level))
}

/// Checks a change of the owner: it must be a member of the organization, and a person who may
/// manage only their own keys cannot give a key to somebody else.
async fn check_owner(
    work: &mut UnitOfWork,
    org: &OrgContext,
    level: AccessLevel,
    change: &KeyChange,
) -> Result<(), UseCaseError> {
    let Some(owner) = change.owner else { return Ok(()) };
    if level == AccessLevel::Own && owner != Some(org.principal.user.id) {
        return Err(Forbidden::Permission("Owner").into());
    }
    let Some(owner) = owner else { return Ok(()) };
    let organization = org.organization.id;
    if members::is_member(work.connection(), organization, owner).await? {
        return Ok(());
    }
    let message = "the owner must be a member of the organization";
    Err(UseCaseError::field("/ownerUserId", "not_a_member", message))
}

async fn audit(
    work: &mut UnitOfWork,
    org: &OrgContext,
    action: &'static str,
    before: Option<&ApiKey>,
    after: Option<&ApiKey>,
) -> Result<(), UseCaseError> {
    let target = after.or(before).map(|key| (key.id.to_string(), key.name.clone()));
    let (id, name) = target.unwrap_or_default();
    let change = AuditChange {
        organization: Some(org.organization.id),
        action: action.into(),
        target: AuditTarget { kind: "apiKey", id, name },
        before: before.map(audit_json),
        after: after.map(audit_json),
    };
    work.audit(&org.principal.actor(), change).await
}

fn audit_json(key: &ApiKey) -> Value {
    json!({
        "name": key.name,
        "key": "***",
        "last4": key.last4,
        "ownerUserId": key.owner.map(|id| id.to_string()),
        "enabled": key.enabled,
        "expiresAt": key.expires_at.map(|at| at.to_string()),
        "allowedModels": key.allowed_models,
        "allowedCidrs": key.allowed_cidrs,
        "requestsPerMinuteLimit": key.requests_per_minute,
        "monthlySpendLimit": key.monthly_spend.map(|nano| nano.to_string()),
        "metadata": key.metadata,
        "previousKeyExpiresAt": key.previous_expires_at.map(|at| at.to_string()),
        "revokedAt": key.revoked_at.map(|at| at.to_string()),
    })
}
