//! Creation of the first operator in an empty database.

use std::sync::Arc;

use crate::domain::ids::UserId;
use crate::domain::time::UnixMs;
use crate::organization::access::Principal;
use crate::organization::error::UseCaseError;
use crate::organization::passwords::LENGTH_RANGE;
use crate::organization::secrets::{self, SecretKind};
use crate::organization::services::Services;
use crate::organization::unit_of_work::{AuditChange, AuditTarget, Origin, UnitOfWork};
use crate::settings::secret::Secret;
use crate::store::columns::new_id;
use crate::store::setup_links;
use crate::store::users::{self, User};

/// The operator to create.
#[derive(Debug)]
pub struct NewOperator {
    /// The email address, not yet normalized.
    pub email: String,
    pub name: String,
    /// `None` if the operator cannot sign in with a password.
    pub password: Option<Secret>,
}

/// What the first start found or created.
#[derive(Debug)]
pub enum FirstStart {
    /// An operator exists.
    Ready,
    /// No operator exists. With this secret, one can be created within the next hour.
    Link(Secret),
}

/// How long a setup link is valid: one hour.
const SETUP_LINK_LIFETIME_MS: i64 = 3_600_000;

/// Creates the configured operator, or else a setup link, unless an operator exists.
pub async fn first_start(
    services: &Arc<Services>,
    configured: Option<NewOperator>,
) -> Result<FirstStart, UseCaseError> {
    if let Some(new) = configured {
        ensure_operator(services, new).await?;
        return Ok(FirstStart::Ready);
    }
    let mut work = UnitOfWork::begin(services, Origin::default()).await?;
    if users::first_operator(work.connection()).await?.is_some() {
        return Ok(FirstStart::Ready);
    }
    let generated = SecretKind::SetupLink.generate();
    let expires_at = UnixMs(work.now().0 + SETUP_LINK_LIFETIME_MS);
    setup_links::replace(work.connection(), &generated.hash, expires_at).await?;
    work.commit().await?;
    Ok(FirstStart::Link(generated.secret))
}

/// Returns the setup link to print.
pub fn setup_url(public_url: &str, secret: &Secret) -> String {
    format!("{}/setup?token={}", public_url.trim_end_matches('/'), secret.expose())
}

/// Returns the first operator; creates `new` if there is none.
pub async fn ensure_operator(
    services: &Arc<Services>,
    new: NewOperator,
) -> Result<User, UseCaseError> {
    let existing = users::first_operator(services.database.reader()).await?;
    if let Some(operator) = existing {
        return Ok(operator);
    }
    let length = new.password.as_ref().map(|password| password.expose().chars().count());
    if length.is_some_and(|length| !LENGTH_RANGE.contains(&length)) {
        let message = "the operator's password must have 10 to 128 characters";
        return Err(UseCaseError::field("password", "wrong_length", message));
    }
    let hash = match new.password {
        Some(password) => Some(services.passwords.hash(password).await?),
        None => None,
    };
    let mut work = UnitOfWork::begin(services, Origin::default()).await?;
    if let Some(operator) = users::first_operator(work.connection()).await? {
        return Ok(operator);
    }
    let operator = add_operator(&mut work, &new.email, new.name, hash).await?;
    work.commit().await?;
    Ok(operator)
}

/// Creates the first operator with the secret of a setup link, which works once.
pub async fn set_up(
    work: &mut UnitOfWork,
    token: &str,
    new: NewOperator,
    password_hash: String,
) -> Result<User, UseCaseError> {
    let now = work.now();
    let expires_at = setup_links::expiry(work.connection(), &secrets::hash(token)).await?;
    let operator = users::first_operator(work.connection()).await?;
    if operator.is_some() || expires_at.is_none_or(|expires_at| expires_at <= now) {
        return Err(UseCaseError::Unauthenticated("invalid_setup_link"));
    }
    add_operator(work, &new.email, new.name, Some(password_hash)).await
}

async fn add_operator(
    work: &mut UnitOfWork,
    email: &str,
    name: String,
    password_hash: Option<String>,
) -> Result<User, UseCaseError> {
    let now = work.now();
    let user = User {
        id: UserId(new_id(now)),
        email: normalize_email(email),
        name,
        password_hash,
        is_operator: true,
        email_verified: false,
        created_at: now,
        last_login_at: None,
    };
    if users::by_email(work.connection(), &user.email).await?.is_some() {
        return Err(UseCaseError::conflict("email_taken", "a user with this email address exists"));
    }
    users::insert(work.connection(), &user).await?;
    setup_links::clear(work.connection()).await?;
    let actor = Principal::system(user.clone()).actor();
    let change = AuditChange {
        organization: None,
        action: "operator.create".into(),
        target: AuditTarget { kind: "user", id: user.id.to_string(), name: user.name.clone() },
        before: None,
        after: Some(serde_json::json!({"email": user.email, "isOperator": true})),
    };
    work.audit(&actor, change).await?;
    Ok(user)
}

/// Returns an email address in the form in which it is stored: trimmed and in lower case.
pub fn normalize_email(email: &str) -> String {
    email.trim().to_lowercase()
}
