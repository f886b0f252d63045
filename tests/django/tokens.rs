//! `access: {jwt: …}` before a real Django, which issues and takes its tokens by PyJWT: one list for all of a role, and for
//! nobody whose token is over or revoked.

use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::admission::{asked, list};
use crate::support::{Credential, JWT_SECRET, Larder, Stage, Variant, get, post};

const LIST: &str = "/api/users/";
const ME: &str = "/api/users/me/";

fn larder(stage: &Stage) -> Larder {
    stage.larder_with(|yaml| {
        let access = format!(
            "access: {{jwt: {{secret: {JWT_SECRET}, audience: users-api}}, scope: [/role]}}"
        );
        let edited = yaml.replace("access: per-credential", &access);
        assert_ne!(yaml, edited);
        edited + "\nlogs: {level: trace, format: json}\n"
    })
}

/// The tokens of these users, as Django issues them.
fn issued(stage: &Stage, users: &str, seconds: u32) -> Vec<Credential> {
    let told = stage.python(&format!(
        "from users.models import User; from users.tokens import issue; \
         [print(issue(user, {seconds})) for user in User.objects.filter({users}).order_by('id')]"
    ));
    let lines = told.lines().filter(|line| line.matches('.').count() == 2);
    lines
        .map(|line| Credential::Bearer(line.to_owned()))
        .collect()
}

#[test]
fn a_thousand_tokens_of_one_role_cost_one_body_and_no_question_and_leave_no_trace() {
    let stage = Stage::open(Variant::Closed);
    let larder = larder(&stage);
    stage.python(
        "from users.models import User; \
         User.objects.bulk_create([User(username=f'throng{n:04}', role='student', password='!') for n in range(1000)])",
    );
    let throng = issued(&stage, "username__startswith='throng'", 3600);
    assert_eq!(throng.len(), 1000);
    let ((), reached) = stage.reaching_django(|| {
        let first = list(&larder, &throng[0]);
        assert_eq!(first.status, 200, "{first:?}");
        thread::scope(|scope| {
            for part in throng.chunks(250) {
                let (larder, first) = (&larder, &first);
                scope.spawn(move || {
                    for who in part {
                        let answer = list(larder, who);
                        assert!(answer.status == 200 && answer.is_hit(), "{answer:?}");
                        assert_eq!(answer.body, first.body);
                    }
                });
            }
        });
    });
    assert_eq!((asked(&reached, LIST), asked(&reached, ME)), (1, 0));

    // Another role has a copy of its own, and who has no good token none.
    let teacher = issued(&stage, "username='teacher'", 3600).remove(0);
    let (answer, reached) = stage.reaching_django(|| list(&larder, &teacher));
    assert_eq!((answer.status, asked(&reached, LIST)), (200, 1));
    let Credential::Bearer(good) = &throng[1] else {
        unreachable!("it is one");
    };
    let (message, _) = good.rsplit_once('.').unwrap();
    for (unknown, status) in [
        (Credential::Anonymous, 401),
        (Credential::Bearer(format!("{message}.AAAA")), 401),
        (Credential::token("student07"), 200),
    ] {
        let answer = list(&larder, &unknown);
        assert!(answer.status == status && !answer.is_hit(), "{answer:?}");
    }

    let (kept, log) = (stage.dump(), larder.log());
    let metrics = get("/metrics").to(larder.admin);
    let told = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(
        kept.contains("\"username\"")
            && log.contains("TRACE")
            && told.contains("larder_requests_total"),
        "they were looked at"
    );
    for who in throng.iter().chain([&teacher]) {
        let Credential::Bearer(token) = who else {
            continue;
        };
        // The header is the same for all who use HS256, and no secret; neither of the others may be there.
        for part in token.split('.').skip(1) {
            assert!(
                ![&kept, &log, &told].iter().any(|text| text.contains(part)),
                "{part}"
            );
        }
    }
    assert!(
        ![&kept, &log, &told]
            .iter()
            .any(|text| text.contains(JWT_SECRET))
    );
    stage.python("from users.models import User; User.objects.filter(username__startswith='throng').delete()");
}

#[test]
fn a_token_is_refused_from_its_end_on_and_one_that_is_revoked_at_once_and_nobody_elses() {
    let stage = Stage::open(Variant::Closed);
    let larder = larder(&stage);
    let long = issued(&stage, "username__in=['student07', 'student08']", 3600);
    let [one, other] = &long[..] else {
        panic!("{} tokens", long.len());
    };
    for who in [one, other] {
        assert_eq!(list(&larder, who).status, 200);
        assert!(list(&larder, who).is_hit());
    }
    stage.python("from users.models import User; User.objects.filter(username='student08').update(is_active=False)");
    assert!(
        list(&larder, other).is_hit(),
        "its token is good by itself, and nobody has said otherwise"
    );
    let Credential::Bearer(token) = other else {
        unreachable!("it is one");
    };
    let revoked = json!({"credentials": [format!("Authorization: Bearer {token}")]});
    let told = post("/purge").json(&revoked).to(larder.admin);
    assert_eq!(told.status, 200, "{told:?}");
    for _ in 0..2 {
        assert_eq!(
            list(&larder, other).status,
            401,
            "Django refuses it, and is asked"
        );
    }
    assert!(list(&larder, one).is_hit());

    let brief = issued(&stage, "username='student09'", 8).remove(0);
    let end = ends(&brief);
    let began = Instant::now();
    loop {
        // Looked at before it is asked: what is asked later than that may not be a hit any more.
        let late = SystemTime::now() >= end;
        let answer = list(&larder, &brief);
        assert!(!(late && answer.is_hit()), "{answer:?}");
        if answer.status == 401 {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{answer:?}");
        thread::sleep(Duration::from_millis(20));
    }
    assert!(SystemTime::now() >= end, "no sooner");
    assert!(list(&larder, one).is_hit());
    assert!(stage.manage(&["seed"]).status().unwrap().success());
}

fn ends(who: &Credential) -> SystemTime {
    let Credential::Bearer(token) = who else {
        unreachable!("it is one");
    };
    let end = larder::access::token::claimed_end(token.as_bytes()).unwrap();
    UNIX_EPOCH + Duration::from_micros(end.as_micros())
}
