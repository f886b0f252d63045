//! HTTP dates. Input: the text of one.

use larder::clock::Timestamp;
use larder::message::date;

const YEAR_10000: u64 = 253_402_300_800 * 1_000_000;

pub fn holds(data: &[u8]) {
    for around in [0, 1_795_000_000, 4_000_000_000] {
        let around = Timestamp::from_micros(around * 1_000_000);
        let Some(read) = date::parse(data, around) else {
            continue;
        };
        assert_eq!(read.as_micros() % 1_000_000, 0);
        if read.as_micros() >= YEAR_10000 {
            // The last leap second: no date is written of what was read, but of now.
            continue;
        }
        let written = date::format(read);
        let again = date::parse(written.as_bytes(), around);
        assert_eq!(again, Some(read), "{written:?}");
    }
}
