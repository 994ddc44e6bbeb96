//! One organization with a project and an API key, used through the admin API; and its ledger
//! checks.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::harness::client::{Request, Response};
use crate::harness::demo::Gateway;
use crate::harness::json::{Json, money};
use crate::harness::process::Process;
use crate::harness::wait::eventually;

/// Makes organization names unique.
static NAME_COUNTER: AtomicU32 = AtomicU32::new(1);

/// Credentials of a caller, and the listeners that it uses.
#[derive(Clone)]
pub struct Tenant {
    pub admin: String,
    pub proxy: String,
    pub token: String,
    pub organization: String,
    pub project: String,
    pub key: String,
}

impl Tenant {
    /// The tenant that the demo creates and prints.
    pub fn of_demo(gateway: &Gateway) -> Self {
        Self {
            admin: gateway.admin.clone(),
            proxy: gateway.proxy.clone(),
            token: gateway.token.clone(),
            organization: gateway.organization.clone(),
            project: gateway.project.clone(),
            key: gateway.key.clone(),
        }
    }

    /// Creates an organization with this balance, one project with this quota and an API key.
    pub async fn new(gateway: &Gateway, funds: i128, quota: &str) -> Self {
        Self::of_demo(gateway).create_tenant(gateway, funds, quota).await
    }

    /// Like [`Self::new`], created with this tenant's token. `process` must not log the key.
    pub async fn create_tenant(&self, process: &Process, funds: i128, quota: &str) -> Self {
        let mut tenant = Self { organization: String::new(), ..self.clone() };
        let name = format!("Fresh {}", NAME_COUNTER.fetch_add(1, Ordering::Relaxed));
        let organization =
            tenant.post("/api/organizations", &format!(r#"{{"name":"{name}"}}"#)).await;
        tenant.organization = organization.at("id").text();
        if funds > 0 {
            tenant.recharge(funds).await;
        }
        let body = format!(r#"{{"name":"{name}","organizationId":"{}"}}"#, tenant.organization);
        tenant.project = tenant.post("/api/projects", &body).await.at("id").text();
        tenant.set_quota(quota).await;
        tenant.key = tenant.create_key(process, r#"{"name":"fresh"}"#).await;
        tenant
    }

    /// Creates another API key of the project; returns its secret.
    pub async fn create_key(&self, process: &Process, body: &str) -> String {
        let path = format!("/api/projects/{}/api-keys", self.project);
        let key = self.post(&path, body).await.at("key").text();
        process.forbid_in_log(&key);
        key
    }

    /// The admin API path of the key with this name.
    pub async fn key_path(&self, name: &str) -> String {
        let path = format!("/api/projects/{}/api-keys", self.project);
        let keys = self.get(&path).await.at("data").list();
        let found = keys.iter().find(|key| key.at("name").text() == name);
        format!("{path}/{}", found.expect("the key is listed").at("id").text())
    }

    /// Rotates the key with this name; returns the second secret, valid together with the first.
    pub async fn rotate_key(&self, name: &str, process: &Process) -> String {
        let path = format!("{}/rotate", self.key_path(name).await);
        let key = self.post(&path, "{}").await.at("key").text();
        process.forbid_in_log(&key);
        key
    }

    pub async fn set_quota(&self, quota: &str) -> Json {
        self.post(&format!("/api/projects/{}/quota", self.project), quota).await
    }

    /// Sets the limits of the organization.
    pub async fn set_organization_quota(&self, quota: &str) -> Json {
        self.post("/api/organization/quota", quota).await
    }

    /// Creates another project of this organization with a key. `process` must not log the key.
    pub async fn create_second_project(&self, process: &Process) -> Self {
        let organization = self.post("/api/projects", r#"{"name":"second"}"#).await;
        let mut second = Self { project: organization.at("id").text(), ..self.clone() };
        second.key = second.create_key(process, r#"{"name":"second"}"#).await;
        second
    }

    /// The status of a limit as `GET /v1/limits` reports it to this key.
    pub async fn limit_status(&self, level: &str, name: &str) -> Json {
        let response = Request::get("/v1/limits").bearer(&self.key).send(&self.proxy).await;
        assert_eq!(response.status, 200);
        let body = response.json().await;
        let level_and_name = |limit: &Json| (limit.at("level").text(), limit.at("name").text());
        let mut limits = body.at("data").list();
        limits.retain(|limit| level_and_name(limit) == (level.to_owned(), name.to_owned()));
        assert_eq!(limits.len(), 1, "{level} {name} is listed one time in {body}");
        limits.remove(0)
    }

    pub async fn recharge(&self, nano: i128) -> Json {
        let body = format!(r#"{{"amount":{}}}"#, money(nano));
        self.post("/api/organization/wallet/recharge", &body).await
    }

    /// Adds the headers that authenticate this tenant to the admin API.
    pub fn authorize(&self, request: Request) -> Request {
        let request = request.bearer(&self.token);
        if self.organization.is_empty() {
            return request;
        }
        request.header("x-organization-id", &self.organization)
    }

    pub async fn send(&self, request: Request) -> Response {
        self.authorize(request).send(&self.admin).await
    }

    /// Expects 200 and returns `data`, or the whole body of a list.
    pub async fn get(&self, path: &str) -> Json {
        let response = self.send(Request::get(path)).await;
        let status = response.status;
        let body = response.json().await;
        assert_eq!(status, 200, "GET {path}: {body}");
        if body.find("total").is_some() { body } else { body.at("data") }
    }

    pub async fn post(&self, path: &str, body: &str) -> Json {
        let response = self.send(Request::post(path, body)).await;
        let status = response.status;
        let response_body = response.json().await;
        assert_eq!(status, 200, "POST {path} {body}: {response_body}");
        assert_eq!(response_body.at("code").count(), 200, "{response_body}");
        assert!(response_body.at("error").is_null(), "{response_body}");
        response_body.at("data")
    }

    pub async fn wallet(&self) -> Json {
        self.get("/api/organization/wallet").await
    }

    pub async fn holds(&self) -> Vec<Json> {
        self.get("/api/organization/wallet/holds?size=100").await.at("data").list()
    }

    pub async fn usage(&self) -> Json {
        self.get(&format!("/api/projects/{}/quota-usage", self.project)).await
    }

    /// All rows of a list, newest first. Starts over if the list grew while its pages were read.
    async fn list_all(&self, path: &str) -> Vec<Json> {
        let what = format!("the pages of {path} hold what they count");
        eventually(&what, async || {
            let (mut rows, mut page) = (Vec::new(), format!("{path}?size=100"));
            loop {
                let list = self.get(&page).await;
                rows.extend(list.at("data").list());
                let next = list.find("nextCursor").filter(|next| !next.is_null());
                let Some(next) = next else {
                    let is_complete = rows.len() as u64 == list.at("total").count();
                    return is_complete.then_some(rows);
                };
                page = format!("{path}?size=100&cursor={}", next.text());
            }
        })
        .await
    }

    pub async fn records(&self) -> Vec<Json> {
        self.list_all("/api/organization/wallet/records").await
    }

    pub async fn logs(&self) -> Vec<Json> {
        self.list_all(&format!("/api/projects/{}/request-logs", self.project)).await
    }

    /// The request log entry of this call. Panics unless there is exactly one.
    pub async fn log(&self, id: &str) -> Json {
        let logs = self.logs().await;
        let entries: Vec<&Json> =
            logs.iter().filter(|log| log.at("requestLogId").text() == id).collect();
        assert_eq!(entries.len(), 1, "a call has one entry in the request log: {entries:?}");
        entries[0].clone()
    }

    /// The debit of this call. Panics unless there is exactly one.
    pub async fn debit(&self, id: &str) -> Json {
        let records = self.records().await;
        let debits: Vec<&Json> = records.iter().filter(|record| is_debit_of(record, id)).collect();
        assert_eq!(debits.len(), 1, "a call has one debit: {debits:?}");
        debits[0].clone()
    }

    /// Asserts that nothing is held and that wallet, usage and records agree, as far as the admin
    /// API shows.
    pub async fn assert_settled(&self) {
        let wallet = self.wallet().await;
        assert_eq!(
            wallet.at("frozenAmount").nano(),
            0,
            "nothing is frozen after settlement: {wallet}"
        );
        assert_eq!(wallet.at("availableAmount").nano(), wallet.at("balance").nano(), "{wallet}");
        assert!(self.holds().await.is_empty(), "no hold is left after settlement");
        let usage = self.usage().await;
        for part in ["dailyUsage", "monthlyUsage"] {
            let part = usage.at(part);
            assert_eq!(part.at("heldRequests").count(), 0, "{part}");
            assert_eq!(part.at("heldTokens").count(), 0, "{part}");
            assert_eq!(part.at("heldSpend").nano(), 0, "{part}");
        }
        self.assert_record_chain(&wallet).await;
    }

    /// Asserts that the wallet records form a chain without gaps that ends at the balance.
    async fn assert_record_chain(&self, wallet: &Json) {
        let mut records = self.records().await;
        records.reverse();
        let (mut balance, mut debited) = (0, HashSet::new());
        for (record, seq) in records.iter().zip(1..) {
            assert_eq!(record.at("seq").count(), seq, "no gap: {record}");
            assert_eq!(record.at("previousBalance").nano(), balance, "the chain: {record}");
            let amount = record.at("amount").nano();
            assert!(amount >= 0, "the direction is in the type: {record}");
            balance += if record.at("type").text() == "Consume" { -amount } else { amount };
            assert_eq!(record.at("currentBalance").nano(), balance, "the chain: {record}");
            if record.at("type").text() == "Consume" {
                let id = record.at("requestLogId").text();
                assert!(debited.insert(id), "a second debit of one call: {record}");
            }
        }
        assert_eq!(wallet.at("balance").nano(), balance, "the balance is that of the last record");
        assert_eq!(wallet.at("lastSeq").count(), records.len() as u64, "{wallet}");
    }
}

pub fn is_debit_of(record: &Json, id: &str) -> bool {
    record.at("type").text() == "Consume" && record.at("requestLogId").text() == id
}
