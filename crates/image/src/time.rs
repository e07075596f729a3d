//! Times as images have them.

/// The last second of the year 9999: later years have no RFC 3339 text.
const LAST: u64 = 253_402_300_799;

/// Seconds since 1970 as RFC 3339 text in UTC.
///
/// The date is computed as in "Euclidean affine functions and applications to calendar algorithms"
/// (Neri, Schneider), with years that begin in March.
#[must_use]
pub fn rfc3339(seconds: u64) -> String {
    let seconds = seconds.min(LAST);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days since March 1 of the year 0.
    let days = 4 * (days + 719_468) + 3;
    let (century, of_century) = (days / 146_097, days % 146_097 / 4);
    let of_century = 4 * of_century + 3;
    let (year, day_of_year) = (of_century / 1_461, of_century % 1_461 / 4);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    let year = 100 * century + year + later;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        second / 3_600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_dates_as_other_programs_do() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (u64::MAX, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
    }
}
