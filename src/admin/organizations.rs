//! Organizations: the operator's list of them, and the one in which one sits.

use axum::http::Method;
use serde::Serialize;
use utoipa::ToSchema;

use crate::admin::body::body;
use crate::admin::field_type::{Bool, DESCRIPTION, MODEL_GLOBS, NAME, OneOf, Text};
use crate::admin::operation::{LIST_PARAMS, OperationSpec, Routes};
use crate::admin::request::AuthenticatedRequest;
use crate::admin::response::{AdminResponse, HandlerResult};
use crate::admin::scalar::Rfc3339;
use crate::organization::organizations::{self, NewOrganization, OrganizationChange};
use crate::organization::rights::Action;
use crate::store::organizations::{Organization, SORTS};

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Organization)]
struct OrganizationView<'a> {
    id: String,
    name: &'a str,
    #[schema(required)]
    description: Option<&'a str>,
    status: &'a str,
    currency: &'a str,
    self_funding: bool,
    on_disconnect: &'a str,
    output_clamp: bool,
    #[schema(required)]
    allowed_models: Option<&'a [String]>,
    member_count: i64,
    project_count: i64,
    created_at: Rfc3339,
    updated_at: Rfc3339,
    version: i64,
}

const STATUSES: &[&str] = &["Active", "Inactive", "Closed"];
const ON_DISCONNECT: &[&str] = &["cancel", "drain"];

body! { NewOrganization as "NewOrganization" {
    name: required("name", NAME),
    description: optional("description", DESCRIPTION),
    self_funding: with_default("selfFunding", Bool, true),
    on_disconnect: with_default("onDisconnect", OneOf(ON_DISCONNECT), "cancel".to_owned()),
    output_clamp: with_default("outputClamp", Bool, true),
    allowed_models: optional("allowedModels", MODEL_GLOBS),
}}

body! { OrganizationChange as "OrganizationChange" {
    name: optional_update("name", NAME),
    description: nullable("description", DESCRIPTION),
    status: optional_update("status", OneOf(STATUSES)),
    self_funding: optional_update("selfFunding", Bool),
    on_disconnect: optional_update("onDisconnect", OneOf(ON_DISCONNECT)),
    output_clamp: optional_update("outputClamp", Bool),
    allowed_models: nullable("allowedModels", MODEL_GLOBS),
}}

/// What this file answers.
pub fn routes(operations: Routes) -> Routes {
    let create_doc =
        OperationSpec::platform(Action::ChangePlatform, "Makes an organization and its wallet.");
    let create_doc = create_doc.request_body::<NewOrganization>().response::<OrganizationView>();
    let list_doc =
        OperationSpec::platform(Action::ViewPlatform, "Lists the deployment's organizations.");
    let list_doc = list_doc.query_params(LIST_PARAMS).list_response::<OrganizationView>();
    let view_doc =
        OperationSpec::in_organization(Action::ViewOrganization, "Shows the organization.");
    let change_doc =
        OperationSpec::in_organization(Action::ChangeOrganization, "Changes the organization.");
    let change_doc = change_doc.request_body::<OrganizationChange>().response::<OrganizationView>();
    let own = "/api/organization";
    operations
        .add(&Method::POST, "/api/organizations", create, create_doc)
        .add(&Method::GET, "/api/platform/organizations", list, list_doc)
        .add(&Method::GET, own, view, view_doc.response::<OrganizationView>())
        .add(&Method::PUT, own, change, change_doc)
}

async fn create(asked: AuthenticatedRequest) -> HandlerResult {
    let new: NewOrganization = asked.request.body()?;
    let mut begun = asked.begin_mutation(None).await?;
    let done = organizations::create(&mut begun.work, &asked.principal, new).await;
    asked.finish_mutation(begun, done.map(|row| response(&asked, &row))).await
}

async fn list(asked: AuthenticatedRequest) -> HandlerResult {
    let mut query = asked.request.query();
    let (page, sort) = (query.page(), query.sort(SORTS));
    let part = query.get("query", &Text(1, 200));
    let status = query.get("status", &OneOf(STATUSES));
    query.finish()?;
    let platform = &asked.request.state.services;
    let filter = (part.as_deref(), status.as_deref());
    let (rows, total) = organizations::list(platform, &asked.principal, filter, page, sort).await?;
    let currency = &platform.settings.currency;
    let rows: Vec<_> = rows.iter().map(|row| to_view(row, currency)).collect();
    Ok(AdminResponse::page(&rows, total, page))
}

async fn view(asked: AuthenticatedRequest) -> HandlerResult {
    let seat = asked.org_context().await?;
    Ok(response(&asked, organizations::view(&seat)?))
}

async fn change(asked: AuthenticatedRequest) -> HandlerResult {
    let change: OrganizationChange = asked.request.body()?;
    let seat = asked.org_context().await?;
    let mut begun = asked.begin_mutation(Some(&seat)).await?;
    let done = organizations::change(&mut begun.work, &seat, change).await;
    asked.finish_mutation(begun, done.map(|row| response(&asked, &row))).await
}

fn response(asked: &AuthenticatedRequest, row: &Organization) -> AdminResponse {
    let currency = &asked.request.state.services.settings.currency;
    AdminResponse::object(&to_view(row, currency)).with_version(row.version)
}

fn to_view<'a>(row: &'a Organization, currency: &'a str) -> OrganizationView<'a> {
    OrganizationView {
        id: row.id.to_string(),
        name: &row.name,
        description: row.description.as_deref(),
        status: &row.status,
        currency,
        self_funding: row.self_funding,
        on_disconnect: &row.on_disconnect,
        output_clamp: row.output_clamp,
        allowed_models: row.allowed_models.as_deref(),
        member_count: row.member_count,
        project_count: row.project_count,
        created_at: Rfc3339(row.created_at),
        updated_at: Rfc3339(row.updated_at),
        version: row.version,
    }
}
