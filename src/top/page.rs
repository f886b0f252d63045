//! The screen as lines of text. Pure.

use std::time::Duration;

use super::{Purge, Rate, Route, Screen};

/// At most so many lines of at most so many characters; what has no room is left out from the bottom.
pub fn lines(screen: &Screen, at: &str, width: usize, height: usize) -> Vec<String> {
    let mut lines = head(screen, at);
    lines.push(String::new());
    lines.extend(routes(screen));
    if !screen.hottest.is_empty() {
        lines.push(String::new());
        lines.push("hottest (sampled, since it was started)".to_owned());
        for hot in screen.hottest.iter().take(5) {
            lines.push(format!(
                "  {:<60} {:>9}",
                hot.key,
                grouped(hot.count as f64)
            ));
        }
    }
    if !screen.purges.is_empty() {
        lines.push(String::new());
        lines.push("last purges".to_owned());
        lines.extend(screen.purges.iter().map(purge));
    }
    lines.truncate(height);
    lines.iter().map(|line| cut(line, width)).collect()
}

fn head(screen: &Screen, at: &str) -> Vec<String> {
    let memory = screen
        .memory_bytes
        .map_or(String::new(), |bytes| format!(", {}", size(bytes)));
    let up = humantime::format_duration(Duration::from_secs(screen.uptime_seconds));
    let (store, upstream) = (&screen.store, &screen.upstream);
    let mut lines = vec![
        format!(
            "larder {} at {at}, up {up}{memory}, {} connections",
            screen.version, screen.client_connections
        ),
        String::new(),
        format!(
            "requests  {} /s, {} of reads are hits",
            grouped(screen.requests_per_second),
            percent(screen.hit_ratio)
        ),
        format!("hits      {}", rate(&screen.hits)),
        format!("others    {}", rate(&screen.others)),
    ];
    let mut told = format!("store     {} {}", store.kind, store.state);
    if let Some(detail) = &store.detail {
        told += &format!(": {detail}");
    }
    // Beside Redis there may be both.
    if let Some(memory) = &store.memory {
        told += &format!(
            ", {} of {} in {} copies",
            size(memory.used_bytes),
            size(memory.limit_bytes),
            grouped(memory.copies as f64)
        );
    }
    if store.kind != "memory" {
        told += &format!(", look-ups {}", rate(&store.look_ups));
    }
    if store.failures + store.lost > 0 {
        told += &format!(
            ", {} failed and {} times lost since it was started",
            store.failures, store.lost
        );
    }
    lines.push(told);
    let mut told = format!(
        "upstream  {} of {} in flight, {} queued, {}",
        upstream.in_flight,
        upstream.most,
        upstream.queued,
        rate(&upstream.requests)
    );
    for (word, per_second) in &upstream.failures_per_second {
        told += &format!(", {word} {}/s", grouped(*per_second));
    }
    lines.push(told);
    for one in &upstream.upstreams {
        lines.push(format!(
            "          {} {}, {} in flight",
            one.address, one.state, one.in_flight
        ));
    }
    lines.push(format!(
        "writes    {} in flight, {} purges /s, {} owed to the store",
        screen.writes_in_flight,
        grouped(screen.purges_per_second),
        screen.purges_owed
    ));
    lines
}

fn routes(screen: &Screen) -> Vec<String> {
    let widest = screen
        .routes
        .iter()
        .map(|route| route.route.chars().count());
    let width = widest.max().unwrap_or_default().clamp(5, 40);
    let mut lines = vec![format!(
        "{:<width$} {:>9} {:>8} {:>9} {:>9} {:>9} {:>9}  why not a hit (/s)",
        "route", "/s", "hits", "hit p50", "hit p99", "other p50", "other p99"
    )];
    lines.extend(screen.routes.iter().map(|one| route(one, width)));
    lines
}

fn route(route: &Route, width: usize) -> String {
    let name = match route.route.as_str() {
        "-" => "(none)",
        name => name,
    };
    let reasons = { route.reasons.iter().take(4) }
        .map(|reason| format!("{} {}", reason.reason, grouped(reason.per_second)))
        .collect::<Vec<_>>();
    let all = route.hits.per_second + route.others.per_second;
    let of = |rate: &Rate, seconds| within(rate.per_second, seconds);
    format!(
        "{:<width$} {:>9} {:>8} {:>9} {:>9} {:>9} {:>9}  {}",
        cut(name, width),
        grouped(all),
        percent(route.hit_ratio),
        of(&route.hits, route.hits.p50_seconds),
        of(&route.hits, route.hits.p99_seconds),
        of(&route.others, route.others.p50_seconds),
        of(&route.others, route.others.p99_seconds),
        reasons.join(", ")
    )
}

fn purge(purge: &Purge) -> String {
    // The day says nothing here: `Thu, 26 Nov 2026 02:45:00 GMT`.
    let time = purge.at.split(' ').find(|word| word.contains(':'));
    let by = purge.write.as_ref().map_or(String::new(), |write| {
        format!(" {} {}", write.method, write.path)
    });
    let keys: Vec<String> = { purge.states.iter() }
        .map(|state| state.replace("~state", "").replace("~all", ":*"))
        .collect();
    let more = match purge.count.saturating_sub(purge.states.len()) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let time = time.unwrap_or_default();
    format!("  {time}  {}{by}: {}{more}", purge.cause, keys.join(" "))
}

fn rate(rate: &Rate) -> String {
    let of = |seconds| within(rate.per_second, seconds);
    format!(
        "{} /s, half within {}, 99 % within {}",
        grouped(rate.per_second),
        of(rate.p50_seconds),
        of(rate.p99_seconds)
    )
}

/// A bound, where there was anything.
fn within(per_second: f64, seconds: Option<f64>) -> String {
    match seconds {
        _ if per_second == 0.0 => "-".to_owned(),
        None => "> 10 s".to_owned(),
        Some(seconds) if seconds < 0.001 => format!("{:.0} µs", seconds * 1e6),
        Some(seconds) if seconds < 1.0 => format!("{} ms", seconds * 1e3),
        Some(seconds) => format!("{seconds} s"),
    }
}

fn percent(part: Option<f64>) -> String {
    part.map_or("-".to_owned(), |part| format!("{:.1} %", part * 100.0))
}

fn size(bytes: u64) -> String {
    bytesize::ByteSize::b(bytes).to_string()
}

/// `12,345`, and what is small with one digit.
fn grouped(number: f64) -> String {
    if number > 0.0 && number < 100.0 && number.fract() != 0.0 {
        return format!("{number:.1}");
    }
    let digits = format!("{number:.0}");
    let mut grouped = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// What a terminal would take for an order is left out.
fn cut(line: &str, width: usize) -> String {
    let shown = line.chars().filter(|c| !c.is_control());
    shown.take(width).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::{LastPurges, Totals, between};

    #[test]
    fn numbers_are_written_as_people_read_them() {
        assert_eq!(grouped(0.0), "0");
        assert_eq!(grouped(1.25), "1.2");
        assert_eq!(grouped(1234567.8), "1,234,568");
        assert_eq!(within(1.0, Some(0.00025)), "250 µs");
        assert_eq!(within(1.0, Some(0.0025)), "2.5 ms");
        assert_eq!(within(1.0, None), "> 10 s");
        assert_eq!(within(0.0, None), "-");
    }

    #[test]
    fn copies_beside_redis_do_not_hide_its_look_ups() {
        let told = |kind: &str| {
            let memory = serde_json::json!({"used_bytes": 2048, "limit_bytes": 4096, "copies": 3});
            let now = serde_json::json!({"store": {"kind": kind, "state": "up", "memory": memory}});
            let now: Totals = serde_json::from_value(now).expect("totals");
            let second = Duration::from_secs(1);
            let screen = between(&Totals::default(), &now, second, LastPurges::default());
            let mut whole = lines(&screen, "127.0.0.1:9180", 200, 100).into_iter();
            whole
                .find(|line| line.starts_with("store"))
                .expect("the store")
        };
        assert!(told("memory").contains("in 3 copies") && !told("memory").contains("look-ups"));
        assert!(told("redis").contains("in 3 copies") && told("redis").contains("look-ups"));
    }

    #[test]
    fn nothing_is_longer_or_wider_than_the_terminal_nor_orders_it_about() {
        let purges = LastPurges {
            purges: vec![Purge {
                at: "Thu, 26 Nov 2026 02:45:00 GMT".to_owned(),
                cause: "write".to_owned(),
                states: vec!["users:list~state".to_owned(), "a\u{1b}[2J~all".to_owned()],
                count: 3,
                write: None,
            }],
        };
        let (then, now) = (Totals::default(), Totals::default());
        let screen = between(&then, &now, Duration::from_secs(1), purges);
        let whole = lines(&screen, "127.0.0.1:9180", 200, 100);
        let last = whole.last().expect("a purge");
        assert_eq!(last, "  02:45:00  write: users:list a[2J:* and 1 more");
        let small = lines(&screen, "127.0.0.1:9180", 20, 5);
        assert_eq!(small.len(), 5);
        assert!(small.iter().all(|line| line.chars().count() <= 20));
    }
}
