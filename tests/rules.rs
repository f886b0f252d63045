//! How many rows there are for each rule of docs/RULES.md, over all tables: what is claimed of them is counted here.

#[path = "poison/cases.rs"]
mod cases;
#[path = "copies/rows.rs"]
mod copies;
#[path = "raw/line.rs"]
mod line;
#[path = "odd_answers/rows.rs"]
mod odd_answers;
#[path = "raw/rows.rs"]
mod raw;

use std::collections::BTreeMap;

use line::Line;

#[test]
fn the_tables_have_at_least_three_rows_for_each_rule() {
    let mut counts: BTreeMap<Line, usize> = BTreeMap::new();
    let mut add = |line: Line, rows: usize| *counts.entry(line).or_default() += rows;
    for (line, rows) in raw::tables() {
        add(line, rows.len());
    }
    for row in odd_answers::rows() {
        add(row.line, 1);
    }
    for poisoner in cases::poisoners() {
        add(poisoner.line, 1);
    }
    add(Line::C1, cases::LURES.len() + cases::PAIRS.len());
    for (line, rows) in copies::counts() {
        add(line, rows);
    }
    let told: Vec<String> = counts
        .iter()
        .map(|(line, rows)| format!("{line} {rows}"))
        .collect();
    println!("{}", told.join(" · "));
    for line in Line::ALL {
        let rows = counts.get(&line).copied().unwrap_or(0);
        assert!(rows >= 3, "{line} has {rows}");
    }
    let requests: usize = raw::tables().iter().map(|(_, rows)| rows.len()).sum();
    let answers = odd_answers::rows().len();
    let of_copies: usize = counts
        .iter()
        .filter(|(line, _)| **line >= Line::C1)
        .map(|(_, rows)| rows)
        .sum();
    println!("{requests} requests · {answers} answers · {of_copies} of copies");
    assert!(requests >= 400 && answers >= 60 && of_copies >= 250);
}

#[test]
fn each_rule_is_in_the_document() {
    let document = include_str!("../docs/RULES.md");
    for line in Line::ALL {
        assert!(document.contains(&format!("| {line} |")), "{line}");
    }
}
