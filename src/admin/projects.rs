//! Projects.

use axum::http::Method;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::admin::body::body;
use crate::admin::field_type::{DESCRIPTION, MODEL_GLOBS, NAME, OneOf, Text};
use crate::admin::limits::{Ceiling, LimitsView};
use crate::admin::operation::{OperationSpec, Routes};
use crate::admin::request::AuthenticatedRequest;
use crate::admin::response::{AdminResponse, HandlerResult};
use crate::admin::scalar::Rfc3339;
use crate::admin::usage as usage_shapes;
use crate::domain::ids::ProjectId;
use crate::organization::access::OrgContext;
use crate::organization::error::UseCaseError;
use crate::organization::projects::{self, NewProject, ProjectChange};
use crate::organization::quotas::QuotaSubject;
use crate::organization::rights::Action;
use crate::organization::usage;
use crate::store::projects::{Project, SORTS};

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Project)]
struct ProjectView {
    id: String,
    name: String,
    #[schema(required)]
    description: Option<String>,
    organization_id: String,
    status: &'static str,
    #[schema(required)]
    template_id: Option<String>,
    #[schema(required)]
    allowed_models: Option<Vec<String>>,
    #[schema(required)]
    ceiling: Option<LimitsView>,
    ownerless: bool,
    /// The caller's own.
    #[schema(required)]
    role: Option<&'static str>,
    created_by: String,
    created_at: Rfc3339,
    updated_at: Rfc3339,
    #[schema(required)]
    archived_at: Option<Rfc3339>,
    version: i64,
    /// Only with `?include=quotaUsage`; `null` where the caller may not see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<usage_shapes::ProjectUsageView>)]
    quota_usage: Option<Box<RawValue>>,
}

const STATUSES: &[&str] = &["Active", "Archived"];
const ORGANIZATION_IMMUTABLE: &str = "a project cannot move to another organization";
const QUERY: &[(&str, &str)] = &[
    ("page", "From 1."),
    ("size", "Rows a page: 1 to 100, 20 by default."),
    ("sort", "name, createdAt or updatedAt, or one with - before it."),
    ("query", "A part of the name, upper or lower case."),
    ("status", "Active or Archived."),
    ("include", "`quotaUsage`: with where each one stands."),
];

body! { NewProject as "NewProject" {
    name: required("name", NAME),
    description: optional("description", DESCRIPTION),
    organization: optional("organizationId", Text(1, 100)),
    allowed_models: optional("allowedModels", MODEL_GLOBS),
    ceiling: optional("ceiling", Ceiling),
}}

struct ProjectChangeBody {
    change: ProjectChange,
}

impl crate::admin::body::Body for ProjectChangeBody {
    const NAME: &'static str = "ProjectChange";

    fn read(fields: &mut crate::admin::body::BodyReader) -> Option<Self> {
        let fixed = fields.read_only("organizationId", "immutable_field", ORGANIZATION_IMMUTABLE);
        let change = ProjectChange::read(fields);
        fixed.and(change).map(|change| Self { change })
    }

    fn describe(shape: &mut crate::admin::body::BodySchema) {
        ProjectChange::describe(shape);
    }
}

body! { ProjectChange as "ProjectChange" {
    name: optional_update("name", NAME),
    description: nullable("description", DESCRIPTION),
    allowed_models: nullable("allowedModels", MODEL_GLOBS),
    ceiling: nullable("ceiling", Ceiling),
}}

/// What this file answers.
pub fn routes(operations: Routes) -> Routes {
    let (all, one) = ("/api/projects", "/api/projects/{id}");
    let list_doc =
        OperationSpec::in_organization(Action::ListProjects, "Lists the organization's projects.");
    let create_doc = OperationSpec::in_organization(Action::CreateProject, "Makes a project.");
    let view_doc = OperationSpec::in_organization(Action::ListProjects, "Shows a project.");
    let change_doc = OperationSpec::in_organization(Action::ChangeProject, "Changes a project.");
    let change_doc = change_doc.request_body::<ProjectChangeBody>().response::<ProjectView>();
    let archive_doc = OperationSpec::in_organization(
        Action::ArchiveProject,
        "Archives a project; its keys die at once.",
    );
    operations
        .add(&Method::GET, all, list, list_doc.query_params(QUERY).list_response::<ProjectView>())
        .add(
            &Method::POST,
            all,
            create,
            create_doc.request_body::<NewProject>().response::<ProjectView>(),
        )
        .add(&Method::GET, one, view, view_doc.response::<ProjectView>())
        .add(&Method::PUT, one, change, change_doc)
        .add(&Method::DELETE, one, archive, archive_doc)
}

async fn list(asked: AuthenticatedRequest) -> HandlerResult {
    let seat = asked.org_context().await?;
    let mut query = asked.request.query();
    let (page, sort) = (query.page(), query.sort(SORTS));
    let part = query.get("query", &Text(1, 200));
    let status = query.get("status", &OneOf(STATUSES));
    let include = query.get("include", &OneOf(&["quotaUsage"]));
    query.finish()?;
    let platform = &asked.request.state.services;
    let as_of = match include {
        Some(_) => platform.wait_caught_up().await,
        None => None,
    };
    let filter = (part.as_deref(), status.as_deref());
    let (rows, total) = projects::list(platform, &seat, filter, page, sort).await?;
    let mut shapes = Vec::with_capacity(rows.len());
    for row in rows {
        let usage = match include {
            Some(_) => Some(usage_json(&asked, &seat, row.id).await?),
            None => None,
        };
        shapes.push(ProjectView { quota_usage: usage, ..to_view(row, &seat) });
    }
    let listed = crate::admin::response::ListMeta {
        total,
        page,
        next: None,
        total_is_minimum: false,
        as_of,
    };
    Ok(AdminResponse::list(&shapes, listed))
}

/// Where a project stands, from the books in memory; `null` for who may not see it.
async fn usage_json(
    asked: &AuthenticatedRequest,
    seat: &OrgContext,
    id: ProjectId,
) -> Result<Box<RawValue>, UseCaseError> {
    let shape = match seat.require_in_project(Action::ViewQuota, id) {
        Ok(_) => {
            let usage =
                usage::load(&asked.request.state.services, seat, QuotaSubject::Project(id), None)
                    .await?;
            Some(usage_shapes::project_view(id, "month".to_owned(), &usage))
        }
        Err(_) => None,
    };
    serde_json::value::to_raw_value(&shape)
        .map_err(|fault| UseCaseError::Internal(fault.to_string()))
}

async fn create(asked: AuthenticatedRequest) -> HandlerResult {
    let new: NewProject = asked.request.body()?;
    let seat = asked.org_context_in(new.organization.as_deref()).await?;
    let mut begun = asked.begin_mutation(Some(&seat)).await?;
    let done = projects::create(&mut begun.work, &seat, new).await;
    let answer = done.map(|project| {
        // Who makes a project owns it, if they belong to the organization.
        let role = (!project.ownerless).then_some("Owner");
        let version = project.version;
        AdminResponse::object(&ProjectView { role, ..to_view(project, &seat) })
            .with_version(version)
    });
    asked.finish_mutation(begun, answer).await
}

async fn view(asked: AuthenticatedRequest) -> HandlerResult {
    let id = asked.request.path_id("id", ProjectId::parse)?;
    let seat = asked.org_context().await?;
    Ok(response(projects::view(&asked.request.state.services, &seat, id).await?, &seat))
}

async fn change(asked: AuthenticatedRequest) -> HandlerResult {
    let id = asked.request.path_id("id", ProjectId::parse)?;
    let body: ProjectChangeBody = asked.request.body()?;
    let seat = asked.org_context().await?;
    let mut begun = asked.begin_mutation(Some(&seat)).await?;
    let done = projects::change(&mut begun.work, &seat, id, body.change).await;
    asked.finish_mutation(begun, done.map(|project| response(project, &seat))).await
}

async fn archive(asked: AuthenticatedRequest) -> HandlerResult {
    let id = asked.request.path_id("id", ProjectId::parse)?;
    let seat = asked.org_context().await?;
    let mut begun = asked.begin_mutation(Some(&seat)).await?;
    let done = projects::archive(&mut begun.work, &seat, id).await;
    asked.finish_mutation(begun, done.map(|()| AdminResponse::message("Project archived"))).await
}

fn response(project: Project, seat: &OrgContext) -> AdminResponse {
    let version = project.version;
    AdminResponse::object(&to_view(project, seat)).with_version(version)
}

fn to_view(project: Project, seat: &OrgContext) -> ProjectView {
    ProjectView {
        id: project.id.to_string(),
        name: project.name,
        description: project.description,
        organization_id: project.organization.to_string(),
        status: if project.active { "Active" } else { "Archived" },
        template_id: project.template_id,
        allowed_models: project.allowed_models,
        ceiling: project.ceiling.as_ref().map(LimitsView::of),
        ownerless: project.ownerless,
        role: seat.project_role(project.id).map(crate::organization::roles::ProjectRole::name),
        created_by: project.created_by.to_string(),
        created_at: Rfc3339(project.created_at),
        updated_at: Rfc3339(project.updated_at),
        archived_at: project.archived_at.map(Rfc3339),
        version: project.version,
        quota_usage: None,
    }
}

#[cfg(test)]
mod tests {
    use sqlx::Row;

    use crate::admin::tests::TestApi;

    #[tokio::test]
    async fn a_project_is_made_changed_and_archived() {
        let scene = TestApi::new().await;
        let body = r#"{"name":"My Project","description":"A sample project"}"#;
        let made = scene.post("/api/projects", body).await;
        let path = format!("/api/projects/{}", made.text_of("id"));
        assert_eq!(made.text_of("status"), "Active");
        assert_eq!(made.headers["etag"], "\"1\"");
        let change = r#"{"description":null,"allowedModels":["gpt-*"]}"#;
        let changed = scene.put(&path, change).await;
        assert!(changed.data("description").is_null());
        assert_eq!(changed.text_of("name"), "My Project", "absent is unchanged");
        let told = scene.put(&path, r#"{"organizationId":"org_1"}"#).await;
        assert_eq!(told.expect_error(400), "immutable_field");
        let mut stale = scene.request("PUT", &path, r#"{"name":"x"}"#);
        stale.headers_mut().insert("if-match", "\"1\"".parse().expect("a header"));
        assert_eq!(scene.send(stale).await.expect_error(412), "stale_version");
        let mut fresh = scene.request("PUT", &path, r#"{"name":"x"}"#);
        fresh.headers_mut().insert("if-match", "\"2\"".parse().expect("a header"));
        assert_eq!(scene.send(fresh).await.data("version"), 3);
        let listed = scene.get("/api/projects?include=quotaUsage&sort=name&query=FIRST").await;
        assert_eq!(listed.json["total"], 1);
        assert_eq!(listed.json["data"][0]["quotaUsage"]["period"], "month");
        assert_eq!(scene.delete(&path).await.text_of("message"), "Project archived");
        assert_eq!(scene.delete(&path).await.expect_error(404), "not_found");
        assert_eq!(scene.put(&path, r#"{"name":"y"}"#).await.expect_error(409), "project_archived");
        assert_eq!(scene.get(&path).await.text_of("status"), "Archived");
        let audited = sqlx::query(
            "SELECT action, before, after FROM audit_log WHERE action LIKE 'project.%' ORDER BY id",
        )
        .fetch_all(scene.services.database.reader())
        .await
        .expect("rows");
        let actions: Vec<String> = audited.iter().map(|row| row.get(0)).collect();
        let update = "project.update";
        assert_eq!(
            actions,
            ["project.create", "project.create", update, update, "project.archive"]
        );
        assert!(audited[4].get::<String, _>(2).contains("Archived"));
    }

    #[tokio::test]
    async fn a_quota_is_replaced_whole_within_its_ceiling() {
        let scene = TestApi::new().await;
        let project = scene.project().await;
        let path = format!("/api/projects/{project}/quota");
        let body = r#"{"dailyRequestLimit":10,"monthlySpendLimit":0.5,"customResetDay":28,
            "enforceQuota":false}"#;
        let quota = scene.post(&path, body).await;
        assert!(quota.text.contains("\"monthlySpendLimit\":0.50"), "{}", quota.text);
        assert_eq!(quota.text_of("projectId"), project);
        let quota = scene.post(&path, r#"{"dailyTokenLimit":5}"#).await;
        assert!(quota.data("dailyRequestLimit").is_null(), "an absent limit is none");
        assert_eq!(quota.data("enforceQuota"), true);
        assert_eq!(quota.data("customResetDay"), 1);
        assert_eq!(quota.data("version"), 2);
        let wrong = r#"{"dailyTokenLimit":1.5,"monthlyTokenLimit":-1,"customResetDay":29,"x":1}"#;
        let told = scene.post(&path, wrong).await;
        assert_eq!(told.expect_error(400), "several_faults");
        assert_eq!(told.json["error"]["errors"].as_array().expect("a list").len(), 4);
        let usage = scene.get(&format!("/api/projects/{project}/quota-usage?period=day")).await;
        assert_eq!(usage.data("quotaLimitRemaining")["dailyTokens"], 5);
        assert!(usage.data("quotaLimitRemaining")["dailyRequests"].is_null());
        assert_eq!(usage.data("dailyUsage")["requestCount"], 0);
        let then = scene.get(&format!("/api/projects/{project}/quota-usage?date=2024-01-15")).await;
        assert_eq!(then.data("dailyUsage")["date"], "2024-01-15");
        assert_eq!(then.data("monthlyUsage")["from"], "2024-01-01T00:00:00.000Z");
        let ceiling = r#"{"ceiling":{"dailyRequestLimit":10,"colour":1}}"#;
        let told = scene.put(&format!("/api/projects/{project}"), ceiling).await;
        assert_eq!(told.expect_error(400), "unknown_field");
        assert_eq!(told.json["error"]["param"], "/ceiling/colour");
        let ceiling = r#"{"ceiling":{"dailyRequestLimit":10}}"#;
        assert_eq!(scene.post(&path, r#"{"dailyRequestLimit":10}"#).await.status, 200);
        scene.put(&format!("/api/projects/{project}"), ceiling).await.data("ceiling");
        let told = scene.post(&path, r#"{"dailyRequestLimit":11}"#).await;
        assert_eq!(told.expect_error(400), "above_ceiling");
        assert_eq!(told.json["error"]["param"], "/dailyRequestLimit");
        assert_eq!(scene.post(&path, r#"{"dailyRequestLimit":10}"#).await.status, 200);
    }
}
