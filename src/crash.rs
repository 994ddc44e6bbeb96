//! Crash points: named positions at which a test makes the process die as by `kill -9`, or panic.
//!
//! Debug builds only. A point that is not armed costs one atomic load.

#[cfg(debug_assertions)]
use std::sync::OnceLock;
#[cfg(debug_assertions)]
use std::sync::atomic::{AtomicU64, Ordering};

/// The environment variable that arms a point: `<point>:<n>`, or `<point>:<n>:panic`.
pub const VARIABLE: &str = "METEOR_CRASH";

/// Every point: those of a call in order of its path, then those of background work.
pub const POINTS: [&str; 22] = [
    "hold-appended",
    "hold-written",
    "forwarding",
    "request-sent",
    "answered",
    "piece-taken",
    "usage-seen",
    "progress-appended",
    "progress-written",
    "void-appended",
    "settle-appended",
    "buffer-written",
    "segment-rolled",
    "settle-written",
    "end-given",
    "batch-uncommitted",
    "batch-committed",
    "recharge-posted",
    "refund-posted",
    "money-committed",
    "recovery-projected",
    "recovery-orphan",
];

/// Why a crash point cannot be armed.
#[derive(Debug, thiserror::Error)]
pub enum CrashError {
    /// The point does not exist, or the count is not a positive number.
    #[error(
        "{VARIABLE}: expected <point>:<n> or <point>:<n>:panic with n from 1; valid points: {}",
        POINTS.join(", ")
    )]
    Unknown,
    /// Release builds have no crash points.
    #[error("{VARIABLE} is set, but release builds have no crash points; unset it")]
    Release,
}

#[cfg(debug_assertions)]
static ARMED: OnceLock<Armed> = OnceLock::new();

/// The armed point and its effect.
#[cfg(debug_assertions)]
#[derive(Debug)]
struct Armed {
    index: usize,
    /// How many times the point is still passed, the last of which takes effect.
    left: AtomicU64,
    panics: bool,
}

/// Arms the point that the value of [`VARIABLE`] names. Does nothing without a value.
#[cfg(debug_assertions)]
pub fn arm(value: Option<&str>) -> Result<(), CrashError> {
    if let Some(value) = value {
        let armed = parse(value).ok_or(CrashError::Unknown)?;
        ARMED.get_or_init(|| armed);
    }
    Ok(())
}

/// Returns an error if there is a value, because release builds have no crash points.
#[cfg(not(debug_assertions))]
pub fn arm(value: Option<&str>) -> Result<(), CrashError> {
    value.map_or(Ok(()), |_| Err(CrashError::Release))
}

#[cfg(debug_assertions)]
fn parse(value: &str) -> Option<Armed> {
    let (name, count) = value.split_once(':')?;
    let panics = count.strip_suffix(":panic");
    let index = POINTS.iter().position(|point| *point == name)?;
    let left: u64 = panics.unwrap_or(count).parse().ok().filter(|count| 0 < *count)?;
    Some(Armed { index, left: AtomicU64::new(left), panics: panics.is_some() })
}

/// Called at the point `POINTS[index]`. Kills the process or panics if the point is armed.
#[cfg(debug_assertions)]
pub fn reach(index: usize) {
    let Some(armed) = ARMED.get() else { return };
    if armed.index == index && armed.left.fetch_sub(1, Ordering::Relaxed) == 1 {
        assert!(!armed.panics, "requested by {VARIABLE}");
        let process = rustix::process::getpid();
        rustix::process::kill_process(process, rustix::process::Signal::KILL)
            .expect("a process may kill itself");
    }
}

/// Returns the index of a point in [`POINTS`]. An unknown name does not compile.
#[cfg(debug_assertions)]
pub const fn index_of(name: &str) -> usize {
    let mut index = 0;
    while index < POINTS.len() {
        if is_same(POINTS[index].as_bytes(), name.as_bytes()) {
            return index;
        }
        index += 1;
    }
    panic!("list the point in POINTS")
}

#[cfg(debug_assertions)]
const fn is_same(a: &[u8], b: &[u8]) -> bool {
    let mut at = 0;
    while at < a.len() && at < b.len() && a[at] == b[at] {
        at += 1;
    }
    at == a.len() && at == b.len()
}

/// Marks a crash point of [`POINTS`](crate::crash::POINTS); with `if`, a conditional one.
macro_rules! crash_point {
    ($name:literal) => {
        #[cfg(debug_assertions)]
        $crate::crash::reach(const { $crate::crash::index_of($name) });
    };
    ($name:literal if $when:expr) => {
        #[cfg(debug_assertions)]
        if $when {
            $crate::crash::reach(const { $crate::crash::index_of($name) });
        }
    };
}
pub(crate) use crash_point;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::Path;

    use super::*;

    /// Counts the uses of each point in the sources below `folder`.
    fn uses(folder: &Path, found: &mut BTreeMap<String, usize>) {
        for entry in fs::read_dir(folder).expect("a folder of sources").flatten() {
            let path = entry.path();
            if path.is_dir() {
                uses(&path, found);
                continue;
            }
            let text = fs::read_to_string(&path).expect("a source");
            for rest in text.split("crash_point!(\"").skip(1) {
                let name = rest.split('"').next().unwrap_or_default();
                *found.entry(name.to_owned()).or_default() += 1;
            }
        }
    }

    #[test]
    fn every_listed_point_is_used_exactly_one_time() {
        let mut found = BTreeMap::new();
        uses(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut found);
        let listed: BTreeMap<_, _> = POINTS.iter().map(|point| ((*point).to_owned(), 1)).collect();
        assert_eq!(found, listed);
    }

    #[test]
    #[cfg(not(debug_assertions))]
    fn a_release_build_refuses_to_be_armed() {
        assert!(arm(None).is_ok());
        assert!(arm(Some("hold-written:1")).is_err());
    }

    #[test]
    #[cfg(debug_assertions)]
    fn an_unknown_point_is_rejected_with_the_list_of_valid_ones() {
        assert!(arm(None).is_ok());
        for wrong in [
            "",
            "hold-written",
            "hold-written:0",
            "hold-written:x",
            "nowhere:1",
            "hold-written:3:die",
        ] {
            let message = arm(Some(wrong)).expect_err(wrong).to_string();
            assert!(POINTS.iter().all(|point| message.contains(point)), "{message}");
        }
        let read = |value| {
            let armed = parse(value).expect(value);
            (armed.index, armed.left.into_inner(), armed.panics)
        };
        assert_eq!(read("hold-written:3"), (1, 3, false));
        assert_eq!(read("hold-appended:2:panic"), (0, 2, true));
    }
}
