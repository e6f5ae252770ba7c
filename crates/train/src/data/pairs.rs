//! Pairs of texts that belong together, turned into classes.

use std::collections::HashMap;

/// Longest text that names a class; longer ones are cut.
const NAME: usize = 60;

/// Classes of texts: two texts that a pair joins, directly or over others, share one.
///
/// A loss here learns from classes. Pairs say as much: what is joined is a class (the connected components of the pairs,
/// found by union-find), and a text in no pair is a class of its own.
#[derive(Debug, Default)]
pub(super) struct Joined<'a> {
    index: HashMap<&'a str, usize>,
    texts: Vec<&'a str>,
    parent: Vec<usize>,
}

impl<'a> Joined<'a> {
    /// The text's number, a new one at the first sight of it.
    pub(super) fn add(&mut self, text: &'a str) -> usize {
        let next = self.texts.len();
        let at = *self.index.entry(text).or_insert(next);
        if at == next {
            self.texts.push(text);
            self.parent.push(next);
        }
        at
    }

    /// The texts by their numbers.
    pub(super) fn texts(&self) -> Vec<&'a str> {
        self.texts.clone()
    }

    /// Puts two texts into one class.
    pub(super) fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        // The lower number wins, so that the result does not depend on the order of the pairs.
        let (low, high) = if a < b { (a, b) } else { (b, a) };
        if let Some(parent) = self.parent.get_mut(high) {
            *parent = low;
        }
    }

    fn root(&mut self, mut at: usize) -> usize {
        while self.parent[at] != at {
            // Halving the path keeps later walks short.
            self.parent[at] = self.parent[self.parent[at]];
            at = self.parent[at];
        }
        at
    }

    /// The class of each text, counted in the order of the classes' first texts, and the classes' names: the first
    /// text behind the class's number.
    pub(super) fn classes(mut self) -> (Vec<u32>, Vec<String>) {
        let mut number = HashMap::new();
        let (mut labels, mut names) = (Vec::with_capacity(self.texts.len()), Vec::new());
        for at in 0..self.texts.len() {
            let root = self.root(at);
            let label = *number.entry(root).or_insert_with(|| {
                let first: String = self.texts[root].chars().take(NAME).collect();
                names.push(format!("{}: {first}", names.len()));
                names.len() as u32 - 1
            });
            labels.push(label);
        }
        (labels, names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_of_pairs_are_one_class_in_any_order() {
        let pairs = [("a", "b"), ("c", "d"), ("e", "f"), ("b", "c"), ("g", "g")];
        let of = |order: &[usize]| {
            let mut joined = Joined::default();
            let texts = ["a", "b", "c", "d", "e", "f", "g", "h"].map(|text| joined.add(text));
            assert_eq!(texts, [0, 1, 2, 3, 4, 5, 6, 7]);
            for &i in order {
                let (a, b) = (joined.add(pairs[i].0), joined.add(pairs[i].1));
                joined.join(a, b);
            }
            joined.classes()
        };
        let (labels, names) = of(&[0, 1, 2, 3, 4]);
        assert_eq!(labels, [0, 0, 0, 0, 1, 1, 2, 3]);
        assert_eq!(names, ["0: a", "1: e", "2: g", "3: h"]);
        assert_eq!(of(&[4, 3, 2, 1, 0]), (labels, names));
    }

    #[test]
    fn a_long_chain_is_walked_quickly() {
        let texts: Vec<String> = (0..200_000).map(|i| i.to_string()).collect();
        let mut joined = Joined::default();
        for pair in texts.windows(2).rev() {
            let (a, b) = (joined.add(&pair[0]), joined.add(&pair[1]));
            joined.join(a, b);
        }
        assert_eq!(joined.classes().1.len(), 1);
    }
}
