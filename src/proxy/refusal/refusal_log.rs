//! Refused calls in the log: singly up to a number a key and second, then as one entry with a
//! count.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;

use crate::accounting::directory::Caller;
use crate::dialect::endpoint::Endpoint;
use crate::domain::ids::ApiKeyId;
use crate::journal::entry::{CallHeader, Entry, Refused};
use crate::journal::writer::{Position, Writer};
use crate::proxy::request_context::RequestContext;

/// How many refusals of one key and code a worker logs singly in a second.
const SINGLE_MAX: u32 = 10;

/// What was refused this second.
#[derive(Debug)]
pub struct RefusalLog {
    writer: Rc<Writer>,
    buckets: RefCell<HashMap<(ApiKeyId, &'static str), SecondBucket>>,
}

/// One key's refusals for one reason.
#[derive(Debug)]
struct SecondBucket {
    second: i64,
    logged: u32,
    /// Those that are not logged singly, as one.
    pending: Option<Refused<String>>,
}

/// A call that was refused.
#[derive(Debug)]
pub struct RefusedCall<'a> {
    /// Its id and time.
    pub context: &'a RequestContext,
    /// Who called.
    pub caller: &'a Caller,
    /// What for.
    pub endpoint: Endpoint,
    /// The model, if it was read.
    pub model: &'a str,
    /// Whether a stream was asked for.
    pub stream: bool,
    /// The status answered.
    pub status: u16,
    /// The code answered.
    pub code: &'static str,
}

impl RefusalLog {
    /// Refusals go to that chain.
    pub fn new(writer: Rc<Writer>) -> Self {
        Self { writer, buckets: RefCell::default() }
    }

    /// Notes a refused call; where its own entry stands, if it has one.
    pub fn log(&self, call: &RefusedCall<'_>) -> Option<Position> {
        let second = call.context.received_at.0.div_euclid(1_000);
        let mut buckets = self.buckets.borrow_mut();
        let bucket = buckets.entry((call.caller.key, call.code)).or_insert(SecondBucket {
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
            return Some(self.writer.append(&Entry::Refused(entry(call))));
        }
        match &mut bucket.pending {
            Some(pending) => pending.count = pending.count.saturating_add(1),
            None => bucket.pending = Some(owned(&entry(call))),
        }
        None
    }

    /// Writes what is pending and forgets keys that are quiet; the worker does so every second.
    pub fn flush(&self) {
        for (_, bucket) in self.buckets.borrow_mut().drain() {
            self.write(bucket.pending);
        }
    }

    fn write(&self, pending: Option<Refused<String>>) {
        // What room there is belongs to the calls that are open.
        if let Some(refused) = pending
            && self.writer.has_space()
        {
            self.writer.append(&Entry::Refused(refused));
        }
    }
}

fn entry<'a>(call: &RefusedCall<'a>) -> Refused<&'a str> {
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
        status: call.status,
        code: call.code,
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
