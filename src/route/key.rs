//! Keys: as a route writes them, with placeholders, and the names of families and groups that come of it.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::path::PathPattern;
use super::segment::Converter;
use super::sets::{
    Atom, DIGITS, KEY_VALUE, SLUG, UUID_LENGTH, in_set, intersect, literal_atoms, uuid_set,
};
use super::spelling::{decoded, push_encoded};
use super::{Captures, PatternError, is_name, wrong};

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

    /// Whether a path of this key's route, whose path is `path`, gives that family: `users:detail:7`, but for an int
    /// neither `users:detail:07` nor `users:detail:me`.
    pub fn makes(&self, path: &PathPattern, family: &str) -> bool {
        let mut values = Vec::new();
        let has_shape = values_of(&self.parts, family, &mut values);
        let values: Vec<_> = { values.iter() }
            .map(|(name, value)| (*name, decoded(value)))
            .collect();
        let captures: Captures = { values.iter() }
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let made = path.match_canonical(&path.filled(&captures));
        let made = made.and_then(|captures| self.family(&captures));
        has_shape && made.is_some_and(|made| made.as_str() == family)
    }

    /// Whether some path of `own`, the path of this key's route, and some path of `others` give the
    /// same family: then two resources would share one copy.
    pub fn collides(&self, own: &PathPattern, other: &KeyTemplate, others: &PathPattern) -> bool {
        // A file compares each of its keys with all others, and most begin otherwise.
        let mut begin = self.beginning().bytes().zip(other.beginning().bytes());
        begin.all(|(one, other)| one == other)
            && intersect(
                &self.atoms(|name| own.converter(name)),
                &other.atoms(|name| others.converter(name)),
            )
    }

    /// What each of its families begins with.
    fn beginning(&self) -> &str {
        match self.parts.first() {
            Some(KeyPart::Literal(literal)) => literal,
            _ => "",
        }
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

/// Takes the values of a family out of it. A value ends where no other could, so there is one way at most.
fn values_of<'t>(
    parts: &'t [KeyPart],
    family: &'t str,
    values: &mut Vec<(&'t str, &'t str)>,
) -> bool {
    let Some((first, others)) = parts.split_first() else {
        return family.is_empty();
    };
    match first {
        KeyPart::Literal(literal) => family
            .strip_prefix(literal.as_str())
            .is_some_and(|rest| values_of(others, rest, values)),
        KeyPart::Placeholder(name) => {
            let longest = family.bytes().take_while(|byte| in_set(KEY_VALUE, *byte));
            (1..=longest.count()).rev().any(|end| {
                values.push((name, &family[..end]));
                let fits = values_of(others, &family[end..], values);
                if !fits {
                    values.pop();
                }
                fits
            })
        }
    }
}

fn is_raw_in_key(byte: u8) -> bool {
    byte != b'%' && in_set(KEY_VALUE, byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::tests::path;
    use proptest::prelude::*;

    fn key(text: &str) -> KeyTemplate {
        KeyTemplate::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
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
    fn a_family_is_made_by_a_path_of_its_route_or_by_none() {
        let made = |key_text: &str, path_text: &str, family: &str| {
            key(key_text).makes(&path(path_text), family)
        };
        for (path, family, expected) in [
            ("/u/<int:id>/", "d:7", true),
            ("/u/<int:id>/", "d:0", true),
            ("/u/<int:id>/", "d:07", false),
            ("/u/<int:id>/", "d:me", false),
            ("/u/<int:id>/", "d:", false),
            ("/u/<int:id>/", "e:7", false),
            ("/u/<id>/", "d:me", true),
            ("/u/<id>/", "d:%C3%A9", true),
            ("/u/<id>/", "d:%c3%a9", false),
            ("/u/<id>/", "d:é", false),
            ("/u/<id>/", "d:%37", false),
            ("/u/<id>/", "d:a:b", false),
            (
                "/u/<uuid:id>/",
                "d:00000000-0000-0000-0000-00000000000a",
                true,
            ),
            (
                "/u/<uuid:id>/",
                "d:00000000-0000-0000-0000-00000000000A",
                false,
            ),
        ] {
            assert_eq!(made("d:{id}", path, family), expected, "{path} {family}");
        }
        let nested = "/t/<slug:t>/u/<int:id>/";
        assert!(made("t:{t}-x:u:{id}-y", nested, "t:a-x:u:7-y"));
        assert!(!made("t:{t}-x:u:{id}-y", nested, "t:a-x:u:7-z"));
        assert!(made("users:list", "/u/", "users:list"));
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
    }
}
