//! HTTP dates. RFC 9110 §5.6.7: IMF-fixdate, and the two obsolete forms that a recipient must understand.
//! Names in any case, and a weekday that need not be true; everything else to the letter, for what is no date
//! means that a response has expired.

use std::cell::Cell;

use http::HeaderValue;
use http::header::{HeaderMap, HeaderName};

use crate::clock::Timestamp;

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];
const WEEKDAYS: [&str; 7] = [
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
];
const DAY: u64 = 86_400;

/// The date that `text` says. A year of two digits is the one nearest to `around`, at most 50 years ahead of it.
/// What lies before 1970 is taken for 1970: long past, either way.
pub fn parse(text: &[u8], around: Timestamp) -> Option<Timestamp> {
    // Most of those that are read within a second are the same.
    thread_local!(static LAST: Cell<([u8; 29], Option<Timestamp>)> = const { Cell::new(([0; 29], None)) });
    let (last, meant) = LAST.get();
    if last == text {
        return meant;
    }
    let Some(read) = imf_fixdate(text) else {
        let read = rfc850(text, around).or_else(|| asctime(text))?;
        return read.timestamp();
    };
    let meant = read.timestamp();
    if let Ok(text) = text.try_into() {
        LAST.set((text, meant));
    }
    meant
}

/// The date in the one line of a field; two lines say none.
pub fn of(fields: &HeaderMap, name: &HeaderName, around: Timestamp) -> Option<Timestamp> {
    let mut lines = fields.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (Some(line), None) => parse(line.as_bytes(), around),
        _ => None,
    }
}

/// IMF-fixdate, the only form to send.
pub fn format(time: Timestamp) -> HeaderValue {
    let seconds = time.as_millis() / 1000;
    let (days, second) = (seconds / DAY, seconds % DAY);
    let (year, month, day) = civil(days);
    let text = format!(
        "{}, {day:02} {} {year:04} {:02}:{:02}:{:02} GMT",
        &WEEKDAYS[(days % 7) as usize][..3],
        MONTHS[month as usize - 1],
        second / 3600,
        second / 60 % 60,
        second % 60,
    );
    HeaderValue::try_from(text).expect("a date is a field value")
}

struct Read {
    year: u64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`
fn imf_fixdate(text: &[u8]) -> Option<Read> {
    let mut words = Words(text);
    let weekday = words.until(b", ")?;
    is_one_of(weekday, &WEEKDAYS.map(|name| &name[..3]))?;
    let day = number(words.until(b" ")?, 2)?;
    let month = month(words.until(b" ")?)?;
    let year = number(words.until(b" ")?, 4)?;
    let (hour, minute, second) = time(words.until(b" ")?)?;
    words.0.eq_ignore_ascii_case(b"GMT").then_some(Read {
        year,
        month,
        day,
        hour,
        minute,
        second,
    })
}

/// `Sunday, 06-Nov-94 08:49:37 GMT`
fn rfc850(text: &[u8], around: Timestamp) -> Option<Read> {
    let mut words = Words(text);
    is_one_of(words.until(b", ")?, &WEEKDAYS)?;
    let day = number(words.until(b"-")?, 2)?;
    let month = month(words.until(b"-")?)?;
    let two_digits = number(words.until(b" ")?, 2)?;
    let (hour, minute, second) = time(words.until(b" ")?)?;
    if !words.0.eq_ignore_ascii_case(b"GMT") {
        return None;
    }
    let read = |century: u64| Read {
        year: century + two_digits,
        month,
        day,
        hour,
        minute,
        second,
    };
    let (this_year, ..) = civil(around.as_millis() / 1000 / DAY);
    // The last of the years so written that is not more than 50 years ahead.
    let last = this_year + 50;
    let century = (last - two_digits.min(last)) / 100 * 100;
    let late = read(century);
    let ahead = late
        .timestamp()
        .is_some_and(|date| late.year == last && date > fifty_years_after(around));
    Some(if ahead { read(century - 100) } else { late })
}

/// `Sun Nov  6 08:49:37 1994`
fn asctime(text: &[u8]) -> Option<Read> {
    let mut words = Words(text);
    is_one_of(words.until(b" ")?, &WEEKDAYS.map(|name| &name[..3]))?;
    let month = month(words.until(b" ")?)?;
    let day = match words.0.strip_prefix(b" ") {
        Some(rest) => {
            words.0 = rest;
            number(words.until(b" ")?, 1)?
        }
        None => number(words.until(b" ")?, 2)?,
    };
    let (hour, minute, second) = time(words.until(b" ")?)?;
    let year = number(words.0, 4)?;
    Some(Read {
        year,
        month,
        day,
        hour,
        minute,
        second,
    })
}

impl Read {
    fn timestamp(&self) -> Option<Timestamp> {
        let leap = self.year.is_multiple_of(4)
            && (!self.year.is_multiple_of(100) || self.year.is_multiple_of(400));
        let days_in_month = match self.month {
            2 => 28 + u64::from(leap),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        // A leap second is the 60th.
        if !(1..=days_in_month).contains(&self.day)
            || self.hour > 23
            || self.minute > 59
            || self.second > 60
        {
            return None;
        }
        if self.year < 1970 {
            return Some(Timestamp::default());
        }
        let seconds = days(self.year, self.month, self.day) * DAY
            + self.hour * 3600
            + self.minute * 60
            + self.second;
        Some(Timestamp::from_micros(seconds * 1_000_000))
    }
}

fn fifty_years_after(time: Timestamp) -> Timestamp {
    let seconds = time.as_millis() / 1000;
    let (year, month, day) = civil(seconds / DAY);
    Timestamp::from_micros((days(year + 50, month, day) * DAY + seconds % DAY) * 1_000_000)
}

struct Words<'t>(&'t [u8]);

impl<'t> Words<'t> {
    fn until(&mut self, end: &[u8]) -> Option<&'t [u8]> {
        let at = memchr::memmem::find(self.0, end)?;
        let word = &self.0[..at];
        self.0 = &self.0[at + end.len()..];
        Some(word)
    }
}

fn is_one_of(word: &[u8], names: &[&str]) -> Option<()> {
    names
        .iter()
        .any(|name| word.eq_ignore_ascii_case(name.as_bytes()))
        .then_some(())
}

fn month(word: &[u8]) -> Option<u64> {
    MONTHS
        .iter()
        .zip(1..)
        .find(|(name, _)| word.eq_ignore_ascii_case(name.as_bytes()))
        .map(|(_, number)| number)
}

/// `08:49:37`
fn time(word: &[u8]) -> Option<(u64, u64, u64)> {
    let &[h1, h2, b':', m1, m2, b':', s1, s2] = word else {
        return None;
    };
    Some((
        number(&[h1, h2], 2)?,
        number(&[m1, m2], 2)?,
        number(&[s1, s2], 2)?,
    ))
}

fn number(word: &[u8], digits: usize) -> Option<u64> {
    (word.len() == digits && word.iter().all(u8::is_ascii_digit)).then(|| {
        word.iter()
            .fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'))
    })
}

/// Days from 1970-01-01, for years from 1970. (Years are counted from March, so that a leap day is a year's last.)
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = year - u64::from(month <= 2);
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Year, month and day, of days from 1970-01-01.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    /// 2026-11-25T12:00:00
    const NOW: Timestamp = Timestamp::from_micros(1_795_608_000_000_000);

    #[test]
    fn the_three_forms_of_rfc_9110_are_understood() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(parse(text.as_bytes(), NOW), Some(at(784_111_777)), "{text}");
        }
    }

    #[test]
    fn case_does_not_matter_and_the_weekday_need_not_be_true() {
        for text in [
            "SUN, 06 Nov 1994 08:49:37 GMT",
            "Sun, 06 NOV 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 gMT",
            "Mon, 06 Nov 1994 08:49:37 GMT",
            "tuesday, 06-nov-94 08:49:37 gmt",
            "wed nov  6 08:49:37 1994",
        ] {
            assert_eq!(parse(text.as_bytes(), NOW), Some(at(784_111_777)), "{text}");
        }
    }

    #[test]
    fn whatever_else_looks_like_a_date_is_none() {
        for text in [
            "",
            "0",
            "foo",
            "-1",
            "1994",
            "Thu, 18 Aug 2050 02:01:18 UTC",
            "Thu, 18 Aug 2050 02:01:18 AEST",
            "Thu, 18 Aug 2050 02:01:18 +0000",
            "Thu, 18 Aug 2050 02:01:18",
            "Thu, 18 Aug 50 02:01:18 GMT",
            "Thu 18 Aug 2050 02:01:18 GMT",
            "Thu, 18  Aug  2050 02:01:18 GMT",
            "Thu, 18-Aug-2050 02:01:18 GMT",
            "Thursday, 18-Aug-2050 02:01:18 GMT",
            "Thursday, 18 Aug 50 02:01:18 GMT",
            "Thu, 18 Aug 2050 02.01.18 GMT",
            "Thu, 18 Aug 2050 2:01:18 GMT",
            "Thu, 8 Aug 2050 02:01:18 GMT",
            "Thu, 00 Aug 2050 02:01:18 GMT",
            "Thu, 31 Jun 2050 02:01:18 GMT",
            "Thu, 29 Feb 2050 02:01:18 GMT",
            "Thu, 18 Aug 2050 24:01:18 GMT",
            "Thu, 18 Aug 2050 02:60:18 GMT",
            "Thu, 18 Aug 2050 02:01:61 GMT",
            "Xyz, 18 Aug 2050 02:01:18 GMT",
            "Thursday, 18 Aug 2050 02:01:18 GMT",
            "Thu, 18 Aug 2050 02:01:18 GMT, Thu, 18 Aug 2050 02:01:18 GMT",
            "Thu Aug 8 02:01:18 2050",
            "Thu Aug   8 02:01:18 2050",
            "Thu Aug  8 02:01:18 2050 GMT",
        ] {
            assert_eq!(parse(text.as_bytes(), NOW), None, "{text}");
        }
    }

    #[test]
    fn a_year_of_two_digits_is_at_most_fifty_years_ahead() {
        let year = |text: &str, around| {
            civil(parse(text.as_bytes(), around).unwrap().as_millis() / 1000 / DAY).0
        };
        for (text, expected) in [
            ("Thursday, 18-Aug-50 02:01:18 GMT", 2050),
            ("Thursday, 18-Aug-76 02:01:18 GMT", 2076),
            ("Thursday, 25-Nov-76 12:00:00 GMT", 2076),
            ("Thursday, 25-Nov-76 12:00:01 GMT", 1976),
            ("Thursday, 18-Aug-77 02:01:18 GMT", 1977),
            ("Thursday, 18-Aug-99 02:01:18 GMT", 1999),
            ("Thursday, 18-Aug-00 02:01:18 GMT", 2000),
            ("Thursday, 18-Aug-26 02:01:18 GMT", 2026),
        ] {
            assert_eq!(year(text, NOW), expected, "{text}");
        }
        assert_eq!(
            year("Saturday, 02-Jan-00 00:00:00 GMT", at(2_600_000_000)),
            2100
        );
    }

    #[test]
    fn years_past_2038_and_before_1970_are_no_surprise() {
        for (text, expected) in [
            ("Tue, 19 Jan 2038 14:14:08 GMT", at(2_147_523_248)),
            ("Sun, 21 Nov 2286 04:46:39 GMT", at(10_000_039_599)),
            ("Thu, 29 Feb 2024 00:00:00 GMT", at(1_709_164_800)),
            ("Thu, 01 Jan 1960 00:00:00 GMT", at(0)),
        ] {
            assert_eq!(parse(text.as_bytes(), NOW), Some(expected), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again_and_as_another_library_reads_and_writes_it(seconds in 0u64..253_402_300_800) {
            let written = format(at(seconds));
            let system = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            prop_assert_eq!(written.to_str().unwrap(), httpdate::fmt_http_date(system));
            prop_assert_eq!(parse(written.as_bytes(), NOW), Some(at(seconds)));
        }

        #[test]
        fn reading_anything_does_not_panic(text in proptest::collection::vec(any::<u8>(), 0..40), around in any::<u64>()) {
            let _ = parse(&text, Timestamp::from_micros(around));
        }

        #[test]
        fn reading_what_looks_like_a_date_does_not_panic(text in "(Thu|Thursday),? [0-9]{1,3}[- ](Feb|Aug)[- ][0-9]{1,4} [0-9]{2}:[0-9]{2}:[0-9]{2}( GMT)?", around in any::<u64>()) {
            let _ = parse(text.as_bytes(), Timestamp::from_micros(around));
        }
    }
}
