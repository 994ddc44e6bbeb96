//! Access: who asks, and from which seat in which organization.

use std::sync::Arc;

use crate::clock;
use crate::domain::ids::{OrganizationId, ProjectId};
use crate::domain::time::UnixMs;
use crate::organization::denied::Denied;
use crate::organization::platform::Platform;
use crate::organization::rights::{Reach, Right, Standing};
use crate::organization::roles::{Permission, ProjectRole, Role, Scope, TokenKind};
use crate::organization::secrets::{self, SecretHash, SecretKind};
use crate::store::admin_tokens::{self, AdminToken};
use crate::store::members::{self, Membership};
use crate::store::organizations::{self, Organization};
use crate::store::sessions;
use crate::store::users::{self, User};
use crate::tasks;

/// How somebody showed who they are.
#[derive(Debug, Clone)]
pub enum Via {
    /// They signed in.
    Session(SecretHash),
    /// A program of theirs.
    Token(Box<AdminToken>),
    /// The process itself, at its start.
    Start,
}

/// Somebody who is known.
#[derive(Debug, Clone)]
pub struct Principal {
    /// Who; for an organization's token, who made it.
    pub user: User,
    /// How.
    pub via: Via,
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
pub struct Seat {
    /// Who.
    pub principal: Arc<Principal>,
    /// Where.
    pub organization: Organization,
    standing: Standing,
    projects: Vec<(ProjectId, ProjectRole)>,
}

/// A session unused for so long has ended: a day.
const IDLE_MS: i64 = 86_400_000;
/// Uses are noted to the minute.
const NOTED_MS: i64 = 60_000;

impl Principal {
    /// The operator, as the process itself acts at its start.
    pub const fn start(operator: User) -> Self {
        Self { user: operator, via: Via::Start }
    }

    /// Whether they act for the whole deployment.
    pub fn is_operator(&self) -> bool {
        self.user.is_operator && self.token_kind() != Some(TokenKind::Organization)
    }

    /// The kind of their token.
    pub fn token_kind(&self) -> Option<TokenKind> {
        match &self.via {
            Via::Token(token) => TokenKind::parse(&token.kind),
            Via::Session(_) | Via::Start => None,
        }
    }

    /// What their token is scoped for; `None`: no token, no bound.
    pub fn scopes(&self) -> Option<Vec<Scope>> {
        match &self.via {
            Via::Token(token) => {
                Some(token.scopes.iter().filter_map(|scope| Scope::parse(scope)).collect())
            }
            Via::Session(_) | Via::Start => None,
        }
    }

    /// The organization that their token names.
    pub fn token_organization(&self) -> Option<OrganizationId> {
        match &self.via {
            Via::Token(token) => token.organization,
            Via::Session(_) | Via::Start => None,
        }
    }

    /// Who the audit log says it was.
    pub fn actor(&self) -> Actor {
        let (kind, id, name) = match &self.via {
            Via::Token(token) => ("Token", token.id.to_string(), token.name.clone()),
            Via::Start => ("System", self.user.id.to_string(), self.user.name.clone()),
            Via::Session(_) => {
                let kind = if self.user.is_operator { "Operator" } else { "User" };
                (kind, self.user.id.to_string(), self.user.name.clone())
            }
        };
        Actor { kind, id, name }
    }

    /// Whether they may, outside of any organization.
    pub fn may(&self, right: Right) -> Result<(), Denied> {
        let standing = Standing {
            operator: self.is_operator(),
            role: Role::Member,
            permissions: Vec::new(),
            scopes: self.scopes(),
            self_funding: false,
        };
        right.reach(&standing, None)?;
        Ok(())
    }
}

impl Seat {
    /// The operator's, in that organization.
    pub fn of_operator(principal: Arc<Principal>, organization: Organization) -> Self {
        let standing = Standing {
            operator: true,
            role: Role::Admin,
            permissions: Permission::ALL.to_vec(),
            scopes: principal.scopes(),
            self_funding: organization.self_funding,
        };
        Self { principal, organization, standing, projects: Vec::new() }
    }

    /// Whether they act as the operator.
    pub const fn is_operator(&self) -> bool {
        self.standing.operator
    }

    /// Their own role in that project.
    pub fn project_role(&self, project: ProjectId) -> Option<ProjectRole> {
        self.projects.iter().find(|(id, _)| *id == project).map(|(_, role)| *role)
    }

    /// Whether they may, in the organization as a whole.
    pub fn may(&self, right: Right) -> Result<(), Denied> {
        right.reach(&self.standing, None)?;
        self.is_open_for(right)
    }

    /// How much of that project they may.
    pub fn reach(&self, right: Right, project: ProjectId) -> Result<Reach, Denied> {
        let reach = right.reach(&self.standing, self.project_role(project))?;
        self.is_open_for(right)?;
        Ok(reach)
    }

    /// A closed organization is a record of what was: nothing in it changes any more.
    fn is_open_for(&self, right: Right) -> Result<(), Denied> {
        if self.organization.status == "Closed" && right.rule().scope.changes() {
            return Err(Denied::conflict("organization_closed", "the organization is closed"));
        }
        Ok(())
    }
}

/// Finds who shows that secret.
pub async fn authenticate(platform: &Platform, secret: &str) -> Result<Principal, Denied> {
    let now = clock::now();
    if secret.starts_with(SecretKind::ApiKey.prefix()) {
        return Err(Denied::Unauthenticated("data_plane_key"));
    }
    let hash = secrets::hash(secret);
    if SecretKind::AdminToken.fits(secret) {
        return by_token(platform, &hash, now).await;
    }
    if !SecretKind::Session.fits(secret) {
        return Err(Denied::Unauthenticated("invalid_credential"));
    }
    let found = sessions::find(platform.database.reader(), &hash).await?;
    let session = found.ok_or(Denied::Unauthenticated("invalid_credential"))?;
    if session.expires_at <= now || session.last_seen_at.0 + IDLE_MS <= now.0 {
        return Err(Denied::Unauthenticated("expired_credential"));
    }
    if session.last_seen_at.0 + NOTED_MS <= now.0 {
        note(platform, Noted::Session(hash), now);
    }
    Ok(Principal { user: session.user, via: Via::Session(hash) })
}

async fn by_token(
    platform: &Platform,
    hash: &SecretHash,
    now: UnixMs,
) -> Result<Principal, Denied> {
    let reader = platform.database.reader();
    let found = admin_tokens::find(reader, hash).await?;
    let token = found.ok_or(Denied::Unauthenticated("invalid_credential"))?;
    if token.revoked_at.is_some() {
        return Err(Denied::Unauthenticated("revoked_credential"));
    }
    if token.expires_at.is_some_and(|ends| ends <= now) {
        return Err(Denied::Unauthenticated("expired_credential"));
    }
    let user = users::by_id(reader, token.created_by).await?;
    let user = user.ok_or(Denied::Unauthenticated("invalid_credential"))?;
    if token.kind == TokenKind::Platform.name() && !user.is_operator {
        return Err(Denied::Unauthenticated("revoked_credential"));
    }
    if token.last_used_at.is_none_or(|used| used.0 + NOTED_MS <= now.0) {
        note(platform, Noted::Token(token.id), now);
    }
    Ok(Principal { user, via: Via::Token(Box::new(token)) })
}

/// Takes the seat that a request asks for: by its header, its body, the token, or because there
/// is only one.
pub async fn seat(
    platform: &Platform,
    principal: &Arc<Principal>,
    header: Option<&str>,
    body: Option<&str>,
) -> Result<Seat, Denied> {
    let reader = platform.database.reader();
    if header.zip(body).is_some_and(|(header, body)| header != body) {
        let message = "the body and X-Organization-Id name different organizations";
        return Err(Denied::field("/organizationId", "organization_mismatch", message));
    }
    let asked = header.or(body).map(OrganizationId::parse).transpose();
    let asked = asked.map_err(|_| Denied::NotFound)?;
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
        Denied::field("X-Organization-Id", "organization_required", message)
    })?;
    let organization = organizations::by_id(reader, chosen).await?.ok_or(Denied::NotFound)?;
    let own = memberships.into_iter().find(|membership| membership.organization == chosen);
    sit(principal, organization, own)
}

fn sit(
    principal: &Arc<Principal>,
    organization: Organization,
    own: Option<Membership>,
) -> Result<Seat, Denied> {
    let principal = Arc::clone(principal);
    let for_all = principal.token_kind() == Some(TokenKind::Organization);
    if for_all && principal.token_organization() != Some(organization.id) {
        return Err(Denied::NotFound);
    }
    if principal.is_operator() {
        return Ok(Seat::of_operator(principal, organization));
    }
    let role = match &own {
        _ if for_all => Role::Admin,
        Some(own) => Role::parse(&own.role).unwrap_or(Role::None),
        None => return Err(Denied::NotFound),
    };
    let own = own.map(|own| (own.permissions, own.projects)).unwrap_or_default();
    let standing = Standing {
        operator: false,
        role,
        permissions: own.0.iter().filter_map(|name| Permission::parse(name)).collect(),
        scopes: principal.scopes(),
        self_funding: organization.self_funding,
    };
    let role_in = |(id, role): (ProjectId, String)| Some((id, ProjectRole::parse(&role)?));
    let projects = own.1.into_iter().filter_map(role_in).collect();
    Ok(Seat { principal, organization, standing, projects })
}

#[derive(Debug, Clone, Copy)]
enum Noted {
    Session(SecretHash),
    Token(crate::domain::ids::AdminTokenId),
}

/// Notes a use, beside the request. It may get lost; nothing depends on it.
fn note(platform: &Platform, noted: Noted, now: UnixMs) {
    let Ok(slot) = Arc::clone(&platform.notes).try_acquire_owned() else { return };
    let database = platform.database.clone();
    tasks::spawn("note_use", async move {
        let written = async {
            let mut tx = database.begin().await?;
            match noted {
                Noted::Session(hash) => sessions::note_use(&mut tx, &hash, now).await?,
                Noted::Token(id) => admin_tokens::note_use(&mut tx, id, now).await?,
            }
            Ok::<_, crate::store::database::DatabaseError>(tx.commit().await?)
        };
        if let Err(fault) = written.await {
            tracing::warn!(%fault, "a use was not noted");
        }
        drop(slot);
    });
}
