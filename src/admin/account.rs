//! One's own account: set-up, sign-in, sign-out, and who one is.

use axum::http::Method;
use serde::Serialize;
use utoipa::ToSchema;

use crate::admin::answer::{Answer, Reply};
use crate::admin::asked::{Asked, Visit};
use crate::admin::fields::body;
use crate::admin::kind::{Email, Hidden, NAME, Password, Text};
use crate::admin::operation::{Doc, Operations};
use crate::admin::scalar::At;
use crate::organization::access::Principal;
use crate::organization::bootstrap::{self, NewOperator};
use crate::organization::rights::Right;
use crate::organization::roles::{Permission, Role, TokenKind};
use crate::organization::sign_in::{self, SignedIn};
use crate::organization::work::Work;
use crate::settings::secret::Secret;
use crate::store::members::{self, Membership};
use crate::store::users::User;

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = User)]
struct UserShape {
    user_id: String,
    email: String,
    name: String,
    is_operator: bool,
    email_verified: bool,
    created_at: At,
    #[schema(required)]
    last_login_at: Option<At>,
    memberships: Vec<MembershipShape>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Membership)]
struct MembershipShape {
    organization_id: String,
    organization_name: String,
    role: String,
    permissions: Vec<String>,
    projects: Vec<ProjectRoleShape>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ProjectRole)]
struct ProjectRoleShape {
    project_id: String,
    role: String,
}

/// A session, with its secret for scripts; a browser keeps it as a cookie.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Session)]
struct SessionShape {
    token: String,
    expires_at: At,
    user: UserShape,
}

struct SetUp {
    token: Secret,
    email: String,
    name: String,
    password: Secret,
}

struct SignIn {
    email: String,
    password: Secret,
}

body! { SetUp as "SetUp" {
    token: required("token", Hidden),
    email: required("email", Email),
    name: required("name", NAME),
    password: required("password", Password),
}}

body! { SignIn as "SignIn" {
    email: required("email", Text(1, 254)),
    password: required("password", Hidden),
}}

/// What this file answers.
pub fn operations(operations: Operations) -> Operations {
    let (get, post) = (Method::GET, Method::POST);
    let set_up_doc = Doc::public("Makes the first operator by the set-up link, and signs in.");
    let me_doc = Doc::platform(Right::ViewAccount, "Says who one is, and where.");
    let out_doc = Doc::platform(Right::ViewAccount, "Ends the session.");
    let in_doc = Doc::public("Signs in.");
    operations
        .add(&post, "/api/auth/setup", set_up, set_up_doc.takes::<SetUp>().one::<SessionShape>())
        .add(&post, "/api/auth/login", log_in, in_doc.takes::<SignIn>().one::<SessionShape>())
        .add(&post, "/api/auth/logout", log_out, out_doc)
        .add(&get, "/api/auth/me", me, me_doc.one::<UserShape>())
}

async fn set_up(visit: Visit) -> Reply {
    let body: SetUp = visit.body()?;
    let platform = &visit.state.platform;
    if let Some(address) = visit.address {
        sign_in::allow_try(platform, address)?;
    }
    let hash = platform.passwords.hash(body.password).await?;
    let mut work = Work::begin(platform, visit.origin()).await?;
    let new = NewOperator { email: body.email, name: body.name, password: None };
    let user = bootstrap::set_up(&mut work, body.token.expose(), new, hash).await?;
    let signed_in = sign_in::begin_session(&mut work, user).await?;
    work.commit().await?;
    session(&visit, &signed_in).await
}

async fn log_in(visit: Visit) -> Reply {
    let body: SignIn = visit.body()?;
    let (platform, origin) = (&visit.state.platform, visit.origin());
    let signed_in = sign_in::sign_in(platform, origin, &body.email, body.password).await?;
    session(&visit, &signed_in).await
}

async fn session(visit: &Visit, signed_in: &SignedIn) -> Reply {
    let reader = visit.state.platform.database.reader();
    let memberships = members::of_user(reader, signed_in.user.id).await;
    let memberships = memberships.map_err(crate::organization::denied::Denied::from)?;
    let shape = SessionShape {
        token: signed_in.secret.expose().to_owned(),
        expires_at: At(signed_in.expires_at),
        user: shape(&signed_in.user, memberships),
    };
    Ok(Answer::one(&shape).with_cookie(visit.cookie(Some(signed_in.secret.expose()))))
}

async fn log_out(asked: Asked) -> Reply {
    let mut begun = asked.begin(None).await?;
    let done = sign_in::sign_out(&mut begun.work, &asked.principal).await;
    let answer = Answer::message("Signed out").with_cookie(asked.visit.cookie(None));
    asked.finish(begun, done.map(|()| answer)).await
}

async fn me(asked: Asked) -> Reply {
    let principal: &Principal = &asked.principal;
    principal.may(Right::ViewAccount)?;
    let reader = asked.visit.state.platform.database.reader();
    // An organization's token is its maker's in name only.
    let own = principal.token_kind() != Some(TokenKind::Organization);
    let memberships = members::of_user(reader, principal.user.id).await;
    let mut memberships = memberships.map_err(crate::organization::denied::Denied::from)?;
    memberships.retain(|_| own);
    let user = User { is_operator: principal.is_operator(), ..principal.user.clone() };
    Ok(Answer::one(&shape(&user, memberships)))
}

fn shape(user: &User, memberships: Vec<Membership>) -> UserShape {
    UserShape {
        user_id: user.id.to_string(),
        email: user.email.clone(),
        name: user.name.clone(),
        is_operator: user.is_operator,
        email_verified: user.email_verified,
        created_at: At(user.created_at),
        last_login_at: user.last_login_at.map(At),
        memberships: memberships.into_iter().map(membership).collect(),
    }
}

fn membership(membership: Membership) -> MembershipShape {
    let all = || Permission::NAMES.iter().map(|&name| name.to_owned()).collect();
    let is_admin = membership.role == Role::Admin.name();
    let role = |(id, role): (crate::domain::ids::ProjectId, String)| ProjectRoleShape {
        project_id: id.to_string(),
        role,
    };
    MembershipShape {
        organization_id: membership.organization.to_string(),
        organization_name: membership.organization_name,
        role: membership.role,
        permissions: if is_admin { all() } else { membership.permissions },
        projects: membership.projects.into_iter().map(role).collect(),
    }
}
