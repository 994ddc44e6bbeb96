//! 128-bit identifiers: one type per kind of resource, with the prefix that the API shows.

use std::fmt;

/// The text is not an id of the expected kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MalformedId;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u128);

        impl $name {
            /// Parses what `Display` writes: the prefix and 32 lower-case hex digits.
            pub fn parse(text: &str) -> Result<Self, MalformedId> {
                let digits = text.strip_prefix($prefix).ok_or(MalformedId)?;
                hex32(digits).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{:032x}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}

macro_rules! plain_ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub u128);

        impl $name {
            /// Parses a UUID in its hyphenated form.
            pub fn parse(text: &str) -> Result<Self, MalformedId> {
                unhyphenated(text).map(Self)
            }

            /// Returns the hyphenated form as 36 ASCII bytes, without an allocation.
            pub fn hyphenated(self) -> [u8; 36] {
                hyphenated(self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(std::str::from_utf8(&self.hyphenated()).unwrap_or_default())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}

ids! {
    /// An organization: the tenant that owns projects and pays from its wallet.
    OrganizationId "org_";
    /// A project: the unit of metering and quotas.
    ProjectId "proj_";
    /// An API key of a project.
    ApiKeyId "key_";
    /// A line of a wallet's ledger.
    RecordId "rec_";
    /// A bearer token of the admin API.
    AdminTokenId "at_";
    /// A gateway node; created with its data folder.
    NodeId "node_";
    /// A line of the audit log.
    AuditId "audit_";
    /// An upstream: a provider's endpoint.
    UpstreamId "up_";
    /// A price override set through the admin API.
    PriceId "price_";
}

plain_ids! {
    /// A call. Time-ordered (`UUIDv7`), so that new rows are appended to the index.
    RequestLogId;
    /// A user of the admin API.
    UserId;
}

fn hex32(digits: &str) -> Result<u128, MalformedId> {
    let lower = digits.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f'));
    if digits.len() != 32 || !lower {
        return Err(MalformedId);
    }
    u128::from_str_radix(digits, 16).map_err(|_| MalformedId)
}

const HYPHENS: [usize; 4] = [8, 13, 18, 23];

fn unhyphenated(text: &str) -> Result<u128, MalformedId> {
    let bytes = text.as_bytes();
    if bytes.len() != 36 || !HYPHENS.iter().all(|at| bytes[*at] == b'-') {
        return Err(MalformedId);
    }
    let digits: String = text.chars().filter(|letter| *letter != '-').collect();
    hex32(&digits.to_ascii_lowercase())
}

fn hyphenated(id: u128) -> [u8; 36] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [b'-'; 36];
    let mut nibbles =
        id.to_be_bytes().into_iter().flat_map(|byte| [byte >> 4, byte & 15]).map(usize::from);
    for (at, letter) in text.iter_mut().enumerate() {
        if !HYPHENS.contains(&at) {
            *letter = DIGITS[nibbles.next().unwrap_or_default()];
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_parses_its_display_text() {
        let id = ProjectId(0x0190_1234_5678_7abc_8def_0123_4567_89ab);
        assert_eq!(id.to_string(), "proj_0190123456787abc8def0123456789ab");
        assert_eq!(ProjectId::parse(&id.to_string()), Ok(id));
        let call = RequestLogId(id.0);
        assert_eq!(call.to_string(), "01901234-5678-7abc-8def-0123456789ab");
        assert_eq!(RequestLogId::parse(&call.to_string()), Ok(call));
    }

    #[test]
    fn ids_of_another_kind_or_format_are_rejected() {
        for text in ["", "proj_", "org_0190123456787abc8def0123456789ab", "proj_+1", "proj_01901"] {
            assert_eq!(ProjectId::parse(text), Err(MalformedId), "{text}");
        }
        for text in ["01901234567-7abc-8def-0123456789abcd", "0190123-45678-7abc-8def-0123456789ab"]
        {
            assert_eq!(RequestLogId::parse(text), Err(MalformedId), "{text}");
        }
    }
}
