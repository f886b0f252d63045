//! What a verify answer says of its client. Input: two pointers, a line each; then two answers, an empty line between.

use larder::access::verdict::Scope;
use larder::caching::key::{CopyKey, HashingSecret};
use larder::route::{Captures, KeyTemplate};

const SECRET: HashingSecret = HashingSecret([7; 32]);

pub fn holds(data: &[u8]) {
    let mut lines = data.splitn(3, |&byte| byte == b'\n');
    let pointers: Vec<String> = (0..2)
        .filter_map(|_| String::from_utf8(lines.next()?.to_vec()).ok())
        .collect();
    let answers = lines.next().unwrap_or_default();
    let between = answers.windows(2).position(|two| two == b"\n\n");
    let (first, second) = answers.split_at(between.unwrap_or(answers.len()));
    let scopes: Vec<Scope> = [first, second]
        .into_iter()
        .filter_map(|answer| Scope::of(&pointers, answer))
        .collect();
    for scope in &scopes {
        assert_eq!(scope.0.len(), pointers.len());
        for other in &scopes {
            // One copy for each scope, and for each copy one.
            assert_eq!(key(scope) == key(other), scope == other);
        }
    }
}

fn key(scope: &Scope) -> String {
    let mut key = CopyKey::new(&SECRET);
    for (pointer, value) in &scope.0 {
        key.scope(pointer, value.as_deref());
    }
    let template = KeyTemplate::parse("users:list").expect("a template");
    key.of(
        "t",
        &template.family(&Captures::default()).expect("a family"),
    )
}
