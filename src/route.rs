//! Which resource a path names, and under which key its answers are kept: path patterns as in
//! Django's urls.py, and key templates. Pure: no I/O, no clock, no configuration.
//!
//! A path is read in two ways. *To look up or store*, it must be spelled in the one canonical way:
//! of all spellings of a resource at most one can hit, so nobody can store an answer under another's
//! key. *To purge*, it is read as generously as a server behind us might read it, since a purge too
//! many costs a fetch and a purge too few serves the past.

pub mod id;
mod why;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use smallvec::SmallVec;

use crate::config::nearest::nearest;

pub use why::Mismatch;

/// More would be no path any more, and the values found so far fit on the stack.
const MOST_CAPTURES: usize = 8;

/// A path as in Django's urls.py: `/api/users/<int:id>/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    text: Arc<str>,
    /// The segments before a `<path:…>`, or all of them.
    front: Vec<Segment>,
    rest: Option<Rest>,
    /// What stands before the first capture, in the canonical spelling.
    lead: String,
}

/// `<path:…>` and the segments behind it. As it alone may hold slashes, both its ends are known
/// from counting segments, and nothing is ever tried twice.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rest {
    segment: Segment,
    back: Vec<Segment>,
}

/// What stands between two slashes: a literal, or one capture with literals around it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Segment {
    before: Literal,
    capture: Option<Capture>,
    after: Literal,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Literal {
    decoded: String,
    /// As the canonical spelling has it.
    encoded: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Capture {
    name: Arc<str>,
    converter: Converter,
}

/// Django's path converters, by Django's own regular expressions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Converter {
    /// `[^/]+`
    Str,
    /// `[0-9]+`
    Int,
    /// `[-a-zA-Z0-9_]+`
    Slug,
    /// Lower case, with hyphens.
    Uuid,
    /// `.+`
    Path,
}

/// How the path given to a match is spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spelling {
    /// As received; `is_canonical` is asked separately.
    Raw,
    Decoded,
}

type Values<'p> = SmallVec<[&'p str; MOST_CAPTURES]>;

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
            let is_path = segment
                .capture
                .as_ref()
                .is_some_and(|c| c.converter == Converter::Path);
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
    /// Where several rules stand in order, use [`first_matches`]: the two forms may be different
    /// rules' paths.
    pub fn match_decoded(&self, path: &Decoded) -> Option<Captures> {
        path.forms().find_map(|form| self.match_form(form))
    }

    fn match_form(&self, form: &str) -> Option<Captures> {
        let values = self.values(form, Spelling::Decoded)?;
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

    fn segments(&self) -> impl Iterator<Item = &Segment> {
        let rest = self.rest.iter();
        let behind = rest.flat_map(|rest| std::iter::once(&rest.segment).chain(&rest.back));
        self.front.iter().chain(behind)
    }

    fn captures(&self) -> impl Iterator<Item = &Capture> {
        self.segments()
            .filter_map(|segment| segment.capture.as_ref())
    }

    fn converter(&self, name: &str) -> Option<Converter> {
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

impl Segment {
    fn parse(written: &str, at: usize, last: bool) -> Result<Segment, PatternError> {
        let whole = at..at + written.len();
        if written.is_empty() && !last {
            return Err(wrong(
                at - 1..at + 1,
                "`//` in a path",
                "write one `/`: no path with `//` is ever cached",
            ));
        }
        if written == "." || written == ".." {
            return Err(wrong(
                whole,
                format!("`{written}` as a segment"),
                "write the path as it is after resolving dots: no other is ever cached",
            ));
        }
        if let Some(name) = written.strip_prefix(':') {
            return Err(wrong(
                whole,
                format!("`{written}` looks like a capture of another framework"),
                format!("write `<{name}>`, or `<int:{name}>` for digits only"),
            ));
        }
        let Some(open) = written.find('<') else {
            let before = Literal::parse(written, at)?;
            return Ok(Segment {
                before,
                capture: None,
                after: Literal::parse("", at)?,
            });
        };
        let before = Literal::parse(&written[..open], at)?;
        let Some(length) = written[open..].find('>') else {
            return Err(wrong(
                at + open..whole.end,
                "`<` without its `>` in the same segment",
                "write a capture as `<int:id>`",
            ));
        };
        let close = open + length;
        let capture = Capture::parse(&written[open + 1..close], at + open)?;
        let behind = &written[close + 1..];
        if behind.contains('<') {
            return Err(wrong(
                whole,
                "two captures in one segment",
                "capture the whole segment, as `<str:name>`: what is between two slashes is one value here",
            ));
        }
        let after = Literal::parse(behind, at + close + 1)?;
        Ok(Segment {
            before,
            capture: Some(capture),
            after,
        })
    }

    fn take<'p>(&self, part: &'p str, spelling: Spelling, values: &mut Values<'p>) -> Option<()> {
        let (before, after) = match spelling {
            Spelling::Raw => (&self.before.encoded, &self.after.encoded),
            Spelling::Decoded => (&self.before.decoded, &self.after.decoded),
        };
        let Some(capture) = &self.capture else {
            return (part == before).then_some(());
        };
        let value = part
            .strip_prefix(before.as_str())?
            .strip_suffix(after.as_str())?;
        capture
            .converter
            .accepts(value, spelling)
            .then(|| values.push(value))
    }

    /// A capture and nothing around it.
    fn is_bare(&self) -> bool {
        self.capture.is_some() && self.before.decoded.is_empty() && self.after.decoded.is_empty()
    }

    fn is_empty(&self) -> bool {
        self.capture.is_none() && self.before.decoded.is_empty()
    }

    fn covers(&self, other: &Segment) -> bool {
        let Some(own) = &self.capture else {
            return other.capture.is_none() && self.before.decoded == other.before.decoded;
        };
        let Some(others) = &other.capture else {
            return self
                .take(&other.before.decoded, Spelling::Decoded, &mut Values::new())
                .is_some();
        };
        let same_around = self.before.decoded == other.before.decoded
            && self.after.decoded == other.after.decoded;
        let wider = match own.converter {
            Converter::Path => true,
            Converter::Str => others.converter != Converter::Path,
            Converter::Slug => !matches!(others.converter, Converter::Path | Converter::Str),
            Converter::Int => others.converter == Converter::Int,
            Converter::Uuid => others.converter == Converter::Uuid,
        };
        let takes_literals =
            self.is_bare() && matches!(own.converter, Converter::Str | Converter::Path);
        wider && (same_around || takes_literals)
    }
}

impl Literal {
    fn parse(text: &str, at: usize) -> Result<Literal, PatternError> {
        for (offset, c) in text.char_indices() {
            let span = at + offset..at + offset + c.len_utf8();
            let (cause, help) = match c {
                '^' | '$' | '(' | ')' | '[' | ']' | '|' | '\\' => (
                    format!("`{c}`: this looks like a regular expression"),
                    "write the path as in Django's path(), not re_path(): `/api/users/<int:id>/`",
                ),
                '*' => (
                    "`*` is no capture here".to_owned(),
                    "write `<path:rest>` for everything below, or `<str:name>` for one segment",
                ),
                '{' | '}' => (
                    format!("`{c}` belongs into keys"),
                    "write a capture of a path as `<id>` or `<int:id>`",
                ),
                '>' => (
                    "`>` without a `<` before it".to_owned(),
                    "write a capture as `<int:id>`",
                ),
                '?' | '#' => (
                    format!("`{c}`: a path ends before the query"),
                    "leave the query out; which parameters count is said by the route's `query`",
                ),
                ';' => (
                    "`;` in a path".to_owned(),
                    "leave it out: no path with `;` is ever cached",
                ),
                '%' => (
                    "percent-encoding in a path pattern".to_owned(),
                    "write the character itself, as Django's urls.py does",
                ),
                c if c.is_whitespace() || c.is_control() => {
                    ("white space in a path".to_owned(), "leave it out")
                }
                _ => continue,
            };
            return Err(wrong(span, cause, help));
        }
        let mut encoded = String::with_capacity(text.len());
        for byte in text.bytes() {
            push_encoded(&mut encoded, byte, is_raw_in_path(byte));
        }
        Ok(Literal {
            decoded: text.to_owned(),
            encoded,
        })
    }
}

impl Capture {
    /// `inside` is what stands between `<` and `>`; `at` is where `<` stands.
    fn parse(inside: &str, at: usize) -> Result<Capture, PatternError> {
        let span = at..at + inside.len() + 2;
        let (converter, name) = match inside.split_once(':') {
            Some((converter, name)) => (Converter::parse(converter, at + 1)?, name),
            None if Converter::NAMES.contains(&inside) => {
                return Err(wrong(
                    span,
                    format!("`<{inside}>` captures anything under the name `{inside}`"),
                    format!("write `<{inside}:id>`, with a name of its own"),
                ));
            }
            None => (Converter::Str, inside),
        };
        if name.is_empty() {
            return Err(wrong(span, "a capture without a name", "write `<int:id>`"));
        }
        if !is_name(name) {
            return Err(wrong(
                span,
                format!("`{name}` is not a name"),
                "use letters, digits and `_`, and begin with a letter",
            ));
        }
        Ok(Capture {
            name: name.into(),
            converter,
        })
    }
}

impl Converter {
    const NAMES: [&'static str; 5] = ["int", "str", "slug", "uuid", "path"];

    fn parse(name: &str, at: usize) -> Result<Converter, PatternError> {
        Ok(match name {
            "str" => Converter::Str,
            "int" => Converter::Int,
            "slug" => Converter::Slug,
            "uuid" => Converter::Uuid,
            "path" => Converter::Path,
            _ => {
                let help = match nearest(name, Self::NAMES) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!(
                        "there are {}; `<id>` alone is `<str:id>`",
                        Self::NAMES.join(", ")
                    ),
                };
                let cause = format!("there is no converter `{name}`");
                return Err(wrong(at..at + name.len().max(1), cause, help));
            }
        })
    }

    fn name(self) -> &'static str {
        match self {
            Converter::Str => "str",
            Converter::Int => "int",
            Converter::Slug => "slug",
            Converter::Uuid => "uuid",
            Converter::Path => "path",
        }
    }

    fn accepts(self, value: &str, spelling: Spelling) -> bool {
        // A literal behind the capture may have cut a percent-encoded byte in two.
        let cut = |value: &[u8]| matches!(value, [.., b'%'] | [.., b'%', _]);
        let bytes = value.as_bytes();
        if bytes.is_empty() || spelling == Spelling::Raw && cut(bytes) {
            return false;
        }
        match self {
            Converter::Str => !bytes.contains(&b'/'),
            Converter::Path => true,
            Converter::Int => {
                let canonical = bytes.len() == 1 || bytes[0] != b'0';
                bytes.iter().all(u8::is_ascii_digit) && (canonical || spelling == Spelling::Decoded)
            }
            Converter::Slug => bytes.iter().all(|&b| in_set(SLUG, b)),
            Converter::Uuid => {
                bytes.len() == UUID_LENGTH
                    && bytes
                        .iter()
                        .enumerate()
                        .all(|(i, &b)| in_set(uuid_set(i), b))
            }
        }
    }

    /// The value that Django would hand to the view, as text.
    fn convert(self, value: &str) -> String {
        match self {
            Converter::Int => match value.trim_start_matches('0') {
                "" => "0".to_owned(),
                digits => digits.to_owned(),
            },
            _ => value.to_owned(),
        }
    }
}

/// A path as a server may read it, for purging: percent-decoded, as Django sees it; and where that
/// is another, also normalised, as a proxy between us and Django may have made it: `//` collapsed,
/// dot segments resolved, `;…` of a segment cut off.
#[derive(Debug, Clone)]
pub struct Decoded {
    plain: String,
    normalised: Option<String>,
}

impl Decoded {
    /// What is no UTF-8 after decoding becomes U+FFFD: no key holds it, but `<path:…>` matches it.
    pub fn of(raw_path: &str) -> Decoded {
        if is_plain(raw_path) {
            return Decoded {
                plain: raw_path.to_owned(),
                normalised: None,
            };
        }
        let plain = decoded(raw_path);
        let normalised = normalise(&plain);
        Decoded {
            normalised: (normalised != plain).then_some(normalised),
            plain,
        }
    }

    /// The one or two forms.
    pub fn forms(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.plain.as_str()).chain(self.normalised.as_deref())
    }
}

/// The first rule for each form of the path. Both count for a purge: which of the two the server
/// behind us acted on is not known here. `pattern` gives a rule's path, or `None` where the rule is
/// not about this request (another method).
pub fn first_matches<'r, R>(
    rules: &'r [R],
    pattern: impl Fn(&'r R) -> Option<&'r PathPattern>,
    path: &Decoded,
) -> SmallVec<[(&'r R, Captures); 2]> {
    let mut found: SmallVec<[(&'r R, Captures); 2]> = SmallVec::new();
    for form in path.forms() {
        let first = rules
            .iter()
            .find_map(|rule| Some((rule, pattern(rule)?.match_form(form)?)));
        if let Some((rule, captures)) = first
            && !found
                .iter()
                .any(|(other, same)| std::ptr::eq(*other, rule) && *same == captures)
        {
            found.push((rule, captures));
        }
    }
    found
}

/// Captured and converted values by name: an int without leading zeros, text without escapes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Captures(SmallVec<[(Arc<str>, String); 2]>);

impl Captures {
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(captured, _)| &**captured == name);
        found.map(|(_, value)| value.as_str())
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Captures {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(pairs: I) -> Self {
        Captures(
            pairs
                .into_iter()
                .map(|(name, value)| (name.into(), value.to_owned()))
                .collect(),
        )
    }
}

/// `users:detail:{id}`: how a route names the family of an answer. Different values give different
/// families: they are percent-encoded, and two placeholders never touch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyTemplate {
    text: Arc<str>,
    parts: Vec<KeyPart>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum KeyPart {
    Literal(String),
    Placeholder(String),
}

impl KeyTemplate {
    pub fn parse(text: &str) -> Result<KeyTemplate, PatternError> {
        if text.is_empty() {
            return Err(wrong(
                0..0,
                "an empty key",
                "name the family, like `users:list`",
            ));
        }
        let mut parts = Vec::new();
        let mut at = 0;
        while at < text.len() {
            if !text[at..].starts_with('{') {
                let length = text[at..].find('{').unwrap_or(text.len() - at);
                let literal = &text[at..at + length];
                check_key_literal(literal, at)?;
                parts.push(KeyPart::Literal(literal.to_owned()));
                at += length;
                continue;
            }
            let Some(length) = text[at..].find('}') else {
                return Err(wrong(
                    at..text.len(),
                    "`{` without its `}`",
                    "write a placeholder as `{id}`",
                ));
            };
            let name = &text[at + 1..at + length];
            let span = at..at + length + 1;
            if !is_name(name) {
                let cause = format!("`{{{name}}}` does not name a capture");
                return Err(wrong(
                    span,
                    cause,
                    "write the name that the path captures, like `{id}`",
                ));
            }
            if !may_stand_before_placeholder(&parts) {
                return Err(wrong(
                    span,
                    format!("nothing tells where the value before `{{{name}}}` ends"),
                    "put a `:` between two placeholders; letters, digits and `.`, `_`, `-`, `%` may be part of a value",
                ));
            }
            parts.push(KeyPart::Placeholder(name.to_owned()));
            at += length + 1;
        }
        Ok(KeyTemplate {
            text: text.into(),
            parts,
        })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn placeholders(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            KeyPart::Placeholder(name) => Some(name.as_str()),
            KeyPart::Literal(_) => None,
        })
    }

    /// The family of the resource that these captures name. `None` if one is missing.
    pub fn family(&self, captures: &Captures) -> Option<FamilyKey> {
        let mut key = String::with_capacity(self.text.len() + 16);
        for part in &self.parts {
            match part {
                KeyPart::Literal(literal) => key.push_str(literal),
                KeyPart::Placeholder(name) => {
                    for byte in captures.get(name)?.bytes() {
                        push_encoded(&mut key, byte, is_raw_in_key(byte));
                    }
                }
            }
        }
        Some(FamilyKey(key))
    }

    /// What `users:detail:*` drops: all families of the route. A key without placeholders has one
    /// family, and needs no group.
    pub fn group(&self) -> Option<GroupKey> {
        self.placeholders()
            .next()
            .map(|_| GroupKey::of_pattern(&self.pattern()))
    }

    /// `users:detail:*`, or the text itself if it has no placeholder.
    pub fn pattern(&self) -> String {
        let parts = self.parts.iter().map(|part| match part {
            KeyPart::Literal(literal) => literal.as_str(),
            KeyPart::Placeholder(_) => "*",
        });
        parts.collect()
    }

    /// Whether `users:detail:7` has the shape of this template.
    pub fn matches_family(&self, family: &str) -> bool {
        let any = self.atoms(|_| Some(Converter::Str));
        family.is_ascii() && intersect(&any, &literal_atoms(family).collect::<Vec<_>>())
    }

    /// Whether some path of `own`, the path of this key's route, and some path of `others` give the
    /// same family: then two resources would share one copy.
    pub fn collides(&self, own: &PathPattern, other: &KeyTemplate, others: &PathPattern) -> bool {
        intersect(
            &self.atoms(|name| own.converter(name)),
            &other.atoms(|name| others.converter(name)),
        )
    }

    fn atoms(&self, converter: impl Fn(&str) -> Option<Converter>) -> Vec<Atom> {
        let mut atoms = Vec::new();
        for part in &self.parts {
            match part {
                KeyPart::Literal(literal) => atoms.extend(literal_atoms(literal)),
                KeyPart::Placeholder(name) => match converter(name) {
                    Some(Converter::Int) => atoms.push(Atom {
                        set: DIGITS,
                        repeats: true,
                    }),
                    Some(Converter::Slug) => atoms.push(Atom {
                        set: SLUG,
                        repeats: true,
                    }),
                    Some(Converter::Uuid) => {
                        let one = |i| Atom {
                            set: uuid_set(i),
                            repeats: false,
                        };
                        atoms.extend((0..UUID_LENGTH).map(one));
                    }
                    Some(Converter::Str | Converter::Path) | None => {
                        atoms.push(Atom {
                            set: KEY_VALUE,
                            repeats: true,
                        });
                    }
                },
            }
        }
        atoms
    }
}

/// What a purge names: one family, or all families of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FamilyPattern {
    /// `users:list`, `users:detail:{id}`, and from the command line `users:detail:7`.
    Family(KeyTemplate),
    /// `users:detail:*`
    Group(GroupKey),
}

impl FamilyPattern {
    pub fn parse(text: &str) -> Result<FamilyPattern, PatternError> {
        let Some(star) = text.find('*') else {
            return KeyTemplate::parse(text).map(FamilyPattern::Family);
        };
        if let Some(open) = text.find('{') {
            return Err(wrong(
                open..text.len(),
                "`*` and `{…}` in one key",
                "name one family (`users:detail:{id}`) or all of a route (`users:detail:*`)",
            ));
        }
        let mut at = 0;
        for literal in text.split('*') {
            check_key_literal(literal, at)?;
            at += literal.len() + 1;
        }
        if text.contains("**") {
            return Err(wrong(
                star..text.len(),
                "`**` in a key",
                "one `*` stands for one placeholder of the route's key",
            ));
        }
        Ok(FamilyPattern::Group(GroupKey::of_pattern(text)))
    }

    /// As a purge names it: `users:list`, `users:detail:{id}`, `users:detail:*`.
    pub fn as_str(&self) -> &str {
        match self {
            FamilyPattern::Family(template) => template.as_str(),
            FamilyPattern::Group(group) => &group.0,
        }
    }
}

/// The name of a family: `users:list`, `users:detail:7`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FamilyKey(String);

impl FamilyKey {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The family of another resource of the same route, whose id stands where this one's does.
    pub fn of_another(&self, place: Range<usize>, id: &str) -> FamilyKey {
        let mut family = self.0.clone();
        family.replace_range(place, id);
        FamilyKey(family)
    }
}

impl fmt::Display for FamilyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of all families of a route: `users:detail` of `users:detail:{id}`. Kept with the `:*` of
/// its pattern behind it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupKey(String);

impl GroupKey {
    fn of_pattern(pattern: &str) -> GroupKey {
        let key = pattern.strip_suffix(":*").unwrap_or(pattern);
        GroupKey(format!("{key}:*"))
    }

    pub fn as_str(&self) -> &str {
        self.0.strip_suffix(":*").unwrap_or(&self.0)
    }
}

impl fmt::Display for GroupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is wrong with a pattern, where in its text, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatternError {
    pub cause: String,
    pub help: String,
    /// Bytes of the text that was parsed.
    pub span: Range<usize>,
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.cause, self.help)
    }
}

impl std::error::Error for PatternError {}

fn wrong(span: Range<usize>, cause: impl Into<String>, help: impl Into<String>) -> PatternError {
    PatternError {
        cause: cause.into(),
        help: help.into(),
        span,
    }
}

/// Whether a path can be read in one way only, as nearly all can: nothing encoded, no empty or dot segment, no leading zero.
pub fn is_plain(path: &str) -> bool {
    let bytes = path.as_bytes();
    bytes.iter().enumerate().all(|(at, byte)| match byte {
        b'/' | b'.' => at == 0 || bytes[at - 1] != b'/',
        b'0'..=b'9' => at < 2 || bytes[at - 1] != b'0' || bytes[at - 2] != b'/',
        b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'_' | b'~' => true,
        _ => false,
    })
}

/// Whether the path is spelled in the one way that may be looked up: percent-encoded is what must
/// be and nothing else, in upper case and as valid UTF-8; no `//`, `.`, `..` or `;`.
///
/// What is read differently by different servers (`%2F`, `%5C`, `%25`, `%3B`, control characters)
/// has no canonical spelling at all.
fn is_canonical(raw_path: &str) -> bool {
    let Some(body) = raw_path.strip_prefix('/') else {
        return false;
    };
    if is_plain(raw_path) {
        return true;
    }
    let is_dots = |segment: &[u8]| matches!(segment, b"." | b"..");
    let mut begins = 0;
    for (at, _) in body.bytes().enumerate().filter(|(_, byte)| *byte == b'/') {
        let segment = &body.as_bytes()[begins..at];
        if segment.is_empty() || is_dots(segment) {
            return false;
        }
        begins = at + 1;
    }
    if is_dots(&body.as_bytes()[begins..]) {
        return false;
    }
    let bytes = body.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'/' || is_raw_in_path(bytes[at]) {
            at += 1;
            continue;
        }
        let mut character = [0; 4];
        let Some(first) = escape(bytes, at) else {
            return false;
        };
        character[0] = first;
        let length = match first {
            b' ' | b'"' | b'#' | b'<' | b'>' | b'?' | b'[' | b']' | b'^' | b'`' | b'{' | b'|'
            | b'}' => 1,
            0xC2..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF4 => 4,
            _ => return false,
        };
        for (more, byte) in character.iter_mut().enumerate().take(length).skip(1) {
            let Some(next) = escape(bytes, at + 3 * more) else {
                return false;
            };
            *byte = next;
        }
        if std::str::from_utf8(&character[..length]).is_err() {
            return false;
        }
        at += 3 * length;
    }
    true
}

/// The byte of a `%XX` in upper case that begins at `at`.
fn escape(bytes: &[u8], at: usize) -> Option<u8> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    };
    match bytes.get(at..at + 3)? {
        [b'%', high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    }
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// `//` collapsed, dot segments resolved, parameters of segments (`;…`) cut off.
fn normalise(path: &str) -> String {
    let Some(body) = path.strip_prefix('/') else {
        return path.to_owned();
    };
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_with_slash = false;
    for segment in body.split('/') {
        let name = segment.split(';').next().unwrap_or_default();
        ends_with_slash = matches!(name, "" | "." | "..");
        match name {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            name => kept.push(name),
        }
    }
    let mut normalised = format!("/{}", kept.join("/"));
    if ends_with_slash && !kept.is_empty() {
        normalised.push('/');
    }
    normalised
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn check_key_literal(literal: &str, at: usize) -> Result<(), PatternError> {
    for (offset, c) in literal.char_indices() {
        let help = match c {
            '~' => "leave it out: a `~` begins the suffix of a copy",
            '}' => "write a placeholder as `{id}`",
            '*' => "name a placeholder of the path, like `{id}`; only a purge may say `*`",
            '<' | '>' => "in a key write a capture as `{id}`",
            '!'..='|' => continue,
            _ => "use printable ASCII without spaces, like `users:list`",
        };
        let span = at + offset..at + offset + c.len_utf8();
        return Err(wrong(
            span,
            format!("`{}` in a key", c.escape_debug()),
            help,
        ));
    }
    Ok(())
}

/// Whether a value may follow: either it is the first, or something that no value can hold stands
/// between it and the last one.
fn may_stand_before_placeholder(parts: &[KeyPart]) -> bool {
    match parts {
        [.., KeyPart::Placeholder(_), KeyPart::Literal(between)] => {
            between.bytes().any(|b| !in_set(KEY_VALUE, b))
        }
        [.., KeyPart::Placeholder(_)] => false,
        _ => true,
    }
}

/// RFC 3986 `pchar` without its escapes, and without `;`, which some servers cut at.
fn is_raw_in_path(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\''
        | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@')
}

fn is_raw_in_key(byte: u8) -> bool {
    byte != b'%' && in_set(KEY_VALUE, byte)
}

fn push_encoded(text: &mut String, byte: u8, raw: bool) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    if raw {
        text.push(byte as char);
    } else {
        text.push('%');
        text.push(HEX[usize::from(byte >> 4)] as char);
        text.push(HEX[usize::from(byte & 15)] as char);
    }
}

/// A set of ASCII characters, one bit each.
type Set = u128;

const DIGITS: Set = set(b"0123456789");
const LETTERS: Set = set(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ");
const SLUG: Set = DIGITS | LETTERS | set(b"-_");
/// What a value consists of once it is encoded into a key.
const KEY_VALUE: Set = SLUG | set(b".%");

const UUID_LENGTH: usize = 36;

const fn uuid_set(position: usize) -> Set {
    match position {
        8 | 13 | 18 | 23 => set(b"-"),
        _ => DIGITS | set(b"abcdef"),
    }
}

const fn set(members: &[u8]) -> Set {
    let mut bits = 0;
    let mut i = 0;
    while i < members.len() {
        bits |= 1 << members[i];
        i += 1;
    }
    bits
}

fn in_set(set: Set, byte: u8) -> bool {
    byte.is_ascii() && set & 1 << byte != 0
}

/// One character of a set, or one and more.
#[derive(Debug, Clone, Copy)]
struct Atom {
    set: Set,
    repeats: bool,
}

fn literal_atoms(literal: &str) -> impl Iterator<Item = Atom> {
    literal.bytes().map(|byte| Atom {
        set: set(&[byte]),
        repeats: false,
    })
}

/// Whether one text fits both: a walk over the pairs of places in the two.
fn intersect(left: &[Atom], right: &[Atom]) -> bool {
    let width = right.len() + 1;
    let mut seen = vec![false; (left.len() + 1) * width];
    let mut open = vec![(0, 0)];
    while let Some((i, j)) = open.pop() {
        if std::mem::replace(&mut seen[i * width + j], true) {
            continue;
        }
        match (left.get(i), right.get(j)) {
            (None, None) => return true,
            (Some(a), Some(b)) if a.set & b.set != 0 => {
                let next_i = [Some(i + 1), a.repeats.then_some(i)];
                let next_j = [Some(j + 1), b.repeats.then_some(j)];
                for i in next_i.into_iter().flatten() {
                    open.extend(next_j.into_iter().flatten().map(|j| (i, j)));
                }
            }
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(text: &str) -> PathPattern {
        PathPattern::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    fn key(text: &str) -> KeyTemplate {
        KeyTemplate::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    fn canonical(pattern: &str, raw: &str, name: &str) -> Option<String> {
        let captures = path(pattern).match_canonical(raw)?;
        captures.get(name).map(str::to_owned)
    }

    fn purged(pattern: &str, raw: &str, name: &str) -> Option<String> {
        let captures = path(pattern).match_decoded(&Decoded::of(raw))?;
        captures.get(name).map(str::to_owned)
    }

    fn cause(pattern: &str) -> String {
        PathPattern::parse(pattern).unwrap_err().to_string()
    }

    const DETAIL: &str = "/api/users/<int:id>/";

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
    fn another_spelling_is_purged_but_never_looked_up() {
        for other in [
            "/api/users/07/",
            "/api/users/%37/",
            "/api/users/7%2f",
            "/api//users/7/",
            "/api/users/./7/",
            "/api/users/8/../7/",
            "/api/users/7;x=1/",
            "/%61pi/users/7/",
            "/api/users/7//",
            "/api/users/%2E/7/",
        ] {
            assert_eq!(canonical(DETAIL, other, "id"), None, "{other}");
            assert_eq!(purged(DETAIL, other, "id").as_deref(), Some("7"), "{other}");
        }
        assert_eq!(
            purged(DETAIL, "/api/users/000/", "id").as_deref(),
            Some("0")
        );
        assert_eq!(
            canonical(DETAIL, "/api/users/0/", "id").as_deref(),
            Some("0")
        );
    }

    #[test]
    fn a_look_alike_is_never_the_detail_route() {
        for other in [
            "/api/users/7%2f",
            "/API/users/7/",
            "/api/users/7/.css",
            "/api/users/7/x.css",
            "/api/users/7%00/",
            "/api/users/7%3Bx/",
            "/api/users/7%20/",
            "/api/users/7/?",
            "",
            "/",
            "*",
            "api/users/7/",
        ] {
            assert_eq!(canonical(DETAIL, other, "id"), None, "{other}");
        }
        for other in [
            "/API/users/7/",
            "/api/users/7/.css",
            "/api/users/7%20/",
            "*",
        ] {
            assert_eq!(purged(DETAIL, other, "id"), None, "{other}");
        }
    }

    #[test]
    fn what_must_be_encoded_has_one_canonical_encoding() {
        let value = |raw| canonical("/u/<str:n>/", raw, "n");
        assert_eq!(value("/u/%C3%A9/").as_deref(), Some("é"));
        assert_eq!(value("/u/a%20b/").as_deref(), Some("a b"));
        assert_eq!(value("/u/%E2%82%AC%F0%9F%98%80/").as_deref(), Some("€😀"));
        assert_eq!(value("/u/a:b@c/").as_deref(), Some("a:b@c"));
        for other in [
            "/u/%c3%a9/",
            "/u/é/",
            "/u/%C3/",
            "/u/%C3%28/",
            "/u/%FF/",
            "/u/%ED%A0%80/",
            "/u/%C0%AF/",
            "/u/a%3Ab/",
            "/u/%7E/",
            "/u/%/",
            "/u/%4/",
            "/u/%zz/",
            "/u/%25/",
            "/u/%2541/",
            "/u/%5C/",
            "/u/%0A/",
            "/u/%7F/",
            "/u/%3B/",
        ] {
            assert_eq!(value(other), None, "{other}");
        }
        assert_eq!(
            canonical("/straße/<int:n>", "/stra%C3%9Fe/1", "n").as_deref(),
            Some("1")
        );
        assert_eq!(
            purged("/straße/<int:n>", "/stra%C3%9Fe/1", "n").as_deref(),
            Some("1")
        );
        // "A9" ends the escape of é; it is no text of its own.
        assert_eq!(canonical("/u/<str:n>9", "/u/%C3%A9", "n"), None);
        assert_eq!(canonical("/u/<str:n>A9", "/u/%C3%A9", "n"), None);
    }

    #[test]
    fn what_is_no_utf8_still_purges_what_is_below() {
        assert_eq!(
            purged("/u/<path:rest>", "/u/%FF/x", "rest").as_deref(),
            Some("\u{FFFD}/x")
        );
    }

    #[test]
    fn a_path_that_two_servers_read_differently_is_purged_by_both_readings() {
        let rules = [path(DETAIL), path("/api/users/<path:rest>")];
        let found = |raw: &str| -> Vec<String> {
            first_matches(&rules, Some, &Decoded::of(raw))
                .iter()
                .map(|(rule, _)| rule.as_str().to_owned())
                .collect()
        };
        assert_eq!(found("/api/users/7/"), [DETAIL]);
        assert_eq!(found("/api/users//7/"), ["/api/users/<path:rest>", DETAIL]);
        assert_eq!(
            found("/api/users/me/../7/"),
            ["/api/users/<path:rest>", DETAIL]
        );
        assert_eq!(found("/api/users/me//"), ["/api/users/<path:rest>"; 2]);
        assert_eq!(found("/api/users/7%2F"), [DETAIL]);
        assert!(found("/elsewhere/").is_empty());
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
    fn an_error_points_at_the_piece_that_is_wrong() {
        let text = "/api/users/<itn:id>/";
        assert_eq!(&text[PathPattern::parse(text).unwrap_err().span], "itn");
        let text = "/api/<id>/x<id>/";
        assert_eq!(&text[PathPattern::parse(text).unwrap_err().span], "x<id>");
        let text = "users:detail:{id}{x}";
        assert_eq!(&text[KeyTemplate::parse(text).unwrap_err().span], "{x}");
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

    #[test]
    fn a_key_names_the_family_of_a_resource() {
        let captures: Captures = [("id", "7")].into_iter().collect();
        let detail = key("users:detail:{id}");
        assert_eq!(detail.family(&captures).unwrap().as_str(), "users:detail:7");
        assert_eq!(detail.family(&Captures::default()), None);
        assert_eq!(
            key("users:list").family(&captures).unwrap().as_str(),
            "users:list"
        );
        let odd: Captures = [("id", "a~b:c/é%")].into_iter().collect();
        assert_eq!(
            detail.family(&odd).unwrap().as_str(),
            "users:detail:a%7Eb%3Ac%2F%C3%A9%25"
        );
    }

    #[test]
    fn a_key_with_placeholders_has_a_group() {
        let group = |text: &str| key(text).group().map(|group| group.as_str().to_owned());
        assert_eq!(group("users:list"), None);
        assert_eq!(group("users:detail:{id}").as_deref(), Some("users:detail"));
        assert_eq!(group("t:{t}:users:{id}").as_deref(), Some("t:*:users"));
        assert_eq!(key("users:detail:{id}").pattern(), "users:detail:*");
        let FamilyPattern::Group(purge) = FamilyPattern::parse("users:detail:*").unwrap() else {
            panic!("a `*` names a group");
        };
        assert_eq!(Some(&purge), key("users:detail:{id}").group().as_ref());
        assert_eq!(FamilyPattern::Group(purge).as_str(), "users:detail:*");
        assert!(matches!(
            FamilyPattern::parse("users:list"),
            Ok(FamilyPattern::Family(_))
        ));
    }

    #[test]
    fn a_family_has_the_shape_of_its_template() {
        let detail = key("users:detail:{id}");
        assert!(detail.matches_family("users:detail:7"));
        assert!(detail.matches_family("users:detail:a%20b"));
        assert!(!detail.matches_family("users:detail:"));
        assert!(!detail.matches_family("users:detail:7:8"));
        assert!(!detail.matches_family("users:detail:7~state"));
        assert!(!detail.matches_family("users:list"));
        assert!(key("t:{t}:u:{u}").matches_family("t:1:u:2"));
        assert!(key("{t}.json").matches_family("a.json.json"));
    }

    #[test]
    fn two_keys_that_can_meet_are_found() {
        let collide = |(key_a, path_a), (key_b, path_b)| {
            key(key_a).collides(&path(path_a), &key(key_b), &path(path_b))
        };
        assert!(collide(("u:{id}", "/u/<id>"), ("u:me", "/u/me")));
        assert!(collide(("u:{id}", "/u/<int:id>"), ("u:{s}", "/v/<slug:s>")));
        assert!(collide(("u:list", "/u/"), ("u:list", "/v/")));
        assert!(!collide(("u:{id}", "/u/<int:id>"), ("u:me", "/u/me")));
        assert!(!collide(
            ("u:{id}", "/u/<int:id>"),
            ("u:{id}", "/u/<uuid:id>")
        ));
        assert!(!collide(("u:{id}", "/u/<id>"), ("u:{id}:x", "/u/<id>/x")));
    }

    #[test]
    fn a_wrong_key_is_told_what_to_write() {
        let cause = |text: &str| FamilyPattern::parse(text).unwrap_err().to_string();
        assert!(cause("").contains("empty"));
        assert!(cause("users list").contains("printable ASCII"));
        assert!(cause("users~x").contains("suffix"));
        assert!(cause("users:é").contains("printable ASCII"));
        assert!(cause("users:{id").contains("without its `}`"));
        assert!(cause("users:id}").contains("`{id}`"));
        assert!(cause("users:{}").contains("capture"));
        assert!(cause("users:<id>").contains("`{id}`"));
        assert!(cause("users:{a}{b}").contains("`:`"));
        assert!(cause("users:{a}-{b}").contains("`:`"));
        assert!(cause("users:{a}:*").contains("one family"));
        assert!(cause("users:**").contains("`**`"));
        assert!(
            KeyTemplate::parse("users:*")
                .unwrap_err()
                .to_string()
                .contains("only a purge")
        );
    }

    fn value() -> impl Strategy<Value = String> {
        prop_oneof!["[0-9]{1,6}", "[ -~é€]{1,12}", "[-:._%x]{1,5}", ".{1,6}"]
    }

    proptest! {
        #[test]
        fn two_resources_never_share_a_family(a in value(), b in value(), c in value(), d in value()) {
            let template = key("t:{t}:users:x-{id}.y");
            let family = |t: &str, id: &str| {
                let captures: Captures = [("t", t), ("id", id)].into_iter().collect();
                template.family(&captures).unwrap()
            };
            prop_assert_eq!(family(&a, &b) == family(&c, &d), (&a, &b) == (&c, &d));
            prop_assert!(template.matches_family(family(&a, &b).as_str()));
            prop_assert!(!family(&a, &b).as_str().contains(['~', '*', ' ']));
        }

        #[test]
        fn what_may_be_looked_up_is_purged_under_the_same_name(
            raw in "/(u|é|%C3%A9|a)/([0-9]{1,3}|[a-z%0-9C;./]{0,8}|%[0-9A-F]{2}){1,3}/?"
        ) {
            for pattern in ["/u/<int:id>/", "/u/<id>", "/é/<slug:id>/", "/a/<path:id>", "/u/x<str:id>9", "/<path:a>/<b>"] {
                let pattern = path(pattern);
                if let Some(captures) = pattern.match_canonical(&raw) {
                    let decoded = Decoded::of(&raw);
                    prop_assert_eq!(decoded.forms().count(), 1);
                    prop_assert_eq!(Some(captures), pattern.match_decoded(&decoded));
                }
            }
        }

        #[test]
        fn of_all_spellings_only_one_is_canonical(a in "/[a%C3A9é0-7]{1,9}", b in "/[a%C3A9é0-7]{1,9}") {
            let pattern = path("/<path:p>");
            if let (Some(x), Some(y)) = (pattern.match_canonical(&a), pattern.match_canonical(&b)) {
                prop_assert_eq!(x == y, a == b);
            }
        }

        #[test]
        fn no_path_makes_matching_fail(raw in "\\PC{0,40}") {
            let _ = path("/<path:p>/x<int:n>").match_canonical(&raw);
            let _ = Decoded::of(&raw);
        }
    }
}
