//! JSON values kept as text, so that numbers (amounts of money) stay exact.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::value::RawValue;

/// One JSON value as its source text.
#[derive(Clone, PartialEq, Eq)]
pub struct Json(String);

impl Json {
    pub fn new(text: &str) -> Self {
        let valid = serde_json::from_str::<&RawValue>(text);
        assert!(valid.is_ok(), "not JSON: {text:?}");
        Self(text.trim().to_owned())
    }

    /// Returns the member at `path`, such as `data.wallet.balance`. Panics if it is missing.
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
            .unwrap_or_else(|error| panic!("not a list ({error}): {}", self.0));
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
        serde_json::from_str(&self.0).unwrap_or_else(|_| panic!("not a string: {}", self.0))
    }

    #[track_caller]
    pub fn count(&self) -> u64 {
        self.0.parse().unwrap_or_else(|_| panic!("not an unsigned integer: {}", self.0))
    }

    /// Parses a decimal amount into nano-units of the currency.
    #[track_caller]
    pub fn nano(&self) -> i128 {
        let (sign, digits) = self.0.strip_prefix('-').map_or((1, &*self.0), |rest| (-1, rest));
        let (integer, decimals) = digits.split_once('.').expect("an amount has a decimal point");
        let exact = (2..=9).contains(&decimals.len())
            && digits.bytes().all(|b| b".0123456789".contains(&b));
        assert!(exact, "an amount has 2 to 9 decimals: {}", self.0);
        sign * format!("{integer}{decimals:0<9}")
            .parse::<i128>()
            .expect("an amount is a decimal number")
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Display for Json {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Formats nano-units as the decimal text that the admin API accepts.
pub fn money(nano: i128) -> String {
    format!("{}.{:09}", nano / 1_000_000_000, nano % 1_000_000_000)
}

#[test]
fn amounts_round_trip_to_the_nano() {
    for (text, nano) in [("0.00", 0), ("1000.00", 1_000_000_000_000), ("0.000000375", 375)] {
        assert_eq!(Json::new(text).nano(), nano);
        assert_eq!(Json::new(&money(nano)).nano(), nano);
    }
    assert_eq!(Json::new("-12.50").nano(), -12_500_000_000);
}
