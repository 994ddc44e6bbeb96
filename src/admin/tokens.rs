//! `/api/auth/tokens`: how programs act on the admin API.

use axum::http::Method;
use serde::Serialize;
use utoipa::ToSchema;

use crate::admin::body::body;
use crate::admin::field_type::{EnumOf, ListOf, NAME, Text, Timestamp};
use crate::admin::operation::{LIST_PARAMS, OperationSpec, Routes};
use crate::admin::request::AuthenticatedRequest;
use crate::admin::response::{AdminResponse, HandlerResult};
use crate::admin::scalar::Rfc3339;
use crate::domain::ids::{AdminTokenId, OrganizationId};
use crate::domain::time::UnixMs;
use crate::organization::error::UseCaseError;
use crate::organization::rights::Action;
use crate::organization::roles::{Scope, TokenKind};
use crate::organization::tokens;
use crate::store::admin_tokens::{AdminToken, SORTS};

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AdminToken)]
struct AdminTokenView {
    id: String,
    name: String,
    kind: String,
    #[schema(required)]
    organization_id: Option<String>,
    scopes: Vec<String>,
    /// Shown once, when it is made.
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

body! { TokenBody as "NewAdminToken" {
    name: required("name", NAME),
    kind: required("kind", EnumOf(TokenKind::NAMES, TokenKind::parse)),
    organization: optional("organizationId", Text(1, 100)),
    scopes: required("scopes", ListOf(Scope::ALL.len(), EnumOf(Scope::NAMES, Scope::parse))),
    expires_at: nullable("expiresAt", Timestamp::Future),
}}

/// What this file answers.
pub fn routes(operations: Routes) -> Routes {
    let path = "/api/auth/tokens";
    let list_doc = OperationSpec::platform(Action::ViewAccount, "Lists one's own tokens.");
    let create_doc =
        OperationSpec::platform(Action::ChangeAccount, "Makes a token; it is shown once.");
    let revoke_doc = OperationSpec::platform(Action::ChangeAccount, "Revokes a token.");
    operations
        .add(
            &Method::GET,
            path,
            list,
            list_doc.query_params(LIST_PARAMS).list_response::<AdminTokenView>(),
        )
        .add(
            &Method::POST,
            path,
            create,
            create_doc.request_body::<TokenBody>().response::<AdminTokenView>(),
        )
        .add(&Method::DELETE, "/api/auth/tokens/{id}", revoke, revoke_doc)
}

async fn list(asked: AuthenticatedRequest) -> HandlerResult {
    let mut query = asked.request.query();
    let (page, sort) = (query.page(), query.sort(SORTS));
    query.finish()?;
    let seat = asked.org_context_opt().await?;
    let platform = &asked.request.state.services;
    let (rows, total) = tokens::list(platform, &asked.principal, seat.as_ref(), page, sort).await?;
    let rows: Vec<AdminTokenView> = rows.iter().map(|row| to_view(row, None)).collect();
    Ok(AdminResponse::page(&rows, total, page))
}

async fn create(asked: AuthenticatedRequest) -> HandlerResult {
    let body: TokenBody = asked.request.body()?;
    let named = body.organization.as_deref();
    let seat = match body.kind {
        TokenKind::Organization => Some(asked.org_context_in(named).await?),
        TokenKind::Personal | TokenKind::Platform => None,
    };
    let organization = named.filter(|_| body.kind == TokenKind::Platform);
    let organization = organization.map(OrganizationId::parse).transpose();
    let new = tokens::NewToken {
        name: body.name,
        kind: body.kind,
        organization: organization.map_err(|_| UseCaseError::NotFound)?,
        scopes: body.scopes,
        expires_at: body.expires_at,
    };
    let mut begun = asked.begin_mutation(seat.as_ref()).await?;
    let done = tokens::create(&mut begun.work, &asked.principal, seat.as_ref(), new).await;
    let answer = done.map(|(token, secret)| {
        let shown = Some(secret.expose().to_owned());
        AdminResponse::object(&to_view(&token, shown)).with_secret(&secret)
    });
    asked.finish_mutation(begun, answer).await
}

async fn revoke(asked: AuthenticatedRequest) -> HandlerResult {
    let id = asked.request.path_id("id", AdminTokenId::parse)?;
    let seat = asked.org_context_opt().await?;
    let mut begun = asked.begin_mutation(seat.as_ref()).await?;
    let done = tokens::revoke(&mut begun.work, &asked.principal, seat.as_ref(), id).await;
    asked.finish_mutation(begun, done.map(|()| AdminResponse::message("Token revoked"))).await
}

fn to_view(token: &AdminToken, secret: Option<String>) -> AdminTokenView {
    AdminTokenView {
        id: token.id.to_string(),
        name: token.name.clone(),
        kind: token.kind.clone(),
        organization_id: token.organization.map(|id| id.to_string()),
        scopes: token.scopes.clone(),
        token: secret,
        last4: token.last4.clone(),
        expires_at: token.expires_at.map(Rfc3339),
        created_by: token.created_by.to_string(),
        created_at: Rfc3339(token.created_at),
        last_used_at: token.last_used_at.map(Rfc3339),
        revoked_at: token.revoked_at.map(Rfc3339),
    }
}
