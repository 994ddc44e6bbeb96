//! `quota`: the limits of a project or an organization, always replaced as a whole.

use serde::Serialize;
use utoipa::ToSchema;

use crate::admin::body::{Body, BodyReader, BodySchema};
use crate::admin::field_type::{Bool, IntegerIn};
use crate::admin::limits::{self, LimitsView};
use crate::admin::operation::{OperationSpec, Routes};
use crate::admin::request::AuthenticatedRequest;
use crate::admin::response::{AdminResponse, HandlerResult};
use crate::admin::scalar::Rfc3339;
use crate::clock;
use crate::domain::quota::Quota;
use crate::domain::time::ResetDay;
use crate::organization::access::OrgContext;
use crate::organization::quotas::{self, QuotaSubject};
use crate::organization::rights::Action;
use crate::store::quotas::StoredQuota;

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ProjectQuota)]
struct ProjectQuotaView {
    project_id: String,
    #[serde(flatten)]
    quota: QuotaView,
}

/// The limits of all projects of the organization together.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = OrganizationQuota)]
struct OrganizationQuotaView {
    organization_id: String,
    #[serde(flatten)]
    quota: QuotaView,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Quota)]
struct QuotaView {
    #[serde(flatten)]
    limits: LimitsView,
    enforce_quota: bool,
    custom_reset_day: u8,
    next_daily_reset_at: Rfc3339,
    next_monthly_reset_at: Rfc3339,
    #[schema(required)]
    created_at: Option<Rfc3339>,
    #[schema(required)]
    updated_at: Option<Rfc3339>,
    version: i64,
}

struct QuotaBody(Quota);

impl Body for QuotaBody {
    const NAME: &'static str = "NewQuota";

    fn read(fields: &mut BodyReader) -> Option<Self> {
        let limits = limits::read(fields);
        let enforce = fields.with_default("enforceQuota", Bool, true);
        let reset_day = fields.with_default("customResetDay", IntegerIn { min: 1, max: 28 }, 1);
        let reset_day = reset_day.and_then(|day| ResetDay::new(u8::try_from(day).ok()?));
        Some(Self(Quota { limits: limits?, enforce: enforce?, reset_day: reset_day? }))
    }

    fn describe(schema: &mut BodySchema) {
        limits::describe(schema);
        schema.with_default("enforceQuota", Bool, true);
        schema.with_default("customResetDay", IntegerIn { min: 1, max: 28 }, 1);
    }
}

pub fn routes(routes: Routes) -> Routes {
    let (project, organization) = ("/api/projects/{id}/quota", "/api/organization/quota");
    let view_spec =
        OperationSpec::in_organization(Action::ViewQuota, "Shows the quota of a project.");
    let replace_spec = OperationSpec::in_organization(
        Action::SetQuota,
        "Replaces the quota of a project. Usage is kept.",
    );
    let replace_spec = replace_spec.request_body::<QuotaBody>().response::<ProjectQuotaView>();
    let view_organization_spec = "Shows the quota that all projects share.";
    let view_organization_spec =
        OperationSpec::in_organization(Action::ViewOrganization, view_organization_spec);
    let replace_organization_spec = "Replaces the quota that all projects share. Usage is kept.";
    let replace_organization_spec =
        OperationSpec::in_organization(Action::SetOrganizationQuota, replace_organization_spec);
    let replace_organization_spec =
        replace_organization_spec.request_body::<QuotaBody>().response::<OrganizationQuotaView>();
    routes
        .get(project, view, view_spec.response::<ProjectQuotaView>())
        .post(project, replace, replace_spec)
        .get(organization, view, view_organization_spec.response::<OrganizationQuotaView>())
        .post(organization, replace, replace_organization_spec)
}

async fn view(request: AuthenticatedRequest) -> HandlerResult {
    let subject = request.quota_subject()?;
    let org = request.org_context().await?;
    let stored = quotas::view(&request.state.services, &org, subject).await?;
    Ok(response(&org, subject, &stored))
}

async fn replace(request: AuthenticatedRequest) -> HandlerResult {
    let subject = request.quota_subject()?;
    let body: QuotaBody = request.body()?;
    let org = request.org_context().await?;
    let mut mutation = request.begin_mutation(Some(&org)).await?;
    let result = quotas::replace(&mut mutation.work, &org, subject, body.0).await;
    request.finish_mutation(mutation, result.map(|stored| response(&org, subject, &stored))).await
}

fn response(org: &OrgContext, subject: QuotaSubject, stored: &StoredQuota) -> AdminResponse {
    let quota = to_view(stored);
    let response = match subject {
        QuotaSubject::Organization => {
            let organization_id = org.organization.id.to_string();
            AdminResponse::object(&OrganizationQuotaView { organization_id, quota })
        }
        QuotaSubject::Project(id) => {
            AdminResponse::object(&ProjectQuotaView { project_id: id.to_string(), quota })
        }
    };
    response.with_version(stored.version)
}

fn to_view(stored: &StoredQuota) -> QuotaView {
    let (quota, today) = (&stored.quota, clock::wall_now().day());
    QuotaView {
        limits: LimitsView::of(&quota.limits),
        enforce_quota: quota.enforce,
        custom_reset_day: quota.reset_day.get(),
        next_daily_reset_at: Rfc3339(today.next().start()),
        next_monthly_reset_at: Rfc3339(quota.reset_day.month_of(today).end.start()),
        created_at: stored.created_at.map(Rfc3339),
        updated_at: stored.updated_at.map(Rfc3339),
        version: stored.version,
    }
}

#[cfg(test)]
mod tests {
    use sqlx::Row;

    use crate::admin::tests::test_api::{TestApi, TestResponse};
    use crate::domain::ids::{OrganizationId, ProjectId, UserId};
    use crate::domain::limit::Limit;
    use crate::domain::roles::{Permission, ProjectRole, Role, Scope, TokenKind};
    use crate::organization::access::{AuthMethod, Principal};
    use crate::organization::tokens::{self, NewToken};
    use crate::organization::unit_of_work::{Origin, UnitOfWork};
    use crate::store::columns::new_id;
    use crate::store::directory_rows;
    use crate::store::members::{self, NewMember, NewProjectMember};
    use crate::store::users::{self, User};

    /// Returns the API as seen by a Member with these permissions who owns `project`.
    async fn owner(api: &TestApi, permissions: &[Permission], project: Option<&str>) -> TestApi {
        let mut work = UnitOfWork::begin(&api.services, Origin::default()).await.expect("work");
        let now = work.now();
        let id = UserId(new_id(now));
        let user = User {
            id,
            email: format!("{id}@example.com"),
            name: "Otto".into(),
            password_hash: None,
            is_operator: false,
            email_verified: false,
            created_at: now,
            last_login_at: None,
        };
        users::insert(work.connection(), &user).await.expect("a user");
        let organization = OrganizationId::parse(&api.organization).expect("an id");
        let new = NewMember { user: id, role: Role::Member, permissions };
        members::insert(work.connection(), organization, new, now).await.expect("a member");
        if let Some(project) = project {
            let project = ProjectId::parse(project).expect("an id");
            let new = NewProjectMember { user: id, role: ProjectRole::Owner, added_by: id };
            let owner = members::insert_in_project(work.connection(), project, new, now);
            owner.await.expect("an Owner");
        }
        let new = NewToken {
            name: "own".into(),
            kind: TokenKind::Personal,
            organization: None,
            scopes: Scope::ALL.to_vec(),
            expires_at: None,
        };
        let principal = Principal { user, auth_method: AuthMethod::System };
        let (_, secret) = tokens::create(&mut work, &principal, None, new).await.expect("a token");
        work.commit().await.expect("committed");
        api.with_token(secret.expose())
    }

    #[tokio::test]
    async fn an_organization_quota_requires_a_permission_to_change() {
        let api = TestApi::new().await;
        let path = "/api/organization/quota";
        let default = api.get(path).await;
        assert_eq!(default.text_of("organizationId"), api.organization);
        assert!(default.data("monthlySpendLimit").is_null() && default.data("createdAt").is_null());
        assert_eq!(
            (default.data("version"), default.data("enforceQuota")),
            (0.into(), true.into())
        );
        let body = r#"{"monthlySpendLimit":"2.5","dailyRequestLimit":7,"customResetDay":5}"#;
        let created = api.post(path, body).await;
        assert!(created.text.contains("\"monthlySpendLimit\":2.50"), "{}", created.text);
        let project = api.project().await;
        let project_quota = api.get(&format!("/api/projects/{project}/quota")).await;
        assert!(project_quota.data("dailyRequestLimit").is_null(), "the project quota is separate");
        let mut stale = api.request("POST", path, "{}");
        stale.headers_mut().insert("if-match", "\"0\"".parse().expect("a header"));
        assert_eq!(api.send(stale).await.expect_error(412), "stale_version");

        let member = owner(&api, &[], Some(&project)).await;
        assert_eq!(member.get(path).await.data("dailyRequestLimit"), 7, "every member may see it");
        let response = member.post(path, "{}").await;
        assert_eq!(response.expect_error(403), "missing_permission");
        assert_eq!(response.json["error"]["param"], "quota.configure");
        let usage = "/api/organization/quota-usage";
        let response = member.get(usage).await;
        assert_eq!(response.json["error"]["param"], "wallet.records");
        let permitted =
            owner(&api, &[Permission::QuotaConfigure, Permission::WalletRecords], None).await;
        assert_eq!(permitted.post(path, r#"{"dailyTokenLimit":9}"#).await.data("version"), 2);
        let response = permitted.get(usage).await;
        assert_eq!(response.text_of("organizationId"), api.organization);
        assert_eq!(response.data("quotaLimitRemaining")["dailyTokens"], 9);
        assert!(
            response.data("quotaLimitRemaining")["dailyRequests"].is_null(),
            "replaced as a whole"
        );

        let organization = OrganizationId::parse(&api.organization).expect("an id");
        let scope = directory_rows::Scope::Organization(organization);
        let now = crate::clock::wall_now();
        let rows =
            directory_rows::read(&api.services.database, scope, now, None).await.expect("rows");
        let limits = rows.organizations[0].quota.limits;
        assert_eq!(limits.get(Limit::DailyTokens), Some(9), "the value that admission reads");
        let audited = sqlx::query(
            "SELECT outcome, target FROM audit_log WHERE action LIKE '%quota%' ORDER BY id",
        )
        .fetch_all(api.services.database.reader())
        .await
        .expect("rows");
        let outcomes: Vec<String> = audited.iter().map(|row| row.get(0)).collect();
        assert_eq!(outcomes, ["Done", "Denied", "Done"]);
        assert!(audited[0].get::<String, _>(1).contains(&api.organization));
    }

    /// Returns the fields of a quota that are above the ceiling.
    fn params_above_ceiling(response: &TestResponse) -> Vec<&str> {
        response.expect_error(400);
        let errors = response.json["error"]["errors"].as_array().expect("a list");
        let is_above = |error: &serde_json::Value| error["reason"] == "above_ceiling";
        assert!(errors.iter().all(is_above), "{}", response.text);
        errors.iter().filter_map(|error| error["param"].as_str()).collect()
    }

    #[tokio::test]
    async fn an_owner_stays_below_the_ceiling_and_cannot_change_it() {
        let api = TestApi::new().await;
        let body = r#"{"name":"Low","ceiling":{"dailyRequestLimit":10,"dailySpendLimit":5}}"#;
        let project = api.post("/api/projects", body).await.text_of("id");
        let project_path = format!("/api/projects/{project}");
        let path = format!("{project_path}/quota");
        let first = api.get(&path).await;
        assert_eq!(first.data("dailyRequestLimit"), 10, "starts at the ceiling");
        assert!(first.text.contains("\"dailySpendLimit\":5.00"), "{}", first.text);

        let project_owner = owner(&api, &[], Some(&project)).await;
        let lower = r#"{"dailyRequestLimit":9,"dailySpendLimit":5,"dailyTokenLimit":100}"#;
        assert_eq!(project_owner.post(&path, lower).await.data("dailyRequestLimit"), 9);
        for (body, fields) in [
            (r#"{"dailyRequestLimit":11,"dailySpendLimit":5}"#, &["/dailyRequestLimit"][..]),
            (r#"{"dailyRequestLimit":9,"dailySpendLimit":5.01}"#, &["/dailySpendLimit"]),
            ("{}", &["/dailyRequestLimit", "/dailySpendLimit"]),
            (
                r#"{"dailyRequestLimit":9,"dailySpendLimit":5,"enforceQuota":false}"#,
                &["/enforceQuota"],
            ),
        ] {
            let response = project_owner.post(&path, body).await;
            assert_eq!(params_above_ceiling(&response), fields, "{body}");
        }
        for body in [
            r#"{"ceiling":null}"#,
            r#"{"ceiling":{"dailyRequestLimit":1000}}"#,
            r#"{"name":"x","ceiling":null}"#,
        ] {
            let response = project_owner.put(&project_path, body).await;
            assert_eq!(response.expect_error(403), "missing_permission", "{body}");
            assert_eq!(response.json["error"]["param"], "quota.configure");
        }
        assert_eq!(
            project_owner.put(&project_path, r#"{"name":"Own"}"#).await.text_of("name"),
            "Own"
        );

        let permitted = owner(&api, &[Permission::QuotaConfigure], None).await;
        let below = r#"{"ceiling":{"dailyRequestLimit":8,"monthlyTokenLimit":9}}"#;
        let response = permitted.put(&project_path, below).await;
        assert_eq!(response.expect_error(400), "validation_failed");
        let named = &response.json["error"]["errors"];
        assert_eq!(named[0]["param"], "/ceiling/dailyRequestLimit");
        assert_eq!(
            named[1]["param"], "/ceiling/monthlyTokenLimit",
            "no limit is above every ceiling"
        );
        assert_eq!(
            api.get(&project_path).await.data("ceiling")["dailyRequestLimit"],
            10,
            "unchanged"
        );
        let body = r#"{"ceiling":{"dailyRequestLimit":9}}"#;
        assert_eq!(
            permitted.put(&project_path, body).await.data("ceiling")["dailyRequestLimit"],
            9
        );
        assert!(
            permitted.put(&project_path, r#"{"ceiling":null}"#).await.data("ceiling").is_null()
        );
        assert_eq!(
            project_owner.post(&path, "{}").await.status,
            200,
            "any quota is allowed without a ceiling"
        );
    }
}
