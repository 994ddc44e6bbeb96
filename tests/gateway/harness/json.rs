//! JSON read as it was written: a number stays its text, so that money is exact.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::value::RawValue;

/// One JSON value, as its text.
#[derive(Clone, PartialEq, Eq)]
pub struct Json(String);

impl Json {
    pub fn new(text: &str) -> Self {
        let valid = serde_json::from_str::<&RawValue>(text);
        assert!(valid.is_ok(), "not JSON: {text:?}");
        Self(text.trim().to_owned())
    }

    /// The member `path` of an object, such as `data.wallet.balance`; it must be there.
    #[track_caller]
    pub fn at(&self, path: &str) -> Self {
        self.find(path).unwrap_or_else(|| panic!("no `{path}` in {}", self.0))
    }

    pub fn find(&self, path: &str) -> Option<Self> {
        path.split('.').try_fold(self.clone(), |value, name| {
            let members: BTreeMap<String, &RawValue> = serde_json::from_str(&value.0).ok()?;
            members.get(name).map(|member| Self(member.get().to_owned()))
        })
    }

    #[track_caller]
    pub fn list(&self) -> Vec<Self> {
        let items: Vec<&RawValue> = serde_json::from_str(&self.0)
            .unwrap_or_else(|fault| panic!("not a list ({fault}): {}", self.0));
        items.into_iter().map(|item| Self(item.get().to_owned())).collect()
    }

    pub fn is_null(&self) -> bool {
        self.0 == "null"
    }

    pub fn is_true(&self) -> bool {
        self.0 == "true"
    }

    #[track_caller]
    pub fn text(&self) -> String {
        serde_json::from_str(&self.0).unwrap_or_else(|_| panic!("not a text: {}", self.0))
    }

    #[track_caller]
    pub fn count(&self) -> u64 {
        self.0.parse().unwrap_or_else(|_| panic!("not a count: {}", self.0))
    }

    /// An amount in nano-units of the currency, read from its decimal text.
    #[track_caller]
    pub fn nano(&self) -> i128 {
        let (sign, digits) = self.0.strip_prefix('-').map_or((1, &*self.0), |rest| (-1, rest));
        let (whole, part) = digits.split_once('.').expect("money has a decimal point");
        let exact =
            (2..=9).contains(&part.len()) && digits.bytes().all(|b| b".0123456789".contains(&b));
        assert!(exact, "money is plain text of 2 to 9 decimals: {}", self.0);
        sign * format!("{whole}{part:0<9}").parse::<i128>().expect("money is a decimal number")
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.0)
    }
}

impl fmt::Display for Json {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.0)
    }
}

/// Writes nano-units as the decimal text that the admin API takes.
pub fn money(nano: i128) -> String {
    format!("{}.{:09}", nano / 1_000_000_000, nano % 1_000_000_000)
}

#[test]
fn money_is_read_and_written_to_the_nano() {
    for (text, nano) in [("0.00", 0), ("1000.00", 1_000_000_000_000), ("0.000000375", 375)] {
        assert_eq!(Json::new(text).nano(), nano);
        assert_eq!(Json::new(&money(nano)).nano(), nano);
    }
    assert_eq!(Json::new("-12.50").nano(), -12_500_000_000);
}
