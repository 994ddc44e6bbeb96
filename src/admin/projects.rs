//! `projects`: the projects of an organization.

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::admin::body::{Body, BodyReader, BodySchema, body};
use crate::admin::field_type::{DESCRIPTION, EnumOf, MODEL_GLOBS, NAME, OneOf, Text};
use crate::admin::limits::{Ceiling, LimitsView};
use crate::admin::operation::{OperationSpec, Routes};
use crate::admin::request::AuthenticatedRequest;
use crate::admin::response::{AdminResponse, HandlerResult, ListMeta};
use crate::admin::scalar::Rfc3339;
use crate::admin::usage as usage_views;
use crate::domain::ids::ProjectId;
use crate::domain::status::ProjectStatus;
use crate::organization::access::OrgContext;
use crate::organization::error::UseCaseError;
use crate::organization::projects::{self, NewProject, ProjectChange};
use crate::organization::quotas::QuotaSubject;
use crate::organization::rights::Action;
use crate::organization::usage;
use crate::store::projects::{Project, ProjectFilter, SORTS};

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
    /// The caller's role in the project.
    #[schema(required)]
    role: Option<&'static str>,
    created_by: String,
    created_at: Rfc3339,
    updated_at: Rfc3339,
    #[schema(required)]
    archived_at: Option<Rfc3339>,
    version: i64,
    /// Only with `?include=quotaUsage`; `null` if the caller may not see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<usage_views::ProjectUsageView>)]
    quota_usage: Option<Box<RawValue>>,
}

const STATUS: EnumOf<ProjectStatus> =
    EnumOf { names: ProjectStatus::NAMES, parse: ProjectStatus::parse };
const ORGANIZATION_IMMUTABLE: &str =
    "organizationId: a project cannot be moved to another organization";
const QUERY: &[(&str, &str)] = &[
    ("page", "Page number, from 1."),
    ("size", "Rows per page, 1 to 100. Default: 20."),
    ("sort", "`name`, `createdAt` or `updatedAt`; prefix `-` for descending order."),
    ("query", "Part of the name, ignoring case."),
    ("status", "`Active` or `Archived`."),
    ("include", "`quotaUsage` adds the quota usage of each project."),
];

body! { NewProject as "NewProject" {
    name: required("name", NAME),
    description: optional("description", DESCRIPTION),
    organization: optional("organizationId", Text { min: 1, max: 100 }),
    allowed_models: optional("allowedModels", MODEL_GLOBS),
    ceiling: optional("ceiling", Ceiling),
}}

struct ProjectChangeBody {
    change: ProjectChange,
}

impl Body for ProjectChangeBody {
    const NAME: &'static str = "ProjectChange";

    fn read(fields: &mut BodyReader) -> Option<Self> {
        let fixed = fields.read_only("organizationId", "immutable_field", ORGANIZATION_IMMUTABLE);
        let change = ProjectChange::read(fields);
        fixed.and(change).map(|change| Self { change })
    }

    fn describe(schema: &mut BodySchema) {
        ProjectChange::describe(schema);
    }
}

body! { ProjectChange as "ProjectChange" {
    name: optional_update("name", NAME),
    description: nullable("description", DESCRIPTION),
    allowed_models: nullable("allowedModels", MODEL_GLOBS),
    ceiling: nullable("ceiling", Ceiling),
}}

pub fn routes(routes: Routes) -> Routes {
    let (collection, item) = ("/api/projects", "/api/projects/{id}");
    let list_spec =
        OperationSpec::in_organization(Action::ListProjects, "Lists the organization's projects.");
    let create_spec = OperationSpec::in_organization(Action::CreateProject, "Creates a project.");
    let view_spec = OperationSpec::in_organization(Action::ListProjects, "Shows a project.");
    let change_spec = OperationSpec::in_organization(Action::ChangeProject, "Updates a project.");
    let change_spec = change_spec.request_body::<ProjectChangeBody>().response::<ProjectView>();
    let archive_spec = OperationSpec::in_organization(
        Action::ArchiveProject,
        "Archives a project. Its API keys stop working at once.",
    );
    routes
        .get(collection, list, list_spec.query_params(QUERY).list_response::<ProjectView>())
        .post(
            collection,
            create,
            create_spec.request_body::<NewProject>().response::<ProjectView>(),
        )
        .get(item, view, view_spec.response::<ProjectView>())
        .put(item, change, change_spec)
        .delete(item, archive, archive_spec)
}

async fn list(request: AuthenticatedRequest) -> HandlerResult {
    let org = request.org_context().await?;
    let mut query = request.query();
    let (page, sort) = (query.page(), query.sort(SORTS));
    let name = query.get("query", &Text { min: 1, max: 200 });
    let status = query.get("status", &STATUS);
    let include = query.get("include", &OneOf(&["quotaUsage"]));
    query.finish()?;
    let services = &request.state.services;
    let as_of = match include {
        Some(_) => services.wait_caught_up().await,
        None => None,
    };
    let filter = ProjectFilter { name_contains: name.as_deref(), status };
    let (rows, total) = projects::list(services, &org, filter, page, sort).await?;
    let mut views = Vec::with_capacity(rows.len());
    for row in rows {
        let usage = match include {
            Some(_) => Some(usage_json(&request, &org, row.id).await?),
            None => None,
        };
        views.push(ProjectView { quota_usage: usage, ..to_view(row, &org) });
    }
    let meta = ListMeta { total, page, next: None, total_is_minimum: false, as_of };
    Ok(AdminResponse::list(&views, meta))
}

/// Returns the quota usage from the live counters, or `null` if the caller may not see it.
async fn usage_json(
    request: &AuthenticatedRequest,
    org: &OrgContext,
    id: ProjectId,
) -> Result<Box<RawValue>, UseCaseError> {
    let view = match org.require_in_project(Action::ViewQuota, id) {
        Ok(_) => {
            let usage =
                usage::load(&request.state.services, org, QuotaSubject::Project(id), None).await?;
            Some(usage_views::project_view(id, "month".to_owned(), &usage))
        }
        Err(_) => None,
    };
    serde_json::value::to_raw_value(&view)
        .map_err(|error| UseCaseError::Internal(error.to_string()))
}

async fn create(request: AuthenticatedRequest) -> HandlerResult {
    let new: NewProject = request.body()?;
    let org = request.org_context_in(new.organization.as_deref()).await?;
    let mut mutation = request.begin_mutation(Some(&org)).await?;
    let result = projects::create(&mut mutation.work, &org, new).await;
    let response = result.map(|project| {
        // The creator becomes Owner if they are a member of the organization.
        let role = (!project.ownerless).then_some("Owner");
        let version = project.version;
        AdminResponse::object(&ProjectView { role, ..to_view(project, &org) }).with_version(version)
    });
    request.finish_mutation(mutation, response).await
}

async fn view(request: AuthenticatedRequest) -> HandlerResult {
    let id = request.path_id("id", ProjectId::parse)?;
    let org = request.org_context().await?;
    Ok(response(projects::view(&request.state.services, &org, id).await?, &org))
}

async fn change(request: AuthenticatedRequest) -> HandlerResult {
    let id = request.path_id("id", ProjectId::parse)?;
    let body: ProjectChangeBody = request.body()?;
    let org = request.org_context().await?;
    let mut mutation = request.begin_mutation(Some(&org)).await?;
    let result = projects::change(&mut mutation.work, &org, id, body.change).await;
    request.finish_mutation(mutation, result.map(|project| response(project, &org))).await
}

async fn archive(request: AuthenticatedRequest) -> HandlerResult {
    let id = request.path_id("id", ProjectId::parse)?;
    let org = request.org_context().await?;
    let mut mutation = request.begin_mutation(Some(&org)).await?;
    let result = projects::archive(&mut mutation.work, &org, id).await;
    request
        .finish_mutation(mutation, result.map(|()| AdminResponse::message("Project archived")))
        .await
}

fn response(project: Project, org: &OrgContext) -> AdminResponse {
    let version = project.version;
    AdminResponse::object(&to_view(project, org)).with_version(version)
}

fn to_view(project: Project, org: &OrgContext) -> ProjectView {
    ProjectView {
        id: project.id.to_string(),
        name: project.name,
        description: project.description,
        organization_id: project.organization.to_string(),
        status: project.status.name(),
        template_id: project.template_id,
        allowed_models: project.allowed_models,
        ceiling: project.ceiling.as_ref().map(LimitsView::of),
        ownerless: project.ownerless,
        role: org.project_role(project.id).map(crate::domain::roles::ProjectRole::name),
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

    use crate::admin::tests::test_api::TestApi;

    #[tokio::test]
    async fn a_project_is_created_updated_and_archived() {
        let api = TestApi::new().await;
        let body = r#"{"name":"My Project","description":"A sample project"}"#;
        let created = api.post("/api/projects", body).await;
        let path = format!("/api/projects/{}", created.text_of("id"));
        assert_eq!(created.text_of("status"), "Active");
        assert_eq!(created.headers["etag"], "\"1\"");
        let change = r#"{"description":null,"allowedModels":["gpt-*"]}"#;
        let changed = api.put(&path, change).await;
        assert!(changed.data("description").is_null());
        assert_eq!(changed.text_of("name"), "My Project", "an absent field is unchanged");
        let response = api.put(&path, r#"{"organizationId":"org_1"}"#).await;
        assert_eq!(response.expect_error(400), "immutable_field");
        let mut stale = api.request("PUT", &path, r#"{"name":"x"}"#);
        stale.headers_mut().insert("if-match", "\"1\"".parse().expect("a header"));
        assert_eq!(api.send(stale).await.expect_error(412), "stale_version");
        let mut fresh = api.request("PUT", &path, r#"{"name":"x"}"#);
        fresh.headers_mut().insert("if-match", "\"2\"".parse().expect("a header"));
        assert_eq!(api.send(fresh).await.data("version"), 3);
        let listed = api.get("/api/projects?include=quotaUsage&sort=name&query=FIRST").await;
        assert_eq!(listed.json["total"], 1);
        assert_eq!(listed.json["data"][0]["quotaUsage"]["period"], "month");
        assert_eq!(api.delete(&path).await.text_of("message"), "Project archived");
        assert_eq!(api.delete(&path).await.expect_error(404), "not_found");
        assert_eq!(api.put(&path, r#"{"name":"y"}"#).await.expect_error(409), "project_archived");
        assert_eq!(api.get(&path).await.text_of("status"), "Archived");
        let audited = sqlx::query(
            "SELECT action, before, after FROM audit_log WHERE action LIKE 'project.%' ORDER BY id",
        )
        .fetch_all(api.services.database.reader())
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
    async fn a_quota_is_replaced_as_a_whole_below_its_ceiling() {
        let api = TestApi::new().await;
        let project = api.project().await;
        let path = format!("/api/projects/{project}/quota");
        let body = r#"{"dailyRequestLimit":10,"monthlySpendLimit":0.5,"customResetDay":28,
            "enforceQuota":false}"#;
        let quota = api.post(&path, body).await;
        assert!(quota.text.contains("\"monthlySpendLimit\":0.50"), "{}", quota.text);
        assert_eq!(quota.text_of("projectId"), project);
        let quota = api.post(&path, r#"{"dailyTokenLimit":5}"#).await;
        assert!(quota.data("dailyRequestLimit").is_null(), "an absent limit is removed");
        assert_eq!(quota.data("enforceQuota"), true);
        assert_eq!(quota.data("customResetDay"), 1);
        assert_eq!(quota.data("version"), 2);
        let invalid = r#"{"dailyTokenLimit":1.5,"monthlyTokenLimit":-1,"customResetDay":29,"x":1}"#;
        let response = api.post(&path, invalid).await;
        assert_eq!(response.expect_error(400), "validation_failed");
        assert_eq!(response.json["error"]["errors"].as_array().expect("a list").len(), 4);
        let usage = api.get(&format!("/api/projects/{project}/quota-usage?period=day")).await;
        assert_eq!(usage.data("quotaLimitRemaining")["dailyTokens"], 5);
        assert!(usage.data("quotaLimitRemaining")["dailyRequests"].is_null());
        assert_eq!(usage.data("dailyUsage")["requestCount"], 0);
        let past = api.get(&format!("/api/projects/{project}/quota-usage?date=2024-01-15")).await;
        assert_eq!(past.data("dailyUsage")["date"], "2024-01-15");
        assert_eq!(past.data("monthlyUsage")["from"], "2024-01-01T00:00:00.000Z");
        let ceiling = r#"{"ceiling":{"dailyRequestLimit":10,"colour":1}}"#;
        let response = api.put(&format!("/api/projects/{project}"), ceiling).await;
        assert_eq!(response.expect_error(400), "unknown_field");
        assert_eq!(response.json["error"]["param"], "/ceiling/colour");
        let ceiling = r#"{"ceiling":{"dailyRequestLimit":10}}"#;
        assert_eq!(api.post(&path, r#"{"dailyRequestLimit":10}"#).await.status, 200);
        api.put(&format!("/api/projects/{project}"), ceiling).await.data("ceiling");
        let response = api.post(&path, r#"{"dailyRequestLimit":11}"#).await;
        assert_eq!(response.expect_error(400), "above_ceiling");
        assert_eq!(response.json["error"]["param"], "/dailyRequestLimit");
        assert_eq!(api.post(&path, r#"{"dailyRequestLimit":10}"#).await.status, 200);
    }
}
