//! A table for a terminal, or as Markdown for a README. The first column is words, the others are figures.

pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(head: &[&str]) -> Table {
        Table {
            rows: vec![head.iter().map(|&name| name.to_owned()).collect()],
        }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub fn text(&self) -> String {
        self.lines("", "  ", "", |_| None)
    }

    pub fn markdown(&self) -> String {
        self.lines("| ", " | ", " |", |widths| {
            let rule = widths.iter().enumerate().map(|(column, &width)| {
                let dashes = "-".repeat(width.max(3) - 1);
                match column {
                    0 => format!("{dashes}-"),
                    _ => format!("{dashes}:"),
                }
            });
            Some(rule.collect())
        })
    }

    fn lines(
        &self,
        before: &str,
        between: &str,
        after: &str,
        rule: impl Fn(&[usize]) -> Option<Vec<String>>,
    ) -> String {
        let columns = self.rows[0].len();
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                let cells = self.rows.iter().map(|row| row[column].chars().count());
                cells.max().unwrap_or(0).max(3)
            })
            .collect();
        let mut rows = self.rows.clone();
        if let Some(rule) = rule(&widths) {
            rows.insert(1, rule);
        }
        let mut text = String::new();
        for row in rows {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .enumerate()
                .map(|(column, (cell, &width))| match column {
                    0 => format!("{cell:<width$}"),
                    _ => format!("{cell:>width$}"),
                })
                .collect();
            text.push_str(before);
            text.push_str(cells.join(between).as_str());
            text.push_str(after);
            text.push('\n');
        }
        text
    }
}

/// The one in the middle; of an even number the higher of two.
pub fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
