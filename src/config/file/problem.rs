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

/// How far the text is understood. Where it is not, a line ends for the reader with the token: what
/// stands behind may be the secret of a key misspelt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    Understood,
    /// This line, but not what comes behind it.
    Line,
    Broken,
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
    /// Values of variables that went into paths and keys, which the rules across keys quote.
    variables: RefCell<Vec<String>>,
}

impl<'a> Source<'a> {
    pub fn new(name: &'a str, text: &'a str) -> Source<'a> {
        Source {
            name,
            text,
            secrets: RefCell::default(),
            variables: RefCell::default(),
        }
    }

    /// From now on this text is never shown. What is shorter could not be told from other text, and
    /// is kept out by its place instead.
    pub fn keep_secret(&self, secret: &str) {
        if secret.chars().count() > 3 {
            self.secrets.borrow_mut().push(secret.to_owned());
        }
    }

    /// From now on no rule across keys quotes a text with this in it.
    pub fn keep_unquoted(&self, value: &str) {
        if !value.is_empty() {
            self.variables.borrow_mut().push(value.to_owned());
        }
    }

    /// The text without the quotations that hold a variable's value.
    fn unquoted(&self, text: &str) -> String {
        let variables = self.variables.borrow();
        let pieces = text.split('`').enumerate().map(|(i, piece)| {
            let hide = i % 2 == 1 && variables.iter().any(|value| piece.contains(value));
            if hide { "***" } else { piece }
        });
        pieces.collect::<Vec<_>>().join("`")
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
            None => (self.unquoted(&problem.cause), self.unquoted(&problem.help)),
        };
        let other = problem.other.and_then(|at| {
            let there = locate(self.text, &at)?;
            Some(match there.exact {
                true => format!("`{at}` is in line {}", there.position.line),
                false => format!("`{at}` is not in the file and has its default"),
            })
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
                told = self.snippet(
                    found.position,
                    token,
                    Reading::Understood,
                    &format!("{subject}{cause}"),
                );
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
        let found = Complaint::find(&message);
        let run_on = run_on_quote(self.text, position).filter(|_| found.is_none());
        let complaint = found.unwrap_or_else(|| match run_on {
            Some(_) => syntax("quoted scalar"),
            None => syntax(&message),
        });
        let position = run_on
            .or_else(|| opening_quote(&message))
            .unwrap_or(position);
        let found = Located {
            position,
            scalar: None,
            exact: true,
        };
        let token = self.token(&found, None);
        let subject = match complaint.within.as_str() {
            "" => String::new(),
            path => format!("{path}: "),
        };
        let how = match complaint.known_key {
            true => Reading::Line,
            false => Reading::Broken,
        };
        let told = self.snippet(
            position,
            token,
            how,
            &format!("{subject}{}", complaint.cause),
        );
        self.finish(format!("{told}help: {}\n", complaint.help))
    }

    /// A character of the text that may not stand there.
    pub fn character(&self, position: Position, cause: &str, help: &str) -> ConfigError {
        let column = position.column - 1;
        let told = self.snippet(position, column..column + 1, Reading::Broken, cause);
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
                rest.iter().enumerate().position(ends).unwrap_or(rest.len())
            }
        };
        start..start + length.max(1)
    }

    fn snippet(
        &self,
        position: Position,
        token: Range<usize>,
        how: Reading,
        cause: &str,
    ) -> String {
        let line = self.line(position.line);
        // Nor does the cause quote what the line is shown without.
        for span in credentials(line) {
            self.keep_secret(line[span].trim_start_matches(['"', '\'', '[', '{', '(']));
        }
        let column = token.start + 1;
        let (mut shown, token) = hide(line, self.secret_spans(position.line, how), token);
        if how == Reading::Broken && token.end + 1 < shown.chars().count() {
            let colon = shown
                .chars()
                .skip(token.end)
                .take_while(|c| *c == ':')
                .count();
            let kept = shown.chars().take(token.end + colon.min(1));
            shown = kept.chain([' ', '…']).collect();
        }
        let number = position.line.to_string();
        let margin = " ".repeat(number.len());
        let carets = "^".repeat(token.len().max(1));
        let lead: String = shown
            .chars()
            .take(token.start)
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        let mut told = format!("{}:{}:{}: {cause}\n", self.name, position.line, column);
        let _ = writeln!(told, "{margin} |");
        let _ = writeln!(told, "{number} | {}", shown.trim_end());
        let _ = writeln!(told, "{margin} | {lead}{carets}");
        told
    }

    /// The characters of a line that hold a secret, or may hold one.
    fn secret_spans(&self, number: usize, how: Reading) -> Vec<Range<usize>> {
        let line = self.line(number);
        let chars = |at: usize| line[..at].chars().count();
        let mut spans: Vec<Range<usize>> = credentials(line)
            .into_iter()
            .map(|span| chars(span.start)..chars(span.end))
            .collect();
        match how {
            Reading::Understood => {
                let token = locate(self.text, &At::root().key("admin_token"));
                if let Some(found) = token.filter(|it| it.exact && it.position.line == number) {
                    let mut span = self.token(&found, None);
                    // What is empty, or goes on in further lines, is not to be found in this one.
                    let whole = |text: String| !text.is_empty() && line.contains(&text);
                    if !found.scalar.is_some_and(whole) {
                        span.end = line.chars().count().max(span.start);
                    }
                    spans.push(span);
                }
            }
            Reading::Line | Reading::Broken => {
                let guessed = secret_value(line);
                spans.extend(guessed.map(|span| chars(span.start)..chars(span.end)));
            }
        }
        // A value may go on below its key.
        let indentation = |line: &str| line.len() - line.trim_start().len();
        let own = indentation(line);
        let above = self.text.lines().take(number.saturating_sub(1));
        let above: Vec<&str> = above.filter(|line| !line.trim().is_empty()).collect();
        let parent = above.iter().rev().find(|above| indentation(above) < own);
        let follows = above.last().is_some_and(|above| {
            behind_secret_name(above)
                .is_some_and(|end| !above[end..].contains(char::is_alphanumeric))
        });
        if own > 0 && parent.is_some_and(|above| behind_secret_name(above).is_some()) || follows {
            spans.push(chars(own)..line.chars().count());
        }
        spans
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
            .unwrap_or_else(|| shown.len() + at - chars.len())
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
        } else if let Some(start) = behind("://").filter(|_| !word.contains("http")) {
            // `redis://:password`, with the host or its `@` forgotten.
            let authority = &word[start..];
            let end = authority.find(['/', '"', '\'', ',', '}', ' ', '\n']);
            let authority = &authority[..end.unwrap_or(authority.len())];
            let host = authority.find(']').map_or(0, |bracket| bracket + 1);
            if let Some(colon) = authority[host..].find(':') {
                let port = host + colon + 1..authority.len();
                if !authority[port.clone()].bytes().all(|b| b.is_ascii_digit()) {
                    spans.push(at + start + port.start..at + start + port.end);
                }
            }
        }
        at += word.len();
    }
    spans
}

/// Where a line goes on behind a word that names a secret; also without a proper colon, for the file
/// may be broken just there.
fn behind_secret_name(line: &str) -> Option<usize> {
    let in_word = |c: char| c.is_alphanumeric() || c == '_';
    let lower = line.to_ascii_lowercase();
    let names = ["token", "passw", "secret", "authorization", "cookie:"];
    let found = names.iter().flat_map(|name| lower.match_indices(name));
    let ends = found.filter_map(|(found, _)| {
        let before = line[..found].trim_end_matches(in_word);
        let behind = line[found..].trim_start_matches(in_word);
        // Names of headers and variables hold such words, too.
        let own = !before.ends_with('-') && !before.ends_with("${");
        own.then_some(line.len() - behind.len())
    });
    ends.min()
}

/// What follows such a word, unless it only names a variable.
fn secret_value(line: &str) -> Option<Range<usize>> {
    let rest = &line[behind_secret_name(line)?..];
    let value = rest.trim_start_matches([' ', '\t', ':', '=', '"', '\'']);
    let start = line.len() - value.len();
    let value = value.trim_end_matches([' ', '\t', '"', '\'']);
    let variable = value
        .strip_prefix("${")
        .and_then(|inside| inside.strip_suffix('}'));
    let only_named = variable.is_some_and(|inside| !inside.contains(['$', '-', '}']));
    (!only_named).then_some(start..start + value.len())
}

/// Where a quoted value begins that never ends. The parser complains at the end of the file.
fn opening_quote(message: &str) -> Option<Position> {
    if !message.contains("unexpected end of stream") {
        return None;
    }
    let (_, place) = message.split_once("while scanning a quoted scalar at line ")?;
    let (line, column) = place.split_once(" column ")?;
    Some(Position {
        line: line.parse().ok()?,
        column: column.parse().ok()?,
    })
}

/// Where a quoted value began that went on in further lines, up to the next quote: the parser complains only of what
/// stands behind that one.
fn run_on_quote(text: &str, complained: Position) -> Option<Position> {
    let mut open: Option<(char, Position)> = None;
    for (index, line) in text.lines().enumerate().take(complained.line) {
        // Before which a value may begin, and whether a comment may.
        let (mut last, mut blank) = (None, true);
        let mut chars = (1..).zip(line.chars()).peekable();
        while let Some((column, c)) = chars.next() {
            match open {
                None if blank && c == '#' => break,
                None => {
                    let begins = matches!(last, None | Some(':' | '-' | '[' | '{' | ','));
                    let line = index + 1;
                    open = (begins && matches!(c, '"' | '\''))
                        .then_some((c, Position { line, column }));
                }
                Some(('"', _)) if c == '\\' => drop(chars.next()),
                Some(('\'', _)) if c == '\'' && chars.next_if(|next| next.1 == '\'').is_some() => {}
                Some((quote, began)) if c == quote => {
                    let mut behind = { line.chars().take(complained.column - 1) }.skip(column);
                    if index + 1 == complained.line
                        && began.line < complained.line
                        && column < complained.column
                        && behind.all(char::is_whitespace)
                    {
                        return Some(began);
                    }
                    open = None;
                }
                Some(_) => {}
            }
            blank = c.is_whitespace();
            if !blank {
                last = Some(c);
            }
        }
    }
    None
}

/// The parser's own complaint. Its texts are fixed ones and hold nothing of the file.
fn syntax(message: &str) -> Complaint {
    let said = |text: &str| message.contains(text);
    let in_brackets =
        "inside [ ] and { } quote what holds braces, brackets or commas: \"users:detail:{id}\"";
    // First what is the surest sign.
    let known = [
        (
            "invalid type: sequence",
            "a list where one value is expected",
            "write one value, without `[ ]` or `- `",
        ),
        (
            "invalid type: map",
            "a mapping where one value is expected",
            "write one value; with a `: ` or braces inside, quote it",
        ),
        (
            "mapping values are not allowed",
            "a `: ` where no key can stand",
            "quote a value that holds `: `, and begin a new line for each key",
        ),
        (
            "found unexpected ':'",
            "braces in a value that stands in brackets",
            in_brackets,
        ),
        (
            "expected ',' or ']'",
            "this list in brackets is not continued or closed here",
            in_brackets,
        ),
        (
            "expected ',' or '}'",
            "this mapping in braces is not continued or closed here",
            in_brackets,
        ),
        (
            "cannot start any token",
            "a value cannot begin with this character",
            "quote it: a plain value begins with none of `@`, `%` and no tab",
        ),
        (
            "could not find expected ':'",
            "a line without `: `",
            "write `key: value`",
        ),
        (
            "escape character",
            "an escape that YAML does not know",
            "write `\\\\` for a backslash, or use '…', where it is not special",
        ),
        (
            "quoted scalar",
            "a quoted value that is not closed",
            "close the quotes",
        ),
        (
            "scanning an alias",
            "`*` begins an alias, and here stands no name behind it",
            "quote a text that begins with `*`",
        ),
        (
            "unknown anchor",
            "an alias without its anchor",
            "quote a text that begins with `*`",
        ),
        (
            "did not find expected",
            "this line does not fit the ones above",
            "indent the keys of one mapping alike, and begin each item of a list with `- `",
        ),
        (
            "block sequence entries are not allowed",
            "a list cannot begin here",
            "put each `- ` on a line of its own, below the key",
        ),
    ];
    let (cause, help) = known.iter().find(|(sign, _, _)| said(sign)).map_or(
        (
            "this is not YAML that can be read",
            "compare the line with the shipped proxy.yaml",
        ),
        |(_, cause, help)| (*cause, *help),
    );
    let within = message
        .split_once(": invalid type: ")
        .map_or("", |(path, _)| path);
    Complaint {
        within: within.to_owned(),
        cause: cause.to_owned(),
        help: help.to_owned(),
        known_key: false,
    }
}
