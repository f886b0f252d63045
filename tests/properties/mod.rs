//! What holds of any input whatever: plain functions of bytes, which panic where it does not. `tests/properties.rs` drives
//! them by proptest and goes through the seeds, `fuzz/` drives them by libFuzzer. An input is lines of text wherever it
//! can be, so that a seed can be read.

pub mod accept;
pub mod caching;
pub mod config;
pub mod credentials;
pub mod dates;
pub mod entries;
pub mod forwarded;
pub mod frames;
pub mod keys;
pub mod plain;
pub mod ranges;
pub mod routes;
pub mod scopes;
pub mod strict;
pub mod wire;

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Panics where an input does not have it.
pub type Property = fn(&[u8]);

/// By the names of the fuzz targets and of the folders of seeds.
pub const ALL: &[(&str, Property)] = &[
    ("accept", accept::holds),
    ("caching", caching::holds),
    ("config", config::holds),
    ("credentials", credentials::holds),
    ("dates", dates::holds),
    ("entries", entries::holds),
    ("forwarded", forwarded::holds),
    ("frames", frames::holds),
    ("keys", keys::holds),
    ("plain", plain::holds),
    ("ranges", ranges::holds),
    ("routes", routes::holds),
    ("scopes", scopes::holds),
    ("wire", wire::holds),
];

fn lines(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    data.split(|&byte| byte == b'\n')
}

/// `name: value` lines as fields; what is no field is left out.
fn fields<'d>(lines: impl IntoIterator<Item = &'d [u8]>) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for line in lines {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else {
            continue;
        };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            fields.append(name, value);
        }
    }
    fields
}
