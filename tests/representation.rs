//! An answer on its way out: what a client is sent of it, and in which form.

mod support;

use support::client::Answer;
use support::larder::Larder;
use support::origin::{self, Origin};
use support::{Gate, PURGE};

const LIST: &str = "/api/users/";
const BODY: &str = r#"[{"id": 1, "name": "Ada"}, {"id": 2, "name": "Grace"}]"#;

/// The users API with these keys on both its routes.
fn users(origin: &Origin, keys: &str) -> Larder {
    let upstream = origin.url();
    Larder::start(format!(
        r#"upstream: {upstream}
store: {{prefix: t}}
routes:
  - {{path: /api/users/, key: users:list, {keys}}}
  - {{path: "/api/users/<int:id>/", key: "users:detail:{{id}}", {keys}}}
{PURGE}"#
    ))
}

#[track_caller]
fn tag(answer: &Answer) -> String {
    let tags = answer.fields.all("etag");
    assert_eq!(tags.len(), 1, "{answer:?}");
    tags[0].to_owned()
}

#[test]
fn an_answer_without_an_etag_gets_a_weak_one_from_the_miss_on() {
    let origin = Origin::start(|_| origin::json(BODY));
    let larder = users(&origin, "etag: true");
    let miss = larder.get(LIST);
    assert!(!miss.is_hit() && tag(&miss).starts_with("W/\""), "{miss:?}");
    let hit = larder.get(LIST);
    assert!(hit.is_hit() && tag(&hit) == tag(&miss), "{hit:?}");
    let head = larder.request("HEAD", LIST, &[], b"");
    assert_eq!(tag(&head), tag(&miss), "{head:?}");
    let polled = larder.get_with(LIST, &[("If-None-Match", &tag(&miss))]);
    assert!(
        polled.status == 304 && tag(&polled) == tag(&miss),
        "{polled:?}"
    );
    // Without the key nothing is made.
    let larder = users(&origin, "etag: false");
    assert!(!larder.get(LIST).fields.has("etag"));
}

#[test]
fn a_client_that_polls_an_unchanged_list_is_told_so_after_a_purge_and_by_another_instance() {
    let origin = Origin::start(|_| origin::json(BODY));
    let larder = users(&origin, "etag: true");
    let known = tag(&larder.get(LIST));
    larder.write("POST", LIST);
    let polled = larder.get_with(LIST, &[("If-None-Match", &known)]);
    assert!(!polled.is_hit() && polled.status == 304, "{polled:?}");
    assert!(
        polled.cache_status().contains("detail=purged") && polled.cache_status().contains("stored"),
        "{polled:?}"
    );
    let polled = users(&origin, "etag: true").get_with(LIST, &[("If-None-Match", &known)]);
    assert_eq!(polled.status, 304, "{polled:?}");
}

#[test]
fn a_changed_list_is_sent_whole_with_another_etag() {
    let origin = Origin::start(|request| origin::json(format!("[{}]", request.number)));
    let larder = users(&origin, "etag: true");
    let known = tag(&larder.get(LIST));
    larder.write("POST", LIST);
    let polled = larder.get_with(LIST, &[("If-None-Match", &known)]);
    assert!(polled.status == 200 && tag(&polled) != known, "{polled:?}");
}

#[test]
fn an_etag_of_the_origin_stays_as_it_is() {
    let origin = Origin::start(|_| origin::json(BODY).field("ETag", "\"v1\""));
    let larder = users(&origin, "etag: true");
    for _ in 0..2 {
        assert_eq!(tag(&larder.get(LIST)), "\"v1\"");
    }
}

#[test]
fn an_answer_that_trickles_in_has_its_etag_all_the_same() {
    let gate = Gate::new();
    let behind = gate.clone();
    let origin = Origin::start(move |_| origin::json(BODY).chunked().pausing_after(20, &behind));
    let larder = users(&origin, "etag: true");
    let mut client = larder.connect();
    client.send(support::client::head("GET", LIST, &[], None).as_bytes());
    origin.wait_for(1);
    gate.open();
    let miss = client.answer("GET");
    assert!(miss.text() == BODY && !tag(&miss).is_empty(), "{miss:?}");
}
