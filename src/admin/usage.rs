//! `quota-usage`: what is settled and held in each window, and what remains.

use axum::http::Method;
use serde::Serialize;
use utoipa::ToSchema;

use crate::admin::answer::{Answer, Reply};
use crate::admin::asked::Asked;
use crate::admin::kind::{Date, Word};
use crate::admin::operation::{Doc, Operations};
use crate::admin::scalar::{At, Money};
use crate::domain::counter::Tally;
use crate::domain::ids::ProjectId;
use crate::domain::limit::Limit;
use crate::domain::money::Nano;
use crate::organization::quotas::Whose;
use crate::organization::rights::Right;
use crate::organization::usage::{self, Usage};

/// Where a project stands.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ProjectQuotaUsage)]
pub struct ProjectUsageShape {
    project_id: String,
    #[serde(flatten)]
    usage: UsageShape,
}

/// Where all projects together stand.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = OrganizationQuotaUsage)]
struct OrganizationUsageShape {
    organization_id: String,
    #[serde(flatten)]
    usage: UsageShape,
}

/// All windows at one moment.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = QuotaUsage)]
struct UsageShape {
    period: String,
    as_of: At,
    daily_usage: DailyShape,
    monthly_usage: MonthlyShape,
    minute_usage: MinuteShape,
    quota_limit_remaining: RemainingShape,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Counts)]
struct CountsShape {
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
struct DailyShape {
    #[serde(flatten)]
    counts: CountsShape,
    date: String,
    reset_at: At,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = MonthlyUsage)]
struct MonthlyShape {
    #[serde(flatten)]
    counts: CountsShape,
    reset_day: u8,
    from: At,
    reset_at: At,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = MinuteUsage)]
struct MinuteShape {
    request_count: i64,
    token_count: i64,
    reset_at: At,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = QuotaLimitRemaining)]
struct RemainingShape {
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
pub fn operations(operations: Operations) -> Operations {
    let (project, own) = ("/api/projects/{id}/quota-usage", "/api/organization/quota-usage");
    let doc = Doc::of(Right::ViewQuota, "Shows what a project has used of its quota.");
    let doc = doc.query(QUERY).one::<ProjectUsageShape>();
    let own_doc = "Shows what all projects together have used of the organization's quota.";
    let own_doc = Doc::of(Right::ViewOrganizationUsage, own_doc);
    let own_doc = own_doc.query(QUERY).one::<OrganizationUsageShape>();
    operations.add(&Method::GET, project, view, doc).add(&Method::GET, own, view, own_doc)
}

async fn view(asked: Asked) -> Reply {
    let whose = asked.whose()?;
    let seat = asked.seat().await?;
    let mut query = asked.visit.query();
    let period = query.get("period", &Word(&["day", "month"]));
    let date = query.get("date", &Date);
    query.finish()?;
    let platform = &asked.visit.state.platform;
    let as_of = platform.fresh().await;
    let usage = usage::view(platform, &seat, whose, date).await?;
    let usage = Usage { as_of: as_of.unwrap_or(usage.as_of), ..usage };
    let period = period.unwrap_or_else(|| "month".to_owned());
    Ok(match whose {
        Whose::Organization => {
            let organization_id = seat.organization.id.to_string();
            Answer::one(&OrganizationUsageShape { organization_id, usage: shape(period, &usage) })
        }
        Whose::Project(id) => Answer::one(&of_project(id, period, &usage)),
    })
}

/// A project's, on the wire.
pub fn of_project(id: ProjectId, period: String, usage: &Usage) -> ProjectUsageShape {
    ProjectUsageShape { project_id: id.to_string(), usage: shape(period, usage) }
}

fn shape(period: String, usage: &Usage) -> UsageShape {
    let money = |limit| usage.remaining(limit).map(Nano).map(Money);
    UsageShape {
        period,
        as_of: At(usage.as_of),
        daily_usage: DailyShape {
            counts: counts(&usage.day),
            date: usage.date.to_string(),
            reset_at: At(usage.date.next().start()),
        },
        monthly_usage: MonthlyShape {
            counts: counts(&usage.month),
            reset_day: usage.quota.reset_day.get(),
            from: At(usage.month_window.first.start()),
            reset_at: At(usage.month_window.end.start()),
        },
        minute_usage: MinuteShape {
            request_count: usage.minute.used.requests,
            token_count: usage.minute.used.tokens,
            reset_at: At(usage.minute_reset_at),
        },
        quota_limit_remaining: RemainingShape {
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

fn counts(tally: &Tally) -> CountsShape {
    CountsShape {
        request_count: tally.used.requests,
        token_count: tally.used.tokens,
        spend: Money(tally.used.spend),
        held_requests: tally.held.requests,
        held_tokens: tally.held.tokens,
        held_spend: Money(tally.held.spend),
    }
}
