//! `prices`: price overrides of the operator, and the configured prices.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use crate::admin::body::body;
use crate::admin::field_type::{NAME, ParsedString, Timestamp};
use crate::admin::operation::{OperationSpec, Routes};
use crate::admin::price_units::{PriceTiers, PricesByUnit, prices_by_unit};
use crate::admin::request::AuthenticatedRequest;
use crate::admin::response::{AdminResponse, HandlerResult};
use crate::admin::scalar::{Money, Rfc3339};
use crate::domain::ids::PriceId;
use crate::domain::price_override::PriceOverride;
use crate::domain::service_tier::ServiceTier;
use crate::domain::tariff::PriceRow;
use crate::domain::time::UnixMs;
use crate::organization::prices::{self, ListedPrice, NewPrice};
use crate::organization::rights::Action;
use crate::store::price_lists;

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Price)]
struct PriceView {
    /// `null` for a price of the configuration file.
    #[schema(required)]
    id: Option<String>,
    model: String,
    /// `null`: all upstreams of the model.
    #[schema(required)]
    upstream: Option<String>,
    service_tier: String,
    /// By unit: per million for tokens and characters, per unit otherwise.
    prices: BTreeMap<&'static str, Money>,
    tiers: Vec<PriceTierView>,
    /// `null`: no start.
    #[schema(required)]
    effective_from: Option<Rfc3339>,
    /// `null`: until it is replaced or deleted.
    #[schema(required)]
    effective_to: Option<Rfc3339>,
    price_version: String,
    /// `File` or `Api`.
    source: &'static str,
    #[schema(required)]
    created_by: Option<String>,
    #[schema(required)]
    created_at: Option<Rfc3339>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = PriceTier)]
struct PriceTierView {
    /// Applies to requests with more input tokens than this.
    above_input_tokens: u64,
    /// Prices of all tokens of such a request.
    prices: BTreeMap<&'static str, Money>,
}

const SERVICE_TIER: ParsedString<ServiceTier> =
    ParsedString { expected: "at most 16 letters, digits, - and _", parse: ServiceTier::new };

body! { NewPrice as "NewPrice" {
    model: required("model", NAME),
    upstream: optional("upstream", NAME),
    tier: with_default("serviceTier", SERVICE_TIER, ServiceTier::DEFAULT),
    prices: required("prices", PricesByUnit),
    tiers: with_default("tiers", PriceTiers, Vec::new()),
    from: optional("effectiveFrom", Timestamp::Any),
}}

pub fn routes(routes: Routes) -> Routes {
    let path = "/api/platform/prices";
    let list_doc = "Lists the price overrides, newest first, then the configured prices.";
    let list_doc = OperationSpec::platform(Action::ViewPlatform, list_doc)
        .query_params(QUERY)
        .list_response::<PriceView>();
    let create_doc = "Overrides a configured price. Ends an earlier override of the same price.";
    let create_doc = OperationSpec::platform(Action::ChangePlatform, create_doc);
    let create_doc = create_doc.request_body::<NewPrice>().response::<PriceView>();
    let delete_doc = "Ends a price override. The configured price applies again.";
    let delete_doc = OperationSpec::platform(Action::ChangePlatform, delete_doc);
    routes.get(path, list, list_doc).post(path, create, create_doc).delete(
        "/api/platform/prices/{id}",
        delete,
        delete_doc,
    )
}

const QUERY: &[(&str, &str)] = &[
    ("model", "Only prices of this model."),
    ("page", "Page number, from 1."),
    ("size", "Rows per page, 1 to 100. Default: 20."),
];

async fn list(request: AuthenticatedRequest) -> HandlerResult {
    let mut query = request.query();
    let (page, model) = (query.page(), query.get("model", &NAME));
    query.finish()?;
    let services = &request.state.services;
    let listed = prices::list(services, &request.principal, model.as_deref()).await?;
    let total = i64::try_from(listed.len()).unwrap_or(i64::MAX);
    let rows: Vec<PriceView> = page.cut(listed).map(|listed| to_view(&listed)).collect();
    Ok(AdminResponse::page(&rows, total, page))
}

async fn create(request: AuthenticatedRequest) -> HandlerResult {
    let new: NewPrice = request.body()?;
    let mut mutation = request.begin_mutation(None).await?;
    let result = prices::create(&mut mutation.work, &request.principal, new).await;
    request
        .finish_mutation(
            mutation,
            result.map(|price| AdminResponse::object(&to_view(&ListedPrice::Api(price)))),
        )
        .await
}

async fn delete(request: AuthenticatedRequest) -> HandlerResult {
    let id = request.path_id("id", PriceId::parse)?;
    let mut mutation = request.begin_mutation(None).await?;
    let result = prices::delete(&mut mutation.work, &request.principal, id).await;
    request
        .finish_mutation(mutation, result.map(|()| AdminResponse::message("Price deleted")))
        .await
}

fn to_view(listed: &ListedPrice) -> PriceView {
    let (laid, version, posted): (&PriceOverride, &str, _) = match listed {
        ListedPrice::Api(price) => (&price.price_override, &price.version, Some(price)),
        ListedPrice::File(laid, version) => (laid, version, None),
    };
    let tier = |row: &PriceRow| PriceTierView {
        above_input_tokens: row.above_input_tokens,
        prices: prices_by_unit(&row.prices),
    };
    PriceView {
        id: posted.map(|price| price.id.to_string()),
        model: laid.model.to_string(),
        upstream: laid.upstream.as_deref().map(str::to_owned),
        service_tier: price_lists::tier_name(laid.tier),
        prices: laid.rows.first().map(|row| prices_by_unit(&row.prices)).unwrap_or_default(),
        tiers: laid.rows.iter().skip(1).map(tier).collect(),
        effective_from: Some(laid.from).filter(|from| *from != UnixMs(i64::MIN)).map(Rfc3339),
        effective_to: laid.until.map(Rfc3339),
        price_version: version.to_owned(),
        source: if posted.is_some() { "Api" } else { "File" },
        created_by: posted.map(|price| price.created_by.to_string()),
        created_at: posted.map(|price| Rfc3339(price.created_at)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::admin::tests::test_api::{TestApi, TestResponse};

    const PRICES: &str = "/api/platform/prices";

    fn body(more: &Value) -> String {
        let mut body = json!({"model": "shelved", "prices": {"inputTokens": 1, "outputTokens": 2}});
        let fields = more.as_object().expect("an object").clone();
        body.as_object_mut().expect("an object").extend(fields);
        body.to_string()
    }

    fn errors(response: &TestResponse) -> Vec<String> {
        response.expect_error(400);
        let errors = response.json["error"]["errors"].as_array().expect("a list");
        let word = |error: &Value, field: &str| error[field].as_str().unwrap_or("?").to_owned();
        let error = |error| format!("{} {}", word(error, "param"), word(error, "reason"));
        errors.iter().map(error).collect()
    }

    async fn listed(api: &TestApi) -> Vec<Value> {
        api.get(PRICES).await.json["data"].as_array().expect("a list").clone()
    }

    #[tokio::test]
    async fn a_price_is_laid_over_the_file_until_it_is_deleted() {
        let api = TestApi::new().await;
        let [filed] = &listed(&api).await[..] else { panic!("one price of the file") };
        assert_eq!((&filed["source"], &filed["id"]), (&json!("File"), &Value::Null));
        assert_eq!(
            (&filed["upstream"], &filed["priceVersion"]),
            (&json!("near"), &json!("file-1"))
        );
        let text = r#"{"model":"shelved","prices":{"inputTokens":0.100000001,"outputTokens":"3"},
            "tiers":[{"aboveInputTokens":9,"prices":{"inputTokens":5,"outputTokens":6}}]}"#;
        let first = api.post(PRICES, text).await;
        assert!(first.text.contains(r#""inputTokens":0.100000001"#), "{}", first.text);
        assert_eq!(first.text_of("serviceTier"), "default");
        assert!(first.text_of("priceVersion").starts_with("api-"));
        let second = api.post(PRICES, &body(&json!({}))).await;
        let list = listed(&api).await;
        let ids: Vec<_> = list.iter().map(|price| price["id"].clone()).collect();
        assert_eq!(ids, [second.data("id"), first.data("id"), Value::Null]);
        assert_eq!(list[1]["effectiveTo"], second.data("effectiveFrom"), "the new closes the old");
        assert_eq!(list[0]["effectiveTo"], Value::Null);
        let path = |response: &TestResponse| format!("{PRICES}/{}", response.text_of("id"));
        assert_eq!(api.delete(&path(&first)).await.expect_error(404), "not_found", "it has ended");
        assert_eq!(api.delete(&path(&second)).await.status, 200);
        assert_eq!(api.delete(&path(&second)).await.expect_error(404), "not_found");
        assert!(listed(&api).await[0]["effectiveTo"].is_string(), "what it was stays known");
        assert_eq!(api.get(&format!("{PRICES}?model=other")).await.json["total"], 0);
        assert_eq!(
            api.get(&format!("{PRICES}?size=1&page=3")).await.json["data"][0]["id"],
            json!(null)
        );
        let result: Vec<(String, bool)> = sqlx::query_as(
            "SELECT action, before IS NULL FROM audit_log WHERE action LIKE 'price.%' ORDER BY id",
        )
        .fetch_all(api.services.database.reader())
        .await
        .expect("a log");
        let expected = [("price.create", true), ("price.create", true), ("price.delete", false)];
        assert_eq!(result, expected.map(|(action, new)| (action.to_owned(), new)));
    }

    #[tokio::test]
    async fn a_plan_that_is_dropped_leaves_what_it_would_have_ended() {
        let api = TestApi::new().await;
        let now = api.post(PRICES, &body(&json!({}))).await;
        let plan = body(&json!({"effectiveFrom": "2100-01-01"}));
        let plan = api.post(PRICES, &plan).await;
        let sooner = body(&json!({"effectiveFrom": "2099-01-01"}));
        let sooner = api.post(PRICES, &sooner).await;
        assert_eq!(sooner.data("effectiveTo"), plan.data("effectiveFrom"));
        let until = async || {
            let list = listed(&api).await;
            let own = list.iter().find(|price| price["id"] == now.data("id"));
            own.expect("it is listed")["effectiveTo"].clone()
        };
        assert_eq!(until().await, sooner.data("effectiveFrom"));
        for (response, then) in [(&sooner, plan.data("effectiveFrom")), (&plan, Value::Null)] {
            let path = format!("{PRICES}/{}", response.text_of("id"));
            assert_eq!(api.delete(&path).await.status, 200);
            assert_eq!(until().await, then);
            assert_eq!(api.delete(&path).await.expect_error(404), "not_found");
        }
        let flex = api.post(PRICES, &body(&json!({"serviceTier": "flex"}))).await;
        let near = api.post(PRICES, &body(&json!({"upstream": "near"}))).await;
        assert_eq!((flex.status, near.text_of("upstream").as_str()), (200, "near"));
        assert_eq!(until().await, Value::Null, "they are for something else");
    }

    #[tokio::test]
    async fn every_fault_of_a_price_is_named() {
        let api = TestApi::new().await;
        for (more, error) in [
            (json!({"model": "other"}), "/model unknown_model"),
            (json!({"upstream": "far"}), "/upstream not_served"),
            (json!({"upstream": "nowhere"}), "/upstream not_served"),
            (json!({"serviceTier": "a tier"}), "/serviceTier malformed"),
            (json!({"effectiveFrom": "2020-01-01"}), "/effectiveFrom in_the_past"),
            (json!({"prices": 1}), "/prices not_an_object"),
            (json!({"prices": {"inputTokens": 1}}), "/prices/outputTokens required"),
            (
                json!({"tiers": [{"aboveInputTokens": 0, "prices": {"images": 1}}]}),
                "/tiers/0/aboveInputTokens not_in_range",
            ),
            (
                json!({"tiers": [{"aboveInputTokens": 5, "prices": {"inputTokens": 1}}]}),
                "/tiers/0/prices/outputTokens required",
            ),
        ] {
            assert_eq!(errors(&api.post(PRICES, &body(&more)).await), [error], "{more}");
        }
        let many = json!({"prices": {"words": 1, "inputTokens": "-1", "outputTokens": 9_000_000_001_i64,
            "images": 1_001, "cachedInputTokens": 0.000_000_000_1}});
        let response = errors(&api.post(PRICES, &body(&many)).await);
        let expected = [
            "/prices/inputTokens not_an_amount",
            "/prices/outputTokens too_large",
            "/prices/cachedInputTokens not_an_amount",
            "/prices/images too_large",
            "/prices/words unknown_field",
        ];
        assert_eq!(response, expected);
        let twice = json!({"aboveInputTokens": 5, "prices": {"images": 1}});
        let response = errors(&api.post(PRICES, &body(&json!({"tiers": [twice, twice]}))).await);
        assert_eq!(response, ["/tiers/1/aboveInputTokens duplicate"]);
        assert_eq!(api.post(PRICES, &body(&json!({"prices": {"images": 1}}))).await.status, 200);
        assert_eq!(api.delete(&format!("{PRICES}/price_1")).await.expect_error(404), "not_found");
    }

    #[tokio::test]
    async fn only_the_operator_posts_prices_and_a_repeated_one_is_posted_once() {
        let api = TestApi::new().await;
        let token = r#"{"name":"o","kind":"Organization","scopes":["wallet.read"]}"#;
        let admin = api.post("/api/auth/tokens", token).await.text_of("token");
        let admin = api.with_token(&admin);
        assert_eq!(admin.post(PRICES, &body(&json!({}))).await.expect_error(403), "missing_scope");
        assert_eq!(admin.get(PRICES).await.expect_error(403), "missing_scope");
        let keyed = || {
            let mut request = api.request("POST", PRICES, &body(&json!({})));
            request.headers_mut().insert("idempotency-key", "one".parse().expect("a header"));
            request
        };
        let (first, again) = (api.send(keyed()).await, api.send(keyed()).await);
        assert_eq!((first.status, &first.text), (200, &again.text));
        assert_eq!(listed(&api).await.len(), 2);
    }
}
