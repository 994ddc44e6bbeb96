//! Civil time in UTC: instants, minutes, days, and months that begin on a reset day.

use std::fmt;

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixMs(pub i64);

/// A UTC minute, counted from 1970-01-01T00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Minute(pub i64);

/// A UTC date, counted in days from 1970-01-01.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Day(pub i64);

/// The day of the month on which a project's month begins: 1..=28, so that every month has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResetDay(u8);

/// A project's month: the days from `first` up to but excluding `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Month {
    /// The first day; the month begins at 00:00 UTC.
    pub first: Day,
    /// The first day of the next month.
    pub end: Day,
}

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 86_400_000;

impl UnixMs {
    /// Returns the minute that contains this instant.
    pub const fn minute(self) -> Minute {
        Minute(self.0.div_euclid(MINUTE_MS))
    }

    /// Returns the date that contains this instant.
    pub const fn day(self) -> Day {
        Day(self.0.div_euclid(DAY_MS))
    }
}

/// Returns the seconds from `now` until `at`, rounded up; 0 if `at` has passed.
pub fn seconds_until(at: UnixMs, now: UnixMs) -> u64 {
    u64::try_from(at.0.saturating_sub(now.0)).unwrap_or(0).div_ceil(1_000)
}

/// Writes RFC 3339 with milliseconds: `2024-01-15T10:30:00.000Z`.
impl fmt::Display for UnixMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.rem_euclid(DAY_MS);
        let (hour, minute) = (ms / 3_600_000, ms / MINUTE_MS % 60);
        let (second, milli) = (ms / 1_000 % 60, ms % 1_000);
        write!(f, "{}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z", self.day())
    }
}

impl Minute {
    /// Returns the first instant of this minute.
    pub const fn start(self) -> UnixMs {
        UnixMs(self.0 * MINUTE_MS)
    }

    /// Returns the first instant of the next minute.
    pub const fn end(self) -> UnixMs {
        UnixMs((self.0 + 1) * MINUTE_MS)
    }
}

impl Day {
    /// Returns 00:00 UTC of this date.
    pub const fn start(self) -> UnixMs {
        UnixMs(self.0 * DAY_MS)
    }

    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Returns the date of a proleptic Gregorian year, month (1..=12) and day of the month.
    pub const fn from_civil(year: i64, month: i64, day: i64) -> Self {
        // Years are counted from March, so that the leap day is the last day of its year.
        let year = if month <= 2 { year - 1 } else { year };
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        Self(era * 146_097 + day_of_era - 719_468)
    }

    /// Returns the year, month (1..=12) and day of the month.
    pub const fn civil(self) -> (i64, i64, i64) {
        let days = self.0 + 719_468;
        let era = days.div_euclid(146_097);
        let day_of_era = days.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted + 2) / 5 + 1;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
        (year, month, day)
    }

    /// Parses `2024-01-15`. Returns `None` for any other text and for impossible dates.
    pub fn parse(text: &str) -> Option<Self> {
        let (year, rest) = text.split_once('-')?;
        let (month, day) = rest.split_once('-')?;
        if (year.len(), month.len(), day.len()) != (4, 2, 2) {
            return None;
        }
        let date = Self::from_civil(year.parse().ok()?, month.parse().ok()?, day.parse().ok()?);
        (date.to_string() == text).then_some(date)
    }
}

/// Writes `2024-01-15`.
impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.civil();
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

impl ResetDay {
    pub const FIRST: Self = Self(1);

    /// Returns `None` outside 1..=28.
    pub const fn new(day: u8) -> Option<Self> {
        if 1 <= day && day <= 28 { Some(Self(day)) } else { None }
    }

    /// Returns the day of the month, 1..=28.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Returns the month of this reset day that contains `day`.
    pub const fn month_of(self, day: Day) -> Month {
        let (year, month, date) = day.civil();
        let begun = self.0 as i64 <= date;
        let index = year * 12 + month - 1 - if begun { 0 } else { 1 };
        Month { first: self.start_in(index), end: self.start_in(index + 1) }
    }

    /// Returns the reset day in the civil month `index` = year × 12 + month − 1.
    const fn start_in(self, index: i64) -> Day {
        Day::from_civil(index.div_euclid(12), index.rem_euclid(12) + 1, self.0 as i64)
    }
}

impl Month {
    /// Returns whether the month contains `day`.
    pub fn contains(self, day: Day) -> bool {
        self.first <= day && day < self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn civil_dates_and_day_numbers_convert_both_ways_for_two_hundred_years() {
        let (mut year, mut month, mut date) = (1970, 1, 1);
        for day in 0..73_050 {
            assert_eq!(Day(day).civil(), (year, month, date));
            assert_eq!(Day::from_civil(year, month, date), Day(day));
            let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
            let last = match month {
                2 => 28 + i64::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            (year, month, date) = match (month, date) {
                (12, 31) => (year + 1, 1, 1),
                (_, date) if date == last => (year, month + 1, 1),
                _ => (year, month, date + 1),
            };
        }
    }

    #[test]
    fn each_day_lies_in_exactly_one_month_of_each_reset_day() {
        for reset in 1..=28 {
            let reset = ResetDay::new(reset).expect("1..=28");
            let mut month = reset.month_of(Day(0));
            for day in (0..73_050).map(Day) {
                if day == month.end {
                    let next = reset.month_of(day);
                    assert_eq!(next.first, month.end);
                    month = next;
                }
                assert!(month.contains(day) && reset.month_of(day) == month, "{day}");
            }
        }
        assert!(ResetDay::new(0).is_none() && ResetDay::new(29).is_none());
    }

    #[test]
    fn instants_display_as_rfc_3339() {
        assert_eq!(UnixMs(1_705_314_600_000).to_string(), "2024-01-15T10:30:00.000Z");
        assert_eq!(UnixMs(-1).to_string(), "1969-12-31T23:59:59.999Z");
        assert_eq!(Day::parse("2024-02-30"), None);
        assert_eq!(Day::parse("2024-02-29"), Some(Day(19_782)));
    }

    #[test]
    fn minutes_and_days_meet_without_a_gap() {
        let ten_thirty = UnixMs(1_705_314_600_000);
        let minute = ten_thirty.minute();
        assert_eq!((minute.start(), minute.end()), (ten_thirty, UnixMs(ten_thirty.0 + 60_000)));
        assert_eq!(minute.end().minute(), Minute(minute.0 + 1));
        let day = ten_thirty.day();
        assert_eq!(day.start().to_string(), "2024-01-15T00:00:00.000Z");
        assert_eq!(day.next().to_string(), "2024-01-16");
        assert_eq!(day.next().start().0 - day.start().0, 86_400_000);
    }

    #[test]
    fn seconds_until_an_instant_are_rounded_up() {
        let seconds = |at| seconds_until(UnixMs(at), UnixMs(10_000));
        assert_eq!([9_000, 10_000, 10_001, 11_000, 11_001].map(seconds), [0, 0, 1, 1, 2]);
        assert_eq!(seconds_until(UnixMs(i64::MAX), UnixMs(i64::MIN)), 9_223_372_036_854_776);
    }

    #[test]
    fn a_month_contains_its_first_day_and_not_its_end() {
        let fifth = ResetDay::new(5).expect("1..=28");
        assert_eq!((fifth.get(), ResetDay::FIRST.get()), (5, 1));
        let month = fifth.month_of(Day::parse("2024-01-15").expect("a date"));
        assert_eq!(month.first.to_string() + " " + &month.end.to_string(), "2024-01-05 2024-02-05");
        assert!(month.contains(month.first) && !month.contains(Day(month.first.0 - 1)));
        assert!(month.contains(Day(month.end.0 - 1)) && !month.contains(month.end));
    }
}
