//! A gateway whose disk, clock and power fail on command: its process preloads `fault_shim.c`.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::harness::process::scratch;
use crate::harness::serve::ConfigDir;

/// Error numbers: no space left, I/O error, read-only file system.
pub const ENOSPC: u32 = 28;
pub const EIO: u32 = 5;
pub const EROFS: u32 = 30;
/// Not an error: only half of the bytes are written.
pub const SHORT: u32 = 0;

const CLOCK_BYTES: u64 = 8;
const CONTROL_BYTES: usize = 4_096;
const PAGE_BYTES: usize = 4_096;

/// Controls the faults of one configuration folder.
pub struct FaultShim {
    control: File,
    data: PathBuf,
    shadow: PathBuf,
}

impl FaultShim {
    /// Preloads the shim into the processes of this configuration.
    pub fn install(config_dir: ConfigDir) -> (Self, ConfigDir) {
        let folder = config_dir.path("shim");
        fs::create_dir(&folder).expect("a folder for the shim");
        let control = folder.join("control");
        fs::write(&control, [0; CONTROL_BYTES]).expect("the control file");
        let control =
            OpenOptions::new().write(true).open(&control).expect("the control file exists");
        let data = config_dir.path("data");
        let text = |path: &Path| path.to_str().expect("a path is text").to_owned();
        let shim = Self { control, data: data.clone(), shadow: folder.join("shadow") };
        let config_dir = config_dir
            .with_env("LD_PRELOAD", text(library()))
            .with_env("SHIM", text(&folder))
            .with_env("SHIM_DATA", text(&data));
        (shim, config_dir)
    }

    /// Like [`Self::install`], with a shadow disk that contains only what was synced.
    pub fn with_power_loss(config_dir: ConfigDir) -> (Self, ConfigDir) {
        let (shim, config_dir) = Self::install(config_dir);
        fs::create_dir(&shim.shadow).expect("a folder for the shadow");
        (shim, config_dir)
    }

    /// Sets the offset that is added to the wall clock.
    pub fn set_clock_offset_ms(&self, ms: i64) {
        self.control.write_all_at(&ms.to_ne_bytes(), 0).expect("the control file can be written");
    }

    /// Replaces the rules: each makes an operation on files whose path contains a part fail with an
    /// error.
    pub fn inject(&self, faults: &[(&str, &str, u32)]) {
        let line =
            |(operation, part, error): &(&str, &str, u32)| format!("{operation} {part} {error}\n");
        let mut text: Vec<u8> = faults.iter().map(line).collect::<String>().into_bytes();
        // Clear the first byte before writing, so that a concurrent reader sees no partial rule.
        self.control.write_all_at(&[0], CLOCK_BYTES).expect("the control file can be written");
        text.push(0);
        self.control.write_all_at(&text, CLOCK_BYTES).expect("the control file can be written");
    }

    pub fn clear(&self) {
        self.inject(&[]);
    }

    /// Names in a folder of the data folder.
    pub fn list_files(&self, folder: &str) -> BTreeSet<String> {
        list_dir(&self.data.join(folder))
    }

    /// Call after a kill. Reverts the data folder to what a disk could contain after a power loss:
    /// each page written after the last sync of its file, and each name created or removed after
    /// the last sync of its folder, is there or not at random.
    pub fn lose_power(&self, random: &mut Random) {
        let before = self.data.with_extension("was");
        fs::rename(&self.data, &before).expect("the folder can be moved");
        self.restore(&before, "", random);
        fs::remove_dir_all(&before).expect("the folder can be removed");
        // The shadow starts again from what is on the disk now.
        fs::remove_dir_all(&self.shadow).expect("the shadow can be removed");
        fs::create_dir(&self.shadow).expect("a folder for the shadow");
        self.rebuild_shadow("");
    }

    fn restore(&self, before: &Path, folder: &str, random: &mut Random) {
        fs::create_dir(self.data.join(folder)).expect("a folder of the data");
        let synced = read_name_list(&self.shadow.join(shadow_name(folder) + "%names"));
        let listed = list_dir(&before.join(folder));
        for name in synced.union(&listed) {
            if synced.contains(name) != listed.contains(name) && random.coin() {
                continue;
            }
            let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
            if before.join(&path).is_dir() {
                self.restore(before, &path, random);
                continue;
            }
            let synced_bytes = fs::read(self.shadow.join(shadow_name(&path))).unwrap_or_default();
            // A removed file comes back as last synced.
            let bytes = match fs::read(before.join(&path)) {
                Ok(last) => mix_pages(&synced_bytes, &last, random),
                Err(_) => synced_bytes,
            };
            fs::write(self.data.join(&path), bytes).expect("a file");
        }
    }

    /// Copies everything to the shadow disk.
    fn rebuild_shadow(&self, folder: &str) {
        let names = list_dir(&self.data.join(folder));
        let list: Vec<&str> = names.iter().map(String::as_str).collect();
        fs::write(self.shadow.join(shadow_name(folder) + "%names"), list.join("\n"))
            .expect("a list");
        for name in names {
            let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            if self.data.join(&path).is_dir() {
                self.rebuild_shadow(&path);
            } else {
                let to = self.shadow.join(shadow_name(&path));
                fs::copy(self.data.join(&path), to).expect("a copy");
            }
        }
    }
}

fn shadow_name(path: &str) -> String {
    path.replace('/', "%")
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

/// True unless the file is shared memory, which the next process recreates.
fn is_persistent(name: &str) -> bool {
    !name.ends_with("-shm")
}

/// Each page as last synced or as last written, at random.
fn mix_pages(synced_bytes: &[u8], last: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = synced_bytes.to_vec();
    if random.coin() {
        bytes.resize(last.len(), 0);
    }
    for (page, written) in bytes.chunks_mut(PAGE_BYTES).zip(last.chunks(PAGE_BYTES)) {
        let both = page.len().min(written.len());
        if page[..both] != written[..both] && random.coin() {
            page[..both].copy_from_slice(&written[..both]);
        }
    }
    bytes
}

/// A reproducible random number generator.
pub struct Random(pub u64);

impl Random {
    /// Takes the seed from the environment variable or else from the clock, and prints it.
    pub fn from_env(variable: &str) -> Self {
        let from_variable = std::env::var(variable).ok().and_then(|seed| seed.parse().ok());
        let seed = from_variable.unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or(0, |since| since.as_secs() ^ u64::from(since.subsec_nanos()))
        });
        println!("random seed: {variable}={seed}");
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

/// Compiles the shim, one time per process.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let library = scratch().join("shim.so");
        // Concurrent processes compile the same library; the rename makes each copy appear
        // complete.
        let temporary = scratch().join(format!("shim-{}.so", std::process::id()));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gateway/harness/fault_shim.c");
        let mut command = Command::new("cc");
        command.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-Wno-format-truncation"]);
        let made = command.arg("-o").arg(&temporary).arg(source).output().expect("a C compiler");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        fs::rename(&temporary, &library).expect("the library can be renamed");
        library
    })
}
