//! Where class centres start.

use embedtune_losses::CentreInit;
use ndarray::Array2;
use ndarray_rand::RandomExt;
use ndarray_rand::rand_distr::{Normal, StandardNormal};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::{Error, Result};

/// Class centres of the given shape; a function of the arguments alone.
///
/// Margin-softmax losses look only at a centre's direction, but its length sets how far a step turns it: gradients
/// shrink as it grows, so long centres learn slowly.
///
/// # Errors
/// A standard deviation that is not above 0; a shape that no memory holds; an initialisation that this version does not
/// know.
pub fn draw_centres(init: CentreInit, shape: [usize; 2], seed: u64) -> Result<Array2<f32>> {
    check_room(shape)?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    match init {
        CentreInit::Normal { std } => {
            let bad =
                || Error::option("centres' standard deviation", std, "must be a number above 0, as 0.01");
            if !(std.is_finite() && std as f32 > 0.0) {
                return Err(bad());
            }
            let normal = Normal::new(0.0f32, std as f32).map_err(|_| bad())?;
            Ok(Array2::random_using(shape, normal, &mut rng))
        }
        CentreInit::UnitSphere => {
            // A normal vector has no preferred direction.
            let direction: Array2<f32> = Array2::random_using(shape, StandardNormal, &mut rng);
            let mut unit = Array2::zeros(shape);
            embedtune_core::linalg::normalize_rows(direction.view(), f32::MIN_POSITIVE, unit.view_mut())?;
            Ok(unit)
        }
        other => Err(Error::Unsuitable(format!("class centres cannot be initialised by {other:?}"))),
    }
}

/// An allocation that fails ends the process; one that is tried says so.
fn check_room([rows, dim]: [usize; 2]) -> Result<()> {
    let values = rows.checked_mul(dim);
    // An array's axes that are not empty have to fit together, whatever the others are.
    let indexed = rows.max(1).checked_mul(dim.max(1)).filter(|&n| n <= isize::MAX as usize);
    if indexed.is_some() && values.is_some_and(|n| Vec::<f32>::new().try_reserve_exact(n).is_ok()) {
        return Ok(());
    }
    Err(Error::Unsuitable(format!(
        "there is no memory for {rows} class centres of dimension {dim}; train on fewer classes or write a smaller output_dim"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_memory_holds_is_refused() {
        for shape in [[usize::MAX, 2], [0, usize::MAX], [1 << 40, 1 << 20]] {
            let message = draw_centres(CentreInit::UnitSphere, shape, 0).unwrap_err().to_string();
            assert!(message.starts_with("there is no memory for"), "{message}");
        }
        assert_eq!(draw_centres(CentreInit::UnitSphere, [0, 4], 0).unwrap().dim(), (0, 4));
    }

    #[test]
    fn draws_what_it_says_and_the_same_every_time() {
        let shape = [500, 64];
        let normal = CentreInit::Normal { std: 0.01 };
        let centres = draw_centres(normal, shape, 7).unwrap();
        let (mean, std) = (centres.mean().unwrap(), centres.std(0.0));
        assert!(mean.abs() < 2e-4 && (std - 0.01).abs() < 2e-4, "{mean} {std}");
        assert_eq!(centres, draw_centres(normal, shape, 7).unwrap());
        assert_ne!(centres, draw_centres(normal, shape, 8).unwrap());
        let unit = draw_centres(CentreInit::UnitSphere, shape, 7).unwrap();
        assert!(unit.rows().into_iter().all(|row| (row.dot(&row) - 1.0).abs() < 1e-5));
        assert!(unit.mean().unwrap().abs() < 3e-3);
    }

    #[test]
    fn a_useless_deviation_is_an_error() {
        for std in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let error = draw_centres(CentreInit::Normal { std }, [2, 2], 0).unwrap_err().to_string();
            assert!(error.contains("must be a number above 0"), "{error}");
        }
    }
}
