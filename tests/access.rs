//! Who may be given which copy: `access: {verify: …}`. The origin knows its users and says what each would be given; no
//! answer that the proxy gives may differ from that.

#[macro_use]
mod support;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::thread;

use support::client::Answer;
use support::larder::Larder;
use support::origin::{self, Origin};
use support::redis::RedisServer;
use support::{Gate, eventually};

const LIST: &str = "/api/users/";
const ME: &str = "/api/users/me/";

on_both_stores! {
    all_whom_the_upstream_admits_share_one_copy_and_nobody_else_is_given_it
    who_is_refused_is_answered_by_the_upstream_and_asked_about_once
    each_value_of_the_scope_has_a_copy_of_its_own
    a_scope_that_could_be_anothers_admits_nobody
    what_is_kept_of_a_scope_is_short_however_much_the_api_says_there
    first_requests_at_once_ask_one_question_and_fetch_one_body
    a_write_with_the_credential_ends_its_verdict_and_no_other
    a_logout_that_is_answered_401_ends_the_verdict_and_drops_no_copy
    a_logout_ends_a_verdict_whatever_keeps_its_path
    a_verdict_ends_in_time
    a_revoked_credential_is_asked_about_again
    who_cannot_be_verified_is_not_admitted
    every_mode_gives_nobody_what_the_origin_would_not
    a_logout_ends_a_verdict_however_its_credential_is_spelt
    what_may_be_read_in_more_than_one_way_admits_nobody
    who_sends_more_than_one_credential_is_given_the_copy_and_never_fills_it
    who_sends_more_than_one_credential_refreshes_nothing
    who_sends_more_than_one_credential_waits_for_nobody_and_nobody_for_it
    a_verdict_counts_on_each_route_for_as_long_as_that_says
}

/// Credential lines to what the verify answer says of them; nobody else is admitted.
type Users = Arc<Mutex<HashMap<String, String>>>;

fn users(known: &[(&str, &str)]) -> Users {
    let known = known
        .iter()
        .map(|(who, says)| ((*who).to_owned(), (*says).to_owned()));
    Arc::new(Mutex::new(known.collect()))
}

/// All that identifies the client of a request.
fn credential(request: &origin::Request) -> String {
    let names = ["Authorization", "X-Api-Key", "Cookie"];
    let lines = names.iter().flat_map(|name| request.fields.all(name));
    lines.collect::<Vec<_>>().join("|")
}

/// Answers with what the user is, by the role alone.
fn api(users: &Users) -> Origin {
    let users = users.clone();
    Origin::start(move |request| {
        let known = users.lock().unwrap().get(&credential(request)).cloned();
        match (request.method.as_str(), known) {
            ("GET", None) => origin::status(401, "who are you?"),
            ("GET", Some(says)) if request.target == ME => origin::json(says),
            ("GET", Some(says)) => origin::json(format!("for {says}")),
            _ => origin::status(204, ""),
        }
    })
}

fn larder(origin: &Origin, store: &str, access: &str) -> Larder {
    Larder::start(format!(
        "upstream: {}\nstore: {{url: \"{store}\", database: 1, prefix: t}}\nroutes:\n\
        \x20 - {{path: /api/users/, key: users:list, access: {access}}}\n\
        purge:\n\
        \x20 - {{methods: POST, path: /api/users/, keys: [users:list]}}\n",
        origin.url()
    ))
}

fn list(larder: &Larder, who: &str) -> Answer {
    larder.get_with(LIST, &[("Authorization", who)])
}

fn asked(origin: &Origin, target: &str) -> usize {
    let all = origin.requests();
    all.iter()
        .filter(|request| request.method == "GET" && request.target == target)
        .count()
}

fn all_whom_the_upstream_admits_share_one_copy_and_nobody_else_is_given_it(store: &str) {
    let origin = api(&users(&[("Token a", "{}"), ("Token b", "{}")]));
    let larder = larder(&origin, store, "{verify: /api/users/me/, for: 1h}");
    assert_eq!(list(&larder, "Token a").text(), "for {}");
    for who in ["Token a", "Token b", "Token b"] {
        let answer = list(&larder, who);
        assert!(answer.is_hit() && answer.text() == "for {}", "{answer:?}");
    }
    for who in ["Token c", "token a", "Token a "] {
        let answer = list(&larder, who);
        assert!(
            answer.is_hit() == (who == "Token a "),
            "{who:?}: {answer:?}"
        );
    }
    assert_eq!(larder.get(LIST).status, 401, "anonymous");
    assert_eq!(asked(&origin, LIST), 1 + 3, "one body, and three refusals");
}

fn who_is_refused_is_answered_by_the_upstream_and_asked_about_once(store: &str) {
    let origin = api(&users(&[("Token a", "{}")]));
    let larder = larder(
        &origin,
        store,
        "{verify: /api/users/me/, for: 1h, refuse_for: 1h}",
    );
    assert_eq!(list(&larder, "Token a").status, 200);
    for _ in 0..3 {
        let answer = list(&larder, "Token x");
        assert_eq!(answer.status, 401);
        assert!(
            answer
                .cache_status()
                .contains("fwd=bypass; fwd-status=401; detail=verify-refused"),
            "{answer:?}"
        );
    }
    assert_eq!(asked(&origin, ME), 2);
    assert!(list(&larder, "Token a").is_hit(), "a refusal drops no copy");
}

fn each_value_of_the_scope_has_a_copy_of_its_own(store: &str) {
    let says = [
        "{}",
        r#"{"role":null}"#,
        r#"{"role":"null"}"#,
        r#"{"role":1}"#,
        r#"{"role":"1"}"#,
        r#"{"role":[1]}"#,
        r#"{"role":{"a":1}}"#,
        r#"{"role":true}"#,
        r#"{"role":""}"#,
        "[]",
        "7",
    ];
    let names: Vec<String> = (0..says.len()).map(|n| format!("Token {n}")).collect();
    let known: Vec<(&str, &str)> = names.iter().map(String::as_str).zip(says).collect();
    let origin = api(&users(&known));
    let larder = larder(
        &origin,
        store,
        "{verify: /api/users/me/, for: 1h, scope: [/role]}",
    );
    for _ in 0..2 {
        for (who, says) in &known {
            let given = list(&larder, who).text();
            // Where there is no role at all, one is like the other.
            let absent = ["{}", "[]", "7"].contains(says);
            assert!(
                given == format!("for {says}") || (absent && given == "for {}"),
                "{who}: {given}"
            );
        }
    }
    assert_eq!(asked(&origin, LIST), says.len() - 2);
    assert_eq!(larder.get(LIST).status, 401);
}

/// Two tenants that are one to whoever reads numbers as most do.
fn a_scope_that_could_be_anothers_admits_nobody(store: &str) {
    let says = [
        r#"{"role":2087303337131000706669259524346478593}"#,
        r#"{"role":2087303337131000706669259524346478594}"#,
        r#"{"role":[1.00000000000000000001]}"#,
        r#"{"role":[1.00000000000000000002]}"#,
    ];
    let names: Vec<String> = (0..says.len()).map(|n| format!("Token {n}")).collect();
    let known: Vec<(&str, &str)> = names.iter().map(String::as_str).zip(says).collect();
    let origin = api(&users(&known));
    let larder = larder(
        &origin,
        store,
        "{verify: /api/users/me/, for: 1h, scope: [/role]}",
    );
    for (who, says) in &known {
        let given = list(&larder, who);
        assert_eq!(given.text(), format!("for {says}"));
        assert!(given.cache_status().contains("verify-failed"), "{given:?}");
    }
}

/// All permissions of a user are a long list, and of verdicts there are many.
fn what_is_kept_of_a_scope_is_short_however_much_the_api_says_there(store: &str) {
    const LONG: usize = 500_000;
    let origin = Origin::start(|request| {
        let who = request.fields.get("Authorization").unwrap_or_default();
        let last = &who[who.len() - 1..];
        match request.target == ME {
            true => origin::json(format!("{{\"role\":\"{}{last}\"}}", "x".repeat(LONG))),
            false => origin::json(last.to_owned()),
        }
    });
    let access = "{verify: /api/users/me/, for: 1h, scope: [/role]}";
    let larder = larder(&origin, store, access);
    let ask = |n: usize| {
        let given = list(&larder, &format!("Token {n}"));
        assert_eq!(given.text(), (n % 10).to_string());
    };
    (0..20).for_each(ask);
    let before = larder.memory();
    (20..120).for_each(ask);
    assert_eq!((asked(&origin, ME), asked(&origin, LIST)), (120, 10));
    let grown = larder.memory().saturating_sub(before);
    assert!(grown < (100 * LONG / 2) as u64, "{grown} bytes");
}

fn first_requests_at_once_ask_one_question_and_fetch_one_body(store: &str) {
    let origin = api(&users(&[("Token a", "{}")]));
    let larder = larder(&origin, store, "{verify: /api/users/me/, for: 1h}");
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| assert_eq!(list(&larder, "Token a").text(), "for {}"));
        }
    });
    assert_eq!((asked(&origin, ME), asked(&origin, LIST)), (1, 1));
}

fn a_write_with_the_credential_ends_its_verdict_and_no_other(store: &str) {
    let users = users(&[("Token a", "{}"), ("Token b", "{}")]);
    let origin = api(&users);
    let larder = larder(&origin, store, "{verify: /api/users/me/, for: 1h}");
    for who in ["Token a", "Token b"] {
        assert_eq!(list(&larder, who).status, 200);
    }
    users.lock().unwrap().remove("Token a");
    assert!(
        list(&larder, "Token a").is_hit(),
        "within `for`, nobody has said so"
    );
    let logout = larder.request("POST", "/api/logout/", &[("Authorization", "Token a")], b"");
    assert_eq!(logout.status, 204);
    assert_eq!(list(&larder, "Token a").status, 401);
    assert!(list(&larder, "Token b").is_hit());
}

/// As django-allauth's headless API answers a logout that is done: there is no session any more. A copy is dropped by none.
fn a_logout_that_is_answered_401_ends_the_verdict_and_drops_no_copy(store: &str) {
    let users = users(&[("Token a", "{}"), ("Token b", "{}")]);
    let known = users.clone();
    let origin = Origin::start(move |request| {
        let who = credential(request);
        let mut known = known.lock().unwrap();
        match (request.method.as_str(), known.contains_key(&who)) {
            ("GET", true) => origin::json("{}"),
            ("DELETE", true) => {
                known.remove(&who);
                origin::status(401, "{}")
            }
            _ => origin::status(401, "who are you?"),
        }
    });
    let larder = larder(&origin, store, "{verify: /api/users/me/, for: 1h}");
    for who in ["Token a", "Token b"] {
        assert_eq!(list(&larder, who).status, 200);
    }
    let session = "/_allauth/browser/v1/auth/session";
    let logout = larder.request("DELETE", session, &[("Authorization", "Token a")], b"");
    assert_eq!(logout.status, 401);
    assert_eq!(list(&larder, "Token a").status, 401);
    assert!(list(&larder, "Token b").is_hit());
    // Or whoever sends wrong tokens would crowd out what was dropped.
    let purges = larder.admin("GET", "/purges").text();
    assert!(purges.contains("[]"), "{purges}");
}

/// Where the API's own word alone keeps the path, an error to it leaves what it keeps, and no verdict.
fn a_logout_ends_a_verdict_whatever_keeps_its_path(store: &str) {
    let users = users(&[]);
    let known = users.clone();
    let origin = Origin::start(move |asked| {
        let says = known.lock().unwrap().get(&credential(asked)).cloned();
        match (asked.method.as_str(), says) {
            ("GET", None) => origin::status(401, "who are you?"),
            ("GET", Some(_)) => origin::json("{}"),
            _ => {
                known.lock().unwrap().remove(&credential(asked));
                let status = asked.target.trim_matches('/').parse().unwrap();
                origin::status(status, "")
            }
        }
    });
    let larder = Larder::start(format!(
        "upstream: {}\nstore: {{url: \"{store}\", database: 1, prefix: t}}\nroutes:\n\
        \x20 - {{path: /api/users/, key: users:list, access: {{verify: /api/users/me/, for: 1h}}}}\n\
        \x20 - {{path: \"/<path:rest>\", policy: http}}\n",
        origin.url()
    ));
    // The second sending of a logout, or what failed after it was done.
    for status in [404, 409, 410, 412, 500] {
        let who = format!("Token {status}");
        users.lock().unwrap().insert(who.clone(), "{}".to_owned());
        list(&larder, &who);
        assert!(list(&larder, &who).is_hit());
        larder.request(
            "POST",
            &format!("/{status}/"),
            &[("Authorization", &who)],
            b"",
        );
        assert_eq!(list(&larder, &who).status, 401, "after {status}");
    }
}

fn a_verdict_ends_in_time(store: &str) {
    let users = users(&[("Token a", "{}"), ("Token b", "{}")]);
    let origin = api(&users);
    let larder = larder(&origin, store, "{verify: /api/users/me/, for: 1s}");
    assert_eq!(list(&larder, "Token a").status, 200);
    users.lock().unwrap().remove("Token a");
    eventually("it is refused", || list(&larder, "Token a").status == 401);
    assert!(list(&larder, "Token b").is_hit(), "the copy is still there");
}

fn a_revoked_credential_is_asked_about_again(store: &str) {
    let users = users(&[("Token a", "{}"), ("sessionid=s; theme=dark", "{}")]);
    let origin = api(&users);
    let larder = larder(&origin, store, "{verify: /api/users/me/, for: 1h}");
    let jar = [("Cookie", "sessionid=s; theme=dark; csrftoken=x")];
    assert_eq!(list(&larder, "Token a").status, 200);
    assert!(larder.get_with(LIST, &jar).is_hit());
    users.lock().unwrap().clear();
    for line in ["Authorization: Token a", "Cookie: sessionid=s"] {
        let body = format!("{{\"credentials\": [\"{line}\"]}}");
        let fields = [("Content-Type", "application/json")];
        let told = support::client::Connection::open(larder.admin_address()).request(
            "POST",
            "/purge",
            &fields,
            body.as_bytes(),
        );
        assert_eq!(told.status, 200, "{told:?}");
    }
    assert_eq!(list(&larder, "Token a").status, 401);
    assert_eq!(larder.get_with(LIST, &jar).status, 401);
}

fn who_cannot_be_verified_is_not_admitted(store: &str) {
    let users = users(&[("Token a", "{}"), ("Token b", "no json")]);
    let mut origin = api(&users);
    let larder = larder(
        &origin,
        store,
        "{verify: /api/users/me/, for: 1h, scope: [/role]}",
    );
    assert_eq!(list(&larder, "Token a").status, 200);
    let unread = list(&larder, "Token b");
    assert!(
        unread.cache_status().contains("detail=verify-failed"),
        "{unread:?}"
    );
    origin.stop();
    assert!(list(&larder, "Token a").is_hit(), "by its verdict");
    let unasked = list(&larder, "Token c");
    assert_eq!(unasked.status, 502, "{unasked:?}");
}

/// An API that is not particular about how a credential is spelt.
fn lenient() -> Origin {
    Origin::start(|_| origin::json("[]"))
}

fn a_logout_ends_a_verdict_however_its_credential_is_spelt(store: &str) {
    let origin = lenient();
    let larder = larder(&origin, store, "{verify: /api/users/me/, for: 1h}");
    let spellings = [
        // DRF splits at blanks and ignores case.
        ("Authorization", "token  a1", "Authorization", "Token a1"),
        ("Authorization", "Token\ta2", "Authorization", "Token a2"),
        // MySQL compares without case.
        ("Authorization", "Token A3F", "Authorization", "Token a3f"),
        // Rails.
        ("Authorization", "Bearer a4", "Authorization", "Token a4"),
        (
            "Authorization",
            "Token token=\"a5\"",
            "Authorization",
            "Token a5",
        ),
        // `me:pw`, without its padding, with bits that say nothing, and as `Me:pw`.
        (
            "Authorization",
            "basic  bWU6cHc",
            "Authorization",
            "Basic bWU6cHc=",
        ),
        (
            "Authorization",
            "Basic bWU6cHd=",
            "Authorization",
            "Basic bWU6cHc=",
        ),
        (
            "Authorization",
            "Basic TWU6cHc=",
            "Authorization",
            "Basic bWU6cHc=",
        ),
        (
            "Authorization",
            "Bearer eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiI3In0.s",
            "Authorization",
            "Bearer eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiI3In0.t",
        ),
        (
            "Cookie",
            "access=eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiI4In0.s",
            "Authorization",
            "Bearer eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiI4In0.s",
        ),
        // http.cookies.
        ("Cookie", "sessionid=\"x1\"", "Cookie", "sessionid=x1"),
        (
            "Cookie",
            "sessionid=\"\\170\\062\"",
            "Cookie",
            "sessionid=x2",
        ),
        ("Cookie", "sessionid=\"\\x3\"", "Cookie", "sessionid=x3"),
        ("Cookie", "sessionid = x4", "Cookie", "sessionid=x4"),
        // Express, Rack, PHP.
        ("Cookie", "sessionid=%785", "Cookie", "sessionid=x5"),
        ("X-Api-Key", "A6", "X-Api-Key", "a6"),
    ];
    for (field, spelt, other_field, other) in spellings {
        let ask = || larder.get_with(LIST, &[(field, spelt)]);
        ask();
        assert!(ask().is_hit(), "{spelt}");
        let before = asked(&origin, ME);
        assert!(ask().is_hit() && asked(&origin, ME) == before, "{spelt}");
        larder.request("POST", "/api/logout/", &[(other_field, other)], b"");
        assert!(ask().is_hit(), "{spelt}: admitted anew");
        assert_eq!(asked(&origin, ME), before + 1, "{spelt}: {other}");
    }
}

fn what_may_be_read_in_more_than_one_way_admits_nobody(store: &str) {
    let origin = lenient();
    let larder = larder(&origin, store, "{verify: /api/users/me/, for: 1h}");
    assert_eq!(list(&larder, "Token a").status, 200);
    let odd = [
        ("Authorization", "Digest username=\"a\", response=\"b\""),
        ("Authorization", "Token a, nonce=b"),
        ("Authorization", "Token token=\"a\"; nonce=b"),
        ("Authorization", "Token a b"),
        ("Authorization", "Basic bW-U6cHc="),
        ("Authorization", "Basic bWU6cA==cHc"),
        // One cookie to Django, two to others.
        ("Cookie", "x=1, sessionid=a"),
        ("Cookie", "x=1 sessionid=a"),
    ];
    for field in odd {
        let answer = larder.get_with(LIST, &[field]);
        assert!(
            answer.cache_status().ends_with("detail=verify-failed"),
            "{field:?}: {answer:?}"
        );
    }
    let mut connection = larder.connect();
    connection.send(b"GET /api/users/ HTTP/1.1\r\nHost: a\r\nAuthorization: Token\xa0a\r\n\r\n");
    let answer = connection.answer("GET");
    assert!(answer.cache_status().ends_with("detail=verify-failed"));
    assert_eq!(asked(&origin, ME), 1);
}

type Fields = [(&'static str, &'static str); 2];

const MIXED: Fields = [("Authorization", "Token a"), ("Cookie", "tenant=evil")];

/// Answers with the cookies that it was sent.
fn by_cookie() -> Origin {
    Origin::start(|request| match request.target.as_str() {
        ME => origin::json("{}"),
        _ => origin::json(request.fields.get("cookie").unwrap_or("none")).field("ETag", "\"1\""),
    })
}

fn who_sends_more_than_one_credential_is_given_the_copy_and_never_fills_it(store: &str) {
    let origin = by_cookie();
    let with = |ttl| {
        let access = format!("{{verify: /api/users/me/, for: 1h}}, ttl: {ttl}");
        larder(&origin, store, &access)
    };
    let larder = with("1h");
    let is_alone = |answer: &Answer| {
        let said = answer.cache_status();
        answer.text() == "tenant=evil" && said.ends_with("; fwd-status=200; detail=verify-mixed")
    };
    let twice: Fields = [("Authorization", "Token a"), ("Authorization", "Token b")];
    for _ in 0..2 {
        let answer = larder.get_with(LIST, &MIXED);
        assert!(is_alone(&answer), "{answer:?}");
        let said = larder.get_with(LIST, &twice).cache_status();
        assert!(said.ends_with("detail=verify-mixed"), "{said}");
    }
    // What is ignored is no credential, and not sent.
    let ignored: Fields = [("Authorization", "Token a"), ("Cookie", "csrftoken=x")];
    let filled = larder.get_with(LIST, &ignored);
    assert!(filled.cache_status().contains("stored"), "{filled:?}");
    assert_eq!(filled.text(), "none");
    let given = larder.get_with(LIST, &MIXED);
    assert!(given.is_hit() && given.text() == "none", "{given:?}");
    // Nor does it validate a copy whose time is over.
    let brief = with("1s");
    brief.purge(&["users:list"]);
    assert_eq!(list(&brief, "Token a").text(), "none");
    eventually("its time is over", || {
        let answer = brief.get_with(LIST, &MIXED);
        assert!(answer.text() == "none" || is_alone(&answer), "{answer:?}");
        is_alone(&answer)
    });
    assert_eq!(list(&brief, "Token b").text(), "none");
}

fn who_sends_more_than_one_credential_refreshes_nothing(store: &str) {
    for (ttl, word) in [("1s", "stale-while-revalidate"), ("1h", "soft-purge")] {
        let origin = by_cookie();
        let access = "{verify: /api/users/me/, for: 1h}";
        let access = format!("{access}, ttl: {ttl}, stale_while_revalidate: 1h");
        let larder = larder(&origin, store, &access);
        larder.purge(&["users:list"]);
        assert_eq!(list(&larder, "Token a").text(), "none");
        if word == "soft-purge" {
            larder.purge_softly(&["users:list"]);
        }
        eventually("it is stale", || {
            let answer = larder.get_with(LIST, &MIXED);
            assert!(answer.is_hit() && answer.text() == "none", "{answer:?}");
            answer.cache_status().ends_with(word)
        });
        assert!(list(&larder, "Token a").is_hit());
        eventually("another refreshes it", || asked(&origin, LIST) == 2);
        let all = origin.requests();
        let mut all = all.iter().filter(|request| request.target == LIST);
        assert!(all.all(|request| !request.fields.has("cookie")), "{word}");
    }
}

fn who_sends_more_than_one_credential_waits_for_nobody_and_nobody_for_it(store: &str) {
    let (first, second) = (Gate::new(), Gate::new());
    let (of_mixed, of_others) = (first.clone(), second.clone());
    let origin = Origin::start(move |request| {
        let cookie = request.fields.get("cookie");
        match (request.target.as_str(), cookie) {
            (ME, _) => origin::json("{}"),
            (_, Some(cookie)) => origin::json(cookie).behind(&of_mixed),
            (_, None) => origin::json("none").behind(&of_others),
        }
    });
    let larder = larder(&origin, store, "{verify: /api/users/me/, for: 1h}");
    thread::scope(|scope| {
        let mixed = scope.spawn(|| larder.get_with(LIST, &MIXED));
        eventually("it has gone alone", || asked(&origin, LIST) == 1);
        let other = scope.spawn(|| list(&larder, "Token b"));
        eventually("another leads a fetch", || asked(&origin, LIST) == 2);
        first.open();
        assert_eq!(mixed.join().unwrap().text(), "tenant=evil");
        assert_eq!(larder.get_with(LIST, &MIXED).text(), "tenant=evil");
        second.open();
        assert_eq!(other.join().unwrap().text(), "none");
    });
    assert!(larder.get_with(LIST, &MIXED).is_hit());
}

fn a_verdict_counts_on_each_route_for_as_long_as_that_says(store: &str) {
    let users = users(&[("Token a", "{}")]);
    let origin = api(&users);
    let larder = Larder::start(format!(
        "upstream: {}\nstore: {{url: \"{store}\", database: 1, prefix: t}}\nroutes:\n\
        \x20 - {{path: /a/, key: a, access: {{verify: {ME}, for: 1h, refuse_for: 1h}}}}\n\
        \x20 - {{path: /b/, key: b, access: {{verify: {ME}, for: 1s, refuse_for: 1s}}}}\npurge: []\n",
        origin.url()
    ));
    let get = |path, who| larder.get_with(path, &[("Authorization", who)]);
    for path in ["/a/", "/b/"] {
        assert_eq!(get(path, "Token a").status, 200);
        assert_eq!(get(path, "Token b").status, 401);
    }
    *users.lock().unwrap() = HashMap::from([("Token b".to_owned(), "{}".to_owned())]);
    eventually("what was admitted is refused", || {
        get("/b/", "Token a").status == 401
    });
    eventually("what was refused is admitted", || {
        get("/b/", "Token b").is_hit()
    });
    assert!(get("/a/", "Token a").is_hit(), "for an hour");
    assert!(!get("/a/", "Token b").is_hit(), "for an hour");
}

/// Every mode, whoever came before: each is given what the origin gives it when it asks for itself.
fn every_mode_gives_nobody_what_the_origin_would_not(store: &str) {
    let clients: [&[(&str, &str)]; 8] = [
        &[],
        &[("Authorization", "Token a")],
        &[("Authorization", "Token b")],
        &[("Cookie", "sessionid=a")],
        &[("Cookie", "sessionid=a; theme=b")],
        &[("X-Api-Key", "a")],
        &[("Authorization", "Token a"), ("X-Api-Key", "a")],
        &[("Authorization", "Token unknown")],
    ];
    let line = |client: &[(&str, &str)]| {
        client
            .iter()
            .map(|(_, value)| *value)
            .collect::<Vec<_>>()
            .join("|")
    };
    let roles = [(1, "x"), (2, "y"), (3, "x"), (4, "y"), (5, "z"), (6, "x")];
    let known = roles.map(|(n, role)| (line(clients[n]), format!("{{\"role\":\"{role}\"}}")));
    let origin = api(&Arc::new(Mutex::new(HashMap::from(known))));
    let mut cases = 0;
    for (n, access) in ["per-credential", "{verify: /api/users/me/, scope: [/role]}"]
        .iter()
        .enumerate()
    {
        let larder = Larder::start(format!(
            "upstream: {}\nstore: {{url: \"{store}\", database: 1, prefix: t{n}}}\nroutes:\n  - {{path: /api/users/, key: users:list, access: {access}}}\npurge: []\n",
            origin.url()
        ));
        for first in clients {
            for second in clients {
                larder.purge(&["users:list"]);
                for client in [first, second] {
                    let (given, own) = (
                        larder.get_with(LIST, client),
                        larder.get_with("/other/", client),
                    );
                    assert_eq!(
                        (given.status, given.text()),
                        (own.status, own.text()),
                        "{access} {client:?} after {first:?}"
                    );
                    cases += 1;
                }
            }
        }
    }
    assert_eq!(cases, 2 * 8 * 8 * 2);
}

#[test]
fn a_logout_through_one_instance_ends_what_another_has_heard() {
    let redis = RedisServer::start();
    let users = users(&[("Token a", "{}")]);
    let origin = api(&users);
    let access = "{verify: /api/users/me/, for: 1h}";
    let (one, other) = (
        larder(&origin, &redis.url(), access),
        larder(&origin, &redis.url(), access),
    );
    assert_eq!(list(&one, "Token a").status, 200);
    assert!(list(&other, "Token a").is_hit());
    users.lock().unwrap().clear();
    one.request("POST", "/api/logout/", &[("Authorization", "Token a")], b"");
    assert_eq!(list(&other, "Token a").status, 401);
    let keys = redis.keys();
    assert!(keys.contains(&"t:users:list".to_owned()), "{keys:?}");
    for key in keys {
        assert!(!key.contains("Token"), "{key}");
    }
}

#[test]
fn while_redis_is_away_everybody_is_answered_by_the_upstream() {
    let mut redis = RedisServer::start();
    let origin = api(&users(&[("Token a", "{}")]));
    let larder = larder(&origin, &redis.url(), "{verify: /api/users/me/, for: 1h}");
    assert_eq!(list(&larder, "Token a").status, 200);
    assert!(list(&larder, "Token a").is_hit());
    redis.kill();
    for (who, status) in [("Token a", 200), ("Token b", 401)] {
        let answer = list(&larder, who);
        assert_eq!(answer.status, status);
        assert!(!answer.is_hit(), "{answer:?}");
    }
}

#[test]
fn a_copy_for_the_verified_is_nobodys_when_the_route_is_made_per_credential() {
    let redis = RedisServer::start();
    let origin = api(&users(&[("Token a", "{}")]));
    let before = larder(&origin, &redis.url(), "{verify: /api/users/me/, for: 1h}");
    assert_eq!(list(&before, "Token a").status, 200);
    for access in ["per-credential", "public", "{verify: /other/}"] {
        let after = larder(&origin, &redis.url(), access);
        let answer = after.get(LIST);
        assert_eq!(answer.status, 401, "{access}: {answer:?}");
    }
}
