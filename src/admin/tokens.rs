//! `/api/auth/tokens`: how programs act on the admin API.

use axum::http::Method;
use serde::Serialize;
use utoipa::ToSchema;

use crate::admin::answer::{Answer, Reply};
use crate::admin::asked::Asked;
use crate::admin::fields::body;
use crate::admin::kind::{Many, Moment, NAME, Named, Text};
use crate::admin::operation::{Doc, Operations, PAGED};
use crate::admin::scalar::At;
use crate::domain::ids::{AdminTokenId, OrganizationId};
use crate::domain::time::UnixMs;
use crate::organization::denied::Denied;
use crate::organization::rights::Right;
use crate::organization::roles::{Scope, TokenKind};
use crate::organization::tokens;
use crate::store::admin_tokens::{AdminToken, SORTS};

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AdminToken)]
struct TokenShape {
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
    expires_at: Option<At>,
    created_by: String,
    created_at: At,
    #[schema(required)]
    last_used_at: Option<At>,
    #[schema(required)]
    revoked_at: Option<At>,
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
    kind: required("kind", Named(TokenKind::NAMES, TokenKind::parse)),
    organization: optional("organizationId", Text(1, 100)),
    scopes: required("scopes", Many(Scope::ALL.len(), Named(Scope::NAMES, Scope::parse))),
    expires_at: clearable("expiresAt", Moment::Ahead),
}}

/// What this file answers.
pub fn operations(operations: Operations) -> Operations {
    let path = "/api/auth/tokens";
    let list_doc = Doc::platform(Right::ViewAccount, "Lists one's own tokens.");
    let create_doc = Doc::platform(Right::ChangeAccount, "Makes a token; it is shown once.");
    let revoke_doc = Doc::platform(Right::ChangeAccount, "Revokes a token.");
    operations
        .add(&Method::GET, path, list, list_doc.query(PAGED).list::<TokenShape>())
        .add(&Method::POST, path, create, create_doc.takes::<TokenBody>().one::<TokenShape>())
        .add(&Method::DELETE, "/api/auth/tokens/{id}", revoke, revoke_doc)
}

async fn list(asked: Asked) -> Reply {
    let mut query = asked.visit.query();
    let (page, sort) = (query.page(), query.sort(SORTS));
    query.finish()?;
    let seat = asked.seat_if_any().await?;
    let platform = &asked.visit.state.platform;
    let (rows, total) = tokens::list(platform, &asked.principal, seat.as_ref(), page, sort).await?;
    let rows: Vec<TokenShape> = rows.iter().map(|row| shape(row, None)).collect();
    Ok(Answer::page(&rows, total, page))
}

async fn create(asked: Asked) -> Reply {
    let body: TokenBody = asked.visit.body()?;
    let named = body.organization.as_deref();
    let seat = match body.kind {
        TokenKind::Organization => Some(asked.seat_in(named).await?),
        TokenKind::Personal | TokenKind::Platform => None,
    };
    let organization = named.filter(|_| body.kind == TokenKind::Platform);
    let organization = organization.map(OrganizationId::parse).transpose();
    let new = tokens::NewToken {
        name: body.name,
        kind: body.kind,
        organization: organization.map_err(|_| Denied::NotFound)?,
        scopes: body.scopes,
        expires_at: body.expires_at,
    };
    let mut begun = asked.begin(seat.as_ref()).await?;
    let done = tokens::create(&mut begun.work, &asked.principal, seat.as_ref(), new).await;
    let answer = done.map(|(token, secret)| {
        let shown = Some(secret.expose().to_owned());
        Answer::one(&shape(&token, shown)).showing(&secret)
    });
    asked.finish(begun, answer).await
}

async fn revoke(asked: Asked) -> Reply {
    let id = asked.visit.id("id", AdminTokenId::parse)?;
    let seat = asked.seat_if_any().await?;
    let mut begun = asked.begin(seat.as_ref()).await?;
    let done = tokens::revoke(&mut begun.work, &asked.principal, seat.as_ref(), id).await;
    asked.finish(begun, done.map(|()| Answer::message("Token revoked"))).await
}

fn shape(token: &AdminToken, secret: Option<String>) -> TokenShape {
    TokenShape {
        id: token.id.to_string(),
        name: token.name.clone(),
        kind: token.kind.clone(),
        organization_id: token.organization.map(|id| id.to_string()),
        scopes: token.scopes.clone(),
        token: secret,
        last4: token.last4.clone(),
        expires_at: token.expires_at.map(At),
        created_by: token.created_by.to_string(),
        created_at: At(token.created_at),
        last_used_at: token.last_used_at.map(At),
        revoked_at: token.revoked_at.map(At),
    }
}
