//! Which content coding a client is sent. RFC 9110 §12.5.3, and §8.4.1 for the codings.

use http::header::{self, HeaderMap, HeaderValue};

use super::fields::list_members;

/// A coding that we can make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Coding {
    Gzip,
    Brotli,
}

impl Coding {
    pub fn word(self) -> &'static str {
        match self {
            Coding::Gzip => "gzip",
            Coding::Brotli => "br",
        }
    }

    pub fn value(self) -> HeaderValue {
        HeaderValue::from_static(self.word())
    }

    fn is_named(self, name: &str) -> bool {
        // §8.4.1.3: x-gzip is gzip.
        name.eq_ignore_ascii_case(self.word())
            || (self == Coding::Gzip && name.eq_ignore_ascii_case("x-gzip"))
    }
}

/// Of those offered, the one that the client likes best, and of equals the first; none where it likes best to have it
/// as it is, or does not say. Who accepts nothing at all is sent it as it is, too.
pub fn accepted(request: &HeaderMap, offered: &[Coding]) -> Option<Coding> {
    let (mut any, mut identity, mut named) = (None, None, [None; 2]);
    for member in request
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .flat_map(list_members)
    {
        let (name, parameters) = member.split_once(';').unwrap_or((member, ""));
        let (name, Some(weight)) = (name.trim(), weight(parameters)) else {
            // What it is worth cannot be read: as if it were not there.
            continue;
        };
        let place = match (
            name,
            offered.iter().position(|coding| coding.is_named(name)),
        ) {
            (_, Some(at)) => named.get_mut(at),
            ("*", None) => Some(&mut any),
            (name, None) => name
                .eq_ignore_ascii_case("identity")
                .then_some(&mut identity),
        };
        if let Some(place) = place {
            place.get_or_insert(weight);
        }
    }
    // `*` stands for whatever is not named, identity among it; nobody need ask for identity.
    let identity = identity.or(any).unwrap_or(0);
    let mut best = None;
    for (coding, named) in offered.iter().zip(named) {
        let weight = named.or(any).unwrap_or(0);
        if weight > 0 && weight >= identity && best.is_none_or(|(_, most)| weight > most) {
            best = Some((*coding, weight));
        }
    }
    best.map(|(coding, _)| coding)
}

/// §12.4.2, in thousandths.
fn weight(parameters: &str) -> Option<u16> {
    let parameters = parameters.trim();
    if parameters.is_empty() {
        return Some(1000);
    }
    let (name, value) = parameters.split_once('=')?;
    let (whole, part) = value.trim().split_once('.').unwrap_or((value.trim(), ""));
    let digits = part.len() <= 3 && part.bytes().all(|byte| byte.is_ascii_digit());
    if !name.trim().eq_ignore_ascii_case("q") || !digits {
        return None;
    }
    let part: u16 = format!("{part:0<3}").parse().ok()?;
    match whole {
        "0" => Some(part),
        "1" if part == 0 => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOTH: [Coding; 2] = [Coding::Brotli, Coding::Gzip];

    fn of(lines: &[&str], offered: &[Coding]) -> Option<Coding> {
        let mut request = HeaderMap::new();
        for line in lines {
            request.append(header::ACCEPT_ENCODING, line.parse().unwrap());
        }
        accepted(&request, offered)
    }

    #[test]
    fn the_coding_is_the_one_that_the_client_likes_best() {
        let (br, gzip, as_it_is) = (Some(Coding::Brotli), Some(Coding::Gzip), None);
        for (accept, expected, sentence) in [
            ("gzip, deflate, br, zstd", br, "of equals ours"),
            ("gzip, deflate", gzip, "what it knows"),
            ("GZip", gzip, "coding names are case-insensitive"),
            ("x-gzip", gzip, "x-gzip is gzip"),
            ("br;q=0.5, gzip;q=0.8", gzip, "the highest weight"),
            ("br;q=0.123, gzip;q=0.12", br, "to three digits"),
            (
                "gzip ; Q=0.5 , br ; q=0",
                gzip,
                "a weight of 0 is not acceptable",
            ),
            (
                "identity, gzip;q=0.5",
                as_it_is,
                "it likes it better as it is",
            ),
            ("identity;q=0.5, gzip;q=0.5", gzip, "of equals the shorter"),
            ("gzip;q=0", as_it_is, "not gzip"),
            ("*", br, "* is any that is not named"),
            ("br;q=0, *", gzip, "but not one that is"),
            ("*;q=0", as_it_is, "nothing acceptable: as it is"),
            ("identity;q=0", as_it_is, "nothing acceptable: as it is"),
            ("identity;q=0, gzip;q=0.1", gzip, "anything but identity"),
            (
                "gzip;q=0.5, *;q=0.8, br;q=0",
                as_it_is,
                "* is identity, too",
            ),
            ("deflate, zstd", as_it_is, "none of ours"),
            ("", as_it_is, "an empty field asks for none"),
            (
                "gzip;q=x, br;q=2, *;v=1",
                as_it_is,
                "a weight that cannot be read",
            ),
            ("gzip;q=0, gzip", as_it_is, "of two the first"),
        ] {
            assert_eq!(of(&[accept], &BOTH), expected, "{sentence}");
        }
        assert_eq!(of(&[], &BOTH), as_it_is, "nothing is said");
        assert_eq!(of(&["deflate", "gzip"], &BOTH), gzip, "over several lines");
    }

    #[test]
    fn none_is_made_that_is_not_offered() {
        assert_eq!(of(&["br, gzip"], &[Coding::Gzip]), Some(Coding::Gzip));
        assert_eq!(of(&["br"], &[Coding::Gzip]), None);
        assert_eq!(of(&["*"], &[]), None);
        let gzip_first = [Coding::Gzip, Coding::Brotli];
        assert_eq!(of(&["br, gzip"], &gzip_first), Some(Coding::Gzip));
    }

    proptest! {
        #[test]
        fn what_is_refused_is_never_made(accept in "((gzip|br|identity|\\*|x)(;q=[01](\\.[0-9]{0,4})?)?, ?){0,5}") {
            for (refusal, refused) in [("gzip;q=0", Coding::Gzip), ("br;q=0.000", Coding::Brotli)] {
                prop_assert_ne!(of(&[refusal, &accept], &BOTH), Some(refused));
            }
        }
    }
}
