//! Sign-in: from an address and a password to a session.

use std::net::IpAddr;
use std::sync::Arc;

use crate::domain::time::UnixMs;
use crate::organization::access::{Actor, AuthMethod, Principal};
use crate::organization::bootstrap::normalize_email;
use crate::organization::error::UseCaseError;
use crate::organization::secrets::SecretKind;
use crate::organization::services::Services;
use crate::organization::unit_of_work::{AuditChange, Origin, UnitOfWork};
use crate::settings::secret::Secret;
use crate::store::sessions;
use crate::store::users::{self, User};

/// A session just begun.
#[derive(Debug)]
pub struct SignedIn {
    /// Whose.
    pub user: User,
    /// Its secret, shown once.
    pub secret: Secret,
    /// When it ends, whatever happens.
    pub expires_at: UnixMs,
}

/// How long a session lasts at most: a week.
const SESSION_LIFETIME_MS: i64 = 7 * 86_400_000;

/// Signs in. Who is unknown and who is mistaken are told the same, in the same time.
pub async fn sign_in(
    platform: &Arc<Services>,
    origin: Origin,
    email: &str,
    password: Secret,
) -> Result<SignedIn, UseCaseError> {
    if let Some(address) = origin.address {
        check_throttle(platform, address)?;
    }
    let email = normalize_email(email);
    let user = users::by_email(platform.database.reader(), &email).await?;
    let kept = user.as_ref().and_then(|user| user.password_hash.clone());
    let fits = platform.passwords.verify(password, kept).await?;
    let mut work = UnitOfWork::begin(platform, origin).await?;
    let Some(user) = user.filter(|_| fits) else {
        let actor = Actor { kind: "User", id: String::new(), name: email };
        work.audit_denied(&actor, login_change(None)).await?;
        work.commit().await?;
        return Err(UseCaseError::Unauthenticated("wrong_email_or_password"));
    };
    let signed_in = begin_session(&mut work, user).await?;
    work.commit().await?;
    Ok(signed_in)
}

/// Counts a try to sign in from there.
pub fn check_throttle(platform: &Services, address: IpAddr) -> Result<(), UseCaseError> {
    platform.throttle.check(address)
}

/// Begins a session for somebody who has shown who they are.
pub async fn begin_session(work: &mut UnitOfWork, user: User) -> Result<SignedIn, UseCaseError> {
    let now = work.now();
    let minted = SecretKind::Session.generate();
    let expires_at = UnixMs(now.0 + SESSION_LIFETIME_MS);
    sessions::insert(work.connection(), &minted.hash, user.id, now, expires_at).await?;
    users::record_login(work.connection(), user.id, now).await?;
    let principal = Principal { user, auth_method: AuthMethod::Session(minted.hash) };
    work.audit(&principal.actor(), login_change(Some(&principal.user))).await?;
    let user = User { last_login_at: Some(now), ..principal.user };
    Ok(SignedIn { user, secret: minted.secret, expires_at })
}

/// Ends the session by which they act.
pub async fn sign_out(work: &mut UnitOfWork, principal: &Principal) -> Result<(), UseCaseError> {
    let AuthMethod::Session(hash) = &principal.auth_method else {
        let message = "a token has no session to end: revoke it instead";
        return Err(UseCaseError::conflict("not_a_session", message));
    };
    sessions::delete(work.connection(), hash).await?;
    let user = &principal.user;
    let target = ("user", user.id.to_string(), user.name.clone());
    let change = AuditChange {
        organization: None,
        action: "auth.logout".into(),
        target,
        before: None,
        after: None,
    };
    work.audit(&principal.actor(), change).await
}

fn login_change(user: Option<&User>) -> AuditChange {
    let target = user.map(|user| (user.id.to_string(), user.name.clone())).unwrap_or_default();
    AuditChange {
        organization: None,
        action: "auth.login".into(),
        target: ("user", target.0, target.1),
        before: None,
        after: None,
    }
}
