//! The gateway with everything on: API keys, five limits, wallet, journal and metering. Prepared
//! and queried through its admin API.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

/// How far the projector may lag behind after a window before the window is void.
const CATCH_UP_MAX: Duration = Duration::from_secs(20);

/// The line that `meteor demo --json` prints.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Demo {
    pub proxy_url: String,
    pub admin_url: String,
    pub api_key: String,
    pub admin_token: String,
    pub project_id: String,
}

pub struct Governed {
    demo: Demo,
    /// Last wallet record that was seen in the ledger.
    seen_seq: u64,
}

impl Governed {
    /// Raises all limits of a new demo without removing one.
    pub fn prepare(demo: Demo) -> Result<Self> {
        let huge = 1_000_000_000;
        let quota = json!({
            "dailyRequestLimit": huge,
            "monthlyRequestLimit": huge,
            "dailyTokenLimit": huge * 1000_u64,
            "monthlyTokenLimit": huge * 1000_u64,
            "requestsPerMinuteLimit": huge,
        });
        let mut governed = Self { demo, seen_seq: 0 };
        let path = format!("/api/projects/{}/quota", governed.demo.project_id);
        governed.request("POST", &path, Some(quota))?;
        let amount = json!({"amount": 1_000_000});
        governed.request("POST", "/api/organization/wallet/recharge", Some(amount))?;
        governed.seen_seq = governed.last_seq()?;
        Ok(governed)
    }

    pub fn address(&self) -> Result<SocketAddr> {
        address_of(&self.demo.proxy_url)
    }

    pub fn api_key(&self) -> &str {
        &self.demo.api_key
    }

    /// Waits until every call is in the ledger, because the projector's work belongs to the window
    /// that caused it. A missing or extra record voids the window.
    pub fn catch_up(&mut self, calls: u64) -> Result<Duration> {
        let start = Instant::now();
        let target = self.seen_seq + calls;
        loop {
            self.seen_seq = self.last_seq()?;
            ensure!(self.seen_seq <= target, "{} unexpected records", self.seen_seq - target);
            if self.seen_seq == target {
                return Ok(start.elapsed());
            }
            let missing = target - self.seen_seq;
            ensure!(start.elapsed() < CATCH_UP_MAX, "{missing} calls are missing in the ledger");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn last_seq(&self) -> Result<u64> {
        let records = self.request("GET", "/api/organization/wallet/records?size=1", None)?;
        match &records["data"] {
            Value::Array(rows) if rows.is_empty() => Ok(0),
            rows => rows[0]["seq"].as_u64().context("record without seq"),
        }
    }

    fn request(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value> {
        let body = body.map_or(String::new(), |body| body.to_string());
        let mut stream = TcpStream::connect(address_of(&self.demo.admin_url)?)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.demo.admin_token,
            body.len()
        )?;
        // An HTTP/1.0 response ends with the connection and is never chunked.
        let mut response = String::new();
        stream.read_to_string(&mut response).with_context(|| format!("{method} {path}"))?;
        let (head, body) = response
            .split_once("\r\n\r\n")
            .ok_or_else(|| anyhow!("{method} {path}: no response"))?;
        if head.split(' ').nth(1) != Some("200") {
            bail!("{method} {path}: {} {body}", head.lines().next().unwrap_or_default());
        }
        Ok(serde_json::from_str(body)?)
    }
}

fn address_of(url: &str) -> Result<SocketAddr> {
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    address.replace("localhost", "127.0.0.1").parse().with_context(|| format!("address {url}"))
}
