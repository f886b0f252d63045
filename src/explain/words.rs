//! The words of an explanation.

use http::{HeaderName, Method};

use crate::caching::cache_status::Reason;
use crate::caching::key::Split;
use crate::coherence::StateKey;
use crate::config::{Access, Route};
use crate::encoding;
use crate::message::accept::AcceptClass;

/// What a reason means, and what to do about it.
pub fn because(reason: Reason) -> &'static str {
    match reason {
        Reason::NoRoute => {
            "no route of the file names this path: it is forwarded and never kept; to keep it, add a route"
        }
        Reason::Spelling => {
            "the path is not in its canonical spelling (`07`, `%37`, `//`): it is forwarded as it is and never kept"
        }
        Reason::HasContent => "a GET with content goes past the cache; send it without",
        Reason::Parameter => {
            "it has a parameter that the route's `query.allow` does not list: list it there; `other: ignore` is for what the API itself pays no heed to (it is left out of the key, and of what the API is asked)"
        }
        Reason::Html => {
            "the client likes text/html best, as browsers do: pages are never kept; send `Accept: application/json`"
        }
        Reason::NotJson => {
            "the API has no JSON of it, and the client takes something else, too: it is asked once more, as the client came; who names the media type in `Accept` is given a copy"
        }
        Reason::EventStream => {
            "server-sent events (`text/event-stream`) tell what happens from now on, to each of their readers: they are passed on as they come and never kept"
        }
        Reason::VerifyRefused => {
            "the API does not admit this credential where the route's `access: {verify: …}` asks: it is forwarded uncached, with its own credential"
        }
        Reason::VerifyFailed => {
            "whether the API admits this credential could not be learnt (no answer, a `scope` that cannot be read, too many cookies, or a credential that servers read in more than one way: several parameters, a cookie with a blank or a comma): it is forwarded uncached"
        }
        Reason::JwtAbsent => {
            "the route's `access: {jwt: …}` asks for `Authorization: Bearer …`: without it, a request is forwarded uncached"
        }
        Reason::JwtRefused => {
            "the token cannot be verified by the route's `access: {jwt: …}`: it is forwarded uncached, and the API decides"
        }
        Reason::JwtExpired => {
            "the token's time is over (`exp`): it is forwarded uncached, and the API decides"
        }
        Reason::JwtRevoked => {
            "the token was revoked (`larder purge --credential -`): it is forwarded uncached, and the API decides"
        }
        Reason::JwtMixed => {
            "beside the token there is another credential, by which the API might go: it is forwarded uncached; list cookies that are none in `ignore_cookies`"
        }
        Reason::Absent => "there is no copy yet: it is fetched, and kept if it may be",
        Reason::Expired => "there is a copy, but its time is over",
        Reason::ClientDirective => {
            "there is a copy in its time, but the client's `Cache-Control` or `Pragma` does not take it: the API is asked; `honour_client_directives: false` on the route pays no heed to them"
        }
        Reason::Purged => "there is a copy, but a write or a purge has dropped it since",
        Reason::Held => {
            "a write to it is in flight or less than `upstream.lag` ago, or its outcome is unknown, or the store has just come back: fetched, and not kept until that is over"
        }
        Reason::Foreign => {
            "what stands at the key is not Larder's (another program's value, or a damaged one), or of another path that had the key before: never served, and replaced"
        }
        Reason::OtherOrigin => {
            "the copy was fetched under another scheme or host, and its links may hold it: set `canonical_origin`, unless the host says whose answers they are (tenants)"
        }
        Reason::OtherVariant => {
            "there is a copy, but for other values of the fields that its `Vary` names"
        }
        Reason::StoreAway => {
            "the store cannot be used: requests pass through until it can; `larder doctor` says what is wrong with it"
        }
        Reason::Status => {
            "only a 200, 203 or 204 is kept, and what else is no error if the API says for how long; `negative_ttl` keeps 404 and 410; under `policy: http` an error is kept if the API says so, but not what is said of one request (412, 416, 429, any error to conditions or a range)"
        }
        Reason::SetCookie => {
            "the answer sets a cookie: it is for one client alone and never kept, and who has that cookie is asked for as they came; the view, or a middleware, makes a session"
        }
        Reason::Credential => {
            "the answer hands out a credential (Authorization, Authentication-Info, or one of `credential_headers`): it is for one client alone and never kept"
        }
        Reason::NoStore => "the API says `Cache-Control: no-store`",
        Reason::Private => {
            "the API says `Cache-Control: private`; Larder takes it at its word, also per credential"
        }
        Reason::NoCache => {
            "the API says `Cache-Control: no-cache`, and sends no ETag or Last-Modified to ask about it by; `override_origin: true` on the route lets its `ttl` win"
        }
        Reason::Stale => {
            "the answer's time is over as it comes (max-age, Expires, Age): `override_origin: true` on the route lets its `ttl` win"
        }
        Reason::BadFreshness => {
            "the API's max-age or s-maxage is no number of seconds, or its Cache-Control holds what is no directive: correct it, or `override_origin: true` on the route"
        }
        Reason::VaryUnkeyed => {
            "the answer varies by a field that the key does not hold: list it in the route's `vary`; under `policy: http`: by `*`, or by what each request has for itself"
        }
        Reason::VerifyMixed => {
            "it carries more than one credential, and what each of them says to the API no key holds: it is given the shared copy, and fetches none for others; list cookies that are no credential in `ignore_cookies`"
        }
        Reason::Authorization => {
            "it was asked with Authorization, and the API does not say `public`, `s-maxage` or `must-revalidate`: under `policy: http` only these share it"
        }
        Reason::NewGroup => {
            "the answer is in a cache group that this target was not known to be in: the next one is kept, unless it is in more than 128 of them"
        }
        Reason::Method => "the answer to this method does not stand for a later GET",
        Reason::StaleWhileRevalidate => {
            "the copy is past its time, and served while it is refreshed (`stale_while_revalidate`)"
        }
        Reason::SoftPurge => {
            "somebody has purged it softly: the copy is served while it is fetched anew"
        }
        Reason::StaleIfError => {
            "the API answers with an error or not at all, and the copy past its time stands in (`stale_if_error`)"
        }
        Reason::Encoded => {
            "the answer is compressed although it was asked for uncompressed: let the API heed `Accept-Encoding: identity`"
        }
        Reason::TooLarge => "the answer is larger than the route's `max_body`",
        Reason::TooManyCopies => {
            "the family has as many copies as `limits.copies` allows: `query: {allow: […]}` on the route, or raise it"
        }
        Reason::StoreRefused => {
            "the store did not take it: it is full; see `maxmemory` and its policy, or a shorter `ttl`"
        }
    }
}

pub(super) fn access(route: &Route) -> &'static str {
    match &route.access {
        _ if route.is_by_http() => "the origin's word (policy: http)",
        Access::PerCredential => "per-credential",
        Access::Public => "public",
        Access::Verify(_) => "verify",
        Access::Jwt(_) => "jwt",
    }
}

/// On what terms an answer is kept.
pub(super) fn terms(route: &Route) -> String {
    if route.is_by_http() {
        let most = bytesize::ByteSize::b(route.max_body);
        return format!(
            "for as long as its own fields say, and shared by all unless they say otherwise; at most {most}"
        );
    }
    let ttl = humantime::format_duration(route.ttl);
    let wins = match route.override_origin {
        true => "whatever max-age or Expires the API sends (`override_origin`)",
        false => "unless the API's own max-age or Expires says otherwise",
    };
    let most = bytesize::ByteSize::b(route.max_body);
    let negative = route.negative_ttl.map_or_else(String::new, |ttl| {
        let ttl = humantime::format_duration(ttl);
        format!(" (a 404 or 410 for {ttl})")
    });
    format!(
        "for {ttl}{negative}, {wins}: a 200 of at most {most}, without Set-Cookie, no-store and private, not compressed, that varies by nothing but what the key holds"
    )
}

/// What is made of an answer on its way out.
pub fn going_out(route: &Route) -> Vec<String> {
    let mut told = Vec::new();
    if route.etag {
        told.push("an answer without an ETag gets a weak one, made of its body".to_owned());
    }
    if !route.compress.is_empty() {
        let codings: Vec<&str> = route.compress.iter().map(|coding| coding.word()).collect();
        let (codings, least) = (codings.join(" or "), encoding::LEAST);
        told.push(format!(
            "from {least} bytes on compressed ({codings}) for clients that accept it"
        ));
    }
    told
}

pub(super) fn methods(methods: &[Method]) -> Vec<String> {
    methods.iter().map(Method::to_string).collect()
}

/// As a purge names it: `users:list`, `users:detail:*`.
pub(super) fn family_of_state(state: &StateKey) -> String {
    let name = state.as_str();
    match (name.strip_suffix("~state"), name.strip_suffix("~all")) {
        (Some(family), _) => family.to_owned(),
        (None, Some(group)) => format!("{group}:*"),
        (None, None) => name.to_owned(),
    }
}

/// A name as people write it: `Accept-Language`.
pub(super) fn field(name: &HeaderName) -> String {
    let capital = |word: &str| {
        let mut letters = word.chars();
        letters.next().map_or_else(String::new, |first| {
            first.to_ascii_uppercase().to_string() + letters.as_str()
        })
    };
    let words: Vec<String> = name.as_str().split('-').map(capital).collect();
    words.join("-")
}

pub(super) fn split(split: &Split, query: Option<&str>, accept: &AcceptClass) -> String {
    match (split, accept) {
        (Split::Credential(name) | Split::Field(name), _) => field(name),
        (Split::Cookie(name), _) if name.is_empty() => "cookie without a name".to_owned(),
        (Split::Cookie(name), _) => format!("cookie {name}"),
        (Split::Scope(pointer), _) => format!("{pointer} of what `access` goes by"),
        (Split::Query, _) => format!("query {}", query.unwrap_or_default()),
        (Split::Accept, AcceptClass::Other(accept)) => format!("Accept: {accept}"),
        (Split::Accept, AcceptClass::Json | AcceptClass::Html | AcceptClass::Events) => {
            "Accept".to_owned()
        }
    }
}
