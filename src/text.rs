//! Text that others have written, on its way to a person.

/// Without a line's end or anything else that a terminal would take for more than text.
pub fn one_line(text: &str) -> String {
    let plain = |c: char| match c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
        true => ' ',
        false => c,
    };
    text.chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobodys_text_moves_a_cursor_or_ends_a_line() {
        let text = "/a\x1b]0;b\x07/\u{85}\u{9b}31m\r\nc\u{2028}é";
        assert_eq!(one_line(text), "/a ]0;b /  31m  c é");
    }
}
