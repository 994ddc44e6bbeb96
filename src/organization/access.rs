//! Authentication of admin requests, and the organization in which each request acts.

use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::accounting::key_directory::SecretHash;
use crate::clock;
use crate::domain::ids::{OrganizationId, ProjectId};
use crate::domain::roles::{ActorKind, Permission, ProjectRole, Role, Scope, TokenKind};
use crate::domain::status::OrganizationStatus;
use crate::domain::time::UnixMs;
use crate::organization::error::UseCaseError;
use crate::organization::rights::{AccessLevel, Action, Grants};
use crate::organization::secrets::{self, SecretKind};
use crate::organization::services::Services;
use crate::store::admin_tokens::{self, AdminToken};
use crate::store::members::{self, Membership};
use crate::store::organizations::{self, Organization};
use crate::store::sessions;
use crate::store::users::{self, User};
use crate::tasks;

/// How a principal was authenticated.
#[derive(Debug, Clone)]
pub enum AuthMethod {
    /// By a session, after a sign-in with a password.
    Session(SecretHash),
    /// By an admin token.
    Token(Box<AdminToken>),
    /// Without a credential: the process acts by itself.
    System,
}

/// An authenticated person or token.
#[derive(Debug, Clone)]
pub struct Principal {
    /// The person; for a token, its creator.
    pub user: User,
    pub auth_method: AuthMethod,
}

/// Who performed a change, for the audit log and for wallet records.
#[derive(Debug, Clone, Serialize)]
pub struct Actor {
    pub kind: ActorKind,
    /// The id of the user or token.
    pub id: String,
    pub name: String,
}

/// A principal in one organization, with the rights that it has there.
#[derive(Debug, Clone)]
pub struct OrgContext {
    pub principal: Arc<Principal>,
    pub organization: Organization,
    grants: Grants,
    projects: Vec<(ProjectId, ProjectRole)>,
}

/// A session that was not used for this long has expired: one day.
const SESSION_IDLE_TIMEOUT_MS: i64 = 86_400_000;
/// The last use of a session or token is stored to the minute.
const LAST_USE_RESOLUTION_MS: i64 = 60_000;

impl Serialize for ActorKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl Principal {
    /// Returns the principal with which the process acts on behalf of the operator.
    pub const fn system(operator: User) -> Self {
        Self { user: operator, auth_method: AuthMethod::System }
    }

    /// True if the principal acts for the whole deployment.
    pub fn is_operator(&self) -> bool {
        self.user.is_operator && self.token_kind() != Some(TokenKind::Organization)
    }

    pub fn token_kind(&self) -> Option<TokenKind> {
        match &self.auth_method {
            AuthMethod::Token(token) => Some(token.kind),
            AuthMethod::Session(_) | AuthMethod::System => None,
        }
    }

    /// The scopes of the token; `None` if no token is used, so that scopes do not restrict.
    pub fn scopes(&self) -> Option<Vec<Scope>> {
        match &self.auth_method {
            AuthMethod::Token(token) => Some(token.scopes.clone()),
            AuthMethod::Session(_) | AuthMethod::System => None,
        }
    }

    /// The organization that the token belongs to or acts in by default.
    pub fn token_organization(&self) -> Option<OrganizationId> {
        match &self.auth_method {
            AuthMethod::Token(token) => token.organization,
            AuthMethod::Session(_) | AuthMethod::System => None,
        }
    }

    /// Returns the entry for the audit log.
    pub fn actor(&self) -> Actor {
        let (kind, id, name) = match &self.auth_method {
            AuthMethod::Token(token) => {
                (ActorKind::Token, token.id.to_string(), token.name.clone())
            }
            AuthMethod::System => {
                (ActorKind::System, self.user.id.to_string(), self.user.name.clone())
            }
            AuthMethod::Session(_) => {
                let kind =
                    if self.user.is_operator { ActorKind::Operator } else { ActorKind::User };
                (kind, self.user.id.to_string(), self.user.name.clone())
            }
        };
        Actor { kind, id, name }
    }

    /// Checks that the principal may perform `action` outside of any organization.
    pub fn require(&self, action: Action) -> Result<(), UseCaseError> {
        let grants = Grants {
            operator: self.is_operator(),
            role: Role::Member,
            permissions: Vec::new(),
            scopes: self.scopes(),
            self_funding: false,
        };
        action.authorize(&grants, None)?;
        Ok(())
    }
}

impl OrgContext {
    /// Returns the context of the operator in `organization`.
    pub fn for_operator(principal: Arc<Principal>, organization: Organization) -> Self {
        let grants = Grants {
            operator: true,
            role: Role::Admin,
            permissions: Permission::ALL.to_vec(),
            scopes: principal.scopes(),
            self_funding: organization.self_funding,
        };
        Self { principal, organization, grants, projects: Vec::new() }
    }

    pub const fn is_operator(&self) -> bool {
        self.grants.operator
    }

    /// Returns the role of the principal in the project.
    pub fn project_role(&self, project: ProjectId) -> Option<ProjectRole> {
        self.projects.iter().find(|(id, _)| *id == project).map(|(_, role)| *role)
    }

    /// Checks that the principal may perform `action` in the whole organization.
    pub fn require(&self, action: Action) -> Result<(), UseCaseError> {
        action.authorize(&self.grants, None)?;
        self.check_not_closed(action)
    }

    /// Returns what the principal may access in the project with `action`.
    pub fn require_in_project(
        &self,
        action: Action,
        project: ProjectId,
    ) -> Result<AccessLevel, UseCaseError> {
        let level = action.authorize(&self.grants, self.project_role(project))?;
        self.check_not_closed(action)?;
        Ok(level)
    }

    /// Refuses changes in a closed organization: its data is kept as a record.
    fn check_not_closed(&self, action: Action) -> Result<(), UseCaseError> {
        if self.organization.status == OrganizationStatus::Closed
            && action.rule().scope.allows_changes()
        {
            return Err(UseCaseError::conflict(
                "organization_closed",
                "the organization is closed",
            ));
        }
        Ok(())
    }
}

/// Returns the principal that owns `secret`, a session or an admin token.
pub async fn authenticate(services: &Services, secret: &str) -> Result<Principal, UseCaseError> {
    let now = clock::wall_now();
    if secret.starts_with(SecretKind::ApiKey.prefix()) {
        return Err(UseCaseError::Unauthenticated("data_plane_key"));
    }
    let hash = secrets::hash(secret);
    if SecretKind::AdminToken.matches_format(secret) {
        return authenticate_token(services, &hash, now).await;
    }
    if !SecretKind::Session.matches_format(secret) {
        return Err(UseCaseError::Unauthenticated("invalid_credential"));
    }
    let found = sessions::find(services.database.reader(), &hash).await?;
    let session = found.ok_or(UseCaseError::Unauthenticated("invalid_credential"))?;
    if session.expires_at <= now || session.last_seen_at.0 + SESSION_IDLE_TIMEOUT_MS <= now.0 {
        return Err(UseCaseError::Unauthenticated("expired_credential"));
    }
    if session.last_seen_at.0 + LAST_USE_RESOLUTION_MS <= now.0 {
        record_last_use(services, LastUse::Session(hash), now);
    }
    Ok(Principal { user: session.user, auth_method: AuthMethod::Session(hash) })
}

async fn authenticate_token(
    services: &Services,
    hash: &SecretHash,
    now: UnixMs,
) -> Result<Principal, UseCaseError> {
    let reader = services.database.reader();
    let found = admin_tokens::find(reader, hash).await?;
    let token = found.ok_or(UseCaseError::Unauthenticated("invalid_credential"))?;
    if token.revoked_at.is_some() {
        return Err(UseCaseError::Unauthenticated("revoked_credential"));
    }
    if token.expires_at.is_some_and(|expires_at| expires_at <= now) {
        return Err(UseCaseError::Unauthenticated("expired_credential"));
    }
    let user = users::by_id(reader, token.created_by).await?;
    let user = user.ok_or(UseCaseError::Unauthenticated("invalid_credential"))?;
    if token.kind == TokenKind::Platform && !user.is_operator {
        return Err(UseCaseError::Unauthenticated("revoked_credential"));
    }
    if token.last_used_at.is_none_or(|used| used.0 + LAST_USE_RESOLUTION_MS <= now.0) {
        record_last_use(services, LastUse::Token(token.id), now);
    }
    Ok(Principal { user, auth_method: AuthMethod::Token(Box::new(token)) })
}

/// Determines the organization in which a request acts: by its header, its body, the token, or the
/// only membership of the user.
pub async fn resolve_org(
    services: &Services,
    principal: &Arc<Principal>,
    header: Option<&str>,
    body: Option<&str>,
) -> Result<OrgContext, UseCaseError> {
    let reader = services.database.reader();
    if header.zip(body).is_some_and(|(header, body)| header != body) {
        let message = "the body and X-Organization-Id name different organizations";
        return Err(UseCaseError::field("/organizationId", "organization_mismatch", message));
    }
    let requested = header.or(body).map(OrganizationId::parse).transpose();
    let requested = requested.map_err(|_| UseCaseError::NotFound)?;
    let memberships = match principal.token_kind() {
        Some(TokenKind::Organization) => Vec::new(),
        _ => members::of_user(reader, principal.user.id).await?,
    };
    let only = match &memberships[..] {
        [only] => Some(only.organization),
        _ => None,
    };
    let id = requested.or(principal.token_organization()).or(only).ok_or_else(|| {
        let message = "the organization is ambiguous: send the header X-Organization-Id";
        UseCaseError::field("X-Organization-Id", "organization_required", message)
    })?;
    let organization = organizations::by_id(reader, id).await?.ok_or(UseCaseError::NotFound)?;
    let membership = memberships.into_iter().find(|membership| membership.organization == id);
    build_context(principal, organization, membership)
}

fn build_context(
    principal: &Arc<Principal>,
    organization: Organization,
    membership: Option<Membership>,
) -> Result<OrgContext, UseCaseError> {
    let principal = Arc::clone(principal);
    let is_organization_token = principal.token_kind() == Some(TokenKind::Organization);
    if is_organization_token && principal.token_organization() != Some(organization.id) {
        return Err(UseCaseError::NotFound);
    }
    if principal.is_operator() {
        return Ok(OrgContext::for_operator(principal, organization));
    }
    let role = match &membership {
        _ if is_organization_token => Role::Admin,
        Some(membership) => membership.role,
        None => return Err(UseCaseError::NotFound),
    };
    let granted = membership.map(|membership| (membership.permissions, membership.projects));
    let (permissions, projects) = granted.unwrap_or_default();
    let grants = Grants {
        operator: false,
        role,
        permissions,
        scopes: principal.scopes(),
        self_funding: organization.self_funding,
    };
    Ok(OrgContext { principal, organization, grants, projects })
}

#[derive(Debug, Clone, Copy)]
enum LastUse {
    Session(SecretHash),
    Token(crate::domain::ids::AdminTokenId),
}

/// Records a use in a background task. A failure loses the record; nothing depends on it.
fn record_last_use(services: &Services, last_use: LastUse, now: UnixMs) {
    let Ok(permit) = Arc::clone(&services.last_use_permits).try_acquire_owned() else { return };
    let database = services.database.clone();
    tasks::spawn("record_last_use", async move {
        let write = async {
            let mut tx = database.begin().await?;
            match last_use {
                LastUse::Session(hash) => sessions::record_use(&mut tx, &hash, now).await?,
                LastUse::Token(id) => admin_tokens::record_use(&mut tx, id, now).await?,
            }
            Ok::<_, crate::store::database::DatabaseError>(tx.commit().await?)
        };
        if let Err(error) = write.await {
            tracing::warn!(%error, "last use not recorded");
        }
        drop(permit);
    });
}
