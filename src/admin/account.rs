//! The caller's account: setup, sign-in, sign-out and the current user.

use serde::Serialize;
use utoipa::ToSchema;

use crate::admin::body::body;
use crate::admin::field_type::{Email, NAME, NewPassword, SecretText, Text};
use crate::admin::operation::{OperationSpec, Routes};
use crate::admin::request::{AdminRequest, AuthenticatedRequest};
use crate::admin::response::{AdminResponse, HandlerResult};
use crate::admin::scalar::Rfc3339;
use crate::domain::ids::ProjectId;
use crate::domain::roles::{Permission, ProjectRole, Role, TokenKind};
use crate::organization::access::Principal;
use crate::organization::bootstrap::{self, NewOperator};
use crate::organization::error::UseCaseError;
use crate::organization::rights::Action;
use crate::organization::sign_in::{self, SignedIn};
use crate::organization::unit_of_work::UnitOfWork;
use crate::settings::secret::Secret;
use crate::store::members::{self, Membership};
use crate::store::users::User;

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = User)]
struct UserView {
    user_id: String,
    email: String,
    name: String,
    is_operator: bool,
    email_verified: bool,
    created_at: Rfc3339,
    #[schema(required)]
    last_login_at: Option<Rfc3339>,
    memberships: Vec<MembershipView>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Membership)]
struct MembershipView {
    organization_id: String,
    organization_name: String,
    role: &'static str,
    permissions: Vec<&'static str>,
    projects: Vec<ProjectRoleView>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ProjectRole)]
struct ProjectRoleView {
    project_id: String,
    role: &'static str,
}

/// A session and its secret. Browsers get the secret as a cookie, scripts read it here.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Session)]
struct SessionView {
    token: String,
    expires_at: Rfc3339,
    user: UserView,
}

struct SetUpBody {
    token: Secret,
    email: String,
    name: String,
    password: Secret,
}

struct SignInBody {
    email: String,
    password: Secret,
}

body! { SetUpBody as "SetUp" {
    token: required("token", SecretText),
    email: required("email", Email),
    name: required("name", NAME),
    password: required("password", NewPassword),
}}

body! { SignInBody as "SignIn" {
    email: required("email", Text { min: 1, max: 254 }),
    password: required("password", SecretText),
}}

pub fn routes(routes: Routes) -> Routes {
    let set_up_spec =
        OperationSpec::public("Creates the first operator with the setup link and signs in.");
    let me_spec = OperationSpec::platform(
        Action::ViewAccount,
        "Shows the current user and their memberships.",
    );
    let out_spec = OperationSpec::platform(Action::ViewAccount, "Signs out and ends the session.");
    let in_spec = OperationSpec::public("Signs in.");
    routes
        .post(
            "/api/auth/setup",
            set_up,
            set_up_spec.request_body::<SetUpBody>().response::<SessionView>(),
        )
        .post(
            "/api/auth/login",
            log_in,
            in_spec.request_body::<SignInBody>().response::<SessionView>(),
        )
        .post("/api/auth/logout", log_out, out_spec)
        .get("/api/auth/me", me, me_spec.response::<UserView>())
}

async fn set_up(request: AdminRequest) -> HandlerResult {
    let body: SetUpBody = request.body()?;
    let services = &request.state.services;
    if let Some(address) = request.client_address {
        sign_in::check_throttle(services, address)?;
    }
    let hash = services.passwords.hash(body.password).await?;
    let mut work = UnitOfWork::begin(services, request.origin()).await?;
    let new = NewOperator { email: body.email, name: body.name, password: None };
    let user = bootstrap::set_up(&mut work, body.token.expose(), new, hash).await?;
    let signed_in = sign_in::begin_session(&mut work, user).await?;
    work.commit().await?;
    session_response(&request, &signed_in).await
}

async fn log_in(request: AdminRequest) -> HandlerResult {
    let body: SignInBody = request.body()?;
    let (services, origin) = (&request.state.services, request.origin());
    let signed_in = sign_in::sign_in(services, origin, &body.email, body.password).await?;
    session_response(&request, &signed_in).await
}

async fn session_response(request: &AdminRequest, signed_in: &SignedIn) -> HandlerResult {
    let reader = request.state.services.database.reader();
    let memberships = members::of_user(reader, signed_in.user.id).await;
    let memberships = memberships.map_err(UseCaseError::from)?;
    let view = SessionView {
        token: signed_in.secret.expose().to_owned(),
        expires_at: Rfc3339(signed_in.expires_at),
        user: to_view(&signed_in.user, memberships),
    };
    Ok(AdminResponse::object(&view)
        .with_cookie(request.session_cookie(Some(signed_in.secret.expose()))))
}

async fn log_out(request: AuthenticatedRequest) -> HandlerResult {
    let mut mutation = request.begin_mutation(None).await?;
    let result = sign_in::sign_out(&mut mutation.work, &request.principal).await;
    let response = AdminResponse::message("Signed out").with_cookie(request.session_cookie(None));
    request.finish_mutation(mutation, result.map(|()| response)).await
}

async fn me(request: AuthenticatedRequest) -> HandlerResult {
    let principal: &Principal = &request.principal;
    principal.require(Action::ViewAccount)?;
    let reader = request.state.services.database.reader();
    // An organization token acts for the organization; its creator's memberships do not apply.
    let acts_as_user = principal.token_kind() != Some(TokenKind::Organization);
    let memberships = members::of_user(reader, principal.user.id).await;
    let mut memberships = memberships.map_err(UseCaseError::from)?;
    memberships.retain(|_| acts_as_user);
    let user = User { is_operator: principal.is_operator(), ..principal.user.clone() };
    Ok(AdminResponse::object(&to_view(&user, memberships)))
}

fn to_view(user: &User, memberships: Vec<Membership>) -> UserView {
    UserView {
        user_id: user.id.to_string(),
        email: user.email.clone(),
        name: user.name.clone(),
        is_operator: user.is_operator,
        email_verified: user.email_verified,
        created_at: Rfc3339(user.created_at),
        last_login_at: user.last_login_at.map(Rfc3339),
        memberships: memberships.into_iter().map(membership_view).collect(),
    }
}

fn membership_view(membership: Membership) -> MembershipView {
    let permissions = match membership.role {
        Role::Admin => Permission::ALL,
        Role::Member | Role::None => &membership.permissions,
    };
    let project_role = |(id, role): &(ProjectId, ProjectRole)| ProjectRoleView {
        project_id: id.to_string(),
        role: role.name(),
    };
    MembershipView {
        organization_id: membership.organization.to_string(),
        organization_name: membership.organization_name,
        role: membership.role.name(),
        permissions: permissions.iter().map(|permission| permission.name()).collect(),
        projects: membership.projects.iter().map(project_role).collect(),
    }
}
