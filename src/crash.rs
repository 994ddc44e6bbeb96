//! Crash points: named places at which a test has the process die, as by `kill -9`, or its task
//! panic.
//!
//! A place costs nothing until it is armed, and does not exist in a release build.

#[cfg(debug_assertions)]
use std::sync::OnceLock;
#[cfg(debug_assertions)]
use std::sync::atomic::{AtomicU64, Ordering};

/// The variable that arms a point: `<point>:<n>`, or `<point>:<n>:panic`.
pub const VARIABLE: &str = "METEOR_CRASH";

/// Every point: those of a call in the order of its path, then those behind it.
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
    "turn-written",
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

/// Why no point can be armed.
#[derive(Debug, thiserror::Error)]
pub enum CrashError {
    /// There is no such point, or no such passing of it.
    #[error(
        "{VARIABLE} is not <point>:<n> or <point>:<n>:panic with n from 1; the points are {}",
        POINTS.join(", ")
    )]
    Unknown,
    /// This build has no points.
    #[error("{VARIABLE} is set, but a release build has no crash points; unset it")]
    Release,
}

#[cfg(debug_assertions)]
static ARMED: OnceLock<Armed> = OnceLock::new();

/// A point, and what happens there.
#[cfg(debug_assertions)]
#[derive(Debug)]
struct Armed {
    index: usize,
    /// How many passings are left.
    left: AtomicU64,
    panics: bool,
}

/// Arms the point that the variable's value names; without one, none. Called once, at the start.
#[cfg(debug_assertions)]
pub fn arm(value: Option<&str>) -> Result<(), CrashError> {
    if let Some(value) = value {
        let armed = parse(value).ok_or(CrashError::Unknown)?;
        ARMED.get_or_init(|| armed);
    }
    Ok(())
}

/// Refuses a value: there is nothing to arm.
#[cfg(not(debug_assertions))]
pub fn arm(value: Option<&str>) -> Result<(), CrashError> {
    value.map_or(Ok(()), |_| Err(CrashError::Release))
}

#[cfg(debug_assertions)]
fn parse(value: &str) -> Option<Armed> {
    let (name, passings) = value.split_once(':')?;
    let panics = passings.strip_suffix(":panic");
    let place = POINTS.iter().position(|point| *point == name)?;
    let left: u64 = panics.unwrap_or(passings).parse().ok().filter(|passings| 0 < *passings)?;
    Some(Armed { index: place, left: AtomicU64::new(left), panics: panics.is_some() })
}

/// Passes the point at that place of the list; the process dies if it is the armed passing.
#[cfg(debug_assertions)]
pub fn pass(place: usize) {
    let Some(armed) = ARMED.get() else { return };
    if armed.index == place && armed.left.fetch_sub(1, Ordering::Relaxed) == 1 {
        assert!(!armed.panics, "as {VARIABLE} says");
        let process = rustix::process::getpid();
        rustix::process::kill_process(process, rustix::process::Signal::KILL)
            .expect("a process may kill itself");
    }
}

/// The place of a point in the list: an unknown name does not compile.
#[cfg(debug_assertions)]
pub const fn place(name: &str) -> usize {
    let mut place = 0;
    while place < POINTS.len() {
        if is_same(POINTS[place].as_bytes(), name.as_bytes()) {
            return place;
        }
        place += 1;
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

/// A point of the list; with `if`, one that is passed only then.
macro_rules! crash_point {
    ($name:literal) => {
        #[cfg(debug_assertions)]
        $crate::crash::pass(const { $crate::crash::place($name) });
    };
    ($name:literal if $when:expr) => {
        #[cfg(debug_assertions)]
        if $when {
            $crate::crash::pass(const { $crate::crash::place($name) });
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

    /// How often each point stands in the sources below `folder`.
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
    fn every_point_of_the_list_stands_at_one_place() {
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
    fn what_is_no_point_arms_nothing_and_names_those_there_are() {
        assert!(arm(None).is_ok());
        for wrong in [
            "",
            "hold-written",
            "hold-written:0",
            "hold-written:x",
            "nowhere:1",
            "hold-written:3:die",
        ] {
            let told = arm(Some(wrong)).expect_err(wrong).to_string();
            assert!(POINTS.iter().all(|point| told.contains(point)), "{told}");
        }
        let read = |value| {
            let armed = parse(value).expect(value);
            (armed.index, armed.left.into_inner(), armed.panics)
        };
        assert_eq!(read("hold-written:3"), (1, 3, false));
        assert_eq!(read("hold-appended:2:panic"), (0, 2, true));
    }
}
