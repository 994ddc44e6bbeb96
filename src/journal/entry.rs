//! What the journal says of calls.

use std::net::{IpAddr, Ipv6Addr};

use crate::domain::counter::Windows;
use crate::domain::idempotency::IdempotencyKey;
use crate::domain::ids::{ApiKeyId, OrganizationId, ProjectId, RequestLogId};
use crate::domain::money::Nano;
use crate::domain::settlement::{Bound, Charge};
use crate::domain::time::{Day, Minute, UnixMs};

/// One entry. `T` is the text type: borrowed when written, owned when read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry<T> {
    /// A call was admitted; it is not forwarded before this is written.
    Hold(Hold<T>),
    /// What an open call has cost so far, were it to end now.
    Progress(Progress),
    /// A call ended and is charged; it does not end for the client before this is written.
    Settled(CallResult<T>),
    /// A call ended and costs nothing.
    Voided(CallResult<T>),
    /// Calls that were refused.
    Refused(Refused<T>),
}

/// Who called for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallHeader<T> {
    /// The call.
    pub id: RequestLogId,
    /// When it came.
    pub at: UnixMs,
    /// Who pays.
    pub organization: OrganizationId,
    /// What is metered.
    pub project: ProjectId,
    /// The key.
    pub key: ApiKeyId,
    /// The path's name, such as `chat.completions`.
    pub endpoint: T,
    /// The wire format, such as `openai`.
    pub dialect: T,
    /// The model asked for; empty when the call was refused before it was known.
    pub model: T,
    /// Whether a stream was asked for.
    pub stream: bool,
    /// Where the call came from.
    pub address: IpAddr,
}

/// A call that was admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold<T> {
    /// Who and what.
    pub header: CallHeader<T>,
    /// The windows in which it is counted.
    pub windows: Windows,
    /// The most it may use.
    pub bound: Bound,
    /// Money held.
    pub amount: Nano,
    /// The prices it will be settled by where its first choice serves it.
    pub price_version: T,
    /// What it is known by, if it is to be done once.
    pub idempotency_key: Option<IdempotencyKey>,
}

impl<T> Hold<T> {
    /// Whose usage the call is.
    pub const fn owner(&self) -> CallOwner {
        let CallHeader { organization, project, key, .. } = self.header;
        CallOwner { organization, project, key, windows: self.windows }
    }
}

/// What an open call has cost so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The call.
    pub id: RequestLogId,
    /// What it would be charged.
    pub charge: Charge,
}

/// How a call came out, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The answer reached its end.
    Completed,
    /// A limit, the wallet or a check said no.
    Refused,
    /// An upstream failed, or the answer broke off.
    Failed,
    /// The client left.
    Cancelled,
}

impl Outcome {
    /// Every outcome, in the order of the journal's numbers.
    pub const ALL: [Self; 4] = [Self::Completed, Self::Refused, Self::Failed, Self::Cancelled];

    /// The word in SQL and the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Refused => "Refused",
            Self::Failed => "Failed",
            Self::Cancelled => "Cancelled",
        }
    }
}

/// Whose usage a call is, and when: what an end must say itself, so that it can be posted though
/// its hold is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallOwner {
    /// Who pays.
    pub organization: OrganizationId,
    /// What is metered.
    pub project: ProjectId,
    /// The key.
    pub key: ApiKeyId,
    /// The windows in which it is counted.
    pub windows: Windows,
}

impl CallOwner {
    /// Nobody's.
    pub const UNKNOWN: Self = Self {
        organization: OrganizationId(0),
        project: ProjectId(0),
        key: ApiKeyId(0),
        windows: Windows { minute: Minute(0), day: Day(0) },
    };
}

/// A call that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallResult<T> {
    /// The call.
    pub id: RequestLogId,
    /// Whose it is.
    pub owner: CallOwner,
    /// What it is charged.
    pub charge: Charge,
    /// The prices it is charged by; empty where those of its hold are.
    pub price_version: T,
    /// The tier of service that the answer names, or empty.
    pub service_tier: T,
    /// Whether it counts as a request: it reached an upstream.
    pub counted: bool,
    /// How it came out.
    pub outcome: Outcome,
    /// The status that the client saw; 0 when it saw none.
    pub status: u16,
    /// The code of the gateway's own error, or empty.
    pub refusal: T,
    /// The upstream that answered, or was tried last; empty when none was.
    pub upstream: T,
    /// The model's name there.
    pub upstream_model: T,
    /// Whether the gateway bounded the output more closely than the caller did.
    pub output_clamped: bool,
    /// How many upstreams were tried.
    pub attempts: u16,
    /// From arrival to being forwarded, in microseconds.
    pub admitted_us: u32,
    /// From arrival to the first byte of the answer, in microseconds; at most 71 minutes.
    pub first_byte_us: Option<u32>,
    /// From arrival to the end, in microseconds; at most 71 minutes.
    pub duration_us: u32,
    /// The id of what the upstream keeps for the project, if the answer gave one.
    pub state_id: Option<T>,
}

impl CallResult<String> {
    /// An end of which no more is known: it costs nothing and counts for nothing.
    pub fn minimal(id: RequestLogId, owner: CallOwner, outcome: Outcome) -> Self {
        Self {
            id,
            owner,
            charge: Charge::not_charged(),
            price_version: String::new(),
            service_tier: String::new(),
            counted: false,
            outcome,
            status: 0,
            refusal: String::new(),
            upstream: String::new(),
            upstream_model: String::new(),
            output_clamped: false,
            attempts: 0,
            admitted_us: 0,
            first_byte_us: None,
            duration_us: 0,
            state_id: None,
        }
    }

    /// The hold of a call of which nothing is known but its end: it held nothing.
    pub fn synthesize_hold(&self) -> Hold<String> {
        let CallOwner { organization, project, key, windows } = self.owner;
        let header = CallHeader {
            id: self.id,
            // A UUIDv7 begins with its time.
            at: UnixMs(i64::try_from(self.id.0 >> 80).unwrap_or_default()),
            organization,
            project,
            key,
            endpoint: String::new(),
            dialect: String::new(),
            model: self.upstream_model.clone(),
            stream: false,
            address: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let (bound, amount) = (Bound::default(), Nano::ZERO);
        Hold { header, windows, bound, amount, price_version: String::new(), idempotency_key: None }
    }
}

/// Calls that were refused for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused<T> {
    /// Who and what; of several calls, the first.
    pub header: CallHeader<T>,
    /// The status answered.
    pub status: u16,
    /// The code answered.
    pub code: T,
    /// How many calls this entry stands for.
    pub count: u32,
}
