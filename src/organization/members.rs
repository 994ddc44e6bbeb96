//! Members of an organization.

use crate::domain::ids::UserId;
use crate::domain::roles::Role;
use crate::organization::access::OrgContext;
use crate::organization::bootstrap::normalize_email;
use crate::organization::error::UseCaseError;
use crate::organization::rights::Action;
use crate::organization::unit_of_work::{AuditChange, AuditTarget, UnitOfWork};
use crate::store::columns::new_id;
use crate::store::members::{self, NewMember};
use crate::store::users::{self, User};

/// Adds a person as an Admin of the organization. A new user has no password, and therefore cannot
/// sign in yet.
pub async fn add_admin(
    work: &mut UnitOfWork,
    org: &OrgContext,
    email: &str,
    name: &str,
) -> Result<User, UseCaseError> {
    org.require(Action::ChangeOrganization)?;
    let now = work.now();
    let email = normalize_email(email);
    let existing = users::by_email(work.connection(), &email).await?;
    let user = match existing {
        Some(user) => user,
        None => {
            let user = User {
                id: UserId(new_id(now)),
                email,
                name: name.to_owned(),
                password_hash: None,
                is_operator: false,
                email_verified: false,
                created_at: now,
                last_login_at: None,
            };
            users::insert(work.connection(), &user).await?;
            user
        }
    };
    let (organization, role) = (org.organization.id, Role::Admin);
    let new = NewMember { user: user.id, role, permissions: &[] };
    members::insert(work.connection(), organization, new, now).await?;
    let change = AuditChange {
        organization: Some(organization),
        action: "member.add".into(),
        target: AuditTarget { kind: "user", id: user.id.to_string(), name: user.name.clone() },
        before: None,
        after: Some(serde_json::json!({"email": user.email, "role": role.name()})),
    };
    work.audit(&org.principal.actor(), change).await?;
    Ok(user)
}
