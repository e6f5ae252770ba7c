//! Text in the columns of a terminal: wide letters (Chinese, Japanese, Korean, emoji) take two, marks none.

/// Columns that `text` takes.
pub(crate) fn width(text: &str) -> usize {
    console::measure_text_width(text)
}

/// `text` on one line of at most `most` columns, with an ellipsis where something is missing. Control characters become
/// spaces; those that turn the direction of writing, which would mix up the rest of the line, go.
pub(crate) fn cell(text: &str, most: usize) -> String {
    if most == 0 {
        return String::new();
    }
    let clean: String =
        text.chars().filter(|&c| !turns(c)).map(|c| if c.is_control() { ' ' } else { c }).collect();
    console::truncate_str(&clean, most, "…").into_owned()
}

/// `text` with spaces up to `columns`.
pub(crate) fn padded(text: &str, columns: usize) -> String {
    console::pad_str(text, columns, console::Alignment::Left, None).into_owned()
}

/// A number of things: `1 class`, `2 classes`.
pub(crate) fn counted(number: usize, one: &str, several: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { several })
}

/// Marks, embeddings, overrides and isolates of the Unicode bidirectional algorithm.
fn turns(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_have_the_columns_that_they_should() {
        for (text, most, expected) in [
            ("shirt", 5, "shirt"),
            ("shirts", 5, "shir…"),
            ("長袖のシャツ", 12, "長袖のシャツ"),
            ("長袖のシャツ", 11, "長袖のシャ…"),
            ("長袖のシャツ", 10, "長袖のシ…"),
            ("a\tb\nc\u{1b}[1m", 9, "a b c [1m"),
            ("\u{202e}abc", 3, "abc"),
            ("🧥🧥", 3, "🧥…"),
            ("", 3, ""),
            ("ab", 0, ""),
        ] {
            let found = cell(text, most);
            assert_eq!(found, expected);
            assert!(width(&found) <= most, "{found}");
            assert_eq!(width(&padded(&found, 20)), 20);
        }
        assert_eq!(width(&cell(&"x".repeat(10_000), 40)), 40);
    }
}
