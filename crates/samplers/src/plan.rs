//! How many classes and items a batch holds.

/// Classes and items of each in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) classes: usize,
    pub(crate) items: usize,
}

/// The plan for a batch of `batch` with `items` of each class, where `paired` classes (at least one) have two items or
/// more and `single` have one, and a sentence where it differs from what was asked.
///
/// What was asked is kept where it can be: first the items of each class, then, if there are too few classes, the
/// batch size with more items of each class; never fewer than two classes.
pub(crate) fn plan(batch: usize, items: usize, paired: usize, single: usize) -> (Plan, Option<String>) {
    // Beside a lone class with pairs, single items stand in for a second one.
    let available = paired.max(2);
    let wanted = (batch / items).max(2);
    let chosen =
        if wanted <= available { Plan { classes: wanted, items } } else { fit(batch, items, available) };
    let size = chosen.classes * chosen.items;
    if size == batch && chosen.items == items {
        return (chosen, None);
    }
    let outcome = if size == batch {
        format!("batch {batch} kept")
    } else {
        format!("batch {size} instead of {batch}")
    };
    let why = if wanted > available {
        let kind = if single > 0 { " of two or more items" } else { "" };
        let classes = if paired == 1 { "class" } else { "classes" };
        format!("impossible with {paired} {classes}{kind}")
    } else {
        format!("does not give a batch of {batch}")
    };
    let notice = format!(
        "class sampler: {wanted} classes x {items} {why} -> {} classes x {} ({outcome})",
        chosen.classes, chosen.items
    );
    (chosen, Some(notice))
}

/// Too few classes: a divisor pair of the batch size with more items of each, nearest to what was asked; else all
/// classes with as many items as fit.
fn fit(batch: usize, items: usize, available: usize) -> Plan {
    let least = (available.min(batch / items)).div_ceil(2).max(2);
    // By classes, not by items: there are no more of them than labels, however large a batch is asked for.
    (least..=available)
        .rev()
        .filter(|classes| batch.is_multiple_of(*classes))
        .map(|classes| Plan { classes, items: batch / classes })
        .find(|plan| plan.items >= items)
        .unwrap_or(Plan { classes: available, items: (batch / available).max(1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fewest_items_above_what_was_asked_are_found() {
        for batch in 4usize..80 {
            for items in 2..=batch / 2 {
                for available in 2..batch / items {
                    let least = available.min(batch / items).div_ceil(2).max(2);
                    let divisor = (items..=batch / 2)
                        .find(|k| batch % k == 0 && (least..=available).contains(&(batch / k)));
                    let expected = match divisor {
                        Some(items) => Plan { classes: batch / items, items },
                        None => Plan { classes: available, items: batch / available },
                    };
                    assert_eq!(fit(batch, items, available), expected, "{batch} {items} {available}");
                }
            }
        }
    }

    #[test]
    fn the_documented_cases() {
        for (batch, items, available, classes, per, notice) in [
            (128, 4, 100, 32, 4, None),
            (
                128,
                4,
                10,
                8,
                16,
                Some(
                    "class sampler: 32 classes x 4 impossible with 10 classes -> 8 classes x 16 (batch 128 kept)",
                ),
            ),
            (
                42,
                4,
                100,
                10,
                4,
                Some(
                    "class sampler: 10 classes x 4 does not give a batch of 42 -> 10 classes x 4 (batch 40 instead of 42)",
                ),
            ),
            (
                127,
                4,
                10,
                10,
                12,
                Some(
                    "class sampler: 31 classes x 4 impossible with 10 classes -> 10 classes x 12 (batch 120 instead of 127)",
                ),
            ),
            (8, 4, 4, 2, 4, None),
            (40, 4, 10, 10, 4, None),
        ] {
            let (plan, got) = plan(batch, items, available, 0);
            assert_eq!((plan.classes, plan.items, got.as_deref()), (classes, per, notice));
        }
    }
}
