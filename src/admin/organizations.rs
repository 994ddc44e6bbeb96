//! `organization` and `organizations`: the caller's organization, and the operator's list of all.

use serde::Serialize;
use utoipa::ToSchema;

use crate::admin::body::body;
use crate::admin::field_type::{Bool, DESCRIPTION, EnumOf, MODEL_GLOBS, NAME, Text};
use crate::admin::operation::{LIST_PARAMS, OperationSpec, Routes};
use crate::admin::request::AuthenticatedRequest;
use crate::admin::response::{AdminResponse, HandlerResult};
use crate::admin::scalar::Rfc3339;
use crate::domain::status::{OnDisconnect, OrganizationStatus};
use crate::organization::organizations::{self, NewOrganization, OrganizationChange};
use crate::organization::rights::Action;
use crate::store::organizations::{Organization, OrganizationFilter, SORTS};

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

const STATUS: EnumOf<OrganizationStatus> =
    EnumOf { names: OrganizationStatus::NAMES, parse: OrganizationStatus::parse };
const ON_DISCONNECT: EnumOf<OnDisconnect> =
    EnumOf { names: OnDisconnect::NAMES, parse: OnDisconnect::parse };

body! { NewOrganization as "NewOrganization" {
    name: required("name", NAME),
    description: optional("description", DESCRIPTION),
    self_funding: with_default("selfFunding", Bool, true),
    on_disconnect: with_default("onDisconnect", ON_DISCONNECT, OnDisconnect::Cancel),
    output_clamp: with_default("outputClamp", Bool, true),
    allowed_models: optional("allowedModels", MODEL_GLOBS),
}}

body! { OrganizationChange as "OrganizationChange" {
    name: optional_update("name", NAME),
    description: nullable("description", DESCRIPTION),
    status: optional_update("status", STATUS),
    self_funding: optional_update("selfFunding", Bool),
    on_disconnect: optional_update("onDisconnect", ON_DISCONNECT),
    output_clamp: optional_update("outputClamp", Bool),
    allowed_models: nullable("allowedModels", MODEL_GLOBS),
}}

pub fn routes(routes: Routes) -> Routes {
    let create_spec =
        OperationSpec::platform(Action::ChangePlatform, "Creates an organization and its wallet.");
    let create_spec = create_spec.request_body::<NewOrganization>().response::<OrganizationView>();
    let list_spec = OperationSpec::platform(Action::ViewPlatform, "Lists all organizations.");
    let list_spec = list_spec.query_params(LIST_PARAMS).list_response::<OrganizationView>();
    let view_spec =
        OperationSpec::in_organization(Action::ViewOrganization, "Shows the organization.");
    let change_spec =
        OperationSpec::in_organization(Action::ChangeOrganization, "Updates the organization.");
    let change_spec =
        change_spec.request_body::<OrganizationChange>().response::<OrganizationView>();
    let item = "/api/organization";
    routes
        .post("/api/organizations", create, create_spec)
        .get("/api/platform/organizations", list, list_spec)
        .get(item, view, view_spec.response::<OrganizationView>())
        .put(item, change, change_spec)
}

async fn create(request: AuthenticatedRequest) -> HandlerResult {
    let new: NewOrganization = request.body()?;
    let mut mutation = request.begin_mutation(None).await?;
    let result = organizations::create(&mut mutation.work, &request.principal, new).await;
    request.finish_mutation(mutation, result.map(|row| response(&request, &row))).await
}

async fn list(request: AuthenticatedRequest) -> HandlerResult {
    let mut query = request.query();
    let (page, sort) = (query.page(), query.sort(SORTS));
    let name = query.get("query", &Text { min: 1, max: 200 });
    let status = query.get("status", &STATUS);
    query.finish()?;
    let services = &request.state.services;
    let filter = OrganizationFilter { name_contains: name.as_deref(), status };
    let (rows, total) =
        organizations::list(services, &request.principal, filter, page, sort).await?;
    let currency = &services.settings.currency;
    let rows: Vec<_> = rows.iter().map(|row| to_view(row, currency)).collect();
    Ok(AdminResponse::page(&rows, total, page))
}

async fn view(request: AuthenticatedRequest) -> HandlerResult {
    let org = request.org_context().await?;
    Ok(response(&request, organizations::view(&org)?))
}

async fn change(request: AuthenticatedRequest) -> HandlerResult {
    let change: OrganizationChange = request.body()?;
    let org = request.org_context().await?;
    let mut mutation = request.begin_mutation(Some(&org)).await?;
    let result = organizations::change(&mut mutation.work, &org, change).await;
    request.finish_mutation(mutation, result.map(|row| response(&request, &row))).await
}

fn response(request: &AuthenticatedRequest, row: &Organization) -> AdminResponse {
    let currency = &request.state.services.settings.currency;
    AdminResponse::object(&to_view(row, currency)).with_version(row.version)
}

fn to_view<'a>(row: &'a Organization, currency: &'a str) -> OrganizationView<'a> {
    OrganizationView {
        id: row.id.to_string(),
        name: &row.name,
        description: row.description.as_deref(),
        status: row.status.name(),
        currency,
        self_funding: row.self_funding,
        on_disconnect: row.on_disconnect.name(),
        output_clamp: row.output_clamp,
        allowed_models: row.allowed_models.as_deref(),
        member_count: row.member_count,
        project_count: row.project_count,
        created_at: Rfc3339(row.created_at),
        updated_at: Rfc3339(row.updated_at),
        version: row.version,
    }
}
