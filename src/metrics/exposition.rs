//! What is counted, as Prometheus and its kin read it: OpenMetrics text.

use std::fmt;
use std::sync::{Arc, LazyLock};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::counting::{BOUNDS, Took};
use super::{COUNTED, Command, NO_DETAIL, NO_ROUTE, routes};
use crate::caching::cache_status::Reason;
use crate::clock::{self, Timestamp};
use crate::config::WhenStoreIsDown;
use crate::error::UpstreamFailure;
use crate::proxy::sample::Outcome;
use crate::proxy::{Proxy, Setup};
use crate::server::places::Counted;
use crate::store::Health;
use crate::telemetry;
use crate::upstream::Standing;

pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All of it, as it is now.
pub fn exposition(proxy: &Arc<Proxy>) -> String {
    let mut registry = Registry::default();
    let larder = registry.sub_registry_with_prefix("larder");
    larder.register_collector(Box::new(Ours(proxy.clone())));
    let process = registry.sub_registry_with_prefix("process");
    process.register_collector(Box::new(Process));
    let mut text = String::with_capacity(16 * 1024);
    // Writing to a String does not fail.
    let _ = encode(&mut text, &registry);
    text
}

/// When this process began.
pub(super) static STARTED: LazyLock<Timestamp> = LazyLock::new(clock::now);

/// These words, too, of which nothing has been counted.
fn from_the_start<const N: usize>(
    totals: &mut Vec<([&'static str; 1], u64)>,
    words: [&'static str; N],
) {
    for word in words {
        if totals.iter().all(|(counted, _)| *counted != [word]) {
            totals.push(([word], 0));
        }
    }
}

struct Ours(Arc<Proxy>);

impl fmt::Debug for Ours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ours")
    }
}

#[derive(Debug)]
struct Process;

impl Collector for Ours {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let (mut page, setup) = (Page(encoder), self.0.setup());
        page.requests(&setup)?;
        page.upstream(&setup)?;
        page.store(&setup)?;
        page.coherence(&setup)?;
        page.clients(&self.0.connections.now())?;
        page.process(&setup)
    }
}

impl Collector for Process {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut page = Page(encoder);
        let started = STARTED.as_micros() as f64 / 1e6;
        page.gauge(
            "start_time",
            "When the process began, in seconds since 1970",
            Some(Unit::Seconds),
            [(Labels::new(), started)],
        )?;
        // Where there is no /proc, these are left out.
        if let Some(bytes) = resident() {
            page.gauge(
                "resident_memory",
                "Memory that the process has",
                Some(Unit::Bytes),
                [(Labels::new(), bytes as f64)],
            )?;
        }
        if let Some(seconds) = cpu_seconds() {
            let name = "cpu";
            let mut metric = page.0.encode_descriptor(
                name,
                "CPU time that the process has taken",
                Some(&Unit::Seconds),
                MetricType::Counter,
            )?;
            metric.encode_counter::<NoLabelSet, _, f64>(&seconds, None)?;
        }
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            let open = open.count() as f64;
            page.gauge(
                "open_fds",
                "Descriptors that are open",
                None,
                [(Labels::new(), open)],
            )?;
        }
        Ok(())
    }
}

pub(super) fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line?.split_whitespace().next()?;
    kibibytes.parse().ok().map(|kib: u64| kib * 1024)
}

fn cpu_seconds() -> Option<f64> {
    /// The unit of /proc/PID/stat, on every Linux.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name stands in brackets and may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut times = rest.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (times.next()?.parse().ok()?, times.next()?.parse().ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

type Labels = Vec<(&'static str, String)>;

/// The text, as it grows.
struct Page<'e>(DescriptorEncoder<'e>);

impl Page<'_> {
    fn requests(&mut self, setup: &Setup) -> fmt::Result {
        let routes = routes();
        let under = |route: &str| ("route", route.to_owned());
        let of = |[cache, detail, status]: [&str; 3]| {
            [
                ("cache", cache.to_owned()),
                ("detail", detail.to_owned()),
                ("status", status.to_owned()),
            ]
        };
        // A rise from nothing is none to who asks for a rate, and a ratio to nothing is none: what alerts ask for is there from the start.
        let requests = routes.iter().flat_map(|(route, counts)| {
            let mut counts = counts.requests();
            let hits = ["hit", NO_DETAIL, "2xx"];
            if route != NO_ROUTE && counts.iter().all(|(words, _)| *words != hits) {
                counts.push((hits, 0));
            }
            counts.into_iter().map(move |(words, count)| {
                let labels = std::iter::once(under(route)).chain(of(words)).collect();
                (labels, count)
            })
        });
        self.counter(
            "requests",
            "Requests of clients that were answered, by route, by what the cache did (as in Cache-Status), why, and class of status",
            requests,
        )?;
        let took = routes.iter().flat_map(|(route, counts)| {
            let labels = |hit: &str| vec![under(route), ("hit", hit.to_owned())];
            [
                (labels("true"), counts.hits_took.now()),
                (labels("false"), counts.others_took.now()),
            ]
        });
        self.histogram(
            "request_duration",
            "Until the head of the answer, of hits and of all others",
            took,
        )?;
        let stale = [
            Reason::StaleWhileRevalidate,
            Reason::SoftPurge,
            Reason::StaleIfError,
        ]
        .map(Reason::word);
        let named = routes.iter().filter(|(route, _)| route != NO_ROUTE);
        let served_stale = named.flat_map(|(route, counts)| {
            let counts = counts.requests().into_iter();
            let counts = counts.filter(|([_, detail, _], _)| stale.contains(detail));
            let mut by_detail = stale.map(|detail| (detail, 0));
            for ([_, detail, _], count) in counts {
                let of_it = by_detail.iter_mut().filter(|(known, _)| *known == detail);
                of_it.for_each(|(_, sum)| *sum += count);
            }
            by_detail.into_iter().map(move |(detail, count)| {
                (vec![under(route), ("detail", detail.to_owned())], count)
            })
        });
        self.counter(
            "stale_responses",
            "Answers from a copy past its time, and why",
            served_stale,
        )?;
        let collapsed = routes.iter();
        let collapsed = collapsed.map(|(route, of)| (vec![under(route)], of.collapsed.total()));
        self.counter(
            "collapsed_requests",
            "Requests that shared the fetch of another",
            collapsed,
        )?;
        let stored = routes.iter();
        let stored = stored.map(|(route, of)| (vec![under(route)], of.stored.total()));
        self.counter(
            "stored_responses",
            "Answers to clients that were stored on their way",
            stored,
        )?;
        let compared = routes.iter().flat_map(|(route, counts)| {
            let mut totals = counts.compared.totals();
            if setup.config.shadow.is_some() && route != NO_ROUTE {
                from_the_start(&mut totals, Outcome::ALL.map(Outcome::word));
            }
            totals.into_iter().map(move |([outcome], count)| {
                (vec![under(route), ("outcome", outcome.to_owned())], count)
            })
        });
        self.counter(
            "compared_hits",
            "Hits that the API was asked about, too, by what came of it",
            compared,
        )
    }

    fn upstream(&mut self, setup: &Setup) -> fmt::Result {
        let counted = &COUNTED.upstream;
        let answers = counted.answers.totals().into_iter();
        self.counter(
            "upstream_responses",
            "Answers of the API, by class of status",
            answers.map(|([class], count)| (vec![("status", class.to_owned())], count)),
        )?;
        let mut failures = counted.failures.totals();
        from_the_start(
            &mut failures,
            UpstreamFailure::ALL.map(UpstreamFailure::word),
        );
        self.counter(
            "upstream_failures",
            "Requests to which the API gave no answer, by reason",
            failures
                .into_iter()
                .map(|([word], count)| (vec![("reason", word.to_owned())], count)),
        )?;
        self.histogram(
            "upstream_request_duration",
            "From leaving the queue to the head of the API's answer",
            [(Labels::new(), counted.took.now())],
        )?;
        let load = setup.upstream.load();
        for (name, help, value) in [
            (
                "upstream_in_flight",
                "Requests under way at the API",
                load.under_way,
            ),
            (
                "upstream_queued",
                "Requests that wait for a place at the API",
                load.waiting,
            ),
            (
                "upstream_max_in_flight",
                "Requests that may be under way at the API at once",
                setup.upstream.settings().max_connections,
            ),
            (
                "upstream_event_streams",
                "Server-sent events that are passed on, beside the requests under way at the API",
                setup.upstream.event_streams(),
            ),
        ] {
            self.gauge(name, help, None, [(Labels::new(), value as f64)])?;
        }
        let standings = setup.upstream.standings();
        if standings.len() > 1 {
            let healthy = standings.iter().map(|stands| {
                let well = stands.standing == Standing::Well;
                let address = ("address", stands.address.clone());
                (vec![address], f64::from(u8::from(well)))
            });
            self.gauge(
                "upstream_well",
                "Of several addresses of the API: whether it is asked (1), or rests or is down (0)",
                None,
                healthy,
            )?;
        }
        let verdicts = COUNTED.verdicts.totals().into_iter();
        self.counter(
            "verdicts",
            "Questions whether the API admits a credential, by what it said",
            verdicts.map(|([said], count)| (vec![("verdict", said.to_owned())], count)),
        )
    }

    fn store(&mut self, setup: &Setup) -> fmt::Result {
        let (store, counted) = (setup.coherence.store(), &COUNTED.store);
        let now = state(&store.health());
        let states = STATES.map(|state| {
            let value = if state == now { 1.0 } else { 0.0 };
            (vec![("state", state.to_owned())], value)
        });
        self.gauge(
            "store_state",
            "1 for the state the store is in: up, settling (just reached, and not trusted yet), down, refused (it answers, and refuses us)",
            None,
            states,
        )?;
        let by_command = |command: Command| vec![("command", command.word().to_owned())];
        let of = |command: Command| &counted.commands[command as usize];
        let took = Command::ALL
            .into_iter()
            .map(|command| (by_command(command), of(command).took.now()));
        self.histogram(
            "store_command_duration",
            "What a shared store took to answer",
            took,
        )?;
        let failed = Command::ALL
            .into_iter()
            .map(|command| (by_command(command), of(command).failed.total()));
        self.counter(
            "store_command_failures",
            "What a shared store did not do: it was away, or it refused",
            failed,
        )?;
        self.counter(
            "store_connects",
            "How often the store was connected",
            [(Labels::new(), counted.connected.total())],
        )?;
        self.counter(
            "store_losses",
            "How often the store was lost",
            [(Labels::new(), counted.lost.total())],
        )?;
        let Some(memory) = store.in_memory() else {
            return Ok(());
        };
        self.gauge(
            "memory_used",
            "What the copies in this process take: the embedded store, or what is kept beside Redis",
            Some(Unit::Bytes),
            [(Labels::new(), memory.bytes as f64)],
        )?;
        self.gauge(
            "memory_limit",
            "What they may take",
            Some(Unit::Bytes),
            [(Labels::new(), setup.config.memory_size as f64)],
        )?;
        self.gauge(
            "memory_copies",
            "Copies in this process",
            None,
            [(Labels::new(), memory.entries as f64)],
        )?;
        if setup.config.store.memory.is_none() {
            return Ok(());
        }
        self.counter(
            "memory_hits",
            "Hits that the copies in this process gave in place of those in Redis",
            [(Labels::new(), memory.hits)],
        )
    }

    fn coherence(&mut self, setup: &Setup) -> fmt::Result {
        let purges = COUNTED.purges.totals().into_iter();
        self.counter(
            "purges",
            "Purges that passed through this instance, by cause",
            purges.map(|([cause], count)| (vec![("cause", cause.to_owned())], count)),
        )?;
        let owed = setup.coherence.owed() as f64;
        self.gauge(
            "journal_purges",
            "Purges that the store is owed",
            None,
            [(Labels::new(), owed)],
        )?;
        self.gauge(
            "writes_in_flight",
            "Writes under way, each holding what it touches",
            None,
            [(Labels::new(), COUNTED.holds.now() as f64)],
        )
    }

    fn clients(&mut self, counted: &Counted) -> fmt::Result {
        self.gauge(
            "client_connections",
            "Open connections of clients",
            None,
            [(Labels::new(), counted.open as f64)],
        )?;
        let closed = [
            ("too-many", counted.refused),
            ("made-room", counted.made_room),
            ("reader-cut", counted.readers_cut),
            ("bad-header", counted.bad_headers),
        ];
        self.counter(
            "client_connections_closed",
            "Connections of clients that a limit or a fault of theirs closed, by reason",
            closed.map(|(reason, count)| (vec![("reason", reason.to_owned())], count)),
        )?;
        self.gauge(
            "held_answers",
            "Bytes of answers that wait for slow readers",
            Some(Unit::Bytes),
            [(Labels::new(), counted.held_bytes as f64)],
        )
    }

    fn process(&mut self, setup: &Setup) -> fmt::Result {
        let reloads = COUNTED.reloads.totals().into_iter();
        self.counter(
            "config_reloads",
            "Reloads of the file, by what came of them",
            reloads.map(|([outcome], count)| (vec![("outcome", outcome.to_owned())], count)),
        )?;
        self.counter(
            "log_lines_lost",
            "Lines of the log that could not be written in time",
            [(Labels::new(), telemetry::lost_lines())],
        )?;
        let config = &setup.config;
        let down = match config.when_store_is_down {
            WhenStoreIsDown::Forward => "forward",
            WhenStoreIsDown::RefuseWrites => "refuse_writes",
        };
        self.info(
            "config",
            "The configuration at work",
            vec![
                ("routes", config.routes.len().to_string()),
                ("purge_rules", config.purge.len().to_string()),
                ("store", setup.coherence.store().kind().to_owned()),
                ("when_store_is_down", down.to_owned()),
            ],
        )?;
        self.info(
            "build",
            "The program",
            vec![("version", env!("CARGO_PKG_VERSION").to_owned())],
        )
    }

    fn counter(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels, u64)>,
    ) -> fmt::Result {
        let mut metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in series {
            with(&mut metric, &labels, |metric| {
                metric.encode_counter::<NoLabelSet, _, f64>(&value, None)
            })?;
        }
        Ok(())
    }

    fn gauge(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        series: impl IntoIterator<Item = (Labels, f64)>,
    ) -> fmt::Result {
        let mut metric = self
            .0
            .encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        for (labels, value) in series {
            with(&mut metric, &labels, |metric| metric.encode_gauge(&value))?;
        }
        Ok(())
    }

    fn histogram(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels, Took)>,
    ) -> fmt::Result {
        let unit = Unit::Seconds;
        let mut metric =
            self.0
                .encode_descriptor(name, help, Some(&unit), MetricType::Histogram)?;
        let bounds: Vec<f64> = BOUNDS
            .iter()
            .map(|nanos| *nanos as f64 / 1e9)
            .chain([f64::INFINITY])
            .collect();
        for (labels, took) in series {
            let buckets: Vec<(f64, u64)> =
                bounds.iter().copied().zip(took.buckets.clone()).collect();
            with(&mut metric, &labels, |metric| {
                metric.encode_histogram::<NoLabelSet>(took.seconds, took.count(), &buckets, None)
            })?;
        }
        Ok(())
    }

    fn info(&mut self, name: &str, help: &str, labels: Labels) -> fmt::Result {
        self.0
            .encode_descriptor(name, help, None, MetricType::Info)?
            .encode_info(&labels)
    }
}

/// One series of a metric; without labels the metric itself.
fn with(
    metric: &mut MetricEncoder<'_>,
    labels: &Labels,
    value: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
) -> fmt::Result {
    match labels.is_empty() {
        true => value(metric),
        false => value(&mut metric.encode_family(labels)?),
    }
}

const STATES: [&str; 4] = ["up", "settling", "down", "refused"];

/// The word for how the store is.
pub fn state(health: &Health) -> &'static str {
    match health {
        Health::Up => STATES[0],
        Health::Settling => STATES[1],
        Health::Down(_) => STATES[2],
        Health::Refused(_) => STATES[3],
    }
}
