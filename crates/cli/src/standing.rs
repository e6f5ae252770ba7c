//! Which of several figures are the best, ties included.

/// What to mark among figures of one kind: the largest, all of them where several are; none where all are the same,
/// which tells nothing of any.
pub(crate) fn best(figures: &[f64]) -> Vec<bool> {
    let most = largest(figures);
    let tell = figures.iter().any(|&figure| figure != most);
    figures.iter().map(|&figure| tell && figure == most).collect()
}

/// The items with the largest figure, in their order.
pub(crate) fn first<T: Copy>(of: &[(T, f64)]) -> Vec<T> {
    let most = largest(&of.iter().map(|of| of.1).collect::<Vec<_>>());
    of.iter().filter(|of| of.1 == most).map(|of| of.0).collect()
}

fn largest(figures: &[f64]) -> f64 {
    figures.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

/// `a`, `a and b`, `a, b and c`.
pub(crate) fn listed(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [before @ .., last] => format!("{} and {last}", before.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_share_the_mark_and_what_is_the_same_has_none() {
        assert_eq!(best(&[0.2, 0.7, 0.5]), [false, true, false]);
        assert_eq!(best(&[0.2, 0.7, 0.7]), [false, true, true]);
        assert_eq!(best(&[0.7, 0.7, 0.7]), [false; 3]);
        assert_eq!(best(&[0.7]), [false]);
        assert_eq!(first(&[("a", 0.5), ("b", 0.9), ("c", 0.9)]), ["b", "c"]);
        assert!(first::<&str>(&[]).is_empty());
    }

    #[test]
    fn names_are_listed_as_one_says_them() {
        assert_eq!(listed(&["a"]), "a");
        assert_eq!(listed(&["a", "b"]), "a and b");
        assert_eq!(listed(&["a", "b", "c"]), "a, b and c");
    }
}
