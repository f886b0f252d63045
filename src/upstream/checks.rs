//! Health checks: each upstream is asked by a GET now and then, on a connection of its own, whatever clients ask.

use std::sync::{Arc, Weak};
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Uri};
use tokio::runtime::Handle;

use super::Outgoing;
use super::connection::Versions;
use super::draft::Draft;
use super::fleet::Came;
use super::members::Members;
use crate::body::RequestBody;
use crate::config::HealthCheck;
use crate::message::target::ForwardUri;

/// How long an upstream may take to answer one.
const PATIENCE: Duration = Duration::from_secs(5);

/// Begins them. They end with the upstreams.
pub(super) fn begin(members: &Arc<Members>, check: &HealthCheck) {
    let (Ok(path), Ok(host)) = (
        check.path.parse::<Uri>(),
        HeaderValue::from_str(&check.host),
    ) else {
        return;
    };
    // Without a runtime nothing is asked either: `larder explain` only reads the file.
    let Ok(runtime) = Handle::try_current() else {
        return;
    };
    for member in 0..members.count() {
        let (members, every) = (Arc::downgrade(members), check.every);
        let (path, host) = (path.clone(), host.clone());
        runtime.spawn(async move {
            while let Some(came) = look(&members, member, &path, &host).await {
                let Some(members) = members.upgrade() else {
                    return;
                };
                members.checked(member, came);
                drop(members);
                tokio::time::sleep(every).await;
            }
        });
    }
}

/// Asks once; nothing, if nobody wants to know any more.
async fn look(
    members: &Weak<Members>,
    member: usize,
    path: &Uri,
    host: &HeaderValue,
) -> Option<Came> {
    let members = members.upgrade()?;
    let mut fields = HeaderMap::new();
    let agent = HeaderValue::from_static(concat!("larder/", env!("CARGO_PKG_VERSION")));
    fields.insert(header::HOST, host.clone());
    fields.insert(header::USER_AGENT, agent);
    if members.versions() == Versions::Http1 {
        fields.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let request = Outgoing {
        method: Method::GET,
        target: ForwardUri::new(path.path(), path.query()),
        fields: fields.into(),
        id: None,
        body: RequestBody::Empty,
        interim: None,
        notes: None,
        once: true,
    };
    let asked = async {
        let (draft, body) = Draft::of(request).ok()?;
        let versions = members.versions();
        let mut connection = members.connect_to(member, versions).await.ok()?;
        connection.sender.send(&draft, body).await.ok()
    };
    let answer = tokio::time::timeout(PATIENCE, asked).await.ok().flatten();
    Some(match answer {
        Some(answer) if answer.status().is_success() => Came::Answer,
        _ => Came::Failure,
    })
}
