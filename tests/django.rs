//! Larder in front of a real Django: what a users API must be able to rely on, from the keys in Redis to a renamed
//! session cookie. tests/django/ is the Django.

#[path = "django/admission.rs"]
mod admission;
#[path = "support/binary.rs"]
mod binary;
#[path = "django/side.rs"]
mod side;
#[path = "django/support.rs"]
mod support;
#[path = "django/tokens.rs"]
mod tokens;

use larder::init::{self, Wanted, schema};
use serde_json::{Value, json};
use support::{
    Credential, Larder, Request, Stage, Variant, delete, get, head, login, options, patch, post,
    put,
};

const LISTS: [&str; 5] = [
    "/api/users/",
    "/api/users/?page=2",
    "/api/users/?page_size=50",
    "/api/users/?role=student&page_size=5",
    "/api/users/?search=a&ordering=-username",
];
const SEVEN: &str = "/api/users/7/";
const EIGHT: &str = "/api/users/8/";

/// Everybody whose copies a write must drop.
fn everybody(stage: &Stage) -> [Credential; 4] {
    [
        Credential::Anonymous,
        Credential::token("admin"),
        Credential::token("student07"),
        stage.session("teacher"),
    ]
}

fn everything() -> Vec<&'static str> {
    [&LISTS[..], &[SEVEN, EIGHT]].concat()
}

/// Every target, read by everybody until it is a hit.
fn warm(larder: &Larder, readers: &[Credential]) {
    for target in everything() {
        for reader in readers {
            get(target).by(reader).to(larder.port);
            let again = get(target).by(reader).to(larder.port);
            assert!(
                again.is_hit(),
                "{target} for {reader:?} is not kept: {again:?}"
            );
        }
    }
}

/// That these targets are answered from the store, all others by Django, and all of them with the database's truth.
fn assert_only_these_are_kept(
    kept: &[&str],
    stage: &Stage,
    larder: &Larder,
    readers: &[Credential],
) {
    for target in everything() {
        for reader in readers {
            let (answer, reached) =
                stage.reaching_django(|| get(target).by(reader).to(larder.port));
            let expected = kept.contains(&target);
            assert_eq!(
                answer.is_hit(),
                expected,
                "{target} for {reader:?}: {answer:?}"
            );
            assert_eq!(
                reached.is_empty(),
                expected,
                "{target} for {reader:?} reached Django: {reached:?}"
            );
            let truth = get(target).by(reader).to(stage.django);
            assert_eq!(answer.status, truth.status, "{target} for {reader:?}");
            assert_eq!(
                answer.json(),
                truth.json(),
                "{target} for {reader:?} is stale"
            );
        }
    }
}

/// What a write through Larder must drop: everything but what is named here.
fn a_write_keeps_only(kept: &[&str], write: &Request, status: u16) {
    let stage = Stage::open(Variant::Open);
    let larder = stage.larder();
    let readers = everybody(&stage);
    warm(&larder, &readers);
    assert_eq!(write.to(larder.port).status, status, "{write:?}");
    assert_only_these_are_kept(kept, &stage, &larder, &readers);
}

fn admin() -> Credential {
    Credential::token("admin")
}

/// A name that no test has given before, so that a stale copy cannot look right by chance.
fn a_new_name() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    format!("Name{}", GIVEN.fetch_add(1, Ordering::Relaxed))
}

fn rename(target: &str) -> Request {
    patch(target).json(&json!({"first_name": a_new_name()}))
}

fn a_new_user() -> Value {
    json!({"username": a_new_name().to_lowercase(), "password": "a password"})
}

// ---- What `larder init` makes of this project's own description ----

#[test]
fn the_file_that_is_written_from_the_projects_own_description_is_never_stale_before_it() {
    let described = schema::read(include_bytes!("openapi/django.yaml")).expect("a description");
    let wanted = Wanted {
        from: "django.yaml".to_owned(),
        upstream: "http://127.0.0.1:8000".to_owned(),
        redis_env: "REDIS_URL".to_owned(),
        prefix: "it360acad".to_owned(),
        access: None,
    };
    let written = init::write(&described, &wanted).expect("a file");
    let stage = Stage::open(Variant::Open);
    let larder = stage.larder_with(|_| written.text);
    let list = "/api/users/?page=1&search=student07";
    let readers = [Credential::Anonymous, Credential::token("student07")];
    let bulk = post("/api/users/bulk/").json(&json!({"ids": [7], "is_active": true}));
    for write in [rename(SEVEN), bulk, rename("/api/users/me/")] {
        for target in [list, SEVEN] {
            for reader in &readers {
                get(target).by(reader).to(larder.port);
                let again = get(target).by(reader).to(larder.port);
                assert!(again.is_hit(), "{target} for {reader:?}: {again:?}");
            }
        }
        let answer = write.by(&admin()).to(larder.port);
        assert_eq!(answer.status, 200, "{answer:?}");
        for target in [list, SEVEN] {
            for reader in &readers {
                let answer = get(target).by(reader).to(larder.port);
                assert!(!answer.is_hit(), "{target} for {reader:?}: {answer:?}");
                let truth = get(target).by(reader).to(stage.django);
                assert_eq!(answer.json(), truth.json(), "{target} for {reader:?}");
            }
        }
    }
    // The description forgot this parameter: what it asks for is never kept, and so never wrong.
    for role in ["student", "teacher", "student"] {
        let target = format!("/api/users/?role={role}");
        let answer = get(&target).to(larder.port);
        assert!(!answer.is_hit() && !answer.is_stored(), "{answer:?}");
        assert_eq!(answer.json(), get(&target).to(stage.django).json());
    }
}

// ---- What stands in Redis ----

#[test]
fn the_answers_stand_in_redis_under_the_keys_of_the_teams_guide() {
    let stage = Stage::open(Variant::Open);
    let larder = stage.larder();
    let list = get("/api/users/").to(larder.port);
    let user = get(SEVEN).to(larder.port);
    assert_eq!((list.status, user.status), (200, 200));

    let keys = stage.redis_lines(&["-n", "1", "KEYS", "it360acad:users:*"]);
    assert!(
        keys.contains(&"it360acad:users:list".to_owned()),
        "{keys:?}"
    );
    assert!(
        keys.contains(&"it360acad:users:detail:7".to_owned()),
        "{keys:?}"
    );

    let truth = get("/api/users/").to(stage.django);
    assert_eq!(list.body, truth.body);
    for (key, truth) in [
        ("it360acad:users:list", truth),
        ("it360acad:users:detail:7", get(SEVEN).to(stage.django)),
    ] {
        let stored = stage.redis_cli(&["-n", "1", "--raw", "GET", key]);
        assert!(
            stored.starts_with(&truth.body),
            "{key} holds {:?}",
            String::from_utf8_lossy(&stored)
        );
    }
}

#[test]
fn every_key_has_the_prefix_and_a_ttl_and_celerys_database_stays_empty() {
    let stage = Stage::open(Variant::Open);
    let larder = stage.larder();
    let readers = everybody(&stage);
    warm(&larder, &readers);
    assert_eq!(rename(SEVEN).by(&admin()).to(larder.port).status, 200);
    warm(&larder, &readers);

    assert_eq!(stage.redis_lines(&["-n", "0", "DBSIZE"]), ["0"]);
    let keys = stage.redis_lines(&["-n", "1", "KEYS", "*"]);
    assert!(keys.len() > 2 * readers.len(), "{keys:?}");
    for key in keys {
        assert!(key.starts_with("it360acad:"), "{key}");
        let ttl: i64 = stage.redis_lines(&["-n", "1", "TTL", &key])[0]
            .parse()
            .unwrap();
        assert!(ttl > 0, "{key} has no TTL");
    }
}

#[test]
fn no_token_and_no_cookie_stands_in_redis() {
    let stage = Stage::open(Variant::Open);
    let larder = stage.larder();
    let session = stage.session("teacher");
    let Credential::Session { cookies, .. } = &session else {
        unreachable!()
    };
    let session_id = cookies
        .split("sessionid=")
        .nth(1)
        .unwrap()
        .split(';')
        .next()
        .unwrap();
    get("/api/users/").by(&session).to(larder.port);
    get("/api/users/")
        .by(&Credential::token("student04"))
        .to(larder.port);

    let keys = stage.redis_lines(&["-n", "1", "KEYS", "*"]);
    assert!(!keys.is_empty());
    for key in keys {
        let dump = match stage.redis_lines(&["-n", "1", "TYPE", &key])[0].as_str() {
            "string" => stage.redis_cli(&["-n", "1", "--raw", "GET", &key]),
            "set" => stage.redis_cli(&["-n", "1", "--raw", "SMEMBERS", &key]),
            "hash" => stage.redis_cli(&["-n", "1", "--raw", "HGETALL", &key]),
            other => panic!("{key} is a {other}"),
        };
        let dump = format!("{key}\n{}", String::from_utf8_lossy(&dump));
        assert!(
            !dump.contains("token-student04") && !dump.contains(session_id),
            "{dump}"
        );
    }
}

#[test]
fn a_value_under_our_key_that_is_not_ours_is_a_miss_and_never_handed_out() {
    const KEY: &str = "it360acad:users:list";
    let stage = Stage::open(Variant::Open);
    let larder = stage.larder();
    get("/api/users/").to(larder.port);
    let stored = stage.redis_cli(&["-n", "1", "--raw", "GET", KEY]);
    let truth = get("/api/users/").to(stage.django).body;

    let mut flipped = stored.clone();
    flipped[20] ^= 1;
    // django-redis: pickle.dumps({"count": 0}, protocol=5).
    let pickle =
        b"\x80\x05\x95\x0d\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x05count\x94K\x00s.".to_vec();
    let json = br#"{"count":0,"results":[]}"#.to_vec();
    for foreign in [
        pickle,
        json,
        stored[..stored.len() - 1].to_vec(),
        truth.clone(),
        flipped,
        Vec::new(),
    ] {
        stage.redis_set(KEY, &foreign);
        let answer = get("/api/users/").to(larder.port);
        assert!(!answer.is_hit(), "{answer:?}");
        assert_eq!((answer.status, &answer.body), (200, &truth));
    }
    stage.redis_cli(&["-n", "1", "DEL", KEY]);
    stage.redis_cli(&["-n", "1", "HSET", KEY, "count", "0"]);
    for _ in 0..2 {
        assert_eq!(get("/api/users/").to(larder.port).body, truth);
    }
}

#[test]
fn a_second_instance_that_never_ran_the_query_answers_it_from_redis() {
    let stage = Stage::open(Variant::Open);
    let first = stage.larder();
    let readers = everybody(&stage);
    warm(&first, &readers);

    let second = stage.larder();
    let (_, reached) = stage.reaching_django(|| {
        for target in everything() {
            for reader in &readers {
                let answer = get(target).by(reader).to(second.port);
                assert!(answer.is_hit(), "{target} for {reader:?}: {answer:?}");
                assert!(answer.field("age").is_some(), "{answer:?}");
                assert_eq!(answer.body, get(target).by(reader).to(first.port).body);
            }
        }
    });
    assert!(reached.is_empty(), "{reached:?}");
}

#[test]
fn a_write_through_one_instance_drops_what_the_other_would_answer() {
    let stage = Stage::open(Variant::Open);
    let (first, second) = (stage.larder(), stage.larder());
    let readers = everybody(&stage);
    warm(&first, &readers);
    warm(&second, &readers);
    assert_eq!(rename(SEVEN).by(&admin()).to(first.port).status, 200);
    assert_only_these_are_kept(&[EIGHT], &stage, &second, &readers);
}

// ---- Writes ----

#[test]
fn post_drops_every_list_and_keeps_the_details() {
    a_write_keeps_only(
        &[SEVEN, EIGHT],
        &post("/api/users/").by(&admin()).json(&a_new_user()),
        201,
    );
}

#[test]
fn patch_drops_the_user_and_every_list() {
    a_write_keeps_only(&[EIGHT], &rename(SEVEN).by(&admin()), 200);
}

/// Whoever pages, filters, searches and sorts has a list of its own, and a write of one user drops them all, at the cost
/// of dropping one.
#[test]
fn one_write_drops_two_hundred_lists_of_three_credentials_at_the_cost_of_one() {
    let stage = Stage::open(Variant::Open);
    let larder = stage.larder();
    let readers = [
        Credential::Anonymous,
        Credential::token("student07"),
        stage.session("teacher"),
    ];
    let lists = two_hundred_lists();
    let read = |list: &str, reader: &Credential| get(list).by(reader).to(larder.port);
    let write = |name: &str| {
        let write = patch(SEVEN).by(&admin());
        let write = write.json(&json!({"first_name": name}));
        stage.store_commands(|| assert_eq!(write.to(larder.port).status, 200))
    };

    // Once before, so that the scripts are known to the store.
    write(&a_new_name());
    read(&lists[0], &readers[0]);
    assert!(read(&lists[0], &readers[0]).is_hit());
    let old = a_new_name();
    let ((), of_one) = write(&old);

    let names = |body: &[u8], name: &str| {
        String::from_utf8_lossy(body).contains(&format!("\"first_name\":\"{name}\""))
    };
    let mut with_the_old_row = 0;
    for list in &lists {
        for reader in &readers {
            read(list, reader);
            let kept = read(list, reader);
            assert!(kept.is_hit(), "{list} for {reader:?}: {kept:?}");
            with_the_old_row += usize::from(names(&kept.body, &old));
        }
    }
    assert!(with_the_old_row >= 100, "{with_the_old_row}");

    let new = a_new_name();
    let ((), of_all) = write(&new);
    println!("one PATCH with 1 copy: {of_one:?}; with 600: {of_all:?}");
    assert_eq!(of_one, of_all);

    let mut with_the_new_row = 0;
    for list in &lists {
        for reader in &readers {
            let answer = read(list, reader);
            assert!(!answer.is_hit(), "{list} for {reader:?}: {answer:?}");
            assert!(
                !names(&answer.body, &old),
                "{list} for {reader:?}: {answer:?}"
            );
            let truth = get(list).by(reader).to(stage.django);
            assert_eq!(answer.body, truth.body, "{list} for {reader:?}");
            with_the_new_row += usize::from(names(&answer.body, &new));
        }
    }
    assert!(with_the_new_row >= 100, "{with_the_new_row}");
}

/// `page`, `page_size`, `role`, `search` and `ordering` in combination; each has the page.
fn two_hundred_lists() -> Vec<String> {
    let mut lists = Vec::new();
    for narrowed in ["", "&role=student", "&search=a", "&role=student&search=a"] {
        for ordering in ["username", "-username", "first_name", "-last_name", "-role"] {
            for size in 8..13 {
                for page in [1, 2] {
                    lists.push(format!(
                        "/api/users/?page={page}&page_size={size}{narrowed}&ordering={ordering}"
                    ));
                }
            }
        }
    }
    assert_eq!(lists.len(), 200);
    lists
}

#[test]
fn put_drops_the_user_and_every_list() {
    let whole = json!({"username": "student07", "first_name": a_new_name(), "role": "student"});
    a_write_keeps_only(&[EIGHT], &put(SEVEN).by(&admin()).json(&whole), 200);
}

#[test]
fn delete_drops_the_user_and_every_list() {
    let stage = Stage::open(Variant::Open);
    let larder = stage.larder();
    let readers = everybody(&stage);
    let id = post("/api/users/")
        .by(&admin())
        .json(&a_new_user())
        .to(stage.django)
        .json()["id"]
        .clone();
    let newcomer = format!("/api/users/{id}/");
    warm(&larder, &readers);
    for reader in &readers {
        get(&newcomer).by(reader).to(larder.port);
        assert!(get(&newcomer).by(reader).to(larder.port).is_hit());
    }

    assert_eq!(delete(&newcomer).by(&admin()).to(larder.port).status, 204);
    assert_only_these_are_kept(&[SEVEN, EIGHT], &stage, &larder, &readers);
    for reader in &readers {
        assert_eq!(
            get(&newcomer).by(reader).to(larder.port).status,
            404,
            "{reader:?} still sees {newcomer}"
        );
    }
}

#[test]
fn patch_of_user_7_spelled_with_a_zero_drops_user_7() {
    a_write_keeps_only(&[EIGHT], &rename("/api/users/07/").by(&admin()), 200);
}

#[test]
fn patch_of_user_7_spelled_with_a_percent_drops_user_7() {
    a_write_keeps_only(&[EIGHT], &rename("/api/users/%37/").by(&admin()), 200);
}

#[test]
fn patch_with_a_query_drops_user_7() {
    a_write_keeps_only(
        &[EIGHT],
        &rename("/api/users/7/?notify=0").by(&admin()),
        200,
    );
}

#[test]
fn patch_of_me_drops_every_user_and_every_list() {
    a_write_keeps_only(
        &[],
        &rename("/api/users/me/").by(&Credential::token("student07")),
        200,
    );
}

#[test]
fn an_action_on_one_user_drops_every_user_and_every_list() {
    let stage = Stage::open(Variant::Open);
    let asleep = patch(SEVEN)
        .by(&admin())
        .json(&json!({"is_active": false}))
        .to(stage.django);
    assert_eq!(asleep.status, 200);
    let larder = stage.larder();
    // Not student07, who may not log in now.
    let readers = [Credential::Anonymous, admin(), stage.session("teacher")];
    warm(&larder, &readers);
    assert_eq!(get(SEVEN).to(larder.port).json()["is_active"], false);
    assert_eq!(
        post("/api/users/7/activate/")
            .by(&admin())
            .to(larder.port)
            .status,
        200
    );
    assert_only_these_are_kept(&[], &stage, &larder, &readers);
    assert_eq!(get(SEVEN).to(larder.port).json()["is_active"], true);
}

#[test]
fn a_bulk_update_drops_every_user_and_every_list() {
    for role in ["parent", "student"] {
        let bulk = json!({"ids": [7, 9], "role": role});
        a_write_keeps_only(&[], &post("/api/users/bulk/").by(&admin()).json(&bulk), 200);
    }
}

#[test]
fn a_write_with_a_session_passes_djangos_csrf_check_and_drops_everybodys_copies() {
    let stage = Stage::open(Variant::Open);
    let larder = stage.larder();
    let readers = everybody(&stage);
    warm(&larder, &readers);
    let teacher = Credential::from_login(&login("teacher").to(larder.port));
    let answer = rename(SEVEN).by(&teacher).to(larder.port);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_only_these_are_kept(&[EIGHT], &stage, &larder, &readers);
}

#[test]
fn a_refused_write_leaves_every_stored_copy_valid() {
    let stage = Stage::open(Variant::Open);
    let larder = stage.larder();
    let readers = everybody(&stage);
    warm(&larder, &readers);

    let student = Credential::token("student04");
    let Credential::Session { cookies, .. } = stage.session("teacher") else {
        unreachable!()
    };
    for (status, refused) in [
        (401, rename(SEVEN)),
        (401, delete(SEVEN)),
        (401, post("/api/users/").json(&a_new_user())),
        (401, rename("/api/users/me/")),
        (403, rename(SEVEN).by(&student)),
        (403, delete("/api/users/07/").by(&student)),
        (403, post("/api/users/7/activate/").by(&student)),
        (
            403,
            post("/api/users/bulk/")
                .by(&student)
                .json(&json!({"ids": [7], "role": "admin"})),
        ),
        // A session without its CSRF token.
        (403, rename(SEVEN).field("Cookie", &cookies)),
        (
            400,
            patch(SEVEN).by(&admin()).json(&json!({"role": "emperor"})),
        ),
        (
            400,
            post("/api/users/")
                .by(&admin())
                .json(&json!({"username": "student07"})),
        ),
        (
            400,
            put(SEVEN).by(&admin()).body("application/json", "not JSON"),
        ),
        (405, post(SEVEN).by(&admin()).json(&a_new_user())),
        (
            415,
            patch(SEVEN)
                .by(&admin())
                .body("text/csv", "first_name\nNobody\n"),
        ),
    ] {
        let answer = refused.to(larder.port);
        assert_eq!(answer.status, status, "{refused:?}: {answer:?}");
    }
    assert_only_these_are_kept(&everything(), &stage, &larder, &readers);
}

#[test]
fn a_write_answered_404_purges_because_it_may_be_the_second_sending_of_one_that_worked() {
    let stage = Stage::open(Variant::Open);
    let larder = stage.larder();
    let readers = everybody(&stage);
    warm(&larder, &readers);
    // Somebody else has deleted this one meanwhile, past Larder.
    let id = post("/api/users/")
        .by(&admin())
        .json(&a_new_user())
        .to(stage.django)
        .json()["id"]
        .clone();
    let gone = format!("/api/users/{id}/");
    assert_eq!(delete(&gone).by(&admin()).to(stage.django).status, 204);
    assert_eq!(delete(&gone).by(&admin()).to(larder.port).status, 404);
    assert_only_these_are_kept(&[SEVEN, EIGHT], &stage, &larder, &readers);
}

#[test]
fn a_write_is_sent_to_django_exactly_once() {
    let stage = Stage::open(Variant::Open);
    let larder = stage.larder();
    let (answer, reached) = stage.reaching_django(|| {
        post("/api/users/")
            .by(&admin())
            .json(&a_new_user())
            .to(larder.port)
    });
    assert_eq!(answer.status, 201);
    assert_eq!(reached.len(), 1, "{reached:?}");
}

#[test]
fn a_json_body_keeps_its_content_length_and_its_bytes() {
    let stage = Stage::open(Variant::Open);
    let larder = stage.larder();
    let name = a_new_name();
    let answer = patch(SEVEN)
        .by(&admin())
        .json(&json!({"first_name": name, "last_name": "Ýnanç"}))
        .to(larder.port);
    assert_eq!(answer.json()["last_name"], "Ýnanç");
    assert_eq!(
        get(SEVEN).to(larder.port).json()["first_name"],
        name.as_str()
    );

    // Read whole before it is sent, and streamed.
    for size in [0, 1, 1000, 64 * 1024, 300 * 1024] {
        let body = "ä".repeat(size / 2);
        for request in [post("/api/other/"), put("/api/other/")] {
            let echo = request
                .body("text/plain", body.clone())
                .to(larder.port)
                .json();
            assert_eq!(
                echo["headers"]["Content-Length"],
                body.len().to_string(),
                "{size}"
            );
            assert!(echo["headers"].get("Transfer-Encoding").is_none(), "{size}");
            let arrived: Vec<u8> = echo["body"]
                .as_str()
                .unwrap()
                .chars()
                .map(|byte| byte as u8)
                .collect();
            assert!(
                arrived == body.as_bytes(),
                "{size}: {} bytes arrived",
                arrived.len()
            );
        }
    }
}

/// G1 and G2: a read shows nothing older than what was acknowledged to a writer, or shown to anybody, before it began;
/// on both instances, on every copy, while writes go on.
#[test]
fn while_one_writes_no_reader_of_any_copy_on_any_instance_is_shown_the_past() {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

    let stage = Stage::open(Variant::Open);
    let larders = [stage.larder(), stage.larder()];
    let [first, second] = [larders[0].port, larders[1].port];
    let number = |user: &Value| {
        user["first_name"]
            .as_str()
            .and_then(|name| name.parse().ok())
    };
    let write = |n: u64, larder| {
        let numbered = json!({"first_name": n.to_string()});
        assert_eq!(
            patch(SEVEN).by(&admin()).json(&numbered).to(larder).status,
            200
        );
    };
    let (known, over) = (AtomicU64::new(1), AtomicBool::new(false));
    // Also when a write fails the test, or the readers would go on for ever.
    struct Over<'o>(&'o AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, SeqCst);
        }
    }
    write(1, first);

    std::thread::scope(|threads| {
        for (larder, reader, target) in [
            (first, Credential::Anonymous, SEVEN),
            (
                second,
                Credential::Anonymous,
                "/api/users/?search=student07",
            ),
            (second, Credential::token("student04"), SEVEN),
            (
                first,
                Credential::token("student07"),
                "/api/users/?search=student07",
            ),
        ] {
            let (known, over) = (&known, &over);
            threads.spawn(move || {
                while !over.load(SeqCst) {
                    let known_before = known.load(SeqCst);
                    let answer = get(target).by(&reader).to(larder);
                    let shown = answer.json();
                    let shown = number(shown["results"].get(0).unwrap_or(&shown)).unwrap();
                    assert!(
                        shown >= known_before,
                        "{target} shows {shown} after {known_before}: {answer:?}"
                    );
                    known.fetch_max(shown, SeqCst);
                }
            });
        }
        let _over = Over(&over);
        for n in 2..80 {
            write(n, larders[n as usize % 2].port);
            known.fetch_max(n, SeqCst);
        }
    });
}

// ---- Reads ----

#[test]
fn head_is_answered_from_a_stored_get() {
    let stage = Stage::open(Variant::Open);
    let larder = stage.larder();
    let whole = get(SEVEN).to(larder.port);
    let (answer, reached) = stage.reaching_django(|| head(SEVEN).to(larder.port));
    assert!(answer.is_hit() && reached.is_empty(), "{answer:?}");
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    assert_eq!(
        answer.field("content-length"),
        Some(whole.body.len().to_string().as_str())
    );
    assert_eq!(answer.field("content-type"), whole.field("content-type"));
}

#[test]
fn a_head_never_becomes_the_answer_to_a_get() {
    let stage = Stage::open(Variant::Open);
    let larder = stage.larder();
    assert_eq!(head(SEVEN).to(larder.port).status, 200);
    let answer = get(SEVEN).to(larder.port);
    assert_eq!(answer.body, get(SEVEN).to(stage.django).body);
}

#[test]
fn the_order_of_the_query_does_not_matter_and_its_values_do() {
    let stage = Stage::open(Variant::Open);
    let larder = stage.larder();
    get("/api/users/?role=student&page=1").to(larder.port);
    assert!(
        get("/api/users/?page=1&role=student")
            .to(larder.port)
            .is_hit()
    );
    let other = get("/api/users/?page=2&role=student").to(larder.port);
    assert!(!other.is_hit());
    assert_eq!(
        other.json(),
        get("/api/users/?page=2&role=student")
            .to(stage.django)
            .json()
    );
}

#[test]
fn another_spelling_of_a_path_is_forwarded_and_never_kept() {
    let stage = Stage::open(Variant::Open);
    let larder = stage.larder();
    get(SEVEN).to(larder.port);
    for spelling in [
        "/api/users/07/",
        "/api/users/%37/",
        "/api/users//7/",
        "/api/users/7",
    ] {
        for _ in 0..2 {
            let (answer, reached) = stage.reaching_django(|| get(spelling).to(larder.port));
            assert!(
                !answer.is_hit() && !answer.is_stored(),
                "{spelling}: {answer:?}"
            );
            assert_eq!(reached.len(), 1, "{spelling}");
            assert_eq!(reached[0]["target"], spelling);
            assert_eq!(
                answer.status,
                get(spelling).to(stage.django).status,
                "{spelling}"
            );
        }
    }
}

#[test]
fn what_no_route_names_is_forwarded_untouched() {
    let stage = Stage::open(Variant::Open);
    let larder = stage.larder();
    for target in [
        "/admin/",
        "/admin/login/?next=/admin/",
        "/api/auth/token/",
        "/api/users/me/",
        "/nowhere?b=1&a=%2F",
    ] {
        for _ in 0..2 {
            let (answer, reached) = stage.reaching_django(|| get(target).to(larder.port));
            assert!(!answer.is_hit() && !answer.is_stored(), "{answer:?}");
            assert_eq!(reached.len(), 1, "{target}");
            assert_eq!(reached[0]["target"], target);
            let truth = get(target).to(stage.django);
            assert_eq!(answer.status, truth.status, "{target}");
            for field in [
                "location",
                "content-type",
                "content-language",
                "cache-control",
                "vary",
                "www-authenticate",
            ] {
                assert_eq!(answer.field(field), truth.field(field), "{target}: {field}");
            }
            assert_eq!(
                answer.fields("set-cookie").len(),
                truth.fields("set-cookie").len(),
                "{target}"
            );
        }
    }
}

#[test]
fn an_unrouted_request_arrives_with_its_own_host_target_and_fields() {
    let stage = Stage::open(Variant::Open);
    let larder = stage.larder();
    let target = "/api/other/?b=2&a=1&a=0&q=%D1%8F%2F+x";
    let echo = get(target)
        .host("testserver")
        .by(&Credential::token("admin"))
        .field("Cookie", "sessionid=none; theme=dark")
        .field("Accept", "application/xml;q=0.5, */*;q=0.1")
        .field("Accept-Encoding", "gzip, br")
        .field("X-Custom", "kept")
        .field("X-Forwarded-Host", "evil.example")
        .to(larder.port)
        .json();
    assert_eq!(echo["target"], target);
    for (name, value) in [
        ("Host", "testserver"),
        ("Authorization", "Token token-admin"),
        ("Cookie", "sessionid=none; theme=dark"),
        ("Accept", "application/xml;q=0.5, */*;q=0.1"),
        ("Accept-Encoding", "gzip, br"),
        ("X-Custom", "kept"),
    ] {
        assert_eq!(echo["headers"][name], value, "{name}: {echo}");
    }
    assert!(
        echo["headers"]["X-Forwarded-For"]
            .as_str()
            .unwrap()
            .ends_with("127.0.0.1"),
        "{echo}"
    );
    assert!(echo["headers"]["Via"].is_string(), "{echo}");
}

#[test]
fn a_host_that_django_refuses_changes_nothing_for_others() {
    let stage = Stage::open(Variant::Open);
    let larder = stage.larder();
    assert_eq!(
        get("/api/users/")
            .host("evil.example")
            .to(larder.port)
            .status,
        400
    );
    let answer = get("/api/users/").to(larder.port);
    assert_eq!(answer.body, get("/api/users/").to(stage.django).body);
    assert_eq!(
        get("/api/users/")
            .host("evil.example")
            .to(larder.port)
            .status,
        400
    );
    assert!(get("/api/users/").to(larder.port).is_hit());
}

#[test]
fn the_links_of_a_list_are_those_of_the_host_that_was_asked() {
    let stage = Stage::open(Variant::Open);
    let larder = stage.larder();
    for host in ["localhost", "testserver", "localhost:8080", "localhost"] {
        let answer = get("/api/users/").host(host).to(larder.port).json();
        assert_eq!(answer["next"], format!("http://{host}/api/users/?page=2"));
    }
}

#[test]
fn a_missing_user_is_answered_404_and_seen_as_soon_as_created() {
    let stage = Stage::open(Variant::Open);
    let larder = stage.larder();
    let id = post("/api/users/")
        .by(&admin())
        .json(&a_new_user())
        .to(stage.django)
        .json()["id"]
        .as_u64()
        .unwrap();
    let next = format!("/api/users/{}/", id + 1);
    for _ in 0..2 {
        assert_eq!(get(&next).to(larder.port).status, 404);
    }
    let created = post("/api/users/")
        .by(&admin())
        .json(&a_new_user())
        .to(larder.port)
        .json();
    assert_eq!(created["id"], id + 1);
    assert_eq!(
        get(&next).to(larder.port).json()["username"],
        created["username"]
    );
}

#[test]
fn a_client_that_has_the_copy_is_told_304_until_it_changes() {
    let stage = Stage::open(Variant::Closed);
    let larder = stage.larder();
    let reader = Credential::token("student04");
    let first = get(SEVEN).by(&reader).to(larder.port);
    let etag = first.field("etag").expect("an ETag of Django's");

    let has_it = format!("\"other\", {etag}");
    let conditional = get(SEVEN).by(&reader).field("If-None-Match", &has_it);
    let (answer, reached) = stage.reaching_django(|| conditional.to(larder.port));
    assert!(reached.is_empty(), "{reached:?}");
    assert_eq!((answer.status, answer.body.len()), (304, 0), "{answer:?}");
    assert_eq!(answer.field("etag"), Some(etag));

    assert_eq!(rename(SEVEN).by(&admin()).to(larder.port).status, 200);
    let changed = conditional.to(larder.port);
    assert_eq!(changed.status, 200);
    assert_eq!(
        changed.json(),
        get(SEVEN).by(&reader).to(stage.django).json()
    );
}

#[test]
fn the_condition_of_one_client_does_not_keep_the_copy_from_others() {
    let stage = Stage::open(Variant::Closed);
    let reader = Credential::token("student04");
    let etag = get(SEVEN)
        .by(&reader)
        .to(stage.django)
        .field("etag")
        .unwrap()
        .to_owned();
    let larder = stage.larder();
    assert_eq!(
        get(SEVEN)
            .by(&reader)
            .field("If-None-Match", &etag)
            .to(larder.port)
            .status,
        304
    );
    let (answer, reached) = stage.reaching_django(|| get(SEVEN).by(&reader).to(larder.port));
    assert!(
        answer.is_hit() && reached.is_empty(),
        "the fill was conditional: {answer:?}"
    );
    assert_eq!(answer.json()["username"], "student07");
}

// ---- Who may be given which copy ----

#[test]
fn two_users_never_see_each_others_list_or_me() {
    two_users_are_kept_apart(Variant::Open);
}

#[test]
fn two_users_never_see_each_others_list_or_me_when_the_session_cookie_has_another_name() {
    two_users_are_kept_apart(Variant::Closed);
}

fn two_users_are_kept_apart(variant: Variant) {
    let stage = Stage::open(variant);
    let larder = stage.larder();
    let users = ["student04", "student05"];
    // Twice: from Django, then from the store.
    for _ in 0..2 {
        for user in users {
            for credential in [Credential::token(user), stage.session(user)] {
                let list = get("/api/users/?page_size=50")
                    .by(&credential)
                    .to(larder.port)
                    .json();
                for shown in list["results"].as_array().unwrap() {
                    let own = shown["username"] == user;
                    assert_eq!(shown["email"].is_string(), own, "{user} sees {shown}");
                }
                let me = get("/api/users/me/").by(&credential).to(larder.port).json();
                assert_eq!(me["username"], user);
            }
        }
    }
    for user in users {
        assert!(
            get("/api/users/?page_size=50")
                .by(&Credential::token(user))
                .to(larder.port)
                .is_hit()
        );
    }
}

#[test]
fn a_session_is_given_its_own_copy_again() {
    for variant in [Variant::Open, Variant::Closed] {
        let stage = Stage::open(variant);
        let larder = stage.larder();
        let session = stage.session("student04");
        let first = get("/api/users/").by(&session).to(larder.port);
        let again = get("/api/users/").by(&session).to(larder.port);
        assert!(first.is_stored() && again.is_hit(), "{first:?} {again:?}");
        assert_eq!(first.body, again.body);
    }
}

#[test]
fn anonymous_is_never_given_the_copy_of_a_credential_nor_a_credential_that_of_anonymous() {
    let stage = Stage::open(Variant::Open);
    let larder = stage.larder();
    let readers = [
        admin(),
        Credential::Anonymous,
        stage.session("student04"),
        Credential::token("student05"),
    ];
    for _ in 0..2 {
        for reader in &readers {
            for target in everything() {
                let answer = get(target).by(reader).to(larder.port);
                assert_eq!(
                    answer.body,
                    get(target).by(reader).to(stage.django).body,
                    "{target} for {reader:?}"
                );
            }
        }
    }
}

#[test]
fn a_cookie_nobody_knows_makes_a_copy_of_its_own_and_an_ignored_one_does_not() {
    let stage = Stage::open(Variant::Open);
    let larder = stage.larder();
    get(SEVEN).to(larder.port);
    assert!(
        !get(SEVEN)
            .field("Cookie", "theme=dark")
            .to(larder.port)
            .is_hit()
    );
    assert!(
        get(SEVEN)
            .field("Cookie", "_ga_X=1; csrftoken=abc; _gid=2")
            .to(larder.port)
            .is_hit()
    );
}

#[test]
fn a_401_is_never_kept_nor_given_to_others() {
    let stage = Stage::open(Variant::Closed);
    let larder = stage.larder();
    let forged = Credential::token("nobody");
    let known = Credential::token("student04");
    for _ in 0..2 {
        for target in everything() {
            for stranger in [&Credential::Anonymous, &forged] {
                let (answer, reached) =
                    stage.reaching_django(|| get(target).by(stranger).to(larder.port));
                assert_eq!(answer.status, 401, "{target}: {answer:?}");
                assert!(!answer.is_hit() && !answer.is_stored(), "{answer:?}");
                assert_eq!(reached.len(), 1, "{target}");
                assert!(answer.field("www-authenticate").is_some(), "{answer:?}");
            }
            assert_eq!(
                get(target).by(&known).to(larder.port).status,
                200,
                "{target}"
            );
        }
    }
    let keys = stage.redis_lines(&["-n", "1", "KEYS", "*"]);
    assert!(
        !keys.contains(&"it360acad:users:list".to_owned()),
        "the shared copy can only be the 401: {keys:?}"
    );
}

#[test]
fn a_login_through_larder_is_given_its_cookies_and_they_are_never_replayed() {
    let stage = Stage::open(Variant::Open);
    let larder = stage.larder();
    let (one, two) = (
        login("student04").to(larder.port),
        login("student05").to(larder.port),
    );
    assert_eq!(one.fields("set-cookie").len(), 2, "{one:?}");
    assert_ne!(one.fields("set-cookie"), two.fields("set-cookie"));
    let me = get("/api/users/me/")
        .by(&Credential::from_login(&two))
        .to(larder.port);
    assert_eq!(me.json()["username"], "student05");
}

// ---- What splits a copy ----

#[test]
fn each_language_has_a_copy_of_its_own() {
    let stage = Stage::open(Variant::Open);
    let larder = stage.larder();
    let languages = [
        ("", "Student"),
        ("de", "Schüler"),
        ("ru", "Ученик"),
        ("en", "Student"),
    ];
    let ask = |language: &str, larder: &Larder| match language {
        "" => get(SEVEN).to(larder.port),
        language => get(SEVEN)
            .field("Accept-Language", language)
            .to(larder.port),
    };
    for pass in 0..3 {
        for (language, name) in languages {
            let answer = ask(language, &larder);
            assert_eq!(
                answer.json()["role_display"],
                name,
                "{language:?}: {answer:?}"
            );
            // The first copy may have been stored before the route was known to vary.
            assert!(pass < 2 || answer.is_hit(), "{language:?}: {answer:?}");
        }
    }
    // One that has not seen any answer vary.
    let second = stage.larder();
    for (language, name) in languages {
        assert_eq!(
            ask(language, &second).json()["role_display"],
            name,
            "{language:?}"
        );
    }
    assert_eq!(rename(SEVEN).by(&admin()).to(larder.port).status, 200);
    for (language, _) in languages {
        let answer = ask(language, &larder);
        assert!(!answer.is_hit(), "{language:?} outlived the write");
        assert_eq!(
            answer.json()["first_name"],
            get(SEVEN).to(stage.django).json()["first_name"]
        );
    }
}

#[test]
fn each_origin_is_answered_with_its_own_cors_fields() {
    let stage = Stage::open(Variant::Open);
    let (larder, second) = (stage.larder(), stage.larder());
    for pass in 0..3 {
        for origin in [
            "https://app.example.org",
            "",
            "https://school.example.org",
            "https://evil.example",
        ] {
            for larder in [&larder, &second] {
                let asked = if origin.is_empty() {
                    get(SEVEN)
                } else {
                    get(SEVEN).field("Origin", origin)
                };
                let answer = asked.to(larder.port);
                let expected = Some(origin).filter(|origin| origin.ends_with(".example.org"));
                assert_eq!(
                    answer.field("access-control-allow-origin"),
                    expected,
                    "{origin:?}: {answer:?}"
                );
                assert!(pass < 2 || answer.is_hit(), "{origin:?}: {answer:?}");
            }
        }
    }
}

#[test]
fn a_list_is_kept_in_each_language_for_each_origin() {
    let stage = Stage::open(Variant::Open);
    let larder = stage.larder();
    let list = "/api/users/?page_size=20&ordering=username";
    for pass in 0..3 {
        for (language, role) in [("de", "Schüler"), ("ru", "Ученик"), ("en", "Student")] {
            for origin in [
                "https://app.example.org",
                "https://school.example.org",
                "https://evil.example",
            ] {
                let asked = get(list)
                    .field("Accept-Language", language)
                    .field("Origin", origin);
                let (answer, truth) = (asked.to(larder.port), asked.to(stage.django));
                let what = format!("{language} for {origin}: {answer:?}");
                let allowed = Some(origin).filter(|origin| origin.ends_with(".example.org"));
                assert_eq!(
                    answer.field("access-control-allow-origin"),
                    allowed,
                    "{what}"
                );
                assert_eq!(answer.field("content-language"), Some(language), "{what}");
                let shown = answer.json();
                let shown = shown["results"].as_array().unwrap();
                assert!(
                    shown.iter().any(|user| user["role_display"] == role),
                    "{what}"
                );
                assert_eq!(answer.body, truth.body, "{what}");
                // The first copy may have been stored before the route was known to vary.
                assert!(pass < 2 || answer.is_hit(), "{what}");
            }
        }
    }
}

#[test]
fn a_family_at_its_cap_is_answered_rightly_keeps_its_plain_list_and_says_so_once() {
    let stage = Stage::open(Variant::Open);
    let larder = stage.larder_with(|file| file + "\nlimits: {copies: 5}\n");
    get("/api/users/").to(larder.port);
    for size in 1..=9 {
        let list = format!("/api/users/?page_size={size}");
        let (first, again) = (get(&list).to(larder.port), get(&list).to(larder.port));
        for answer in [&first, &again] {
            assert_eq!(answer.body, get(&list).to(stage.django).body, "{list}");
        }
        let is_kept = size <= 5;
        assert_eq!(
            (first.is_stored(), again.is_hit()),
            (is_kept, is_kept),
            "{list}"
        );
        for answer in [&first, &again] {
            let says = answer.cache_status().contains("detail=too-many-copies");
            assert_eq!(says, !is_kept, "{list}: {answer:?}");
        }
    }
    assert!(get("/api/users/").to(larder.port).is_hit());
    assert!(get("/api/users/?page_size=5").to(larder.port).is_hit());
    let said = larder.logged("as many copies as `limits.copies` allows");
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("users:list"), "{said:?}");

    // What is not kept is not stale either.
    assert_eq!(rename(SEVEN).by(&admin()).to(larder.port).status, 200);
    for list in [
        "/api/users/",
        "/api/users/?page_size=5",
        "/api/users/?page_size=9",
    ] {
        let answer = get(list).to(larder.port);
        assert_eq!(answer.body, get(list).to(stage.django).body, "{list}");
    }
}

#[test]
fn a_parameter_that_the_route_does_not_list_is_treated_as_the_route_says() {
    let stage = Stage::open(Variant::Open);
    let larder = |other: &str| {
        stage.larder_with(|file| {
            let query = format!("    query: {{allow: [page, page_size], other: {other}}}\n");
            let edited = file.replace("key: users:list\n", &format!("key: users:list\n{query}"));
            assert_ne!(file, edited);
            edited
        })
    };
    let listed = "/api/users/?page=2&page_size=5";
    let tracked = |by: &str| format!("/api/users/?page=2&{by}&page_size=5");
    // In this order: the pairs of a fill are sorted.
    let truth = get(listed).to(stage.django).body;
    let is_kept = |larder: &Larder| {
        get(listed).to(larder.port);
        let answer = get(listed).to(larder.port);
        assert!(answer.is_hit() && answer.body == truth, "{answer:?}");
    };

    let ignoring = larder("ignore");
    let (answer, reached) =
        stage.reaching_django(|| get(&tracked("utm_source=mail")).to(ignoring.port));
    assert!(answer.is_stored() && answer.body == truth, "{answer:?}");
    assert_eq!(reached[0]["target"], listed);
    let (answer, reached) =
        stage.reaching_django(|| get(&tracked("utm_source=chat&fbclid=1")).to(ignoring.port));
    assert!(answer.is_hit() && answer.body == truth, "{answer:?}");
    assert!(reached.is_empty(), "{reached:?}");
    is_kept(&ignoring);

    let bypassing = larder("bypass");
    for _ in 0..2 {
        let searched = tracked("search=student07");
        let (answer, reached) = stage.reaching_django(|| get(&searched).to(bypassing.port));
        assert_eq!(
            answer.cache_status(),
            "larder; fwd=bypass; fwd-status=404; detail=parameter"
        );
        assert_eq!(reached[0]["target"], searched);
        let ordered = tracked("ordering=-username");
        let answer = get(&ordered).to(bypassing.port);
        assert!(!answer.is_hit() && !answer.is_stored(), "{answer:?}");
        assert_eq!(answer.json(), get(&ordered).to(stage.django).json());
    }
    is_kept(&bypassing);

    let rejecting = larder("reject");
    let (answer, reached) =
        stage.reaching_django(|| get(&tracked("search=student07")).to(rejecting.port));
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(
        answer.cache_status().contains("detail=refused"),
        "{answer:?}"
    );
    assert!(reached.is_empty(), "{reached:?}");
    is_kept(&rejecting);
}

#[test]
fn a_list_that_varies_by_what_the_key_does_not_hold_is_not_kept_until_the_route_names_it() {
    let stage = Stage::open(Variant::Tenants);
    let ask = |tenant: &str, larder: &Larder| {
        let answer = get("/api/users/?page_size=5")
            .field("X-Tenant", tenant)
            .to(larder.port);
        assert_eq!(answer.field("x-for-tenant"), Some(tenant), "{answer:?}");
        answer
    };
    let larder = stage.larder();
    // Also what was asked without it: it may not be kept for those who will ask with it.
    for _ in 0..2 {
        for answer in [
            ask("north", &larder),
            ask("south", &larder),
            get("/api/users/?page_size=5").to(larder.port),
        ] {
            assert!(!answer.is_hit() && !answer.is_stored(), "{answer:?}");
            assert!(
                answer.cache_status().contains("detail=vary-unkeyed"),
                "{answer:?}"
            );
        }
    }
    let said = larder.logged("add `vary: [x-tenant]` to the route");
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("/api/users/"), "{said:?}");

    let splitting = stage.larder_with(|file| {
        let edited = file.replace(
            "key: users:list\n",
            "key: users:list\n    vary: [X-Tenant]\n",
        );
        assert_ne!(file, edited);
        edited
    });
    for pass in 0..3 {
        for tenant in ["north", "south"] {
            let answer = ask(tenant, &splitting);
            // The first copy may have been stored before the route was known to vary by language as well.
            assert!(pass < 2 || answer.is_hit(), "{answer:?}");
        }
    }
    let write = rename(SEVEN).by(&admin()).field("X-Tenant", "north");
    assert_eq!(write.to(splitting.port).status, 200);
    for tenant in ["north", "south"] {
        assert!(
            !ask(tenant, &splitting).is_hit(),
            "{tenant} outlived the write"
        );
    }
}

#[test]
fn a_cors_preflight_is_answered_by_django() {
    let stage = Stage::open(Variant::Open);
    let larder = stage.larder();
    let (answer, reached) = stage.reaching_django(|| {
        options(SEVEN)
            .field("Origin", "https://app.example.org")
            .field("Access-Control-Request-Method", "PATCH")
            .to(larder.port)
    });
    assert_eq!(reached.len(), 1);
    assert_eq!(
        answer.field("access-control-allow-origin"),
        Some("https://app.example.org")
    );
    assert!(
        answer
            .field("access-control-allow-methods")
            .unwrap()
            .contains("PATCH")
    );
}

#[test]
fn a_client_that_accepts_gzip_is_given_the_right_content() {
    let stage = Stage::open(Variant::Open);
    let larder = stage.larder();
    let target = "/api/users/?page_size=50";
    let truth = get(target).to(stage.django);
    let packed = get(target)
        .field("Accept-Encoding", "gzip")
        .to(stage.django);
    assert_eq!(
        packed.field("content-encoding"),
        Some("gzip"),
        "Django does not compress at all"
    );
    for codings in ["gzip", "gzip, deflate, br", "", "identity", "gzip"] {
        let asked = if codings.is_empty() {
            get(target)
        } else {
            get(target).field("Accept-Encoding", codings)
        };
        let answer = asked.to(larder.port);
        assert!(
            codings.contains("gzip") || answer.field("content-encoding").is_none(),
            "{answer:?}"
        );
        assert_eq!(answer.content(), truth.body, "{codings:?}");
    }
    assert!(
        get(target)
            .field("Accept-Encoding", "gzip")
            .to(larder.port)
            .is_hit()
    );
}

#[test]
fn a_page_for_browsers_is_never_kept_nor_given_to_who_asks_for_json() {
    let stage = Stage::open(Variant::Open);
    let larder = stage.larder();
    let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    for _ in 0..2 {
        let page = get(SEVEN).field("Accept", browser).to(larder.port);
        assert_eq!(page.field("content-type"), Some("text/html; charset=utf-8"));
        assert!(
            !page.is_hit() && !page.is_stored(),
            "{:?}",
            page.cache_status()
        );
        for accept in ["application/json", "*/*"] {
            let answer = get(SEVEN).field("Accept", accept).to(larder.port);
            assert_eq!(answer.json()["username"], "student07");
            assert!(answer.fields("set-cookie").is_empty());
        }
    }
    assert!(get(SEVEN).to(larder.port).is_hit());
}

/// `csrftoken` is an ignored cookie, so such a page would be everybody's; and DRF writes the token into it.
#[test]
fn a_page_asked_for_by_its_format_parameter_is_not_given_to_another() {
    let stage = Stage::open(Variant::Open);
    let larder = stage.larder();
    let mut pages = Vec::new();
    for csrf in ["a".repeat(32), "b".repeat(32)] {
        let page = get("/api/users/7/?format=api")
            .field("Accept", "application/xml, */*;q=0.1")
            .field("Cookie", &format!("csrftoken={csrf}"))
            .to(larder.port);
        assert_eq!(
            page.field("content-type"),
            Some("text/html; charset=utf-8"),
            "{page:?}"
        );
        assert!(!page.is_hit(), "{:?}", page.cache_status());
        pages.push(page.body);
    }
    assert_ne!(pages[0], pages[1]);
}

// ---- UUID ids ----

#[test]
fn users_with_uuid_ids_are_kept_and_dropped_by_their_uuid() {
    let stage = Stage::open(Variant::Uuid);
    let larder = stage.larder_with(|file| {
        let edited = file.replace("<int:id>", "<uuid:id>");
        assert_ne!(file, edited);
        edited
    });
    let seven = "/api/users/00000000-0000-0000-0000-000000000007/";
    let eight = "/api/users/00000000-0000-0000-0000-000000000008/";
    let reader = Credential::token("student04");
    let warm = || {
        for target in ["/api/users/", seven, eight] {
            for reader in [&Credential::Anonymous, &reader] {
                get(target).by(reader).to(larder.port);
                assert!(get(target).by(reader).to(larder.port).is_hit(), "{target}");
            }
        }
    };
    let kept = |expected: &[&str]| {
        for target in ["/api/users/", seven, eight] {
            for reader in [&Credential::Anonymous, &reader] {
                let answer = get(target).by(reader).to(larder.port);
                assert_eq!(
                    answer.is_hit(),
                    expected.contains(&target),
                    "{target}: {answer:?}"
                );
                assert_eq!(
                    answer.body,
                    get(target).by(reader).to(stage.django).body,
                    "{target}"
                );
            }
        }
    };

    warm();
    let keys = stage.redis_lines(&["-n", "1", "KEYS", "it360acad:users:*"]);
    let key = "it360acad:users:detail:00000000-0000-0000-0000-000000000007";
    assert!(keys.contains(&key.to_owned()), "{keys:?}");

    assert_eq!(rename(seven).by(&admin()).to(larder.port).status, 200);
    kept(&[eight]);

    warm();
    let encoded = "/api/users/%30%30000000-0000-0000-0000-000000000007/";
    assert_eq!(rename(encoded).by(&admin()).to(larder.port).status, 200);
    kept(&[eight]);

    warm();
    assert_eq!(
        rename("/api/users/me/").by(&reader).to(larder.port).status,
        200
    );
    kept(&[]);

    warm();
    assert_eq!(
        post("/api/users/")
            .by(&admin())
            .json(&a_new_user())
            .to(larder.port)
            .status,
        201
    );
    kept(&[seven, eight]);

    warm();
    assert_eq!(
        post(&format!("{seven}activate/"))
            .by(&admin())
            .to(larder.port)
            .status,
        200
    );
    kept(&[]);

    warm();
    let bulk = json!({"ids": ["00000000-0000-0000-0000-000000000008"], "role": "parent"});
    assert_eq!(
        post("/api/users/bulk/")
            .by(&admin())
            .json(&bulk)
            .to(larder.port)
            .status,
        200
    );
    kept(&[]);
}

#[test]
fn the_doctor_knows_djangos_own_words() {
    // The level and the remedy of a check.
    let check = |told: &Value, code: &str| {
        let checks = told["checks"].as_array().unwrap().iter();
        let mut found = checks.filter(|check| check["code"] == code);
        let check = found
            .next()
            .unwrap_or_else(|| panic!("no {code} in {told:#}"));
        let word = |name: &str| check[name].as_str().unwrap_or_default().to_owned();
        (word("level"), word("remedy"))
    };
    let same = |yaml: String| yaml;
    {
        let stage = Stage::open(Variant::Open);
        let told = stage.told(&["doctor"], None, same);
        assert_eq!(told["wrong"], 0, "{told:#}");
        assert_eq!(check(&told, "route").0, "ok");

        let told = stage.told(&["doctor", "-H", "Host: not.listed.example"], None, same);
        let (level, remedy) = check(&told, "upstream-host");
        assert_eq!(level, "wrong");
        assert!(
            remedy.contains("ALLOWED_HOSTS = [\"not.listed.example\""),
            "{remedy}"
        );

        let without_slash =
            |yaml: String| yaml.replace("path: /api/users/\n    key", "path: /api/users\n    key");
        let told = stage.told(&["doctor"], None, without_slash);
        let (level, remedy) = check(&told, "route-slash");
        assert_eq!(level, "wrong");
        assert!(remedy.contains("path: /api/users/"), "{remedy}");
    }
    {
        let stage = Stage::open(Variant::Closed);
        let public = |yaml: String| yaml.replacen("access: per-credential", "access: public", 1);
        let told = stage.told(&["doctor"], None, public);
        assert_eq!(check(&told, "route-public").0, "wrong");
        let told = stage.told(&["doctor"], None, same);
        assert_eq!(told["wrong"], 0, "{told:#}");
        let token = ["doctor", "-H", "Authorization: Token token-teacher"];
        assert_eq!(check(&stage.told(&token, None, same), "route").0, "ok");
    }
    let stage = Stage::open(Variant::Uuid);
    let told = stage.told(&["doctor"], None, same);
    let kept = told["checks"].as_array().unwrap().iter();
    let kept: Vec<&Value> = kept
        .filter(|check| check["code"] == "upstream-keep-alive")
        .collect();
    assert!(
        kept[0]["seen"].as_str().unwrap().contains("sync worker"),
        "{told:#}"
    );
}

#[test]
fn explain_says_what_a_real_write_has_dropped() {
    let stage = Stage::open(Variant::Open);
    let larder = stage.larder();
    let ask = |target: &str| {
        let told = ["explain", target, "--ask", "-H", "Host: localhost"];
        stage.told(&told, Some(&larder), |yaml| yaml)
    };
    get(SEVEN).to(larder.port);
    get(EIGHT).to(larder.port);
    assert_eq!(ask(SEVEN)["cache"], "hit");
    let write = patch(SEVEN).by(&Credential::token("admin"));
    let answer = write.json(&json!({"first_name": "Zarina"})).to(larder.port);
    assert_eq!(answer.status, 200);
    let told = ask(SEVEN);
    assert_eq!(told["detail"], "purged", "{told:#}");
    assert_eq!(told["answer"]["kept"], true, "{told:#}");
    assert_eq!(ask(EIGHT)["cache"], "hit");
}
