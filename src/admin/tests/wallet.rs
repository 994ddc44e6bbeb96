//! Balance, recharges, refunds, records and their export.

use crate::admin::tests::test_api::{TestApi, TestResponse};
use crate::domain::ids::{OrganizationId, ProjectId};
use crate::domain::money::Nano;
use crate::store::columns::{new_id, uuid};

const WALLET: &str = "/api/organization/wallet";
const RECHARGE: &str = "/api/organization/wallet/recharge";
const REFUND: &str = "/api/organization/wallet/refund";
const RECORDS: &str = "/api/organization/wallet/records";

/// Inserts the record that the projector would write for a call that cost 10.50, and returns
/// the call's id.
async fn consume(api: &TestApi) -> String {
    let now = crate::clock::wall_now();
    let call = new_id(now);
    let project = ProjectId::parse(&api.project().await).expect("an id");
    let organization = OrganizationId::parse(&api.organization).expect("an id");
    let mut tx = api.services.database.begin().await.expect("a transaction");
    sqlx::query(
        "INSERT INTO wallet_records (organization_id, seq, id, kind, amount_nano,
            previous_balance_nano, current_balance_nano, request_log_id, project_id, model,
            settled_by, overage, late, created_at)
         SELECT organization_id, last_seq + 1, $2, 'Consume', 10500000000, balance_nano,
            balance_nano - 10500000000, $3, $4, 'gpt-4o', 'usage', 0, 0, $5
         FROM wallets WHERE organization_id = $1",
    )
    .bind(uuid(organization.0))
    .bind(uuid(new_id(now)))
    .bind(uuid(call))
    .bind(uuid(project.0))
    .bind(now.0)
    .execute(&mut *tx)
    .await
    .expect("a record");
    sqlx::query(
        "UPDATE wallets SET last_seq = last_seq + 1, balance_nano = balance_nano - 10500000000
         WHERE organization_id = $1",
    )
    .bind(uuid(organization.0))
    .execute(&mut *tx)
    .await
    .expect("a balance");
    tx.commit().await.expect("committed");
    crate::domain::ids::RequestLogId(call).to_string()
}

fn with_key(api: &TestApi, key: &str, body: &str) -> axum::http::Request<axum::body::Body> {
    let mut request = api.request("POST", RECHARGE, body);
    request.headers_mut().insert("idempotency-key", key.parse().expect("a header"));
    request
}

fn balance(response: &TestResponse) -> &str {
    let (_, rest) = response.text.split_once("\"balance\":").expect("a balance");
    rest.split(',').next().expect("a number")
}

#[tokio::test]
async fn a_recharge_is_exact_and_available_at_once() {
    let api = TestApi::new().await;
    let first = api.get(WALLET).await;
    assert_eq!(balance(&first), "100.00", "{}", first.text);
    assert_eq!(first.data("ledgerCheck")["ok"], true);
    let body = r#"{"amount":0.000000001,"reference":"inv-1"}"#;
    let record = api.post(RECHARGE, body).await;
    assert!(record.text.contains("\"currentBalance\":100.000000001"), "{}", record.text);
    assert_eq!(record.text_of("description"), "User recharge");
    assert_eq!(record.data("seq"), 2);
    assert_eq!(record.data("actor")["kind"], "Token");
    assert!(record.json["data"].as_object().expect("one").contains_key("requestLogId"));
    let text = api.get("/api/organization/wallet?money=string").await;
    assert_eq!(text.text_of("balance"), "100.000000001");
    let organization = OrganizationId::parse(&api.organization).expect("an id");
    let state =
        api.services.directory.live_state().organization(organization).expect("an organization");
    let expected = Nano::units(100) + Nano(1);
    assert_eq!(state.lock().wallet.balance(), expected, "credited exactly once");
    for amount in ["0", "-1", "1e3", "0.0000000001", "9000000000.01", "null", "true", "\" 1\""] {
        let response = api.post(RECHARGE, &format!(r#"{{"amount":{amount}}}"#)).await;
        response.expect_error(400);
        assert_eq!(response.json["error"]["param"], "/amount", "{amount}");
    }
    let too_large = api.post(RECHARGE, r#"{"amount":9000000000}"#).await;
    assert_eq!(too_large.expect_error(409), "balance_too_large");
}

#[tokio::test]
async fn a_repeated_request_is_executed_once() {
    let api = TestApi::new().await;
    let first = api.send(with_key(&api, "one", r#"{"amount":5}"#)).await;
    assert!(!first.headers.contains_key("idempotent-replayed"));
    for _ in 0..2 {
        let again = api.send(with_key(&api, "one", r#"{"amount":5}"#)).await;
        assert_eq!((again.status, &again.text), (200, &first.text));
        assert_eq!(again.headers["idempotent-replayed"], "true");
    }
    let other = api.send(with_key(&api, "one", r#"{"amount":6}"#)).await;
    assert_eq!(other.expect_error(422), "idempotency_mismatch");
    let mut concurrent = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (api, body) = (api.with_token(&api.token), r#"{"amount":1}"#);
        concurrent.spawn(async move { api.send(with_key(&api, "two", body)).await.status });
    }
    let result = concurrent.join_all().await;
    assert!(result.iter().all(|status| [200, 409].contains(status)), "{result:?}");
    assert_eq!(balance(&api.get(WALLET).await), "106.00");
    let refused = api.send(with_key(&api, "three", r#"{"amount":9000000000}"#)).await;
    let again = api.send(with_key(&api, "three", r#"{"amount":9000000000}"#)).await;
    assert_eq!((again.status, again.text), (409, refused.text), "error responses are replayed too");
    assert_eq!(again.headers["idempotent-replayed"], "true");
    let empty = api.send(with_key(&api, "", r#"{"amount":1}"#)).await;
    assert_eq!(empty.expect_error(400), "malformed");
}

#[tokio::test]
async fn a_refund_is_at_most_the_consumed_amount() {
    let api = TestApi::new().await;
    let call = consume(&api).await;
    let body = |amount: &str| format!(r#"{{"requestLogId":"{call}","amount":{amount}}}"#);
    let record = api.post(REFUND, &body("5.00")).await;
    assert_eq!(record.text_of("type"), "Refund");
    assert_eq!(record.text_of("requestLogId"), call);
    assert_eq!(record.text_of("description"), "Error call refund");
    assert_eq!(record.text_of("model"), "gpt-4o");
    let more = api.post(REFUND, &body("5.500000001")).await;
    assert_eq!(more.expect_error(409), "refund_exceeds_consume");
    assert_eq!(api.post(REFUND, &body("5.50")).await.status, 200);
    assert_eq!(api.post(REFUND, &body("0.01")).await.expect_error(409), "refund_exceeds_consume");
    let unknown = crate::domain::ids::RequestLogId(7).to_string();
    let unknown = format!(r#"{{"requestLogId":"{unknown}","amount":1}}"#);
    assert_eq!(api.post(REFUND, &unknown).await.expect_error(404), "not_found");
    let list = api.get(&format!("{RECORDS}?type=Consume")).await;
    assert!(list.text.contains("\"refundedAmount\":10.50"), "{}", list.text);
    let wallet = api.get(WALLET).await;
    assert_eq!(balance(&wallet), "100.00");
    assert_eq!(wallet.data("lastSeq"), 4);
    assert_eq!(wallet.data("ledgerCheck")["ok"], true);
}

#[tokio::test]
async fn records_are_listed_filtered_and_exported() {
    let api = TestApi::new().await;
    for amount in 1..=5 {
        let body = format!(r#"{{"amount":{amount},"description":"=A{amount}"}}"#);
        api.post(RECHARGE, &body).await;
    }
    let call = consume(&api).await;
    let first = api.get(&format!("{RECORDS}?size=3")).await;
    assert_eq!(first.json["total"], 7);
    let seqs = |response: &TestResponse| -> Vec<i64> {
        let rows = response.json["data"].as_array().expect("a list");
        rows.iter().map(|row| row["seq"].as_i64().expect("a number")).collect()
    };
    assert_eq!(seqs(&first), [7, 6, 5]);
    api.post(RECHARGE, r#"{"amount":9}"#).await;
    let cursor = first.json["nextCursor"].as_str().expect("more").to_owned();
    let next = api.get(&format!("{RECORDS}?size=4&cursor={cursor}")).await;
    assert_eq!(seqs(&next), [4, 3, 2, 1], "no row repeated or skipped");
    assert!(next.json["nextCursor"].is_null() && next.text.contains("nextCursor"));
    assert_eq!(seqs(&api.get(&format!("{RECORDS}?page=2&size=3")).await), [5, 4, 3]);
    let filtered = api.get(&format!("{RECORDS}?requestLogId={call}")).await;
    assert_eq!((seqs(&filtered), filtered.json["total"].as_i64()), (vec![7], Some(1)));
    let later = api.get(&format!("{RECORDS}?from=2100-01-01")).await;
    assert_eq!(later.json["total"], 0);
    let deep = api.get(&format!("{RECORDS}?page=200&size=100")).await;
    assert_eq!(deep.expect_error(400), "use_cursor");
    assert_eq!(api.get(&format!("{RECORDS}?cursor=x")).await.expect_error(400), "invalid_cursor");
    assert_eq!(api.get(&format!("{RECORDS}?type=Gift")).await.expect_error(400), "unknown_value");
    let csv = api.get(&format!("{RECORDS}/export?type=Recharge")).await;
    let lines: Vec<&str> = csv.text.lines().collect();
    assert_eq!(lines.len(), 1 + 7, "{}", csv.text);
    assert!(lines[0].starts_with("seq,id,type,amount,"));
    assert!(lines[2].starts_with("6,rec_") && lines[2].contains(",'=A5,"), "{}", lines[2]);
}

#[tokio::test]
async fn only_the_operator_enables_a_wallet_that_the_operator_disabled() {
    let api = TestApi::new().await;
    let token = r#"{"name":"o","kind":"Organization","scopes":["wallet.read","wallet.write"]}"#;
    let token = api.post("/api/auth/tokens", token).await.text_of("token");
    let admin = api.with_token(&token);
    let (off, on) = (r#"{"isActive":false}"#, r#"{"isActive":true}"#);
    assert_eq!(admin.put(WALLET, off).await.data("isActive"), false);
    assert_eq!(admin.put(WALLET, on).await.data("isActive"), true);
    assert_eq!(api.put(WALLET, off).await.data("isActive"), false);
    let response = admin.put(WALLET, on).await;
    assert_eq!(response.expect_error(403), "missing_permission");
    assert_eq!(response.json["error"]["param"], "operator");
    let organization = OrganizationId::parse(&api.organization).expect("an id");
    let state =
        api.services.directory.live_state().organization(organization).expect("an organization");
    assert!(!state.lock().wallet.is_active(), "new calls are refused at once");
    assert_eq!(admin.post(RECHARGE, r#"{"amount":1}"#).await.status, 200);
    assert_eq!(api.put(WALLET, on).await.data("isActive"), true);
    api.put("/api/organization", r#"{"selfFunding":false}"#).await;
    let response = admin.post(RECHARGE, r#"{"amount":1}"#).await;
    assert_eq!(response.expect_error(403), "self_funding_disabled");
    assert_eq!(api.post(RECHARGE, r#"{"amount":1}"#).await.status, 200);
}
