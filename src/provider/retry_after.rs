//! The `Retry-After` header (RFC 9110, section 10.2.3).

use std::time::Duration;

use axum::http::{HeaderMap, header};

use crate::clock::Timestamp;

/// Beyond this a provider is not believed: it is asked again.
const LONGEST: Duration = Duration::from_secs(60 * 60);

pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => Timestamp::from_secs(http_date(value)?).since(now),
    };
    Some(wait.min(LONGEST))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`, the one form that may still be sent, as seconds since 1970.
fn http_date(text: &str) -> Option<i64> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let (_, rest) = text.split_once(", ")?;
    let mut parts = rest.split(' ');
    let number = |part: Option<&str>, most: i64| -> Option<i64> {
        let number: i64 = part?.parse().ok()?;
        (0..=most).contains(&number).then_some(number)
    };
    let day = number(parts.next(), 31)?;
    let name = parts.next()?;
    let month = MONTHS.iter().position(|month| *month == name)? as i64 + 1;
    let year = number(parts.next(), 9999)?;
    let mut time = parts.next()?.splitn(3, ':');
    let hours = number(time.next(), 23)?;
    let minutes = number(time.next(), 59)?;
    let seconds = number(time.next(), 60)?;
    if parts.next() != Some("GMT") {
        return None;
    }
    // Days from the civil calendar, with years that begin in March so that the leap day is the last.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = year * 365 + year.div_euclid(4) - year.div_euclid(100)
        + year.div_euclid(400)
        + (month * 153 + 2) / 5
        + day
        - 719_469;
    Some(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_and_neither() {
        let now = Timestamp::from_secs(784_111_777);
        for (value, expected) in [
            ("0", Some(0)),
            ("7", Some(7)),
            (" 7 ", Some(7)),
            ("999999999999", Some(3600)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(0)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sun, 06 Nov 1994 08:49:27 GMT", Some(0)),
            ("Mon, 07 Nov 1994 08:49:27 GMT", Some(3600)),
            ("-1", None),
            ("soon", None),
            ("Sun, 06 Nov 1994", None),
            ("Sun, 99 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 08:49:37 CET", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, value.parse().unwrap());
            let expected = expected.map(Duration::from_secs);
            assert_eq!(retry_after(&headers, now), expected, "{value}");
        }
        assert_eq!(http_date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(
            http_date("Thu, 29 Feb 2024 00:00:00 GMT"),
            Some(1_709_164_800)
        );
    }
}
