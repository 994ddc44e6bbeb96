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
    let list_spec = "Lists the price overrides, newest first, then the configured prices.";
    let list_spec = OperationSpec::platform(Action::ViewPlatform, list_spec)
        .query_params(QUERY)
        .list_response::<PriceView>();
    let create_spec = "Overrides a configured price. Ends an earlier override of the same price.";
    let create_spec = OperationSpec::platform(Action::ChangePlatform, create_spec);
    let create_spec = create_spec.request_body::<NewPrice>().response::<PriceView>();
    let delete_spec = "Ends a price override. The configured price applies again.";
    let delete_spec = OperationSpec::platform(Action::ChangePlatform, delete_spec);
    routes.get(path, list, list_spec).post(path, create, create_spec).delete(
        "/api/platform/prices/{id}",
        delete,
        delete_spec,
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
    let (price, version): (&PriceOverride, &str) = match listed {
        ListedPrice::Api(stored) => (&stored.price_override, &stored.version),
        ListedPrice::File(price, version) => (price, version),
    };
    let stored = match listed {
        ListedPrice::Api(stored) => Some(stored),
        ListedPrice::File(..) => None,
    };
    let tier = |row: &PriceRow| PriceTierView {
        above_input_tokens: row.above_input_tokens,
        prices: prices_by_unit(&row.prices),
    };
    PriceView {
        id: stored.map(|stored| stored.id.to_string()),
        model: price.model.to_string(),
        upstream: price.upstream.as_deref().map(str::to_owned),
        service_tier: price_lists::tier_name(price.tier),
        prices: price.rows.first().map(|row| prices_by_unit(&row.prices)).unwrap_or_default(),
        tiers: price.rows.iter().skip(1).map(tier).collect(),
        effective_from: Some(price.from).filter(|from| *from != UnixMs(i64::MIN)).map(Rfc3339),
        effective_to: price.until.map(Rfc3339),
        price_version: version.to_owned(),
        source: if stored.is_some() { "Api" } else { "File" },
        created_by: stored.map(|stored| stored.created_by.to_string()),
        created_at: stored.map(|stored| Rfc3339(stored.created_at)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::admin::tests::test_api::{TestApi, TestResponse};

    const PRICES: &str = "/api/platform/prices";

    fn body(more: &Value) -> String {
        let mut body =
            json!({"model": "test-model", "prices": {"inputTokens": 1, "outputTokens": 2}});
        let fields = more.as_object().expect("an object").clone();
        body.as_object_mut().expect("an object").extend(fields);
        body.to_string()
    }

    fn errors(response: &TestResponse) -> Vec<String> {
        response.expect_error(400);
        let errors = response.json["error"]["errors"].as_array().expect("a list");
        let text = |error: &Value, field: &str| error[field].as_str().unwrap_or("?").to_owned();
        let error = |error| format!("{} {}", text(error, "param"), text(error, "reason"));
        errors.iter().map(error).collect()
    }

    async fn listed(api: &TestApi) -> Vec<Value> {
        api.get(PRICES).await.json["data"].as_array().expect("a list").clone()
    }

    #[tokio::test]
    async fn an_override_replaces_a_configured_price_until_it_is_deleted() {
        let api = TestApi::new().await;
        let [configured] = &listed(&api).await[..] else { panic!("expected one configured price") };
        assert_eq!((&configured["source"], &configured["id"]), (&json!("File"), &Value::Null));
        assert_eq!(
            (&configured["upstream"], &configured["priceVersion"]),
            (&json!("upstream-a"), &json!("file-1"))
        );
        let text = r#"{"model":"test-model","prices":{"inputTokens":0.100000001,"outputTokens":"3"},
            "tiers":[{"aboveInputTokens":9,"prices":{"inputTokens":5,"outputTokens":6}}]}"#;
        let first = api.post(PRICES, text).await;
        assert!(first.text.contains(r#""inputTokens":0.100000001"#), "{}", first.text);
        assert_eq!(first.text_of("serviceTier"), "default");
        assert!(first.text_of("priceVersion").starts_with("api-"));
        let second = api.post(PRICES, &body(&json!({}))).await;
        let list = listed(&api).await;
        let ids: Vec<_> = list.iter().map(|price| price["id"].clone()).collect();
        assert_eq!(ids, [second.data("id"), first.data("id"), Value::Null]);
        assert_eq!(
            list[1]["effectiveTo"],
            second.data("effectiveFrom"),
            "a new override ends the old one"
        );
        assert_eq!(list[0]["effectiveTo"], Value::Null);
        let path = |response: &TestResponse| format!("{PRICES}/{}", response.text_of("id"));
        assert_eq!(api.delete(&path(&first)).await.expect_error(404), "not_found", "already ended");
        assert_eq!(api.delete(&path(&second)).await.status, 200);
        assert_eq!(api.delete(&path(&second)).await.expect_error(404), "not_found");
        assert!(listed(&api).await[0]["effectiveTo"].is_string(), "ended overrides stay listed");
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
    async fn deleting_a_future_override_extends_the_current_one() {
        let api = TestApi::new().await;
        let now = api.post(PRICES, &body(&json!({}))).await;
        let plan = body(&json!({"effectiveFrom": "2100-01-01"}));
        let plan = api.post(PRICES, &plan).await;
        let sooner = body(&json!({"effectiveFrom": "2099-01-01"}));
        let sooner = api.post(PRICES, &sooner).await;
        assert_eq!(sooner.data("effectiveTo"), plan.data("effectiveFrom"));
        let until = async || {
            let list = listed(&api).await;
            let current = list.iter().find(|price| price["id"] == now.data("id"));
            current.expect("listed")["effectiveTo"].clone()
        };
        assert_eq!(until().await, sooner.data("effectiveFrom"));
        for (response, effective_to) in
            [(&sooner, plan.data("effectiveFrom")), (&plan, Value::Null)]
        {
            let path = format!("{PRICES}/{}", response.text_of("id"));
            assert_eq!(api.delete(&path).await.status, 200);
            assert_eq!(until().await, effective_to);
            assert_eq!(api.delete(&path).await.expect_error(404), "not_found");
        }
        let flex = api.post(PRICES, &body(&json!({"serviceTier": "flex"}))).await;
        let for_upstream = api.post(PRICES, &body(&json!({"upstream": "upstream-a"}))).await;
        assert_eq!((flex.status, for_upstream.text_of("upstream").as_str()), (200, "upstream-a"));
        assert_eq!(until().await, Value::Null, "other tiers and upstreams do not matter");
    }

    #[tokio::test]
    async fn all_errors_of_a_price_are_reported() {
        let api = TestApi::new().await;
        for (more, error) in [
            (json!({"model": "other"}), "/model unknown_model"),
            (json!({"upstream": "upstream-b"}), "/upstream not_served"),
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
        let invalid = json!({"prices": {"words": 1, "inputTokens": "-1", "outputTokens": 9_000_000_001_i64,
            "images": 1_001, "cachedInputTokens": 0.000_000_000_1}});
        let response = errors(&api.post(PRICES, &body(&invalid)).await);
        let expected = [
            "/prices/inputTokens not_an_amount",
            "/prices/outputTokens too_large",
            "/prices/cachedInputTokens not_an_amount",
            "/prices/images too_large",
            "/prices/words unknown_field",
        ];
        assert_eq!(response, expected);
        let tier = json!({"aboveInputTokens": 5, "prices": {"images": 1}});
        let response = errors(&api.post(PRICES, &body(&json!({"tiers": [tier, tier]}))).await);
        assert_eq!(response, ["/tiers/1/aboveInputTokens duplicate"]);
        assert_eq!(api.post(PRICES, &body(&json!({"prices": {"images": 1}}))).await.status, 200);
        assert_eq!(api.delete(&format!("{PRICES}/price_1")).await.expect_error(404), "not_found");
    }

    #[tokio::test]
    async fn only_the_operator_creates_overrides_and_a_repeated_request_creates_one() {
        let api = TestApi::new().await;
        let token = r#"{"name":"o","kind":"Organization","scopes":["wallet.read"]}"#;
        let admin = api.post("/api/auth/tokens", token).await.text_of("token");
        let admin = api.with_token(&admin);
        assert_eq!(admin.post(PRICES, &body(&json!({}))).await.expect_error(403), "missing_scope");
        assert_eq!(admin.get(PRICES).await.expect_error(403), "missing_scope");
        let with_key = || {
            let mut request = api.request("POST", PRICES, &body(&json!({})));
            request.headers_mut().insert("idempotency-key", "one".parse().expect("a header"));
            request
        };
        let (first, again) = (api.send(with_key()).await, api.send(with_key()).await);
        assert_eq!((first.status, &first.text), (200, &again.text));
        assert_eq!(listed(&api).await.len(), 2);
    }
}
