//! Answers in a content coding, made on their way out: what is stored is stored as it is, and what was encoded once is
//! kept here for those who come after. RFC 9110 §8.4, §8.8.3.3, §12.5.5.

use std::io::Write;

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use crate::caching::directives::split_outside_quotes;
use crate::message::codings::{self, Coding};
use crate::message::fields::list_members;

/// Below it an answer fits into one packet either way. As in Django's GZipMiddleware.
pub const LEAST: u64 = 200;

/// What an encoder keeps, in bytes.
const KEPT: u64 = 16 << 20;

/// A larger body is encoded on a thread of its own, so that no other request waits for it.
const AT_ONCE: usize = 16 << 10;

/// As GZipMiddleware has it.
const GZIP_LEVEL: u32 = 6;

const BROTLI_QUALITY: i32 = 4;

/// What a client may be sent of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// The same as everybody.
    AsItIs,
    /// As it is; others are sent it encoded.
    Identity,
    In(Coding),
}

/// Decides by the route's codings, the request, and the answer's status, fields and length.
pub fn offer(
    offered: &[Coding],
    request: &HeaderMap,
    status: StatusCode,
    fields: &HeaderMap,
    length: u64,
) -> Offer {
    if length < LEAST || !is_encodable(status, fields) {
        return Offer::AsItIs;
    }
    // RFC 9111 §5.2.1.6: this client has asked that nothing be made of it.
    match codings::accepted(request, offered) {
        Some(coding) if !says_no_transform(request) => Offer::In(coding),
        _ => Offer::Identity,
    }
}

/// Whether an answer may be encoded, apart from its length: it is whole, in no coding, of a type that gains by it, and
/// nobody has forbidden to transform it (RFC 9110 §7.7).
pub fn is_encodable(status: StatusCode, fields: &HeaderMap) -> bool {
    status != StatusCode::PARTIAL_CONTENT
        && !fields.contains_key(header::CONTENT_ENCODING)
        && !fields.contains_key(header::CONTENT_RANGE)
        && !says_no_transform(fields)
        && fields
            .get(header::CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok())
            .is_some_and(is_compressible)
}

fn says_no_transform(fields: &HeaderMap) -> bool {
    fields
        .get_all(header::CACHE_CONTROL)
        .iter()
        .flat_map(|line| split_outside_quotes(line.as_bytes()))
        .any(|directive| directive.trim_ascii().eq_ignore_ascii_case(b"no-transform"))
}

/// Whatever is not known to be compressed already.
fn is_compressible(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    let Some((kind, subtype)) = essence.split_once('/') else {
        return false;
    };
    match kind {
        "image" => matches!(subtype, "svg+xml" | "bmp"),
        "audio" | "video" => false,
        "font" => !subtype.starts_with("woff"),
        "application" => {
            const PACKED: [&str; 14] = [
                "zip",
                "gzip",
                "x-gzip",
                "x-bzip2",
                "x-xz",
                "zstd",
                "x-7z-compressed",
                "vnd.rar",
                "x-rar-compressed",
                "java-archive",
                "pdf",
                "font-woff",
                "font-woff2",
                // It may be anything.
                "octet-stream",
            ];
            const PACKED_KINDS: [&str; 2] = [
                "vnd.openxmlformats-officedocument.",
                "vnd.oasis.opendocument.",
            ];
            !PACKED.contains(&subtype)
                && !subtype.ends_with("+zip")
                && !PACKED_KINDS.iter().any(|kind| subtype.starts_with(kind))
        }
        _ => true,
    }
}

/// Says that the answer depends on Accept-Encoding, for everybody who keeps it.
pub fn vary(fields: &mut HeaderMap) {
    let said = fields
        .get_all(header::VARY)
        .iter()
        .flat_map(list_members)
        .any(|name| name == "*" || name.eq_ignore_ascii_case("accept-encoding"));
    if !said {
        fields.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    }
}

/// Makes the fields of an answer those of its encoded form.
pub fn mark(fields: &mut HeaderMap, coding: Coding) {
    /// What was said of the bytes as they were; and a range is never one of the encoded form.
    const OF_IDENTITY: [HeaderName; 6] = [
        header::CONTENT_LENGTH,
        header::ACCEPT_RANGES,
        HeaderName::from_static("content-md5"),
        HeaderName::from_static("content-digest"),
        HeaderName::from_static("repr-digest"),
        HeaderName::from_static("digest"),
    ];
    for name in &OF_IDENTITY {
        fields.remove(name);
    }
    fields.insert(header::CONTENT_ENCODING, coding.value());
    weaken(fields);
}

/// §8.8.3.3: the forms of one answer may share a weak tag, never a strong one.
pub fn weaken(fields: &mut HeaderMap) {
    if let Some(tag) = fields.get_mut(header::ETAG)
        && tag.as_bytes().trim_ascii().starts_with(b"\"")
        && let Ok(weak) = HeaderValue::from_bytes(&[b"W/", tag.as_bytes().trim_ascii()].concat())
    {
        *tag = weak;
    }
}

/// Encodes, and keeps what it has made.
pub struct Encoder {
    made: Cache<Made, Option<Bytes>, ByBytes>,
}

/// Which body, by a hash for which nobody can make another, and in which coding.
type Made = ([u8; 32], Coding);

#[derive(Clone)]
struct ByBytes;

impl Weighter<Made, Option<Bytes>> for ByBytes {
    fn weight(&self, _: &Made, made: &Option<Bytes>) -> u64 {
        made.as_ref().map_or(0, Bytes::len) as u64 + 160
    }
}

impl Default for Encoder {
    fn default() -> Self {
        Encoder::keeping(KEPT)
    }
}

impl Encoder {
    fn keeping(bytes: u64) -> Self {
        let options = OptionsBuilder::new()
            // Few, or a large body would have no room in one.
            .shards(4)
            .estimated_items_capacity(1024)
            .weight_capacity(bytes)
            .build()
            .expect("nothing is missing");
        let hasher = DefaultHashBuilder::default();
        Encoder {
            made: Cache::with_options(options, ByBytes, hasher, DefaultLifecycle::default()),
        }
    }
}

impl Encoder {
    /// The body in that coding, if it is shorter so. Of those who want the same at once, one makes it.
    pub async fn encode(&self, body: &Bytes, coding: Coding) -> Option<Bytes> {
        let which = (*blake3::hash(body).as_bytes(), coding);
        let make = async {
            if body.len() <= AT_ONCE {
                return Ok(encode(body, coding));
            }
            let body = body.clone();
            tokio::task::spawn_blocking(move || encode(&body, coding)).await
        };
        // Where its thread was lost, it is sent as it is.
        self.made.get_or_insert_async(&which, make).await.ok()?
    }
}

fn encode(body: &[u8], coding: Coding) -> Option<Bytes> {
    let mut made = Vec::with_capacity(body.len() / 2);
    match coding {
        Coding::Gzip => {
            let level = flate2::Compression::new(GZIP_LEVEL);
            let mut gzip = flate2::write::GzEncoder::new(made, level);
            gzip.write_all(body).ok()?;
            made = gzip.finish().ok()?;
        }
        Coding::Brotli => {
            // A window no larger than the body: less to allocate.
            let window = usize::BITS - body.len().leading_zeros();
            let parameters = brotli::enc::BrotliEncoderParams {
                quality: BROTLI_QUALITY,
                lgwin: window.clamp(10, 22) as i32,
                size_hint: body.len(),
                ..Default::default()
            };
            brotli::BrotliCompress(&mut &*body, &mut made, &parameters).ok()?;
        }
    }
    (made.len() < body.len()).then(|| {
        made.shrink_to_fit();
        made.into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    const JSON: (&str, &str) = ("content-type", "application/json");

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
            .collect()
    }

    fn offered(
        request: &[(&str, &str)],
        status: u16,
        fields: &[(&str, &str)],
        length: u64,
    ) -> Offer {
        let status = StatusCode::from_u16(status).unwrap();
        let codings = [Coding::Brotli, Coding::Gzip];
        offer(&codings, &map(request), status, &map(fields), length)
    }

    #[test]
    fn what_may_be_encoded_is_encoded_for_who_accepts_it() {
        let gzip = [("accept-encoding", "gzip")];
        let coded = [("content-encoding", "gzip"), JSON];
        let ranged = [("content-range", "bytes 0-1/2"), JSON];
        let untouched = [("cache-control", "max-age=1, No-Transform"), JSON];
        let said = [("cache-control", "a=\"no-transform\""), JSON];
        for (status, fields, length, expected, sentence) in [
            (
                200,
                &[JSON][..],
                200,
                Offer::In(Coding::Gzip),
                "an answer of some length",
            ),
            (200, &[JSON], 199, Offer::AsItIs, "not a short one"),
            (
                404,
                &[JSON],
                200,
                Offer::In(Coding::Gzip),
                "whatever its status",
            ),
            (206, &[JSON], 200, Offer::AsItIs, "but a part"),
            (
                200,
                &ranged,
                200,
                Offer::AsItIs,
                "or what says that it is one",
            ),
            (
                200,
                &coded,
                200,
                Offer::AsItIs,
                "not what is encoded already",
            ),
            (
                200,
                &untouched,
                200,
                Offer::AsItIs,
                "not what must not be transformed",
            ),
            (
                200,
                &said,
                200,
                Offer::In(Coding::Gzip),
                "a quoted string forbids nothing",
            ),
            (200, &[], 200, Offer::AsItIs, "not what may be anything"),
        ] {
            assert_eq!(
                offered(&gzip, status, fields, length),
                expected,
                "{sentence}"
            );
        }
        assert_eq!(offered(&[], 200, &[JSON], 200), Offer::Identity);
        let not_transformed = [("cache-control", "no-transform"), gzip[0]];
        assert_eq!(
            offered(&not_transformed, 200, &[JSON], 200),
            Offer::Identity,
            "a client may ask that nothing be made of it"
        );
    }

    #[test]
    fn what_is_compressed_already_is_not_compressed_again() {
        for (media_type, expected) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/problem+json", true),
            ("text/csv", true),
            ("image/svg+xml", true),
            ("font/ttf", true),
            ("image/png", false),
            ("IMAGE/JPEG; q=1", false),
            ("video/mp4", false),
            ("audio/ogg", false),
            ("font/woff2", false),
            ("application/zip", false),
            ("application/gzip", false),
            ("application/pdf", false),
            ("application/epub+zip", false),
            (
                "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
                false,
            ),
            ("application/octet-stream", false),
            ("json", false),
        ] {
            assert_eq!(is_compressible(media_type), expected, "{media_type}");
        }
    }

    #[test]
    fn vary_names_accept_encoding_once() {
        for (before, after) in [
            (&[][..], &["Accept-Encoding"][..]),
            (&["Accept, Cookie"], &["Accept, Cookie", "Accept-Encoding"]),
            (&["Cookie, accept-encoding"], &["Cookie, accept-encoding"]),
            (&["*"], &["*"]),
        ] {
            let lines = |values: &[&'static str]| -> HeaderMap {
                map(&values
                    .iter()
                    .map(|value| ("vary", *value))
                    .collect::<Vec<_>>())
            };
            let mut fields = lines(before);
            vary(&mut fields);
            assert_eq!(fields, lines(after));
        }
    }

    #[test]
    fn the_encoded_form_has_a_weak_tag_and_says_nothing_of_the_bytes_as_they_were() {
        let mut fields = map(&[
            JSON,
            ("etag", "\"a\""),
            ("content-length", "300"),
            ("accept-ranges", "bytes"),
            ("content-md5", "x"),
            ("repr-digest", "x"),
        ]);
        mark(&mut fields, Coding::Brotli);
        let expected = [JSON, ("etag", "W/\"a\""), ("content-encoding", "br")];
        assert_eq!(fields, map(&expected));
        mark(&mut fields, Coding::Gzip);
        assert_eq!(fields["etag"], "W/\"a\"", "weak as it was");
    }

    #[tokio::test]
    async fn what_is_decoded_is_what_was_encoded() {
        let encoder = Encoder::default();
        for length in [LEAST as usize, AT_ONCE, AT_ONCE + 1, 300_000] {
            let body: Bytes = (0..length)
                .map(|at| b"{\"id\": 7}, "[at % 11] ^ (at / 999) as u8 & 1)
                .collect();
            for coding in [Coding::Gzip, Coding::Brotli] {
                let made = encoder.encode(&body, coding).await.expect("shorter");
                let mut read = Vec::new();
                match coding {
                    Coding::Gzip => flate2::read::GzDecoder::new(&*made).read_to_end(&mut read),
                    Coding::Brotli => {
                        brotli::Decompressor::new(&*made, 4096).read_to_end(&mut read)
                    }
                }
                .unwrap();
                assert_eq!(read, body);
                // The very same bytes, and not made again.
                let again = encoder.encode(&body.to_vec().into(), coding).await;
                assert_eq!(again.unwrap().as_ptr(), made.as_ptr());
            }
        }
    }

    #[tokio::test]
    async fn what_would_not_be_shorter_stays_as_it_is() {
        let noise: Bytes = (0..40u64)
            .flat_map(|n| *blake3::hash(&n.to_le_bytes()).as_bytes())
            .collect();
        for coding in [Coding::Gzip, Coding::Brotli] {
            assert_eq!(Encoder::default().encode(&noise, coding).await, None);
        }
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded() {
        let encoder = Encoder::keeping(20_000);
        for n in 0..100u64 {
            let body = Bytes::from(format!("{n}").repeat(200));
            encoder.encode(&body, Coding::Gzip).await;
        }
        assert!(encoder.made.weight() <= 20_000 && (1..100).contains(&encoder.made.len()));
    }
}
