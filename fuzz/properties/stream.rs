//! Properties of the response meters that hold however a response is cut into pieces.
//!
//! The first byte selects the dialect, the next two the length of the pieces; the remaining bytes
//! are the response.

use bytes::Bytes;
use meteor::dialect::endpoint::Dialect;
use meteor::dialect::json_meter::JsonBodyMeter;
use meteor::dialect::stream_meter::{StreamMeter, UsageReading};
use meteor::domain::usage::Usage;

/// Maximum of bytes that a meter holds back.
const HELD_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Checks all properties for these bytes.
pub fn check(bytes: &[u8]) {
    let [mode, first, second, stream @ ..] = bytes else { return };
    let dialect = Dialect::ALL[usize::from(mode % 3)];
    let strip_usage = mode & 0x80 != 0;
    let in_steps = cut_in_steps(stream, usize::from(*first), usize::from(*second));
    let in_bytes = cut_in_steps(stream, 0, 0);

    let whole = meter_stream(dialect, strip_usage, &[stream]);
    assert_eq!(meter_stream(dialect, strip_usage, &in_steps), whole, "cut in steps");
    assert_eq!(meter_stream(dialect, strip_usage, &in_bytes), whole, "cut in bytes");
    let forwarded = [whole.forward, whole.held].concat();
    if strip_usage {
        let mut rest = stream.iter();
        assert!(forwarded.iter().all(|byte| rest.any(|other| other == byte)), "no byte is added");
    } else {
        assert_eq!(forwarded, stream, "no byte is lost");
    }

    let whole = report(dialect, &[stream]);
    assert_eq!(report(dialect, &in_steps), whole, "a body that is cut in steps");
    assert_eq!(report(dialect, &in_bytes), whole, "a body that is cut in bytes");
}

/// Cuts a stream into pieces of alternately `first + 1` and `second + 1` bytes.
fn cut_in_steps(stream: &[u8], first: usize, second: usize) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    let mut rest = stream;
    while !rest.is_empty() {
        let step = if pieces.len() % 2 == 0 { first } else { second };
        let (piece, after) = rest.split_at((step + 1).min(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    pieces
}

/// The bytes that the client receives before and after the settlement, and the usage.
#[derive(Debug, PartialEq, Eq)]
struct MeteredStream {
    forward: Vec<u8>,
    held: Vec<u8>,
    reading: UsageReading,
    state_id: Option<String>,
}

fn meter_stream(dialect: Dialect, strip_usage: bool, pieces: &[&[u8]]) -> MeteredStream {
    let mut meter = StreamMeter::new(dialect, strip_usage);
    let (mut forward, mut held, mut received, mut last) =
        (Vec::new(), Vec::new(), 0, meter.reading().clone());
    for piece in pieces {
        let metered = meter.read(Bytes::copy_from_slice(piece));
        forward.extend(metered.forward.concat());
        held.extend(metered.held.concat());
        received += piece.len();
        let buffered = received - forward.len() - held.len();
        assert!(strip_usage || buffered <= HELD_BYTES_MAX, "too much is held back");
        assert!(
            last.counted_output <= meter.reading().counted_output,
            "counted output never decreases"
        );
        assert!(
            meter.reading().terminated || !last.terminated,
            "a terminated stream stays terminated"
        );
        last = meter.reading().clone();
    }
    held.extend(meter.finish());
    MeteredStream {
        forward,
        held,
        reading: meter.reading().clone(),
        state_id: meter.state_id().map(str::to_owned),
    }
}

/// Returns what a body reports. The count of its tokens is an estimate that depends on the pieces.
fn report(dialect: Dialect, pieces: &[&[u8]]) -> (Option<Usage>, bool, Option<String>) {
    let mut meter = JsonBodyMeter::new(dialect);
    for piece in pieces {
        meter.read(piece);
    }
    let UsageReading { reported, input_missing, .. } = meter.reading();
    (reported, input_missing, meter.state_id().map(str::to_owned))
}
