//! What `listen` shows over TLS: for how long it is good, and whether it is good for the hosts that are served.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{Finding, ok, warning, wrong};
use crate::clock::{self, Timestamp};
use crate::config::{Config, Tls};
use crate::message::target;
use crate::tls::certificates::Certificates;
use crate::tls::pair::{About, Covers, Pair, day};

/// Less than that is left: it is time.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);

pub fn examine(config: &Config, tell: &mut impl FnMut(Finding)) {
    if let Some(tls) = config.admin_tls.as_ref().filter(|_| config.admin.is_some()) {
        shown(&tls.own, tell);
    }
    let Some(about) = config.tls.as_ref().and_then(|tls| shown(tls, tell)) else {
        return;
    };
    let about: Vec<&About> = about.iter().map(|pair| &pair.about).collect();
    tell(names(&about, &hosts(config)));
}

fn shown(tls: &Tls, tell: &mut impl FnMut(Finding)) -> Option<Vec<Arc<Pair>>> {
    let pairs = match Certificates::read(tls) {
        Ok(certificates) => certificates.pairs(),
        Err(why) => {
            tell(wrong("tls-certificate", why.wrong.cause, why.wrong.remedy));
            return None;
        }
    };
    for (files, pair) in &pairs {
        tell(expiry(&files.cert, &pair.about, clock::now()));
        let beside = files.cert.with_file_name("fullchain.pem");
        if let Some(finding) = chain(&files.cert, &pair.about, beside.exists()) {
            tell(finding);
        }
    }
    Some(pairs.into_iter().map(|(_, pair)| pair).collect())
}

/// The hosts by which clients come, as far as the file says.
fn hosts(config: &Config) -> Vec<String> {
    let origin = config.canonical_origin.iter();
    let origin = origin.filter(|origin| origin.scheme == "https");
    let named = origin.map(|origin| &origin.authority).chain(&config.hosts);
    let mut hosts: Vec<String> = named
        .map(|host| {
            target::name(host)
                .trim_matches(['[', ']'])
                .to_ascii_lowercase()
        })
        .collect();
    hosts.sort();
    hosts.dedup();
    hosts
}

fn expiry(cert: &Path, about: &About, now: Timestamp) -> Finding {
    let (cert, ends) = (cert.display(), day(about.ends));
    let left = about.ends.since(now);
    let seen = format!("{cert} is good until {ends}");
    match left < SOON {
        false => ok("tls-certificate", seen),
        true => warning(
            "tls-certificate",
            format!("{seen}: {} days are left", left.as_secs() / (24 * 3600)),
            "renew it and put the new files in the same place: Larder takes them within seconds",
        ),
    }
}

/// Clients are not content with a certificate whose issuer they do not know.
fn chain(cert: &Path, about: &About, full_is_beside: bool) -> Option<Finding> {
    let alone = about.issuers == 0 && !about.self_signed;
    (alone && full_is_beside).then(|| {
        warning(
            "tls-chain",
            format!("{} holds the server's own certificate alone", cert.display()),
            "name the fullchain.pem beside it, or clients that do not know the one who signed it refuse the connection",
        )
    })
}

fn names(pairs: &[&About], hosts: &[String]) -> Finding {
    let bare: Vec<&str> = hosts
        .iter()
        .filter(|host| pairs.iter().all(|about| about.covers(host) == Covers::Not))
        .map(String::as_str)
        .collect();
    let shown: Vec<&str> = pairs
        .iter()
        .flat_map(|about| about.names.iter().map(String::as_str))
        .collect();
    let shown = match shown.as_slice() {
        [] => "no name (of what is in its subject alone, clients take no notice)".to_owned(),
        names => names.join(", "),
    };
    match bare.as_slice() {
        [] => ok("tls-names", format!("for {shown}")),
        bare => wrong(
            "tls-names",
            format!(
                "no certificate is for {}; they are for {shown}",
                bare.join(", ")
            ),
            "have one issued with that name in its subjectAltName, or take the name out of `hosts` and `canonical_origin`",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    const NOW: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

    fn about(names: &[&str], days_left: u64) -> About {
        About {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            begins: NOW,
            ends: NOW.plus(Duration::from_secs(days_left * 24 * 3600)),
            issuers: 0,
            self_signed: false,
        }
    }

    #[test]
    fn a_certificate_that_ends_within_a_fortnight_is_warned_of() {
        let level = |days| expiry(Path::new("a.pem"), &about(&[], days), NOW).level;
        assert_eq!([level(15), level(13)], [Level::Ok, Level::Warning]);
    }

    #[test]
    fn a_host_that_is_served_and_in_no_certificate_is_wrong() {
        let (one, other) = (
            about(&["api.example.org"], 90),
            about(&["*.example.net"], 90),
        );
        let judge = |hosts: &[&str]| {
            let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
            names(&[&one, &other], &hosts)
        };
        assert_eq!(judge(&[]).level, Level::Ok);
        assert_eq!(
            judge(&["api.example.org", "x.example.net"]).level,
            Level::Ok
        );
        let deeper = judge(&["api.example.org", "a.b.example.net", "example.net"]);
        assert_eq!(deeper.level, Level::Wrong);
        assert!(
            deeper.seen.contains("for a.b.example.net, example.net;"),
            "{deeper:?}"
        );
    }

    #[test]
    fn the_servers_own_certificate_alone_is_warned_of_where_the_whole_chain_is_beside_it() {
        let cert = Path::new("cert.pem");
        assert!(chain(cert, &about(&[], 90), true).is_some());
        assert!(
            chain(cert, &about(&[], 90), false).is_none(),
            "a private CA's"
        );
        let whole = About {
            issuers: 1,
            ..about(&[], 90)
        };
        assert!(chain(cert, &whole, true).is_none());
    }
}
