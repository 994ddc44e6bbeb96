//! `quota`: all limits of a project, replaced whole.

use axum::http::Method;
use serde::Serialize;
use utoipa::ToSchema;

use crate::admin::answer::{Answer, Reply};
use crate::admin::asked::Asked;
use crate::admin::fields::{Body, Fields, Shape};
use crate::admin::kind::{Flag, Whole};
use crate::admin::limits::{self, LimitsShape};
use crate::admin::operation::{Doc, Operations};
use crate::admin::scalar::At;
use crate::clock;
use crate::domain::ids::ProjectId;
use crate::domain::quota::Quota;
use crate::domain::time::ResetDay;
use crate::organization::quotas;
use crate::organization::rights::Right;
use crate::store::quotas::StoredQuota;

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ProjectQuota)]
struct QuotaShape {
    project_id: String,
    #[serde(flatten)]
    limits: LimitsShape,
    enforce_quota: bool,
    custom_reset_day: u8,
    next_daily_reset_at: At,
    next_monthly_reset_at: At,
    #[schema(required)]
    created_at: Option<At>,
    #[schema(required)]
    updated_at: Option<At>,
    version: i64,
}

struct QuotaBody(Quota);

impl Body for QuotaBody {
    const NAME: &'static str = "NewProjectQuota";

    fn read(fields: &mut Fields) -> Option<Self> {
        let limits = limits::read(fields);
        let enforce = fields.defaulted("enforceQuota", Flag, true);
        let reset_day = fields.defaulted("customResetDay", Whole(1, 28), 1);
        let reset_day = reset_day.and_then(|day| ResetDay::new(u8::try_from(day).ok()?));
        Some(Self(Quota { limits: limits?, enforce: enforce?, reset_day: reset_day? }))
    }

    fn shape(shape: &mut Shape) {
        limits::shape(shape);
        shape.defaulted("enforceQuota", Flag, true);
        shape.defaulted("customResetDay", Whole(1, 28), 1);
    }
}

/// What this file answers.
pub fn operations(operations: Operations) -> Operations {
    let path = "/api/projects/{id}/quota";
    let view_doc = Doc::of(Right::ViewQuota, "Shows a project's limits.");
    let replace_doc = Doc::of(Right::SetQuota, "Replaces a project's limits; usage is kept.");
    let replace_doc = replace_doc.takes::<QuotaBody>().one::<QuotaShape>();
    operations.add(&Method::GET, path, view, view_doc.one::<QuotaShape>()).add(
        &Method::POST,
        path,
        replace,
        replace_doc,
    )
}

async fn view(asked: Asked) -> Reply {
    let id = asked.visit.id("id", ProjectId::parse)?;
    let seat = asked.seat().await?;
    Ok(answer(id, &quotas::view(&asked.visit.state.platform, &seat, id).await?))
}

async fn replace(asked: Asked) -> Reply {
    let id = asked.visit.id("id", ProjectId::parse)?;
    let body: QuotaBody = asked.visit.body()?;
    let seat = asked.seat().await?;
    let mut begun = asked.begin(Some(&seat)).await?;
    let done = quotas::replace(&mut begun.work, &seat, id, body.0).await;
    asked.finish(begun, done.map(|quota| answer(id, &quota))).await
}

fn answer(id: ProjectId, stored: &StoredQuota) -> Answer {
    let (quota, today) = (&stored.quota, clock::now().day());
    let shape = QuotaShape {
        project_id: id.to_string(),
        limits: LimitsShape::of(&quota.limits),
        enforce_quota: quota.enforce,
        custom_reset_day: quota.reset_day.get(),
        next_daily_reset_at: At(today.next().start()),
        next_monthly_reset_at: At(quota.reset_day.month_of(today).end.start()),
        created_at: stored.created_at.map(At),
        updated_at: stored.updated_at.map(At),
        version: stored.version,
    };
    Answer::one(&shape).versioned(stored.version)
}
