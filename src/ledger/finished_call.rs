//! A finished call, as written to the database, the call log and the metrics.

use std::collections::BTreeMap;
use std::io::Write;

use serde::Serialize;

use crate::domain::money::Nano;
use crate::domain::settlement::{Bound, SettledBy};
use crate::domain::status::Outcome;
use crate::journal::entry::{CallHeader, CallResult, Hold, Refused};

#[derive(Debug)]
pub struct FinishedCall {
    pub end: CallEnd,
    /// Fields that no query filters by, as one JSON object.
    pub detail: String,
}

/// How a call ended: admitted and then finished, or refused.
#[derive(Debug)]
pub enum CallEnd {
    Admitted(AdmittedCall),
    /// One or more refused calls.
    Refused(Box<Refused<String>>),
}

/// A call that was admitted and has ended.
#[derive(Debug)]
pub struct AdmittedCall {
    pub hold: Box<Hold<String>>,
    pub result: Box<CallResult<String>>,
    /// Whether the call is charged. A voided call has no wallet record.
    pub charged: bool,
    /// Whether the hold was unknown when the call ended.
    pub late: bool,
}

impl AdmittedCall {
    /// Returns the version of the prices that the call is charged by.
    pub fn price_version(&self) -> &str {
        let version = &*self.result.price_version;
        if version.is_empty() { &self.hold.price_version } else { version }
    }
}

impl FinishedCall {
    /// Creates a finished call with its details; `node` is the node that wrote it.
    pub fn new(end: CallEnd, node: &str) -> Self {
        let detail = detail(&end, node);
        Self { end, detail }
    }

    pub const fn header(&self) -> &CallHeader<String> {
        match &self.end {
            CallEnd::Admitted(AdmittedCall { hold, .. }) => &hold.header,
            CallEnd::Refused(refused) => &refused.header,
        }
    }

    pub fn outcome(&self) -> Outcome {
        match &self.end {
            CallEnd::Admitted(AdmittedCall { result, .. }) => result.outcome,
            CallEnd::Refused(_) => Outcome::Refused,
        }
    }

    /// Returns the status sent to the client.
    pub fn status(&self) -> u16 {
        match &self.end {
            CallEnd::Admitted(AdmittedCall { result, .. }) => result.status,
            CallEnd::Refused(refused) => refused.status,
        }
    }

    /// Returns the code of the gateway's own error, if any.
    pub fn refusal(&self) -> Option<&str> {
        let code = match &self.end {
            CallEnd::Admitted(AdmittedCall { result, .. }) => &result.refusal,
            CallEnd::Refused(refused) => &refused.code,
        };
        (!code.is_empty()).then_some(code.as_str())
    }

    /// Returns the upstream that was tried last.
    pub fn upstream(&self) -> Option<&str> {
        match &self.end {
            CallEnd::Admitted(AdmittedCall { result, .. }) if !result.upstream.is_empty() => {
                Some(&result.upstream)
            }
            _ => None,
        }
    }

    pub fn cost(&self) -> Nano {
        match &self.end {
            CallEnd::Admitted(AdmittedCall { result, .. }) => result.charge.cost,
            CallEnd::Refused(_) => Nano::ZERO,
        }
    }

    /// Appends one line of the call log: the fixed fields followed by those of `detail`, in one
    /// JSON object.
    pub fn write_line(&self, line: &mut Vec<u8>) {
        let header = self.header();
        let bound = match &self.end {
            CallEnd::Admitted(AdmittedCall { hold, .. }) => hold.bound,
            CallEnd::Refused(_) => Bound::default(),
        };
        // Ids, times and constants need no escaping.
        let escaped = |text: Option<&str>| serde_json::to_string(&text).unwrap_or_default();
        let model = escaped(Some(&header.model));
        let written = write!(
            line,
            "{{\"log\":\"call\",\"time\":\"{}\",\"requestLogId\":\"{}\",\"organizationId\":\"{}\",\
             \"projectId\":\"{}\",\"apiKeyId\":\"{}\",\"model\":{model},\"stream\":{},\"status\":{},\
             \"outcome\":\"{}\",\"refusal\":{},\"upstream\":{},\"cost\":\"{}\",\"boundTokens\":{},",
            header.at,
            header.id,
            header.organization,
            header.project,
            header.key,
            header.stream,
            self.status(),
            self.outcome().name(),
            escaped(self.refusal()),
            escaped(self.upstream()),
            self.cost(),
            bound.tokens(),
        );
        if written.is_ok() {
            line.extend_from_slice(&self.detail.as_bytes()[1..]);
        }
    }
}

fn detail(end: &CallEnd, node: &str) -> String {
    let header = match end {
        CallEnd::Admitted(AdmittedCall { hold, .. }) => &hold.header,
        CallEnd::Refused(refused) => &refused.header,
    };
    let mut detail = LogDetail {
        endpoint: &header.endpoint,
        dialect: &header.dialect,
        client_address: header.address.to_string(),
        node,
        ..LogDetail::default()
    };
    match end {
        CallEnd::Admitted(call) => detail.fill(call),
        CallEnd::Refused(refused) => {
            detail.count = Some(refused.count);
            detail.settled_by = Some(SettledBy::NotCharged.name());
        }
    }
    let mut json = Vec::with_capacity(512);
    match serde_json::to_writer(&mut json, &detail) {
        Ok(()) => String::from_utf8(json).unwrap_or_else(|_| "{}".to_owned()),
        Err(_) => "{}".to_owned(),
    }
}

/// Fields at their default (null, false, or a count of 1) are left out.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct LogDetail<'a> {
    endpoint: &'a str,
    dialect: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_model: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    usage: BTreeMap<&'static str, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    price_version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tier: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    settled_by: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    late: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    overage: Option<bool>,
    attempts: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_clamped: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_to_first_byte_ms: Option<u32>,
    client_address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hold_amount_nano: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u32>,
    node: &'a str,
}

impl<'a> LogDetail<'a> {
    fn fill(&mut self, call: &'a AdmittedCall) {
        let AdmittedCall { hold, result, late, .. } = call;
        self.upstream_model = Some(&*result.upstream_model).filter(|name| !name.is_empty());
        self.usage =
            result.charge.usage.counts().map(|(unit, count)| (unit.name(), count)).collect();
        self.price_version = Some(call.price_version());
        self.service_tier = Some(&*result.service_tier).filter(|tier| !tier.is_empty());
        self.settled_by = Some(result.charge.settled_by.name());
        self.late = late.then_some(true);
        self.overage = result.charge.overage.then_some(true);
        self.attempts = result.attempts;
        self.output_clamped = result.output_clamped.then_some(true);
        self.duration_ms = Some(result.duration_us / 1_000);
        self.time_to_first_byte_ms = result.first_byte_us.map(|us| us / 1_000);
        self.hold_amount_nano = Some(hold.amount.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::counter::Windows;
    use crate::domain::ids::{ApiKeyId, OrganizationId, ProjectId, RequestLogId};
    use crate::domain::settlement::Charge;
    use crate::domain::time::{Day, Minute, UnixMs};
    use crate::domain::usage::Usage;

    fn header() -> CallHeader<String> {
        CallHeader {
            id: RequestLogId(1),
            at: UnixMs(2),
            organization: OrganizationId(3),
            project: ProjectId(4),
            key: ApiKeyId(5),
            endpoint: "chat.completions".to_owned(),
            dialect: "openai".to_owned(),
            model: "a\"\n\u{7}b".to_owned(),
            stream: true,
            address: "::1".parse().expect("an address"),
        }
    }

    fn line_of(end: CallEnd) -> serde_json::Value {
        let mut line = Vec::new();
        FinishedCall::new(end, "node_1").write_line(&mut line);
        assert!(!line.contains(&b'\n'));
        serde_json::from_slice(&line).expect("JSON")
    }

    /// A call that held 9 for 10 tokens and cost 7.
    fn admitted(upstream: &str, model: &str) -> CallEnd {
        let windows = Windows { minute: Minute(0), day: Day(0) };
        let (bound, price_version) = (Bound { input_tokens: 4, output_tokens: 6 }, "p".to_owned());
        let (header, amount, idempotency_key) = (header(), Nano(9), None);
        let hold = Hold { header, windows, bound, amount, price_version, idempotency_key };
        let (usage, settled_by) = (Usage::from_tokens(4, 1), SettledBy::Usage);
        let result = CallResult {
            charge: Charge { usage, cost: Nano(7), settled_by, overage: true },
            counted: true,
            status: 200,
            upstream: upstream.to_owned(),
            upstream_model: model.to_owned(),
            attempts: 2,
            first_byte_us: Some(2_999),
            duration_us: 12_345,
            ..CallResult::minimal(RequestLogId(1), hold.owner(), Outcome::Cancelled)
        };
        let (hold, result) = (Box::new(hold), Box::new(result));
        CallEnd::Admitted(AdmittedCall { hold, result, charged: true, late: false })
    }

    #[test]
    fn a_call_log_line_has_caller_outcome_and_cost() {
        let mut end = admitted("demo", "m-1");
        if let CallEnd::Admitted(AdmittedCall { result, .. }) = &mut end {
            (result.price_version, result.service_tier) = ("q".to_owned(), "flex".to_owned());
        }
        let json = line_of(end);
        for (field, value) in [
            ("requestLogId", "00000000-0000-0000-0000-000000000001"),
            ("endpoint", "chat.completions"),
            ("dialect", "openai"),
            ("clientAddress", "::1"),
            ("node", "node_1"),
            ("outcome", "Cancelled"),
            ("upstream", "demo"),
            ("upstreamModel", "m-1"),
            ("cost", "0.000000007"),
            ("settledBy", "usage"),
            ("priceVersion", "q"),
            ("serviceTier", "flex"),
        ] {
            assert_eq!(json[field], value, "{field}");
        }
        for (field, value) in [
            ("status", 200),
            ("boundTokens", 10),
            ("holdAmountNano", 9),
            ("attempts", 2),
            ("durationMs", 12),
            ("timeToFirstByteMs", 2),
        ] {
            assert_eq!(json[field], value, "{field}");
        }
        assert_eq!(json["usage"], serde_json::json!({ "inputTokens": 4, "outputTokens": 1 }));
        assert_eq!((&json["overage"], &json["refusal"]), (&true.into(), &().into()));
    }

    #[test]
    fn a_call_that_reached_no_upstream_names_none() {
        let json = line_of(admitted("", ""));
        assert!(json["upstream"].is_null() && json.get("upstreamModel").is_none());
        assert_eq!(json["priceVersion"], "p", "that of its hold");
        assert!(json.get("serviceTier").is_none());
    }

    #[test]
    fn a_line_is_json_whatever_a_caller_names_the_model() {
        let refused = Refused { header: header(), status: 429, code: "x".to_owned(), count: 3 };
        let json = line_of(CallEnd::Refused(Box::new(refused)));
        assert_eq!(json["model"], "a\"\n\u{7}b");
        assert_eq!((&json["count"], &json["refusal"]), (&3.into(), &"x".into()));
        assert!(json["upstream"].is_null());
        assert_eq!((&json["status"], &json["outcome"]), (&429.into(), &"Refused".into()));
        assert_eq!((&json["cost"], &json["settledBy"]), (&"0.00".into(), &"none".into()));
    }
}
