//! Nobody can put an answer where another client reads it, but the one that this client would have got alone.
//! The origin writes into each answer all that it was asked, so whatever got through is in it.

mod support;

use std::collections::BTreeSet;

use support::larder::Larder;
use support::origin::{self, Origin, Request};
use support::users_api;

/// One who sends something odd, before others read the same.
struct Poisoner {
    name: &'static str,
    method: &'static str,
    /// After `/api/users/N/`.
    suffix: &'static str,
    fields: Vec<(String, String)>,
    content: &'static [u8],
}

#[test]
fn whatever_is_asked_before_a_reader_gets_what_it_would_have_got_alone() {
    let (origin, larder) = telling();
    let alone = larder.get("/api/users/1/").text();
    let mut wrong = Vec::new();
    for (number, poisoner) in poisoners().iter().enumerate() {
        let target = format!("/api/users/{}/", 1000 + number);
        let fields: Vec<(&str, &str)> = poisoner
            .fields
            .iter()
            .map(|(name, value)| (&name[..], &value[..]))
            .collect();
        let odd = format!("{target}{}", poisoner.suffix);
        // Twice: what the first one left must not be what the second one learns from.
        for _ in 0..2 {
            let _ = larder
                .connect()
                .try_request(poisoner.method, &odd, &fields, poisoner.content);
        }
        let read = larder.get(&target);
        let expected = alone.replace("/api/users/1/", &target);
        if read.status != 200 || read.text() != expected {
            wrong.push(format!("{}: {odd} {fields:?}: {read:?}", poisoner.name));
        }
        let again = larder.get(&target);
        if !again.is_hit() || again.text() != expected {
            wrong.push(format!("{}: {odd}: then {again:?}", poisoner.name));
        }
    }
    assert!(origin.count() > 0);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_one_was_lured_to_nobody_else_can_read() {
    let (_origin, larder) = telling();
    let mut wrong = Vec::new();
    for base in ["/api/users/", "/api/users/7/", "/api/users/me/"] {
        for suffix in LURES {
            let target = format!("{base}{suffix}");
            for credential in [
                ("Authorization", "Token secret"),
                ("Cookie", "sessionid=secret"),
            ] {
                let own = larder.get_with(&target, &[credential]);
                for _ in 0..2 {
                    let read = larder.get(&target);
                    if read.text().contains("secret") {
                        wrong.push(format!("{target}: {own:?}, then {read:?}"));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn two_targets_never_share_an_answer() {
    let (_origin, larder) = telling();
    let mut wrong = Vec::new();
    for (first, second) in PAIRS {
        for (kept, asked) in [(first, second), (second, first)] {
            larder.purge_everything();
            larder.get(kept);
            larder.get(kept);
            let read = larder.get(asked);
            if read.is_hit() || !read.text().contains(&told(asked)) {
                wrong.push(format!("{kept}, then {asked}: {read:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_empty_query_is_none_and_is_asked_for_as_none() {
    let (origin, larder) = telling();
    for target in ["/api/users/", "/api/users/7/"] {
        for empty in ["?", "?&", "?&&"] {
            larder.purge_everything();
            larder.get(&format!("{target}{empty}"));
            assert_eq!(origin.last().target, target);
            let read = larder.get(target);
            assert!(read.text().contains(&told(target)), "{read:?}");
        }
    }
}

#[test]
fn the_tables_have_a_hundred_and_fifty_cases_and_none_twice() {
    let poisoners = poisoners();
    let distinct: BTreeSet<String> = poisoners
        .iter()
        .map(|p| format!("{} {} {:?} {:?}", p.method, p.suffix, p.fields, p.content))
        .collect();
    assert_eq!(distinct.len(), poisoners.len());
    let (lures, pairs) = (LURES.len(), PAIRS.len());
    let all = poisoners.len() + lures + pairs;
    println!(
        "{} poisoners, {lures} lures, {pairs} pairs: {all}",
        poisoners.len()
    );
    assert!(all >= 150, "{all}");
}

/// An origin that tells all it was asked, and takes offence at what is oversized.
fn telling() -> (Origin, Larder) {
    let origin = Origin::start(|request: &Request| {
        let offended = request.fields.0.iter().any(|(_, value)| value.len() > 4000);
        let mut fields: Vec<String> = request
            .fields
            .0
            .iter()
            .map(|(name, value)| format!("{}: {}", name.to_ascii_lowercase(), of_larder(value)))
            .collect();
        fields.sort();
        let (method, target) = (&request.method, &request.target);
        let text = format!(
            "[{method} {target}] {fields:?} {:?}",
            request.content.text()
        );
        origin::status(if offended { 400 } else { 200 }, text)
            .field("Content-Type", "application/json")
    });
    let larder = Larder::start(users_api(&origin, "memory:", "trusted_proxies: []"));
    (origin, larder)
}

/// The ids that Larder makes for its fills are unlike each other, and nobody chooses them. Any other is told.
fn of_larder(value: &str) -> &str {
    let is_hex = |part: &str| part.bytes().all(|byte| byte.is_ascii_hexdigit());
    match value.split_once('-') {
        Some((process, number)) if process.len() == 16 && is_hex(process) && is_hex(number) => {
            "an id of larder's"
        }
        _ => value,
    }
}

/// As the origin is asked for it: pairs in the order of their names.
fn told(target: &str) -> String {
    match target.split_once('?') {
        None => format!("GET {target}]"),
        Some((path, query)) => {
            let mut pairs: Vec<&str> = query.split('&').collect();
            pairs.sort_by_key(|pair| pair.split('=').next());
            match is_canonical(path) {
                true => format!("GET {path}?{}]", pairs.join("&")),
                false => format!("GET {target}]"),
            }
        }
    }
}

fn is_canonical(path: &str) -> bool {
    path == "/api/users/" || path == "/api/users/7/"
}

fn poisoners() -> Vec<Poisoner> {
    let mut all = Vec::new();
    let mut add = |name, method, suffix, fields: &[(&str, &str)], content| {
        let fields = fields
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        all.push(Poisoner {
            name,
            method,
            suffix,
            fields,
            content,
        });
    };
    for name in [
        "X-Forwarded-Host",
        "X-Forwarded-Server",
        "X-Forwarded-Scheme",
        "X-Forwarded-Proto",
        "X-Forwarded-Protocol",
        "X-Forwarded-Port",
        "X-Forwarded-For",
        "X-Forwarded-Prefix",
        "X-Forwarded-Path",
        "X-Forwarded-SSL",
        "X-Forwarded-URI",
        "Forwarded",
        "X-Real-IP",
        "X-Client-IP",
        "True-Client-IP",
        "CF-Connecting-IP",
        "X-Cluster-Client-IP",
        "X-Host",
        "X-HTTP-Host-Override",
        "X-Original-Host",
        "X-Original-URL",
        "X-Rewrite-URL",
        "X-Original-URI",
        "X-URL-Scheme",
        "X-Scheme",
        "Front-End-Https",
        "X-HTTPS",
        "X-HTTP-Method",
        "X-HTTP-Method-Override",
        "X-Method-Override",
        "X-Script-Name",
        "Script-Name",
        "Script_Name",
        "X_Forwarded_Host",
        "Path-Info",
        "X-Accel-Redirect",
        "X-Sendfile",
        "X-Accel-Buffering",
        "X-WSGI-Script",
        "Destination",
        "Surrogate-Capability",
        "User-Agent",
        "Referer",
        "Origin",
        "Accept-Language",
        "Accept-Charset",
        "Accept-Encoding",
        "DNT",
        "Save-Data",
        "X-Requested-With",
        "X-CSRFToken",
        "X-Timezone",
        "X-Country",
        "X-Amz-Website-Redirect-Location",
        "X-Debug",
        "Via",
        "Max-Forwards",
        "From",
        "Date",
        "Pragma",
        "Warning",
        "Prefer",
        "Content-Type",
        "Content-Language",
        "Content-Encoding",
        "X-Request-ID",
        "Traceparent",
        "Sec-Fetch-Site",
        "Upgrade-Insecure-Requests",
        "Expect-CT",
    ] {
        add(
            "a field that no key holds",
            "GET",
            "",
            &[(name, "evil")],
            b"",
        );
    }
    for method in [
        "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "BREW", "TRACE", "get", "PURGE",
    ] {
        add("another method", method, "", &[], b"");
    }
    for name in [
        "X-HTTP-Method-Override",
        "X-HTTP-Method",
        "X-Method-Override",
    ] {
        add(
            "a HEAD that says it is a GET",
            "HEAD",
            "",
            &[(name, "GET")],
            b"",
        );
        add(
            "a POST that says it is a GET",
            "POST",
            "",
            &[(name, "GET")],
            b"",
        );
    }
    for (fields, content) in [
        (&[][..], &b"evil=1"[..]),
        (&[("Content-Type", "application/json")], b"{\"evil\": 1}"),
        (
            &[("Content-Type", "application/x-www-form-urlencoded")],
            b"_method=DELETE",
        ),
        (&[("Content-Length", "0")], b""),
    ] {
        add("a GET with content", "GET", "", fields, content);
        add("a HEAD with content", "HEAD", "", fields, content);
    }
    for (name, value) in [
        ("Range", "bytes=0-0"),
        ("Range", "bytes=-1"),
        ("Range", "bytes=99999-"),
        ("Range", "bytes=0-0,2-3"),
        ("Range", "evil"),
        ("If-Range", "\"evil\""),
        ("If-None-Match", "*"),
        ("If-None-Match", "\"evil\""),
        ("If-Match", "\"evil\""),
        ("If-Modified-Since", "Fri, 31 Dec 2100 00:00:00 GMT"),
        ("If-Unmodified-Since", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ("Cache-Control", "no-cache"),
        ("Cache-Control", "no-store"),
        ("Cache-Control", "max-age=0"),
        ("Cache-Control", "only-if-cached"),
        ("Accept", "text/html"),
        ("Accept", "text/evil"),
        ("Accept", "application/json; version=evil"),
        ("Accept", "*/*;q=0.1"),
        ("TE", "trailers"),
        ("Connection", "Host, X-Forwarded-Host"),
        ("Connection", "Authorization, Cookie"),
        ("Connection", "close, Accept"),
        ("Upgrade", "h2c"),
        ("Expect", "100-continue"),
        ("Cookie", "csrftoken=evil"),
        ("Cookie", "_ga=evil; _gid=evil"),
        ("Cookie", "sessionid=evil"),
        ("Cookie", "evil"),
        ("Cookie", "=evil; ;"),
        ("Authorization", "Token evil"),
        ("Authorization", ""),
        ("Proxy-Authorization", "Basic evil"),
        ("X-Api-Key", "evil"),
        ("X-Auth-Token", "evil"),
        ("Host", "evil.example"),
        ("Host", "api.example.org:80"),
        ("Host", "API.example.ORG"),
        ("Host", "api.example.org."),
        ("Host", "api.example.org@evil.example"),
    ] {
        add(
            "a field that decides something",
            "GET",
            "",
            &[(name, value)],
            b"",
        );
    }
    for length in [4_001, 8_000, 20_000, 40_000] {
        let long = "e".repeat(length);
        for name in [
            "X-Oversized",
            "User-Agent",
            "Cookie",
            "Authorization",
            "Referer",
            "Accept",
        ] {
            add("an oversized field", "GET", "", &[(name, &long)], b"");
        }
    }
    for suffix in [
        "?evil=1",
        "?",
        "?utm_source=evil",
        "?_method=DELETE",
        "?callback=evil",
        "?format=evil",
        "?%00",
        "?a=%0d%0aevil",
        ".css",
        ";evil",
        "%2e%2e/",
        "..;/evil",
        "//evil",
    ] {
        add("another target", "GET", suffix, &[], b"");
    }
    all
}

const LURES: &[&str] = &[
    ".css",
    "x.css",
    "x.js",
    "x.png",
    "x.ico",
    "index.html",
    ";x.css",
    ";.js",
    ";a=b",
    "%2fx.css",
    "%2Fx.css",
    "%3bx.css",
    "%3fx.css",
    "%23x.css",
    "%00.css",
    "%0a.css",
    "%0d%0a.css",
    "%20.css",
    "..%2fx.css",
    "%2e%2e%2fx.css",
    "..;/x.css",
    "../static/x.css",
    "./x.css",
    "/x.css",
    "//",
    "%5cx.css",
    "?x.css",
    "?.css",
    "?x=.css",
    "?v=1.css",
    "~x.css",
    "!x.css",
    "$x.css",
    ":x.css",
    "@x.css",
    "robots.txt",
    "favicon.ico",
    "static/x.css",
];

const PAIRS: &[(&str, &str)] = &[
    ("/api/users/7/", "/api/users/07/"),
    ("/api/users/7/", "/api/users/%37/"),
    ("/api/users/7/", "/api/users/7"),
    ("/api/users/7/", "/api/users/7//"),
    ("/api/users/7/", "/api/users//7/"),
    ("/api/users/7/", "//api/users/7/"),
    ("/api/users/7/", "/api/users/./7/"),
    ("/api/users/7/", "/api/users/8/../7/"),
    ("/api/users/7/", "/API/users/7/"),
    ("/api/users/7/", "/api/users/7%2f"),
    ("/api/users/7/", "/api/users/7%2F"),
    ("/api/users/7/", "/api/users/7/;x"),
    ("/api/users/7/", "/api/users/7;x/"),
    ("/api/users/7/", "/api/users/7/."),
    ("/api/users/7/", "/api/users/7/.css"),
    ("/api/users/7/", "/api/users/+7/"),
    ("/api/users/7/", "/api/users/7%20/"),
    ("/api/users/7/", "/api/users/77/"),
    ("/api/users/7/", "/api/users/7/?a"),
    ("/api/users/", "/api/users"),
    ("/api/users/", "/api/users//"),
    ("/api/users/", "/api//users/"),
    ("/api/users/", "/api/users/."),
    ("/api/users/", "/api/users/?page=1"),
    ("/api/users/", "/api/users/?page"),
    ("/api/users/", "/api/users/?="),
    ("/api/users/", "/api/user%73/"),
    ("/api/users/?a=1", "/api/users/?a=2"),
    ("/api/users/?a=1", "/api/users/?A=1"),
    ("/api/users/?a=1", "/api/users/?a=01"),
    ("/api/users/?a=1", "/api/users/?a=%31"),
    ("/api/users/?a=1", "/api/users/?%61=1"),
    ("/api/users/?a=1", "/api/users/?a=1&a=1"),
    ("/api/users/?a=1", "/api/users/?a=1&b"),
    ("/api/users/?a=1", "/api/users/?a=1;b=2"),
    ("/api/users/?a=1", "/api/users/?a=1%26b=2"),
    ("/api/users/?a=1", "/api/users/?a==1"),
    ("/api/users/?a=1", "/api/users/?a=1="),
    ("/api/users/?a=1", "/api/users/?a=1+"),
    ("/api/users/?a=1", "/api/users/?a=+1"),
    ("/api/users/?a=1", "/api/users/?a%3d1"),
    ("/api/users/?a=1", "/api/users/?a=1%00"),
    ("/api/users/?a=1&a=2", "/api/users/?a=2&a=1"),
    ("/api/users/?a=1&b=2", "/api/users/?a=1%26b%3d2"),
    ("/api/users/?a=1&b=2", "/api/users/?a=1&b=2&c"),
    ("/api/users/?a=1&b=2", "/api/users/?a=1b&=2"),
    ("/api/users/?a=1&b=2", "/api/users/?a=2&b=1"),
    ("/api/users/?a", "/api/users/?a="),
    ("/api/users/?a=b%20c", "/api/users/?a=b+c"),
    ("/api/users/?a=%c3%a9", "/api/users/?a=%C3%A9"),
    ("/api/users/?a[]=1", "/api/users/?a%5B%5D=1"),
    ("/api/users/?a=/api/users/7/", "/api/users/7/"),
];
