//! Reads a chain: the projector follows it while it grows, recovery reads it to its end.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::journal::entry::Entry;
use crate::journal::format;
use crate::journal::segment::ChainName;

/// Reads the entries of one chain in order.
#[derive(Debug)]
pub struct Reader {
    folder: PathBuf,
    chain: ChainName,
    segment: u32,
    offset: u64,
    file: Option<File>,
    /// Size of the entries that this reader has read.
    bytes_read: u64,
    chunk: Vec<u8>,
}

/// How much is read at once. Every entry fits.
const CHUNK_BYTES: usize = 256 * 1024;

/// The content of a segment where nothing was written.
static ZEROS: [u8; CHUNK_BYTES] = [0; CHUNK_BYTES];

impl Reader {
    /// Creates a reader that starts at `offset` in `segment`.
    pub fn new(folder: &Path, chain: ChainName, segment: u32, offset: u64) -> Self {
        Self {
            folder: folder.to_owned(),
            chain,
            segment,
            offset,
            file: None,
            bytes_read: 0,
            chunk: Vec::new(),
        }
    }

    pub const fn chain(&self) -> ChainName {
        self.chain
    }

    /// Returns the current segment and how many bytes of it have been read.
    pub const fn checkpoint(&self) -> (u32, u64) {
        (self.segment, self.offset)
    }

    /// Returns the size of the entries that this reader has read.
    pub const fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// Reads about `entries_max` entries, up to position `end`.
    pub fn read(
        &mut self,
        end: u64,
        entries_max: usize,
        mut on_entry: impl FnMut(Entry<String>),
    ) -> io::Result<()> {
        let mut count = 0;
        while self.bytes_read < end && count < entries_max {
            let read = self.read_chunk(end, &mut |entry| {
                count += 1;
                on_entry(entry);
            })?;
            if read == 0 && !self.open_next_segment()? {
                let what = format!("{:?}: published entries are missing", self.chain);
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
            }
        }
        Ok(())
    }

    /// Reads a chain that is no longer written to its end. Entries damaged by a power loss are
    /// skipped and logged.
    pub fn read_to_end(&mut self, mut on_entry: impl FnMut(Entry<String>)) -> io::Result<()> {
        loop {
            if self.read_chunk(u64::MAX, &mut on_entry)? == 0
                && !self.skip_damaged()?
                && !self.open_next_segment()?
            {
                return Ok(());
            }
        }
    }

    /// Reads to the end of segment `last`, or to the end of the chain if that comes first. The
    /// chain may still be written.
    pub fn read_through(
        &mut self,
        last: u32,
        mut on_entry: impl FnMut(Entry<String>),
    ) -> io::Result<()> {
        loop {
            let is_over = self.read_chunk(u64::MAX, &mut on_entry)? == 0;
            if is_over && (last <= self.segment || !self.open_next_segment()?) {
                return Ok(());
            }
        }
    }

    /// Skips to the next intact entry of this segment. Returns false if there is none.
    fn skip_damaged(&mut self) -> io::Result<bool> {
        let Some(file) = &self.file else { return Ok(false) };
        let (start, overlap) = (self.offset, format::ENTRY_BYTES_MAX + format::PREFIX_BYTES);
        let mut offset = start;
        loop {
            self.chunk.resize(CHUNK_BYTES, 0);
            let filled = read_at(file, &mut self.chunk, offset)?;
            let bytes = &self.chunk[..filled];
            let is_zero = *bytes == ZEROS[..filled];
            if let Some(at) = if is_zero { None } else { format::find_entry(bytes) } {
                self.offset = offset + at as u64;
                let (chain, segment) = (self.chain, self.segment);
                tracing::error!(
                    ?chain,
                    segment,
                    start,
                    end = self.offset,
                    "skipped damaged journal entries"
                );
                return Ok(true);
            }
            if filled < CHUNK_BYTES {
                return Ok(false);
            }
            offset += (filled - overlap) as u64;
        }
    }

    /// Returns true if there is an entry at the current position of this segment.
    pub fn has_entry(mut self) -> io::Result<bool> {
        Ok(self.read_chunk(self.bytes_read + 1, &mut |_| {})? != 0)
    }

    /// Passes the entries of one chunk to `on_entry` and returns their size in bytes.
    fn read_chunk(
        &mut self,
        end: u64,
        on_entry: &mut impl FnMut(Entry<String>),
    ) -> io::Result<usize> {
        let file = match &self.file {
            Some(file) => file,
            None => match self.chain.segment(self.segment).open(&self.folder) {
                Ok(file) => self.file.insert(file),
                Err(fault) if fault.kind() == io::ErrorKind::NotFound => return Ok(0),
                Err(fault) => return Err(fault),
            },
        };
        let left = end - self.bytes_read;
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        self.chunk.resize(wanted.max(format::ENTRY_BYTES_MAX + format::PREFIX_BYTES), 0);
        let filled = read_at(file, &mut self.chunk, self.offset)?;
        let mut at = 0;
        while (at as u64) < left
            && let Some((entry, length)) = format::read(&self.chunk[at..filled])
        {
            at += length;
            on_entry(entry);
        }
        self.offset += at as u64;
        self.bytes_read += at as u64;
        Ok(at)
    }

    /// Opens the next segment. Returns false if there is none.
    fn open_next_segment(&mut self) -> io::Result<bool> {
        match self.chain.segment(self.segment + 1).open(&self.folder) {
            Ok(file) => {
                self.segment += 1;
                self.offset = 0;
                self.file = Some(file);
                Ok(true)
            }
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(fault) => Err(fault),
        }
    }
}

fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
            Err(fault) => return Err(fault),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::domain::ids::RequestLogId;
    use crate::domain::settlement::Charge;
    use crate::journal::chains::{Durability, Journal, JournalSettings};
    use crate::journal::entry::Progress;
    use crate::journal::writer::Writer;

    fn progress(id: u128) -> Entry<String> {
        Entry::Progress(Progress { id: RequestLogId(id), charge: Charge::not_charged() })
    }

    fn settings(folder: &Path) -> JournalSettings {
        JournalSettings {
            folder: folder.to_owned(),
            durability: Durability::Process,
            segment_bytes: 1000,
            retention: Duration::from_mins(1),
            backlog_bytes_max: 1 << 30,
        }
    }

    #[test]
    fn entries_of_many_segments_are_read_in_order() {
        let folder = tempfile::tempdir().expect("a folder");
        let journal = Arc::new(Journal::open(settings(folder.path()), 1, 1).expect("a journal"));
        journal.start_maintenance().expect("a thread");
        let chain = Arc::clone(&journal.chains()[0]);
        let writer = Writer::new(Arc::clone(&chain)).expect("a segment");
        let mut reader = Reader::new(folder.path(), chain.name, 0, 0);
        let mut read = Vec::new();
        let mut position = writer.append(&progress(0));
        for id in 1..200 {
            writer.commit();
            while !chain.has_next_segment() {
                std::thread::yield_now();
            }
            position = writer.append(&progress(id));
        }
        writer.commit();
        assert_eq!(chain.published(), position.0);
        while reader.bytes_read() < position.0 {
            reader.read(chain.published(), 7, |entry| read.push(entry)).expect("entries");
        }
        assert!(5 < reader.checkpoint().0, "many segments");
        let expected: Vec<_> = (0..200).map(progress).collect();
        assert_eq!(read, expected);

        let read_all = || {
            let mut again = Reader::new(folder.path(), chain.name, 0, 0);
            let mut read = Vec::new();
            again.read_to_end(|entry| read.push(entry)).expect("entries");
            read
        };
        assert_eq!(read_all(), expected);

        let mut part = Reader::new(folder.path(), chain.name, 0, 0);
        let mut count = 0;
        part.read_through(2, |_| count += 1).expect("entries");
        assert_eq!(part.checkpoint().0, 2, "stops at segment 2, although there are more");
        assert!(0 < count && count < 200, "{count}");
        let has_entry = |number| Reader::new(folder.path(), chain.name, number, 0).has_entry();
        let last = reader.checkpoint().0;
        assert!(has_entry(0).expect("read") && !has_entry(last + 1).expect("read"));

        // A power loss may leave zeros anywhere, and may garble the last write.
        let length = position.0 / 200;
        for (segment, at, bytes) in [(0, 0, length), (2, length, 2 * length), (3, 7, 1)] {
            let file = OpenOptions::new()
                .write(true)
                .open(chain.name.segment(segment).path(folder.path()));
            let hole = vec![0; usize::try_from(bytes).expect("few")];
            file.expect("a segment").write_all_at(&hole, at).expect("written");
        }
        let left: Vec<_> =
            expected.into_iter().filter(|entry| read_all().contains(entry)).collect();
        assert_eq!((read_all(), left.len()), (left, 200 - 4));
    }
}
