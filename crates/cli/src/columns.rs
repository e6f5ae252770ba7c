//! Text in the columns of a terminal: wide letters (Chinese, Japanese, Korean, emoji) take two, marks none.

/// Columns that `text` takes.
pub(crate) fn width(text: &str) -> usize {
    console::measure_text_width(text)
}

/// `text` on one line of at most `most` columns, with an ellipsis where something is missing. Control characters become
/// spaces; those that turn the direction of writing, which would mix up the rest of the line, go.
pub(crate) fn cell(text: &str, most: usize) -> String {
    let clean = || text.chars().filter(|&c| !turns(c)).map(|c| if c.is_control() { ' ' } else { c });
    let columns = |c: char| width(c.encode_utf8(&mut [0; 4]));
    // No longer than needed: names of any length come from data.
    if clean()
        .scan(0, |sum, c| {
            *sum += columns(c);
            Some(*sum)
        })
        .all(|sum| sum <= most)
    {
        return clean().collect();
    }
    let mut left = most.saturating_sub(1);
    let kept = clean().take_while(|&c| {
        let fits = columns(c) <= left;
        left = left.saturating_sub(columns(c));
        fits
    });
    kept.chain(['…']).take(most).collect()
}

/// `text` with spaces up to `columns`.
pub(crate) fn padded(text: &str, columns: usize) -> String {
    let missing = columns.saturating_sub(width(text));
    format!("{text}{}", " ".repeat(missing))
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
