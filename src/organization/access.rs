//! Access: who asks, and from which seat in which organization.

use std::sync::Arc;

use crate::clock;
use crate::domain::ids::{OrganizationId, ProjectId};
use crate::domain::time::UnixMs;
use crate::organization::error::UseCaseError;
use crate::organization::rights::{AccessLevel, Action, Grants};
use crate::organization::roles::{Permission, ProjectRole, Role, Scope, TokenKind};
use crate::organization::secrets::{self, SecretHash, SecretKind};
use crate::organization::services::Services;
use crate::store::admin_tokens::{self, AdminToken};
use crate::store::members::{self, Membership};
use crate::store::organizations::{self, Organization};
use crate::store::sessions;
use crate::store::users::{self, User};
use crate::tasks;

/// How somebody showed who they are.
#[derive(Debug, Clone)]
pub enum AuthMethod {
    /// They signed in.
    Session(SecretHash),
    /// A program of theirs.
    Token(Box<AdminToken>),
    /// The process itself, at its start.
    System,
}

/// Somebody who is known.
#[derive(Debug, Clone)]
pub struct Principal {
    /// Who; for an organization's token, who made it.
    pub user: User,
    /// How.
    pub auth_method: AuthMethod,
}

/// Who did something, for the audit log and for records.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Actor {
    /// `User`, `Operator`, `Token` or `System`.
    pub kind: &'static str,
    /// Their id.
    pub id: String,
    /// Their name.
    pub name: String,
}

/// Somebody in an organization.
#[derive(Debug, Clone)]
pub struct OrgContext {
    /// Who.
    pub principal: Arc<Principal>,
    /// Where.
    pub organization: Organization,
    grants: Grants,
    projects: Vec<(ProjectId, ProjectRole)>,
}

/// A session unused for so long has ended: a day.
const SESSION_IDLE_TIMEOUT_MS: i64 = 86_400_000;
/// Uses are noted to the minute.
const LAST_USE_RESOLUTION_MS: i64 = 60_000;

impl Principal {
    /// The operator, as the process itself acts at its start.
    pub const fn system(operator: User) -> Self {
        Self { user: operator, auth_method: AuthMethod::System }
    }

    /// Whether they act for the whole deployment.
    pub fn is_operator(&self) -> bool {
        self.user.is_operator && self.token_kind() != Some(TokenKind::Organization)
    }

    /// The kind of their token.
    pub fn token_kind(&self) -> Option<TokenKind> {
        match &self.auth_method {
            AuthMethod::Token(token) => TokenKind::parse(&token.kind),
            AuthMethod::Session(_) | AuthMethod::System => None,
        }
    }

    /// What their token is scoped for; `None`: no token, no bound.
    pub fn scopes(&self) -> Option<Vec<Scope>> {
        match &self.auth_method {
            AuthMethod::Token(token) => {
                Some(token.scopes.iter().filter_map(|scope| Scope::parse(scope)).collect())
            }
            AuthMethod::Session(_) | AuthMethod::System => None,
        }
    }

    /// The organization that their token names.
    pub fn token_organization(&self) -> Option<OrganizationId> {
        match &self.auth_method {
            AuthMethod::Token(token) => token.organization,
            AuthMethod::Session(_) | AuthMethod::System => None,
        }
    }

    /// Who the audit log says it was.
    pub fn actor(&self) -> Actor {
        let (kind, id, name) = match &self.auth_method {
            AuthMethod::Token(token) => ("Token", token.id.to_string(), token.name.clone()),
            AuthMethod::System => ("System", self.user.id.to_string(), self.user.name.clone()),
            AuthMethod::Session(_) => {
                let kind = if self.user.is_operator { "Operator" } else { "User" };
                (kind, self.user.id.to_string(), self.user.name.clone())
            }
        };
        Actor { kind, id, name }
    }

    /// Whether they may, outside of any organization.
    pub fn require(&self, right: Action) -> Result<(), UseCaseError> {
        let standing = Grants {
            operator: self.is_operator(),
            role: Role::Member,
            permissions: Vec::new(),
            scopes: self.scopes(),
            self_funding: false,
        };
        right.authorize(&standing, None)?;
        Ok(())
    }
}

impl OrgContext {
    /// The operator's, in that organization.
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

    /// Whether they act as the operator.
    pub const fn is_operator(&self) -> bool {
        self.grants.operator
    }

    /// Their own role in that project.
    pub fn project_role(&self, project: ProjectId) -> Option<ProjectRole> {
        self.projects.iter().find(|(id, _)| *id == project).map(|(_, role)| *role)
    }

    /// Whether they may, in the organization as a whole.
    pub fn require(&self, right: Action) -> Result<(), UseCaseError> {
        right.authorize(&self.grants, None)?;
        self.check_not_closed(right)
    }

    /// How much of that project they may.
    pub fn require_in_project(
        &self,
        right: Action,
        project: ProjectId,
    ) -> Result<AccessLevel, UseCaseError> {
        let reach = right.authorize(&self.grants, self.project_role(project))?;
        self.check_not_closed(right)?;
        Ok(reach)
    }

    /// A closed organization is a record of what was: nothing in it changes any more.
    fn check_not_closed(&self, right: Action) -> Result<(), UseCaseError> {
        if self.organization.status == "Closed" && right.rule().scope.changes() {
            return Err(UseCaseError::conflict(
                "organization_closed",
                "the organization is closed",
            ));
        }
        Ok(())
    }
}

/// Finds who shows that secret.
pub async fn authenticate(platform: &Services, secret: &str) -> Result<Principal, UseCaseError> {
    let now = clock::wall_now();
    if secret.starts_with(SecretKind::ApiKey.prefix()) {
        return Err(UseCaseError::Unauthenticated("data_plane_key"));
    }
    let hash = secrets::hash(secret);
    if SecretKind::AdminToken.matches_format(secret) {
        return authenticate_token(platform, &hash, now).await;
    }
    if !SecretKind::Session.matches_format(secret) {
        return Err(UseCaseError::Unauthenticated("invalid_credential"));
    }
    let found = sessions::find(platform.database.reader(), &hash).await?;
    let session = found.ok_or(UseCaseError::Unauthenticated("invalid_credential"))?;
    if session.expires_at <= now || session.last_seen_at.0 + SESSION_IDLE_TIMEOUT_MS <= now.0 {
        return Err(UseCaseError::Unauthenticated("expired_credential"));
    }
    if session.last_seen_at.0 + LAST_USE_RESOLUTION_MS <= now.0 {
        record_last_use(platform, LastUse::Session(hash), now);
    }
    Ok(Principal { user: session.user, auth_method: AuthMethod::Session(hash) })
}

async fn authenticate_token(
    platform: &Services,
    hash: &SecretHash,
    now: UnixMs,
) -> Result<Principal, UseCaseError> {
    let reader = platform.database.reader();
    let found = admin_tokens::find(reader, hash).await?;
    let token = found.ok_or(UseCaseError::Unauthenticated("invalid_credential"))?;
    if token.revoked_at.is_some() {
        return Err(UseCaseError::Unauthenticated("revoked_credential"));
    }
    if token.expires_at.is_some_and(|ends| ends <= now) {
        return Err(UseCaseError::Unauthenticated("expired_credential"));
    }
    let user = users::by_id(reader, token.created_by).await?;
    let user = user.ok_or(UseCaseError::Unauthenticated("invalid_credential"))?;
    if token.kind == TokenKind::Platform.name() && !user.is_operator {
        return Err(UseCaseError::Unauthenticated("revoked_credential"));
    }
    if token.last_used_at.is_none_or(|used| used.0 + LAST_USE_RESOLUTION_MS <= now.0) {
        record_last_use(platform, LastUse::Token(token.id), now);
    }
    Ok(Principal { user, auth_method: AuthMethod::Token(Box::new(token)) })
}

/// Takes the seat that a request asks for: by its header, its body, the token, or because there
/// is only one.
pub async fn resolve_org(
    platform: &Services,
    principal: &Arc<Principal>,
    header: Option<&str>,
    body: Option<&str>,
) -> Result<OrgContext, UseCaseError> {
    let reader = platform.database.reader();
    if header.zip(body).is_some_and(|(header, body)| header != body) {
        let message = "the body and X-Organization-Id name different organizations";
        return Err(UseCaseError::field("/organizationId", "organization_mismatch", message));
    }
    let asked = header.or(body).map(OrganizationId::parse).transpose();
    let asked = asked.map_err(|_| UseCaseError::NotFound)?;
    let memberships = match principal.token_kind() {
        Some(TokenKind::Organization) => Vec::new(),
        _ => members::of_user(reader, principal.user.id).await?,
    };
    let only = match &memberships[..] {
        [only] => Some(only.organization),
        _ => None,
    };
    let chosen = asked.or(principal.token_organization()).or(only).ok_or_else(|| {
        let message = "say which organization: send X-Organization-Id";
        UseCaseError::field("X-Organization-Id", "organization_required", message)
    })?;
    let organization = organizations::by_id(reader, chosen).await?.ok_or(UseCaseError::NotFound)?;
    let own = memberships.into_iter().find(|membership| membership.organization == chosen);
    build_context(principal, organization, own)
}

fn build_context(
    principal: &Arc<Principal>,
    organization: Organization,
    own: Option<Membership>,
) -> Result<OrgContext, UseCaseError> {
    let principal = Arc::clone(principal);
    let for_all = principal.token_kind() == Some(TokenKind::Organization);
    if for_all && principal.token_organization() != Some(organization.id) {
        return Err(UseCaseError::NotFound);
    }
    if principal.is_operator() {
        return Ok(OrgContext::for_operator(principal, organization));
    }
    let role = match &own {
        _ if for_all => Role::Admin,
        Some(own) => Role::parse(&own.role).unwrap_or(Role::None),
        None => return Err(UseCaseError::NotFound),
    };
    let own = own.map(|own| (own.permissions, own.projects)).unwrap_or_default();
    let standing = Grants {
        operator: false,
        role,
        permissions: own.0.iter().filter_map(|name| Permission::parse(name)).collect(),
        scopes: principal.scopes(),
        self_funding: organization.self_funding,
    };
    let role_in = |(id, role): (ProjectId, String)| Some((id, ProjectRole::parse(&role)?));
    let projects = own.1.into_iter().filter_map(role_in).collect();
    Ok(OrgContext { principal, organization, grants: standing, projects })
}

#[derive(Debug, Clone, Copy)]
enum LastUse {
    Session(SecretHash),
    Token(crate::domain::ids::AdminTokenId),
}

/// Notes a use, beside the request. It may get lost; nothing depends on it.
fn record_last_use(platform: &Services, noted: LastUse, now: UnixMs) {
    let Ok(slot) = Arc::clone(&platform.last_use_permits).try_acquire_owned() else { return };
    let database = platform.database.clone();
    tasks::spawn("note_use", async move {
        let written = async {
            let mut tx = database.begin().await?;
            match noted {
                LastUse::Session(hash) => sessions::record_use(&mut tx, &hash, now).await?,
                LastUse::Token(id) => admin_tokens::record_use(&mut tx, id, now).await?,
            }
            Ok::<_, crate::store::database::DatabaseError>(tx.commit().await?)
        };
        if let Err(fault) = written.await {
            tracing::warn!(%fault, "a use was not noted");
        }
        drop(slot);
    });
}
