//! One organization, project and key, run through the admin API; and its books, checked.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::harness::client::{Request, Response};
use crate::harness::demo::Gateway;
use crate::harness::json::{Json, money};
use crate::harness::process::Process;
use crate::harness::wait::eventually;

/// Each organization has a name of its own.
static NAME_COUNTER: AtomicU32 = AtomicU32::new(1);

/// Who acts, through which listener.
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
    /// What the demo prints.
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

    /// A new organization with this much money, one project with this quota, and a key to it.
    pub async fn new(gateway: &Gateway, funds: i128, quota: &str) -> Self {
        Self::of_demo(gateway).create_tenant(gateway, funds, quota).await
    }

    /// The same, made by whoever acts here; `process` hides the key.
    pub async fn create_tenant(&self, process: &Process, funds: i128, quota: &str) -> Self {
        let mut own = Self { organization: String::new(), ..self.clone() };
        let name = format!("Fresh {}", NAME_COUNTER.fetch_add(1, Ordering::Relaxed));
        let made = own.post("/api/organizations", &format!(r#"{{"name":"{name}"}}"#)).await;
        own.organization = made.at("id").text();
        if funds > 0 {
            own.recharge(funds).await;
        }
        let body = format!(r#"{{"name":"{name}","organizationId":"{}"}}"#, own.organization);
        own.project = own.post("/api/projects", &body).await.at("id").text();
        own.set_quota(quota).await;
        own.key = own.create_key(process, r#"{"name":"fresh"}"#).await;
        own
    }

    /// The secret of a further key to this project.
    pub async fn create_key(&self, process: &Process, body: &str) -> String {
        let path = format!("/api/projects/{}/api-keys", self.project);
        let key = self.post(&path, body).await.at("key").text();
        process.hides(&key);
        key
    }

    /// The path of the key of that name.
    pub async fn key_path(&self, name: &str) -> String {
        let path = format!("/api/projects/{}/api-keys", self.project);
        let keys = self.get(&path).await.at("data").list();
        let own = keys.iter().find(|key| key.at("name").text() == name);
        format!("{path}/{}", own.expect("the key is listed").at("id").text())
    }

    /// A second secret of the key of that name, beside the first.
    pub async fn rotate_key(&self, name: &str, process: &Process) -> String {
        let path = format!("{}/rotate", self.key_path(name).await);
        let key = self.post(&path, "{}").await.at("key").text();
        process.hides(&key);
        key
    }

    pub async fn set_quota(&self, quota: &str) -> Json {
        self.post(&format!("/api/projects/{}/quota", self.project), quota).await
    }

    /// The limits over all projects of the organization.
    pub async fn set_organization_quota(&self, quota: &str) -> Json {
        self.post("/api/organization/quota", quota).await
    }

    /// A further project of this organization, with a key to it; `process` hides the key.
    pub async fn create_second_project(&self, process: &Process) -> Self {
        let made = self.post("/api/projects", r#"{"name":"second"}"#).await;
        let mut second = Self { project: made.at("id").text(), ..self.clone() };
        second.key = second.create_key(process, r#"{"name":"second"}"#).await;
        second
    }

    /// A limit as this key is told it.
    pub async fn limit_status(&self, level: &str, name: &str) -> Json {
        let answer = Request::get("/v1/limits").bearer(&self.key).send(&self.proxy).await;
        assert_eq!(answer.status, 200);
        let told = answer.json().await;
        let is_it = |told: &Json| (told.at("level").text(), told.at("name").text());
        let mut own = told.at("data").list();
        own.retain(|told| is_it(told) == (level.to_owned(), name.to_owned()));
        assert_eq!(own.len(), 1, "{level} {name} stands once in {told}");
        own.remove(0)
    }

    pub async fn recharge(&self, nano: i128) -> Json {
        let body = format!(r#"{{"amount":{}}}"#, money(nano));
        self.post("/api/organization/wallet/recharge", &body).await
    }

    /// As this tenant, to the admin listener.
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

    /// What a successful answer holds: its `data`, or all of a list.
    pub async fn get(&self, path: &str) -> Json {
        let answer = self.send(Request::get(path)).await;
        let status = answer.status;
        let body = answer.json().await;
        assert_eq!(status, 200, "GET {path}: {body}");
        if body.find("total").is_some() { body } else { body.at("data") }
    }

    pub async fn post(&self, path: &str, body: &str) -> Json {
        let answer = self.send(Request::post(path, body)).await;
        let status = answer.status;
        let told = answer.json().await;
        assert_eq!(status, 200, "POST {path} {body}: {told}");
        assert_eq!(told.at("code").count(), 200, "{told}");
        assert!(told.at("error").is_null(), "{told}");
        told.at("data")
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

    /// All rows of a list, newest first; read again where it has grown meanwhile.
    async fn list_all(&self, path: &str) -> Vec<Json> {
        let what = format!("the pages of {path} hold what they count");
        eventually(&what, async || {
            let (mut rows, mut page) = (Vec::new(), format!("{path}?size=100"));
            loop {
                let list = self.get(&page).await;
                rows.extend(list.at("data").list());
                let next = list.find("nextCursor").filter(|next| !next.is_null());
                let Some(next) = next else {
                    let whole = rows.len() as u64 == list.at("total").count();
                    return whole.then_some(rows);
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

    /// The one entry of the request log for this call.
    pub async fn log(&self, id: &str) -> Json {
        let logs = self.logs().await;
        let own: Vec<&Json> =
            logs.iter().filter(|log| log.at("requestLogId").text() == id).collect();
        assert_eq!(own.len(), 1, "a call has one entry in the request log: {own:?}");
        own[0].clone()
    }

    /// The one debit of this call.
    pub async fn debit(&self, id: &str) -> Json {
        let records = self.records().await;
        let own: Vec<&Json> = records.iter().filter(|record| is_debit_of(record, id)).collect();
        assert_eq!(own.len(), 1, "a call has one debit: {own:?}");
        own[0].clone()
    }

    /// Nothing is held, and the books are whole: every promise that a look from outside can prove.
    pub async fn assert_settled(&self) {
        let wallet = self.wallet().await;
        assert_eq!(wallet.at("frozenAmount").nano(), 0, "nothing is frozen at rest: {wallet}");
        assert_eq!(wallet.at("availableAmount").nano(), wallet.at("balance").nano(), "{wallet}");
        assert!(self.holds().await.is_empty(), "no hold is left at rest");
        let usage = self.usage().await;
        for part in ["dailyUsage", "monthlyUsage"] {
            let part = usage.at(part);
            assert_eq!(part.at("heldRequests").count(), 0, "{part}");
            assert_eq!(part.at("heldTokens").count(), 0, "{part}");
            assert_eq!(part.at("heldSpend").nano(), 0, "{part}");
        }
        self.assert_record_chain(&wallet).await;
    }

    /// The records chain without a gap, and end at the balance.
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
