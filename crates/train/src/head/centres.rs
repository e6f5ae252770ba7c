//! Where class centres start.

use ndarray::Array2;
use ndarray_rand::RandomExt;
use ndarray_rand::rand_distr::{Normal, StandardNormal};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How class centres are drawn.
///
/// Margin-softmax losses look only at a centre's direction, but its length sets how far a step turns it: gradients
/// shrink with the length, so with plain SGD centres of unit length learn slower than those of length 0.2.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CentreInit {
    /// Every element from a normal distribution with this standard deviation (above 0).
    Normal {
        /// The standard deviation.
        std: f64,
    },
    /// Every centre uniform on the unit sphere.
    UnitSphere,
}

impl CentreInit {
    /// Draws centres of the given shape; a function of the arguments alone.
    ///
    /// # Errors
    /// A standard deviation that is not above 0.
    pub fn draw(self, shape: [usize; 2], seed: u64) -> Result<Array2<f32>> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        match self {
            Self::Normal { std } => {
                let bad = || Error::option("centre_std", std, "must be a number above 0, as 0.01");
                if !(std.is_finite() && std as f32 > 0.0) {
                    return Err(bad());
                }
                let normal = Normal::new(0.0f32, std as f32).map_err(|_| bad())?;
                Ok(Array2::random_using(shape, normal, &mut rng))
            }
            Self::UnitSphere => {
                let direction: Array2<f32> = Array2::random_using(shape, StandardNormal, &mut rng);
                let mut unit = Array2::zeros(shape);
                embedtune_core::linalg::normalize_rows(direction.view(), f32::MIN_POSITIVE, unit.view_mut())?;
                Ok(unit)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_what_it_says_and_the_same_every_time() {
        let shape = [500, 64];
        let normal = CentreInit::Normal { std: 0.01 };
        let centres = normal.draw(shape, 7).unwrap();
        let (mean, std) = (centres.mean().unwrap(), centres.std(0.0));
        assert!(mean.abs() < 2e-4 && (std - 0.01).abs() < 2e-4, "{mean} {std}");
        assert_eq!(centres, normal.draw(shape, 7).unwrap());
        assert_ne!(centres, normal.draw(shape, 8).unwrap());
        let unit = CentreInit::UnitSphere.draw(shape, 7).unwrap();
        assert!(unit.rows().into_iter().all(|row| (row.dot(&row) - 1.0).abs() < 1e-5));
        assert!(unit.mean().unwrap().abs() < 3e-3);
    }

    #[test]
    fn a_useless_deviation_is_an_error() {
        for std in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let error = CentreInit::Normal { std }.draw([2, 2], 0).unwrap_err().to_string();
            assert!(error.contains("must be a number above 0"), "{error}");
        }
    }
}
