//! Where a shared copy is given by a verdict: whether the API answers what it is asked for one, and refuses whom it should;
//! and the keys of tokens.

use std::sync::Arc;

use http::StatusCode;

use crate::access::verdict::Scope;
use crate::access::{self, key_file};
use crate::config::{Access, Jwt, KeySource, Verify};
use crate::doctor::{Finding, Requests, ok, skipped, warning, wrong};
use crate::error::UpstreamFailure;
use crate::explain::Question;
use crate::proxy::{self, Client, Setup, admit};

pub(super) async fn examine(
    setup: &Arc<Setup>,
    requests: &Requests,
    tell: &mut impl FnMut(Finding),
) {
    let mut told: Vec<&Access> = Vec::new();
    for route in &setup.config.routes {
        if told.contains(&&route.access) {
            continue;
        }
        told.push(&route.access);
        match &route.access {
            Access::Verify(verify) => of_verify(setup, verify, requests, tell).await,
            Access::Jwt(jwt) => tell(of_jwt(jwt)),
            Access::PerCredential | Access::Public => {}
        }
    }
}

/// Asked without a credential, and with the operator's, if there is one.
async fn of_verify(
    setup: &Arc<Setup>,
    verify: &Verify,
    requests: &Requests,
    tell: &mut impl FnMut(Finding),
) {
    let config = &setup.config;
    let Some(client) = client(setup, verify, requests) else {
        return;
    };
    let mut nobody = client.clone();
    let fields = nobody.fields.to_mut();
    fields.remove(http::header::AUTHORIZATION);
    fields.remove(http::header::COOKIE);
    for name in &config.credential_headers {
        fields.remove(name);
    }
    let path = &verify.path;
    tell(without(
        path,
        admit::ask_upstream(setup, verify, &nobody).await,
    ));
    match access::has_credential(config, &client.fields) {
        true => tell(with(
            path,
            verify,
            admit::ask_upstream(setup, verify, &client).await,
        )),
        false => tell(skipped(
            "route-verify",
            format!("GET {path} was not asked with a credential: -H 'Authorization: …' for that"),
        )),
    }
}

fn client(setup: &Setup, verify: &Verify, requests: &Requests) -> Option<Client> {
    let question = Question {
        method: "GET".to_owned(),
        target: verify.path.clone(),
        fields: requests.fields.clone(),
        content: 0,
        from: None,
        server_name: None,
    };
    let (request, _) = question.request(&setup.config).ok()?;
    let peer = Some(std::net::Ipv4Addr::LOCALHOST.into());
    Some(proxy::accept(&setup.config, request, peer, None).ok()?.0)
}

type Said = Result<(StatusCode, Option<Scope>), UpstreamFailure>;

/// What it says of who sends no credential.
fn without(path: &str, said: Said) -> Finding {
    let code = "route-verify";
    let seen = |status: StatusCode| format!("GET {path}: {} without a credential", status.as_u16());
    match said {
        Ok((status, _)) if status.is_success() => warning(
            code,
            format!("{}: everybody is admitted", seen(status)),
            "name a path under `verify` that answers 401 to whom it does not know, or write `access: public`",
        ),
        Ok((status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN), _)) => {
            ok(code, format!("{}, as it should be", seen(status)))
        }
        Ok((status, _)) if status.is_redirection() => wrong(
            code,
            format!("{}: nobody is admitted by a redirect", seen(status)),
            "name the path as urls.py has it, its last slash included",
        ),
        Ok((StatusCode::NOT_FOUND, _)) => wrong(
            code,
            format!("{}: nobody is admitted", seen(StatusCode::NOT_FOUND)),
            "look into urls.py whether the path is written so, its last slash included",
        ),
        Ok((status, _)) => warning(
            code,
            seen(status),
            "it is to answer 2xx to whom it knows, and 401 or 403 to others: look at the API's log",
        ),
        Err(failure) => wrong(
            code,
            format!("GET {path}: no answer ({})", failure.word()),
            "look at the API's log: without an answer nobody is admitted",
        ),
    }
}

/// What it says of the operator's credential.
fn with(path: &str, verify: &Verify, said: Said) -> Finding {
    let code = "route-verify";
    match said {
        Ok((status, Some(scope))) => {
            let absent = { scope.0.iter() }.find(|(_, value)| value.is_none());
            match absent {
                None => ok(
                    code,
                    format!("GET {path}: {} with it: admitted", status.as_u16()),
                ),
                Some((pointer, _)) => warning(
                    code,
                    format!("GET {path}: admitted, but the answer has nothing at `{pointer}`"),
                    "correct `scope`: who has nothing there shares a copy with all others who have nothing",
                ),
            }
        }
        Ok((status, None)) if status.is_success() => wrong(
            code,
            format!(
                "GET {path}: {}, but its answer is no JSON, and `scope` asks for {}",
                status.as_u16(),
                verify.scope.join(" and ")
            ),
            "name a path that answers JSON: until then nobody is admitted",
        ),
        Ok((status, None)) => warning(
            code,
            format!(
                "GET {path}: {} with this credential: not admitted",
                status.as_u16()
            ),
            "try it with curl against the API itself; `verify` needs a path that each user may read",
        ),
        Err(failure) => wrong(
            code,
            format!("GET {path}: no answer ({})", failure.word()),
            "look at the API's log: without an answer nobody is admitted",
        ),
    }
}

fn of_jwt(jwt: &Jwt) -> Finding {
    let place = match &jwt.keys {
        KeySource::Secret(_) => "the secret of the file".to_owned(),
        KeySource::Pem(path) | KeySource::Jwks(path) => path.display().to_string(),
    };
    match key_file::read(&jwt.keys) {
        Ok(keys) => {
            let families = keys.families();
            let unused = { jwt.algorithms.iter() }.all(|own| !families.contains(&own.family()));
            let seen = format!("{place}: {}", keys.names().join(", "));
            match unused {
                false => ok("route-jwt", seen),
                true => wrong(
                    "route-jwt",
                    format!("{seen}: no key is for any of `algorithms`"),
                    "correct `algorithms`, or the file: until then no token is good",
                ),
            }
        }
        Err(why) => wrong(
            "route-jwt",
            format!("{place} {why}"),
            "mend the file, and let Larder's user read it: until then no token is good",
        ),
    }
}
