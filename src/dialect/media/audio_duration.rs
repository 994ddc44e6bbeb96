//! The maximum duration of an audio file.

/// Minimum bytes per second of audio, for formats whose header is not read.
const BYTES_PER_SECOND_MIN: usize = 1_000;

/// WAV formats with samples of a fixed size: integers and floats.
const PLAIN_FORMATS: [u16; 2] = [1, 3];
const EXTENDED_FORMAT: u16 = 0xFFFE;

/// Returns the duration of an audio file in seconds, rounded up. The header of a WAV file has it;
/// for other files it is the maximum at 1,000 bytes per second.
pub fn seconds(file: &[u8]) -> u64 {
    wav_seconds(file).unwrap_or_else(|| file.len().div_ceil(BYTES_PER_SECOND_MIN) as u64)
}

/// Returns the duration of a WAV file: the length of its samples divided by their rate.
fn wav_seconds(file: &[u8]) -> Option<u64> {
    let rest = file.strip_prefix(b"RIFF")?.get(4..)?.strip_prefix(b"WAVE")?;
    let (mut rest, mut rate) = (rest, None);
    loop {
        let (name, size) = (rest.get(..4)?, u32_at(rest, 4)?);
        let chunk = rest.get(8..)?;
        if name == b"data" {
            let present = chunk.len() as u64;
            // A live recorder writes the header before it knows the length.
            let has_size = !matches!(size, 0 | u32::MAX);
            let bytes = if has_size { u64::from(size).min(present) } else { present };
            return rate.filter(|rate| 0 < *rate).map(|rate| bytes.div_ceil(rate));
        }
        let size = usize::try_from(size).ok()?;
        if name == b"fmt " {
            // With two headers it is undefined which one a player uses.
            if rate.is_some() {
                return None;
            }
            rate = bytes_per_second(chunk.get(..size)?);
        }
        // Chunks begin at even offsets.
        rest = chunk.get(size.checked_add(size & 1)?..)?;
    }
}

/// Returns sampling rate × channels × bytes per sample. The header also contains the product, but
/// players ignore it.
fn bytes_per_second(format: &[u8]) -> Option<u64> {
    let (kind, channels, bits) = (u16_at(format, 0)?, u16_at(format, 2)?, u16_at(format, 14)?);
    let frames = u64::from(u32_at(format, 4)?);
    // The extended header has the actual format at the end.
    let kind = if kind == EXTENDED_FORMAT { u16_at(format, 24)? } else { kind };
    let is_plain = PLAIN_FORMATS.contains(&kind);
    is_plain.then(|| frames * u64::from(channels) * u64::from(bits.div_ceil(8)))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a mono file with 16-bit samples, 16,000 per second, whose header claims `claimed`
    /// bytes.
    fn file(format: u16, claimed: u32, bytes: usize) -> Vec<u8> {
        let mut file = b"RIFF\0\0\0\0WAVELIST\x03\0\0\0abc\0fmt \x10\0\0\0".to_vec();
        file.extend(format.to_le_bytes());
        file.extend([1, 0]);
        file.extend(16_000_u32.to_le_bytes());
        // A wrong product.
        file.extend(u32::MAX.to_le_bytes());
        file.extend([2, 0, 16, 0]);
        file.extend(b"data");
        file.extend(claimed.to_le_bytes());
        file.extend(vec![0; bytes]);
        file
    }

    #[test]
    fn a_wav_file_is_as_long_as_its_samples() {
        for (claimed, bytes, expected) in [
            (32_000, 32_000, 1),
            (32_001, 32_001, 2),
            (64_000, 64_500, 2),
            (u32::MAX, 96_000, 3),
            (0, 96_000, 3),
            (320_000, 32_000, 1),
        ] {
            assert_eq!(seconds(&file(1, claimed, bytes)), expected, "{claimed} {bytes}");
        }
    }

    #[test]
    fn other_files_have_a_second_per_thousand_bytes() {
        assert_eq!(seconds(&[0xff; 2_001]), 3);
        assert_eq!(seconds(b""), 0);
        let packed = file(0x11, 32_000, 32_000);
        assert_eq!(seconds(&packed), packed.len().div_ceil(1_000) as u64, "not plain samples");
        let mut silent = file(1, 32_000, 32_000);
        silent[34] = 0;
        silent[35] = 0;
        for file in [&silent[..20], &silent[..40], &silent] {
            let _ = seconds(file);
        }
    }

    #[test]
    fn ambiguous_headers_are_ignored() {
        let by_bytes = |file: &[u8]| file.len().div_ceil(1_000) as u64;
        let plain = file(1, 32_000, 32_000);
        // A second format header with ten times the rate after the first.
        let format = &plain[24..48];
        let mut twice = [&plain[..48], format, &plain[48..]].concat();
        twice[48 + 12..48 + 16].copy_from_slice(&160_000_u32.to_le_bytes());
        assert_eq!(seconds(&twice), by_bytes(&twice));
        let extended = file(0xFFFE, 32_000, 32_000);
        assert_eq!(seconds(&extended), by_bytes(&extended), "the header lacks the actual format");
    }

    #[test]
    fn truncated_files_are_bound_by_their_bytes() {
        let whole = file(1, 400, 400);
        for cut in 0..whole.len() {
            assert!(seconds(&whole[..cut]) <= 1, "{cut}");
        }
    }
}
