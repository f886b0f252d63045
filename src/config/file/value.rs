//! A value of proxy.yaml: `${…}` filled in, and read as what its key wants. What came from the
//! environment is remembered, for no message may show it.

use std::time::Duration;

use super::mirror::Text;
use super::place::At;
use super::problem::{Wrong, wrong};

/// The environment, as a function: tests need not change the process's own.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A scalar with its variables filled in.
#[derive(Debug, Clone)]
pub struct Value {
    pub text: String,
    pub at: At,
    pub flag: Option<&'static str>,
    /// Names and values of the variables that were used.
    variables: Vec<(String, String)>,
    verbatim: bool,
}

impl Value {
    pub fn fill(text: &Text, at: &At, env: Env) -> Result<Value, Box<(Value, Wrong)>> {
        let mut value = Value {
            text: String::new(),
            at: at.clone(),
            flag: text.flag,
            variables: Vec::new(),
            verbatim: true,
        };
        // What the command line gives was filled in by the shell.
        if text.flag.is_some() {
            value.text.clone_from(&text.raw);
        } else {
            match fill(&text.raw, 0, env, &mut value.variables) {
                Ok(filled) => value.text = filled,
                Err(wrong) => return Err(Box::new((value, wrong))),
            }
            value.verbatim = value.text == text.raw;
        }
        if value.text.trim().is_empty() {
            let empty: Vec<&str> = value
                .variables
                .iter()
                .map(|(name, _)| name.as_str())
                .collect();
            let wrong = match empty.as_slice() {
                [] => wrong(
                    "no value",
                    "write one, or leave the key out for its default",
                ),
                names => wrong(
                    format!("no value: `{}` is set and empty", names.join("`, `")),
                    "give the variable a value, or write `${NAME:-default}`",
                ),
            };
            // Only names are told, and names may be.
            value.variables.clear();
            return Err(Box::new((value, wrong)));
        }
        Ok(value)
    }

    /// The values of the variables in it.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.variables.iter().map(|(_, value)| value.as_str())
    }

    /// As the file has it, so that a place in the value is a place in the file.
    pub fn is_verbatim(&self) -> bool {
        self.verbatim
    }

    /// The same without quoting anything that came from the environment: every quotation that is a
    /// piece of the value, or holds a variable's, becomes `***`, and in the help the variable's name.
    pub fn veil(&self, cause: String, help: String) -> (String, String) {
        if self.variables.is_empty() {
            return (cause, help);
        }
        let secret = |quoted: &str| {
            self.text.contains(quoted)
                || self
                    .variables
                    .iter()
                    .any(|(_, value)| !value.is_empty() && quoted.contains(value))
        };
        let veiled = |text: &str| -> (String, bool) {
            let mut hidden = false;
            let pieces = text.split('`').enumerate().map(|(i, piece)| {
                let hide = i % 2 == 1 && secret(piece);
                hidden |= hide;
                if hide { "***" } else { piece }
            });
            let text = pieces.collect::<Vec<_>>().join("`");
            (text, hidden)
        };
        let names: Vec<String> = self
            .variables
            .iter()
            .map(|(name, _)| format!("${{{name}}}"))
            .collect();
        let names = names.join(" and ");
        let (cause, _) = veiled(&cause);
        let by_name = |help: String| match self.variables.as_slice() {
            [(name, value)] if self.text == *value && value.len() > 3 => {
                named(&help, value, &format!("${{{name}}}"))
            }
            _ => help,
        };
        let quoted = self.variables.iter().find(|(_, value)| {
            let bare = |mark: char| value.strip_prefix(mark)?.strip_suffix(mark);
            bare('"').or_else(|| bare('\'')).is_some()
        });
        let help = match veiled(&by_name(help)) {
            _ if quoted.is_some() => {
                format!("leave out the quotes in the value of {names}: nobody takes them off it")
            }
            (_, true) => format!("correct the value of {names}"),
            (help, false) => help,
        };
        (format!("{cause} (filled in from {names})"), help)
    }
}

/// What a help makes of a value it can as well make of the variable's name: `http://${UPSTREAM}`. That is a number, or what ends
/// a quotation; elsewhere the word may be the help's own, as `redis` is in `redis://host`.
fn named(help: &str, value: &str, name: &str) -> String {
    let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
    let (mut told, mut rest) = (String::new(), help);
    while let Some((before, behind)) = rest.split_once(value) {
        let ends_it = before.ends_with(['`', '/', ':']) && behind.starts_with('`');
        told.push_str(before);
        told.push_str(if is_number || ends_it { name } else { value });
        rest = behind;
    }
    told + rest
}

/// `$${` is a plain `${`.
fn fill(
    raw: &str,
    offset: usize,
    env: Env,
    used: &mut Vec<(String, String)>,
) -> Result<String, Wrong> {
    let mut filled = String::with_capacity(raw.len());
    let mut at = 0;
    while let Some(found) = raw[at..].find("${") {
        let open = at + found;
        if raw[at..open].ends_with('$') {
            filled.push_str(&raw[at..open]);
            filled.push('{');
            at = open + 2;
            continue;
        }
        filled.push_str(&raw[at..open]);
        let here = |length: usize| Some(offset + open..offset + open + length);
        let rest = &raw[open..];
        let Some(close) = closing_brace(rest) else {
            return Err(Wrong {
                span: here(rest.len()),
                ..wrong(
                    "`${` without its `}`",
                    "write `${NAME}`, or `$${` for the characters themselves",
                )
            });
        };
        filled.push_str(
            &variable(&rest[2..close], offset + open + 2, env, used).map_err(|error| Wrong {
                span: error.span.or(here(close + 1)),
                ..error
            })?,
        );
        at = open + close + 1;
    }
    filled.push_str(&raw[at..]);
    Ok(filled)
}

/// Where the brace closes that `text` begins with after a `$`. Braces inside count, as in
/// `${KEY:-users:{id}}`.
fn closing_brace(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// What stands between `${` and `}`.
fn variable(
    inside: &str,
    offset: usize,
    env: Env,
    used: &mut Vec<(String, String)>,
) -> Result<String, Wrong> {
    let end = inside
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(inside.len());
    let (name, rest) = inside.split_at(end);
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(wrong(
            "`${…}` without the name of a variable",
            "write `${NAME}`, or `$${` for the characters themselves",
        ));
    }
    let set = env(name);
    let mut take = |value: String| {
        used.push((name.to_owned(), value.clone()));
        value
    };
    if rest.is_empty() {
        return set.map(&mut take).ok_or_else(|| {
            wrong(
                format!("the variable `{name}` is not set"),
                format!("set it, or write `${{{name}:-default}}`"),
            )
        });
    }
    let set = set.filter(|value| !value.is_empty());
    if let Some(default) = rest.strip_prefix(":-") {
        return match set {
            Some(value) => Ok(take(value)),
            None => fill(default, offset + end + 2, env, used),
        };
    }
    if let Some(message) = rest.strip_prefix(":?") {
        return set.map(&mut take).ok_or_else(|| {
            let message = if message.is_empty() {
                "it is needed"
            } else {
                message
            };
            wrong(
                format!("the variable `{name}` is not set: {message}"),
                format!("set `{name}`"),
            )
        });
    }
    Err(wrong(
        format!("after `${{{name}` stands neither `}}` nor `:-` nor `:?`"),
        format!("write `${{{name}}}`, `${{{name}:-default}}` or `${{{name}:?message}}`"),
    ))
}

/// A number that a unit would make right: not `-1`, `1e9`, `.5` or `inf`.
fn has_no_unit(text: &str) -> bool {
    let mut parts = text.splitn(2, '.');
    parts.all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
}

pub fn duration(text: &str) -> Result<Duration, Wrong> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if has_no_unit(text) {
        return Err(wrong(
            format!("`{text}` has no unit"),
            format!("write `{text}s` for seconds, `{text}ms`, `{text}m` or `{text}h`"),
        ));
    }
    match humantime::parse_duration(text) {
        Ok(_) if text.contains('M') => Err(wrong(
            format!("`{text}` is in months, which `M` stands for"),
            format!(
                "write `{}` for minutes, or days: `30d`",
                text.replace('M', "m")
            ),
        )),
        Ok(duration) => Ok(duration),
        Err(_) => Err(wrong(
            format!("`{text}` is not a duration"),
            "write a number with its unit: `250ms`, `30s`, `15m`, `1h`, `7d`, `1h 30m`",
        )),
    }
}

pub fn size(text: &str) -> Result<u64, Wrong> {
    if text == "0" {
        return Ok(0);
    }
    if has_no_unit(text) {
        return Err(wrong(
            format!("`{text}` has no unit"),
            format!("write `{text}B` for bytes, `{text}KiB`, `{text}MiB` or `{text}GiB`"),
        ));
    }
    let size = text.parse::<bytesize::ByteSize>().map_err(|_| {
        wrong(
            format!("`{text}` is not a size"),
            "write a number with its unit: `8KiB`, `4MiB`, `1GiB`",
        )
    })?;
    Ok(size.as_u64())
}

pub fn truth(text: &str) -> Result<bool, Wrong> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(wrong(
            format!("`{text}` is neither `true` nor `false`"),
            "write one of the two",
        )),
    }
}

pub fn number(text: &str) -> Result<u64, Wrong> {
    text.parse().map_err(|_| {
        wrong(
            format!("`{text}` is not a whole number"),
            "write digits only, like `64`",
        )
    })
}
