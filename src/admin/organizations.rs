//! Organizations: the operator's list of them, and the one in which one sits.

use axum::http::Method;
use serde::Serialize;
use utoipa::ToSchema;

use crate::admin::answer::{Answer, Reply};
use crate::admin::asked::Asked;
use crate::admin::fields::body;
use crate::admin::kind::{DESCRIPTION, Flag, GLOBS, NAME, Text, Word};
use crate::admin::operation::{Doc, Operations, PAGED};
use crate::admin::scalar::At;
use crate::organization::organizations::{self, NewOrganization, OrganizationChange};
use crate::organization::rights::Right;
use crate::store::organizations::{Organization, SORTS};

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Organization)]
struct OrganizationShape<'a> {
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
    created_at: At,
    updated_at: At,
    version: i64,
}

const STATUSES: &[&str] = &["Active", "Inactive", "Closed"];
const ON_DISCONNECT: &[&str] = &["cancel", "drain"];

body! { NewOrganization as "NewOrganization" {
    name: required("name", NAME),
    description: optional("description", DESCRIPTION),
    self_funding: defaulted("selfFunding", Flag, true),
    on_disconnect: defaulted("onDisconnect", Word(ON_DISCONNECT), "cancel".to_owned()),
    output_clamp: defaulted("outputClamp", Flag, true),
    allowed_models: optional("allowedModels", GLOBS),
}}

body! { OrganizationChange as "OrganizationChange" {
    name: change("name", NAME),
    description: clearable("description", DESCRIPTION),
    status: change("status", Word(STATUSES)),
    self_funding: change("selfFunding", Flag),
    on_disconnect: change("onDisconnect", Word(ON_DISCONNECT)),
    output_clamp: change("outputClamp", Flag),
    allowed_models: clearable("allowedModels", GLOBS),
}}

/// What this file answers.
pub fn operations(operations: Operations) -> Operations {
    let create_doc = Doc::platform(Right::ChangePlatform, "Makes an organization and its wallet.");
    let create_doc = create_doc.takes::<NewOrganization>().one::<OrganizationShape>();
    let list_doc = Doc::platform(Right::ViewPlatform, "Lists the deployment's organizations.");
    let list_doc = list_doc.query(PAGED).list::<OrganizationShape>();
    let view_doc = Doc::of(Right::ViewOrganization, "Shows the organization.");
    let change_doc = Doc::of(Right::ChangeOrganization, "Changes the organization.");
    let change_doc = change_doc.takes::<OrganizationChange>().one::<OrganizationShape>();
    let own = "/api/organization";
    operations
        .add(&Method::POST, "/api/organizations", create, create_doc)
        .add(&Method::GET, "/api/platform/organizations", list, list_doc)
        .add(&Method::GET, own, view, view_doc.one::<OrganizationShape>())
        .add(&Method::PUT, own, change, change_doc)
}

async fn create(asked: Asked) -> Reply {
    let new: NewOrganization = asked.visit.body()?;
    let mut begun = asked.begin(None).await?;
    let done = organizations::create(&mut begun.work, &asked.principal, new).await;
    asked.finish(begun, done.map(|row| answer(&asked, &row))).await
}

async fn list(asked: Asked) -> Reply {
    let mut query = asked.visit.query();
    let (page, sort) = (query.page(), query.sort(SORTS));
    let part = query.get("query", &Text(1, 200));
    let status = query.get("status", &Word(STATUSES));
    query.finish()?;
    let platform = &asked.visit.state.platform;
    let filter = (part.as_deref(), status.as_deref());
    let (rows, total) = organizations::list(platform, &asked.principal, filter, page, sort).await?;
    let currency = &platform.settings.currency;
    let rows: Vec<_> = rows.iter().map(|row| shape(row, currency)).collect();
    Ok(Answer::page(&rows, total, page))
}

async fn view(asked: Asked) -> Reply {
    let seat = asked.seat().await?;
    Ok(answer(&asked, organizations::view(&seat)?))
}

async fn change(asked: Asked) -> Reply {
    let change: OrganizationChange = asked.visit.body()?;
    let seat = asked.seat().await?;
    let mut begun = asked.begin(Some(&seat)).await?;
    let done = organizations::change(&mut begun.work, &seat, change).await;
    asked.finish(begun, done.map(|row| answer(&asked, &row))).await
}

fn answer(asked: &Asked, row: &Organization) -> Answer {
    let currency = &asked.visit.state.platform.settings.currency;
    Answer::one(&shape(row, currency)).versioned(row.version)
}

fn shape<'a>(row: &'a Organization, currency: &'a str) -> OrganizationShape<'a> {
    OrganizationShape {
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
        created_at: At(row.created_at),
        updated_at: At(row.updated_at),
        version: row.version,
    }
}
