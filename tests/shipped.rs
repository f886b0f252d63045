//! What is shipped works as it stands: the demo with the very lines it prints, and proxy.yaml, embedded and on Redis.

mod support;

use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use support::client::{Answer, Connection};
use support::larder::{Larder, Output, command};
use support::origin::{self, Origin};
use support::redis::{RedisServer, signal};
use support::{eventually, users_api};

const PROXY_YAML: &str = include_str!("../proxy.yaml");

#[test]
fn the_lines_that_the_demo_prints_show_a_miss_a_hit_a_purge_and_the_new_value() {
    let mut demo = command(&[])
        .args(["demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let output = Output::of(&mut demo);
    let mut demo = Killed(demo);
    eventually("the demo has printed its lines", || {
        output.so_far().contains("Ctrl-C")
    });
    let text = output.so_far();
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("curl "))
        .collect();
    let answers: Vec<Answer> = lines.iter().map(|line| curl(line)).collect();
    assert!(
        answers.iter().all(Answer::is_complete_success),
        "{answers:?}"
    );

    let [miss, hit, other, patch, anew, keys] = &answers[..] else {
        panic!("other lines than these: {lines:?}")
    };
    assert!(
        miss.cache_status().contains("fwd=uri-miss") && miss.cache_status().contains("stored"),
        "{miss:?}"
    );
    assert!(hit.is_hit() && hit.text() == miss.text(), "{hit:?}");
    hit.age();
    assert!(
        !other.is_hit() && patch.text().contains("Grace"),
        "{other:?} {patch:?}"
    );
    assert!(
        !anew.is_hit() && anew.text().contains("Grace") && !miss.text().contains("Grace"),
        "{anew:?}"
    );
    assert!(keys.text().contains("users:list"), "{keys:?}");

    signal("-INT", demo.0.id());
    assert_eq!(demo.0.wait().unwrap().code(), Some(0));
}

/// The lines are the README's; what each must show stands behind it.
#[test]
fn the_readmes_clients_see_what_the_readme_says() {
    let readme = include_str!("../README.md");
    let (_, block) = readme.split_once("curl -i $P").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    let written = AtomicUsize::new(0);
    let origin = Origin::start(move |request| match request.method.as_str() {
        "PATCH" => {
            written.fetch_add(1, Ordering::SeqCst);
            origin::json("{}")
        }
        // Another after the first write, and after the second as before.
        _ if written.load(Ordering::SeqCst) == 1 => origin::json("[\"other\"]"),
        _ => origin::json("[\"first\"]"),
    });
    let more = "key: users:list, ttl: 3s, etag: true, stale_while_revalidate: 1h";
    let yaml = users_api(&origin, "memory:", "").replace("key: users:list", more);
    let larder = Larder::start(yaml);
    let proxy = format!("http://{}", larder.address());
    let mut tag = None;
    for line in format!("curl -i $P{block}").lines() {
        let Some((line, expected)) = line.split_once(" # ") else {
            continue;
        };
        // A shell puts the tag in only where the quotes are double ones; `words` knows the others.
        assert!(!line.contains("$TAG'"), "{line}");
        let line = line.replace("$P", &proxy).replace('"', "'");
        let line = line.replace("$TAG", tag.as_deref().unwrap_or("none"));
        eventually(&format!("{line} shows {expected}"), || {
            let answer = curl(&line);
            let shown = format!("{} {}", answer.status, answer.cache_status());
            if tag.is_none() {
                tag = answer.field("etag").map(str::to_owned);
            }
            // The last one waits for its time; the others are right at once.
            let right = expected.split(' ').all(|word| shown.contains(word));
            assert!(right || expected.contains("stale"), "{line}: {shown}");
            right
        });
    }
}

#[test]
fn the_shipped_file_is_embedded_without_a_redis_url() {
    let origin = users();
    let larder = Larder::with(PROXY_YAML)
        .env("UPSTREAM", origin.url())
        .start();
    keeps_and_purges(&larder);
}

#[test]
fn the_shipped_file_uses_redis_when_its_url_is_set_and_leaves_celerys_database_alone() {
    let redis = RedisServer::start();
    let origin = users();
    // As a Django project with Celery has it: with a path, and that is Celery's.
    let url = format!("{}/0", redis.url());
    let larder = Larder::with(PROXY_YAML)
        .env("UPSTREAM", origin.url())
        .env("REDIS_URL", url)
        .start();
    keeps_and_purges(&larder);
    for target in ["/api/users/", "/api/users/7/"] {
        larder.get(target);
    }
    let keys = redis.keys();
    for key in ["it360acad:users:list", "it360acad:users:detail:7"] {
        assert!(
            keys.iter().any(|there| there == key),
            "{key} is not among {keys:?}"
        );
        let value = redis.get(key).unwrap();
        assert!(
            value.starts_with(b"{\"n\":"),
            "{}",
            String::from_utf8_lossy(&value)
        );
    }
    for key in &keys {
        assert!(
            key.starts_with("it360acad:") && redis.run(&["PTTL", key]).number() > 0,
            "{key}"
        );
    }
    assert!(redis.keys_in(0).is_empty());
}

#[test]
fn the_shipped_file_passes_its_own_check() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("proxy.yaml");
    std::fs::write(&file, PROXY_YAML).unwrap();
    let exit = support::larder::run(&["check", "-c", file.to_str().unwrap()], &[]);
    assert!(exit.status.success(), "{exit:?}");
}

/// Django answers a form that it has saved with a redirect.
#[test]
fn the_line_for_the_admin_drops_what_its_forms_write_once_it_is_uncommented() {
    let origin = Origin::start(|request| match &*request.method {
        "GET" => origin::json("{}"),
        _ => origin::status(302, "").field("Location", "/admin/auth/user/"),
    });
    let file = PROXY_YAML.replacen("  # - {methods: POST", "  - {methods: POST", 1);
    let larder = Larder::with(file).env("UPSTREAM", origin.url()).start();
    for target in ["/api/users/", "/api/users/7/"] {
        larder.get(target);
        assert!(larder.get(target).is_hit());
    }
    larder.write("POST", "/admin/auth/user/7/change/");
    for target in ["/api/users/", "/api/users/7/"] {
        assert!(!larder.get(target).is_hit(), "{target}");
    }
}

/// As djangorestframework-bulk takes them: whom they change stands in their content.
#[test]
fn a_write_to_many_at_the_path_of_the_list_drops_each_of_them() {
    let origin = users();
    let larder = Larder::with(PROXY_YAML)
        .env("UPSTREAM", origin.url())
        .start();
    let all = ["/api/users/", "/api/users/7/", "/api/users/8/"];
    for method in ["PUT", "PATCH", "DELETE"] {
        for target in all {
            larder.get(target);
            assert!(larder.get(target).is_hit(), "{target}");
        }
        assert_eq!(larder.write(method, "/api/users/").status, 200);
        for target in all {
            assert!(!larder.get(target).is_hit(), "{method}: {target}");
        }
    }
}

/// Where ids are any text, `me` is one, and stands for somebody who has another.
#[test]
fn with_ids_of_any_text_a_write_drops_what_the_file_then_asks_for() {
    let said = r#"the third rule must drop "users:detail:*" in the place of "users:detail:{id}""#;
    assert!(PROXY_YAML.contains(said));
    let file = PROXY_YAML.replace("<int:id>", "<id>").replacen(
        r#""users:list", "users:detail:{id}""#,
        r#""users:list", "users:detail:*""#,
        1,
    );
    let origin = users();
    let larder = Larder::with(file).env("UPSTREAM", origin.url()).start();
    let (me, ann) = ("/api/users/me/", "/api/users/ann/");
    for written in [me, ann, "/api/users/bulk/"] {
        for target in [me, ann] {
            larder.get(target);
            assert!(larder.get(target).is_hit(), "{target}");
        }
        assert_eq!(larder.write("PATCH", written).status, 200);
        for target in [me, ann] {
            assert!(!larder.get(target).is_hit(), "{written}: {target}");
        }
    }
}

fn users() -> Origin {
    Origin::start(|request| origin::json(format!("{{\"n\":{}}}", request.number)))
}

fn keeps_and_purges(larder: &Larder) {
    for target in ["/api/users/", "/api/users/7/"] {
        assert!(!larder.get(target).is_hit());
        assert!(larder.get(target).is_hit(), "{target}");
    }
    for (method, target) in [
        ("POST", "/api/users/"),
        ("PATCH", "/api/users/7/"),
        ("PATCH", "/api/users/me/"),
    ] {
        larder.get("/api/users/");
        assert_eq!(larder.write(method, target).status, 200);
        assert!(!larder.get("/api/users/").is_hit(), "{method} {target}");
    }
    assert!(!larder.get("/api/users/7/").is_hit());
}

/// Does what curl would do with such a line; a machine without it can run this test, too.
fn curl(line: &str) -> Answer {
    let line = line.split(" #").next().unwrap();
    let (mut method, mut body, mut fields, mut url) = ("GET", "", Vec::new(), "");
    let mut words = words(line).into_iter().skip(1);
    while let Some(word) = words.next() {
        match word {
            "-i" | "-s" => {}
            "-I" => method = "HEAD",
            "-X" => method = words.next().unwrap(),
            "-d" => body = words.next().unwrap(),
            "-H" => fields.push(words.next().unwrap().split_once(": ").unwrap()),
            word if word.starts_with("http://") => url = word,
            other => panic!("an option that this test does not know: {other}"),
        }
    }
    let (address, path) = url
        .strip_prefix("http://")
        .unwrap()
        .split_once('/')
        .unwrap();
    fields.push(("Host", address));
    Connection::open(address.parse().unwrap()).request(
        method,
        &format!("/{path}"),
        &fields,
        body.as_bytes(),
    )
}

/// The words of a shell line that quotes with ' alone.
fn words(line: &str) -> Vec<&str> {
    line.split('\'')
        .enumerate()
        .flat_map(|(number, part)| {
            if number % 2 == 1 {
                vec![part]
            } else {
                part.split_whitespace().collect()
            }
        })
        .collect()
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Both fail where it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
