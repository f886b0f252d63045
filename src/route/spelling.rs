//! How a path may be spelled: the one canonical way, and all others as a server may read them.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// How the path given to a match is spelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// As received; `is_canonical` is asked separately.
    Raw,
    Decoded,
    /// Decoded, and in upper or lower case.
    AnyCase,
}

/// A path as a server may read it, for purging: percent-decoded, as Django sees it; and where that
/// is another, also normalised, as a proxy between us and Django may have made it: `//` collapsed,
/// dot segments resolved, `;…` of a segment cut off.
#[derive(Debug, Clone)]
pub struct Decoded {
    pub(super) plain: String,
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

/// A form and, where it ends with a format (`/users.json`), the one without, as Rails and DRF read it; each with and without
/// a slash at its end, which to Express, Rails and others are the same.
pub(super) fn read_loosely(form: &str) -> impl Iterator<Item = [Cow<'_, str>; 2]> {
    let both = |form| match str::strip_suffix(form, '/') {
        Some(shorter) => [form.into(), shorter.into()],
        None => [form.into(), format!("{form}/").into()],
    };
    let named = form.strip_suffix('/').unwrap_or(form).rsplit_once('.');
    let without = named.filter(|(before, format)| {
        let is_word = !format.is_empty() && format.bytes().all(|b| b.is_ascii_alphanumeric());
        is_word && !before.ends_with('/')
    });
    std::iter::once(form)
        .chain(without.map(|(before, _)| before))
        .map(both)
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
pub(super) fn is_canonical(raw_path: &str) -> bool {
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

pub(super) fn decoded(text: &str) -> String {
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

/// RFC 3986 `pchar` without its escapes, and without `;`, which some servers cut at.
pub(super) fn is_raw_in_path(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\''
        | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@')
}

pub(super) fn push_encoded(text: &mut String, byte: u8, raw: bool) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    if raw {
        text.push(byte as char);
    } else {
        text.push('%');
        text.push(HEX[usize::from(byte >> 4)] as char);
        text.push(HEX[usize::from(byte & 15)] as char);
    }
}
