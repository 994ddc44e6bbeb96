//! The catalog: its models and prices, and how it is read again from its file.

use std::sync::Arc;

use axum::http::Method;
use serde::Serialize;
use utoipa::ToSchema;

use crate::admin::answer::{Answer, Reply};
use crate::admin::asked::Asked;
use crate::admin::operation::{Doc, Operations, PAGED};
use crate::organization::catalog::{self, Offer};
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

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Model)]
struct ModelShape {
    /// The name that calls give.
    id: String,
    aliases: Vec<String>,
    /// Its context window, where known.
    max_input_tokens: Option<u64>,
    max_output_tokens: u64,
    /// One for each place where a call may be served at other prices; first choice first.
    prices: Vec<PriceListShape>,
}

/// What this file answers.
pub fn operations(operations: Operations) -> Operations {
    let price_list =
        "Shows the prices behind a `priceVersion`: per million, as exact decimal texts.";
    let price_list = Doc::platform(Right::ViewAccount, price_list).one::<PriceListShape>();
    let models = Doc::platform(Right::ViewAccount, "Lists the models and what they cost now.");
    let models = models.query(PAGED).list::<ModelShape>();
    let doc = "Reads models, prices and upstreams again from the configuration's file.";
    let doc = Doc::platform(Right::ChangePlatform, doc).one::<ReloadedShape>();
    operations
        .add(&Method::POST, "/api/platform/reload", reload, doc)
        .add(&Method::GET, "/api/price-lists/{version}", show_price_list, price_list)
        .add(&Method::GET, "/api/models", list_models, models)
}

async fn list_models(asked: Asked) -> Reply {
    let mut query = asked.visit.query();
    let page = query.page();
    query.finish()?;
    let offers = catalog::offers(&asked.visit.state.platform, &asked.principal)?;
    let total = i64::try_from(offers.len()).unwrap_or(i64::MAX);
    let shown: Vec<_> = page.cut(offers).map(model_shape).collect();
    Ok(Answer::page(&shown, total, page))
}

fn model_shape(Offer { model, prices }: Offer) -> ModelShape {
    let list = |(version, rows): (Arc<str>, serde_json::Value)| PriceListShape {
        price_version: version.to_string(),
        rows,
    };
    ModelShape {
        id: model.name.to_string(),
        aliases: model.aliases.iter().map(ToString::to_string).collect(),
        max_input_tokens: model.max_input_tokens,
        max_output_tokens: model.max_output_tokens,
        prices: prices.into_iter().map(list).collect(),
    }
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
