//! Timestamps of protobuf.

use std::time::{SystemTime, UNIX_EPOCH};

use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;

const SECONDS_A_DAY: i64 = 86_400;

/// Returns the current time.
pub(crate) fn now() -> Timestamp {
    // A clock before 1970 counts as not set.
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp {
        seconds: since.as_secs().cast_signed(),
        nanos: since.subsec_nanos().cast_signed(),
        ..Timestamp::default()
    }
}

/// Formats a timestamp as `2026-11-23T20:15:00.123456789Z` (RFC 3339).
pub(crate) fn rfc3339(time: &Timestamp) -> String {
    let (year, month, day) = date(time.seconds.div_euclid(SECONDS_A_DAY));
    let second = time.seconds.rem_euclid(SECONDS_A_DAY);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:09}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        time.nanos
    )
}

/// Returns year, month and day of the Gregorian calendar from the days since 1970-01-01.
fn date(days: i64) -> (i64, i64, i64) {
    // Years begin in March here, so that the leap day is the last day of a year. 719468 days
    // lie between 0000-03-01 and 1970-01-01.
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(seconds: i64) -> String {
        rfc3339(&Timestamp {
            seconds,
            nanos: 5,
            ..Timestamp::default()
        })
    }

    #[test]
    fn formats_dates_of_the_gregorian_calendar() {
        assert_eq!(text(0), "1970-01-01T00:00:00.000000005Z");
        assert_eq!(text(951_782_399), "2000-02-28T23:59:59.000000005Z");
        assert_eq!(text(951_782_400), "2000-02-29T00:00:00.000000005Z");
        assert_eq!(text(1_795_464_900), "2026-11-23T20:15:00.000000005Z");
        assert_eq!(text(4_107_542_399), "2100-02-28T23:59:59.000000005Z");
        assert_eq!(text(4_107_542_400), "2100-03-01T00:00:00.000000005Z");
    }
}
