//! The binary format of journal entries: length, CRC-32, kind and fields, little-endian; texts are
//! preceded by their length.

use std::net::{IpAddr, Ipv6Addr};

use crate::domain::counter::Windows;
use crate::domain::idempotency::IdempotencyKey;
use crate::domain::ids::{ApiKeyId, OrganizationId, ProjectId, RequestLogId};
use crate::domain::money::Nano;
use crate::domain::settlement::{Bound, Charge, SettledBy};
use crate::domain::status::Outcome;
use crate::domain::time::{Day, Minute, UnixMs};
use crate::domain::usage::{Unit, Usage};
use crate::journal::entry::{CallHeader, CallOwner, CallResult, Entry, Hold, Progress, Refused};

/// Length and checksum in front of each entry.
pub const PREFIX_BYTES: usize = 8;

/// The longest entry. No entry can exceed it, because texts are truncated.
pub const ENTRY_BYTES_MAX: usize = 4096;

/// The longest text in an entry; longer texts are truncated.
const TEXT_BYTES_MAX: usize = 512;

/// Appends an entry to `buffer`.
pub fn write<T: AsRef<str>>(entry: &Entry<T>, buffer: &mut Vec<u8>) {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; PREFIX_BYTES]);
    match entry {
        Entry::Hold(hold) => {
            buffer.push(1);
            put_header(buffer, &hold.header);
            put_windows(buffer, hold.windows);
            put(buffer, &hold.bound.input_tokens.to_le_bytes());
            put(buffer, &hold.bound.output_tokens.to_le_bytes());
            put(buffer, &hold.amount.0.to_le_bytes());
            put_text(buffer, hold.price_version.as_ref());
            // An absent key takes no bytes, as in entries written before keys existed.
            if let Some(IdempotencyKey { key_digest, body_digest }) = &hold.idempotency_key {
                put(buffer, key_digest);
                put(buffer, body_digest);
            }
        }
        Entry::Progress(progress) => {
            buffer.push(2);
            put(buffer, &progress.id.0.to_le_bytes());
            put_charge(buffer, &progress.charge);
        }
        Entry::Settled(result) => {
            buffer.push(8);
            put_result(buffer, result);
        }
        Entry::Voided(result) => {
            buffer.push(9);
            put_result(buffer, result);
        }
        Entry::Refused(refused) => {
            buffer.push(5);
            put_header(buffer, &refused.header);
            put(buffer, &refused.status.to_le_bytes());
            put_text(buffer, refused.code.as_ref());
            put(buffer, &refused.count.to_le_bytes());
        }
    }
    let body = start + PREFIX_BYTES;
    let length = u32::try_from(buffer.len() - body).unwrap_or(u32::MAX);
    assert!(length as usize <= ENTRY_BYTES_MAX, "texts are cut, so an entry is short");
    let checksum = crc32fast::hash(&buffer[body..]);
    buffer[start..start + 4].copy_from_slice(&length.to_le_bytes());
    buffer[start + 4..body].copy_from_slice(&checksum.to_le_bytes());
}

fn put(buffer: &mut Vec<u8>, bytes: &[u8]) {
    buffer.extend_from_slice(bytes);
}

fn put_text(buffer: &mut Vec<u8>, text: &str) {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    put(buffer, &u16::try_from(end).unwrap_or_default().to_le_bytes());
    put(buffer, &text.as_bytes()[..end]);
}

fn put_header<T: AsRef<str>>(buffer: &mut Vec<u8>, header: &CallHeader<T>) {
    put(buffer, &header.id.0.to_le_bytes());
    put(buffer, &header.at.0.to_le_bytes());
    put_ids(buffer, (header.organization, header.project, header.key));
    let address = match header.address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    put(buffer, &address.octets());
    buffer.push(u8::from(header.stream));
    put_text(buffer, header.endpoint.as_ref());
    put_text(buffer, header.dialect.as_ref());
    put_text(buffer, header.model.as_ref());
}

fn put_ids(buffer: &mut Vec<u8>, ids: (OrganizationId, ProjectId, ApiKeyId)) {
    put(buffer, &ids.0.0.to_le_bytes());
    put(buffer, &ids.1.0.to_le_bytes());
    put(buffer, &ids.2.0.to_le_bytes());
}

fn put_windows(buffer: &mut Vec<u8>, windows: Windows) {
    put(buffer, &windows.minute.0.to_le_bytes());
    put(buffer, &windows.day.0.to_le_bytes());
}

fn put_charge(buffer: &mut Vec<u8>, charge: &Charge) {
    put(buffer, &charge.cost.0.to_le_bytes());
    buffer.push(match charge.settled_by {
        SettledBy::Usage => 0,
        SettledBy::Estimate => 1,
        SettledBy::NotCharged => 2,
    });
    buffer.push(u8::from(charge.overage));
    let count_index = buffer.len();
    buffer.push(0);
    for (unit, count) in charge.usage.counts() {
        buffer[count_index] += 1;
        buffer.push(u8::try_from(unit as usize).unwrap_or_default());
        put(buffer, &count.to_le_bytes());
    }
}

fn put_result<T: AsRef<str>>(buffer: &mut Vec<u8>, result: &CallResult<T>) {
    put(buffer, &result.id.0.to_le_bytes());
    let CallOwner { organization, project, key, windows } = result.owner;
    put_ids(buffer, (organization, project, key));
    put_windows(buffer, windows);
    put_charge(buffer, &result.charge);
    buffer.push(u8::from(result.counted) | u8::from(result.output_clamped) << 1);
    buffer.push(result.outcome as u8);
    put(buffer, &result.status.to_le_bytes());
    put(buffer, &result.attempts.to_le_bytes());
    put(buffer, &result.admitted_us.to_le_bytes());
    put(buffer, &result.first_byte_us.unwrap_or(u32::MAX).to_le_bytes());
    put(buffer, &result.duration_us.to_le_bytes());
    put_text(buffer, result.price_version.as_ref());
    put_text(buffer, result.service_tier.as_ref());
    put_text(buffer, result.refusal.as_ref());
    put_text(buffer, result.upstream.as_ref());
    put_text(buffer, result.upstream_model.as_ref());
    // An absent id takes no bytes.
    if let Some(id) = &result.state_id {
        put_text(buffer, id.as_ref());
    }
}

/// Decodes the entry at the start of `bytes` and returns it with its length in bytes. Returns
/// `None` if no entry, or only part of one, was written there.
pub fn read(bytes: &[u8]) -> Option<(Entry<String>, usize)> {
    let (prefix, remaining) = bytes.split_at_checked(PREFIX_BYTES)?;
    let word =
        |at: usize| prefix[at..at + 4].iter().rev().fold(0_u32, |n, b| n << 8 | u32::from(*b));
    let length = word(0) as usize;
    if length == 0 || ENTRY_BYTES_MAX < length {
        return None;
    }
    let body = remaining.get(..length)?;
    if crc32fast::hash(body) != word(4) {
        return None;
    }
    Some(((Fields { remaining: body }).entry()?, PREFIX_BYTES + length))
}

/// Returns the offset of the next intact entry in `bytes`. Bytes before it were damaged or never
/// reached the disk.
pub fn find_entry(bytes: &[u8]) -> Option<usize> {
    (0..bytes.len()).find(|at| read(&bytes[*at..]).is_some())
}

/// Decodes the fields of one entry in order.
struct Fields<'a> {
    remaining: &'a [u8],
}

impl Fields<'_> {
    fn entry(mut self) -> Option<Entry<String>> {
        let entry = match self.byte()? {
            1 => Entry::Hold(Hold {
                header: self.header()?,
                windows: self.windows()?,
                bound: Bound { input_tokens: self.u64()?, output_tokens: self.u64()? },
                amount: Nano(self.i64()?),
                price_version: self.text()?,
                idempotency_key: match self.remaining {
                    [] => None,
                    _ => Some(IdempotencyKey {
                        key_digest: self.array()?,
                        body_digest: self.array()?,
                    }),
                },
            }),
            2 => {
                Entry::Progress(Progress { id: RequestLogId(self.u128()?), charge: self.charge()? })
            }
            5 => Entry::Refused(Refused {
                header: self.header()?,
                status: u16::from_le_bytes(self.array()?),
                code: self.text()?,
                count: u32::from_le_bytes(self.array()?),
            }),
            // Old format versions: results without owner (3, 4) or without price version (6, 7).
            // Both are taken from the hold.
            3 => Entry::Settled(self.result(false, false)?),
            4 => Entry::Voided(self.result(false, false)?),
            6 => Entry::Settled(self.result(true, false)?),
            7 => Entry::Voided(self.result(true, false)?),
            8 => Entry::Settled(self.result(true, true)?),
            9 => Entry::Voided(self.result(true, true)?),
            _ => return None,
        };
        self.remaining.is_empty().then_some(entry)
    }

    fn header(&mut self) -> Option<CallHeader<String>> {
        Some(CallHeader {
            id: RequestLogId(self.u128()?),
            at: UnixMs(self.i64()?),
            organization: OrganizationId(self.u128()?),
            project: ProjectId(self.u128()?),
            key: ApiKeyId(self.u128()?),
            address: IpAddr::V6(Ipv6Addr::from(self.array()?)).to_canonical(),
            stream: self.byte()? == 1,
            endpoint: self.text()?,
            dialect: self.text()?,
            model: self.text()?,
        })
    }

    fn windows(&mut self) -> Option<Windows> {
        Some(Windows { minute: Minute(self.i64()?), day: Day(self.i64()?) })
    }

    fn owner(&mut self) -> Option<CallOwner> {
        Some(CallOwner {
            organization: OrganizationId(self.u128()?),
            project: ProjectId(self.u128()?),
            key: ApiKeyId(self.u128()?),
            windows: self.windows()?,
        })
    }

    fn charge(&mut self) -> Option<Charge> {
        let cost = Nano(self.i64()?);
        let settled_by = match self.byte()? {
            0 => SettledBy::Usage,
            1 => SettledBy::Estimate,
            2 => SettledBy::NotCharged,
            _ => return None,
        };
        let overage = self.byte()? == 1;
        let mut usage = Usage::default();
        for _ in 0..self.byte()? {
            let unit = *Unit::ALL.get(usize::from(self.byte()?))?;
            usage = usage.with(unit, self.u64()?);
        }
        Some(Charge { usage, cost, settled_by, overage })
    }

    fn result(&mut self, has_owner: bool, has_prices: bool) -> Option<CallResult<String>> {
        let id = RequestLogId(self.u128()?);
        let owner = if has_owner { self.owner()? } else { CallOwner::UNKNOWN };
        let charge = self.charge()?;
        let flags = self.byte()?;
        let (counted, output_clamped) = (flags & 1 == 1, flags & 2 == 2);
        let outcome = *Outcome::ALL.get(usize::from(self.byte()?))?;
        let (status, attempts) =
            (u16::from_le_bytes(self.array()?), u16::from_le_bytes(self.array()?));
        let admitted_us = u32::from_le_bytes(self.array()?);
        let first_byte_us = Some(u32::from_le_bytes(self.array()?)).filter(|us| *us != u32::MAX);
        let duration_us = u32::from_le_bytes(self.array()?);
        let (price_version, service_tier) =
            if has_prices { (self.text()?, self.text()?) } else { Default::default() };
        let (refusal, upstream, upstream_model) = (self.text()?, self.text()?, self.text()?);
        let state_id = if self.remaining.is_empty() { None } else { Some(self.text()?) };
        Some(CallResult {
            id,
            owner,
            charge,
            price_version,
            service_tier,
            counted,
            outcome,
            status,
            refusal,
            upstream,
            upstream_model,
            output_clamped,
            attempts,
            admitted_us,
            first_byte_us,
            duration_us,
            state_id,
        })
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, remaining) = self.remaining.split_first()?;
        self.remaining = remaining;
        Some(*first)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, remaining) = self.remaining.split_first_chunk()?;
        self.remaining = remaining;
        Some(*array)
    }

    fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn u128(&mut self) -> Option<u128> {
        self.array().map(u128::from_le_bytes)
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::from(u16::from_le_bytes(self.array()?));
        let (text, remaining) = self.remaining.split_at_checked(length)?;
        self.remaining = remaining;
        String::from_utf8(text.to_vec()).ok()
    }
}
