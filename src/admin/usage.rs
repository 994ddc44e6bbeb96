//! `quota-usage`: settled, held and remaining usage per window.

use serde::Serialize;
use utoipa::ToSchema;

use crate::admin::field_type::{Date, OneOf};
use crate::admin::operation::{OperationSpec, Routes};
use crate::admin::request::AuthenticatedRequest;
use crate::admin::response::{AdminResponse, HandlerResult};
use crate::admin::scalar::{Money, Rfc3339};
use crate::domain::counter::WindowUsage;
use crate::domain::ids::ProjectId;
use crate::domain::limit::Limit;
use crate::domain::money::Nano;
use crate::organization::quotas::QuotaSubject;
use crate::organization::rights::Action;
use crate::organization::usage::{self, QuotaUsage};

/// Quota usage of a project.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ProjectQuotaUsage)]
pub struct ProjectUsageView {
    project_id: String,
    #[serde(flatten)]
    usage: UsageView,
}

/// Quota usage of all projects of the organization together.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = OrganizationQuotaUsage)]
struct OrganizationUsageView {
    organization_id: String,
    #[serde(flatten)]
    usage: UsageView,
}

/// Usage of all windows at one instant.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = QuotaUsage)]
struct UsageView {
    period: String,
    as_of: Rfc3339,
    daily_usage: DailyView,
    monthly_usage: MonthlyView,
    minute_usage: MinuteView,
    quota_limit_remaining: RemainingView,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Counts)]
struct CountsView {
    request_count: i64,
    token_count: i64,
    spend: Money,
    held_requests: i64,
    held_tokens: i64,
    held_spend: Money,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = DailyUsage)]
struct DailyView {
    #[serde(flatten)]
    counts: CountsView,
    date: String,
    reset_at: Rfc3339,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = MonthlyUsage)]
struct MonthlyView {
    #[serde(flatten)]
    counts: CountsView,
    reset_day: u8,
    from: Rfc3339,
    reset_at: Rfc3339,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = MinuteUsage)]
struct MinuteView {
    request_count: i64,
    token_count: i64,
    reset_at: Rfc3339,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = QuotaLimitRemaining)]
struct RemainingView {
    #[schema(required)]
    daily_requests: Option<i64>,
    #[schema(required)]
    daily_tokens: Option<i64>,
    #[schema(required)]
    monthly_requests: Option<i64>,
    #[schema(required)]
    monthly_tokens: Option<i64>,
    #[schema(required)]
    requests_per_minute: Option<i64>,
    #[schema(required)]
    tokens_per_minute: Option<i64>,
    #[schema(required)]
    concurrent_calls: Option<i64>,
    #[schema(required)]
    daily_spend: Option<Money>,
    #[schema(required)]
    monthly_spend: Option<Money>,
}

const QUERY: &[(&str, &str)] = &[
    ("period", "`day` or `month` (default). Echoed; the response always holds both."),
    ("date", "Usage at the end of this UTC date."),
];

pub fn routes(routes: Routes) -> Routes {
    let (project, organization) =
        ("/api/projects/{id}/quota-usage", "/api/organization/quota-usage");
    let project_spec =
        OperationSpec::in_organization(Action::ViewQuota, "Shows the quota usage of a project.");
    let project_spec = project_spec.query_params(QUERY).response::<ProjectUsageView>();
    let organization_spec = "Shows the quota usage of all projects together.";
    let organization_spec =
        OperationSpec::in_organization(Action::ViewOrganizationUsage, organization_spec);
    let organization_spec =
        organization_spec.query_params(QUERY).response::<OrganizationUsageView>();
    routes.get(project, view, project_spec).get(organization, view, organization_spec)
}

async fn view(request: AuthenticatedRequest) -> HandlerResult {
    let subject = request.quota_subject()?;
    let org = request.org_context().await?;
    let mut query = request.query();
    let period = query.get("period", &OneOf(&["day", "month"]));
    let date = query.get("date", &Date);
    query.finish()?;
    let services = &request.state.services;
    let as_of = services.wait_caught_up().await;
    let usage = usage::view(services, &org, subject, date).await?;
    let usage = QuotaUsage { as_of: as_of.unwrap_or(usage.as_of), ..usage };
    let period = period.unwrap_or_else(|| "month".to_owned());
    Ok(match subject {
        QuotaSubject::Organization => {
            let organization_id = org.organization.id.to_string();
            AdminResponse::object(&OrganizationUsageView {
                organization_id,
                usage: to_view(period, &usage),
            })
        }
        QuotaSubject::Project(id) => AdminResponse::object(&project_view(id, period, &usage)),
    })
}

pub fn project_view(id: ProjectId, period: String, usage: &QuotaUsage) -> ProjectUsageView {
    ProjectUsageView { project_id: id.to_string(), usage: to_view(period, usage) }
}

fn to_view(period: String, usage: &QuotaUsage) -> UsageView {
    let money = |limit| usage.remaining(limit).map(Nano).map(Money);
    UsageView {
        period,
        as_of: Rfc3339(usage.as_of),
        daily_usage: DailyView {
            counts: counts_view(&usage.day),
            date: usage.date.to_string(),
            reset_at: Rfc3339(usage.date.next().start()),
        },
        monthly_usage: MonthlyView {
            counts: counts_view(&usage.month),
            reset_day: usage.quota.reset_day.get(),
            from: Rfc3339(usage.month_window.first.start()),
            reset_at: Rfc3339(usage.month_window.end.start()),
        },
        minute_usage: MinuteView {
            request_count: usage.minute.used.requests,
            token_count: usage.minute.used.tokens,
            reset_at: Rfc3339(usage.minute_reset_at),
        },
        quota_limit_remaining: RemainingView {
            daily_requests: usage.remaining(Limit::DailyRequests),
            daily_tokens: usage.remaining(Limit::DailyTokens),
            monthly_requests: usage.remaining(Limit::MonthlyRequests),
            monthly_tokens: usage.remaining(Limit::MonthlyTokens),
            requests_per_minute: usage.remaining(Limit::RequestsPerMinute),
            tokens_per_minute: usage.remaining(Limit::TokensPerMinute),
            concurrent_calls: usage.remaining(Limit::ConcurrentCalls),
            daily_spend: money(Limit::DailySpend),
            monthly_spend: money(Limit::MonthlySpend),
        },
    }
}

fn counts_view(usage: &WindowUsage) -> CountsView {
    CountsView {
        request_count: usage.used.requests,
        token_count: usage.used.tokens,
        spend: Money(usage.used.spend),
        held_requests: usage.held.requests,
        held_tokens: usage.held.tokens,
        held_spend: Money(usage.held.spend),
    }
}
