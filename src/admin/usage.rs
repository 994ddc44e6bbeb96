//! `quota-usage`: what is settled and held in each window, and what remains.

use axum::http::Method;
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

/// Where a project stands.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ProjectQuotaUsage)]
pub struct ProjectUsageView {
    project_id: String,
    #[serde(flatten)]
    usage: UsageView,
}

/// Where all projects together stand.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = OrganizationQuotaUsage)]
struct OrganizationUsageView {
    organization_id: String,
    #[serde(flatten)]
    usage: UsageView,
}

/// All windows at one moment.
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
    ("period", "`day` or `month` (the default): echoed; both are always there."),
    ("date", "As it stood at the end of this UTC date."),
];

/// What this file answers.
pub fn routes(operations: Routes) -> Routes {
    let (project, own) = ("/api/projects/{id}/quota-usage", "/api/organization/quota-usage");
    let doc = OperationSpec::in_organization(
        Action::ViewQuota,
        "Shows what a project has used of its quota.",
    );
    let doc = doc.query_params(QUERY).response::<ProjectUsageView>();
    let own_doc = "Shows what all projects together have used of the organization's quota.";
    let own_doc = OperationSpec::in_organization(Action::ViewOrganizationUsage, own_doc);
    let own_doc = own_doc.query_params(QUERY).response::<OrganizationUsageView>();
    operations.add(&Method::GET, project, view, doc).add(&Method::GET, own, view, own_doc)
}

async fn view(asked: AuthenticatedRequest) -> HandlerResult {
    let whose = asked.quota_subject()?;
    let seat = asked.org_context().await?;
    let mut query = asked.request.query();
    let period = query.get("period", &OneOf(&["day", "month"]));
    let date = query.get("date", &Date);
    query.finish()?;
    let platform = &asked.request.state.services;
    let as_of = platform.wait_caught_up().await;
    let usage = usage::view(platform, &seat, whose, date).await?;
    let usage = QuotaUsage { as_of: as_of.unwrap_or(usage.as_of), ..usage };
    let period = period.unwrap_or_else(|| "month".to_owned());
    Ok(match whose {
        QuotaSubject::Organization => {
            let organization_id = seat.organization.id.to_string();
            AdminResponse::object(&OrganizationUsageView {
                organization_id,
                usage: to_view(period, &usage),
            })
        }
        QuotaSubject::Project(id) => AdminResponse::object(&project_view(id, period, &usage)),
    })
}

/// A project's, on the wire.
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

fn counts_view(tally: &WindowUsage) -> CountsView {
    CountsView {
        request_count: tally.used.requests,
        token_count: tally.used.tokens,
        spend: Money(tally.used.spend),
        held_requests: tally.held.requests,
        held_tokens: tally.held.tokens,
        held_spend: Money(tally.held.spend),
    }
}
