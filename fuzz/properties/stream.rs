//! What must hold of the meters of answers, however the bytes of an answer are cut.
//!
//! The first byte says whose stream it is, the next two how it is cut; the rest is the stream.

use bytes::Bytes;
use meteor::dialect::endpoint::Dialect;
use meteor::dialect::json_meter::BodyMeter;
use meteor::dialect::stream_meter::{Reading, StreamMeter};
use meteor::domain::usage::Usage;

/// What a meter holds back at most.
const HELD_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Checks all of it for these bytes.
pub fn check(bytes: &[u8]) {
    let [mode, first, second, stream @ ..] = bytes else { return };
    let dialect = Dialect::ALL[usize::from(mode % 3)];
    let strips = mode & 0x80 != 0;
    let in_steps = cut_in_steps(stream, usize::from(*first), usize::from(*second));
    let in_bytes = cut_in_steps(stream, 0, 0);

    let whole = meter_stream(dialect, strips, &[stream]);
    assert_eq!(meter_stream(dialect, strips, &in_steps), whole, "cut in steps");
    assert_eq!(meter_stream(dialect, strips, &in_bytes), whole, "cut in bytes");
    let seen = [whole.forward, whole.held].concat();
    if strips {
        let mut rest = stream.iter();
        assert!(seen.iter().all(|byte| rest.any(|other| other == byte)), "nothing is made up");
    } else {
        assert_eq!(seen, stream, "nothing is lost");
    }

    let whole = report(dialect, &[stream]);
    assert_eq!(report(dialect, &in_steps), whole, "a body that is cut in steps");
    assert_eq!(report(dialect, &in_bytes), whole, "a body that is cut in bytes");
}

/// Cuts a stream into pieces of `first` and `second` bytes by turns, and one more each.
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

/// What the client sees before and after the settlement, and what was learned.
#[derive(Debug, PartialEq, Eq)]
struct MeteredStream {
    forward: Vec<u8>,
    held: Vec<u8>,
    reading: Reading,
    state_id: Option<String>,
}

fn meter_stream(dialect: Dialect, strips: bool, pieces: &[&[u8]]) -> MeteredStream {
    let mut meter = StreamMeter::new(dialect, strips);
    let (mut pass, mut end, mut came, mut last) =
        (Vec::new(), Vec::new(), 0, meter.reading().clone());
    for piece in pieces {
        let passage = meter.read(Bytes::copy_from_slice(piece));
        pass.extend(passage.pass.concat());
        end.extend(passage.end.concat());
        came += piece.len();
        let held = came - pass.len() - end.len();
        assert!(strips || held <= HELD_BYTES_MAX, "too much is held back");
        assert!(last.counted_output <= meter.reading().counted_output, "output is not unsaid");
        assert!(meter.reading().terminated || !last.terminated, "an end stays an end");
        last = meter.reading().clone();
    }
    end.extend(meter.finish());
    MeteredStream {
        forward: pass,
        held: end,
        reading: meter.reading().clone(),
        state_id: meter.kept_id().map(str::to_owned),
    }
}

/// What a body reports. What is counted beside it is an estimate, and that depends on the cuts.
fn report(dialect: Dialect, pieces: &[&[u8]]) -> (Option<Usage>, bool, Option<String>) {
    let mut meter = BodyMeter::new(dialect);
    for piece in pieces {
        meter.read(piece);
    }
    let Reading { reported, lacks_input, .. } = meter.reading();
    (reported, lacks_input, meter.kept_id().map(str::to_owned))
}
