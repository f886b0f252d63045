//! `policy: http`: the origin alone says what is kept, sentence by sentence of RFC 9111, on the embedded store and on Redis.
//! (The public conformance suite says more of it: docs/CONFORMANCE.md.)

#[macro_use]
mod support;

use std::thread;

use support::client::Answer;
use support::larder::Larder;
use support::origin::{self, Origin};
use support::redis::RedisServer;
use support::{Gate, eventually, users_api};

on_both_stores! {
    nobody_can_have_others_redirected_by_saying_how_it_came
    what_the_origin_calls_fresh_is_kept_on_any_path_and_nothing_else
    a_target_is_another_if_a_letter_differs
    variants_live_side_by_side_and_absent_matches_only_absent
    a_field_that_never_reached_the_origin_selects_no_variant
    what_varies_by_a_field_that_larder_writes_is_nobody_elses
    what_varies_by_what_is_told_of_each_request_alone_is_not_kept
    two_spellings_are_one_variant_only_where_any_origin_reads_the_same
    who_fills_a_copy_does_not_choose_how_its_host_is_spelt
    a_condition_or_range_of_one_client_is_nobody_elses_error
    a_response_in_the_language_that_is_liked_best_is_given
    what_is_stale_is_validated_by_the_origins_own_validators_and_freshened_by_its_304
    what_a_304_freshens_is_as_old_as_the_304
    what_says_no_cache_is_validated_before_each_use
    what_may_be_served_while_it_is_revalidated_is_and_one_refresh_goes_out
    what_is_stale_stands_in_for_an_origin_that_fails_where_it_may
    a_success_drops_every_variant_query_and_spelling_of_its_target
    a_success_drops_what_location_and_content_location_name
    a_success_drops_the_groups_that_it_names
    a_group_is_dropped_however_long_its_name_and_however_many_there_are
    the_answer_to_a_post_stands_for_later_gets_if_it_says_so
    the_answer_to_a_post_is_not_kept_beside_another_write
    a_failure_drops_nothing_and_a_lost_answer_drops
    an_answer_to_authorization_is_shared_only_where_the_origin_says_so
    a_set_cookie_is_not_kept_unless_the_route_says_so
    a_client_may_ask_for_less_than_fresh_unless_the_route_says_no
    a_head_is_answered_from_a_get_and_freshens_it
    a_head_that_contradicts_makes_stale
    a_head_speaks_of_the_variant_that_it_was_answered_for
    a_head_that_varies_by_more_makes_stale
    a_part_is_kept_apart_and_completed
    a_part_that_nothing_completes_is_nobodys_error
    what_is_not_kept_is_not_called_stored_and_says_why
    what_is_too_large_to_keep_is_not_put_together_of_parts
    concurrent_misses_make_one_request
    what_breaks_off_or_is_too_large_is_passed_on_and_not_kept
    what_is_not_kept_in_the_end_takes_nobodys_place
    a_purge_by_hand_drops_all_that_a_route_keeps
}

/// Rack and others redirect to https whoever says in one of these that it came by http, and name it in no Vary.
fn nobody_can_have_others_redirected_by_saying_how_it_came(store: &str) {
    const SAYING: [&str; 4] = [
        "X-Forwarded-Scheme",
        "X-Forwarded-Protocol",
        "X-Url-Scheme",
        "Front-End-Https",
    ];
    let (_origin, larder) = start(store, "", |request| {
        let answer = match SAYING.iter().any(|name| request.fields.has(name)) {
            true => origin::status(301, "").field("Location", "https://a/"),
            false => origin::json("{}"),
        };
        answer.field("Cache-Control", "max-age=3600")
    });
    for name in SAYING {
        let target = format!("/{name}");
        larder.get_with(&target, &[(name, "http")]);
        assert_eq!(larder.get(&target).status, 200, "{name}");
    }
}

fn what_the_origin_calls_fresh_is_kept_on_any_path_and_nothing_else(store: &str) {
    let (origin, larder) = start(store, "", |asked| match asked.target.as_str() {
        "/fresh" | "/a/b//c/..%2F/;x" | "/?q" => fresh("kept"),
        "/499" => origin::status(499, "kept").field("Cache-Control", "max-age=60"),
        "/silent" => origin::json("[]"),
        "/star" => fresh("[]").field("Vary", "*"),
        "/no-store" => fresh("[]").field("Cache-Control", "no-store"),
        "/private" => fresh("[]").field("Cache-Control", "private"),
        other => panic!("{other}"),
    });
    for target in ["/fresh", "/a/b//c/..%2F/;x", "/?q", "/499"] {
        let (miss, hit) = (larder.get(target), larder.get(target));
        assert!(!miss.is_hit() && hit.is_hit(), "{target} {hit:?}");
        assert_eq!((hit.status, hit.text()), (miss.status, miss.text()));
    }
    for (target, why) in [
        ("/silent", "detail=stale"),
        ("/star", "detail=vary-unkeyed"),
        ("/no-store", "detail=no-store"),
        ("/private", "detail=private"),
    ] {
        larder.get(target);
        let again = larder.get(target);
        assert!(
            again.cache_status().contains(why),
            "{}",
            again.cache_status()
        );
    }
    assert_eq!(origin.count(), 4 + 2 * 4);
}

fn a_target_is_another_if_a_letter_differs(store: &str) {
    let (origin, larder) = start(store, "", |asked| fresh(&asked.target));
    let targets = [
        "/a",
        "/a?",
        "/a?x=1&y=2",
        "/a?y=2&x=1",
        "/%61",
        "/a/",
        "/A",
        "//a",
        "/a%2f",
        "/a%2F",
    ];
    for target in targets {
        assert_eq!(larder.get(target).text(), target);
    }
    for target in targets {
        let hit = larder.get(target);
        assert!(hit.is_hit() && hit.text() == target, "{target} {hit:?}");
    }
    assert_eq!(
        larder
            .get_with("/a", &[("Host", "other.example.org")])
            .text(),
        "/a"
    );
    assert_eq!(
        origin.count(),
        targets.len() + 1,
        "another host is another target"
    );
}

fn variants_live_side_by_side_and_absent_matches_only_absent(store: &str) {
    let (origin, larder) = start(store, "", |asked| {
        let said = asked.fields.all("foo").join("+");
        fresh(&said).field("Vary", "Foo, Bar")
    });
    let requests: [&[(&str, &str)]; 5] = [
        &[],
        &[("Foo", "")],
        &[("Foo", "1")],
        &[("Foo", "2")],
        &[("Foo", "1"), ("Bar", "1")],
    ];
    for request in requests {
        assert!(!larder.get_with("/", request).is_hit(), "{request:?}");
    }
    for request in requests {
        assert!(larder.get_with("/", request).is_hit(), "{request:?}");
    }
    let same = [("Foo", " 1 "), ("Other", "x")];
    assert!(larder.get_with("/", &same).is_hit());
    assert!(
        larder
            .get_with("/", &[("Foo", "1, 2")])
            .cache_status()
            .contains("fwd=vary-miss")
    );
    let two_lines = larder.get_with("/", &[("Foo", "1"), ("Foo", "2")]);
    assert_eq!(
        (two_lines.is_hit(), two_lines.text()),
        (false, "1+2".to_owned())
    );
    assert_eq!(origin.count(), requests.len() + 2);
}

fn a_field_that_never_reached_the_origin_selects_no_variant(store: &str) {
    let of_all = "drop_headers: [X-Dropped]";
    let (origin, larder) = start_with(store, of_all, "", |asked| {
        let name = asked.target.rsplit('/').next().unwrap();
        let said = asked.fields.get(name).unwrap_or("none");
        let answer = fresh(said).field("Vary", name);
        match name {
            "Accept-Language" => answer.field("Content-Language", said),
            _ => answer,
        }
    });
    for (name, value) in [
        ("Accept-Language", "de"),
        ("Accept", "text/csv"),
        ("Origin", "https://app"),
        ("X-Tenant", "a"),
        ("X-Dropped", "a"),
        ("X_Tenant", "a"),
        ("Upgrade-Insecure-Requests", "1"),
    ] {
        let own = (name, value);
        let alone = larder.get_with(&format!("/alone/{name}"), &[own]).text();
        let target = format!("/{name}");
        let named = || larder.get_with(&target, &[own, ("Connection", name)]);
        assert_eq!(named().text(), "none");
        assert_eq!(larder.get_with(&target, &[own]).text(), alone, "{name}");
        // What is left of the first is what one sends who has no such field.
        for none in [named(), larder.get(&target)] {
            assert_eq!((none.is_hit(), none.text()), (true, "none".to_owned()));
        }
        let first_alone = format!("/alone/{name}");
        let named = [own, ("Connection", name)];
        assert_eq!(larder.get_with(&first_alone, &named).text(), "none");
    }
    assert_eq!(origin.count(), 5 * 4 + 2 * 2);
}

fn what_varies_by_a_field_that_larder_writes_is_nobody_elses(store: &str) {
    let (origin, larder) = start(store, "", |asked| {
        let name = &asked.target[1..];
        fresh(asked.fields.get(name).unwrap_or("none")).field("Vary", name)
    });
    for name in ["X-Forwarded-For", "X-Real-IP", "Forwarded"] {
        for hit in [false, true] {
            for address in ["127.0.0.1", "127.0.0.2"] {
                let says = [(name, "192.0.2.7")];
                let mut client = larder.connect_from(address);
                let answer = client.request("GET", &format!("/{name}"), &says, b"");
                assert!(answer.text().contains(address), "{name} {answer:?}");
                assert_eq!(answer.is_hit(), hit, "{name} {answer:?}");
            }
        }
    }
    for name in ["Host", "Via", "X-Forwarded-Host", "X-Forwarded-Proto"] {
        let target = format!("/{name}");
        assert!(!larder.get(&target).is_hit() && larder.get(&target).is_hit());
    }
    let through_another = larder.get_with("/Via", &[("Via", "1.1 other")]);
    assert!(!through_another.is_hit());
    assert_eq!(origin.count(), 3 * 2 + 4 + 1);
}

fn what_varies_by_what_is_told_of_each_request_alone_is_not_kept(store: &str) {
    let (_origin, larder) = start(store, "", |asked| {
        fresh("[]").field("Vary", &asked.target[1..])
    });
    for name in [
        "X-Request-Id",
        "Foo,x-request-id",
        "If-None-Match",
        "Range",
        "Content-Length",
    ] {
        for own in [&[][..], &[("X-Request-Id", "mine")]] {
            let answer = larder.get_with(&format!("/{name}"), own);
            let said = answer.cache_status();
            assert!(said.ends_with("detail=vary-unkeyed"), "{name} {said}");
        }
    }
    // Where nothing is logged, there is none but the client's own.
    let (_origin, larder) = start_with(store, "logs: {access: false}", "", |asked| {
        fresh(asked.fields.get("x-request-id").unwrap_or("none")).field("Vary", "X-Request-Id")
    });
    for id in ["mine", "mine too"] {
        let own = [("X-Request-Id", id)];
        let (miss, hit) = (larder.get_with("/", &own), larder.get_with("/", &own));
        assert_eq!(
            (miss.text(), hit.text(), hit.is_hit()),
            (id.to_owned(), id.to_owned(), true)
        );
    }
}

/// Each row is one variant in all its spellings, and another than each other row.
fn two_spellings_are_one_variant_only_where_any_origin_reads_the_same(store: &str) {
    const VARIANTS: &[(&str, &[&[&str]])] = &[
        (
            "Accept-Language",
            &[&["de, en"], &["de,en"], &["DE , En"], &["de", "en"]],
        ),
        ("Accept-Language", &[&["en, de"]]),
        ("Accept-Language", &[&["de,,en"]]),
        (
            "Accept-Language",
            &[&["de; Q=0.5"], &["de;q=0.5"], &["de ;q=0.5"]],
        ),
        ("Accept-Language", &[&["de; q = 0.5"]]),
        ("Accept-Language", &[&["d e"]]),
        (
            "Accept",
            &[&["text/csv, */*"], &["text/csv,*/*"], &["text/csv", "*/*"]],
        ),
        ("Accept", &[&["*/*, text/csv"]]),
        ("Accept", &[&["a/b;x=\"c,d\""]]),
        ("Accept", &[&["a/b;x=\"c , d\""]]),
        ("Cookie", &[&["a=1, b=2"]]),
        ("Cookie", &[&["a=1,b=2"]]),
        ("Cookie", &[&["a=1", "b=2"]]),
        ("Cookie", &[&["a=1; b=2"]]),
        ("X-Tenant", &[&["a, b"]]),
        ("X-Tenant", &[&["a,b"]]),
        ("X-Tenant", &[&["a", "b"]]),
        ("X-Tenant", &[&["A, b"]]),
        ("X-Tenant", &[&[""]]),
        ("X-Tenant", &[&[]]),
    ];
    let (_origin, larder) = start(store, "", |asked| {
        let name = asked.target.trim_matches('/');
        let said = asked.fields.all(name);
        fresh(&format!("{said:?}")).field("Vary", name)
    });
    for (name, alike) in VARIANTS {
        for (n, lines) in alike.iter().enumerate() {
            let fields: Vec<_> = lines.iter().map(|line| (*name, *line)).collect();
            let answer = larder.get_with(&format!("/{name}"), &fields);
            assert_eq!(answer.is_hit(), n > 0, "{name}: {lines:?} {answer:?}");
        }
    }
}

fn who_fills_a_copy_does_not_choose_how_its_host_is_spelt(store: &str) {
    let (origin, larder) = start(store, "", |asked| {
        let told = ["host", "x-forwarded-host", "forwarded"].map(|name| asked.fields.get(name));
        let answer = fresh(&format!("{told:?}")).field("X-Host", asked.fields.get("host").unwrap());
        match (asked.method.as_str(), asked.target.as_str()) {
            ("POST", _) | ("GET", "/posted") => answer.field("Content-Location", "/posted"),
            (_, "/head") => answer.field("ETag", "\"a\""),
            _ => answer,
        }
    });
    let odd = [("Host", "aPI.eXAMPLE.org")];
    larder.get_with("/", &odd);
    let hit = larder.get("/");
    assert!(hit.is_hit() && !hit.text().contains("eXAMPLE"), "{hit:?}");
    larder.get("/head");
    let asks = [odd[0], ("Cache-Control", "no-cache")];
    larder.request("HEAD", "/head", &asks, b"");
    assert_eq!(origin.last().method, "HEAD");
    assert_eq!(larder.get("/head").field("x-host"), Some("api.example.org"));
    larder.request("POST", "/posted", &odd, b"a");
    assert_eq!(
        origin.last().fields.get("host"),
        Some("aPI.eXAMPLE.org"),
        "a write is the client's"
    );
    assert!(!larder.get("/posted").text().contains("eXAMPLE"));
}

fn a_condition_or_range_of_one_client_is_nobody_elses_error(store: &str) {
    let (_origin, larder) = start(store, "keep_parts: true", |asked| {
        let is_own = |name| asked.fields.has(name);
        let status = match asked.target.as_str() {
            "/range" if is_own("range") => 416,
            "/304" if is_own("if-none-match") => 304,
            "/206" if is_own("range") => 206,
            target
                if ["if-match", "if-unmodified-since", "x-odd"]
                    .into_iter()
                    .any(is_own) =>
            {
                target[1..].parse().unwrap()
            }
            _ => 200,
        };
        let answer = origin::status(status, if status == 304 { "" } else { "x" });
        answer.field("Cache-Control", "max-age=60, public")
    });
    for (target, name, value) in [
        ("/412", "If-Match", "\"no\""),
        (
            "/412",
            "If-Unmodified-Since",
            "Sun, 06 Nov 1994 08:49:37 GMT",
        ),
        ("/400", "If-Unmodified-Since", "never"),
        ("/500", "If-Match", "no"),
        ("/range", "Range", "bytes=999-"),
        ("/206", "Range", "bytes=0-0"),
        ("/304", "If-None-Match", "\"a\""),
        ("/407", "X-Odd", ""),
        ("/413", "X-Odd", ""),
        ("/415", "X-Odd", ""),
        ("/417", "X-Odd", ""),
        ("/428", "X-Odd", ""),
        ("/429", "X-Odd", ""),
        ("/431", "X-Odd", ""),
    ] {
        larder.purge(&["http:*"]);
        let own = larder.get_with(target, &[(name, value)]);
        assert_ne!(own.status, 200, "{target}");
        let others = larder.get(target);
        assert_eq!((others.status, others.is_hit()), (200, false), "{target}");
    }
}

fn a_response_in_the_language_that_is_liked_best_is_given(store: &str) {
    let (origin, larder) = start(store, "", |_| {
        fresh("Hallo")
            .field("Vary", "Accept-Language")
            .field("Content-Language", "de")
    });
    let with = |accepted| larder.get_with("/", &[("Accept-Language", accepted)]);
    assert!(!with("en, de").is_hit());
    for accepted in ["EN,de", "fr;q=0.5, de;q=1.0", "de"] {
        assert!(with(accepted).is_hit(), "{accepted}");
    }
    assert!(
        !with("fr, de").is_hit(),
        "either would do, and the origin has not said which"
    );
    assert_eq!(origin.count(), 2);
}

fn what_is_stale_is_validated_by_the_origins_own_validators_and_freshened_by_its_304(store: &str) {
    let (origin, larder) = start(store, "", |asked| match asked.fields.get("if-none-match") {
        Some("\"own\"") => origin::status(304, "")
            .field("Cache-Control", "max-age=60")
            .field("X-Seen", "twice"),
        _ => stale("body")
            .field("ETag", "\"own\"")
            .field("X-Seen", "once")
            .field("X-Kept", "1"),
    });
    larder.get("/");
    let validated = larder.get_with("/", &[("If-None-Match", "\"theirs\"")]);
    assert_eq!(
        (validated.status, validated.text()),
        (200, "body".to_owned())
    );
    assert!(
        validated
            .cache_status()
            .contains("fwd=stale; fwd-status=304; stored"),
        "{validated:?}"
    );
    let asked = origin.last();
    assert_eq!(asked.fields.all("if-none-match"), ["\"own\""]);
    let hit = larder.get("/");
    assert!(hit.is_hit(), "{hit:?}");
    assert_eq!(
        (hit.field("x-seen"), hit.field("x-kept")),
        (Some("twice"), Some("1"))
    );
    let conditional = larder.get_with("/", &[("If-None-Match", "W/\"own\"")]);
    assert_eq!(conditional.status, 304);
    assert_eq!(origin.count(), 2);
}

fn what_a_304_freshens_is_as_old_as_the_304(store: &str) {
    let (origin, larder) = start(store, "", |asked| match asked.fields.get("if-none-match") {
        Some("\"own\"") => origin::status(304, "")
            .field("Cache-Control", "max-age=60")
            .field("Age", asked.parameter("age").unwrap()),
        _ => stale("body").field("ETag", "\"own\""),
    });
    larder.get("/?age=20");
    let validated = larder.get("/?age=20");
    assert_eq!(validated.field("age"), Some("20"), "{validated:?}");
    let hit = larder.get("/?age=20");
    assert!(hit.is_hit() && hit.age() >= 20, "{hit:?}");
    // Another cache has been told of it too long ago.
    for _ in 0..3 {
        assert!(!larder.get("/?age=60").is_hit());
    }
    assert_eq!(origin.count(), 5);
}

fn what_says_no_cache_is_validated_before_each_use(store: &str) {
    let (origin, larder) = start(store, "", |asked| {
        match asked.fields.has("if-modified-since") {
            true => origin::status(304, ""),
            false => origin::status(200, "body")
                .field("Cache-Control", "no-cache, max-age=60")
                .field("Last-Modified", "Sunday, 06-Nov-94 08:49:37 GMT"),
        }
    });
    larder.get("/");
    for _ in 0..2 {
        let validated = larder.get("/");
        assert_eq!(
            (validated.status, validated.text()),
            (200, "body".to_owned())
        );
        let since = "Sunday, 06-Nov-94 08:49:37 GMT";
        assert_eq!(
            origin.last().fields.get("if-modified-since"),
            Some(since),
            "verbatim"
        );
    }
    assert_eq!(origin.count(), 3);
}

fn what_may_be_served_while_it_is_revalidated_is_and_one_refresh_goes_out(store: &str) {
    let gate = Gate::new();
    let refreshing = gate.clone();
    let (origin, larder) = start(store, "", move |asked| match asked.number {
        1 => stale("old").field("Cache-Control", "max-age=60, stale-while-revalidate=600"),
        _ => fresh("new").behind(&refreshing),
    });
    larder.get("/");
    for _ in 0..3 {
        let hit = larder.get("/");
        assert!(hit.is_hit() && hit.text() == "old", "{hit:?}");
    }
    origin.wait_for(2);
    gate.open();
    eventually("the refresh is served", || larder.get("/").text() == "new");
    assert_eq!(origin.count(), 2);
}

fn what_is_stale_stands_in_for_an_origin_that_fails_where_it_may(store: &str) {
    let (origin, larder) = start(store, "stale_if_error: 1h", |asked| {
        let first = asked.fields.has("first");
        match (asked.target.as_str(), first) {
            ("/must", true) => stale("old")
                .field("Cache-Control", "max-age=60, must-revalidate")
                .field("X-Of", "the old"),
            (_, true) => stale("old"),
            ("/503", false) => origin::status(503, "sorry"),
            ("/404", false) => origin::status(404, "gone"),
            (_, false) => origin::hang_up(),
        }
    });
    let again = |target: &str| {
        larder.get_with(target, &[("First", "1")]);
        larder.get(target)
    };
    for target in ["/503", "/lost"] {
        let stood_in = again(target);
        assert_eq!(
            (stood_in.status, stood_in.text()),
            (200, "old".to_owned()),
            "{target}"
        );
        assert!(
            stood_in.cache_status().contains("stale-if-error"),
            "{stood_in:?}"
        );
    }
    assert_eq!(again("/404").status, 404, "an answer is an answer");
    let lost = again("/must");
    assert_eq!((lost.status, lost.field("x-of")), (502, None));
    assert!(origin.count() >= 8);
}

fn a_success_drops_every_variant_query_and_spelling_of_its_target(store: &str) {
    let (_origin, larder) = start(store, "", |asked| match asked.method.as_str() {
        "GET" => fresh("[]").field("Vary", "Foo"),
        _ => origin::status(303, ""),
    });
    let reads = |hit: bool| {
        for (target, value) in [
            ("/x/7", "1"),
            ("/x/7", "2"),
            ("/x/7?q=1", "1"),
            ("/x/%37", "1"),
        ] {
            assert_eq!(
                larder.get_with(target, &[("Foo", value)]).is_hit(),
                hit,
                "{target} {value}"
            );
        }
    };
    for method in ["POST", "PUT", "DELETE", "M-SEARCH", "FOO"] {
        reads(false);
        reads(true);
        assert_eq!(larder.write(method, "/x/7").status, 303);
    }
    reads(false);
}

fn a_success_drops_what_location_and_content_location_name(store: &str) {
    let (_origin, larder) = start(store, "", |asked| match asked.target.as_str() {
        "/make" => origin::status(201, "")
            .field("Location", "/made/1")
            .field("Content-Location", "http://elsewhere.example.org/made/2"),
        _ => fresh("[]"),
    });
    for target in ["/made/1", "/made/2"] {
        larder.get(target);
    }
    larder.write("POST", "/make");
    assert!(!larder.get("/made/1").is_hit());
    assert!(larder.get("/made/2").is_hit(), "of another origin");
}

/// Also where no route has the path that was written to.
#[test]
fn the_answer_to_a_write_that_drops_nothing_itself_drops_what_it_names() {
    for (name, value) in [
        ("Location", "/made/1"),
        ("Content-Location", "/made/1"),
        ("Cache-Group-Invalidation", "\"made\""),
    ] {
        let origin = Origin::start(move |request| match request.method.as_str() {
            "POST" => origin::status(201, "").field(name, value),
            _ => fresh("[]").field("Cache-Groups", "\"made\""),
        });
        let admitting = "{path: /mine/, key: mine, ttl: 1h, access: {verify: /me/, for: 30s}}";
        let larder = Larder::start(format!(
            "upstream: {}\nstore: {{url: \"memory:\"}}\nroutes:\n  - {{path: \"/made/<int:id>\", policy: http}}\n  - {admitting}\n",
            origin.url()
        ));
        // A write with a credential holds what is known of that.
        for fields in [&[][..], &[("Authorization", "Token a")]] {
            eventually("it is kept", || larder.get("/made/1").is_hit());
            let written = larder.request("POST", "/make", fields, b"");
            assert_eq!(written.status, 201);
            assert!(!larder.get("/made/1").is_hit(), "{name} {fields:?}");
        }
    }
}

#[test]
fn what_the_answer_to_a_write_names_is_dropped_though_its_client_has_left() {
    let gate = Gate::new();
    let door = gate.clone();
    let origin = Origin::start(move |request| match request.method.as_str() {
        "POST" => origin::status(201, "")
            .field("Location", "/made/1")
            .behind(&door),
        _ => fresh("[]"),
    });
    let larder = Larder::start(format!(
        "upstream: {}\nstore: {{url: \"memory:\"}}\nroutes:\n  - {{path: \"/made/<int:id>\", policy: http}}\n",
        origin.url()
    ));
    eventually("it is kept", || larder.get("/made/1").is_hit());
    let mut writer = larder.connect();
    writer.send(b"POST /make HTTP/1.1\r\nHost: api.example.org\r\nContent-Length: 0\r\n\r\n");
    eventually("it is at the API", || origin.count_of("POST") == 1);
    writer.reset();
    eventually("it has left", || {
        larder.readiness()["connections"]["open"] == 0
    });
    let before = origin.count_of("GET");
    gate.open();
    eventually("it is dropped", || {
        larder.get("/made/1");
        origin.count_of("GET") > before
    });
}

/// Or whoever has an API redirect where he likes could drop all of it.
#[test]
fn what_the_operators_rules_drop_is_dropped_by_no_answer_to_a_write_that_they_do_not_name() {
    let origin = Origin::start(|request| match request.method.as_str() {
        "POST" => origin::status(302, "").field("Location", "/api/users/"),
        _ => origin::json("[]"),
    });
    let larder = Larder::start(users_api(&origin, "memory:", ""));
    larder.get("/api/users/");
    assert_eq!(larder.write("POST", "/i18n/setlang/").status, 302);
    assert!(larder.get("/api/users/").is_hit());
}

fn a_success_drops_the_groups_that_it_names(store: &str) {
    let (_origin, larder) = start(store, "", |asked| {
        match (asked.method.as_str(), asked.target.as_str()) {
            ("POST", _) => {
                origin::status(200, "").field("Cache-Group-Invalidation", "\"a b\", \"c\"")
            }
            (_, "/in") => fresh("[]").field("Cache-Groups", "\"x\", \"a b\""),
            (_, "/also") => fresh("[]")
                .field("Cache-Groups", "\"c\"")
                .field("Vary", "Foo"),
            _ => fresh("[]").field("Cache-Groups", "\"x\""),
        }
    });
    let kept = |target| {
        eventually("it is known in which groups it is", || {
            larder.get(target).is_hit()
        })
    };
    for target in ["/in", "/also", "/out"] {
        kept(target);
    }
    larder.write("POST", "/elsewhere");
    assert!(!larder.get("/in").is_hit() && !larder.get("/also").is_hit());
    assert!(larder.get("/out").is_hit());
    kept("/in");
}

fn a_group_is_dropped_however_long_its_name_and_however_many_there_are(store: &str) {
    let groups = |name: &str, count: usize| -> String {
        let all = (0..count).map(|n| format!("\"{name}{n}\""));
        all.collect::<Vec<_>>().join(", ")
    };
    let long = "user-550e8400-e29b-41d4-a716-446655440000-".repeat(4);
    let script = move |asked: &origin::Request| {
        let (name, count) = match asked.target.as_str() {
            "/long" => (long.as_str(), 1),
            "/many" => ("g", 128),
            _ => ("h", 129),
        };
        let answer = fresh("[]").field("Cache-Groups", &groups(name, count));
        match asked.method.as_str() {
            "POST" => answer.field(
                "Cache-Group-Invalidation",
                &[groups(&long, 1), groups("g", 500)].join(", "),
            ),
            _ => answer,
        }
    };
    let (_origin, larder) = start(store, "", script);
    for target in ["/long", "/many"] {
        eventually("it is known in which groups it is", || {
            larder.get(target).is_hit()
        });
    }
    for _ in 0..3 {
        assert!(!larder.get("/more").is_hit(), "in too many to be kept");
    }
    larder.write("POST", "/elsewhere");
    assert!(!larder.get("/long").is_hit() && !larder.get("/many").is_hit());
}

fn the_answer_to_a_post_stands_for_later_gets_if_it_says_so(store: &str) {
    let (origin, larder) = start(store, "", |asked| {
        match (asked.method.as_str(), asked.target.as_str()) {
            ("POST", "/said") => fresh("by POST").field("Content-Location", "/said"),
            ("POST", "/other") => fresh("by POST").field("Content-Location", "/said"),
            ("POST", _) => fresh("by POST"),
            _ => fresh("by GET"),
        }
    });
    for target in ["/said", "/unsaid", "/other"] {
        larder.get(target);
        assert!(larder.get(target).is_hit());
        assert_eq!(larder.request("POST", target, &[], b"a").text(), "by POST");
    }
    assert_eq!(
        larder.get("/said").text(),
        "by GET",
        "the last POST named it"
    );
    larder.request("POST", "/said", &[], b"a");
    let hit = larder.get("/said");
    assert!(hit.is_hit() && hit.text() == "by POST", "{hit:?}");
    assert_eq!(larder.get("/unsaid").text(), "by GET");
    larder.write("PUT", "/said");
    assert_eq!(larder.get("/said").text(), "by GET");
    assert_eq!(origin.count_of("POST"), 4);
}

fn the_answer_to_a_post_is_not_kept_beside_another_write(store: &str) {
    let (gate, other) = (Gate::new(), Gate::new());
    let (behind, beside) = (gate.clone(), other.clone());
    let (origin, larder) = start(store, "", move |asked| {
        match (asked.method.as_str(), asked.fields.has("slow")) {
            ("POST", true) => fresh("old").field("Content-Location", "/").behind(&behind),
            ("POST", false) => fresh("new").field("Content-Location", "/").behind(&beside),
            _ => fresh("asked"),
        }
    });
    larder.get("/");
    thread::scope(|scope| {
        let slow = scope.spawn(|| larder.request("POST", "/", &[("Slow", "1")], b"a"));
        origin.wait_for(2);
        let quick = scope.spawn(|| larder.request("POST", "/", &[], b"a"));
        origin.wait_for(3);
        other.open();
        assert_eq!(quick.join().unwrap().text(), "new");
        gate.open();
        assert_eq!(slow.join().unwrap().text(), "old");
    });
    assert_eq!(
        larder.get("/").text(),
        "asked",
        "neither knows which was the last"
    );
}

fn a_failure_drops_nothing_and_a_lost_answer_drops(store: &str) {
    let (_origin, larder) = start(store, "", |asked| {
        match (asked.method.as_str(), asked.fields.get("status")) {
            ("GET", _) => fresh("[]"),
            (_, Some(status)) => origin::status(status.parse().unwrap(), ""),
            (_, None) => origin::hang_up(),
        }
    });
    larder.get("/x");
    for status in ["400", "404", "409", "500", "501"] {
        larder.request("POST", "/x", &[("Status", status)], b"a");
        assert!(larder.get("/x").is_hit(), "{status}");
    }
    larder.request("POST", "/x", &[("Status", "503")], b"a");
    assert!(!larder.get("/x").is_hit(), "it may have been done");
    larder.get("/y");
    larder.write("POST", "/y");
    assert!(!larder.get("/y").is_hit(), "it may have been done");
}

fn an_answer_to_authorization_is_shared_only_where_the_origin_says_so(store: &str) {
    let (origin, larder) = start(store, "", |asked| match asked.target.as_str() {
        "/said" => fresh("[]").field("Cache-Control", "public"),
        _ => fresh("[]"),
    });
    let with = [("Authorization", "Token a")];
    larder.get_with("/own", &with);
    let other = larder.get_with("/own", &[("Authorization", "Token b")]);
    assert!(
        other.cache_status().contains("detail=authorization"),
        "{other:?}"
    );
    assert_eq!(origin.last().fields.get("authorization"), Some("Token b"));
    larder.get_with("/said", &with);
    assert!(larder.get("/said").is_hit());
}

fn a_set_cookie_is_not_kept_unless_the_route_says_so(store: &str) {
    for (more, kept) in [("", false), ("keep_set_cookie: true", true)] {
        let (_origin, larder) = start(store, more, |_| fresh("[]").field("Set-Cookie", "a=b"));
        let first = larder.get("/");
        assert_eq!(first.field("set-cookie"), Some("a=b"));
        assert_eq!(larder.get("/").is_hit(), kept);
    }
}

fn a_client_may_ask_for_less_than_fresh_unless_the_route_says_no(store: &str) {
    for (more, heeded) in [("", true), ("honour_client_directives: false", false)] {
        let (_origin, larder) = start(store, more, |_| fresh("[]").field("Age", "10"));
        larder.get("/");
        for asks in ["no-cache", "no-store", "max-age=5", "min-fresh=55"] {
            let answer = larder.get_with("/", &[("Cache-Control", asks)]);
            assert_eq!(answer.is_hit(), !heeded, "{more} {asks}");
            // RFC 9211 §2.2: the copy is fresh, it is the request that does not take it.
            let said = answer.cache_status();
            assert_eq!(said.contains("fwd=request"), heeded, "{asks}: {said}");
        }
        assert_eq!(
            larder.get_with("/", &[("Pragma", "no-cache")]).is_hit(),
            !heeded
        );
        let absent = larder.get_with("/absent", &[("Cache-Control", "only-if-cached")]);
        assert_eq!(absent.status == 504, heeded);
    }
}

fn a_head_is_answered_from_a_get_and_freshens_it(store: &str) {
    let (origin, larder) = start(store, "", |asked| match asked.method.as_str() {
        "HEAD" => fresh("body").field("X-Seen", "by HEAD"),
        _ => stale("body").field("ETag", "\"a\""),
    });
    larder.get("/");
    let head = larder.request("HEAD", "/", &[], b"");
    assert_eq!(
        (origin.last().method.as_str(), head.field("x-seen")),
        ("HEAD", Some("by HEAD"))
    );
    let hit = larder.get("/");
    assert!(hit.is_hit() && hit.text() == "body", "{hit:?}");
    assert_eq!(hit.field("x-seen"), Some("by HEAD"));
    let head = larder.request("HEAD", "/", &[], b"");
    assert!(
        head.is_hit() && head.field("content-length") == Some("4"),
        "{head:?}"
    );
    assert_eq!(origin.count(), 2);
}

fn a_head_that_contradicts_makes_stale(store: &str) {
    let (origin, larder) = start(store, "", |asked| match asked.method.as_str() {
        "HEAD" => fresh("body").field("ETag", "\"b\""),
        _ => fresh("body").field("ETag", "\"a\""),
    });
    larder.get("/");
    let wants = [("Cache-Control", "no-cache")];
    larder.request("HEAD", "/", &wants, b"");
    let again = larder.get("/");
    assert!(!again.is_hit(), "{again:?}");
    assert_eq!(origin.last().fields.get("if-none-match"), Some("\"a\""));
}

fn a_head_speaks_of_the_variant_that_it_was_answered_for(store: &str) {
    let (origin, larder) = start(store, "", |asked| {
        let language = asked.fields.get("accept-language").unwrap_or("none");
        let tag = match asked.method.as_str() {
            "HEAD" => format!("\"{language} anew\""),
            _ => format!("\"{language}\""),
        };
        fresh(language)
            .field("Vary", "Accept-Language")
            .field("ETag", &tag)
    });
    let german = ("Accept-Language", "de");
    larder.get_with("/", &[german]);
    larder.get("/");
    let asks = ("Cache-Control", "no-cache");
    larder.request(
        "HEAD",
        "/",
        &[german, asks, ("Connection", "Accept-Language")],
        b"",
    );
    assert!(!origin.last().fields.has("accept-language"));
    assert!(
        larder.get_with("/", &[german]).is_hit(),
        "nothing was said of it"
    );
    assert!(!larder.get("/").is_hit(), "this one is another now");
    larder.get("/");
}

fn a_head_that_varies_by_more_makes_stale(store: &str) {
    let (_origin, larder) = start(store, "", |asked| match asked.method.as_str() {
        "HEAD" => fresh("none").field("Vary", "X-Tenant"),
        _ => fresh(asked.fields.get("x-tenant").unwrap_or("none")),
    });
    larder.get("/");
    let tenant = [("X-Tenant", "a"), ("Cache-Control", "no-cache")];
    larder.request("HEAD", "/", &tenant, b"");
    assert_eq!(larder.get_with("/", &tenant[..1]).text(), "a");
}

fn a_part_is_kept_apart_and_completed(store: &str) {
    let (origin, larder) = start(store, "keep_parts: true", |asked| {
        let part = |body: &str, range: &str| {
            origin::status(206, body)
                .field("Cache-Control", "max-age=60")
                .field("ETag", "\"a\"")
                .field("Content-Range", range)
        };
        match asked.fields.get("range") {
            Some("bytes=0-4") => part("01234", "bytes 0-4/10"),
            Some("bytes=5-") => part("56789", "bytes 5-9/10"),
            _ => fresh("0123456789").field("ETag", "\"a\""),
        }
    });
    let range = |range| larder.get_with("/", &[("Range", range)]);
    assert_eq!(range("bytes=0-4").status, 206);
    let inside = range("bytes=1-2");
    assert!(inside.is_hit(), "{inside:?}");
    assert_eq!((inside.status, inside.text()), (206, "12".to_owned()));
    assert_eq!(inside.field("content-range"), Some("bytes 1-2/10"));
    let whole = larder.get("/");
    assert_eq!((whole.status, whole.text()), (200, "0123456789".to_owned()));
    let asked = origin.last();
    assert_eq!(
        (asked.fields.get("range"), asked.fields.get("if-range")),
        (Some("bytes=5-"), Some("\"a\""))
    );
    let hit = larder.get("/");
    assert!(
        hit.is_hit() && hit.text() == "0123456789" && !hit.fields.has("content-range"),
        "{hit:?}"
    );
    assert_eq!(origin.count(), 2);
}

/// The only slot that there is, too, has been given back by then.
fn a_part_that_nothing_completes_is_nobodys_error(store: &str) {
    let origin = Origin::start(|asked| match asked.fields.get("range") {
        Some("bytes=0-4") => origin::status(206, "01234")
            .field("Cache-Control", "max-age=60")
            .field("ETag", "W/\"a\"")
            .field("Content-Range", "bytes 0-4/10"),
        Some(_) => origin::status(416, ""),
        None => fresh("short"),
    });
    let larder = Larder::start(format!(
        "upstream: {{url: \"{}\", max_connections: 1}}\nstore: {{url: \"{store}\", database: 1, prefix: t}}\nroutes:\n  - path: /\n    policy: http\n    keep_parts: true\n",
        origin.url()
    ));
    larder.get_with("/", &[("Range", "bytes=0-4")]);
    let whole = larder.get("/");
    assert_eq!((whole.status, whole.text()), (200, "short".to_owned()));
    assert_eq!(origin.count(), 3, "the rest was asked for in between");
}

fn what_is_too_large_to_keep_is_not_put_together_of_parts(store: &str) {
    for whole in ["4096", "*"] {
        let (origin, larder) = start(
            store,
            "keep_parts: true\n    max_body: 1KiB",
            move |asked| {
                let part = |body: &str, range: String| {
                    origin::status(206, body)
                        .field("Cache-Control", "max-age=60")
                        .field("ETag", "\"a\"")
                        .field("Content-Range", &range)
                };
                match asked.fields.get("range") {
                    Some("bytes=0-4") => part("01234", format!("bytes 0-4/{whole}")),
                    Some(_) => part(&"5".repeat(4091), "bytes 5-4095/4096".to_owned()),
                    None => origin::huge(4096).field("Cache-Control", "max-age=60"),
                }
            },
        );
        larder.get_with("/", &[("Range", "bytes=0-4")]);
        for _ in 0..2 {
            let answer = larder.get("/");
            assert!(
                answer.is_complete_success() && answer.content.length == 4096 && !answer.is_hit(),
                "{whole} {answer:?}"
            );
            assert_eq!(origin.last().fields.get("range"), None, "as it came");
        }
    }
}

fn what_is_not_kept_is_not_called_stored_and_says_why(store: &str) {
    let (_origin, larder) =
        start_with(
            store,
            "limits: {copies: 1}",
            "keep_parts: true",
            |asked| match asked.target.as_str() {
                "/grouped" => fresh("a").field("Cache-Groups", "\"g\""),
                "/parts" => origin::status(206, "a")
                    .field("Cache-Control", "max-age=60")
                    .field("Content-Type", "multipart/byteranges; boundary=b"),
                _ => fresh("a"),
            },
        );
    let is_kept = |target: &str| larder.get(target).cache_status().contains("; stored");
    for (target, why) in [
        ("/grouped", "new-group"),
        ("/parts", "status"),
        ("/many?b", "too-many-copies"),
    ] {
        if target == "/many?b" {
            assert!(is_kept("/many?a"));
        }
        let said = larder.get(target).cache_status();
        assert!(
            said.ends_with(&format!("detail={why}")) && !said.contains("; stored"),
            "{target} {said}"
        );
    }
    assert!(is_kept("/grouped"), "its group is known now");
}

fn concurrent_misses_make_one_request(store: &str) {
    let gate = Gate::new();
    let behind = gate.clone();
    let (origin, larder) = start(store, "", move |_| fresh("[]").behind(&behind));
    let answers: Vec<Answer> = thread::scope(|scope| {
        let asking: Vec<_> = (0..6).map(|_| scope.spawn(|| larder.get("/"))).collect();
        origin.wait_for(1);
        gate.open();
        asking
            .into_iter()
            .map(|asking| asking.join().unwrap())
            .collect()
    });
    assert!(answers.iter().all(|answer| answer.text() == "[]"));
    assert_eq!(origin.count(), 1);
}

fn what_breaks_off_or_is_too_large_is_passed_on_and_not_kept(store: &str) {
    let (origin, larder) = start(store, "max_body: 1KiB", |asked| {
        match asked.target.as_str() {
            "/large" => origin::huge(4096)
                .field("Cache-Control", "max-age=60")
                .chunked(),
            "/announced" => origin::huge(4096).field("Cache-Control", "max-age=60"),
            _ => fresh("0123456789").cut_after(5),
        }
    });
    for target in ["/large", "/announced"] {
        for _ in 0..2 {
            let answer = larder.get(target);
            assert!(
                answer.is_complete_success() && !answer.is_hit(),
                "{target} {answer:?}"
            );
        }
    }
    for _ in 0..2 {
        assert!(!larder.get("/cut").is_complete_success());
    }
    assert_eq!(origin.count(), 6);
}

fn what_is_not_kept_in_the_end_takes_nobodys_place(store: &str) {
    let (_origin, larder) =
        start_with(
            store,
            "limits: {copies: 1}",
            "max_body: 1KiB",
            |asked| match asked.target.as_str() {
                "/many?large" => origin::huge(4096)
                    .field("Cache-Control", "max-age=60")
                    .chunked(),
                "/many?cut" => fresh("0123456789").cut_after(5),
                _ => fresh("a"),
            },
        );
    assert!(larder.get("/many?large").is_complete_success());
    assert!(!larder.get("/many?cut").is_complete_success());
    assert!(larder.get("/many?small").is_complete_success());
    let answer = larder.get("/many?small");
    assert!(answer.is_hit(), "{answer:?}");
}

fn a_purge_by_hand_drops_all_that_a_route_keeps(store: &str) {
    let (_origin, larder) = start(store, "", |_| fresh("[]"));
    for target in ["/a", "/b?c"] {
        larder.get(target);
        assert!(larder.get(target).is_hit());
    }
    larder.purge(&["http:*"]);
    for target in ["/a", "/b?c"] {
        assert!(!larder.get(target).is_hit(), "{target}");
    }
}

fn fresh(body: &str) -> origin::Answer {
    origin::status(200, body).field("Cache-Control", "max-age=60")
}

/// Already past its time as it comes, so that no test waits for that.
fn stale(body: &str) -> origin::Answer {
    fresh(body)
        .field("Age", "100")
        .field("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT")
}

/// Larder before such an origin, obeying it on every path, with `more` on its routes.
fn start(
    store: &str,
    more: &str,
    script: impl Fn(&origin::Request) -> origin::Answer + Send + Sync + 'static,
) -> (Origin, Larder) {
    start_with(store, "", more, script)
}

/// The same with `whole` beside its routes.
fn start_with(
    store: &str,
    whole: &str,
    more: &str,
    script: impl Fn(&origin::Request) -> origin::Answer + Send + Sync + 'static,
) -> (Origin, Larder) {
    let origin = Origin::start(script);
    let more = if more.is_empty() {
        String::new()
    } else {
        format!("    {more}\n")
    };
    let larder = Larder::start(format!(
        "upstream: {}\nstore: {{url: \"{store}\", database: 1, prefix: t}}\nmethods: any\n{whole}\nroutes:\n  - path: /\n    policy: http\n{more}  - path: \"/<path:rest>\"\n    policy: http\n{more}",
        origin.url()
    ));
    (origin, larder)
}
