//! What is wrong with proxy.yaml, told so that it can be put right: file, line and column, the line
//! with a caret, the cause, and the remedy. And never a secret.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::ops::Range;

use super::mirror::Complaint;
use super::place::{At, Located, Position, locate};
use super::value::Value;

/// Display gives the whole, several-line message.
pub struct ConfigError {
    message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}

/// Something wrong, before it is known where in the text it stands.
#[derive(Debug)]
pub struct Problem {
    place: Place,
    cause: String,
    help: String,
    /// The value as the problem knows it, if it is about one.
    value: Option<Value>,
    /// The piece of the value that is wrong.
    span: Option<Range<usize>>,
    /// The other of two keys that do not go together.
    other: Option<At>,
}

#[derive(Debug, Clone)]
enum Place {
    At(At),
    Flag(&'static str),
}

/// A complaint about a value by somebody who does not know where it stands.
#[derive(Debug)]
pub struct Wrong {
    pub cause: String,
    pub help: String,
    pub span: Option<Range<usize>>,
}

pub fn wrong(cause: impl Into<String>, help: impl Into<String>) -> Wrong {
    Wrong {
        cause: cause.into(),
        help: help.into(),
        span: None,
    }
}

impl From<crate::route::PatternError> for Wrong {
    fn from(error: crate::route::PatternError) -> Wrong {
        Wrong {
            cause: error.cause,
            help: error.help,
            span: Some(error.span),
        }
    }
}

impl Problem {
    /// About what stands at this place, or about something that is missing there.
    pub fn at(at: &At, cause: impl Into<String>, help: impl Into<String>) -> Problem {
        Problem {
            place: Place::At(at.clone()),
            cause: cause.into(),
            help: help.into(),
            value: None,
            span: None,
            other: None,
        }
    }

    /// About this value.
    pub fn with(value: &Value, wrong: Wrong) -> Problem {
        let place = match value.flag {
            Some(flag) => Place::Flag(flag),
            None => Place::At(value.at.clone()),
        };
        let span = wrong.span.filter(|_| value.is_verbatim());
        let value = Some(value.clone());
        Problem {
            place,
            cause: wrong.cause,
            help: wrong.help,
            value,
            span,
            other: None,
        }
    }

    /// The key that this one does not go together with.
    pub fn beside(mut self, other: &At) -> Problem {
        self.other = Some(other.clone());
        self
    }
}

/// A text and what must not be told of it.
pub struct Source<'a> {
    name: &'a str,
    text: &'a str,
    secrets: RefCell<Vec<String>>,
}

impl<'a> Source<'a> {
    pub fn new(name: &'a str, text: &'a str) -> Source<'a> {
        Source {
            name,
            text,
            secrets: RefCell::default(),
        }
    }

    /// From now on this text is never shown. What is shorter could not be told from other text, and
    /// is kept out by its place instead.
    pub fn keep_secret(&self, secret: &str) {
        if secret.chars().count() > 3 {
            self.secrets.borrow_mut().push(secret.to_owned());
        }
    }

    /// Something wrong with the file as a whole.
    pub fn whole(&self, cause: &str, help: &str) -> ConfigError {
        self.finish(format!("{}: {cause}\nhelp: {help}\n", self.name))
    }

    /// All problems, in the order of the file.
    pub fn problems(&self, problems: Vec<Problem>) -> ConfigError {
        let placed = problems.into_iter().map(|problem| {
            let found = match &problem.place {
                Place::At(at) => locate(self.text, at),
                Place::Flag(_) => None,
            };
            (found, problem)
        });
        let mut placed: Vec<(Option<Located>, Problem)> = placed.collect();
        placed.sort_by_key(|(found, _)| found.as_ref().map(|found| found.position));
        let told: Vec<String> = placed
            .into_iter()
            .map(|(found, problem)| self.tell(found, problem))
            .collect();
        self.finish(told.join("\n"))
    }

    fn tell(&self, found: Option<Located>, problem: Problem) -> String {
        let (cause, help) = match &problem.value {
            Some(value) => value.veil(problem.cause, problem.help),
            None => (problem.cause, problem.help),
        };
        let other = problem.other.and_then(|at| {
            let there = locate(self.text, &at)?;
            Some(format!("`{at}` is in line {}", there.position.line))
        });
        let mut told = String::new();
        match (&problem.place, found) {
            (Place::Flag(flag), _) => {
                let _ = writeln!(told, "{flag}: {cause}");
            }
            (Place::At(at), None) => {
                let _ = writeln!(told, "{}: {at}: {cause}", self.name);
            }
            (Place::At(at), Some(found)) => {
                let subject = match at.to_string() {
                    root if root.is_empty() => String::new(),
                    path => format!("{path}: "),
                };
                let token = self.token(&found, problem.span);
                told = self.snippet(found.position, token, None, &format!("{subject}{cause}"));
            }
        }
        if let Some(other) = other {
            let _ = writeln!(told, "note: {other}");
        }
        let _ = writeln!(told, "help: {help}");
        told
    }

    /// What the mirror or the parser said.
    pub fn yaml(&self, error: &serde_yaml::Error) -> ConfigError {
        let message = error.to_string();
        let Some(position) = Position::of(error) else {
            return match message.contains("more than one document") {
                true => self.whole(
                    "more than one YAML document",
                    "leave out the `---` between them",
                ),
                false => self.whole(
                    "this is not YAML that can be read",
                    "compare it with the shipped proxy.yaml",
                ),
            };
        };
        let found = Located {
            position,
            scalar: None,
        };
        let token = self.token(&found, None);
        let complaint = Complaint::find(&message).unwrap_or_else(|| syntax(&message));
        let cut = complaint.about_key.then_some(token.end);
        let told = self.snippet(position, token, cut, &complaint.cause);
        self.finish(format!("{told}help: {}\n", complaint.help))
    }

    /// A character of the text that may not stand there.
    pub fn character(&self, position: Position, cause: &str, help: &str) -> ConfigError {
        let column = position.column - 1;
        let told = self.snippet(position, column..column + 1, None, cause);
        self.finish(format!("{told}help: {help}\n"))
    }

    fn line(&self, number: usize) -> &'a str {
        self.text
            .lines()
            .nth(number.saturating_sub(1))
            .unwrap_or_default()
    }

    /// The characters of the line that the carets stand under.
    fn token(&self, found: &Located, span: Option<Range<usize>>) -> Range<usize> {
        let line: Vec<char> = self.line(found.position.line).chars().collect();
        let start = (found.position.column - 1).min(line.len());
        let rest = &line[start..];
        let text: String = rest.iter().collect();
        let scalar = found.scalar.as_deref().filter(|scalar| !scalar.is_empty());
        let quote = usize::from(matches!(rest.first(), Some('"' | '\'')));
        let inside: String = rest[quote.min(rest.len())..].iter().collect();
        if let Some(scalar) = scalar.filter(|scalar| inside.starts_with(*scalar)) {
            let from = start + quote;
            let chars = |bytes: usize| scalar[..bytes].chars().count();
            return match span.filter(|span| scalar.get(span.clone()).is_some()) {
                Some(span) => from + chars(span.start)..from + chars(span.end),
                None => start..from + scalar.chars().count() + quote,
            };
        }
        let length = match rest.first() {
            Some(quote @ ('"' | '\'')) => rest
                .iter()
                .skip(1)
                .position(|c| c == quote)
                .map_or(rest.len(), |at| at + 2),
            Some('[' | '{' | '|' | '>' | '-') | None => 1,
            Some(_) => {
                let ends = |(i, c): (usize, &char)| {
                    let next = rest.get(i + 1);
                    c.is_whitespace()
                        || matches!(c, ',' | ']' | '}') && !text.starts_with("${")
                        || *c == ':' && next.is_none_or(|next| next.is_whitespace())
                };
                rest.iter()
                    .enumerate()
                    .position(|place| ends(place))
                    .unwrap_or(rest.len())
            }
        };
        start..start + length.max(1)
    }

    /// `cut` is the character behind which the line is not shown.
    fn snippet(
        &self,
        position: Position,
        token: Range<usize>,
        cut: Option<usize>,
        cause: &str,
    ) -> String {
        let line = self.line(position.line);
        let mut hidden = self.secret_spans(position.line);
        let length = line.chars().count();
        if let Some(cut) = cut {
            let end = line.chars().take(cut + 2).count();
            if end < length {
                hidden.push(end..length);
            }
        }
        let (shown, token) = hide(line, hidden, token);
        let number = position.line.to_string();
        let margin = " ".repeat(number.len());
        let carets = "^".repeat(token.len().max(1));
        let lead: String = shown
            .chars()
            .take(token.start)
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        let mut told = format!(
            "{}:{}:{}: {cause}\n",
            self.name, position.line, position.column
        );
        let _ = writeln!(told, "{margin} |");
        let _ = writeln!(told, "{number} | {}", shown.trim_end());
        let _ = writeln!(told, "{margin} | {lead}{carets}");
        told
    }

    /// The characters of a line that hold, or may hold, a secret. Judged by the text alone, for the
    /// file may be too broken to be read.
    fn secret_spans(&self, number: usize) -> Vec<Range<usize>> {
        let line = self.line(number);
        let mut bytes = credentials(line);
        bytes.extend(secret_value(line));
        let indentation = |line: &str| line.len() - line.trim_start().len();
        let before = self.text.lines().take(number.saturating_sub(1));
        let before: Vec<&str> = before.filter(|line| !line.trim().is_empty()).collect();
        // A value may go on below its key.
        let own = indentation(line);
        let parent = before.iter().rev().find(|above| indentation(above) < own);
        let opens = |above: &str| secret_key(above).is_some();
        let follows = before.last().is_some_and(|above| {
            secret_key(above).is_some_and(|end| above[end..].trim().is_empty())
        });
        if own > 0 && parent.is_some_and(|above| opens(above)) || follows {
            bytes.push(own..line.len());
        }
        let chars = |at: usize| line[..at].chars().count();
        bytes
            .into_iter()
            .map(|span| chars(span.start)..chars(span.end))
            .collect()
    }

    /// The last word on a message: no secret that is known leaves in it.
    fn finish(&self, message: String) -> ConfigError {
        let mut message = message;
        for secret in self.secrets.borrow().iter() {
            message = message.replace(secret.as_str(), "***");
        }
        ConfigError {
            message: message.trim_end().to_owned(),
        }
    }
}

/// The line with its hidden pieces as `***`, and where the token stands then.
fn hide(line: &str, mut hidden: Vec<Range<usize>>, token: Range<usize>) -> (String, Range<usize>) {
    hidden.sort_by_key(|span| span.start);
    let chars: Vec<char> = line.chars().collect();
    let mut shown: Vec<char> = Vec::with_capacity(chars.len());
    let mut moved = vec![0; chars.len() + 1];
    let mut spans = hidden
        .into_iter()
        .filter(|span| !span.is_empty())
        .peekable();
    let mut at = 0;
    while at < chars.len() {
        let Some(span) = spans.next_if(|span| span.start <= at) else {
            moved[at] = shown.len();
            shown.push(chars[at]);
            at += 1;
            continue;
        };
        if span.end > at {
            moved[at..span.end].fill(shown.len());
            shown.extend("***".chars());
            at = span.end;
        }
    }
    moved[chars.len()] = shown.len();
    let place = |at: usize| {
        moved
            .get(at)
            .copied()
            .unwrap_or(shown.len() + at - chars.len())
    };
    let token = place(token.start)..place(token.end);
    (shown.into_iter().collect(), token)
}

/// Bytes of user name and password in whatever looks like a URL.
fn credentials(line: &str) -> Vec<Range<usize>> {
    let mut spans = Vec::new();
    let mut at = 0;
    for word in line.split_inclusive(char::is_whitespace) {
        let behind = |mark: &str| word.find(mark).map(|found| found + mark.len());
        let authority = behind("://")
            .or_else(|| behind("//"))
            .or_else(|| behind(":-"));
        if let Some(end) = word.rfind('@') {
            let start = authority.filter(|start| *start <= end).unwrap_or(0);
            spans.push(at + start..at + end);
        } else if let Some(start) = behind("://").filter(|_| word.to_lowercase().contains("redis"))
        {
            // `redis://:password`, with the host forgotten.
            let authority = &word[start..];
            let end = authority
                .find(['/', '"', '\'', ',', '}', ' ', '\n'])
                .unwrap_or(authority.len());
            let port = authority[..end]
                .rfind(':')
                .map(|colon| &authority[colon + 1..end]);
            if let Some(port) = port.filter(|port| !port.bytes().all(|b| b.is_ascii_digit())) {
                let stop = at + start + end;
                spans.push(stop - port.len()..stop);
            }
        }
        at += word.len();
    }
    spans
}

/// Where the value of a key begins that is by its name a secret's.
fn secret_key(line: &str) -> Option<usize> {
    let lower = line.to_ascii_lowercase();
    for word in ["token", "passw", "secret"] {
        for (found, _) in lower.match_indices(word) {
            let rest = &line[found..];
            let name = rest
                .find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            let behind = rest[name..].trim_start_matches(['"', '\'']);
            let gap = behind.trim_start();
            let first_word = !line[..found]
                .trim_start_matches([' ', '{', '"', '\''])
                .contains([' ', ':', '#']);
            if let Some(value) = gap.strip_prefix([':', '=']) {
                return Some(line.len() - value.len());
            }
            // A colon forgotten is the likeliest error there.
            if first_word && behind.len() > gap.len() {
                return Some(line.len() - gap.len());
            }
        }
    }
    None
}

/// The value of a key that is by its name a secret's, unless it only names a variable.
fn secret_value(line: &str) -> Option<Range<usize>> {
    let from = secret_key(line)?;
    let value = line[from..].trim_start();
    let start = line.len() - value.len();
    let value = value.trim_end();
    let length = match value.chars().next()? {
        '#' | '|' | '>' => return None,
        quote @ ('"' | '\'') => value[1..].find(quote).map_or(value.len(), |end| end + 2),
        _ => value.len(),
    };
    let bare = value[..length].trim_matches(['"', '\'']);
    let variable = bare
        .strip_prefix("${")
        .and_then(|inside| inside.strip_suffix('}'));
    let only_named = variable.is_some_and(|inside| !inside.contains(['$', '-', '}']));
    (!only_named).then_some(start..start + length)
}

/// The parser's own complaint. Its texts are fixed ones and hold nothing of the file.
fn syntax(message: &str) -> Complaint {
    let said = |text: &str| message.contains(text);
    let (cause, help) = if said("invalid type: sequence") {
        (
            "a list where one value is expected",
            "write one value, without `[ ]` or `- `",
        )
    } else if said("invalid type: map") {
        (
            "a mapping where one value is expected",
            "write one value; with a `: ` or braces inside, quote it",
        )
    } else if said("mapping values are not allowed") {
        (
            "a second `: ` in one line",
            "quote the value, or begin a new line for the next key",
        )
    } else if said("expected ',' or ']'") || said("expected ',' or '}'") {
        (
            "this list or mapping in brackets is not continued or closed",
            "inside [ ] and { } quote what holds braces, brackets or commas: \"users:detail:{id}\"",
        )
    } else if said("cannot start any token") {
        (
            "a value cannot begin with this character",
            "quote it: a plain value begins with none of @ ` % and no tab",
        )
    } else if said("could not find expected ':'") {
        ("a line without `: `", "write `key: value`")
    } else if said("quoted scalar") {
        (
            "a quoted value that is not closed, or an escape that YAML does not know",
            "close the quotes; in '…' no backslash is special",
        )
    } else if said("did not find expected") {
        (
            "this line does not fit the ones above",
            "indent the keys of one mapping alike, and begin each item of a list with `- `",
        )
    } else if said("unknown anchor") {
        (
            "an alias without its anchor",
            "write the value out, or quote a text that begins with `*`",
        )
    } else {
        (
            "this is not YAML that can be read",
            "compare the line with the shipped proxy.yaml",
        )
    };
    Complaint {
        cause: cause.to_owned(),
        help: help.to_owned(),
        about_key: false,
    }
}
