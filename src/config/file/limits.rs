//! Reading `limits`: how much a client may ask for, and how long it may take.

use std::time::Duration;

use super::Reader;
use super::mirror::{LimitsMap, RateMap};
use super::place::At;
use super::scalars::{one_of, within};
use super::value;
use crate::config::{Limits, Per, Rate};
use crate::server::pulse::Patience;

impl Reader<'_> {
    pub(super) fn limits(&self, at: &At, map: LimitsMap) -> Limits {
        let at = |key| at.key(key);
        let bytes =
            |key, text, default: u64, range| self.size(&at(key), text, default, range) as usize;
        let second = Duration::from_secs(1);
        let hour = Duration::from_secs(3600);
        let time = |key, text, default: u64| {
            self.duration(&at(key), text, second * default as u32, second..=hour)
        };
        let connections = self.count(&at("connections"), map.connections, 20_000, 1..=1_000_000);
        Limits {
            target: bytes("target", map.target, 8 << 10, 256..=(64 << 10) - 2),
            fields: self.count(&at("fields"), map.fields, 100, 16..=10_000),
            head: bytes("head", map.head, 32 << 10, (8 << 10)..=(1 << 20)),
            content: self.size(&at("content"), map.content, 1 << 30, 0..=(1 << 50)),
            connections,
            connections_per_address: self.count(
                &at("connections_per_address"),
                map.connections_per_address,
                connections.div_ceil(2),
                1..=1_000_000,
            ),
            streams: self.count(&at("streams"), map.streams, 100, 1..=10_000) as u32,
            handshake_timeout: time("handshake_timeout", map.handshake_timeout, 10),
            patience: Patience {
                header: time("header_timeout", map.header_timeout, 10),
                keep_alive: time("keep_alive", map.keep_alive, 75),
                write_idle: time("write_idle", map.write_idle, 30),
            },
            held: self.size(&at("held"), map.held, 256 << 20, (1 << 20)..=(1 << 40)),
            content_idle: time("content_idle", map.content_idle, 30),
            content_rate: self.size(&at("content_rate"), map.content_rate, 512, 0..=(1 << 20)),
            rate: map.rate.and_then(|rate| self.rate(&at("rate"), rate)),
            drain: self.duration(&at("drain"), map.drain, 30 * second, Duration::ZERO..=hour),
            drain_delay: self.duration(
                &at("drain_delay"),
                map.drain_delay,
                Duration::ZERO,
                Duration::ZERO..=hour,
            ),
            copies: self.count(&at("copies"), map.copies, 10_000, 1..=10_000_000),
        }
    }

    fn rate(&self, at: &At, map: RateMap) -> Option<Rate> {
        let count = |text: &str| {
            let number = u32::try_from(value::number(text)?).unwrap_or(u32::MAX);
            within(text, number, &(1..=1_000_000), u32::to_string)
        };
        let of = [("address", Per::Address), ("credential", Per::Credential)];
        let per = self.read(&at.key("per"), map.per, Per::Address, |text| {
            one_of(text, &of)
        });
        let second = Duration::from_secs(1);
        let window = self.duration(
            &at.key("window"),
            map.window,
            second,
            second..=3600 * second,
        );
        let requests = self.required(at, "requests", map.requests, "100", count);
        let burst = self.optional(&at.key("burst"), map.burst, count);
        let requests = requests?;
        Some(Rate {
            per,
            requests,
            window,
            burst: burst.unwrap_or(requests),
        })
    }
}
