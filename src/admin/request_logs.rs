//! `request-logs`: one entry per call, refused calls included.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::admin::field_type::{
    Bool, EnumOf, IntegerIn, MoneyAmount, ParsedString, Text, Timestamp,
};
use crate::admin::operation::{OperationSpec, Routes};
use crate::admin::query::{Query, Total};
use crate::admin::request::AuthenticatedRequest;
use crate::admin::response::{AdminResponse, HandlerResult};
use crate::admin::scalar::{Money, Rfc3339};
use crate::domain::ids::{ApiKeyId, ProjectId, RequestLogId};
use crate::domain::money::Nano;
use crate::domain::status::Outcome;
use crate::domain::time::UnixMs;
use crate::domain::usage::Unit;
use crate::organization::request_logs;
use crate::organization::rights::Action;
use crate::organization::wallet::COUNTED_MAX;
use crate::store::request_logs::{RequestLog, RequestLogFilter, RequestLogRange};

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = RequestLog)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct RequestLogView {
    request_log_id: String,
    created_at: Rfc3339,
    organization_id: String,
    project_id: String,
    #[schema(required)]
    project_name: Option<String>,
    api_key_id: String,
    #[schema(required)]
    api_key_name: Option<String>,
    #[schema(required)]
    user_id: Option<String>,
    #[schema(required)]
    endpoint: Option<String>,
    #[schema(required)]
    dialect: Option<String>,
    #[schema(required)]
    model: Option<String>,
    #[schema(required)]
    upstream: Option<String>,
    #[schema(required)]
    upstream_model: Option<String>,
    stream: bool,
    outcome: &'static str,
    status: i64,
    #[schema(required)]
    refusal: Option<String>,
    /// Count of every unit, 0 for unused ones.
    usage: BTreeMap<&'static str, u64>,
    cost: Money,
    currency: String,
    #[schema(required)]
    price_version: Option<String>,
    #[schema(required)]
    service_tier: Option<String>,
    #[schema(required)]
    settled_by: Option<String>,
    late: bool,
    overage: bool,
    attempts: u64,
    output_clamped: bool,
    #[schema(required)]
    duration_ms: Option<u64>,
    #[schema(required)]
    time_to_first_byte_ms: Option<u64>,
    #[schema(required)]
    client_address: Option<String>,
    #[schema(required)]
    hold_amount: Option<Money>,
    #[schema(required)]
    wallet_record_id: Option<String>,
    #[schema(required)]
    finish_reason: Option<String>,
    count: u64,
    #[schema(required)]
    node: Option<String>,
}

/// The JSON column that the projector writes.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct StoredLogDetail {
    endpoint: Option<String>,
    dialect: Option<String>,
    upstream_model: Option<String>,
    usage: BTreeMap<String, u64>,
    price_version: Option<String>,
    service_tier: Option<String>,
    settled_by: Option<String>,
    late: bool,
    overage: bool,
    attempts: u64,
    output_clamped: bool,
    duration_ms: Option<u64>,
    time_to_first_byte_ms: Option<u64>,
    client_address: Option<String>,
    hold_amount_nano: Option<i64>,
    finish_reason: Option<String>,
    count: Option<u64>,
    node: Option<String>,
}

const FILTERS: &[(&str, &str)] = &[
    ("from", "At or after this time."),
    ("to", "Before this time."),
    ("status", "Only calls with this HTTP status."),
    ("outcome", "`Completed`, `Refused`, `Failed` or `Cancelled`."),
    ("refusal", "Only calls refused with this error code."),
    ("model", "Only calls to this model."),
    ("apiKeyId", "Only calls with this API key."),
    ("upstream", "Only calls sent to this upstream."),
    ("stream", "`true` or `false`."),
    ("minCost", "Only calls that cost at least this amount."),
    ("requestLogId", "Only this call."),
    ("page", "Page number, from 1. Use `cursor` for offsets above 10,000."),
    ("size", "Rows per page, 1 to 100. Default: 20."),
    ("cursor", "The `nextCursor` of the previous page. Never repeats or skips a row."),
];

pub fn routes(routes: Routes) -> Routes {
    let list_spec = OperationSpec::in_organization(
        Action::ViewRequestLogs,
        "Lists the calls of a project, newest first.",
    );
    let view_spec = OperationSpec::in_organization(Action::ViewRequestLogs, "Shows a call.");
    let (collection, item) =
        ("/api/projects/{id}/request-logs", "/api/projects/{id}/request-logs/{requestLogId}");
    routes
        .get(collection, list, list_spec.query_params(FILTERS).list_response::<RequestLogView>())
        .get(item, view, view_spec.response::<RequestLogView>())
}

async fn list(request: AuthenticatedRequest) -> HandlerResult {
    let project = request.path_id("id", ProjectId::parse)?;
    let org = request.org_context().await?;
    let mut query = request.query();
    let filter = read_filter(&mut query);
    let endless = query.cursor_page(|text| RequestLogId::parse(text).ok());
    query.finish()?;
    let services = &request.state.services;
    let as_of = services.wait_caught_up().await;
    let range =
        RequestLogRange { before: endless.after, offset: endless.offset(), limit: endless.limit() };
    let (mut rows, total) = request_logs::list(services, &org, project, &filter, range).await?;
    let counted_max = if filter.is_empty() { i64::MAX } else { COUNTED_MAX };
    let total = Total { count: total, counted_max };
    let listed = endless.trim_rows(&mut rows, total, as_of, |last| last.id.to_string());
    let currency = &services.settings.currency;
    let rows: Vec<RequestLogView> = rows.into_iter().map(|row| to_view(row, currency)).collect();
    Ok(AdminResponse::list(&rows, listed))
}

async fn view(request: AuthenticatedRequest) -> HandlerResult {
    let project = request.path_id("id", ProjectId::parse)?;
    let call = request.path_id("requestLogId", RequestLogId::parse)?;
    let org = request.org_context().await?;
    let services = &request.state.services;
    let as_of: Option<UnixMs> = services.wait_caught_up().await;
    let entry = request_logs::view(services, &org, project, call).await?;
    Ok(AdminResponse::object_as_of(&to_view(entry, &services.settings.currency), as_of))
}

fn read_filter(query: &mut Query) -> RequestLogFilter {
    let key = ParsedString { expected: "an API key id", parse: |text| ApiKeyId::parse(text).ok() };
    let call = ParsedString { expected: "a call id", parse: |text| RequestLogId::parse(text).ok() };
    let outcome = EnumOf { names: Outcome::NAMES, parse: Outcome::parse };
    RequestLogFilter {
        from: query.get("from", &Timestamp::Any),
        to: query.get("to", &Timestamp::Any),
        status: query.get("status", &IntegerIn { min: 100, max: 599 }),
        outcome: query.get("outcome", &outcome),
        refusal: query.get("refusal", &Text { min: 1, max: 100 }),
        model: query.get("model", &Text { min: 1, max: 200 }),
        key: query.get("apiKeyId", &key),
        upstream: query.get("upstream", &Text { min: 1, max: 200 }),
        stream: query.get("stream", &Bool),
        min_cost: query.get("minCost", &MoneyAmount::NonNegative),
        call: query.get("requestLogId", &call),
    }
}

/// Fills in 0 for units that were not used.
fn all_units(used: &BTreeMap<String, u64>) -> BTreeMap<&'static str, u64> {
    let count = |unit: Unit| (unit.name(), used.get(unit.name()).copied().unwrap_or_default());
    Unit::ALL.into_iter().map(count).collect()
}

fn to_view(row: RequestLog, currency: &str) -> RequestLogView {
    let detail: StoredLogDetail = serde_json::from_str(&row.detail).unwrap_or_default();
    RequestLogView {
        request_log_id: row.id.to_string(),
        created_at: Rfc3339(row.created_at),
        organization_id: row.organization.to_string(),
        project_id: row.project.to_string(),
        project_name: row.project_name,
        api_key_id: row.key.to_string(),
        api_key_name: row.key_name,
        user_id: row.owner.map(|id| id.to_string()),
        endpoint: detail.endpoint,
        dialect: detail.dialect,
        model: row.model,
        upstream: row.upstream,
        upstream_model: detail.upstream_model,
        stream: row.stream,
        outcome: row.outcome.name(),
        status: row.status,
        refusal: row.refusal,
        usage: all_units(&detail.usage),
        cost: Money(row.cost),
        currency: currency.to_owned(),
        price_version: detail.price_version,
        service_tier: detail.service_tier,
        settled_by: detail.settled_by,
        late: detail.late,
        overage: detail.overage,
        attempts: detail.attempts,
        output_clamped: detail.output_clamped,
        duration_ms: detail.duration_ms,
        time_to_first_byte_ms: detail.time_to_first_byte_ms,
        client_address: detail.client_address,
        hold_amount: detail.hold_amount_nano.map(Nano).map(Money),
        wallet_record_id: row.record.map(|id| id.to_string()),
        finish_reason: detail.finish_reason,
        count: detail.count.unwrap_or(1),
        node: detail.node,
    }
}

#[cfg(test)]
mod tests {
    use crate::admin::tests::test_api::TestApi;
    use crate::domain::ids::{ApiKeyId, OrganizationId, ProjectId, RequestLogId, UserId};
    use crate::domain::roles::{ProjectRole, Role};
    use crate::organization::sign_in;
    use crate::organization::unit_of_work::{Origin, UnitOfWork};
    use crate::store::columns::{new_id, uuid};
    use crate::store::members::{self, NewMember, NewProjectMember};
    use crate::store::users::{self, User};

    /// Inserts the row that the projector would write for a call, and returns the call's id.
    async fn call(api: &TestApi, key: &str, outcome: &str, detail: &str) -> String {
        let now = crate::clock::wall_now();
        let id = new_id(now);
        let project = ProjectId::parse(&api.project().await).expect("an id");
        let mut tx = api.services.database.begin().await.expect("a transaction");
        sqlx::query(
            "INSERT INTO request_logs (project_id, id, organization_id, api_key_id, created_at,
                outcome, status, refusal, model, upstream, stream, cost_nano, detail)
             VALUES ($1, $2, $3, $4, $5, $6, 200, NULL, 'gpt-4o', 'main', 1, 375, $7)",
        )
        .bind(uuid(project.0))
        .bind(uuid(id))
        .bind(uuid(OrganizationId::parse(&api.organization).expect("an id").0))
        .bind(uuid(ApiKeyId::parse(key).expect("an id").0))
        .bind(now.0)
        .bind(outcome)
        .bind(detail)
        .execute(&mut *tx)
        .await
        .expect("an entry");
        tx.commit().await.expect("committed");
        RequestLogId(id).to_string()
    }

    /// Signs in a Member of the organization and of the project, and returns their user id.
    async fn member(api: &TestApi) -> (TestApi, String) {
        let now = crate::clock::wall_now();
        let user = User {
            id: UserId(new_id(now)),
            email: "mia@example.com".into(),
            name: "Mia".into(),
            password_hash: None,
            is_operator: false,
            email_verified: false,
            created_at: now,
            last_login_at: None,
        };
        let id = user.id;
        let organization = OrganizationId::parse(&api.organization).expect("an id");
        let project = ProjectId::parse(&api.project().await).expect("an id");
        let mut work = UnitOfWork::begin(&api.services, Origin::default()).await.expect("work");
        users::insert(work.connection(), &user).await.expect("a user");
        let new = NewMember { user: id, role: Role::Member, permissions: &[] };
        members::insert(work.connection(), organization, new, now).await.expect("a member");
        let new = NewProjectMember { user: id, role: ProjectRole::Member, added_by: id };
        members::insert_in_project(work.connection(), project, new, now).await.expect("a member");
        let signed_in = sign_in::begin_session(&mut work, user).await.expect("a session");
        work.commit().await.expect("committed");
        (api.with_token(signed_in.secret.expose()), id.to_string())
    }

    #[tokio::test]
    async fn an_entry_has_all_fields_and_can_be_filtered() {
        let api = TestApi::new().await;
        let base = format!("/api/projects/{}", api.project().await);
        let key = api.post(&format!("{base}/api-keys"), r#"{"name":"k"}"#).await;
        let detail = r#"{"endpoint":"chat","usage":{"inputTokens":10},"settledBy":"usage",
            "attempts":1,"holdAmountNano":1000,"clientAddress":"10.0.0.1","count":1}"#;
        let id = call(&api, &key.text_of("id"), "Completed", detail).await;
        call(&api, &key.text_of("id"), "Refused", r#"{"count":7}"#).await;
        let path = format!("{base}/request-logs");
        let one = api.get(&format!("{path}/{id}")).await;
        assert_eq!(one.text_of("settledBy"), "usage");
        assert_eq!(one.text_of("projectName"), "First");
        assert_eq!(one.text_of("apiKeyName"), "k");
        assert_eq!(one.data("usage")["inputTokens"], 10);
        assert!(
            one.text.contains("\"cost\":0.000000375") && one.text.contains("holdAmount\":0.00")
        );
        assert!(one.data("walletRecordId").is_null() && one.text.contains("\"finishReason\":null"));
        let total =
            async |query: &str| api.get(&format!("{path}?{query}")).await.json["total"].clone();
        assert_eq!(total("").await, 2);
        assert_eq!(total("outcome=Refused&stream=true&status=200").await, 1);
        assert_eq!(total(&format!("requestLogId={id}&minCost=0.000000375")).await, 1);
        assert_eq!(total("model=o3").await, 0);
        let listed = api.get(&format!("{path}?size=1")).await;
        assert_eq!(listed.json["data"][0]["count"], 7, "newest first");
        let cursor = listed.json["nextCursor"].as_str().expect("more");
        let next = api.get(&format!("{path}?size=1&cursor={cursor}")).await;
        assert_eq!(next.json["data"][0]["requestLogId"], id.as_str());
        assert!(next.json["nextCursor"].is_null());
    }

    #[tokio::test]
    async fn a_project_member_sees_and_creates_only_their_own_keys_and_logs() {
        let api = TestApi::new().await;
        let base = format!("/api/projects/{}", api.project().await);
        let (keys, logs) = (format!("{base}/api-keys"), format!("{base}/request-logs"));
        let foreign = api.post(&keys, r#"{"name":"theirs"}"#).await.text_of("id");
        let (mia, id) = member(&api).await;
        let own = mia.post(&keys, r#"{"name":"own"}"#).await;
        assert_eq!(own.text_of("ownerUserId"), id);
        assert_eq!(mia.get(&keys).await.json["total"], 1);
        assert_eq!(api.get(&keys).await.json["total"], 2);
        mia.put(&format!("{keys}/{foreign}"), "{}").await.expect_error(404);
        let given = mia.post(&keys, r#"{"name":"p","ownerUserId":null}"#).await;
        assert_eq!(given.expect_error(403), "missing_permission");
        let theirs = call(&api, &foreign, "Completed", "{}").await;
        call(&api, &own.text_of("id"), "Completed", "{}").await;
        assert_eq!(mia.get(&logs).await.json["total"], 1);
        mia.get(&format!("{logs}/{theirs}")).await.expect_error(404);
        assert_eq!(mia.get(&format!("{base}/quota-usage")).await.status, 200);
        let response = mia.post(&format!("{base}/quota"), "{}").await;
        assert_eq!(response.json["error"]["param"], "quota.configure", "{}", response.text);
        assert_eq!(
            mia.get("/api/organization/wallet").await.expect_error(403),
            "missing_permission"
        );
        assert_eq!(mia.post("/api/projects", r#"{"name":"x"}"#).await.status, 403);
        assert_eq!(mia.get("/api/projects").await.json["data"][0]["role"], "Member");
        let error = "SELECT count(*) FROM audit_log WHERE outcome = 'Denied'";
        let error: i64 = sqlx::query_scalar(error)
            .fetch_one(api.services.database.reader())
            .await
            .expect("a count");
        assert_eq!(error, 3, "denied actions are in the audit log");
    }
}
