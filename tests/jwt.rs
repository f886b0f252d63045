//! `access: {jwt: …}`: a shared copy for whose token is good, which is looked at here. What cannot be verified goes to the
//! origin, uncached; and the origin of these tests knows its tokens by itself.

#[macro_use]
mod support;

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use larder::access::keys::{Form, KeySet};
use larder::access::token;
use larder::clock::{self, Timestamp};
use larder::config::{Jwt, KeySource, Secret};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use support::client::{Answer, Connection};
use support::eventually;
use support::larder::{Larder, run_with_input};
use support::origin::{self, Origin};
use support::redis::{RedisServer, signal};
use support::tokens::{Issuer, from_now, jwks};
use support::wall_clock::WallClock;

const LIST: &str = "/api/users/";
const SECRET: &str = "0123456789abcdef0123456789abcdef";

on_both_stores! {
    all_whose_token_is_good_share_one_copy_for_each_scope
    whichever_of_several_audiences_a_token_is_for_it_shares_the_copy
    who_cannot_be_verified_goes_upstream_uncached_and_the_reason_is_told
    a_copy_is_not_served_past_the_tokens_end
    first_requests_at_once_fetch_one_body
    a_revoked_token_is_refused_until_its_end
    a_revoked_token_is_refused_however_it_is_spelt
    a_refusal_is_nobody_elses
    when_the_keys_change_what_the_old_ones_said_counts_no_more
    what_keys_of_before_a_reload_have_said_counts_no_longer_than_they_do
}

fn rules(algorithms: &[Algorithm]) -> Jwt {
    Jwt {
        keys: KeySource::Secret(Secret::new(SECRET)),
        algorithms: algorithms.to_vec(),
        issuer: vec!["https://id.example".to_owned()],
        audience: vec!["users-api".to_owned()],
        leeway: Duration::from_secs(10),
        scope: vec!["/role".to_owned()],
    }
}

const NOW: i64 = 1_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(seconds as u64 * 1_000_000)
}

fn good() -> Value {
    json!({"iss": "https://id.example", "aud": "users-api", "exp": NOW + 60, "role": "student"})
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = good();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = good();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

/// What the rules say, in a word.
fn said(rules: &Jwt, keys: &KeySet, token: &str) -> &'static str {
    match token::verify(rules, keys, token.as_bytes(), at(NOW)) {
        Ok(_) => "good",
        Err(unverified) => unverified.reason.word(),
    }
}

#[test]
fn a_token_is_good_by_its_signature_issuer_audience_time_and_kind_alone() {
    let issuer = Issuer::secret(SECRET);
    let (rules, keys) = (
        rules(&[Algorithm::HS256]),
        KeySet::read(Form::Secret, SECRET.as_bytes()).unwrap(),
    );
    let cases = [
        (good(), "good"),
        (with("aud", json!(["else", "users-api"])), "good"),
        (with("iss", json!("https://other.example")), "jwt-refused"),
        (with("iss", json!(7)), "jwt-refused"),
        (without("iss"), "jwt-refused"),
        (with("aud", json!("else")), "jwt-refused"),
        (with("aud", json!([])), "jwt-refused"),
        (with("aud", json!({"users-api": 1})), "jwt-refused"),
        (without("aud"), "jwt-refused"),
        (without("exp"), "jwt-refused"),
        (with("exp", json!(null)), "jwt-refused"),
        (with("exp", json!((NOW + 60).to_string())), "jwt-refused"),
        (with("exp", json!(-1)), "jwt-refused"),
        (with("exp", json!(1e300)), "jwt-refused"),
        (with("exp", json!(NOW)), "jwt-expired"),
        // No leeway lengthens a life, and no fraction.
        (with("exp", json!(NOW - 1)), "jwt-expired"),
        (with("exp", json!(NOW as f64 + 0.9)), "jwt-expired"),
        (with("exp", json!(NOW + 1)), "good"),
        (with("nbf", json!(NOW)), "good"),
        (with("nbf", json!(NOW + 10)), "good"),
        (with("nbf", json!(NOW + 11)), "jwt-refused"),
        (with("nbf", json!("0")), "jwt-refused"),
        (with("nbf", json!(null)), "jwt-refused"),
        // A refresh token is of the same key, and lives longer: the API takes it for nothing but another.
        (with("token_type", json!("refresh")), "jwt-refused"),
        (with("token_use", json!("refresh")), "jwt-refused"),
        (with("typ", json!("Refresh")), "jwt-refused"),
        (with("typ", json!("Offline")), "jwt-refused"),
        (with("type", json!("refresh")), "jwt-refused"),
        (with("token_type", json!("access")), "good"),
        (with("typ", json!("Bearer")), "good"),
        (with("type", json!(7)), "good"),
    ];
    for (claims, expected) in cases {
        let token = issuer.token(&claims);
        assert_eq!(said(&rules, &keys, &token), expected, "{claims}");
    }
    // With no audience named, one that is for somebody is not for us.
    let open = Jwt {
        audience: Vec::new(),
        issuer: Vec::new(),
        ..rules
    };
    assert_eq!(said(&open, &keys, &issuer.token(&good())), "jwt-refused");
    assert_eq!(said(&open, &keys, &issuer.token(&without("aud"))), "good");
}

#[test]
fn no_signature_another_key_and_another_algorithm_are_refused() {
    let (hmac, other) = (Issuer::secret(SECRET), Issuer::secret("x".repeat(32)));
    let keys = KeySet::read(Form::Secret, SECRET.as_bytes()).unwrap();
    let rules = rules(&[Algorithm::HS256]);
    let claims = good().to_string();
    let token = hmac.token(&good());
    let (message, signature) = token.rsplit_once('.').unwrap();
    let body = message.split_once('.').unwrap().1;
    let tokens = [
        other.token(&good()),
        hmac.signed(r#"{"alg":"none"}"#, &claims),
        hmac.signed(r#"{"alg":"None"}"#, &claims),
        hmac.signed(r#"{"alg":"HS512"}"#, &claims),
        hmac.signed(r#"{"alg":"hs256"}"#, &claims),
        hmac.signed(r#"{"alg":"RS256"}"#, &claims),
        hmac.signed(r#"{}"#, &claims),
        hmac.signed(r#"{"alg":"HS256","crit":["exp"]}"#, &claims),
        hmac.signed(r#"{"alg":"HS256","alg":"none"}"#, &claims),
        hmac.signed(r#"{"alg":"HS256"}"#, "[]"),
        hmac.signed(r#"{"alg":"HS256"}"#, "no json"),
        format!("{message}."),
        message.to_owned(),
        format!("{token}."),
        format!("{token}="),
        format!("{token}.{signature}"),
        format!(" {token}"),
        // {"alg":"none"}
        format!("eyJhbGciOiJub25lIn0.{body}."),
        format!("eyJhbGciOiJub25lIn0.{body}.{signature}"),
        format!("..{signature}"),
        "..".to_owned(),
        String::new(),
        "ÿ.ÿ.ÿ".to_owned(),
    ];
    assert_eq!(said(&rules, &keys, &token), "good");
    for token in &tokens {
        assert_eq!(said(&rules, &keys, token), "jwt-refused", "{token}");
    }
}

#[test]
fn a_token_has_one_spelling_but_for_a_signature_that_its_key_would_make_as_well() {
    let issuer = Issuer::p256();
    let keys = KeySet::read(Form::Pem, issuer.pem().as_bytes()).unwrap();
    let rules = rules(&[Algorithm::ES256]);
    // Of two bytes more than thirds, so that the last character of each part has bits that say nothing.
    let padded = |text: String| format!("{text}{}", " ".repeat((4 - text.len() % 3) % 3));
    let token = issuer.signed(
        &padded(json!({"alg": "ES256"}).to_string()),
        &padded(good().to_string()),
    );
    assert_eq!(said(&rules, &keys, &token), "good");
    assert_eq!(said(&rules, &keys, &signed_otherwise(&token)), "good");
    let parts: Vec<&str> = token.split('.').collect();
    for n in 0..3 {
        let last = parts[n].chars().last().unwrap();
        let next = char::from(last as u8 + 1);
        let cut = &parts[n][..parts[n].len() - 1];
        for spelt in [
            format!("{cut}{next}"),
            format!("{}==", parts[n]),
            format!("{}=", parts[n]),
            format!("{cut} {last}"),
        ] {
            let mut parts = parts.clone();
            parts[n] = &spelt;
            let token = parts.join(".");
            assert_eq!(said(&rules, &keys, &token), "jwt-refused", "{token}");
        }
    }
}

#[test]
fn a_public_key_is_nobodys_secret() {
    for issuer in [Issuer::rsa(), Issuer::p256(), Issuer::ed()] {
        let pem = issuer.pem();
        let keys = KeySet::read(Form::Pem, pem.as_bytes()).unwrap();
        // As the file is never checked against these two together, the last gate is tried by itself.
        let rules = rules(&[Algorithm::HS256, issuer.algorithm.parse().unwrap()]);
        assert_eq!(said(&rules, &keys, &issuer.token(&good())), "good");
        for secret in [pem.as_str(), pem.trim(), &pem.replace('\n', "")] {
            let forged = Issuer::secret(secret).token(&good());
            assert_eq!(said(&rules, &keys, &forged), "jwt-refused");
        }
    }
}

#[test]
fn every_algorithm_is_verified_by_its_own_key() {
    let issuers = [
        Issuer::rsa(),
        Issuer::rsa().signing("PS256"),
        Issuer::p256(),
        Issuer::ed(),
    ];
    for issuer in &issuers {
        let algorithm = issuer.algorithm;
        let rules = rules(&[algorithm.parse().unwrap()]);
        let set = jwks(&[issuer]);
        for (form, text) in [(Form::Pem, issuer.pem()), (Form::Jwks, set)] {
            let keys = KeySet::read(form, text.as_bytes()).unwrap();
            let token = issuer.token(&good());
            assert_eq!(said(&rules, &keys, &token), "good", "{algorithm} {form:?}");
            // Any character of it changed.
            for n in (0..token.len()).step_by(7) {
                let mut bytes = token.clone().into_bytes();
                bytes[n] = if bytes[n] == b'A' { b'B' } else { b'A' };
                let changed = String::from_utf8(bytes).unwrap();
                assert_eq!(
                    said(&rules, &keys, &changed),
                    "jwt-refused",
                    "{n} {changed}"
                );
            }
        }
    }
}

#[test]
fn the_kid_chooses_in_a_set_and_nothing_else_does() {
    let (one, two, rsa) = (
        Issuer::p256().named("1"),
        Issuer::p256().named("2"),
        Issuer::rsa(),
    );
    let secret = Issuer::secret(SECRET).named("s");
    let rules = rules(&[Algorithm::ES256, Algorithm::RS256, Algorithm::HS256]);
    let keys = KeySet::read(Form::Jwks, jwks(&[&one, &two, &rsa, &secret]).as_bytes()).unwrap();
    assert_eq!(keys.names().len(), 3, "no secret is taken from a set");
    let nameless = |issuer: &Issuer| {
        let header = json!({"alg": issuer.algorithm}).to_string();
        issuer.signed(&header, &good().to_string())
    };
    let cases = [
        (one.token(&good()), "good"),
        (two.token(&good()), "good"),
        (rsa.token(&good()), "good"),
        (nameless(&one), "jwt-refused"),
        (Issuer::p256().named("1").token(&good()), "jwt-refused"),
        (Issuer::p256().named("3").token(&good()), "jwt-refused"),
        (secret.token(&good()), "jwt-refused"),
    ];
    for (n, (token, expected)) in cases.iter().enumerate() {
        assert_eq!(said(&rules, &keys, token), *expected, "{n}");
    }
    let single = KeySet::read(Form::Jwks, jwks(&[&one]).as_bytes()).unwrap();
    assert_eq!(said(&rules, &single, &nameless(&one)), "good");
    assert_eq!(said(&rules, &single, &two.token(&good())), "jwt-refused");
}

type Fields<'f> = &'f [(&'f str, &'f str)];

proptest! {
    #[test]
    fn nothing_that_was_not_signed_is_good_and_no_bytes_do_harm(
        bytes in vec(any::<u8>(), 0..200),
        header in "[ -~]{0,40}",
        claims in "[ -~]{0,40}",
        cut in 0..200usize,
    ) {
        let issuer = Issuer::secret(SECRET);
        let keys = KeySet::read(Form::Secret, SECRET.as_bytes()).unwrap();
        let rules = rules(&[Algorithm::HS256]);
        let refuses = |token: &[u8]| token::verify(&rules, &keys, token, at(NOW)).is_err();
        prop_assert!(refuses(&bytes));
        prop_assert!(refuses(issuer.signed(&header, &claims).as_bytes()));
        // A good one, cut off or with something put into it.
        let good = issuer.token(&good()).into_bytes();
        let cut = cut.min(good.len() - 1);
        prop_assert!(refuses(&good[..cut]));
        let put = [&good[..cut], &bytes[..], &good[cut..]].concat();
        prop_assert!(bytes.is_empty() || refuses(&put));
        let _ = token::claimed_end(&bytes);
        let _ = token::of_line(&bytes);
        let _ = KeySet::read(Form::Pem, &bytes);
        let _ = KeySet::read(Form::Jwks, &bytes);
    }
}

/// What the origin answers to each token; nobody else is known.
type Users = Arc<Mutex<HashMap<String, String>>>;

fn api(users: &Users) -> Origin {
    let users = users.clone();
    Origin::start(move |request| {
        let line = request.fields.get("Authorization").unwrap_or_default();
        let known = users.lock().unwrap().get(line).cloned();
        match (request.method.as_str(), known) {
            ("GET", Some(role)) => origin::json(format!("for {role}")),
            ("GET", None) => origin::status(401, "who are you?"),
            _ => origin::status(204, ""),
        }
    })
}

/// The origin, and the line of each client by its name.
fn known(issuer: &Issuer, people: &[(&str, &str, i64)]) -> (Users, HashMap<String, String>) {
    let lines: HashMap<String, String> = people
        .iter()
        .map(|(name, role, lasting)| {
            let claims = json!({"sub": name, "role": role, "exp": from_now(*lasting)});
            (
                (*name).to_owned(),
                format!("Bearer {}", issuer.token(&claims)),
            )
        })
        .collect();
    let users = people
        .iter()
        .map(|(name, role, _)| (lines[*name].clone(), (*role).to_owned()));
    (Arc::new(Mutex::new(users.collect())), lines)
}

fn file(origin: &Origin, store: &str, jwt: &str, more: &str) -> String {
    format!(
        "upstream: {}\nstore: {{url: \"{store}\", database: 1, prefix: t}}\nlogs: {{level: trace}}\nroutes:\n\
        \x20 - {{path: /api/users/, key: users:list, access: {{jwt: {{{jwt}}}, scope: [/role]}}{more}}}\n\
        purge:\n\
        \x20 - {{methods: POST, path: /api/users/, keys: [users:list]}}\n",
        origin.url()
    )
}

fn larder(origin: &Origin, store: &str) -> Larder {
    Larder::with(file(origin, store, "secret: \"${JWT_SECRET}\"", ""))
        .env("JWT_SECRET", SECRET)
        .start()
}

fn list(larder: &Larder, line: &str) -> Answer {
    larder.get_with(LIST, &[("Authorization", line)])
}

fn all_whose_token_is_good_share_one_copy_for_each_scope(store: &str) {
    let issuer = Issuer::secret(SECRET);
    let people = [("a", "x", 3600), ("b", "x", 3600), ("c", "y", 3600)];
    let (users, lines) = known(&issuer, &people);
    let origin = api(&users);
    let larder = larder(&origin, store);
    assert_eq!(list(&larder, &lines["a"]).text(), "for x");
    for name in ["b", "a", "b"] {
        let answer = list(&larder, &lines[name]);
        assert!(answer.is_hit() && answer.text() == "for x", "{answer:?}");
    }
    assert_eq!(list(&larder, &lines["c"]).text(), "for y");
    assert_eq!(origin.count(), 2, "one body for each role, and no question");
    // The scheme's name has no case.
    let odd = lines["b"].replace("Bearer", "bearer ");
    assert!(list(&larder, &odd).is_hit());
}

fn whichever_of_several_audiences_a_token_is_for_it_shares_the_copy(store: &str) {
    let issuer = Issuer::secret(SECRET);
    let line = |aud: &str, iss: &str| {
        let exp = from_now(3600);
        let claims = json!({"aud": aud, "iss": iss, "role": "x", "exp": exp});
        format!("Bearer {}", issuer.token(&claims))
    };
    let (web, phone) = (line("web", "https://a.example"), line("phone", "b"));
    let users = [&web, &phone].map(|line| (line.clone(), "x".to_owned()));
    let origin = api(&Arc::new(Mutex::new(HashMap::from(users))));
    let jwt =
        "secret: \"${JWT_SECRET}\", audience: [web, phone], issuer: [\"https://a.example\", b]";
    let larder = Larder::with(file(&origin, store, jwt, ""))
        .env("JWT_SECRET", SECRET)
        .start();
    assert_eq!(list(&larder, &web).status, 200);
    for line in [&web, &phone] {
        let answer = list(&larder, line);
        assert!(answer.is_hit(), "{answer:?}");
    }
}

fn who_cannot_be_verified_goes_upstream_uncached_and_the_reason_is_told(store: &str) {
    let issuer = Issuer::secret(SECRET);
    let (users, lines) = known(&issuer, &[("a", "x", 3600), ("late", "x", -1)]);
    let origin = api(&users);
    let larder = larder(&origin, store);
    assert_eq!(list(&larder, &lines["a"]).status, 200);
    let forged = Issuer::secret("x".repeat(32)).token(&json!({"role": "x", "exp": from_now(60)}));
    let forged = format!("Bearer {forged}");
    // Of so large a number not all is read: another could be the same.
    let large = issuer.token(&json!({"role": 2e40, "exp": from_now(60)}));
    let large = format!("Bearer {large}");
    let refresh = json!({"role": "x", "exp": from_now(60), "token_type": "refresh"});
    let refresh = format!("Bearer {}", issuer.token(&refresh));
    let a = lines["a"].as_str();
    let cases: [(Fields, &str, u16); 14] = [
        (&[], "jwt-absent", 401),
        (&[("Authorization", "Token abc")], "jwt-absent", 401),
        (&[("Authorization", "Bearer")], "jwt-absent", 401),
        (&[("Cookie", "sessionid=a")], "jwt-absent", 401),
        (&[("X-Api-Key", "a")], "jwt-absent", 401),
        (&[("Authorization", "Bearer a.b.c")], "jwt-refused", 401),
        (&[("Authorization", &forged)], "jwt-refused", 401),
        (&[("Authorization", &large)], "jwt-refused", 401),
        (&[("Authorization", &refresh)], "jwt-refused", 401),
        (&[("Authorization", &lines["late"])], "jwt-expired", 200),
        (
            &[("Authorization", a), ("Cookie", "sessionid=a")],
            "jwt-mixed",
            200,
        ),
        (
            &[("Authorization", a), ("X-Api-Key", "a")],
            "jwt-mixed",
            200,
        ),
        (
            &[("Authorization", a), ("Authorization", a)],
            "jwt-mixed",
            200,
        ),
        (
            &[("Authorization", a), ("Authorization", "Token b")],
            "jwt-mixed",
            200,
        ),
    ];
    for (fields, reason, status) in cases {
        for _ in 0..2 {
            let before = origin.count();
            let answer = larder.get_with(LIST, fields);
            assert_eq!(answer.status, status, "{reason}: {answer:?}");
            let said = answer.cache_status();
            assert!(
                said.contains("fwd=bypass") && said.ends_with(&format!("detail={reason}")),
                "{reason}: {said}"
            );
            assert_eq!(
                origin.count(),
                before + 1,
                "{reason}: as it came, to the origin"
            );
        }
    }
    // What is listed as no credential is none.
    let ignored = [("Authorization", a), ("Cookie", "csrftoken=x")];
    assert!(larder.get_with(LIST, &ignored).is_hit());
}

fn a_copy_is_not_served_past_the_tokens_end(store: &str) {
    let issuer = Issuer::secret(SECRET);
    let (users, lines) = known(&issuer, &[("brief", "x", 2), ("long", "x", 3600)]);
    let origin = api(&users);
    let larder = larder(&origin, store);
    assert_eq!(list(&larder, &lines["long"]).status, 200);
    let end = token::claimed_end(&lines["brief"].as_bytes()[7..]).unwrap();
    eventually("the token has ended", || {
        // Looked at before it is asked: what is asked later than that may not be a hit any more.
        let late = clock::now() >= end;
        let answer = list(&larder, &lines["brief"]);
        assert!(!(late && answer.is_hit()), "{answer:?}");
        answer.cache_status().ends_with("detail=jwt-expired")
    });
    assert!(list(&larder, &lines["long"]).is_hit());
}

fn first_requests_at_once_fetch_one_body(store: &str) {
    let issuer = Issuer::secret(SECRET);
    let names: Vec<String> = (0..16).map(|n| n.to_string()).collect();
    let people: Vec<(&str, &str, i64)> = names.iter().map(|n| (n.as_str(), "x", 3600)).collect();
    let (users, lines) = known(&issuer, &people);
    let origin = api(&users);
    let larder = larder(&origin, store);
    thread::scope(|scope| {
        for line in lines.values() {
            scope.spawn(|| assert_eq!(list(&larder, line).text(), "for x"));
        }
    });
    assert_eq!(origin.count(), 1);
}

fn a_revoked_token_is_refused_until_its_end(store: &str) {
    let issuer = Issuer::secret(SECRET);
    let (users, lines) = known(&issuer, &[("a", "x", 3600), ("b", "x", 3600)]);
    let origin = api(&users);
    let larder = larder(&origin, store);
    for name in ["a", "b"] {
        assert_eq!(list(&larder, &lines[name]).status, 200);
    }
    users.lock().unwrap().remove(&lines["a"]);
    assert!(list(&larder, &lines["a"]).is_hit(), "nobody has said so");
    larder.revoke(&format!("Authorization: {}", lines["a"]));
    for _ in 0..3 {
        let answer = list(&larder, &lines["a"]);
        assert_eq!(answer.status, 401);
        let said = answer.cache_status();
        assert!(said.ends_with("detail=jwt-revoked"), "{said}");
    }
    assert!(list(&larder, &lines["b"]).is_hit(), "nobody else is");
}

/// The token with the other signature that its key would have made as well: (r, n − s).
fn signed_otherwise(token: &str) -> String {
    const N: [u8; 32] = [
        255, 255, 255, 255, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255, 188, 230, 250, 173,
        167, 23, 158, 132, 243, 185, 202, 194, 252, 99, 37, 81,
    ];
    let (message, signature) = token.rsplit_once('.').unwrap();
    let mut signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let mut borrowed = 0;
    for (byte, of) in signature[32..].iter_mut().zip(N).rev() {
        let left = i16::from(of) - i16::from(*byte) - borrowed;
        borrowed = i16::from(left < 0);
        *byte = left.rem_euclid(256) as u8;
    }
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn a_revoked_token_is_refused_however_it_is_spelt(store: &str) {
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("key.pem");
    let issuer = Issuer::p256();
    std::fs::write(&key, issuer.pem()).unwrap();
    let origin = Origin::start(|_| origin::json("[]"));
    let jwt = format!("key_file: {}", key.display());
    let larder = Larder::start(file(&origin, store, &jwt, ""));
    let tokens = |n: i64| {
        let token = issuer.token(&json!({"exp": from_now(3600 + n)}));
        let other = signed_otherwise(&token);
        [token, other]
    };
    let spellings = [
        ("bearer <x>", "Bearer <x>"),
        ("Bearer  <x>", "Bearer <x>"),
        ("Bearer\t<x>", "Bearer <x>"),
        ("Bearer <y>", "Bearer <x>"),
        ("Bearer <x>", "Bearer <y>"),
        ("Bearer <x>", "bearer\t<x>"),
        ("Bearer <x>", "JWT  <x>"),
    ];
    for (n, (spelt, revoked)) in spellings.into_iter().enumerate() {
        let [x, y] = tokens(n as i64);
        let line = |spelt: &str| spelt.replace("<x>", &x).replace("<y>", &y);
        list(&larder, &line(spelt));
        assert!(list(&larder, &line(spelt)).is_hit(), "{spelt}");
        larder.revoke(&format!("Authorization: {}", line(revoked)));
        for spelt in [spelt, "Bearer <x>", "Bearer <y>", "bearer  <y>"] {
            let said = list(&larder, &line(spelt)).cache_status();
            assert!(said.ends_with("jwt-revoked"), "{spelt}, {revoked}: {said}");
        }
    }
}

fn a_refusal_is_nobody_elses(store: &str) {
    let issuer = Issuer::secret(SECRET);
    let (users, lines) = known(&issuer, &[("a", "x", 3600), ("gone", "x", 3600)]);
    users.lock().unwrap().remove(&lines["gone"]);
    let origin = api(&users);
    let larder = larder(&origin, store);
    thread::scope(|scope| {
        for n in 0..8 {
            let (name, status) = [("a", 200), ("gone", 401)][n % 2];
            let (larder, lines) = (&larder, &lines);
            scope.spawn(move || {
                let answer = list(larder, &lines[name]);
                // Verified, both: one may be given what the other fetched, and never its refusal.
                assert!([200, status].contains(&answer.status), "{answer:?}");
            });
        }
    });
    let answer = list(&larder, &lines["a"]);
    assert_eq!(answer.status, 200);
    assert!(list(&larder, &lines["gone"]).is_hit());
}

fn when_the_keys_change_what_the_old_ones_said_counts_no_more(store: &str) {
    let directory = tempfile::tempdir().unwrap();
    let set = directory.path().join("jwks.json");
    let (old, new) = (Issuer::p256().named("1"), Issuer::p256().named("2"));
    std::fs::write(&set, jwks(&[&old])).unwrap();
    let (users, lines) = known(&old, &[("a", "x", 3600)]);
    let (more, new_lines) = known(&new, &[("b", "x", 3600)]);
    users.lock().unwrap().extend(more.lock().unwrap().clone());
    let origin = api(&users);
    let jwt = format!("jwks_file: {}", set.display());
    let larder = Larder::start(file(&origin, store, &jwt, ""));
    assert_eq!(list(&larder, &lines["a"]).status, 200);
    assert!(list(&larder, &lines["a"]).is_hit());
    let refused = list(&larder, &new_lines["b"]).cache_status();
    assert!(refused.ends_with("detail=jwt-refused"), "{refused}");

    std::fs::write(&set, "not yet whole").unwrap();
    eventually("it says so", || {
        larder.output().contains("the keys stay as they were")
    });
    assert!(list(&larder, &lines["a"]).is_hit());

    std::fs::write(&set, jwks(&[&new])).unwrap();
    eventually("the new key is known", || {
        list(&larder, &new_lines["b"]).is_hit()
    });
    let refused = list(&larder, &lines["a"]).cache_status();
    assert!(refused.ends_with("detail=jwt-refused"), "{refused}");

    // As long as the one before and, by a copy that keeps times, as old.
    let written = std::fs::metadata(&set).unwrap().modified().unwrap();
    let copy = directory.path().join("copy.json");
    std::fs::write(&copy, jwks(&[&Issuer::p256().named("3")])).unwrap();
    let kept = std::fs::File::options().write(true).open(&copy).unwrap();
    kept.set_modified(written).unwrap();
    std::fs::rename(&copy, &set).unwrap();
    eventually("what was said by the key before counts no more", || {
        let refused = list(&larder, &new_lines["b"]).cache_status();
        refused.ends_with("detail=jwt-refused")
    });
}

fn what_keys_of_before_a_reload_have_said_counts_no_longer_than_they_do(store: &str) {
    let directory = tempfile::tempdir().unwrap();
    let set = directory.path().join("jwks.json");
    let issuers = ["1", "2", "3"].map(|name| Issuer::p256().named(name));
    std::fs::write(&set, jwks(&[&issuers[0]])).unwrap();
    let (users, mut lines) = known(&issuers[0], &[("1", "x", 3600)]);
    for (issuer, name) in [(&issuers[1], "2"), (&issuers[2], "3")] {
        let (more, more_lines) = known(issuer, &[(name, "x", 3600)]);
        users.lock().unwrap().extend(more.lock().unwrap().clone());
        lines.extend(more_lines);
    }
    let origin = api(&users);
    let jwt = format!("jwks_file: {}", set.display());
    let larder = Larder::start(file(&origin, store, &jwt, ""));
    let reload = || {
        let json = ("Content-Type", "application/json");
        let mut admin = Connection::open(larder.admin_address());
        assert_eq!(admin.request("POST", "/reload", &[json], b"").status, 200);
    };
    let refused = |name: &str| {
        let said = list(&larder, &lines[name]).cache_status();
        said.ends_with("detail=jwt-refused")
    };
    assert_eq!(list(&larder, &lines["1"]).status, 200);
    reload();
    assert!(list(&larder, &lines["1"]).is_hit());

    std::fs::write(&set, jwks(&[&issuers[1]])).unwrap();
    eventually("the old key is known no more", || refused("1"));
    assert!(list(&larder, &lines["2"]).is_hit());

    std::fs::write(&set, jwks(&[&issuers[2]])).unwrap();
    reload();
    assert!(refused("2"));
    assert!(list(&larder, &lines["3"]).is_hit());
}

/// A pipe in the place of a file whose server hangs; opened to be written to, it waits for whoever reads it.
fn piped(path: &std::path::Path) {
    let pipe = path.with_extension("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    std::fs::rename(&pipe, path).unwrap();
}

fn on_one_core(origin: &Origin, set: &std::path::Path) -> Larder {
    let jwt = format!("jwks_file: {}", set.display());
    let larder = Larder::with(file(origin, "memory:", &jwt, ""));
    larder.env("TOKIO_WORKER_THREADS", "1").start()
}

#[test]
fn keys_that_are_long_in_coming_keep_nobody_from_an_answer() {
    let directory = tempfile::tempdir().unwrap();
    let set = directory.path().join("jwks.json");
    let (old, new) = (Issuer::p256().named("1"), Issuer::p256().named("2"));
    std::fs::write(&set, jwks(&[&old])).unwrap();
    let (users, lines) = known(&old, &[("a", "x", 3600)]);
    let (more, new_lines) = known(&new, &[("b", "x", 3600)]);
    users.lock().unwrap().extend(more.lock().unwrap().clone());
    let origin = api(&users);
    let larder = on_one_core(&origin, &set);
    assert_eq!(list(&larder, &lines["a"]).status, 200);

    // They are looked at, and then read.
    piped(&set);
    let open = || std::fs::File::options().write(true).open(&set).unwrap();
    let mut looked_at = open();
    piped(&set);
    looked_at.write_all(jwks(&[&new]).as_bytes()).unwrap();
    drop(looked_at);
    let mut read = open();
    assert!(list(&larder, &lines["a"]).is_hit());
    read.write_all(jwks(&[&new]).as_bytes()).unwrap();
    drop(read);
    eventually("the new key is known", || {
        list(&larder, &new_lines["b"]).is_hit()
    });
}

#[test]
fn keys_that_are_long_in_coming_keep_nobody_from_an_answer_while_it_is_reloaded() {
    let directory = tempfile::tempdir().unwrap();
    let set = directory.path().join("jwks.json");
    let issuer = Issuer::p256().named("1");
    std::fs::write(&set, jwks(&[&issuer])).unwrap();
    let (users, lines) = known(&issuer, &[("a", "x", 3600)]);
    let origin = api(&users);
    let larder = on_one_core(&origin, &set);
    assert_eq!(list(&larder, &lines["a"]).status, 200);

    piped(&set);
    let pipe = std::fs::File::options().write(true).open(&set).unwrap();
    // In the place of the pipe, of which the one who reads it knows nothing.
    let good = directory.path().join("good");
    std::fs::write(&good, jwks(&[&issuer])).unwrap();
    std::fs::rename(&good, &set).unwrap();
    signal("-HUP", larder.pid());
    eventually("it is reloaded", || {
        assert!(list(&larder, &lines["a"]).is_hit());
        larder.readiness()["reloads"]["done"] == 1
    });
    drop(pipe);
}

#[test]
fn a_token_revoked_at_the_store_is_refused_by_every_instance_that_begins_later_too() {
    let redis = RedisServer::start();
    let issuer = Issuer::secret(SECRET);
    let (users, lines) = known(&issuer, &[("a", "x", 3600)]);
    let origin = api(&users);
    let (one, other) = (larder(&origin, &redis.url()), larder(&origin, &redis.url()));
    for instance in [&one, &other] {
        assert_eq!(list(instance, &lines["a"]).status, 200);
    }
    let file = one.file();
    let told = run_with_input(
        &["purge", "--credential", "-", "-c", file.to_str().unwrap()],
        &[("JWT_SECRET", SECRET)],
        format!("Authorization: {}\n", lines["a"]).as_bytes(),
    );
    assert!(
        told.status.success() && told.output.contains("revoked 1"),
        "{told:?}"
    );
    let later = larder(&origin, &redis.url());
    for instance in [&one, &other, &later] {
        let said = list(instance, &lines["a"]).cache_status();
        assert!(said.ends_with("detail=jwt-revoked"), "{said}");
    }
    // The mark goes when the token does.
    let mark = redis
        .keys()
        .into_iter()
        .find(|key| key.contains("~revoked:"));
    let left = redis.run(&["PTTL", &mark.unwrap()]).number();
    assert!((1..=3_600_000).contains(&left), "{left}");
}

#[test]
fn a_token_is_revoked_until_its_end_also_by_who_is_at_a_clock_that_is_ahead() {
    let (redis, clock) = (RedisServer::start(), WallClock::new());
    let issuer = Issuer::secret(SECRET);
    let (users, lines) = known(&issuer, &[("a", "x", 600)]);
    let origin = api(&users);
    let larder = larder(&origin, &redis.url());
    assert_eq!(list(&larder, &lines["a"]).status, 200);
    clock.is_off(3600);
    let [shim, off] = clock.environment();
    let told = run_with_input(
        &[
            "purge",
            "--credential",
            "-",
            "-c",
            larder.file().to_str().unwrap(),
        ],
        &[
            ("JWT_SECRET", SECRET),
            (shim.0, shim.1.to_str().unwrap()),
            (off.0, off.1.to_str().unwrap()),
        ],
        format!("Authorization: {}\n", lines["a"]).as_bytes(),
    );
    assert!(told.status.success(), "{told:?}");
    let said = list(&larder, &lines["a"]).cache_status();
    assert!(said.ends_with("detail=jwt-revoked"), "{said}");
    let keys = redis.keys();
    let mark = keys.iter().find(|key| key.contains("~revoked:")).unwrap();
    let left = redis.run(&["PTTL", mark]).number();
    assert!((540_000..=600_000).contains(&left), "{left}");
}

#[test]
fn neither_store_nor_log_holds_a_byte_of_a_token() {
    let redis = RedisServer::start();
    let issuer = Issuer::secret(SECRET);
    let (users, lines) = known(&issuer, &[("a", "x", 3600), ("b", "y", 3600)]);
    let origin = api(&users);
    let larder = larder(&origin, &redis.url());
    for name in ["a", "a", "b"] {
        list(&larder, &lines[name]);
    }
    larder.revoke(&format!("Authorization: {}", lines["b"]));
    list(&larder, &lines["b"]);
    list(&larder, "Bearer forged.forged.forged");
    let mut kept = String::new();
    for key in redis.keys() {
        let all = match redis.run(&["TYPE", &key]).text().as_str() {
            "string" => String::from_utf8_lossy(&redis.get(&key).unwrap_or_default()).into_owned(),
            _ => format!("{:?}", redis.run(&["SMEMBERS", &key])),
        };
        kept += &format!("{key}={all}\n");
    }
    let log = larder.output();
    assert!(kept.contains("for x") && log.contains("TRACE"), "looked at");
    let parts = lines.values().flat_map(|line| line[7..].split('.'));
    for part in parts.chain(["forged", SECRET]) {
        assert!(!kept.contains(part) && !log.contains(part), "{part}");
    }
}

#[test]
fn while_redis_is_away_everybody_is_answered_by_the_origin() {
    let mut redis = RedisServer::start();
    let issuer = Issuer::secret(SECRET);
    let (users, lines) = known(&issuer, &[("a", "x", 3600), ("gone", "x", 3600)]);
    users.lock().unwrap().remove(&lines["gone"]);
    let origin = api(&users);
    let larder = larder(&origin, &redis.url());
    for name in ["a", "gone"] {
        list(&larder, &lines[name]);
    }
    assert!(list(&larder, &lines["gone"]).is_hit(), "by its token");
    redis.kill();
    for (name, status) in [("a", 200), ("gone", 401)] {
        let answer = list(&larder, &lines[name]);
        assert_eq!(answer.status, status);
        assert!(!answer.is_hit(), "{answer:?}");
    }
}

#[test]
fn a_copy_for_good_tokens_is_nobodys_under_another_access() {
    let redis = RedisServer::start();
    let issuer = Issuer::secret(SECRET);
    let (users, lines) = known(&issuer, &[("a", "x", 3600)]);
    let origin = api(&users);
    let unscoped = |jwt: &str| file(&origin, &redis.url(), jwt, "").replace(", scope: [/role]", "");
    let start = |yaml: String| Larder::with(yaml).env("JWT_SECRET", SECRET).start();
    let jwt = start(unscoped("secret: \"${JWT_SECRET}\""));
    assert_eq!(list(&jwt, &lines["a"]).status, 200);
    assert!(list(&jwt, &lines["a"]).is_hit());
    for access in ["per-credential", "public", "{verify: /api/users/me/}"] {
        let yaml = unscoped("X").replace("{jwt: {X}}", access);
        let answer = start(yaml).get(LIST);
        assert_eq!(answer.status, 401, "{access}: {answer:?}");
    }
    let other = start(unscoped("secret: \"${JWT_SECRET}\", issuer: other"));
    assert!(!list(&other, &lines["a"]).is_hit());
}
