//! `models`, `price-lists` and `reload`: the model catalog and its prices.

use std::sync::Arc;

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
    /// Objects with `serviceTier`, `aboveInputTokens` and `prices`. Prices are per million for
    /// tokens and characters, per unit otherwise.
    rows: serde_json::Value,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Model)]
struct ModelView {
    /// Model name to use in requests.
    id: String,
    aliases: Vec<String>,
    /// Size of the context window, if known.
    max_input_tokens: Option<u64>,
    max_output_tokens: u64,
    /// One price list per upstream with its own prices, in routing order.
    prices: Vec<PriceListView>,
}

pub fn routes(routes: Routes) -> Routes {
    let price_list_spec = "Shows the prices of a `priceVersion` as exact decimal strings.";
    let price_list_spec =
        OperationSpec::platform(Action::ViewAccount, price_list_spec).response::<PriceListView>();
    let models_spec =
        OperationSpec::platform(Action::ViewAccount, "Lists the models and their current prices.");
    let models_spec = models_spec.query_params(LIST_PARAMS).list_response::<ModelView>();
    let reload_spec = "Reloads models, prices and upstreams from the configuration file.";
    let reload_spec =
        OperationSpec::platform(Action::ChangePlatform, reload_spec).response::<ReloadedView>();
    routes
        .post("/api/platform/reload", reload, reload_spec)
        .get("/api/price-lists/{version}", show_price_list, price_list_spec)
        .get("/api/models", list_models, models_spec)
}

async fn list_models(request: AuthenticatedRequest) -> HandlerResult {
    let mut query = request.query();
    let page = query.page();
    query.finish()?;
    let offers = catalog::available_models(&request.state.services, &request.principal)?;
    let total = i64::try_from(offers.len()).unwrap_or(i64::MAX);
    let views: Vec<_> = page.cut(offers).map(model_view).collect();
    Ok(AdminResponse::page(&views, total, page))
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

async fn show_price_list(request: AuthenticatedRequest) -> HandlerResult {
    let version = request.path_id("version", |text| Ok(text.to_owned()))?;
    let services = &request.state.services;
    let rows = catalog::price_list(services, &request.principal, &version).await?;
    Ok(AdminResponse::object(&PriceListView { price_version: version, rows }))
}

async fn reload(request: AuthenticatedRequest) -> HandlerResult {
    let mut mutation = request.begin_mutation(None).await?;
    let result = catalog::reload(&mut mutation.work, &request.principal).await;
    let view = |Reloaded { models, upstreams }| ReloadedView { models, upstreams };
    request
        .finish_mutation(mutation, result.map(|reloaded| AdminResponse::object(&view(reloaded))))
        .await
}
