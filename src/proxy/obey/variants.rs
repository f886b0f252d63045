//! Which of a target's variants a request selects (RFC 9111 §4.1): by what the origin is sent for it. Of what the client said,
//! some is taken off and some is ours to say, and the origin has chosen by neither.

use std::sync::Arc;

use http::header::{self, HeaderName};

use super::{Ask, Keys};
use crate::caching::cache_status::Reason;
use crate::caching::key::HashingSecret;
use crate::caching::stored::Stored;
use crate::caching::variance;
use crate::message::conditions::CONDITIONS;
use crate::message::fields::X_REQUEST_ID;
use crate::message::section::Section;
use crate::proxy::present;

/// The nominated fields, among those that are sent.
pub(super) struct Selecting<'n> {
    names: &'n [HeaderName],
    sent: Section,
}

impl Ask {
    pub(super) fn selecting<'n>(&self, names: &'n [HeaderName]) -> Selecting<'n> {
        let (config, client) = (&self.setup.config, &self.client.client);
        let sent = match present::are_verbatim(config, client, names) {
            true => client.fields.clone(),
            false => present::obeying(config, client).fields,
        };
        Selecting { names, sent }
    }

    /// Whether it speaks of one request alone: its id is ours, and we put a range and conditions of our own in the place of
    /// the client's. What varies by it varies always.
    pub(super) fn is_of_one_request(&self, name: &HeaderName) -> bool {
        [header::RANGE, header::CONTENT_LENGTH].contains(name)
            || CONDITIONS.contains(name)
            || *name == X_REQUEST_ID && self.setup.config.logs.access
    }

    /// The variant of a target whose responses vary by these.
    pub(super) async fn variant(
        &self,
        keys: &Keys,
        names: &[HeaderName],
    ) -> Result<Arc<Stored>, Reason> {
        if names.iter().any(|name| self.is_of_one_request(name)) {
            return Err(Reason::OtherVariant);
        }
        let selecting = self.selecting(names);
        let key = self.variant_key(&keys.secret, &selecting);
        let variant = self.look_up(&key).await;
        let language = match variant {
            Err(Reason::Absent) => selecting.preferred_language(),
            _ => None,
        };
        let variant = match language {
            Some(language) => {
                let key = self.language_key(&keys.secret, &selecting, &language);
                self.look_up(&key).await
            }
            None => variant,
        };
        // There is something at the target, but not for this request.
        variant.map_err(|reason| match reason {
            Reason::Absent => Reason::OtherVariant,
            reason => reason,
        })
    }

    pub(super) fn variant_key(&self, secret: &HashingSecret, selecting: &Selecting) -> String {
        self.key(secret, |key| {
            for name in selecting.names {
                let value = variance::normalised(name, &selecting.sent);
                key.selecting(name, value.as_deref());
            }
        })
    }

    /// The key of a variant by its language, in place of what else the request would have taken.
    pub(super) fn language_key(
        &self,
        secret: &HashingSecret,
        selecting: &Selecting,
        language: &str,
    ) -> String {
        self.key(secret, |key| {
            key.language(language);
            let others = selecting.names.iter();
            for name in others.filter(|name| *name != header::ACCEPT_LANGUAGE) {
                let value = variance::normalised(name, &selecting.sent);
                key.selecting(name, value.as_deref());
            }
        })
    }
}

impl Selecting<'_> {
    pub(super) fn is_by_language(&self) -> bool {
        self.names.contains(&header::ACCEPT_LANGUAGE)
    }

    fn preferred_language(&self) -> Option<String> {
        match self.is_by_language() {
            true => variance::preferred_language(&self.sent),
            false => None,
        }
    }
}
