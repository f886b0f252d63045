//! docs/GUIDE.md: each command in it does what the guide says, in the order of the guide, with the shipped proxy.yaml.

mod support;

use std::process::Command;

use support::larder::{Larder, binary};
use support::origin::{self, Origin};
use support::redis::RedisServer;

const GUIDE: &str = include_str!("../docs/GUIDE.md");
const PROXY_YAML: &str = include_str!("../proxy.yaml");

#[test]
fn every_command_of_the_guide_does_what_the_guide_says() {
    let redis = RedisServer::start();
    let origin = Origin::start(|request| match request.method.as_str() {
        "GET" => origin::json(format!("{{\"n\":{}}}", request.number)),
        _ => origin::json("{}"),
    });
    // As the team's .env has it: the path is Celery's.
    let url = format!("{}/0", redis.url());
    let larder = Larder::with(PROXY_YAML)
        .env("UPSTREAM", origin.url())
        .env("REDIS_URL", url.as_str())
        .start();
    let proxy = larder.address().to_string();
    let admin = larder.admin_address().to_string();
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", binary().parent().unwrap().display());

    let commands = commands();
    for part in ["larder ", "redis-cli ", "curl "] {
        let some = commands.iter().filter(|(line, _)| line.contains(part));
        assert!(some.count() >= 10, "few lines with {part}: {commands:?}");
    }
    for (line, expected) in commands {
        let here = line
            .replace("127.0.0.1:8080", &proxy)
            .replace("127.0.0.1:9180", &admin);
        let output = Command::new("sh")
            .args(["-c", &here])
            .current_dir(larder.file().parent().unwrap())
            .env_remove("RUST_LOG")
            .env_remove("REDIS_DATABASE")
            .env("PATH", &path)
            .env("LISTEN", &proxy)
            .env("ADMIN", &admin)
            .env("UPSTREAM", origin.url())
            .env("REDIS_URL", &url)
            .output()
            .unwrap();
        let said = [&output.stdout[..], &output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(
            output.status.success() && said.contains(expected),
            "{line}\nis to say {expected}, and ends with {}:\n{said}",
            output.status
        );
    }
}

#[test]
fn the_guide_names_all_seven_functions_with_what_stands_for_them() {
    const CACHE: &str = include_str!("../examples/django/users/cache.py");
    let rows: Vec<&str> = GUIDE
        .lines()
        .filter(|line| line.starts_with("| `"))
        .collect();
    for function in [
        "get_cached_user_list",
        "set_cached_user_list",
        "invalidate_user_list_cache",
        "get_cached_user",
        "set_cached_user",
        "invalidate_user_cache",
        "invalidate_all_user_caches",
    ] {
        assert!(CACHE.contains(&format!("\ndef {function}(")), "{function}");
        let row = rows
            .iter()
            .find(|row| row.starts_with(&format!("| `{function}(")));
        let row = row.unwrap_or_else(|| panic!("{function} has no row"));
        assert!(row.contains("| `larder "), "{row}");
    }
}

#[test]
fn what_the_guide_links_to_is_there() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    for link in GUIDE.split("](").skip(1) {
        let link = link.split(')').next().unwrap();
        let (file, place) = link.split_once('#').unwrap_or((link, ""));
        assert!(file.is_empty() || root.join(file).exists(), "{link}");
        let text = match file.is_empty() {
            true => GUIDE.to_owned(),
            false if place.is_empty() => continue,
            false => std::fs::read_to_string(root.join(file)).unwrap(),
        };
        let places: Vec<String> = text
            .lines()
            .filter(|line| line.starts_with('#'))
            .map(|line| {
                line.trim_start_matches('#')
                    .trim()
                    .to_lowercase()
                    .replace(' ', "-")
            })
            .collect();
        assert!(
            places.iter().any(|there| there == place),
            "{link}: {places:?}"
        );
    }
}

/// The lines of the guide's shell blocks, each with what it must print.
fn commands() -> Vec<(&'static str, &'static str)> {
    let blocks = GUIDE.split("```sh\n").skip(1);
    let lines = blocks.flat_map(|block| block.split("```").next().unwrap().lines());
    lines
        .map(|line| line.split_once(" # →").expect(line))
        .map(|(line, expected)| (line.trim(), expected.trim()))
        .collect()
}
