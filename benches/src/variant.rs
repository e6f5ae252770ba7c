//! Several ways to compute the same thing, checked against each other before they are timed.

/// Computes everything anew and overwrites the slice.
pub type Kernel<'a> = dyn FnMut(&mut [f32]) + 'a;

/// A kernel under a name: writes its result to the slice that it is given.
pub struct Variant<'a> {
    /// The bench's function name.
    pub name: &'static str,
    /// The kernel.
    pub run: Box<Kernel<'a>>,
}

impl<'a> Variant<'a> {
    /// A variant of this name.
    pub fn new(name: &'static str, run: impl FnMut(&mut [f32]) + 'a) -> Self {
        Self { name, run: Box::new(run) }
    }
}

/// Runs every variant once and compares its `len` values with the first one's: differences of more than `tolerance` times
/// the first one's largest magnitude, and values that are not finite, are too large.
///
/// # Errors
/// A message that names the variant, the place and both values.
pub fn agree(variants: &mut [Variant<'_>], len: usize, tolerance: f32) -> Result<(), String> {
    let Some((first, others)) = variants.split_first_mut() else { return Ok(()) };
    // Values that nobody writes stay NaN and are found.
    let run = |variant: &mut Variant<'_>| {
        let mut values = vec![f32::NAN; len];
        (variant.run)(&mut values);
        values
    };
    let expected = run(first);
    if let Some(at) = expected.iter().position(|value| !value.is_finite()) {
        return Err(format!("{}: value {at} is {}", first.name, expected[at]));
    }
    let allowed = tolerance * expected.iter().fold(0.0f32, |most, value| most.max(value.abs()));
    for variant in others {
        let got = run(variant);
        let wrong = got.iter().zip(&expected).position(|(got, expected)| {
            let difference = (got - expected).abs();
            difference.is_nan() || difference > allowed
        });
        if let Some(at) = wrong {
            return Err(format!(
                "{}: value {at} is {}, {} has {}; at most {allowed:e} apart are allowed",
                variant.name, got[at], first.name, expected[at]
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn square<'a>(name: &'static str, error: f32) -> Variant<'a> {
        Variant::new(name, move |y| {
            y.iter_mut()
                .enumerate()
                .for_each(|(i, y)| *y = (i * i) as f32 + if i == 2 { error } else { 0.0 });
        })
    }

    #[test]
    fn variants_that_agree_pass_and_others_are_named() {
        // The largest value is 9, so 9e-3 is allowed.
        agree(&mut [square("ours", 0.0), square("close", 8e-3)], 4, 1e-3).unwrap();
        let problem = agree(&mut [square("ours", 0.0), square("far", 1e-2)], 4, 1e-3).unwrap_err();
        assert!(problem.starts_with("far: value 2 is 4.01, ours has 4"), "{problem}");
        let lazy = Variant::new("lazy", |y: &mut [f32]| y[0] = 0.0);
        let problem = agree(&mut [square("ours", 0.0), lazy], 4, 1e-3).unwrap_err();
        assert!(problem.starts_with("lazy: value 1 is NaN"), "{problem}");
        assert!(agree(&mut [square("ours", f32::INFINITY)], 4, 1e-3).is_err());
    }
}
