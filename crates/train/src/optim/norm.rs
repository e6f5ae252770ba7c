//! The length of all gradients together.

use embedtune_core::{Grad, parallel, simd};
use ndarray::ArrayViewD;

const BLOCK: usize = 1 << 14;
const LANES: usize = 16;

/// L2 norm of all gradients taken as one vector: for clipping, and as a check, since it is finite exactly when every
/// element is. Squares are summed in `f64` and in a fixed order.
pub fn grad_norm<'a>(grads: impl IntoIterator<Item = &'a Grad>) -> f64 {
    let squares = |grad: &Grad| match grad {
        Grad::Dense(array) => squares(array.view()),
        Grad::Rows(rows) => squares(rows.values.view().into_dyn()),
    };
    grads.into_iter().map(squares).sum::<f64>().sqrt()
}

/// L2 norm of one array.
pub(crate) fn norm(array: ArrayViewD<'_, f32>) -> f64 {
    squares(array).sqrt()
}

fn squares(array: ArrayViewD<'_, f32>) -> f64 {
    match array.as_slice_memory_order() {
        Some(values) => sum_of_squares(values),
        None => array.iter().map(|&v| f64::from(v) * f64::from(v)).sum(),
    }
}

fn sum_of_squares(values: &[f32]) -> f64 {
    parallel::sum(values.len(), BLOCK, |range| {
        simd::dispatch(
            #[inline(always)]
            || {
                let mut lanes = [0.0f64; LANES];
                let chunks = values[range].chunks_exact(LANES);
                let rest = chunks.remainder();
                for chunk in chunks {
                    for (lane, &v) in lanes.iter_mut().zip(chunk) {
                        *lane += f64::from(v) * f64::from(v);
                    }
                }
                for (lane, &v) in lanes.iter_mut().zip(rest) {
                    *lane += f64::from(v) * f64::from(v);
                }
                lanes.iter().sum()
            },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use embedtune_core::RowGrad;
    use ndarray::{Array1, array};

    #[test]
    fn is_the_length_of_all_gradients_together() {
        let dense = Grad::Dense(array![[3.0f32, 0.0], [0.0, 4.0]].into_dyn());
        let rows = Grad::Rows(RowGrad { table_rows: 9, rows: vec![2], values: array![[12.0f32, 0.0]] });
        assert_eq!(grad_norm([&dense]), 5.0);
        assert_eq!(grad_norm([&dense, &rows]), 13.0);
        assert_eq!(grad_norm([]), 0.0);
    }

    #[test]
    fn does_not_overflow_and_shows_what_is_not_finite() {
        let huge = Grad::Dense(array![f32::MAX, f32::MAX].into_dyn());
        assert!(grad_norm([&huge]).is_finite());
        for bad in [f32::NAN, f32::INFINITY] {
            let mut values = Array1::<f32>::zeros(100_000);
            values[77_777] = bad;
            assert!(!grad_norm([&Grad::Dense(values.into_dyn())]).is_finite());
        }
    }

    #[test]
    fn has_the_same_bits_on_any_number_of_threads() {
        let grad = Grad::Dense(Array1::from_shape_fn(200_003, |i| (i as f32 * 0.37).sin()).into_dyn());
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| grad_norm([&grad]).to_bits())
        };
        for threads in [2, 3, 5] {
            assert_eq!(on(threads), on(1));
        }
    }
}
