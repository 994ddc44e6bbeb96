//! `auth/tokens`: admin tokens, the credentials of programs.

use serde::Serialize;
use utoipa::ToSchema;

use crate::admin::body::body;
use crate::admin::field_type::{EnumOf, ListOf, NAME, Text, Timestamp};
use crate::admin::operation::{LIST_PARAMS, OperationSpec, Routes};
use crate::admin::request::AuthenticatedRequest;
use crate::admin::response::{AdminResponse, HandlerResult};
use crate::admin::scalar::Rfc3339;
use crate::domain::ids::{AdminTokenId, OrganizationId};
use crate::domain::roles::{Scope, TokenKind};
use crate::domain::time::UnixMs;
use crate::organization::error::UseCaseError;
use crate::organization::rights::Action;
use crate::organization::tokens;
use crate::store::admin_tokens::{AdminToken, SORTS};

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AdminToken)]
struct AdminTokenView {
    id: String,
    name: String,
    kind: &'static str,
    #[schema(required)]
    organization_id: Option<String>,
    scopes: Vec<&'static str>,
    /// The secret. Present only in the response that creates the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    last4: String,
    #[schema(required)]
    expires_at: Option<Rfc3339>,
    created_by: String,
    created_at: Rfc3339,
    #[schema(required)]
    last_used_at: Option<Rfc3339>,
    #[schema(required)]
    revoked_at: Option<Rfc3339>,
}

#[expect(clippy::option_option, reason = "absent, null and an instant are three things")]
struct TokenBody {
    name: String,
    kind: TokenKind,
    organization: Option<String>,
    scopes: Vec<Scope>,
    expires_at: Option<Option<UnixMs>>,
}

const SCOPES: ListOf<EnumOf<Scope>> =
    ListOf { max: Scope::ALL.len(), item: EnumOf { names: Scope::NAMES, parse: Scope::parse } };

body! { TokenBody as "NewAdminToken" {
    name: required("name", NAME),
    kind: required("kind", EnumOf { names: TokenKind::NAMES, parse: TokenKind::parse }),
    organization: optional("organizationId", Text { min: 1, max: 100 }),
    scopes: required("scopes", SCOPES),
    expires_at: nullable("expiresAt", Timestamp::Future),
}}

pub fn routes(routes: Routes) -> Routes {
    let path = "/api/auth/tokens";
    let list_spec =
        OperationSpec::platform(Action::ViewAccount, "Lists the caller's admin tokens.");
    let create_spec = OperationSpec::platform(
        Action::ChangeAccount,
        "Creates an admin token. The secret is shown once.",
    );
    let revoke_spec = OperationSpec::platform(Action::ChangeAccount, "Revokes an admin token.");
    routes
        .get(path, list, list_spec.query_params(LIST_PARAMS).list_response::<AdminTokenView>())
        .post(path, create, create_spec.request_body::<TokenBody>().response::<AdminTokenView>())
        .delete("/api/auth/tokens/{id}", revoke, revoke_spec)
}

async fn list(request: AuthenticatedRequest) -> HandlerResult {
    let mut query = request.query();
    let (page, sort) = (query.page(), query.sort(SORTS));
    query.finish()?;
    let org = request.org_context_opt().await?;
    let services = &request.state.services;
    let (rows, total) =
        tokens::list(services, &request.principal, org.as_ref(), page, sort).await?;
    let rows: Vec<AdminTokenView> = rows.iter().map(|row| to_view(row, None)).collect();
    Ok(AdminResponse::page(&rows, total, page))
}

async fn create(request: AuthenticatedRequest) -> HandlerResult {
    let body: TokenBody = request.body()?;
    let requested = body.organization.as_deref();
    let org = match body.kind {
        TokenKind::Organization => Some(request.org_context_in(requested).await?),
        TokenKind::Personal | TokenKind::Platform => None,
    };
    let organization = requested.filter(|_| body.kind == TokenKind::Platform);
    let organization = organization.map(OrganizationId::parse).transpose();
    let new = tokens::NewToken {
        name: body.name,
        kind: body.kind,
        organization: organization.map_err(|_| UseCaseError::NotFound)?,
        scopes: body.scopes,
        expires_at: body.expires_at,
    };
    let mut mutation = request.begin_mutation(org.as_ref()).await?;
    let result = tokens::create(&mut mutation.work, &request.principal, org.as_ref(), new).await;
    let response = result.map(|(token, secret)| {
        let view = to_view(&token, Some(secret.expose().to_owned()));
        AdminResponse::object(&view).with_secret(&secret)
    });
    request.finish_mutation(mutation, response).await
}

async fn revoke(request: AuthenticatedRequest) -> HandlerResult {
    let id = request.path_id("id", AdminTokenId::parse)?;
    let org = request.org_context_opt().await?;
    let mut mutation = request.begin_mutation(org.as_ref()).await?;
    let result = tokens::revoke(&mut mutation.work, &request.principal, org.as_ref(), id).await;
    request
        .finish_mutation(mutation, result.map(|()| AdminResponse::message("Token revoked")))
        .await
}

fn to_view(token: &AdminToken, secret: Option<String>) -> AdminTokenView {
    AdminTokenView {
        id: token.id.to_string(),
        name: token.name.clone(),
        kind: token.kind.name(),
        organization_id: token.organization.map(|id| id.to_string()),
        scopes: token.scopes.iter().map(|scope| scope.name()).collect(),
        token: secret,
        last4: token.last4.clone(),
        expires_at: token.expires_at.map(Rfc3339),
        created_by: token.created_by.to_string(),
        created_at: Rfc3339(token.created_at),
        last_used_at: token.last_used_at.map(Rfc3339),
        revoked_at: token.revoked_at.map(Rfc3339),
    }
}
