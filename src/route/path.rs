//! A path as a pattern: what it matches and captures, and which patterns behind it are never reached.

use std::sync::Arc;

use super::segment::{Capture, Converter, MOST_CAPTURES, Segment, Values};
use super::spelling::{Decoded, Spelling, decoded, is_canonical};
use super::{Captures, PatternError, wrong};

/// A path as in Django's urls.py: `/api/users/<int:id>/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    pub(super) text: Arc<str>,
    /// The segments before a `<path:…>`, or all of them.
    pub(super) front: Vec<Segment>,
    pub(super) rest: Option<Rest>,
    /// What stands before the first capture, in the canonical spelling.
    lead: String,
    /// A number stands behind other text in its segment: `v<int:n>`.
    counts_behind_text: bool,
}

/// `<path:…>` and the segments behind it. As it alone may hold slashes, both its ends are known
/// from counting segments, and nothing is ever tried twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rest {
    pub(super) segment: Segment,
    pub(super) back: Vec<Segment>,
}

impl PathPattern {
    pub fn parse(text: &str) -> Result<PathPattern, PatternError> {
        let Some(body) = text.strip_prefix('/') else {
            let help = if text.starts_with("http://") || text.starts_with("https://") {
                "write the path alone; the upstream's address stands under `upstream`".to_owned()
            } else if text.starts_with('^') {
                "write it as in Django's path(), not re_path(): `/api/users/<int:id>/`".to_owned()
            } else {
                format!("write `/{}`", text.trim_start())
            };
            return Err(wrong(0..text.len(), "a path begins with `/`", help));
        };
        let mut pattern = PathPattern {
            text: text.into(),
            front: Vec::new(),
            rest: None,
            lead: String::new(),
            counts_behind_text: false,
        };
        let mut names: Vec<Arc<str>> = Vec::new();
        let mut at = 1;
        let mut segments = body.split('/').peekable();
        while let Some(written) = segments.next() {
            let segment = Segment::parse(written, at, segments.peek().is_none())?;
            let span = at..at + written.len();
            if names.is_empty() {
                pattern.lead.push('/');
                pattern.lead.push_str(&segment.before.encoded);
            }
            if let Some(capture) = &segment.capture {
                if names.contains(&capture.name) {
                    return Err(wrong(
                        span,
                        format!("`<{}>` is captured twice", capture.name),
                        "give each capture a name of its own",
                    ));
                }
                names.push(capture.name.clone());
                if names.len() > MOST_CAPTURES {
                    return Err(wrong(
                        span,
                        format!("more than {MOST_CAPTURES} captures in one path"),
                        "take several segments together as `<path:rest>`",
                    ));
                }
            }
            let is_a = |converter| {
                let capture = segment.capture.as_ref();
                capture.is_some_and(|capture| capture.converter == converter)
            };
            let is_path = is_a(Converter::Path);
            pattern.counts_behind_text |=
                is_a(Converter::Int) && !segment.before.decoded.is_empty();
            match &mut pattern.rest {
                Some(_) if is_path => {
                    return Err(wrong(
                        span,
                        "a second `<path:…>`: where the first one ends would be a guess",
                        "let only one capture of a path hold slashes",
                    ));
                }
                Some(rest) => rest.back.push(segment),
                None if is_path => {
                    pattern.rest = Some(Rest {
                        segment,
                        back: Vec::new(),
                    })
                }
                None => pattern.front.push(segment),
            }
            at += written.len() + 1;
        }
        Ok(pattern)
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The names of the captures, in the order of the path.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.captures().map(|capture| &*capture.name)
    }

    /// The converter of a capture, as the path names it: `int`.
    pub fn converter_name(&self, name: &str) -> Option<&'static str> {
        self.converter(name).map(Converter::name)
    }

    /// Whether even a plain path may be this pattern's in more than one spelling: `v07`, where a zero leads no segment.
    pub fn reads_plain_paths_otherwise(&self) -> bool {
        self.counts_behind_text
    }

    /// To look up or store: only the canonical spelling matches. Of all ways to write a resource's
    /// path there is exactly one without needless percent-encoding, leading zeros, `//`, dot
    /// segments and `;`; the others are forwarded and not cached. `raw_path` is the path of the
    /// request target as received, without the query.
    pub fn match_canonical(&self, raw_path: &str) -> Option<Captures> {
        // Nearly all paths that are not this pattern's differ here already.
        let may_match = match self.captures().next() {
            Some(_) => raw_path.starts_with(&self.lead),
            None => raw_path == self.lead,
        };
        if !may_match {
            return None;
        }
        let values = self.values(raw_path, Spelling::Raw)?;
        is_canonical(raw_path).then(|| {
            let named = self.captures().zip(values);
            Captures(
                named
                    .map(|(capture, value)| (capture.name.clone(), decoded(value)))
                    .collect(),
            )
        })
    }

    /// Whether the path is this pattern's in any spelling, and what it captures then: matched after
    /// percent-decoding and conversion, so that `07` and `%37` both give 7. The path as the upstream
    /// decodes it goes first, then its normalised form.
    ///
    /// Where several rules stand in order, use [`first_matches`](super::first_matches): the two forms
    /// may be different rules' paths.
    pub fn match_decoded(&self, path: &Decoded) -> Option<Captures> {
        path.forms().find_map(|form| self.match_form(form))
    }

    pub(super) fn match_form(&self, form: &str) -> Option<Captures> {
        self.matched(form, Spelling::Decoded)
    }

    pub(super) fn match_in_any_case(&self, form: &str) -> Option<Captures> {
        self.matched(form, Spelling::AnyCase)
    }

    fn matched(&self, form: &str, spelling: Spelling) -> Option<Captures> {
        let values = self.values(form, spelling)?;
        let named = self.captures().zip(values);
        Some(Captures(
            named
                .map(|(capture, value)| (capture.name.clone(), capture.converter.convert(value)))
                .collect(),
        ))
    }

    /// Whether every path that `other` matches is matched here too, so that behind this one `other`
    /// would never be reached. May miss a contrived case, and is never wrong when it says yes.
    pub fn covers(&self, other: &PathPattern) -> bool {
        let all_cover = |own: &[Segment], others: &[Segment]| {
            own.len() == others.len() && own.iter().zip(others).all(|(a, b)| a.covers(b))
        };
        let Some(rest) = &self.rest else {
            return other.rest.is_none() && all_cover(&self.front, &other.front);
        };
        let front = self.front.len();
        let back = rest.back.len();
        match &other.rest {
            Some(others) => {
                let same_place = front == other.front.len() && back == others.back.len();
                other.front.len() >= front
                    && others.back.len() >= back
                    && all_cover(&self.front, &other.front[..front])
                    && all_cover(&rest.back, &others.back[others.back.len() - back..])
                    && (rest.segment.is_bare()
                        || same_place && rest.segment.covers(&others.segment))
            }
            None => {
                let Some(middle) = other.front.len().checked_sub(front + back) else {
                    return false;
                };
                // An empty last segment alone is no path: `.+` wants a character.
                let some_text = middle > 1 || middle == 1 && !other.front[front].is_empty();
                some_text
                    && rest.segment.is_bare()
                    && all_cover(&self.front, &other.front[..front])
                    && all_cover(&rest.back, &other.front[front + middle..])
            }
        }
    }

    pub(super) fn segments(&self) -> impl Iterator<Item = &Segment> {
        let rest = self.rest.iter();
        let behind = rest.flat_map(|rest| std::iter::once(&rest.segment).chain(&rest.back));
        self.front.iter().chain(behind)
    }

    fn captures(&self) -> impl Iterator<Item = &Capture> {
        self.segments()
            .filter_map(|segment| segment.capture.as_ref())
    }

    pub(super) fn converter(&self, name: &str) -> Option<Converter> {
        let mut captures = self.captures();
        captures
            .find(|capture| &*capture.name == name)
            .map(|capture| capture.converter)
    }

    /// The captured pieces of a path that matches. Nothing is allocated on the way.
    fn values<'p>(&self, path: &'p str, spelling: Spelling) -> Option<Values<'p>> {
        let mut text = path.strip_prefix('/')?;
        let mut values = Values::new();
        let Some(rest) = &self.rest else {
            let mut parts = text.split('/');
            for segment in &self.front {
                segment.take(parts.next()?, spelling, &mut values)?;
            }
            return parts.next().is_none().then_some(values);
        };
        for segment in &self.front {
            let (part, behind) = text.split_once('/')?;
            segment.take(part, spelling, &mut values)?;
            text = behind;
        }
        let mut middle = text;
        for _ in &rest.back {
            middle = middle.rsplit_once('/')?.0;
        }
        rest.segment.take(middle, spelling, &mut values)?;
        // As many slashes as segments were taken off, so the two run out together.
        let behind = text[middle.len()..].split('/').skip(1);
        for (segment, part) in rest.back.iter().zip(behind) {
            segment.take(part, spelling, &mut values)?;
        }
        Some(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::tests::{DETAIL, canonical, path, purged};

    fn cause(pattern: &str) -> String {
        PathPattern::parse(pattern).unwrap_err().to_string()
    }

    #[test]
    fn a_capture_means_what_django_means() {
        assert_eq!(
            canonical(DETAIL, "/api/users/7/", "id").as_deref(),
            Some("7")
        );
        assert_eq!(canonical(DETAIL, "/api/users/me/", "id"), None);
        assert_eq!(canonical(DETAIL, "/api/users/-7/", "id"), None);
        assert_eq!(canonical(DETAIL, "/api/users/٣/", "id"), None);
        assert_eq!(canonical(DETAIL, "/api/users/7", "id"), None);
        assert_eq!(canonical(DETAIL, "/api/users/7/8/", "id"), None);
        assert_eq!(canonical(DETAIL, "/x/api/users/7/", "id"), None);
        assert_eq!(
            canonical("/u/<name>/", "/u/me/", "name").as_deref(),
            Some("me")
        );
        assert_eq!(
            canonical("/u/<str:name>/", "/u/a.b~c/", "name").as_deref(),
            Some("a.b~c")
        );
        assert_eq!(canonical("/u/<str:name>/", "/u/a/b/", "name"), None);
        assert_eq!(canonical("/u/<str:name>/", "/u//", "name"), None);
        assert_eq!(
            canonical("/u/<slug:s>", "/u/a-b_9", "s").as_deref(),
            Some("a-b_9")
        );
        assert_eq!(canonical("/u/<slug:s>", "/u/a.b", "s"), None);
        assert_eq!(
            canonical("/u/<path:rest>", "/u/a/b/", "rest").as_deref(),
            Some("a/b/")
        );
        assert_eq!(canonical("/u/<path:rest>", "/u/", "rest"), None);
        assert_eq!(
            canonical("/u/<path:p>/edit/<int:i>", "/u/a/b/edit/4", "p").as_deref(),
            Some("a/b")
        );
        assert_eq!(
            canonical("/u/<path:p>/edit/<int:i>", "/u/a/b/edit/4", "i").as_deref(),
            Some("4")
        );
        assert_eq!(
            canonical("/u/<path:p>/edit/<int:i>", "/u/edit/4", "i"),
            None
        );
    }

    #[test]
    fn a_uuid_is_lower_case_with_hyphens() {
        let pattern = "/o/<uuid:id>/";
        let id = "0aa1b2c3-d4e5-6789-abcd-ef0123456789";
        assert_eq!(
            canonical(pattern, &format!("/o/{id}/"), "id").as_deref(),
            Some(id)
        );
        assert_eq!(
            canonical(pattern, &format!("/o/{}/", id.to_uppercase()), "id"),
            None
        );
        assert_eq!(
            purged(pattern, &format!("/o/{}/", id.to_uppercase()), "id"),
            None
        );
        assert_eq!(
            canonical(pattern, &format!("/o/{}/", id.replace('-', "a")), "id"),
            None
        );
    }

    #[test]
    fn literals_may_stand_around_a_capture() {
        assert_eq!(
            canonical("/u/<str:n>.json", "/u/a.b.json", "n").as_deref(),
            Some("a.b")
        );
        assert_eq!(
            canonical("/u/v<int:n>-x", "/u/v12-x", "n").as_deref(),
            Some("12")
        );
        assert_eq!(canonical("/u/v<int:n>-x", "/u/v-x", "n"), None);
        assert_eq!(canonical("/u/aa<str:n>aa", "/u/aaa", "n"), None);
    }

    #[test]
    fn a_wrong_path_is_told_what_to_write() {
        assert!(cause("api/users/").contains("write `/api/users/`"));
        assert!(cause("http://x/api/").contains("`upstream`"));
        assert!(cause("/u/<itn:id>/").contains("did you mean `int`?"));
        assert!(cause("/u/<float:id>/").contains("int, str, slug, uuid, path"));
        assert!(cause("/u/<int:id/").contains("without its `>`"));
        assert!(cause("/u/int:id>/").contains("without a `<`"));
        assert!(cause("/u/<int:>/").contains("without a name"));
        assert!(cause("/u/<>/").contains("without a name"));
        assert!(cause("/u/<int>/").contains("`<int:id>`"));
        assert!(cause("/u/<int:1d>/").contains("not a name"));
        assert!(cause("/u/<id>/x/<id>/").contains("captured twice"));
        assert!(cause("/u/<a>-<b>/").contains("two captures"));
        assert!(cause("/u/<path:a>/<path:b>").contains("second"));
        assert!(cause("^/u/$").contains("re_path()"));
        assert!(cause("/u/(?P<id>[0-9]+)/").contains("regular expression"));
        assert!(cause("/u/{id}/").contains("`<id>`"));
        assert!(cause("/u/:id/").contains("`<id>`"));
        assert!(cause("/u/*").contains("`<path:rest>`"));
        assert!(cause("/u//x").contains("`//`"));
        assert!(cause("/u/../x").contains("dots"));
        assert!(cause("/u/?page=1").contains("query"));
        assert!(cause("/u/a b").contains("white space"));
        assert!(cause("/u/%20").contains("percent-encoding"));
    }

    #[test]
    fn an_earlier_path_may_leave_nothing_for_a_later_one() {
        let covers = |a: &str, b: &str| path(a).covers(&path(b));
        assert!(covers("/u/<int:id>/", "/u/<int:pk>/"));
        assert!(covers("/u/<id>/", "/u/<int:id>/"));
        assert!(covers("/u/<id>/", "/u/me/"));
        assert!(covers("/u/<slug:id>/", "/u/<uuid:id>/"));
        assert!(covers("/u/<path:rest>", "/u/<int:id>/"));
        assert!(covers("/u/<path:rest>", "/u/a/<path:rest>"));
        assert!(covers("/<path:rest>", "/u/x<path:rest>"));
        assert!(!covers("/u/<int:id>/", "/u/<id>/"));
        assert!(!covers("/u/<int:id>/", "/u/me/"));
        assert!(!covers("/u/<id>/", "/u/<path:rest>"));
        assert!(!covers("/u/<path:rest>", "/u/"));
        assert!(!covers("/u/a/<path:rest>", "/u/<path:rest>"));
        assert!(!covers("/u/", "/u/<id>/"));
        assert!(!covers("/u/<id>", "/u/"));
        assert!(!covers("/u/<id>.json", "/u/<id>"));
    }
}
