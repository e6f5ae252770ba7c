//! Text to rows of a hashed table: words, pairs of neighbouring words, and character n-grams of each word.

use std::collections::HashMap;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Longest character n-gram that a specification may ask for.
const LONGEST_GRAM: usize = 16;

/// How text becomes rows of a table. It is stored with a model, so that a saved model reads text as it learnt to.
///
/// Text is lower-cased and cut into words, the runs of letters and digits of any script (Unicode's Alphabetic and
/// Numeric). Tokens are the words, the pairs of neighbouring words, and each word's character n-grams with its borders
/// marked, `<card>` (Bojanowski et al. 2017, "Enriching Word Vectors with Subword Information", arXiv:1607.04606,
/// section 3.2). A token's row is its hash (FNV-1a, 64 bits) modulo `rows`; tokens that collide share a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenSpec {
    /// Rows of the table.
    pub rows: usize,
    /// Different rows that a text uses at most: words come first, then pairs, then n-grams, and the rest is cut off.
    pub max_tokens: usize,
    /// Whether pairs of neighbouring words are tokens.
    pub pairs: bool,
    /// Shortest and longest character n-gram.
    pub grams: [usize; 2],
}

impl Default for TokenSpec {
    /// 32,768 rows, at most 512 tokens, pairs, and n-grams of 3 to 5 characters.
    fn default() -> Self {
        Self { rows: 1 << 15, max_tokens: 512, pairs: true, grams: [3, 5] }
    }
}

/// The tokens of some texts, text after text.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Tokens {
    /// Rows, each once a text.
    pub(super) ids: Vec<u32>,
    /// Square root of how often each occurs in its text: the tenth occurrence says less than the first.
    pub(super) weights: Vec<f32>,
    /// Where each text's tokens end.
    pub(super) ends: Vec<usize>,
}

impl TokenSpec {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Option`] naming the field.
    pub fn check(&self) -> Result<()> {
        let wrong = |field: &str, value: String, remedy: &str| {
            Err(Error::option(format!("encoder.input.{field}"), value, remedy))
        };
        if self.rows == 0 || u32::try_from(self.rows).is_err() {
            return wrong("rows", self.rows.to_string(), "from 1 to 4294967295; 32768 is usual");
        }
        if self.max_tokens == 0 {
            return wrong("max_tokens", "0".into(), "at least 1; 512 is usual");
        }
        let [shortest, longest] = self.grams;
        if shortest == 0 || longest < shortest || longest > LONGEST_GRAM {
            let remedy = "the shortest and the longest n-gram, in this order, from 1 to 16; [3, 5] is usual";
            return wrong("grams", format!("{:?}", self.grams), remedy);
        }
        Ok(())
    }

    /// The different rows of a text, words first, with the square root of how often each occurs: what an exported model
    /// of text takes ([`crate::export::onnx`]).
    pub fn row_weights(&self, text: &str) -> Vec<(u32, f32)> {
        self.count(text)
    }

    /// The tokens of each text.
    pub(super) fn tokens(&self, texts: &[&str]) -> Tokens {
        // Each text alone, so the result does not depend on the threads.
        let each: Vec<Vec<(u32, f32)>> =
            texts.par_iter().with_min_len(16).map(|text| self.count(text)).collect();
        let mut all = Tokens::default();
        for tokens in each {
            for (id, weight) in tokens {
                all.ids.push(id);
                all.weights.push(weight);
            }
            all.ends.push(all.ids.len());
        }
        all
    }

    /// The different rows of a text's tokens, in the order in which they come, with their weights.
    fn count(&self, text: &str) -> Vec<(u32, f32)> {
        let mut seen = Seen { spec: self, place: HashMap::new(), counts: Vec::new() };
        seen.read(text);
        seen.counts.into_iter().map(|(id, count)| (id, count.sqrt())).collect()
    }
}

/// The rows seen so far.
struct Seen<'a> {
    spec: &'a TokenSpec,
    place: HashMap<u32, usize>,
    counts: Vec<(u32, f32)>,
}

impl Seen<'_> {
    fn read(&mut self, text: &str) {
        let lower = text.to_lowercase();
        let words = || lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        for word in words() {
            if !self.add(hash(b'w', word.chars())) {
                return;
            }
        }
        if self.spec.pairs {
            for (first, second) in words().zip(words().skip(1)) {
                if !self.add(hash(b'p', first.chars().chain([' ']).chain(second.chars()))) {
                    return;
                }
            }
        }
        let [shortest, longest] = self.spec.grams;
        let mut marked: Vec<char> = Vec::new();
        for word in words() {
            marked.clear();
            marked.extend(std::iter::once('<').chain(word.chars()).chain(['>']));
            for length in shortest..=longest {
                for gram in marked.windows(length) {
                    if !self.add(hash(b'c', gram.iter().copied())) {
                        return;
                    }
                }
            }
        }
    }

    /// Counts a token; `false` when there is no room for it.
    fn add(&mut self, hash: u64) -> bool {
        let row = (hash % self.spec.rows.max(1) as u64) as u32;
        let place = *self.place.entry(row).or_insert(self.counts.len());
        if place == self.counts.len() {
            if place == self.spec.max_tokens {
                return false;
            }
            self.counts.push((row, 0.0));
        }
        self.counts[place].1 += 1.0;
        true
    }
}

/// 64-bit FNV-1a over the kind and the characters in UTF-8: the same on every machine and in every version.
fn hash(kind: u8, chars: impl Iterator<Item = char>) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = chars.fold(step(0xcbf2_9ce4_8422_2325, kind), |hash, c| {
        c.encode_utf8(&mut [0; 4]).bytes().fold(hash, step)
    });
    // FNV's low bits are its weakest: fold the high ones in.
    hash ^ (hash >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDE: TokenSpec = TokenSpec { rows: 1 << 30, max_tokens: 64, pairs: true, grams: [3, 5] };

    fn ids(text: &str, spec: &TokenSpec) -> Vec<u32> {
        spec.count(text).into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn words_pairs_and_grams_are_counted() {
        for (text, tokens) in [
            ("", 0),
            (" ?! \u{1F600}", 0),
            // Itself; of "<ab>" two grams of three characters and one of four.
            ("AB!", 1 + 2 + 1),
            ("a", 1 + 1),
            // Two words, one pair, the grams "<a>" and "<b>".
            ("a b", 2 + 1 + 2),
            // The pairs "a b" and "b a" differ.
            ("a b a", 2 + 2 + 2),
            ("ñandú", 1 + 5 + 4 + 3),
            ("你好", 1 + 2 + 1),
        ] {
            assert_eq!(ids(text, &WIDE).len(), tokens, "{text:?}");
        }
        assert_eq!(ids("Top-up FAILED", &WIDE), ids("top  up, failed.", &WIDE));
        assert_ne!(ids("ab cd", &WIDE), ids("cd ab", &WIDE));
        assert_eq!(WIDE.count("a a a a")[0].1, 2.0);
        let single = TokenSpec { pairs: false, grams: [1, 1], ..WIDE };
        assert_eq!(ids("a b", &single).len(), 2 + 4);
    }

    #[test]
    fn rows_do_not_change_between_versions() {
        // FNV-1a of "wcard", folded: computed by an independent implementation.
        let expected = {
            let mut hash = 14_695_981_039_346_656_037u128;
            for byte in b"wcard" {
                hash = ((hash ^ u128::from(*byte)) * 1_099_511_628_211) % (1 << 64);
            }
            (hash ^ (hash >> 32)) as u64
        };
        assert_eq!(hash(b'w', "card".chars()), expected);
    }

    #[test]
    fn long_texts_are_cut_and_many_are_read_alike_on_any_threads() {
        let long: String = (0..10_000).map(|i| format!("word{i} ")).collect();
        assert_eq!(ids(&long, &WIDE).len(), 64);
        assert_eq!(ids(&long, &WIDE), ids(&long[..2_000], &WIDE));
        // Itself, and of each length the first, the inner and the last n-gram.
        assert_eq!(ids(&"a".repeat(1 << 20), &WIDE).len(), 1 + 3 * 3);
        let texts: Vec<String> = (0..200).map(|i| format!("{} {i} card", "so ".repeat(i % 7))).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let all = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| WIDE.tokens(&texts))
        };
        let one = all(1);
        assert_eq!(one.ends.len(), texts.len());
        assert!([2, 3, 5].into_iter().all(|threads| all(threads) == one));
    }

    #[test]
    fn wrong_options_are_named() {
        for (spec, field) in [
            (TokenSpec { rows: 0, ..WIDE }, "rows = 0"),
            (TokenSpec { max_tokens: 0, ..WIDE }, "max_tokens = 0"),
            (TokenSpec { grams: [0, 3], ..WIDE }, "grams = [0, 3]"),
            (TokenSpec { grams: [4, 3], ..WIDE }, "grams = [4, 3]"),
            (TokenSpec { grams: [1, 17], ..WIDE }, "grams = [1, 17]"),
        ] {
            let error = spec.check().unwrap_err().to_string();
            assert!(error.starts_with(&format!("encoder.input.{field}: ")), "{error}");
        }
        TokenSpec::default().check().unwrap();
    }
}
