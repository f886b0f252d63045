//! A Cache-Control for caches of our kind alone, such as CDN-Cache-Control. RFC 9213.
//! Where such a field is there and valid, it alone decides: Cache-Control and Expires are as if they were not.

use http::HeaderName;
use http::header::HeaderMap;
use sfv::{BareItem, Dictionary, ListEntry, Parser};

use super::directives::{Directives, FOREVER, Seconds};

/// What the origin says to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub directives: Directives,
    pub by: By,
}

/// Where it says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// In Cache-Control, and Expires counts beside it.
    CacheControl,
    /// In a targeted field.
    Target,
}

/// RFC 9213 §2.2: the first of `targets` that is there, not empty and valid; else Cache-Control.
pub fn said(fields: &HeaderMap, targets: &[HeaderName]) -> Said {
    let targeted = targets.iter().find_map(|target| read(fields, target));
    match targeted {
        Some(directives) => Said {
            directives,
            by: By::Target,
        },
        None => Said {
            directives: Directives::of(fields),
            by: By::CacheControl,
        },
    }
}

/// §2.1: a Dictionary (RFC 8941 §3.2). Whatever is malformed anywhere in it, or of the wrong type where it matters, makes
/// all of it nothing.
fn read(fields: &HeaderMap, target: &HeaderName) -> Option<Directives> {
    if !fields.contains_key(target) {
        return None;
    }
    let lines: Vec<&[u8]> = fields
        .get_all(target)
        .iter()
        .map(|line| line.as_bytes())
        .collect();
    let members: Dictionary = Parser::new(&lines.join(&b", "[..])).parse().ok()?;
    if members.is_empty() {
        return None;
    }
    let mut found = Directives::default();
    for (name, member) in &members {
        let item = match member {
            ListEntry::Item(item) => &item.bare_item,
            ListEntry::InnerList(_) => &BareItem::Boolean(true),
        };
        match name.as_str() {
            "max-age" => found.max_age = Some(integer(item)?),
            "s-maxage" => found.s_maxage = Some(integer(item)?),
            "stale-while-revalidate" => found.stale_while_revalidate = Some(integer(item)?),
            "stale-if-error" => found.stale_if_error = Some(integer(item)?),
            // What allows something is heeded only if it is as it should be; what forbids something, in any case.
            "public" => found.public = *item == BareItem::Boolean(true),
            "must-understand" => found.must_understand = *item == BareItem::Boolean(true),
            "no-cache" => match item {
                BareItem::String(names) => found.take(b"no-cache", Some(names.as_str().as_bytes())),
                _ => found.no_cache = true,
            },
            other => found.take(other.as_bytes(), None),
        }
    }
    Some(found)
}

fn integer(item: &BareItem) -> Option<Seconds> {
    let BareItem::Integer(seconds) = item else {
        return None;
    };
    Some(match u64::try_from(i64::from(*seconds)) {
        Ok(seconds) => Seconds::Valid(seconds.min(FOREVER)),
        Err(_) => Seconds::Invalid,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header;

    const TARGET: HeaderName = HeaderName::from_static("cdn-cache-control");

    fn of(lines: &[&str]) -> Said {
        let mut fields = HeaderMap::new();
        fields.insert(header::CACHE_CONTROL, "max-age=1".parse().unwrap());
        for line in lines {
            fields.append(TARGET, line.parse().unwrap());
        }
        said(&fields, &[TARGET])
    }

    #[test]
    fn present_and_valid_it_alone_decides_in_both_directions() {
        for (lines, expected) in [
            (
                &["max-age=3600"][..],
                Directives {
                    max_age: Some(Seconds::Valid(3600)),
                    ..Default::default()
                },
            ),
            (
                &["max-age=0"],
                Directives {
                    max_age: Some(Seconds::Valid(0)),
                    ..Default::default()
                },
            ),
            (
                &["max-age=99999999999"],
                Directives {
                    max_age: Some(Seconds::Valid(FOREVER)),
                    ..Default::default()
                },
            ),
            (
                &["foobar, max-age=5"],
                Directives {
                    max_age: Some(Seconds::Valid(5)),
                    ..Default::default()
                },
            ),
            (
                &["foo=(1 2);a", "max-age=5;x=1"],
                Directives {
                    max_age: Some(Seconds::Valid(5)),
                    ..Default::default()
                },
            ),
            (
                &["max-age=-5"],
                Directives {
                    max_age: Some(Seconds::Invalid),
                    ..Default::default()
                },
            ),
            (
                &["no-store"],
                Directives {
                    no_store: true,
                    ..Default::default()
                },
            ),
            (
                &["private"],
                Directives {
                    private: true,
                    ..Default::default()
                },
            ),
            (
                &["private=?0"],
                Directives {
                    private: true,
                    ..Default::default()
                },
            ),
            (&["public=?0"], Directives::default()),
            (
                &["no-cache"],
                Directives {
                    no_cache: true,
                    ..Default::default()
                },
            ),
            (&["foo"], Directives::default()),
        ] {
            assert_eq!(
                of(lines),
                Said {
                    directives: expected,
                    by: By::Target
                },
                "{lines:?}"
            );
        }
    }

    #[test]
    fn empty_or_malformed_or_of_the_wrong_type_it_is_ignored_whole() {
        for line in [
            "",
            " ",
            "max-age=10000, &&&&&",
            "max-age=\"10000\"",
            "max-age=1.5",
            "max-age",
            "max-age =100",
            "max-age= 100",
            "MaX-aGe=3600",
            "max-age=3600,",
            "no-store, max-age=abc def",
            "no-store; =",
            "b\u{e4}d",
        ] {
            assert_eq!(of(&[line]).by, By::CacheControl, "{line:?}");
        }
    }

    #[test]
    fn of_several_the_first_that_is_valid_counts() {
        let own = HeaderName::from_static("larder-cache-control");
        let mut fields = HeaderMap::new();
        fields.insert(TARGET, "max-age=1".parse().unwrap());
        fields.insert(&own, "max-age=2".parse().unwrap());
        let age =
            |fields: &HeaderMap, targets: &[HeaderName]| said(fields, targets).directives.max_age;
        assert_eq!(
            age(&fields, &[own.clone(), TARGET]),
            Some(Seconds::Valid(2))
        );
        assert_eq!(
            age(&fields, &[TARGET, own.clone()]),
            Some(Seconds::Valid(1))
        );
        assert_eq!(age(&fields, &[]), None);
        fields.insert(&own, "max-age=".parse().unwrap());
        assert_eq!(age(&fields, &[own, TARGET]), Some(Seconds::Valid(1)));
    }
}
