//! Whether there is one way to read where a message ends. RFC 9112 §6.
//! hyper reads more than one can: lists of codings, `05`, a length beside chunks that it then leaves among the fields.

use http::Version;
use http::header::{self, HeaderMap, HeaderValue};

/// Of a request. Of both framings hyper has taken the length away by now, and closes after its answer.
pub fn of_a_request_is_clear(version: Version, fields: &HeaderMap) -> bool {
    let codings = fields.get_all(header::TRANSFER_ENCODING).iter();
    let lengths = fields.get_all(header::CONTENT_LENGTH).iter();
    at_most_one(codings, |coding| {
        version == Version::HTTP_11 && coding.as_bytes().eq_ignore_ascii_case(b"chunked")
    }) && at_most_one(lengths, |digits| length(digits.as_bytes()).is_some())
}

/// Of an answer: passed on, a length beside chunks would end it elsewhere for the client than for us.
pub fn of_an_answer_is_clear(version: Version, fields: &HeaderMap) -> bool {
    let both = fields.contains_key(header::TRANSFER_ENCODING)
        && fields.contains_key(header::CONTENT_LENGTH);
    !both && (of_a_request_is_clear(version, fields) || ends_with_its_connection(version, fields))
}

/// What a Content-Length says that can be read in one way: a decimal number as one writes it, below 2^63.
pub fn length(digits: &[u8]) -> Option<u64> {
    let is_canonical = match digits {
        [] | [b'0', _, ..] => false,
        digits => digits.iter().all(u8::is_ascii_digit),
    };
    let length = digits.iter().try_fold(0i64, |length, digit| {
        length.checked_mul(10)?.checked_add(i64::from(digit & 0xf))
    });
    length.filter(|_| is_canonical)?.try_into().ok()
}

/// One coding that nobody knows: such an answer ends with its connection, and is passed on as what came (§6.3). Not one that
/// is known, or means to look like it: its content would be passed on encoded.
fn ends_with_its_connection(version: Version, fields: &HeaderMap) -> bool {
    const KNOWN: [&str; 8] = [
        "chunked",
        "gzip",
        "x-gzip",
        "compress",
        "x-compress",
        "deflate",
        "identity",
        "br",
    ];
    let mut codings = fields.get_all(header::TRANSFER_ENCODING).iter();
    let (Some(coding), None) = (codings.next(), codings.next()) else {
        return false;
    };
    let is_unknown = coding.to_str().is_ok_and(|coding| {
        let coding = coding.to_ascii_lowercase();
        let is_word = !coding.is_empty() && coding.bytes().all(|b| b.is_ascii_alphanumeric());
        is_word && !KNOWN.iter().any(|known| coding.contains(known))
    });
    version == Version::HTTP_11 && is_unknown
}

fn at_most_one<'a>(
    mut lines: impl Iterator<Item = &'a HeaderValue>,
    is_valid: impl Fn(&HeaderValue) -> bool,
) -> bool {
    match (lines.next(), lines.next()) {
        (None, _) => true,
        (Some(line), None) => is_valid(line),
        (Some(_), Some(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clear(lines: &[(&str, &str)]) -> (bool, bool) {
        let fields: HeaderMap = lines
            .iter()
            .map(|(name, value)| {
                let name: header::HeaderName = name.parse().unwrap();
                (name, value.parse().unwrap())
            })
            .collect();
        (
            of_a_request_is_clear(Version::HTTP_11, &fields),
            of_an_answer_is_clear(Version::HTTP_11, &fields),
        )
    }

    #[test]
    fn one_length_or_chunked_alone_is_clear() {
        let (coding, length) = ("transfer-encoding", "content-length");
        for lines in [
            &[][..],
            &[(length, "0")],
            &[(length, "5")],
            &[(length, "9223372036854775807")],
            &[(coding, "chunked")],
            &[(coding, "Chunked")],
        ] {
            assert_eq!(clear(lines), (true, true), "{lines:?}");
        }
        for lines in [
            &[(length, "")][..],
            &[(length, "05")],
            &[(length, "00")],
            &[(length, "+5")],
            &[(length, "5, 5")],
            &[(length, "9223372036854775808")],
            &[(length, "5"), (length, "5")],
            &[(coding, "gzip, chunked")],
            &[(coding, "identity")],
            &[(coding, "")],
            &[(coding, "chunked"), (coding, "chunked")],
        ] {
            assert_eq!(clear(lines), (false, false), "{lines:?}");
        }
        let both = [(coding, "chunked"), (length, "5")];
        assert_eq!(clear(&both), (true, false));
    }

    #[test]
    fn an_answer_in_one_coding_that_nobody_knows_ends_with_its_connection() {
        let (coding, length) = ("transfer-encoding", "content-length");
        assert_eq!(clear(&[(coding, "rot13")]), (false, true));
        for lines in [
            &[(coding, "xchunked")][..],
            &[(coding, "rot13, chunked")],
            &[(coding, "rot13"), (coding, "rot13")],
            &[(coding, "rot13"), (length, "5")],
            &[(coding, "brotli")],
        ] {
            assert_eq!(clear(lines), (false, false), "{lines:?}");
        }
    }

    #[test]
    fn before_http_1_1_there_is_no_coding() {
        let fields = HeaderMap::from_iter([(
            header::TRANSFER_ENCODING,
            HeaderValue::from_static("chunked"),
        )]);
        assert!(!of_a_request_is_clear(Version::HTTP_10, &fields));
        assert!(!of_an_answer_is_clear(Version::HTTP_10, &fields));
    }
}
