//! Sign-in with email and password, and sign-out.

use std::net::IpAddr;
use std::sync::Arc;

use crate::domain::roles::ActorKind;
use crate::domain::time::UnixMs;
use crate::organization::access::{Actor, AuthMethod, Principal};
use crate::organization::bootstrap::normalize_email;
use crate::organization::error::UseCaseError;
use crate::organization::secrets::SecretKind;
use crate::organization::services::Services;
use crate::organization::unit_of_work::{AuditChange, AuditTarget, Origin, UnitOfWork};
use crate::settings::secret::Secret;
use crate::store::sessions;
use crate::store::users::{self, User};

/// A session that was just started.
#[derive(Debug)]
pub struct SignedIn {
    pub user: User,
    /// The session secret. Only its hash is stored.
    pub secret: Secret,
    /// When the session ends even if it is in use.
    pub expires_at: UnixMs,
}

/// The maximum lifetime of a session: one week.
const SESSION_LIFETIME_MS: i64 = 7 * 86_400_000;

/// Signs in. An unknown user and a wrong password give the same error after the same time.
pub async fn sign_in(
    services: &Arc<Services>,
    origin: Origin,
    email: &str,
    password: Secret,
) -> Result<SignedIn, UseCaseError> {
    if let Some(address) = origin.address {
        check_throttle(services, address)?;
    }
    let email = normalize_email(email);
    let user = users::by_email(services.database.reader(), &email).await?;
    let hash = user.as_ref().and_then(|user| user.password_hash.clone());
    let verified = services.passwords.verify(password, hash).await?;
    let mut work = UnitOfWork::begin(services, origin).await?;
    let Some(user) = user.filter(|_| verified) else {
        let actor = Actor { kind: ActorKind::User, id: String::new(), name: email };
        work.audit_denied(&actor, login_change(None)).await?;
        work.commit().await?;
        return Err(UseCaseError::Unauthenticated("wrong_email_or_password"));
    };
    let signed_in = begin_session(&mut work, user).await?;
    work.commit().await?;
    Ok(signed_in)
}

/// Counts a sign-in attempt from `address`; refuses it if there were too many.
pub fn check_throttle(services: &Services, address: IpAddr) -> Result<(), UseCaseError> {
    services.throttle.check(address)
}

/// Starts a session for an authenticated user.
pub async fn begin_session(work: &mut UnitOfWork, user: User) -> Result<SignedIn, UseCaseError> {
    let now = work.now();
    let generated = SecretKind::Session.generate();
    let expires_at = UnixMs(now.0 + SESSION_LIFETIME_MS);
    sessions::insert(work.connection(), &generated.hash, user.id, now, expires_at).await?;
    users::record_login(work.connection(), user.id, now).await?;
    let principal = Principal { user, auth_method: AuthMethod::Session(generated.hash) };
    work.audit(&principal.actor(), login_change(Some(&principal.user))).await?;
    let user = User { last_login_at: Some(now), ..principal.user };
    Ok(SignedIn { user, secret: generated.secret, expires_at })
}

/// Ends the session that the principal uses.
pub async fn sign_out(work: &mut UnitOfWork, principal: &Principal) -> Result<(), UseCaseError> {
    let AuthMethod::Session(hash) = &principal.auth_method else {
        let message = "a token has no session; revoke the token instead";
        return Err(UseCaseError::conflict("not_a_session", message));
    };
    sessions::delete(work.connection(), hash).await?;
    let user = &principal.user;
    let target = AuditTarget { kind: "user", id: user.id.to_string(), name: user.name.clone() };
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
    let (id, name) = user.map(|user| (user.id.to_string(), user.name.clone())).unwrap_or_default();
    AuditChange {
        organization: None,
        action: "auth.login".into(),
        target: AuditTarget { kind: "user", id, name },
        before: None,
        after: None,
    }
}
