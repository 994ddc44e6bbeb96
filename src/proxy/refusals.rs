//! Refused calls in the log: singly up to a number a key and second, then as one entry with a
//! count.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;

use crate::accounting::directory::Caller;
use crate::dialect::endpoint::Endpoint;
use crate::domain::ids::ApiKeyId;
use crate::journal::entry::{Asked, Entry, Refused};
use crate::journal::writer::{Position, Writer};
use crate::proxy::arrival::Arrival;

/// How many refusals of one key and code a worker logs singly in a second.
const SINGLE_MAX: u32 = 10;

/// What was refused this second.
#[derive(Debug)]
pub struct Refusals {
    writer: Rc<Writer>,
    seconds: RefCell<HashMap<(ApiKeyId, &'static str), Second>>,
}

/// One key's refusals for one reason.
#[derive(Debug)]
struct Second {
    number: i64,
    logged: u32,
    /// Those that are not logged singly, as one.
    pending: Option<Refused<String>>,
}

/// A call that was refused.
#[derive(Debug)]
pub struct RefusedCall<'a> {
    /// Its id and time.
    pub arrival: &'a Arrival,
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

impl Refusals {
    /// Refusals go to that chain.
    pub fn new(writer: Rc<Writer>) -> Self {
        Self { writer, seconds: RefCell::default() }
    }

    /// Notes a refused call; where its own entry stands, if it has one.
    pub fn note(&self, call: &RefusedCall<'_>) -> Option<Position> {
        let number = call.arrival.at.0.div_euclid(1_000);
        let mut seconds = self.seconds.borrow_mut();
        let second = seconds.entry((call.caller.key, call.code)).or_insert(Second {
            number,
            logged: 0,
            pending: None,
        });
        if second.number != number {
            self.write(second.pending.take());
            (second.number, second.logged) = (number, 0);
        }
        if second.logged < SINGLE_MAX && self.writer.has_room() {
            second.logged += 1;
            return Some(self.writer.append(&Entry::Refused(entry(call))));
        }
        match &mut second.pending {
            Some(pending) => pending.count = pending.count.saturating_add(1),
            None => second.pending = Some(owned(&entry(call))),
        }
        None
    }

    /// Writes what is pending and forgets keys that are quiet; the worker does so every second.
    pub fn flush(&self) {
        for (_, second) in self.seconds.borrow_mut().drain() {
            self.write(second.pending);
        }
    }

    fn write(&self, pending: Option<Refused<String>>) {
        // What room there is belongs to the calls that are open.
        if let Some(refused) = pending
            && self.writer.has_room()
        {
            self.writer.append(&Entry::Refused(refused));
        }
    }
}

fn entry<'a>(call: &RefusedCall<'a>) -> Refused<&'a str> {
    let address: IpAddr = call.arrival.address;
    Refused {
        asked: Asked {
            id: call.arrival.id,
            at: call.arrival.at,
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
    let asked = &refused.asked;
    Refused {
        asked: Asked {
            id: asked.id,
            at: asked.at,
            organization: asked.organization,
            project: asked.project,
            key: asked.key,
            endpoint: asked.endpoint.to_owned(),
            dialect: asked.dialect.to_owned(),
            model: asked.model.to_owned(),
            stream: asked.stream,
            address: asked.address,
        },
        status: refused.status,
        code: refused.code.to_owned(),
        count: refused.count,
    }
}
