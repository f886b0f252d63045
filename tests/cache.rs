//! What is kept, for whom, under which spelling, and what drops it: the users API of the shipped proxy.yaml,
//! sentence by sentence, on the embedded store and on Redis.

#[macro_use]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use support::larder::{self, Larder};
use support::origin::{self, Origin};
use support::redis::RedisServer;
use support::{eventually, users_api};

const LIST: &str = "/api/users/";
const USER: &str = "/api/users/7/";

on_both_stores! {
    a_miss_is_stored_and_the_next_request_is_a_hit_with_its_age
    a_hit_has_the_fields_that_the_origin_sent
    a_head_is_answered_from_a_stored_get_and_fills_nothing
    the_order_of_parameters_does_not_matter_and_the_forwarded_query_is_the_one_in_the_key
    a_parameter_that_is_not_allowed_is_left_out_where_the_route_says_ignore
    a_parameter_that_is_not_allowed_is_forwarded_uncached_where_the_route_says_bypass
    a_parameter_that_is_not_allowed_is_refused_where_the_route_says_reject
    a_key_may_hold_any_punctuation_that_the_file_takes
    another_spelling_is_forwarded_as_it_is_and_never_cached
    another_spelling_purges_what_it_means
    a_path_that_no_route_names_is_never_cached
    an_int_in_a_path_does_not_match_a_word
    a_write_to_the_list_drops_every_copy_of_it
    a_write_to_a_user_drops_every_copy_of_that_user_and_of_the_list
    a_write_below_the_users_drops_everything_of_theirs
    a_write_that_the_origin_refused_drops_nothing
    a_write_whose_effect_is_not_known_drops
    a_redirect_after_a_write_drops
    each_credential_has_its_own_copy
    an_ignored_cookie_splits_nothing
    who_shows_an_ignored_cookie_is_given_no_other_in_its_place
    who_has_a_session_keeps_it_on_a_public_route_that_begins_one
    a_path_that_begins_sessions_keeps_no_other_of_its_route_from_being_kept
    where_a_cookie_is_set_anew_a_stale_copy_still_stands_in_for_an_error
    a_configured_credential_header_splits
    a_public_route_is_filled_without_credentials_and_serves_everybody
    another_host_is_a_miss_that_replaces
    a_canonical_origin_is_asked_for_fills_and_only_for_them
    html_is_never_cached
    the_origin_is_asked_for_json_and_for_no_encoding
    what_there_is_no_json_of_is_asked_for_as_the_client_came
    what_the_origin_forbids_is_never_stored
    without_a_word_of_the_origin_only_a_200_203_or_204_is_stored
    with_one_other_successes_and_redirects_are_and_errors_never
    the_age_that_the_origin_allows_wins_over_the_routes
    the_routes_ttl_may_be_told_to_win
    an_expired_copy_is_fetched_anew
    a_head_of_what_has_no_content_says_nothing_of_its_length
    a_client_that_has_the_answer_is_told_so
    a_conditional_request_fills_like_any_other
    a_client_cannot_force_a_fetch
    a_get_with_content_goes_past_the_cache
    a_request_field_that_the_key_does_not_hold_cannot_change_what_is_stored
    a_route_may_split_by_a_field
    answers_that_vary_by_language_are_kept_apart
    an_answer_that_varies_by_an_unknown_field_is_asked_for_with_that_field
    a_part_is_never_stored_as_the_whole
    hop_by_hop_fields_of_an_answer_are_neither_stored_nor_passed_on
    a_purge_by_hand_drops_what_it_names
    an_entry_can_be_looked_at_by_hand
    the_first_route_that_matches_counts
    a_family_at_its_cap_keeps_again_what_a_write_has_dropped
}

fn a_family_at_its_cap_keeps_again_what_a_write_has_dropped(store: &str) {
    let (_origin, larder) = users_with(store, "limits: {copies: 2}");
    let [one, other, third] = [1, 2, 3].map(|page| format!("/api/users/?page={page}"));
    for _ in 0..4 {
        for target in [&one, &other] {
            assert!(!larder.get(target).is_hit());
            assert!(larder.get(target).is_hit(), "{target}");
        }
        let beyond = larder.get(&third);
        assert!(
            beyond.cache_status().contains("too-many-copies"),
            "{beyond:?}"
        );
        assert_eq!(larder.write("POST", LIST).status, 200);
    }
}

fn a_miss_is_stored_and_the_next_request_is_a_hit_with_its_age(store: &str) {
    let (origin, larder) = users(store);
    for target in [LIST, USER, "/api/users/?page=2"] {
        let miss = larder.get(target);
        assert!(!miss.is_hit() && miss.is_complete_success(), "{miss:?}");
        assert!(
            miss.cache_status().contains("fwd=uri-miss"),
            "{}",
            miss.cache_status()
        );
        assert!(
            miss.cache_status().contains("stored"),
            "{}",
            miss.cache_status()
        );
        let hit = larder.get(target);
        assert!(hit.is_hit() && hit.text() == miss.text(), "{hit:?}");
        assert!(
            hit.age() <= 20 && hit.cache_status().contains("ttl="),
            "{hit:?}"
        );
    }
    assert_eq!(origin.count(), 3);
    eventually("its age grows", || larder.get(LIST).age() >= 1);
}

fn a_hit_has_the_fields_that_the_origin_sent(store: &str) {
    // Not of this second, so that a Date of our own would be noticed; and not so old that its answer were stale.
    let date = httpdate::fmt_http_date(SystemTime::now() - Duration::from_secs(300));
    let sent = date.clone();
    let origin = Origin::start(move |_| {
        origin::json("[]")
            .field("ETag", "\"v1\"")
            .field("X-Total", "1")
            .field("X-Total", "2")
            .field("Link", "</api/users/?page=2>; rel=\"next\"")
            .field("Content-Language", "en")
            .field("Date", &sent)
            .field("X-Bytes", "caf\u{e9}")
            .field("Content-Security-Policy", "default-src 'none'")
    });
    let larder = Larder::start(users_api(&origin, store, ""));
    let miss = larder.get(LIST);
    let hit = larder.get(LIST);
    assert!(hit.is_hit());
    for answer in [&miss, &hit] {
        assert_eq!(answer.fields.all("x-total"), ["1", "2"], "{answer:?}");
        for (name, value) in [
            ("content-type", "application/json"),
            ("etag", "\"v1\""),
            ("link", "</api/users/?page=2>; rel=\"next\""),
            ("content-language", "en"),
            ("date", &date),
            ("content-security-policy", "default-src 'none'"),
            // Written as UTF-8, read one character for each byte.
            ("x-bytes", "caf\u{c3}\u{a9}"),
        ] {
            assert_eq!(answer.field(name), Some(value), "{name}");
        }
        assert_eq!(answer.fields.all("date").len(), 1);
    }
    assert!((300..400).contains(&hit.age()), "{hit:?}");
}

fn a_head_is_answered_from_a_stored_get_and_fills_nothing(store: &str) {
    let (origin, larder) = users(store);
    let head = larder.request("HEAD", LIST, &[], b"");
    assert!(head.status == 200 && !head.is_hit(), "{head:?}");
    let get = larder.get(LIST);
    assert!(
        !get.is_hit() && !get.text().is_empty(),
        "filled by a HEAD: {get:?}"
    );
    let head = larder.request("HEAD", LIST, &[], b"");
    assert!(head.is_hit() && head.content.length == 0, "{head:?}");
    assert_eq!(
        head.field("content-length"),
        Some(get.text().len().to_string().as_str())
    );
    assert_eq!(head.field("content-type"), Some("application/json"));
    assert_eq!(origin.count(), 2);
}

fn the_order_of_parameters_does_not_matter_and_the_forwarded_query_is_the_one_in_the_key(
    store: &str,
) {
    let (origin, larder) = users(store);
    larder.get("/api/users/?role=admin&page=2");
    assert_eq!(origin.last().target, "/api/users/?page=2&role=admin");
    assert!(larder.get("/api/users/?page=2&role=admin").is_hit());
    // Equal names keep their order, which Django's getlist shows.
    larder.get("/api/users/?id=2&id=1&a=0");
    assert_eq!(origin.last().target, "/api/users/?a=0&id=2&id=1");
    assert!(!larder.get("/api/users/?id=1&id=2&a=0").is_hit());
    // The last of them counts there, and so it must however one is encoded.
    larder.get("/api/users/?page=2&p%61ge=1");
    assert_eq!(origin.last().target, "/api/users/?page=2&p%61ge=1");
    assert!(!larder.get("/api/users/?p%61ge=1&page=2").is_hit());
    assert_eq!(origin.last().target, "/api/users/?p%61ge=1&page=2");
    for other in [
        "/api/users/?page=2",
        "/api/users/?page=2&role=",
        "/api/users/?page=2&role=admin&x",
        "/api/users/?Page=2&role=admin",
    ] {
        assert!(!larder.get(other).is_hit(), "{other}");
    }
}

fn a_parameter_that_is_not_allowed_is_left_out_where_the_route_says_ignore(store: &str) {
    let (origin, larder) = users_with_query(store, "{allow: [page, role], other: ignore}");
    larder.get("/api/users/?utm_source=x&page=2&role=a&sessid=1");
    assert_eq!(origin.last().target, "/api/users/?page=2&role=a");
    assert!(
        larder
            .get("/api/users/?role=a&page=2&utm_source=y")
            .is_hit()
    );
    larder.get("/api/users/?utm_source=x");
    assert_eq!(origin.last().target, LIST);
    assert!(larder.get(LIST).is_hit());
}

fn a_parameter_that_is_not_allowed_is_forwarded_uncached_where_the_route_says_bypass(store: &str) {
    let (origin, larder) = users_with_query(store, "{allow: [page, role], other: bypass}");
    for _ in 0..2 {
        let answer = larder.get("/api/users/?utm=x&page=2");
        assert!(!answer.is_hit());
        assert!(
            answer.cache_status().contains("fwd=bypass"),
            "{}",
            answer.cache_status()
        );
        assert_eq!(origin.last().target, "/api/users/?utm=x&page=2");
    }
    larder.get("/api/users/?page=2");
    assert!(larder.get("/api/users/?page=2").is_hit());
}

fn a_parameter_that_is_not_allowed_is_refused_where_the_route_says_reject(store: &str) {
    let (origin, larder) = users_with_query(store, "{allow: [page, role], other: reject}");
    assert_eq!(larder.get("/api/users/?utm=x&page=2").status, 400);
    assert_eq!(origin.count(), 0);
    larder.get("/api/users/?page=2");
    assert!(larder.get("/api/users/?page=2").is_hit());
}

fn a_key_may_hold_any_punctuation_that_the_file_takes(store: &str) {
    let origin = Origin::start(|_| origin::json("{}"));
    let larder = Larder::start(format!(
        r#"upstream: {}
store: {{url: "{store}", database: 1, prefix: t}}
ttl: 1h
routes:
  - {{path: /list/, key: 'users,list@a=b;[c]/"d"|e'}}
  - {{path: "/one/<id>/", key: "one,@:{{id}}"}}
"#,
        origin.url()
    ));
    for target in ["/list/", "/one/7/", "/one/a,b@c/"] {
        larder.get(target);
        let answer = larder.get(target);
        assert!(answer.is_hit(), "{target}: {answer:?}");
    }
}

/// Each means a user or the list to Django, or might; none is how Django writes it.
const OTHER_SPELLINGS: [&str; 8] = [
    "/api/users/07/",
    "/api/users/%37/",
    "/api/%75sers/7/",
    "/api/users/7//",
    "/api/users//7/",
    "/api/users/./7/",
    "/api/users/8/../7/",
    "/api/users/7%2f",
];

fn another_spelling_is_forwarded_as_it_is_and_never_cached(store: &str) {
    let (origin, larder) = users(store);
    assert!(!larder.get(USER).is_hit());
    let others = [
        "/API/users/7/",
        "/api/users/7/.css",
        "/api/users/7",
        "/api/users/7;x/",
        "/api/users/+7/",
        "/api/users/-7/",
    ];
    for target in OTHER_SPELLINGS.into_iter().chain(others) {
        for _ in 0..2 {
            let answer = larder.get(target);
            assert!(!answer.is_hit(), "{target}: {answer:?}");
            assert_eq!(origin.last().target, target);
        }
    }
    assert!(larder.get(USER).is_hit());
}

/// Read as Django reads it, `v07` is version 7, and never the name of a draft, though nothing else is odd about it.
#[test]
fn a_leading_zero_behind_other_text_is_another_spelling_that_no_later_route_keeps() {
    let origin = Origin::start(|_| origin::json("{}"));
    let larder = Larder::start(format!(
        r#"upstream: {}
ttl: 1h
routes:
  - {{path: "/api/v<int:number>/", key: "version:{{number}}"}}
  - {{path: "/api/<slug:name>/", key: "draft:{{name}}"}}
purge:
  - {{methods: PATCH, path: "/api/v<int:number>/", keys: ["version:{{number}}"]}}
  - {{methods: PATCH, path: "/api/<slug:name>/", keys: ["draft:{{name}}"]}}
"#,
        origin.url()
    ));
    for kept in ["/api/v7/", "/api/v70/", "/api/v0/", "/api/w07/"] {
        larder.get(kept);
        assert!(larder.get(kept).is_hit(), "{kept}");
    }
    for _ in 0..2 {
        let answer = larder.get("/api/v07/");
        assert!(!answer.is_hit(), "kept where no write drops it: {answer:?}");
    }
    larder.write("PATCH", "/api/v07/");
    assert!(!larder.get("/api/v7/").is_hit());
}

fn another_spelling_purges_what_it_means(store: &str) {
    let (_origin, larder) = users(store);
    for target in [
        "/api/users/07/",
        "/api/users/%37/",
        "/api/%75sers/7/",
        "/api/users/7/?x=y",
        "/api/users/%30%37/",
    ] {
        for copy in [LIST, USER, "/api/users/8/"] {
            larder.get(copy);
            assert!(larder.get(copy).is_hit());
        }
        assert_eq!(larder.write("PATCH", target).status, 200);
        assert!(!larder.get(USER).is_hit(), "PATCH {target} left the user");
        assert!(!larder.get(LIST).is_hit(), "PATCH {target} left the list");
        assert!(
            larder.get("/api/users/8/").is_hit(),
            "PATCH {target} dropped somebody else"
        );
    }
    // What is no user's path is below the users in any case.
    for target in [
        "/api/users/7//",
        "/api/users//7/",
        "/api/users/7%2f",
        "/api/users/8/../7/",
        "/api/users/7/.css",
    ] {
        larder.get(USER);
        assert!(larder.get(USER).is_hit());
        assert_eq!(larder.write("PATCH", target).status, 200);
        assert!(!larder.get(USER).is_hit(), "PATCH {target} left the user");
    }
}

fn a_path_that_no_route_names_is_never_cached(store: &str) {
    let origin = Origin::start(|request| {
        origin::json(request.number.to_string()).field("Cache-Control", "public, max-age=3600")
    });
    let larder = Larder::start(users_api(&origin, store, ""));
    for target in [
        "/",
        "/api/",
        "/api/user/",
        "/static/a.css",
        "/api/users/7/posts/",
        "*",
    ] {
        for _ in 0..2 {
            let method = if target == "*" { "OPTIONS" } else { "GET" };
            let answer = larder.request(method, target, &[], b"");
            assert!(
                !answer.is_hit() && answer.field("cache-status").is_some(),
                "{target}: {answer:?}"
            );
            assert_eq!(origin.last().target, target);
        }
    }
}

fn an_int_in_a_path_does_not_match_a_word(store: &str) {
    let (origin, larder) = users(store);
    for _ in 0..2 {
        assert!(!larder.get("/api/users/me/").is_hit());
    }
    assert_eq!(origin.count(), 2);
}

/// Every way in which the list or a user may be asked for: by query, credential and cookie.
fn variants(path: &str) -> Vec<(String, Vec<(&'static str, &'static str)>)> {
    let mut variants = Vec::new();
    for query in ["", "?page=2", "?role=admin&search=x%20y"] {
        for fields in [
            vec![],
            vec![("Authorization", "Token a")],
            vec![("Cookie", "sessionid=a; csrftoken=b")],
            vec![("X-Api-Key", "k")],
            vec![("Accept", "application/vnd.api+json")],
        ] {
            variants.push((format!("{path}{query}"), fields));
        }
    }
    variants
}

fn fill(larder: &Larder, variants: &[(String, Vec<(&str, &str)>)]) {
    for (target, fields) in variants {
        larder.get_with(target, fields);
    }
    for (target, fields) in variants {
        assert!(
            larder.get_with(target, fields).is_hit(),
            "{target} {fields:?} is not kept"
        );
    }
}

fn a_write_to_the_list_drops_every_copy_of_it(store: &str) {
    let (_origin, larder) = users(store);
    let variants = variants(LIST);
    fill(&larder, &variants);
    larder.get(USER);
    // By anyone: the writer's credential is not that of the readers.
    let created = larder.request(
        "POST",
        "/api/users/?notify=1",
        &[("Authorization", "Token admin")],
        b"{}",
    );
    assert_eq!(created.status, 200);
    for (target, fields) in &variants {
        assert!(
            !larder.get_with(target, fields).is_hit(),
            "{target} {fields:?}"
        );
    }
    assert!(larder.get(USER).is_hit());
}

fn a_write_to_a_user_drops_every_copy_of_that_user_and_of_the_list(store: &str) {
    let (_origin, larder) = users(store);
    let dropped = [variants(LIST), variants(USER)].concat();
    let kept = variants("/api/users/70/");
    for method in ["PUT", "PATCH", "DELETE"] {
        fill(&larder, &dropped);
        fill(&larder, &kept);
        assert_eq!(larder.write(method, USER).status, 200);
        for (target, fields) in &dropped {
            assert!(
                !larder.get_with(target, fields).is_hit(),
                "{method}: {target} {fields:?}"
            );
        }
        for (target, fields) in &kept {
            assert!(
                larder.get_with(target, fields).is_hit(),
                "{method}: {target} {fields:?}"
            );
        }
    }
}

fn a_write_below_the_users_drops_everything_of_theirs(store: &str) {
    let (_origin, larder) = users(store);
    let all = [variants(LIST), variants(USER), variants("/api/users/8/")].concat();
    for (method, target) in [
        ("PATCH", "/api/users/me/"),
        ("POST", "/api/users/7/activate/"),
        ("DELETE", "/api/users/bulk"),
        ("POST", "/api/users/7/"),
    ] {
        fill(&larder, &all);
        assert_eq!(larder.write(method, target).status, 200);
        for (copy, fields) in &all {
            assert!(
                !larder.get_with(copy, fields).is_hit(),
                "{method} {target}: {copy} {fields:?}"
            );
        }
    }
    fill(&larder, &all);
    assert_eq!(larder.write("POST", "/api/groups/").status, 200);
    for (copy, fields) in &all {
        assert!(
            larder.get_with(copy, fields).is_hit(),
            "a write elsewhere: {copy} {fields:?}"
        );
    }
}

fn a_write_that_the_origin_refused_drops_nothing(store: &str) {
    let (_origin, larder) = users_answering_writes(store);
    for status in ["400", "401", "403", "405", "413", "415", "422", "429"] {
        for (method, target) in [
            ("POST", LIST),
            ("PATCH", USER),
            ("POST", "/api/users/7/activate/"),
        ] {
            larder.get(LIST);
            larder.get(USER);
            let answer = larder.request(method, target, &[("X-Answer", status)], b"{}");
            assert_eq!(answer.status.to_string(), status);
            assert!(larder.get(LIST).is_hit(), "{status} to {method} {target}");
            assert!(larder.get(USER).is_hit(), "{status} to {method} {target}");
        }
    }
}

fn a_write_whose_effect_is_not_known_drops(store: &str) {
    let every: [&str; 18] = [
        "200", "201", "202", "204", "404", "409", "410", "412", "418", "500", "501", "502", "503",
        "504", "599", "hang up", "reset", "half",
    ];
    for (number, answer) in every.into_iter().enumerate() {
        // Each on its own: after an unsure one nothing is kept for as long as its hold lasts.
        let (_origin, larder) = users_answering_writes_under(store, &format!("t{number}"));
        let before = (larder.get(LIST).text(), larder.get(USER).text());
        assert!(larder.get(LIST).is_hit() && larder.get(USER).is_hit());
        larder.request("PATCH", USER, &[("X-Answer", answer)], b"{}");
        for _ in 0..2 {
            assert_ne!(larder.get(LIST).text(), before.0, "{answer} left the list");
            assert_ne!(larder.get(USER).text(), before.1, "{answer} left the user");
        }
    }
}

fn a_redirect_after_a_write_drops(store: &str) {
    let (_origin, larder) = users_answering_writes(store);
    for status in ["301", "302", "303", "307", "308"] {
        larder.get(LIST);
        assert!(larder.get(LIST).is_hit());
        larder.request("POST", LIST, &[("X-Answer", status)], b"{}");
        assert!(!larder.get(LIST).is_hit(), "{status}");
    }
}

fn each_credential_has_its_own_copy(store: &str) {
    let (origin, larder) = users_who_see_themselves(store, "");
    let credentials: [&[(&str, &str)]; 9] = [
        &[],
        &[("Authorization", "Token a")],
        &[("Authorization", "Token b")],
        &[("Authorization", "token a")],
        &[("X-Api-Key", "a")],
        &[("X-Auth-Token", "a")],
        &[("Cookie", "sessionid=a")],
        &[("Cookie", "unheard_of=a")],
        &[("Cookie", "sessionid=a"), ("Authorization", "Token a")],
    ];
    for round in 0..2 {
        for fields in credentials {
            let answer = larder.get_with(LIST, fields);
            assert_eq!(answer.is_hit(), round == 1, "{fields:?}");
            assert_eq!(answer.text(), seen(fields), "{fields:?}");
        }
    }
    assert_eq!(origin.count(), credentials.len());
}

/// As `ensure_csrf_cookie` does: whoever shows none is given a new one, and what a page has of the old one is refused.
fn who_shows_an_ignored_cookie_is_given_no_other_in_its_place(store: &str) {
    let origin = Origin::start(|request| {
        let shown = request.fields.get("cookie").unwrap_or_default();
        let shown = shown.split("csrftoken=").nth(1);
        let token = shown.map_or(format!("new{}", request.number), str::to_owned);
        origin::json("[]").field("Set-Cookie", &format!("csrftoken={token}; Path=/"))
    });
    let larder = Larder::start(users_api(&origin, store, ""));
    for (fields, expected) in [
        (vec![("Cookie", "csrftoken=mine")], "csrftoken=mine; Path=/"),
        (
            vec![("Cookie", "sessionid=a; csrftoken=mine")],
            "csrftoken=mine; Path=/",
        ),
    ] {
        for _ in 0..2 {
            let answer = larder.get_with(LIST, &fields);
            assert_eq!(
                answer.fields.get("set-cookie"),
                Some(expected),
                "{fields:?}"
            );
            let said = answer.cache_status();
            assert!(said.ends_with("detail=set-cookie"), "{said}");
        }
    }
    // The first alone was asked for twice.
    let before = origin.count();
    assert_eq!(before, 5);
    let answer = larder.get(LIST);
    let set = answer.fields.get("set-cookie").unwrap_or_default();
    assert!(set.starts_with("csrftoken=new"), "{set}");
    assert_eq!(origin.count(), before + 1);
}

/// A fill of a public route shows no cookie at all, and a view that keeps something in a session would begin another.
fn who_has_a_session_keeps_it_on_a_public_route_that_begins_one(store: &str) {
    let origin = Origin::start(|request| {
        let shown = request.fields.get("cookie").unwrap_or_default();
        let answer = origin::json("[]");
        match shown.contains("sessionid=mine") {
            true => answer,
            false => answer.field("Set-Cookie", "sessionid=new; Path=/"),
        }
    });
    let public =
        users_api(&origin, store, "").replace("key: users:list", "key: users:list, access: public");
    let larder = Larder::start(public);
    for _ in 0..2 {
        let answer = larder.get_with(LIST, &[("Cookie", "sessionid=mine")]);
        assert_eq!(answer.fields.get("set-cookie"), None, "{answer:?}");
    }
    assert_eq!(
        larder.get(LIST).fields.get("set-cookie"),
        Some("sessionid=new; Path=/")
    );
}

/// What is said of the view behind one path is not said of the others.
fn a_path_that_begins_sessions_keeps_no_other_of_its_route_from_being_kept(store: &str) {
    let origin = Origin::start(|request| match request.target.as_str() {
        "/api/users/7/" => origin::json("{}").field("Set-Cookie", "sessionid=new; Path=/"),
        _ => origin::json("{}"),
    });
    let public = users_api(&origin, store, "").replace("{id}\"}", "{id}\", access: public}");
    let larder = Larder::start(public);
    let session = [("Cookie", "sessionid=mine")];
    larder.get_with("/api/users/7/", &session);
    larder.get_with("/api/users/8/", &session);
    let answer = larder.get_with("/api/users/8/", &session);
    assert!(answer.is_hit(), "{}", answer.cache_status());
}

fn where_a_cookie_is_set_anew_a_stale_copy_still_stands_in_for_an_error(store: &str) {
    let mode = Arc::new(AtomicU64::new(0));
    let now = mode.clone();
    let origin = Origin::start(move |_| match now.load(Ordering::SeqCst) {
        0 => origin::json("[]"),
        1 => origin::json("[]").field("Set-Cookie", "csrftoken=new; Path=/"),
        _ => origin::status(500, ""),
    });
    let list = "key: users:list, ttl: 1s, stale_if_error: 1h";
    let larder = Larder::start(users_api(&origin, store, "").replace("key: users:list", list));
    let shown = [("Cookie", "csrftoken=mine")];
    larder.get_with(LIST, &shown);
    mode.store(1, Ordering::SeqCst);
    eventually("the copy is past its time", || {
        let answer = larder.get_with(LIST, &shown);
        answer.cache_status().ends_with("detail=set-cookie")
    });
    mode.store(2, Ordering::SeqCst);
    let answer = larder.get_with(LIST, &shown);
    assert_eq!(answer.status, 200, "{}", answer.cache_status());
}

fn an_ignored_cookie_splits_nothing(store: &str) {
    let (origin, larder) = users(store);
    larder.get(LIST);
    for cookie in [
        "csrftoken=abc",
        "_ga=1",
        "_ga_XYZ=2; _gid=3",
        "csrftoken=; _gid=4",
        "_ga=1;csrftoken=x",
    ] {
        assert!(
            larder.get_with(LIST, &[("Cookie", cookie)]).is_hit(),
            "{cookie}"
        );
    }
    assert!(
        !larder
            .get_with(LIST, &[("Cookie", "sessionid=a; csrftoken=1")])
            .is_hit()
    );
    assert!(
        larder
            .get_with(LIST, &[("Cookie", "csrftoken=2; sessionid=a; _ga=3")])
            .is_hit()
    );
    for cookie in ["_gidx=1", "csrftoken2=1", "Csrftoken=1"] {
        assert!(
            !larder.get_with(LIST, &[("Cookie", cookie)]).is_hit(),
            "{cookie}"
        );
    }
    assert_eq!(origin.count(), 5);

    let larder = Larder::start(
        users_api(&origin, store, "ignore_cookies: [theme, ab_*]")
            .replace("prefix: t", "prefix: u"),
    );
    larder.get(LIST);
    assert!(
        larder
            .get_with(LIST, &[("Cookie", "theme=dark; ab_1=x")])
            .is_hit()
    );
    assert!(
        !larder
            .get_with(LIST, &[("Cookie", "sessionid=dark")])
            .is_hit()
    );
}

fn a_configured_credential_header_splits(store: &str) {
    let (_origin, larder) = users_who_see_themselves(store, "credential_headers: [X-Tenant]");
    for tenant in ["a", "b"] {
        let fields = [("X-Tenant", tenant)];
        assert!(!larder.get_with(LIST, &fields).is_hit());
        let hit = larder.get_with(LIST, &fields);
        assert!(hit.is_hit() && hit.text() == seen(&fields), "{hit:?}");
    }
    // Authorization is a credential whatever else is.
    assert!(
        !larder
            .get_with(LIST, &[("Authorization", "Token a")])
            .is_hit()
    );
}

fn a_public_route_is_filled_without_credentials_and_serves_everybody(store: &str) {
    let (origin, larder) = users_who_see_themselves_publicly(store);
    let everybody: [&[(&str, &str)]; 4] = [
        &[("Authorization", "Token a")],
        &[("Cookie", "sessionid=b; csrftoken=c")],
        &[],
        &[("X-Api-Key", "k")],
    ];
    for (number, fields) in everybody.into_iter().enumerate() {
        let answer = larder.get_with(LIST, fields);
        assert_eq!(
            (answer.is_hit(), answer.text()),
            (number > 0, seen(&[])),
            "{fields:?}"
        );
    }
    let asked = origin.last();
    for name in [
        "authorization",
        "cookie",
        "x-api-key",
        "proxy-authorization",
    ] {
        assert!(
            !asked.fields.has(name),
            "{name} was sent: {:?}",
            asked.fields
        );
    }
    // The other route is not public.
    assert_eq!(
        larder
            .get_with(USER, &[("Authorization", "Token a")])
            .text(),
        seen(&[("Authorization", "Token a")])
    );
}

fn another_host_is_a_miss_that_replaces(store: &str) {
    let origin = Origin::start(|request| {
        origin::json(format!(
            "{{\"next\":\"http://{}/api/users/?page=2\"}}",
            request.fields.get("host").unwrap()
        ))
    });
    let larder = Larder::start(users_api(&origin, store, ""));
    for host in [
        "api.example.org",
        "localhost:8080",
        "api.example.org",
        "api.example.org:8080",
    ] {
        let fields = [("Host", host)];
        let miss = larder.get_with(LIST, &fields);
        assert!(
            !miss.is_hit() && miss.text().contains(&format!("//{host}/")),
            "{miss:?}"
        );
        let hit = larder.get_with(LIST, &fields);
        assert!(hit.is_hit() && hit.text() == miss.text(), "{hit:?}");
    }
    assert_eq!(
        larder.output().matches("canonical_origin").count(),
        1,
        "logged once with its remedy:\n{}",
        larder.output()
    );
}

fn a_canonical_origin_is_asked_for_fills_and_only_for_them(store: &str) {
    let (origin, larder) = users_with(store, "canonical_origin: https://api.canonical.example");
    larder.get_with(LIST, &[("Host", "a.example.org")]);
    let fill = origin.last();
    assert_eq!(fill.fields.all("host"), ["api.canonical.example"]);
    assert_eq!(fill.fields.all("x-forwarded-proto"), ["https"]);
    assert!(
        larder
            .get_with(LIST, &[("Host", "b.example.org:8080")])
            .is_hit()
    );
    for (method, target) in [("POST", LIST), ("GET", "/other/"), ("PATCH", USER)] {
        larder.request(method, target, &[("Host", "a.example.org")], b"");
        assert_eq!(
            origin.last().fields.all("host"),
            ["a.example.org"],
            "{method} {target}"
        );
        assert_eq!(
            origin.last().fields.all("x-forwarded-proto"),
            ["http"],
            "{method} {target}"
        );
    }
}

fn html_is_never_cached(store: &str) {
    let (origin, larder) = users(store);
    let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    larder.get(LIST);
    for accept in [browser, "text/html", "text/html, application/json;q=0.5"] {
        for _ in 0..2 {
            let before = origin.count();
            assert!(
                !larder.get_with(LIST, &[("Accept", accept)]).is_hit(),
                "{accept}"
            );
            assert_eq!(origin.count(), before + 1);
            assert_eq!(origin.last().fields.get("accept"), Some(accept));
        }
    }
    assert!(larder.get(LIST).is_hit());
}

fn the_origin_is_asked_for_json_and_for_no_encoding(store: &str) {
    let (origin, larder) = users(store);
    larder.get_with(LIST, &[("Accept", "*/*"), ("Accept-Encoding", "gzip, br")]);
    let asked = origin.last();
    assert_eq!(asked.fields.all("accept"), ["application/json"]);
    assert_eq!(asked.fields.all("accept-encoding"), ["identity"]);
    for accept in [
        &[][..],
        &[("Accept", "application/json")],
        &[("Accept", "application/json, text/plain, */*")],
    ] {
        assert!(larder.get_with(LIST, accept).is_hit(), "{accept:?}");
    }
    // Another kind has a copy of its own, and is asked for as the client did.
    let other = [("Accept", "application/vnd.api+json")];
    assert!(!larder.get_with(LIST, &other).is_hit());
    assert_eq!(
        origin.last().fields.all("accept"),
        ["application/vnd.api+json"]
    );
    assert!(larder.get_with(LIST, &other).is_hit());
}

/// As DRF with `?format=csv`, or with no renderer but that of JSON:API.
fn what_there_is_no_json_of_is_asked_for_as_the_client_came(store: &str) {
    let origin = Origin::start(|request| {
        let accept = request.fields.get("accept").unwrap_or("*/*");
        match accept.contains("*/*") || accept == "text/csv" {
            true => origin::status(200, "id\n").field("Content-Type", "text/csv"),
            false => origin::status(406, ""),
        }
    });
    let larder = Larder::start(users_api(&origin, store, ""));
    for accept in [
        &[][..],
        &[("Accept", "*/*")],
        &[("Accept", "application/json, text/plain, */*")],
    ] {
        for _ in 0..2 {
            let answer = larder.get_with(LIST, accept);
            assert_eq!(answer.text(), "id\n", "{accept:?}");
            let said = answer.cache_status();
            assert!(said.ends_with("fwd-status=200; detail=not-json"), "{said}");
            let head = larder.request("HEAD", LIST, accept, b"");
            assert_eq!(head.status, 200, "{accept:?}");
        }
    }
    let json_alone = larder.get_with(LIST, &[("Accept", "application/json")]);
    assert_eq!(json_alone.status, 406);
    let csv = [("Accept", "text/csv")];
    assert!(!larder.get_with(LIST, &csv).is_hit());
    assert!(larder.get_with(LIST, &csv).is_hit());
}

fn what_the_origin_forbids_is_never_stored(store: &str) {
    for (name, value) in [
        ("Set-Cookie", "sessionid=abc; HttpOnly"),
        ("Cache-Control", "no-store"),
        ("Cache-Control", "private"),
        ("Cache-Control", "PRIVATE, max-age=60"),
        ("Cache-Control", "max-age=0"),
        ("Cache-Control", "public, max-age=60, no-store"),
        ("Cache-Control", "max-age=60, max-age"),
        ("Cache-Control", "max-age=-1"),
        ("Cache-Control", "max-age='60'"),
        ("Expires", "0"),
        ("Expires", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ("Vary", "*"),
        ("Vary", "Accept, *"),
        ("Vary", "X-Unheard-Of"),
        ("Age", "999999"),
    ] {
        let origin = Origin::start(move |request| {
            let answer = origin::json(request.number.to_string()).field(name, value);
            if name == "Age" {
                answer.field("Cache-Control", "max-age=60")
            } else {
                answer
            }
        });
        let larder = Larder::start(users_api(&origin, store, ""));
        larder.purge_everything();
        for number in 1..=3 {
            let answer = larder.get(LIST);
            assert!(
                !answer.is_hit() && answer.text() == number.to_string(),
                "{name}: {value}: {answer:?}"
            );
            assert!(
                !answer.cache_status().contains("stored"),
                "{name}: {value}: {}",
                answer.cache_status()
            );
        }
        assert_eq!(larder.get(LIST).fields.all(name).last(), Some(&value));
    }
}

fn statuses(control: Option<&'static str>) -> Origin {
    Origin::start(move |request| {
        let status = request.target.rsplit_once("=").unwrap().1.parse().unwrap();
        let body = match status {
            204 => String::new(),
            _ => request.number.to_string(),
        };
        let answer = origin::status(status, body).field("Location", "/api/users/");
        match control {
            Some(control) => answer.field("Cache-Control", control),
            None => answer,
        }
    })
}

#[track_caller]
fn is_stored(larder: &Larder, status: u16) -> bool {
    let target = format!("/api/users/?status={status}");
    let (first, second) = (larder.get(&target), larder.get(&target));
    assert!(
        first.status == status && second.status == status,
        "{first:?} {second:?}"
    );
    assert_eq!(
        first.text() == second.text(),
        second.is_hit() || status == 204
    );
    second.is_hit()
}

fn without_a_word_of_the_origin_only_a_200_203_or_204_is_stored(store: &str) {
    let origin = statuses(None);
    let larder = Larder::start(users_api(&origin, store, ""));
    for status in [200, 203, 204] {
        assert!(is_stored(&larder, status), "{status}");
    }
    for status in [
        201, 299, 300, 301, 302, 307, 308, 400, 401, 403, 404, 405, 410, 414, 418, 431, 451, 500,
        501, 502, 503, 504, 599, 999,
    ] {
        assert!(!is_stored(&larder, status), "{status}");
    }
}

fn with_one_other_successes_and_redirects_are_and_errors_never(store: &str) {
    let origin = statuses(Some("max-age=60"));
    let larder = Larder::start(users_api(&origin, store, ""));
    for status in [200, 201, 203, 204, 299, 301, 302, 303, 307, 308] {
        assert!(is_stored(&larder, status), "{status}");
    }
    for status in [
        206, 300, 400, 401, 403, 404, 405, 410, 413, 414, 418, 431, 451, 500, 501, 502, 503, 504,
        599, 999,
    ] {
        assert!(!is_stored(&larder, status), "{status}");
    }
}

fn the_age_that_the_origin_allows_wins_over_the_routes(store: &str) {
    for (route, header) in [
        ("ttl: 1h", [("Cache-Control", "max-age=1")]),
        ("ttl: 1h", [("Cache-Control", "max-age=3600, s-maxage=1")]),
        ("ttl: 1h", [("Cache-Control", "s-maxage=\"1\"")]),
    ] {
        let origin = Origin::start(move |request| {
            header.iter().fold(
                origin::json(request.number.to_string()),
                |answer, (name, value)| answer.field(name, value),
            )
        });
        let larder = Larder::start(users_api(&origin, store, "").replace("ttl: 1h", route));
        larder.purge_everything();
        larder.get(LIST);
        eventually(&format!("{header:?} has passed"), || {
            !larder.get(LIST).is_hit()
        });
    }
    let origin = Origin::start(|request| {
        origin::json(request.number.to_string()).field("Cache-Control", "max-age=3600")
    });
    let larder = Larder::start(
        users_api(&origin, store, "")
            .replace("ttl: 1h", "ttl: 1s")
            .replace("prefix: t", "prefix: u"),
    );
    larder.get(LIST);
    assert!(larder.get(LIST).is_hit());
    // Twice the route's own ttl: the condition is the passing of time itself.
    std::thread::sleep(Duration::from_secs(2));
    assert!(larder.get(LIST).is_hit());
}

fn the_routes_ttl_may_be_told_to_win(store: &str) {
    let answers = |control: &'static str| {
        let origin = Origin::start(move |request| {
            origin::json(request.number.to_string()).field("Cache-Control", control)
        });
        let route = "key: users:list, override_origin: true}";
        let larder =
            Larder::start(users_api(&origin, store, "").replace("key: users:list}", route));
        larder.purge_everything();
        (origin, larder)
    };
    for control in ["max-age=0", "no-cache", "max-age=0, must-revalidate"] {
        let (_origin, larder) = answers(control);
        larder.get(LIST);
        assert!(larder.get(LIST).is_hit(), "{control}");
    }
    for control in ["no-store", "private", "max-age=60, private"] {
        let (_origin, larder) = answers(control);
        larder.get(LIST);
        assert!(!larder.get(LIST).is_hit(), "{control}");
    }
}

fn an_expired_copy_is_fetched_anew(store: &str) {
    let origin = Origin::start(|request| origin::json(request.number.to_string()));
    let larder = Larder::start(users_api(&origin, store, "").replace("ttl: 1h", "ttl: 1s"));
    assert_eq!(larder.get(LIST).text(), "1");
    eventually("the copy has expired", || {
        let answer = larder.get(LIST);
        assert_eq!(answer.is_hit(), answer.text() == "1", "{answer:?}");
        answer.text() == "2"
    });
}

fn a_head_of_what_has_no_content_says_nothing_of_its_length(store: &str) {
    let origin = Origin::start(|_| origin::status(204, ""));
    let larder = Larder::start(users_api(&origin, store, ""));
    larder.get(LIST);
    let head = larder.request("HEAD", LIST, &[], b"");
    assert!(head.is_hit() && head.status == 204, "{head:?}");
    assert_eq!(head.field("content-length"), None);
}

fn a_client_that_has_the_answer_is_told_so(store: &str) {
    let origin = Origin::start(|_| {
        origin::json("[1]")
            .field("ETag", "\"v1\"")
            .field("Last-Modified", "Tue, 15 Nov 1994 08:12:31 GMT")
            .field("Access-Control-Allow-Origin", "https://app.example.org")
    });
    let larder = Larder::start(users_api(&origin, store, ""));
    larder.get(LIST);
    for (name, value, status) in [
        ("If-None-Match", "\"v1\"", 304),
        ("If-None-Match", "W/\"v1\"", 304),
        ("If-None-Match", "\"v0\", \"v1\"", 304),
        ("If-None-Match", "*", 304),
        ("If-None-Match", "\"v0\"", 200),
        ("If-Modified-Since", "Tue, 15 Nov 1994 08:12:31 GMT", 304),
        ("If-Modified-Since", "Wed, 16 Nov 1994 08:12:31 GMT", 304),
        ("If-Modified-Since", "Mon, 14 Nov 1994 08:12:31 GMT", 200),
    ] {
        let answer = larder.get_with(LIST, &[(name, value)]);
        assert_eq!(
            (answer.status, answer.is_hit()),
            (status, true),
            "{name}: {value}: {answer:?}"
        );
        assert_eq!(answer.content.length, if status == 304 { 0 } else { 3 });
        assert_eq!(answer.field("etag"), Some("\"v1\""));
        // A browser looks for it in each answer that a script is given.
        let allowed = answer.field("access-control-allow-origin");
        assert_eq!(allowed, Some("https://app.example.org"));
        answer.age();
    }
    let both = [
        ("If-None-Match", "\"v0\""),
        ("If-Modified-Since", "Wed, 16 Nov 1994 08:12:31 GMT"),
    ];
    assert_eq!(
        larder.get_with(LIST, &both).status,
        200,
        "the date is ignored beside a tag"
    );
    assert_eq!(origin.count(), 1);
}

fn a_conditional_request_fills_like_any_other(store: &str) {
    let origin = Origin::start(|request| {
        if request.fields.has("if-none-match") || request.fields.has("if-modified-since") {
            return origin::status(304, "").field("ETag", "\"v1\"");
        }
        origin::json("[1]").field("ETag", "\"v1\"")
    });
    let larder = Larder::start(users_api(&origin, store, ""));
    // A poller who has it: the condition is taken off the fill and answered here.
    let poller = [
        ("If-None-Match", "\"v1\""),
        ("If-Modified-Since", "Tue, 15 Nov 1994 08:12:31 GMT"),
    ];
    let first = larder.get_with(LIST, &poller);
    assert_eq!((first.status, first.content.length), (304, 0), "{first:?}");
    let second = larder.get_with(LIST, &poller);
    assert!(second.status == 304 && second.is_hit(), "{second:?}");
    let other = larder.get(LIST);
    assert!(other.is_hit() && other.text() == "[1]", "{other:?}");
    // On no route the origin itself is asked.
    assert_eq!(larder.get_with("/other/", &poller).status, 304);
    assert!(origin.last().fields.has("if-none-match"));
}

fn a_client_cannot_force_a_fetch(store: &str) {
    let (origin, larder) = users(store);
    larder.get(LIST);
    for (name, value) in [
        ("Cache-Control", "no-cache"),
        ("Cache-Control", "max-age=0"),
        ("Cache-Control", "min-fresh=999999"),
        ("Pragma", "no-cache"),
    ] {
        assert!(
            larder.get_with(LIST, &[(name, value)]).is_hit(),
            "{name}: {value}"
        );
    }
    assert_eq!(origin.count(), 1);
}

fn a_get_with_content_goes_past_the_cache(store: &str) {
    let (origin, larder) = users(store);
    for _ in 0..2 {
        let answer = larder.request("GET", LIST, &[], b"{\"filter\":1}");
        // To refuse it would do as well; to answer it from the cache, or to fill, would not.
        assert!(!answer.is_hit(), "{answer:?}");
        if answer.status == 200 {
            assert_eq!(origin.last().content.text(), "{\"filter\":1}");
        }
    }
    assert!(!larder.get(LIST).is_hit());
    assert!(!larder.request("GET", LIST, &[], b"{\"filter\":1}").is_hit());
    assert!(larder.get(LIST).is_hit());
}

fn a_request_field_that_the_key_does_not_hold_cannot_change_what_is_stored(store: &str) {
    // An application that believes whatever it is told.
    let origin = Origin::start(|request| {
        let told = [
            "x-forwarded-host",
            "x-original-url",
            "x-rewrite-url",
            "x-http-method-override",
            "x-http-method",
            "x-method-override",
            "x-forwarded-for",
            "forwarded",
            "x-real-ip",
            "x-script-name",
            "range",
        ]
        .map(|name| {
            request
                .fields
                .get(name)
                .filter(|value| value.contains("evil") || value.contains("bytes="))
                .unwrap_or("-")
        });
        origin::json(told.join("|"))
    });
    let larder = Larder::start(users_api(&origin, store, "trusted_proxies: []"));
    for name in [
        "X-Forwarded-Host",
        "X-Original-URL",
        "X-Rewrite-URL",
        "X-HTTP-Method-Override",
        "X-HTTP-Method",
        "X-Method-Override",
        "X-Forwarded-For",
        "Forwarded",
        "X-Real-IP",
        "X-Script-Name",
    ] {
        larder.purge_everything();
        let value = if name == "Forwarded" {
            "host=evil.example"
        } else {
            "evil.example"
        };
        assert!(
            !larder
                .get_with(LIST, &[(name, value)])
                .text()
                .contains("evil"),
            "{name} reached the origin"
        );
        let answer = larder.get(LIST);
        assert!(
            !answer.text().contains("evil"),
            "{name} poisoned the copy: {answer:?}"
        );
    }
}

fn a_route_may_split_by_a_field(store: &str) {
    for name in ["X-Tenant", "User-Agent"] {
        let origin = Origin::start(move |request| {
            origin::json(format!("{:?}", request.fields.get(name))).field("Vary", name)
        });
        let key = format!("key: users:list, vary: [{name}]}}");
        let yaml = users_api(&origin, store, "").replace("key: users:list}", &key);
        let larder = Larder::start(yaml.replace("prefix: t", &format!("prefix: {name}")));
        for round in 0..2 {
            for fields in [&[][..], &[(name, "a")], &[(name, "b")]] {
                let answer = larder.get_with(LIST, fields);
                assert_eq!(answer.is_hit(), round == 1, "{fields:?}");
                let said = fields.first().map(|(_, value)| *value);
                assert_eq!(answer.text(), format!("{said:?}"));
            }
        }
        larder.write("POST", LIST);
        for fields in [&[][..], &[(name, "a")], &[(name, "b")]] {
            assert!(!larder.get_with(LIST, fields).is_hit(), "{fields:?}");
        }
    }
}

fn answers_that_vary_by_language_are_kept_apart(store: &str) {
    let origin = Origin::start(|request| {
        let language = request.fields.get("accept-language").unwrap_or("en");
        origin::json(format!("{language} {:?}", request.fields.get("origin")))
            .field("Vary", "Accept-Language, origin")
            .field("Content-Language", language)
    });
    let larder = Larder::start(users_api(&origin, store, ""));
    let all: [&[(&str, &str)]; 5] = [
        &[],
        &[("Accept-Language", "de")],
        &[("Accept-Language", "fr")],
        &[("Accept-Language", "de"), ("Origin", "https://a.example")],
        &[("Origin", "https://b.example")],
    ];
    let shown = |fields: &[(&str, &str)]| {
        let of = |name| {
            fields
                .iter()
                .find(|(n, _)| *n == name)
                .map(|(_, value)| *value)
        };
        format!(
            "{} {:?}",
            of("Accept-Language").unwrap_or("en"),
            of("Origin")
        )
    };
    // Rounds, for the first answers teach by what they vary.
    for round in 0..4 {
        for fields in all {
            let answer = larder.get_with(LIST, fields);
            assert_eq!(answer.text(), shown(fields), "{fields:?}");
            assert!(round < 3 || answer.is_hit(), "{fields:?}: {answer:?}");
        }
    }
    larder.write("POST", LIST);
    for fields in all {
        assert!(!larder.get_with(LIST, fields).is_hit(), "{fields:?}");
    }
}

fn an_answer_that_varies_by_an_unknown_field_is_asked_for_with_that_field(store: &str) {
    let origin = Origin::start(|request| {
        origin::json(format!("{:?}", request.fields.get("x-tenant"))).field("Vary", "X-Tenant")
    });
    let larder = Larder::start(users_api(&origin, store, ""));
    for _ in 0..2 {
        for tenant in ["a", "b"] {
            let answer = larder.get_with(LIST, &[("X-Tenant", tenant)]);
            assert_eq!(answer.text(), format!("{:?}", Some(tenant)), "{answer:?}");
            assert!(!answer.is_hit());
        }
    }
}

fn a_part_is_never_stored_as_the_whole(store: &str) {
    let origin = Origin::start(|request| match request.fields.get("range") {
        Some(_) => origin::status(206, "01234").field("Content-Range", "bytes 0-4/10"),
        None => origin::json("0123456789"),
    });
    let larder = Larder::start(users_api(&origin, store, ""));
    let part = larder.get_with(LIST, &[("Range", "bytes=0-4")]);
    assert!(
        matches!(
            (part.status, part.text().as_str()),
            (206, "01234") | (200, "0123456789")
        ),
        "{part:?}"
    );
    for _ in 0..2 {
        let whole = larder.get(LIST);
        assert_eq!((whole.status, whole.text().as_str()), (200, "0123456789"));
    }
    let part = larder.get_with(LIST, &[("Range", "bytes=0-4")]);
    assert!(
        matches!(
            (part.status, part.text().as_str()),
            (206, "01234") | (200, "0123456789")
        ),
        "{part:?}"
    );

    // A 206 that nobody asked for.
    let origin =
        Origin::start(|_| origin::status(206, "01234").field("Content-Range", "bytes 0-4/10"));
    let larder = Larder::start(users_api(&origin, store, "").replace("prefix: t", "prefix: u"));
    for _ in 0..2 {
        assert!(!larder.get(LIST).is_hit());
    }
}

fn hop_by_hop_fields_of_an_answer_are_neither_stored_nor_passed_on(store: &str) {
    let origin = Origin::start(|_| {
        origin::json("[]")
            .field("Connection", "X-Hop, close")
            .field("X-Hop", "1")
            .field("Keep-Alive", "timeout=5")
            .field("Proxy-Authenticate", "Basic")
            .field("Proxy-Connection", "keep-alive")
            .field("Upgrade", "h2c")
            .field("X-End-To-End", "1")
            .closing()
    });
    let larder = Larder::start(users_api(&origin, store, ""));
    for target in [LIST, LIST, "/other/"] {
        let answer = larder.get(target);
        for name in [
            "x-hop",
            "keep-alive",
            "proxy-connection",
            "upgrade",
            "proxy-authenticate",
        ] {
            assert!(
                !answer.fields.has(name),
                "{target}: {name} in {:?}",
                answer.fields
            );
        }
        assert_eq!(answer.field("x-end-to-end"), Some("1"));
        assert!(
            answer
                .fields
                .all("connection")
                .iter()
                .all(|value| !value.to_lowercase().contains("x-hop")),
            "{answer:?}"
        );
    }
}

fn a_purge_by_hand_drops_what_it_names(store: &str) {
    let (_origin, larder) = users(store);
    let all = [variants(LIST), variants(USER), variants("/api/users/8/")].concat();
    let on_the_command_line = |key: &str| {
        let exit = larder::run(&["purge", key, "-c", larder.file().to_str().unwrap()], &[]);
        assert!(exit.status.success(), "purge {key}: {exit:?}");
    };
    let on_the_admin_listener = |key: &str| match key {
        "--all" => larder.purge_everything(),
        key => larder.purge(&[key]),
    };
    for by in ["admin", "command line"] {
        let purge = |key| {
            if by == "admin" {
                on_the_admin_listener(key)
            } else {
                on_the_command_line(key)
            }
        };
        for (key, left) in [
            ("users:list", &[USER, "/api/users/8/"][..]),
            (LIST, &[USER, "/api/users/8/"]),
            ("users:detail:7", &[LIST, "/api/users/8/"]),
            ("t:users:detail:7", &[LIST, "/api/users/8/"]),
            (USER, &[LIST, "/api/users/8/"]),
            ("users:detail:*", &[LIST]),
            ("--all", &[]),
        ] {
            fill(&larder, &all);
            purge(key);
            for (target, fields) in &all {
                let path = target.split('?').next().unwrap();
                let hit = larder.get_with(target, fields).is_hit();
                assert_eq!(
                    hit,
                    left.contains(&path),
                    "{target} {fields:?} after {key} by {by}"
                );
            }
        }
    }
}

fn an_entry_can_be_looked_at_by_hand(store: &str) {
    let origin = Origin::start(|_| origin::json("[{\"id\":7}]"));
    let larder = Larder::start(users_api(&origin, store, ""));
    assert_eq!(larder.admin("GET", "/entries/users:list").status, 404);
    larder.get(LIST);
    for name in ["users:list", "t:users:list", LIST] {
        let entry = larder.admin("GET", &format!("/entries/{name}"));
        let told: serde_json::Value = serde_json::from_str(&entry.text()).unwrap();
        assert_eq!(
            (entry.status, &told["valid"], told["body"][0]["id"].as_u64()),
            (200, &true.into(), Some(7)),
            "{told}"
        );
        assert_eq!(
            larder.admin("GET", &format!("/entries/{name}?body")).text(),
            "[{\"id\":7}]"
        );
    }
    let keys = larder.admin("GET", "/keys?start=users:").text();
    assert!(keys.contains("t:users:list"), "{keys}");
    larder.purge(&["users:list"]);
    let entry = larder.admin("GET", "/entries/users:list");
    assert!(
        entry.status == 404 || entry.text().contains("\"valid\":false"),
        "{entry:?}"
    );
}

fn the_first_route_that_matches_counts(store: &str) {
    let origin = Origin::start(|request| origin::json(request.number.to_string()));
    let yaml = format!(
        "upstream: {}\nstore: {{url: \"{store}\", database: 1, prefix: t}}\nttl: 1h\nroutes:\n\
         \x20 - {{path: \"/api/users/<int:id>/\", key: \"users:detail:{{id}}\"}}\n\
         \x20 - {{path: \"/api/users/<slug:name>/\", key: \"users:named:{{name}}\"}}\n\
         \x20 - {{path: \"/api/users/<path:rest>\", key: \"users:rest:{{rest}}\"}}\n\
         purge:\n  - {{methods: PATCH, path: \"/api/users/<int:id>/\", keys: [\"users:detail:{{id}}\"]}}\n",
        origin.url()
    );
    let larder = Larder::start(yaml);
    for target in [
        USER,
        "/api/users/me/",
        "/api/users/7/posts/",
        "/api/users/a.b",
    ] {
        larder.get(target);
        assert!(larder.get(target).is_hit(), "{target}");
    }
    larder.write("PATCH", USER);
    assert!(!larder.get(USER).is_hit());
    assert!(larder.get("/api/users/me/").is_hit());
}

/// An API of users whose every answer differs from the one before.
fn users(store: &str) -> (Origin, Larder) {
    users_with(store, "")
}

fn users_with(store: &str, more: &str) -> (Origin, Larder) {
    let origin = Origin::start(|request| origin::json(format!("{{\"n\":{}}}", request.number)));
    let larder = Larder::start(users_api(&origin, store, more));
    (origin, larder)
}

fn users_with_query(store: &str, query: &str) -> (Origin, Larder) {
    let origin = Origin::start(|request| origin::json(format!("{{\"n\":{}}}", request.number)));
    let route = format!("key: users:list, query: {query}}}");
    let larder = Larder::start(users_api(&origin, store, "").replace("key: users:list}", &route));
    (origin, larder)
}

/// What a write gets is in its X-Answer.
fn users_answering_writes(store: &str) -> (Origin, Larder) {
    users_answering_writes_under(store, "t")
}

fn users_answering_writes_under(store: &str, prefix: &str) -> (Origin, Larder) {
    let origin = Origin::start(|request| {
        let answer = origin::json(format!("{{\"n\":{}}}", request.number));
        match request.fields.get("x-answer") {
            None => answer,
            Some("hang up") => origin::hang_up(),
            Some("reset") => origin::hang_up().resetting(),
            Some("half") => answer.cut_after(1),
            Some(status) => {
                origin::status(status.parse().unwrap(), "{}").field("Location", "/elsewhere/")
            }
        }
    });
    let larder = Larder::start(
        users_api(&origin, store, "").replace("prefix: t", &format!("prefix: {prefix}")),
    );
    (origin, larder)
}

const CREDENTIALS: [&str; 5] = [
    "authorization",
    "x-api-key",
    "x-auth-token",
    "cookie",
    "x-tenant",
];

/// Everybody is shown the credential they came with.
fn users_who_see_themselves(store: &str, more: &str) -> (Origin, Larder) {
    let origin = Origin::start(|request| origin::json(shown(request)));
    let larder = Larder::start(users_api(&origin, store, more));
    (origin, larder)
}

fn shown(request: &origin::Request) -> String {
    CREDENTIALS
        .map(|name| request.fields.get(name).unwrap_or("-"))
        .join("|")
}

fn users_who_see_themselves_publicly(store: &str) -> (Origin, Larder) {
    let origin = Origin::start(|request| origin::json(shown(request)));
    let larder = Larder::start(
        users_api(&origin, store, "")
            .replace("key: users:list}", "key: users:list, access: public}"),
    );
    (origin, larder)
}

/// What a request with these fields is shown.
fn seen(fields: &[(&str, &str)]) -> String {
    CREDENTIALS
        .map(|name| {
            fields
                .iter()
                .find(|(n, _)| n.eq_ignore_ascii_case(name))
                .map_or("-", |(_, value)| value)
        })
        .join("|")
}
