//! The entries of the journal: one per event in the life of a call.

use std::net::{IpAddr, Ipv6Addr};

use crate::domain::counter::Windows;
use crate::domain::idempotency::IdempotencyKey;
use crate::domain::ids::{ApiKeyId, OrganizationId, ProjectId, RequestLogId};
use crate::domain::money::Nano;
use crate::domain::settlement::{Bound, Charge};
use crate::domain::status::Outcome;
use crate::domain::time::{Day, Minute, UnixMs};

/// One journal entry. `T` is the text type: borrowed when written, owned when read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry<T> {
    /// A call was admitted. It is forwarded only after this entry is written.
    Hold(Hold<T>),
    /// What an open call would be charged if it ended now.
    Progress(Progress),
    /// A call ended and is charged. The client sees the end only after this entry is written.
    Settled(CallResult<T>),
    /// A call ended and is not charged.
    Voided(CallResult<T>),
    /// Calls that were refused.
    Refused(Refused<T>),
}

/// Who made a call, and what it requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallHeader<T> {
    pub id: RequestLogId,
    /// When the request arrived.
    pub at: UnixMs,
    /// The organization that pays.
    pub organization: OrganizationId,
    /// The project whose usage and limits count the call.
    pub project: ProjectId,
    pub key: ApiKeyId,
    /// The path's name, such as `chat.completions`.
    pub endpoint: T,
    /// The wire format, such as `openai`.
    pub dialect: T,
    /// The requested model; empty if the call was refused before the model was known.
    pub model: T,
    /// Whether the request asked for a stream.
    pub stream: bool,
    /// The address of the client.
    pub address: IpAddr,
}

/// A call that was admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold<T> {
    pub header: CallHeader<T>,
    /// The windows in which the call is counted.
    pub windows: Windows,
    /// The most tokens that the call may use.
    pub bound: Bound,
    /// The amount held in the wallet.
    pub amount: Nano,
    /// The price version used for settlement if the first target serves the call.
    pub price_version: T,
    /// The idempotency key of the call and the digest of its body, if it has one.
    pub idempotency_key: Option<IdempotencyKey>,
}

impl<T> Hold<T> {
    /// Returns whose usage the call counts towards.
    pub const fn owner(&self) -> CallOwner {
        let CallHeader { organization, project, key, .. } = self.header;
        CallOwner { organization, project, key, windows: self.windows }
    }
}

/// What an open call has cost so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub id: RequestLogId,
    /// What the call would be charged if it ended now.
    pub charge: Charge,
}

/// Whose usage a call counts towards, and in which windows. A result carries its owner so that it
/// can be posted even if its hold is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallOwner {
    /// The organization that pays.
    pub organization: OrganizationId,
    pub project: ProjectId,
    pub key: ApiKeyId,
    /// The windows in which the call is counted.
    pub windows: Windows,
}

impl CallOwner {
    /// The owner in results of old format versions, which did not contain it.
    pub const UNKNOWN: Self = Self {
        organization: OrganizationId(0),
        project: ProjectId(0),
        key: ApiKeyId(0),
        windows: Windows { minute: Minute(0), day: Day(0) },
    };
}

/// The result of a call that was admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallResult<T> {
    pub id: RequestLogId,
    pub owner: CallOwner,
    pub charge: Charge,
    /// The price version that was charged; empty if it is the version of the hold.
    pub price_version: T,
    /// The service tier named by the response, or empty.
    pub service_tier: T,
    /// Whether the call counts as a request: it reached an upstream.
    pub counted: bool,
    pub outcome: Outcome,
    /// The status sent to the client; 0 if none was sent.
    pub status: u16,
    /// The code of the gateway's own error, or empty.
    pub refusal: T,
    /// The upstream that answered or was tried last; empty if none was tried.
    pub upstream: T,
    /// The name of the model at the upstream.
    pub upstream_model: T,
    /// Whether the gateway lowered the output limit of the request.
    pub output_clamped: bool,
    /// How many upstreams were tried.
    pub attempts: u16,
    /// Microseconds from arrival until the call was forwarded.
    pub admitted_us: u32,
    /// Microseconds from arrival to the first byte of the response; at most 71 minutes.
    pub first_byte_us: Option<u32>,
    /// Microseconds from arrival to the end; at most 71 minutes.
    pub duration_us: u32,
    /// The id of an object that the upstream stores for the project, if the response contained one.
    pub state_id: Option<T>,
}

impl CallResult<String> {
    /// Creates a result that costs nothing and does not count as a request.
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

    /// Creates a hold of zero for a call whose own hold is unknown.
    pub fn synthesize_hold(&self) -> Hold<String> {
        let CallOwner { organization, project, key, windows } = self.owner;
        let header = CallHeader {
            id: self.id,
            // The first 48 bits of a UUIDv7 are its time in milliseconds.
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
    /// The header of the first of these calls.
    pub header: CallHeader<T>,
    /// The status sent to the client.
    pub status: u16,
    /// The error code sent to the client.
    pub code: T,
    /// How many calls this entry represents.
    pub count: u32,
}
