//! The catalog: read again from its file.

use axum::http::Method;
use serde::Serialize;
use utoipa::ToSchema;

use crate::admin::answer::{Answer, Reply};
use crate::admin::asked::Asked;
use crate::admin::operation::{Doc, Operations};
use crate::organization::catalog;
use crate::organization::platform::Reloaded;
use crate::organization::rights::Right;

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Reloaded)]
struct ReloadedShape {
    models: usize,
    upstreams: usize,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = PriceList)]
struct PriceListShape {
    price_version: String,
    /// `{serviceTier, aboveInputTokens, prices}` each: by unit, per million or, of what is counted
    /// one by one, per one.
    rows: serde_json::Value,
}

/// What this file answers.
pub fn operations(operations: Operations) -> Operations {
    let price_list =
        "Shows the prices behind a `priceVersion`: per million, as exact decimal texts.";
    let price_list = Doc::platform(Right::ViewAccount, price_list).one::<PriceListShape>();
    let doc = "Reads models, prices and upstreams again from the configuration's file.";
    let doc = Doc::platform(Right::ChangePlatform, doc).one::<ReloadedShape>();
    operations.add(&Method::POST, "/api/platform/reload", reload, doc).add(
        &Method::GET,
        "/api/price-lists/{version}",
        show_price_list,
        price_list,
    )
}

async fn show_price_list(asked: Asked) -> Reply {
    let version = asked.visit.id("version", |text| Ok(text.to_owned()))?;
    let platform = &asked.visit.state.platform;
    let rows = catalog::price_list(platform, &asked.principal, &version).await?;
    Ok(Answer::one(&PriceListShape { price_version: version, rows }))
}

async fn reload(asked: Asked) -> Reply {
    let mut begun = asked.begin(None).await?;
    let done = catalog::reload(&mut begun.work, &asked.principal).await;
    let shape = |Reloaded { models, upstreams }| ReloadedShape { models, upstreams };
    asked.finish(begun, done.map(|reloaded| Answer::one(&shape(reloaded)))).await
}
