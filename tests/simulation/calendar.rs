//! The civil calendar, computed by counting years, months and days.

pub const MINUTE_MS: i64 = 60_000;
pub const DAY_MS: i64 = 86_400_000;

/// Minutes since 1970.
pub fn minute_of(at: i64) -> i64 {
    at.div_euclid(MINUTE_MS)
}

/// Days since 1970.
pub fn day_of(at: i64) -> i64 {
    at.div_euclid(DAY_MS)
}

fn year_days(year: i64) -> i64 {
    365 + i64::from(year % 4 == 0 && year % 100 != 0 || year % 400 == 0)
}

fn month_days(year: i64, month: i64) -> i64 {
    match month {
        2 => year_days(year) - 337,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// The first day of the month that contains `day`, and of the next month, where months begin on
/// `reset_day`.
pub fn month_of(day: i64, reset_day: i64) -> (i64, i64) {
    let (mut year, mut month, mut first) = (1970, 1, 0);
    while first + year_days(year) <= day {
        first += year_days(year);
        year += 1;
    }
    while first + month_days(year, month) <= day {
        first += month_days(year, month);
        month += 1;
    }
    if reset_day <= day - first + 1 {
        return (first + reset_day - 1, first + month_days(year, month) + reset_day - 1);
    }
    let before = if month == 1 { 31 } else { month_days(year, month - 1) };
    (first - before + reset_day - 1, first + reset_day - 1)
}
