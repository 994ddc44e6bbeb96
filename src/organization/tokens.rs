//! Admin tokens, with which programs use the admin API. A token never has more rights than its
//! creator.

use crate::domain::ids::{AdminTokenId, OrganizationId};
use crate::domain::roles::{Scope, TokenKind};
use crate::domain::time::UnixMs;
use crate::organization::access::{OrgContext, Principal};
use crate::organization::error::UseCaseError;
use crate::organization::rights::Action;
use crate::organization::secrets::SecretKind;
use crate::organization::services::Services;
use crate::organization::unit_of_work::{AuditChange, AuditTarget, UnitOfWork};
use crate::settings::secret::Secret;
use crate::store::admin_tokens::{self, AdminToken, TokenVisibility};
use crate::store::columns::new_id;
use crate::store::organizations;
use crate::store::paging::{Page, Sort};

/// A token to create.
#[derive(Debug)]
pub struct NewToken {
    pub name: String,
    pub kind: TokenKind,
    /// For a `Platform` token: the organization in which it acts by default.
    pub organization: Option<OrganizationId>,
    pub scopes: Vec<Scope>,
    /// `None`: the token expires in 90 days; `Some(None)`: never.
    pub expires_at: Option<Option<UnixMs>>,
}

const DEFAULT_LIFETIME_MS: i64 = 90 * 86_400_000;

/// Creates a token and returns it with its secret. An `Organization` token requires a context.
pub async fn create(
    work: &mut UnitOfWork,
    principal: &Principal,
    org: Option<&OrgContext>,
    new: NewToken,
) -> Result<(AdminToken, Secret), UseCaseError> {
    principal.require(Action::ChangeAccount)?;
    let organization = match (new.kind, org) {
        (TokenKind::Personal, _) => None,
        (TokenKind::Organization, Some(org)) => {
            org.require(Action::ManageTokens)?;
            Some(org.organization.id)
        }
        (TokenKind::Organization, None) => return Err(UseCaseError::NotFound),
        (TokenKind::Platform, _) => {
            principal.require(Action::ChangePlatform)?;
            if let Some(id) = new.organization {
                let found = organizations::by_id(work.connection(), id).await?;
                found.ok_or(UseCaseError::NotFound)?;
            }
            new.organization
        }
    };
    check_grantable(principal, new.kind, &new.scopes)?;
    let scope_names: Vec<_> = new.scopes.iter().map(|scope| scope.name()).collect();
    let now = work.now();
    let generated = SecretKind::AdminToken.generate();
    let token = AdminToken {
        id: AdminTokenId(new_id(now)),
        name: new.name,
        kind: new.kind,
        organization,
        scopes: new.scopes,
        last4: generated.last4,
        expires_at: new.expires_at.unwrap_or(Some(UnixMs(now.0 + DEFAULT_LIFETIME_MS))),
        created_by: principal.user.id,
        created_at: now,
        last_used_at: None,
        revoked_at: None,
    };
    admin_tokens::insert(work.connection(), &token, &generated.hash).await?;
    let after = serde_json::json!({
        "name": token.name, "kind": token.kind.name(), "scopes": scope_names, "token": "***",
        "expiresAt": token.expires_at.map(|at| at.to_string()),
    });
    audit(work, principal, &token, "token.create", Some(after)).await?;
    Ok((token, generated.secret))
}

/// Checks that a token creates no token with more rights than its own.
fn check_grantable(
    principal: &Principal,
    kind: TokenKind,
    scopes: &[Scope],
) -> Result<(), UseCaseError> {
    let Some(granted) = principal.scopes() else { return Ok(()) };
    if let Some(scope) = scopes.iter().find(|scope| !granted.contains(scope)) {
        return Err(UseCaseError::CannotGrant(scope.name().to_owned()));
    }
    match principal.token_kind() {
        // A token of another kind would have the rights of the creator, not of the
        // organization.
        Some(TokenKind::Organization) if kind != TokenKind::Organization => {
            Err(UseCaseError::CannotGrant(kind.name().to_owned()))
        }
        _ => Ok(()),
    }
}

/// Returns false for an `Organization` token, which does not have the rights of its creator.
fn acts_as_creator(principal: &Principal) -> bool {
    principal.token_kind() != Some(TokenKind::Organization)
}

/// Returns one page of the principal's own tokens and, if it may manage them, of the tokens of the
/// organization, and the total count.
pub async fn list(
    services: &Services,
    principal: &Principal,
    org: Option<&OrgContext>,
    page: Page,
    sort: Sort,
) -> Result<(Vec<AdminToken>, i64), UseCaseError> {
    principal.require(Action::ViewAccount)?;
    let managed = org.filter(|org| org.require(Action::ManageTokens).is_ok());
    let organization = managed.map(|org| org.organization.id);
    let created_by = Some(principal.user.id).filter(|_| acts_as_creator(principal));
    let visible = TokenVisibility { created_by, organization };
    Ok(admin_tokens::list(services.database.reader(), visible, page, sort).await?)
}

pub async fn revoke(
    work: &mut UnitOfWork,
    principal: &Principal,
    org: Option<&OrgContext>,
    id: AdminTokenId,
) -> Result<(), UseCaseError> {
    principal.require(Action::ChangeAccount)?;
    let found = admin_tokens::by_id(work.connection(), id).await?;
    let token = found.filter(|token| token.revoked_at.is_none()).ok_or(UseCaseError::NotFound)?;
    let allowed = if token.kind == TokenKind::Organization {
        let owning = org.filter(|org| Some(org.organization.id) == token.organization);
        owning.ok_or(UseCaseError::NotFound)?.require(Action::ManageTokens)
    } else if token.created_by == principal.user.id && acts_as_creator(principal) {
        Ok(())
    } else {
        Err(UseCaseError::NotFound)
    };
    allowed?;
    let now = work.now();
    admin_tokens::revoke(work.connection(), id, now).await?;
    audit(work, principal, &token, "token.revoke", None).await
}

async fn audit(
    work: &mut UnitOfWork,
    principal: &Principal,
    token: &AdminToken,
    action: &'static str,
    after: Option<serde_json::Value>,
) -> Result<(), UseCaseError> {
    let change = AuditChange {
        organization: token.organization,
        action: action.into(),
        target: AuditTarget { kind: "token", id: token.id.to_string(), name: token.name.clone() },
        before: None,
        after,
    };
    work.audit(&principal.actor(), change).await
}
