//! A drawing for a README: for each panel a bar for each of those compared.

use std::fmt::Write;

pub struct Panel {
    pub title: String,
    pub bars: Vec<(String, f64)>,
}

const WIDTH: f64 = 720.0;
const NAMES: f64 = 150.0;
const LONGEST: f64 = 500.0;
const ROW: f64 = 22.0;

/// Panels below each other, each by its own measure. It follows the reader's light or dark colours.
pub fn chart(title: &str, panels: &[Panel]) -> String {
    let mut drawn = String::new();
    let mut y = 28.0;
    let text = |drawn: &mut String, class: &str, x: f64, y: f64, words: &str| {
        let words = words.replace('&', "&amp;").replace('<', "&lt;");
        let _ = writeln!(
            drawn,
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{words}</text>"
        );
    };
    text(&mut drawn, "title", 0.0, 16.0, title);
    for panel in panels {
        y += 24.0;
        text(&mut drawn, "panel", 0.0, y, &panel.title);
        y += 8.0;
        let longest = panel
            .bars
            .iter()
            .map(|(_, value)| *value)
            .fold(0.0, f64::max);
        for (name, value) in &panel.bars {
            let ours = if name.starts_with("Larder") {
                "ours"
            } else {
                "theirs"
            };
            let length = LONGEST * value / longest.max(f64::MIN_POSITIVE);
            let _ = writeln!(
                drawn,
                "<rect class=\"{ours}\" x=\"{NAMES}\" y=\"{}\" width=\"{length:.1}\" height=\"{}\"/>",
                y + 3.0,
                ROW - 6.0
            );
            let base = y + ROW - 6.5;
            text(&mut drawn, "name", NAMES - 8.0, base, name);
            text(
                &mut drawn,
                "value",
                NAMES + length + 6.0,
                base,
                &format!("{value:.1}"),
            );
            y += ROW;
        }
    }
    let height = y + 8.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\" aria-label=\"{title}\">
<style>
text {{ font: 12px system-ui, sans-serif; fill: #1f2328 }}
.title, .panel {{ font-weight: 600 }}
.name {{ text-anchor: end }}
.ours {{ fill: #1a7f5a }}
.theirs {{ fill: #afb8c1 }}
@media (prefers-color-scheme: dark) {{
text {{ fill: #e6edf3 }}
.ours {{ fill: #3fb68b }}
.theirs {{ fill: #57606a }}
}}
</style>
{drawn}</svg>
"
    )
}
