//! The catalog: its models and prices, and how it is read again from its file.

use std::sync::Arc;

use axum::http::Method;
use serde::Serialize;
use utoipa::ToSchema;

use crate::admin::operation::{LIST_PARAMS, OperationSpec, Routes};
use crate::admin::request::AuthenticatedRequest;
use crate::admin::response::{AdminResponse, HandlerResult};
use crate::organization::catalog::{self, AvailableModel};
use crate::organization::rights::Action;
use crate::organization::services::Reloaded;

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Reloaded)]
struct ReloadedView {
    models: usize,
    upstreams: usize,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = PriceList)]
struct PriceListView {
    price_version: String,
    /// `{serviceTier, aboveInputTokens, prices}` each: by unit, per million or, of what is counted
    /// one by one, per one.
    rows: serde_json::Value,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Model)]
struct ModelView {
    /// The name that calls give.
    id: String,
    aliases: Vec<String>,
    /// Its context window, where known.
    max_input_tokens: Option<u64>,
    max_output_tokens: u64,
    /// One for each place where a call may be served at other prices; first choice first.
    prices: Vec<PriceListView>,
}

/// What this file answers.
pub fn routes(operations: Routes) -> Routes {
    let price_list =
        "Shows the prices behind a `priceVersion`: per million, as exact decimal texts.";
    let price_list =
        OperationSpec::platform(Action::ViewAccount, price_list).response::<PriceListView>();
    let models =
        OperationSpec::platform(Action::ViewAccount, "Lists the models and what they cost now.");
    let models = models.query_params(LIST_PARAMS).list_response::<ModelView>();
    let doc = "Reads models, prices and upstreams again from the configuration's file.";
    let doc = OperationSpec::platform(Action::ChangePlatform, doc).response::<ReloadedView>();
    operations
        .add(&Method::POST, "/api/platform/reload", reload, doc)
        .add(&Method::GET, "/api/price-lists/{version}", show_price_list, price_list)
        .add(&Method::GET, "/api/models", list_models, models)
}

async fn list_models(asked: AuthenticatedRequest) -> HandlerResult {
    let mut query = asked.request.query();
    let page = query.page();
    query.finish()?;
    let offers = catalog::available_models(&asked.request.state.services, &asked.principal)?;
    let total = i64::try_from(offers.len()).unwrap_or(i64::MAX);
    let shown: Vec<_> = page.cut(offers).map(model_view).collect();
    Ok(AdminResponse::page(&shown, total, page))
}

fn model_view(AvailableModel { model, prices }: AvailableModel) -> ModelView {
    let list = |(version, rows): (Arc<str>, serde_json::Value)| PriceListView {
        price_version: version.to_string(),
        rows,
    };
    ModelView {
        id: model.name.to_string(),
        aliases: model.aliases.iter().map(ToString::to_string).collect(),
        max_input_tokens: model.max_input_tokens,
        max_output_tokens: model.max_output_tokens,
        prices: prices.into_iter().map(list).collect(),
    }
}

async fn show_price_list(asked: AuthenticatedRequest) -> HandlerResult {
    let version = asked.request.path_id("version", |text| Ok(text.to_owned()))?;
    let platform = &asked.request.state.services;
    let rows = catalog::price_list(platform, &asked.principal, &version).await?;
    Ok(AdminResponse::object(&PriceListView { price_version: version, rows }))
}

async fn reload(asked: AuthenticatedRequest) -> HandlerResult {
    let mut begun = asked.begin_mutation(None).await?;
    let done = catalog::reload(&mut begun.work, &asked.principal).await;
    let shape = |Reloaded { models, upstreams }| ReloadedView { models, upstreams };
    asked.finish_mutation(begun, done.map(|reloaded| AdminResponse::object(&shape(reloaded)))).await
}
