//! Sign-in: from an address and a password to a session.

use std::net::IpAddr;
use std::sync::Arc;

use crate::domain::time::UnixMs;
use crate::organization::access::{Actor, Principal, Via};
use crate::organization::bootstrap::folded;
use crate::organization::denied::Denied;
use crate::organization::platform::Platform;
use crate::organization::secrets::SecretKind;
use crate::organization::work::{Change, Origin, Work};
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
const SESSION_MS: i64 = 7 * 86_400_000;

/// Signs in. Who is unknown and who is mistaken are told the same, in the same time.
pub async fn sign_in(
    platform: &Arc<Platform>,
    origin: Origin,
    email: &str,
    password: Secret,
) -> Result<SignedIn, Denied> {
    if let Some(address) = origin.address {
        allow_try(platform, address)?;
    }
    let email = folded(email);
    let user = users::by_email(platform.database.reader(), &email).await?;
    let kept = user.as_ref().and_then(|user| user.password_hash.clone());
    let fits = platform.passwords.verify(password, kept).await?;
    let mut work = Work::begin(platform, origin).await?;
    let Some(user) = user.filter(|_| fits) else {
        let actor = Actor { kind: "User", id: String::new(), name: email };
        work.audit_denied(&actor, change(None)).await?;
        work.commit().await?;
        return Err(Denied::Unauthenticated("wrong_email_or_password"));
    };
    let signed_in = begin_session(&mut work, user).await?;
    work.commit().await?;
    Ok(signed_in)
}

/// Counts a try to sign in from there.
pub fn allow_try(platform: &Platform, address: IpAddr) -> Result<(), Denied> {
    platform.throttle.check(address)
}

/// Begins a session for somebody who has shown who they are.
pub async fn begin_session(work: &mut Work, user: User) -> Result<SignedIn, Denied> {
    let now = work.now();
    let minted = SecretKind::Session.mint();
    let expires_at = UnixMs(now.0 + SESSION_MS);
    sessions::insert(work.connection(), &minted.hash, user.id, now, expires_at).await?;
    users::note_login(work.connection(), user.id, now).await?;
    let principal = Principal { user, via: Via::Session(minted.hash) };
    work.audit(&principal.actor(), change(Some(&principal.user))).await?;
    let user = User { last_login_at: Some(now), ..principal.user };
    Ok(SignedIn { user, secret: minted.secret, expires_at })
}

/// Ends the session by which they act.
pub async fn sign_out(work: &mut Work, principal: &Principal) -> Result<(), Denied> {
    let Via::Session(hash) = &principal.via else {
        let message = "a token has no session to end: revoke it instead";
        return Err(Denied::conflict("not_a_session", message));
    };
    sessions::delete(work.connection(), hash).await?;
    let user = &principal.user;
    let target = ("user", user.id.to_string(), user.name.clone());
    let change = Change {
        organization: None,
        action: "auth.logout".into(),
        target,
        before: None,
        after: None,
    };
    work.audit(&principal.actor(), change).await
}

fn change(user: Option<&User>) -> Change {
    let target = user.map(|user| (user.id.to_string(), user.name.clone())).unwrap_or_default();
    Change {
        organization: None,
        action: "auth.login".into(),
        target: ("user", target.0, target.1),
        before: None,
        after: None,
    }
}
