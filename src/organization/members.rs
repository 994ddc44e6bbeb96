//! Members: who belongs to an organization.

use crate::domain::ids::UserId;
use crate::organization::access::Seat;
use crate::organization::bootstrap::folded;
use crate::organization::denied::Denied;
use crate::organization::rights::Right;
use crate::organization::roles::Role;
use crate::organization::work::{Change, Work};
use crate::store::columns::new_id;
use crate::store::members;
use crate::store::users::{self, User};

/// Makes a person, who can sign in by no password yet, an Admin of the organization.
pub async fn add_admin(
    work: &mut Work,
    seat: &Seat,
    email: &str,
    name: &str,
) -> Result<User, Denied> {
    seat.may(Right::ChangeOrganization)?;
    let now = work.now();
    let email = folded(email);
    let known = users::by_email(work.connection(), &email).await?;
    let user = match known {
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
    let (organization, role) = (seat.organization.id, Role::Admin.name());
    members::insert(work.connection(), organization, user.id, (role, &[]), now).await?;
    let change = Change {
        organization: Some(organization),
        action: "member.add".into(),
        target: ("user", user.id.to_string(), user.name.clone()),
        before: None,
        after: Some(serde_json::json!({"email": user.email, "role": role})),
    };
    work.audit(&seat.principal.actor(), change).await?;
    Ok(user)
}
