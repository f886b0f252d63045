//! `access: {verify: …}` before a real Django: one list for all whom it admits, and nothing for whom it does not any more.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Credential, Larder, Response, Stage, Variant, get, post};

const LIST: &str = "/api/users/";
const ME: &str = "/api/users/me/";

pub fn larder(stage: &Stage, verify: &str) -> Larder {
    stage.larder_with(|yaml| {
        let edited = yaml.replace(
            "access: per-credential",
            &format!("access: {{verify: {ME}, {verify}}}"),
        );
        assert_ne!(yaml, edited);
        // All that can be said is said.
        edited + "\nlogs: {level: trace, format: json}\n"
    })
}

pub fn list(larder: &Larder, who: &Credential) -> Response {
    get(LIST).by(who).to(larder.port)
}

/// How many GETs of this path are among what reached Django.
pub fn asked(reached: &[Value], path: &str) -> usize {
    let of = |request: &&Value| request["method"] == "GET" && request["target"] == path;
    reached.iter().filter(of).count()
}

#[test]
fn a_thousand_users_of_one_role_cost_one_body_and_a_verdict_each_and_leave_no_trace_of_a_token() {
    let stage = Stage::open(Variant::Closed);
    let larder = larder(&stage, "for: 1h, scope: [/role]");
    stage.python(
        "from users.models import User; from rest_framework.authtoken.models import Token; \
         User.objects.bulk_create([User(username=f'crowd{n:04}', role='student', password='!') for n in range(1000)]); \
         Token.objects.bulk_create([Token(user=user, key='token-' + user.username) for user in User.objects.filter(username__startswith='crowd')])",
    );
    let ((), reached) = stage.reaching_django(|| {
        let first = list(&larder, &Credential::token("crowd0000"));
        assert_eq!(first.status, 200, "{first:?}");
        thread::scope(|scope| {
            for part in 0..4 {
                let (larder, first) = (&larder, &first);
                scope.spawn(move || {
                    for n in (part..1000).step_by(4) {
                        let answer = list(larder, &Credential::token(&format!("crowd{n:04}")));
                        assert_eq!(answer.status, 200, "{n}: {answer:?}");
                        assert_eq!(answer.body, first.body, "{n}");
                    }
                });
            }
        });
    });
    assert_eq!(asked(&reached, LIST), 1, "one body");
    let verdicts = asked(&reached, ME);
    assert!(verdicts > 0 && verdicts <= 1000, "{verdicts} verdicts");

    // Another role has a copy of its own, and who is not known has none.
    let (teacher, reached) = stage.reaching_django(|| list(&larder, &Credential::token("teacher")));
    assert_eq!((teacher.status, asked(&reached, LIST)), (200, 1));
    for unknown in [Credential::Anonymous, Credential::token("nobody")] {
        let answer = list(&larder, &unknown);
        assert!(answer.status == 401 && !answer.is_hit(), "{answer:?}");
    }

    let session = stage.session("teacher");
    assert_eq!(list(&larder, &session).status, 200);
    let kept = stage.dump();
    let metrics = get("/metrics").to(larder.admin);
    let told = String::from_utf8_lossy(&metrics.body).into_owned();
    let log = larder.log();
    let seen = kept.contains("\"username\"") && log.contains("TRACE");
    assert!(
        seen && told.contains("larder_verdicts_total"),
        "they were looked at"
    );
    let Credential::Session { cookies, csrf } = &session else {
        unreachable!("it is one");
    };
    let mut secrets = vec!["token-crowd", "token-teacher", "token-nobody", csrf];
    secrets.extend(
        cookies
            .split("; ")
            .filter_map(|cookie| cookie.split('=').nth(1)),
    );
    for told in [&kept, &log, &told] {
        for secret in &secrets {
            assert!(!told.contains(secret), "{secret}");
        }
    }
    stage.python(
        "from users.models import User; User.objects.filter(username__startswith='crowd').delete()",
    );
}

#[test]
fn who_is_revoked_is_refused_within_the_stated_seconds_and_after_a_logout_or_a_revocation_at_once()
{
    let stage = Stage::open(Variant::Closed);
    let larder = larder(&stage, "for: 2s, refuse_for: 1s");
    let (one, other) = (
        Credential::token("student07"),
        Credential::token("student08"),
    );
    for who in [&one, &other] {
        assert_eq!(list(&larder, who).status, 200);
    }
    assert!(list(&larder, &other).is_hit());
    stage.python(
        "from rest_framework.authtoken.models import Token; Token.objects.filter(user__username='student08').delete()",
    );
    let revoked = Instant::now();
    loop {
        // Looked at before it is asked: what is asked later than that may not be answered any more.
        let late = revoked.elapsed() > Duration::from_secs(2);
        match list(&larder, &other) {
            refused if refused.status == 401 => break,
            shown => assert!(!late && shown.is_hit(), "{shown:?}"),
        }
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(list(&larder, &one).status, 200, "nobody else is");
    assert!(list(&larder, &one).is_hit());

    let larder = self::larder(&stage, "for: 1h");
    let session = stage.session("student09");
    assert_eq!(list(&larder, &session).status, 200);
    assert!(list(&larder, &session).is_hit());
    let logout = post("/api/auth/logout/").by(&session).to(larder.port);
    assert_eq!(logout.status, 200, "{logout:?}");
    assert_eq!(list(&larder, &session).status, 401);

    assert_eq!(list(&larder, &one).status, 200);
    stage.python(
        "from rest_framework.authtoken.models import Token; Token.objects.filter(user__username='student07').delete()",
    );
    let revoked = json!({"credentials": ["Authorization: Token token-student07"]});
    let told = post("/purge").json(&revoked).to(larder.admin);
    assert_eq!(told.status, 200, "{told:?}");
    assert_eq!(list(&larder, &one).status, 401);
    assert!(stage.manage(&["seed"]).status().unwrap().success());
}
