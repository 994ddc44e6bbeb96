//! Properties of the journal format that hold for any bytes.

use std::net::{IpAddr, Ipv6Addr};

use meteor::domain::counter::Windows;
use meteor::domain::idempotency::IdempotencyKey;
use meteor::domain::ids::{ApiKeyId, OrganizationId, ProjectId, RequestLogId};
use meteor::domain::money::Nano;
use meteor::domain::settlement::{Bound, Charge, SettledBy};
use meteor::domain::status::Outcome;
use meteor::domain::time::{Day, Minute, UnixMs};
use meteor::domain::usage::{Unit, Usage};
use meteor::journal::entry::{CallHeader, CallOwner, CallResult, Entry, Hold, Progress, Refused};
use meteor::journal::format::{ENTRY_BYTES_MAX, PREFIX_BYTES, find_entry, read, write};

/// Maximum length of a text in an entry.
const TEXT_BYTES_MAX: usize = 512;

/// Checks all properties for these bytes.
pub fn check(bytes: &[u8]) {
    read_is_stable(bytes);
    read_is_stable(&with_header(bytes));
    round_trips(bytes);
}

/// An entry lies within the bytes, does not depend on bytes after it, and writing it again is
/// stable.
fn read_is_stable(bytes: &[u8]) {
    let Some(at) = find_entry(bytes) else { return assert_eq!(read(bytes), None) };
    let bytes = &bytes[at..];
    let (entry, length) = read(bytes).expect("found");
    assert!(PREFIX_BYTES < length && length <= bytes.len());
    assert_eq!(read(&bytes[..length]), Some((entry.clone(), length)));
    assert_eq!(read(&bytes[..length - 1]), None);
    if let Entry::Settled(result) | Entry::Voided(result) = &entry {
        assert_eq!(result.synthesize_hold().header.id, result.id);
    }
    let plain = written(&entry);
    let (again, _) = read(&plain).expect("a written entry is readable");
    assert_eq!(written(&again), plain);
}

/// Returns these bytes as the content of an entry with the correct length and checksum.
fn with_header(content: &[u8]) -> Vec<u8> {
    let content = &content[..content.len().min(ENTRY_BYTES_MAX)];
    let length = u32::try_from(content.len()).expect("few");
    let header = [length.to_le_bytes(), crc32fast::hash(content).to_le_bytes()];
    [header.as_flattened(), content].concat()
}

/// An entry made of these bytes can be written and read, and is found after any bytes. A truncated
/// or damaged entry is never read as another.
fn round_trips(bytes: &[u8]) {
    let mut source = ByteSource { rest: bytes };
    let entry = source.entry();
    let whole = written(&entry);
    assert_eq!(read(&whole), Some((entry, whole.len())));
    let cut = usize::from(source.byte()) * 16 % whole.len();
    assert_eq!(read(&whole[..cut]), None, "cut at {cut}");
    let mut damaged = whole.clone();
    damaged[cut] ^= source.byte().max(1);
    assert_eq!(read(&damaged), None, "damaged at {cut}");

    let preceded = [source.rest, &whole].concat();
    assert!(find_entry(&preceded).is_some_and(|at| at <= source.rest.len()));
}

fn written(entry: &Entry<String>) -> Vec<u8> {
    let mut buffer = Vec::new();
    write(entry, &mut buffer);
    buffer
}

/// Bytes of which values are made, followed by zeros.
struct ByteSource<'a> {
    rest: &'a [u8],
}

impl ByteSource<'_> {
    fn array<const N: usize>(&mut self) -> [u8; N] {
        let (head, rest) = self.rest.split_at(N.min(self.rest.len()));
        self.rest = rest;
        std::array::from_fn(|at| head.get(at).copied().unwrap_or_default())
    }

    fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    fn flag(&mut self) -> bool {
        self.byte() % 2 == 1
    }

    fn u128(&mut self) -> u128 {
        u128::from_le_bytes(self.array())
    }

    fn i64(&mut self) -> i64 {
        i64::from_le_bytes(self.array())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// Returns a text of at most the maximum length.
    fn text(&mut self) -> String {
        let (length, times) = (usize::from(self.byte()), usize::from(self.byte() % 8));
        let (head, rest) = self.rest.split_at(length.min(self.rest.len()));
        self.rest = rest;
        let mut text = String::from_utf8_lossy(head).repeat(times);
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        text
    }

    fn entry(&mut self) -> Entry<String> {
        match self.byte() % 5 {
            0 => Entry::Hold(Hold {
                header: self.header(),
                windows: self.windows(),
                bound: Bound { input_tokens: self.u32().into(), output_tokens: self.u32().into() },
                amount: Nano(self.i64()),
                price_version: self.text(),
                idempotency_key: self.flag().then(|| IdempotencyKey {
                    key_digest: self.array(),
                    body_digest: self.array(),
                }),
            }),
            1 => Entry::Progress(Progress { id: RequestLogId(self.u128()), charge: self.charge() }),
            2 => Entry::Settled(self.result()),
            3 => Entry::Voided(self.result()),
            _ => Entry::Refused(Refused {
                header: self.header(),
                status: self.u16(),
                code: self.text(),
                count: self.u32(),
            }),
        }
    }

    fn header(&mut self) -> CallHeader<String> {
        CallHeader {
            id: RequestLogId(self.u128()),
            at: UnixMs(self.i64()),
            organization: OrganizationId(self.u128()),
            project: ProjectId(self.u128()),
            key: ApiKeyId(self.u128()),
            address: IpAddr::V6(Ipv6Addr::from(self.array::<16>())).to_canonical(),
            stream: self.flag(),
            endpoint: self.text(),
            dialect: self.text(),
            model: self.text(),
        }
    }

    fn windows(&mut self) -> Windows {
        Windows { minute: Minute(self.i64()), day: Day(self.i64()) }
    }

    fn charge(&mut self) -> Charge {
        let cost = Nano(self.i64());
        let all = [SettledBy::Usage, SettledBy::Estimate, SettledBy::NotCharged];
        let settled_by = all[usize::from(self.byte() % 3)];
        let overage = self.flag();
        let units = self.u32();
        let used = Unit::ALL.into_iter().filter(|unit| units >> *unit as usize & 1 == 1);
        let usage = used.fold(Usage::default(), |usage, unit| usage.with(unit, self.u32().into()));
        Charge { usage, cost, settled_by, overage }
    }

    fn result(&mut self) -> CallResult<String> {
        CallResult {
            id: RequestLogId(self.u128()),
            owner: CallOwner {
                organization: OrganizationId(self.u128()),
                project: ProjectId(self.u128()),
                key: ApiKeyId(self.u128()),
                windows: self.windows(),
            },
            charge: self.charge(),
            price_version: self.text(),
            service_tier: self.text(),
            counted: self.flag(),
            outcome: Outcome::ALL[usize::from(self.byte() % 4)],
            status: self.u16(),
            refusal: self.text(),
            upstream: self.text(),
            upstream_model: self.text(),
            output_clamped: self.flag(),
            attempts: self.u16(),
            admitted_us: self.u32(),
            first_byte_us: Some(self.u32()).filter(|us| *us != u32::MAX),
            duration_us: self.u32(),
            state_id: if self.flag() { Some(self.text()) } else { None },
        }
    }
}
