//! The cases: who sends something odd, what others are lured to, and which targets are nearly one.

// Every test binary compiles this for itself, and one of them only counts.
#![allow(dead_code)]

use crate::line::Line;

/// One who sends something odd, before others read the same.
pub struct Poisoner {
    pub line: Line,
    pub name: &'static str,
    pub method: &'static str,
    /// After `/api/users/N/`.
    pub suffix: &'static str,
    pub fields: Vec<(String, String)>,
    pub content: &'static [u8],
}

pub fn poisoners() -> Vec<Poisoner> {
    let mut all = Vec::new();
    let mut add = |name, method, suffix, fields: &[(&str, &str)], content| {
        let fields = fields
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        all.push(Poisoner {
            line: line_of(name),
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
        "Daphne-Root-Path",
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

fn line_of(name: &str) -> Line {
    match name {
        "a GET with content" | "a HEAD with content" => Line::C2,
        "an oversized field" => Line::C4,
        "another method" | "a HEAD that says it is a GET" | "a POST that says it is a GET" => {
            Line::C6
        }
        _ => Line::C1,
    }
}

/// C1: what makes a path look like a file that anybody may keep.
pub const LURES: &[&str] = &[
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

/// C1: targets that some server takes for one.
pub const PAIRS: &[(&str, &str)] = &[
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
