//! Generated secrets: 256 random bits and a checksum. Only the hash is stored.

use sha2::{Digest, Sha256};

use crate::accounting::key_directory::{KEY_PREFIX, SecretHash};
use crate::settings::secret::Secret;

/// What a secret gives access to; the prefix of the secret names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretKind {
    ApiKey,
    /// The admin API, for a program.
    AdminToken,
    /// The admin API, for a signed-in person.
    Session,
    /// The creation of the first operator.
    SetupLink,
}

/// A secret that was just generated.
#[derive(Debug)]
pub struct GeneratedSecret {
    /// To be returned to the client, once.
    pub secret: Secret,
    /// To be stored.
    pub hash: SecretHash,
    /// The last four characters, by which people recognize the secret.
    pub last4: String,
}

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const RANDOM_DIGITS: usize = 43;
const CHECK_DIGITS: usize = 6;

impl SecretKind {
    /// Returns the prefix of such secrets.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::ApiKey => KEY_PREFIX,
            Self::AdminToken => "at-mtr-",
            Self::Session => "ses-mtr-",
            Self::SetupLink => "set-mtr-",
        }
    }

    /// Generates a secret.
    pub fn generate(self) -> GeneratedSecret {
        let mut text = String::with_capacity(64);
        text.push_str(self.prefix());
        push_random_digits(&mut text, RANDOM_DIGITS);
        let check = checksum(&text);
        text.push_str(&check);
        let last4 = text[text.len() - 4..].to_owned();
        GeneratedSecret { hash: hash(&text), last4, secret: Secret::new(text) }
    }

    /// Returns whether `text` has the prefix, length and checksum of such a secret. Other texts are
    /// refused without a database query.
    pub fn matches_format(self, text: &str) -> bool {
        let Some(digits) = text.strip_prefix(self.prefix()) else { return false };
        digits.len() == RANDOM_DIGITS + CHECK_DIGITS
            && digits.bytes().all(|digit| digit.is_ascii_alphanumeric())
            && text.ends_with(&checksum(&text[..text.len() - CHECK_DIGITS]))
    }
}

pub fn hash(secret: &str) -> SecretHash {
    Sha256::digest(secret.as_bytes()).into()
}

fn push_random_digits(text: &mut String, count: usize) {
    let end = text.len() + count;
    while text.len() < end {
        let mut bytes = [0; 64];
        getrandom::fill(&mut bytes).expect("the operating system provides random bytes");
        // 248 is the largest multiple of 62 that fits in a byte. Larger bytes are dropped, as they
        // would make some digits more likely than others.
        let digits = bytes.into_iter().filter(|byte| *byte < 248).map(|byte| byte % 62);
        let missing = end - text.len();
        text.extend(digits.take(missing).map(|digit| char::from(DIGITS[usize::from(digit)])));
    }
}

/// Returns the CRC-32 of `text` in base 62.
fn checksum(text: &str) -> String {
    let mut remainder = crc32fast::hash(text.as_bytes());
    let mut digits = [b'0'; CHECK_DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[usize::try_from(remainder % 62).unwrap_or_default()];
        remainder /= 62;
    }
    digits.into_iter().map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_matches_its_own_format_only() {
        let generated = SecretKind::ApiKey.generate();
        let text = generated.secret.expose();
        assert_eq!(text.len(), 7 + 49);
        assert!(
            SecretKind::ApiKey.matches_format(text) && !SecretKind::AdminToken.matches_format(text)
        );
        assert_eq!(generated.hash, hash(text));
        assert!(text.ends_with(&generated.last4));
        let mut other = text.to_owned();
        other.replace_range(10..11, if &text[10..11] == "a" { "b" } else { "a" });
        assert!(!SecretKind::ApiKey.matches_format(&other), "the checksum detects a typing error");
        assert_ne!(SecretKind::ApiKey.generate().secret, generated.secret);
        for text in ["", "sk-mtr-", "sk-mtr-é", &format!("sk-mtr-{}", "é".repeat(24))] {
            assert!(!SecretKind::ApiKey.matches_format(text), "{text}");
        }
    }

    #[test]
    fn the_checksum_is_six_base_62_digits() {
        assert_eq!(checksum(""), "000000");
        assert_eq!(checksum("123456789").len(), 6, "CRC-32 is 0xcbf43926");
        let value = checksum("123456789").bytes().fold(0_u64, |value, digit| {
            value * 62
                + DIGITS.iter().position(|candidate| *candidate == digit).expect("a digit") as u64
        });
        assert_eq!(value, 0xcbf4_3926);
    }
}
