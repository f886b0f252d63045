//! The query in the one order that keys and forwarded targets share.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::config::{OtherParameters, Query};

/// What a route's query rule makes of a query.
#[derive(Debug, PartialEq, Eq)]
pub enum Canonical {
    /// Pairs sorted by name, equal names in their order; `None` where nothing is left.
    Pairs(Option<String>),
    /// A parameter that the route does not list: forwarded whole, uncached.
    Bypass,
    /// A parameter that the route does not list: 400.
    Reject,
}

pub fn canonical(rule: &Query, query: Option<&str>) -> Canonical {
    let Some(query) = query else {
        return Canonical::Pairs(None);
    };
    let mut pairs: Vec<&str> = query.split('&').filter(|pair| !pair.is_empty()).collect();
    if let Query::Allow { names, other } = rule {
        let listed = |pair: &&str| names.iter().any(|name| *name == decoded_name(pair));
        match other {
            OtherParameters::Ignore => pairs.retain(listed),
            OtherParameters::Bypass if !pairs.iter().all(listed) => return Canonical::Bypass,
            OtherParameters::Reject if !pairs.iter().all(listed) => return Canonical::Reject,
            OtherParameters::Bypass | OtherParameters::Reject => {}
        }
    }
    // A stable sort: which of two equal names comes first can mean something to the upstream, however they are encoded.
    pairs.sort_by(|one, other| decoded_name(one).cmp(&decoded_name(other)));
    Canonical::Pairs((!pairs.is_empty()).then(|| pairs.join("&")))
}

fn name(pair: &str) -> &str {
    pair.split_once('=').map_or(pair, |(name, _)| name)
}

/// The name as the upstream will read it, so that `%72ole` cannot pass for something other than `role`.
fn decoded_name(pair: &str) -> Cow<'_, str> {
    let name = name(pair);
    match name.contains('+') {
        true => Cow::Owned(
            percent_decode_str(&name.replace('+', " "))
                .decode_utf8_lossy()
                .into_owned(),
        ),
        false => percent_decode_str(name).decode_utf8_lossy(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(query: &str) -> Option<String> {
        match canonical(&Query::All, Some(query)) {
            Canonical::Pairs(pairs) => pairs,
            other => panic!("{other:?}"),
        }
    }

    fn allow(other: OtherParameters, query: &str) -> Canonical {
        canonical(
            &Query::Allow {
                names: vec!["page".into(), "role".into()],
                other,
            },
            Some(query),
        )
    }

    #[test]
    fn the_order_of_parameters_does_not_matter_but_that_of_equal_names_does() {
        assert_eq!(all("b=2&a=1"), all("a=1&b=2"));
        assert_ne!(all("a=1&a=2"), all("a=2&a=1"));
        assert_eq!(all("b=1&a=2&b=0").as_deref(), Some("a=2&b=1&b=0"));
        assert_ne!(all("a=1&%61=2"), all("%61=2&a=1"));
        assert_eq!(all("b=2&%61=1"), all("%61=1&b=2"));
    }

    #[test]
    fn an_empty_query_is_none() {
        assert_eq!(all(""), None);
        assert_eq!(all("&&"), None);
    }

    #[test]
    fn an_unlisted_parameter_is_ignored_bypasses_or_is_rejected_by_the_routes_choice() {
        assert_eq!(
            allow(OtherParameters::Ignore, "x=1&page=2"),
            Canonical::Pairs(Some("page=2".into()))
        );
        assert_eq!(
            allow(OtherParameters::Bypass, "x=1&page=2"),
            Canonical::Bypass
        );
        assert_eq!(
            allow(OtherParameters::Reject, "x=1&page=2"),
            Canonical::Reject
        );
        assert_eq!(
            allow(OtherParameters::Reject, "role=a&page=2"),
            Canonical::Pairs(Some("page=2&role=a".into()))
        );
    }

    #[test]
    fn a_listed_name_is_known_in_any_encoding() {
        assert_eq!(
            allow(OtherParameters::Reject, "%72ole=a"),
            Canonical::Pairs(Some("%72ole=a".into()))
        );
    }
}
