//! Logs refused calls: one entry per call up to a limit per key, code and second, then one entry with
//! a count.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;

use crate::accounting::key_directory::Caller;
use crate::dialect::endpoint::Endpoint;
use crate::domain::ids::ApiKeyId;
use crate::journal::entry::{CallHeader, Entry, Refused};
use crate::journal::writer::{Position, Writer};
use crate::proxy::request_context::RequestContext;

/// Individual log entries per key, code and second that a worker writes.
const SINGLE_MAX: u32 = 10;

/// The refusals of the current second, by key and code.
#[derive(Debug)]
pub struct RefusalLog {
    writer: Rc<Writer>,
    buckets: RefCell<HashMap<(ApiKeyId, &'static str), SecondBucket>>,
}

/// Refusals of one key with one code.
#[derive(Debug)]
struct SecondBucket {
    second: i64,
    logged: u32,
    /// One entry for all refusals beyond `SINGLE_MAX`.
    pending: Option<Refused<String>>,
}

#[derive(Debug)]
pub struct RefusedCall<'a> {
    pub context: &'a RequestContext,
    pub caller: &'a Caller,
    pub endpoint: Endpoint,
    /// Empty if the body was not read.
    pub model: &'a str,
    /// Whether the client requested a stream.
    pub stream: bool,
}

impl RefusalLog {
    pub fn new(writer: Rc<Writer>) -> Self {
        Self { writer, buckets: RefCell::default() }
    }

    /// Logs a refused call. Returns the position of its entry if it has one of its own.
    pub fn log(&self, call: &RefusedCall<'_>, status: u16, code: &'static str) -> Option<Position> {
        let second = call.context.received_at.0.div_euclid(1_000);
        let mut buckets = self.buckets.borrow_mut();
        let bucket = buckets.entry((call.caller.key, code)).or_insert(SecondBucket {
            second,
            logged: 0,
            pending: None,
        });
        if bucket.second != second {
            self.write(bucket.pending.take());
            (bucket.second, bucket.logged) = (second, 0);
        }
        if bucket.logged < SINGLE_MAX && self.writer.has_space() {
            bucket.logged += 1;
            return Some(self.writer.append(&Entry::Refused(entry(call, status, code))));
        }
        match &mut bucket.pending {
            Some(pending) => pending.count = pending.count.saturating_add(1),
            None => bucket.pending = Some(owned(&entry(call, status, code))),
        }
        None
    }

    /// Writes pending entries and drops all buckets. The worker calls this every second.
    pub fn flush(&self) {
        for (_, bucket) in self.buckets.borrow_mut().drain() {
            self.write(bucket.pending);
        }
    }

    fn write(&self, pending: Option<Refused<String>>) {
        // Remaining journal space is reserved for open calls.
        if let Some(refused) = pending
            && self.writer.has_space()
        {
            self.writer.append(&Entry::Refused(refused));
        }
    }
}

fn entry<'a>(call: &RefusedCall<'a>, status: u16, code: &'static str) -> Refused<&'a str> {
    let address: IpAddr = call.context.address;
    Refused {
        header: CallHeader {
            id: call.context.id,
            at: call.context.received_at,
            organization: call.caller.organization.id,
            project: call.caller.project.id,
            key: call.caller.key,
            endpoint: call.endpoint.name(),
            dialect: call.endpoint.dialect().name(),
            model: call.model,
            stream: call.stream,
            address,
        },
        status,
        code,
        count: 1,
    }
}

fn owned(refused: &Refused<&str>) -> Refused<String> {
    let header = &refused.header;
    Refused {
        header: CallHeader {
            id: header.id,
            at: header.at,
            organization: header.organization,
            project: header.project,
            key: header.key,
            endpoint: header.endpoint.to_owned(),
            dialect: header.dialect.to_owned(),
            model: header.model.to_owned(),
            stream: header.stream,
            address: header.address,
        },
        status: refused.status,
        code: refused.code.to_owned(),
        count: refused.count,
    }
}
