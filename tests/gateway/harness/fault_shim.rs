//! A gateway whose disk, clock and power fail when the test says so: its process is loaded with
//! `fault_shim.c`.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::harness::process::scratch;
use crate::harness::serve::Place;

/// What the system answers: no room, a broken disk, a file system that is read only.
pub const ENOSPC: u32 = 28;
pub const EIO: u32 = 5;
pub const EROFS: u32 = 30;
/// Not an error: half of it is written.
pub const SHORT: u32 = 0;

const CLOCK_BYTES: u64 = 8;
const CONTROL_BYTES: usize = 4_096;
const PAGE_BYTES: usize = 4_096;

/// The hand on the faults of one place.
pub struct FaultShim {
    control: File,
    data: PathBuf,
    shadow: PathBuf,
}

impl FaultShim {
    /// Puts the faults under what will run in that place.
    pub fn install(place: Place) -> (Self, Place) {
        let folder = place.path("shim");
        fs::create_dir(&folder).expect("a folder for the shim");
        let control = folder.join("control");
        fs::write(&control, [0; CONTROL_BYTES]).expect("a page of control");
        let control = OpenOptions::new().write(true).open(&control).expect("it was made");
        let data = place.path("data");
        let text = |path: &Path| path.to_str().expect("a path is text").to_owned();
        let shim = Self { control, data: data.clone(), shadow: folder.join("shadow") };
        let place = place
            .with("LD_PRELOAD", text(library()))
            .with("SHIM", text(&folder))
            .with("SHIM_DATA", text(&data));
        (shim, place)
    }

    /// The same with a disk that keeps what was synced, and nothing else.
    pub fn with_power_loss(place: Place) -> (Self, Place) {
        let (shim, place) = Self::install(place);
        fs::create_dir(&shim.shadow).expect("a folder for the shadow");
        (shim, place)
    }

    /// Adds this to the wall clock.
    pub fn set_clock_offset_ms(&self, ms: i64) {
        self.control.write_all_at(&ms.to_ne_bytes(), 0).expect("the page can be written");
    }

    /// From now on these operations on files with that part in their paths fail so, and no others.
    pub fn inject(&self, faults: &[(&str, &str, u32)]) {
        let line =
            |(operation, part, error): &(&str, &str, u32)| format!("{operation} {part} {error}\n");
        let mut text: Vec<u8> = faults.iter().map(line).collect::<String>().into_bytes();
        // Nothing first: a process that looks meanwhile finds the beginning of a rule, which is none.
        self.control.write_all_at(&[0], CLOCK_BYTES).expect("the page can be written");
        text.push(0);
        self.control.write_all_at(&text, CLOCK_BYTES).expect("the page can be written");
    }

    pub fn clear(&self) {
        self.inject(&[]);
    }

    /// What lies in that folder of the data.
    pub fn list_files(&self, folder: &str) -> BTreeSet<String> {
        list_dir(&self.data.join(folder))
    }

    /// After a kill: the folder is what the disk has. Each page that was written after the last
    /// sync of its file, each name that was made or removed after that of its folder, may or may
    /// not be there, as `chance` has it.
    pub fn lose_power(&self, chance: &mut Random) {
        let was = self.data.with_extension("was");
        fs::rename(&self.data, &was).expect("the folder can be moved");
        self.restore(&was, "", chance);
        fs::remove_dir_all(&was).expect("the folder can be removed");
        // What is on the disk now is what there is.
        fs::remove_dir_all(&self.shadow).expect("the shadow can be removed");
        fs::create_dir(&self.shadow).expect("a folder for the shadow");
        self.rebuild_shadow("");
    }

    fn restore(&self, was: &Path, folder: &str, chance: &mut Random) {
        fs::create_dir(self.data.join(folder)).expect("a folder of the data");
        let synced = read_name_list(&self.shadow.join(shadow_name(folder) + "%names"));
        let there = list_dir(&was.join(folder));
        for name in synced.union(&there) {
            if synced.contains(name) != there.contains(name) && chance.coin() {
                continue;
            }
            let own = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
            if was.join(&own).is_dir() {
                self.restore(was, &own, chance);
                continue;
            }
            let kept = fs::read(self.shadow.join(shadow_name(&own))).unwrap_or_default();
            // One that was removed comes back as it was.
            let bytes = match fs::read(was.join(&own)) {
                Ok(last) => mix_pages(&kept, &last, chance),
                Err(_) => kept,
            };
            fs::write(self.data.join(&own), bytes).expect("a file");
        }
    }

    /// Makes the shadow of everything that is there.
    fn rebuild_shadow(&self, folder: &str) {
        let names = list_dir(&self.data.join(folder));
        let list: Vec<&str> = names.iter().map(String::as_str).collect();
        fs::write(self.shadow.join(shadow_name(folder) + "%names"), list.join("\n"))
            .expect("a list");
        for name in names {
            let own = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            if self.data.join(&own).is_dir() {
                self.rebuild_shadow(&own);
            } else {
                let to = self.shadow.join(shadow_name(&own));
                fs::copy(self.data.join(&own), to).expect("a copy");
            }
        }
    }
}

fn shadow_name(own: &str) -> String {
    own.replace('/', "%")
}

fn read_name_list(list: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(list).unwrap_or_default();
    text.lines().filter(|name| is_persistent(name)).map(str::to_owned).collect()
}

fn list_dir(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().into_string().expect("a name is text"));
    names.filter(|name| is_persistent(name)).collect()
}

/// Memory that processes share is made anew by whoever comes first.
fn is_persistent(name: &str) -> bool {
    !name.ends_with("-shm")
}

/// A file of which each page is as it was synced last, or as it was written last.
fn mix_pages(kept: &[u8], last: &[u8], chance: &mut Random) -> Vec<u8> {
    let mut bytes = kept.to_vec();
    if chance.coin() {
        bytes.resize(last.len(), 0);
    }
    for (page, written) in bytes.chunks_mut(PAGE_BYTES).zip(last.chunks(PAGE_BYTES)) {
        let both = page.len().min(written.len());
        if page[..both] != written[..both] && chance.coin() {
            page[..both].copy_from_slice(&written[..both]);
        }
    }
    bytes
}

/// Chance that can be repeated: a seed and what follows from it.
pub struct Random(pub u64);

impl Random {
    /// From the variable, if it is set, else another each time; it is printed.
    pub fn from_env(variable: &str) -> Self {
        let given = std::env::var(variable).ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or(0, |since| since.as_secs() ^ u64::from(since.subsec_nanos()))
        });
        println!("chance: {variable}={seed}");
        Self(seed)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ mixed >> 31) % limit
    }

    pub fn coin(&mut self) -> bool {
        self.below(2) == 0
    }
}

/// The compiled shim, made once a process.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let library = scratch().join("shim.so");
        // Whoever compiles it beside this process makes the same; each is there whole or not.
        let own = scratch().join(format!("shim-{}.so", std::process::id()));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gateway/harness/fault_shim.c");
        let mut command = Command::new("cc");
        command.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-Wno-format-truncation"]);
        let made = command.arg("-o").arg(&own).arg(source).output().expect("a C compiler");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        fs::rename(&own, &library).expect("the shim can be put in its place");
        library
    })
}
