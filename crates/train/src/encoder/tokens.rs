//! Text to rows of a hashed table: words, pairs of neighbouring words, and character n-grams of each word.

use super::TokenSpec;

/// Shortest and longest character n-gram; word borders are marked, so that prefixes and suffixes differ.
const GRAMS: std::ops::RangeInclusive<usize> = 3..=5;

/// The rows of a text's tokens, words first, so that a cut leaves the n-grams out. An empty text has none.
pub(super) fn ids(text: &str, spec: &TokenSpec) -> Vec<u32> {
    let lower = text.to_lowercase();
    let words: Vec<&str> = lower.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).collect();
    let row = |kind: u8, parts: &[&str]| (hash(kind, parts) % spec.rows.max(1) as u64) as u32;
    let mut out: Vec<u32> = words.iter().map(|word| row(b'w', &[word])).collect();
    out.extend(words.windows(2).map(|pair| row(b'p', &[pair[0], " ", pair[1]])));
    for word in words {
        if out.len() >= spec.max_tokens {
            break;
        }
        let marked: Vec<char> = std::iter::once('<').chain(word.chars()).chain(['>']).collect();
        for length in GRAMS {
            for gram in marked.windows(length) {
                let gram: String = gram.iter().collect();
                out.push(row(b'c', &[&gram]));
            }
        }
    }
    out.truncate(spec.max_tokens);
    out
}

/// FNV-1a over the kind and the parts: the same on every machine and in every version.
fn hash(kind: u8, parts: &[&str]) -> u64 {
    let bytes = std::iter::once(kind).chain(parts.iter().flat_map(|part| part.bytes()));
    let hash = bytes
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    // FNV's low bits are its weakest: fold the high ones in.
    hash ^ (hash >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_pairs_and_grams_are_hashed_in_a_fixed_way() {
        let spec = TokenSpec { rows: 1 << 20, max_tokens: 64 };
        // One word: itself and the grams of "<ab>": 2 of three, 1 of four, none of five.
        assert_eq!(ids("AB!", &spec).len(), 1 + 2 + 1);
        assert_eq!(ids("ab", &spec), ids("  Ab, ", &spec));
        assert_eq!(ids("", &spec), Vec::<u32>::new());
        assert_eq!(ids(&"word ".repeat(10_000), &spec).len(), 64);
        assert_ne!(ids("ab cd", &spec), ids("cd ab", &spec));
        assert!(ids("\u{1F600} ñandú 你好", &spec).iter().all(|&id| id < 1 << 20));
    }
}
