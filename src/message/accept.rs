//! Accept, reduced to what a route can key by: json, html, events, or the client's own words. RFC 9110 §12.5.1.

use http::header::{self, HeaderMap, HeaderValue};

/// The media type of server-sent events.
const EVENT_STREAM: &str = "text/event-stream";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AcceptClass {
    /// JSON, anything, or nothing said: asked as `application/json`, one copy.
    Json,
    /// A browser that wants a page: never cached.
    Html,
    /// An EventSource: what happens from now on, which no copy tells.
    Events,
    /// Something else (a version, an indentation, CSV): a copy of its own.
    Other(String),
}

impl AcceptClass {
    /// By what the client likes best; of equals, what it names first.
    pub fn of(fields: &HeaderMap) -> AcceptClass {
        let mut lines = lines(fields);
        let (first, second) = match (lines.next(), lines.next()) {
            // What most clients of an API send.
            (None | Some("application/json" | "*/*"), None) => return AcceptClass::Json,
            (first, second) => (first.unwrap_or_default(), second),
        };
        let all = second
            .into_iter()
            .chain(lines)
            .fold(first.to_owned(), |all, line| all + ", " + line);
        let mut best: Option<(&str, f32)> = None;
        for range in all
            .split(',')
            .map(str::trim)
            .filter(|range| !range.is_empty())
        {
            let quality = quality(range);
            if best.is_none_or(|(_, q)| quality > q) {
                best = Some((range, quality));
            }
        }
        let Some((range, quality)) = best else {
            return AcceptClass::Json;
        };
        let (kind, parameters) = range
            .split_once(';')
            .map_or((range, ""), |(kind, rest)| (kind.trim_end(), rest));
        let plain = parameters
            .split(';')
            .all(|p| p.trim().is_empty() || p.trim_start().to_ascii_lowercase().starts_with("q="));
        let json = ["application/json", "application/*", "*/*"]
            .iter()
            .any(|json| kind.eq_ignore_ascii_case(json));
        let html = ["text/html", "application/xhtml+xml"]
            .iter()
            .any(|html| kind.eq_ignore_ascii_case(html));
        match () {
            () if kind.eq_ignore_ascii_case(EVENT_STREAM) => AcceptClass::Events,
            () if html => AcceptClass::Html,
            () if json && plain && quality > 0.0 => AcceptClass::Json,
            () => AcceptClass::Other(all),
        }
    }
}

/// Whether nothing but JSON is taken.
pub fn is_json_alone(fields: &HeaderMap) -> bool {
    let kinds = lines(fields)
        .flat_map(|line| line.split(','))
        .map(|range| range.split(';').next().unwrap_or_default().trim())
        .filter(|kind| !kind.is_empty());
    let mut kinds = kinds.peekable();
    kinds.peek().is_some() && kinds.all(|kind| kind.eq_ignore_ascii_case("application/json"))
}

fn lines(fields: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = fields.get_all(header::ACCEPT).iter();
    lines.map(|line| line.to_str().unwrap_or("?"))
}

/// Whether it is server-sent events, which have no end to wait for and are past once they are told.
pub fn is_event_stream(fields: &HeaderMap) -> bool {
    let kind = fields.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let mut parts = kind.unwrap_or_default().split(|&byte| byte == b';');
    let kind = parts.next().unwrap_or_default().trim_ascii();
    kind.eq_ignore_ascii_case(EVENT_STREAM.as_bytes())
}

fn quality(range: &str) -> f32 {
    range
        .split(';')
        .skip(1)
        .filter_map(|p| {
            p.trim()
                .strip_prefix("q=")
                .or_else(|| p.trim().strip_prefix("Q="))
        })
        .find_map(|q| q.trim().parse::<f32>().ok())
        .map_or(1.0, |q| q.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(accept: &str) -> AcceptClass {
        let mut fields = HeaderMap::new();
        fields.insert(header::ACCEPT, accept.parse().unwrap());
        AcceptClass::of(&fields)
    }

    #[test]
    fn json_anything_and_nothing_are_one_copy() {
        assert_eq!(AcceptClass::of(&HeaderMap::new()), AcceptClass::Json);
        for accept in [
            "*/*",
            "application/json",
            "application/json, text/plain, */*",
            "Application/JSON;q=0.9",
            "application/*",
        ] {
            assert_eq!(class(accept), AcceptClass::Json, "{accept}");
        }
    }

    #[test]
    fn who_takes_json_alone_is_told_from_who_takes_anything() {
        let mut fields = HeaderMap::new();
        assert!(!is_json_alone(&fields));
        for (accept, alone) in [
            ("application/json", true),
            ("Application/JSON;q=0.9, application/json; indent=2", true),
            ("", false),
            ("*/*", false),
            ("application/*", false),
            ("application/json, text/plain, */*", false),
        ] {
            fields.insert(header::ACCEPT, accept.parse().unwrap());
            assert_eq!(is_json_alone(&fields), alone, "{accept}");
        }
    }

    #[test]
    fn who_likes_events_best_asks_for_a_stream() {
        for accept in ["text/event-stream", "*/*;q=0.1, Text/Event-Stream;q=0.9"] {
            assert_eq!(class(accept), AcceptClass::Events, "{accept}");
        }
        let also = "application/json, text/event-stream";
        assert_eq!(class(also), AcceptClass::Json);
    }

    #[test]
    fn a_browser_is_html() {
        assert_eq!(
            class("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
            AcceptClass::Html
        );
        assert_eq!(
            class("application/json;q=0.5, text/html"),
            AcceptClass::Html
        );
        assert_eq!(
            class("application/json, text/html;q=0.5"),
            AcceptClass::Json
        );
    }

    #[test]
    fn a_parameter_of_the_media_type_is_a_copy_of_its_own() {
        assert!(matches!(
            class("application/json; indent=4"),
            AcceptClass::Other(_)
        ));
        assert!(matches!(
            class("application/json;version=1"),
            AcceptClass::Other(_)
        ));
        assert!(matches!(class("text/csv"), AcceptClass::Other(_)));
        assert!(matches!(
            class("application/json;q=0"),
            AcceptClass::Other(_)
        ));
    }
}
