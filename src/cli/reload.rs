//! `larder reload`: a running instance reads its file again, and says what came of it.

use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::{ConfigFile, Failure, Output, by_hand, print_json};

#[derive(Args)]
#[command(after_help = "\
Examples:
  larder check && larder reload
  larder reload --json | jq -r '.dropped[]'")]
pub struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    #[command(flatten)]
    pub output: Output,
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    // Wrong here is wrong there, but for what stands in the instance's own environment.
    let config = super::load(&arguments.file.config)?;
    let told = by_hand::Admin::of(&config)?.json(Method::POST, "/reload", Vec::new(), "dropped")?;
    let dropped: Vec<&str> = told["dropped"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if arguments.output.json {
        print_json(&json!({ "reloaded": true, "dropped": dropped }));
        return Ok(());
    }
    match dropped.is_empty() {
        true => println!("reloaded: all copies stay"),
        false => println!(
            "reloaded; dropped once, as writes drop it from now on: {}",
            dropped.join(" ")
        ),
    }
    Ok(())
}
