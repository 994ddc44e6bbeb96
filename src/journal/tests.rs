//! Entries are read as they were written, and damaged entries are detected.

use crate::domain::counter::Windows;
use crate::domain::idempotency::IdempotencyKey;
use crate::domain::ids::{ApiKeyId, OrganizationId, ProjectId, RequestLogId};
use crate::domain::money::Nano;
use crate::domain::settlement::{Bound, Charge, SettledBy};
use crate::domain::status::Outcome;
use crate::domain::time::{Day, Minute, UnixMs};
use crate::domain::usage::{Unit, Usage};
use crate::journal::entry::{CallHeader, CallOwner, CallResult, Entry, Hold, Progress, Refused};
use crate::journal::format::{find_entry, read, write};

fn samples() -> Vec<Entry<String>> {
    let header = CallHeader {
        id: RequestLogId(1),
        at: UnixMs(2),
        organization: OrganizationId(3),
        project: ProjectId(4),
        key: ApiKeyId(u128::MAX),
        endpoint: "chat.completions".to_owned(),
        dialect: "openai".to_owned(),
        model: "gpt-4o".to_owned(),
        stream: true,
        address: "127.0.0.1".parse().expect("an address"),
    };
    let usage = Usage::from_tokens(7, 8).with(Unit::Characters, 9);
    let charge = Charge { usage, cost: Nano(-5), settled_by: SettledBy::Estimate, overage: true };
    let owner = CallOwner {
        organization: header.organization,
        project: header.project,
        key: header.key,
        windows: Windows { minute: Minute(-1), day: Day(5) },
    };
    let result = CallResult {
        id: RequestLogId(1),
        owner,
        charge,
        price_version: "w".to_owned(),
        service_tier: "flex".to_owned(),
        counted: true,
        outcome: Outcome::Cancelled,
        status: 200,
        refusal: String::new(),
        upstream: "demo".to_owned(),
        upstream_model: "é".repeat(300),
        output_clamped: false,
        attempts: 2,
        admitted_us: 11,
        first_byte_us: None,
        duration_us: 12,
        state_id: None,
    };
    let hold = Hold {
        header: header.clone(),
        windows: owner.windows,
        bound: Bound { input_tokens: 6, output_tokens: 7 },
        amount: Nano(8),
        price_version: "v".to_owned(),
        idempotency_key: None,
    };
    let idempotency_key = Some(IdempotencyKey { key_digest: [1; 16], body_digest: [2; 16] });
    vec![
        Entry::Hold(Hold { idempotency_key, ..hold.clone() }),
        Entry::Hold(hold),
        Entry::Progress(Progress { id: RequestLogId(1), charge }),
        Entry::Settled(CallResult { state_id: Some("container_1".to_owned()), ..result.clone() }),
        Entry::Voided(CallResult { first_byte_us: Some(3), ..result }),
        Entry::Refused(Refused { header, status: 429, code: "x".to_owned(), count: 3 }),
    ]
}

#[test]
fn entries_are_read_as_they_were_written() {
    let mut buffer = Vec::new();
    for entry in samples() {
        write(&entry, &mut buffer);
    }
    let mut remaining = buffer.as_slice();
    for mut entry in samples() {
        if let Entry::Settled(result) | Entry::Voided(result) = &mut entry {
            result.upstream_model = "é".repeat(256);
        }
        let (read, length) = read(remaining).expect("an entry");
        assert_eq!(read, entry);
        remaining = &remaining[length..];
    }
    assert_eq!(read(remaining), None);
}

#[test]
fn a_truncated_or_garbled_entry_is_not_read() {
    let mut buffer = Vec::new();
    write(&samples()[3], &mut buffer);
    for cut in 0..buffer.len() {
        assert_eq!(read(&buffer[..cut]), None);
        let mut garbled = buffer.clone();
        garbled[cut] ^= 0x10;
        assert_eq!(read(&garbled), None, "{cut}");
    }
    assert_eq!(read(&[0; 64]), None);
}

/// A result in the first format version, without its owner.
const OLD_RESULT: &[u8] = b"\x34\0\0\0\x8e\x48\x1c\x4f\x03\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\
    \0\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\xff\xff\xff\xff\0\0\0\0\0\0\0\0\0\0";

#[test]
fn results_without_an_owner_can_be_read() {
    let Some((Entry::Settled(result), 60)) = read(OLD_RESULT) else { panic!("an end") };
    assert_eq!((result.id, result.owner), (RequestLogId(1), CallOwner::UNKNOWN));
    assert_eq!((result.charge, result.state_id), (Charge::not_charged(), None));
}

#[test]
fn results_without_a_price_version_can_be_read() {
    let result = CallResult::minimal(RequestLogId(1), CallOwner::UNKNOWN, Outcome::Completed);
    let mut buffer = Vec::new();
    write(&Entry::Settled(result.clone()), &mut buffer);
    // The format before price versions: kind 6, and without two of the five texts, which are empty
    // here.
    let mut body = buffer.split_off(8);
    body[0] = 6;
    body.truncate(body.len() - 2 * 2);
    let mut old = u32::try_from(body.len()).expect("short").to_le_bytes().to_vec();
    old.extend(crc32fast::hash(&body).to_le_bytes());
    old.extend(body);
    assert_eq!(read(&old), Some((Entry::Settled(result), old.len())));
}

#[test]
fn the_next_entry_is_found_after_damage() {
    let mut buffer = Vec::new();
    for entry in samples() {
        write(&entry, &mut buffer);
    }
    assert_eq!(find_entry(&buffer), Some(0));
    let first = read(&buffer).expect("an entry").1;
    for damaged in [0, 5, first - 1] {
        let mut garbled = buffer.clone();
        garbled[damaged] ^= 1;
        assert_eq!(find_entry(&garbled), Some(first), "{damaged}");
    }
    buffer[..first].fill(0);
    assert_eq!((find_entry(&buffer), find_entry(&[0; 100])), (Some(first), None));
}
