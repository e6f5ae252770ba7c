//! Rows without a length to speak of: the value and the gradients of the definition, not only finite ones.

use embedtune_losses::{MarginOptions, MarginSoftmax};
use ndarray::{Array2, arr2};

use crate::definition::naive;

#[test]
fn rows_at_the_floor_have_the_definitions_value_and_gradients() {
    let n = |norm: f32| arr2(&[[-norm, 0.0], [0.0, 1.0], [1.0, 1.0]]);
    let cases: Vec<(Array2<f32>, Array2<f32>, Vec<u32>)> = vec![
        (arr2(&[[1.0, 0.0], [0.0, 1.0]]), Array2::zeros((3, 2)), vec![0, 1]),
        (arr2(&[[1.0, 0.0]]), arr2(&[[0.0, 0.0], [0.0, 1.0]]), vec![0]),
        (arr2(&[[1.0, 0.0]]), arr2(&[[1e-30, 0.0], [0.0, 1.0]]), vec![0]),
        (arr2(&[[1.0, 0.0]]), arr2(&[[-1e-13, 0.0], [0.0, 1e-13]]), vec![0]),
        (arr2(&[[1.0, 1.0]]), arr2(&[[3e-13, 4e-13], [0.0, 1.0]]), vec![0]),
        (arr2(&[[1.0, 0.0]]), n(0.0), vec![0]),
        (arr2(&[[1.0, 0.0]]), n(1e-20), vec![0]),
        (arr2(&[[1.0, 0.0]]), n(5e-13), vec![0]),
        (arr2(&[[1.0, 0.0]]), n(1.1e-12), vec![0]),
        (arr2(&[[3e-13, 4e-13]]), arr2(&[[1.0, 0.0], [0.0, 1.0]]), vec![0]),
        (arr2(&[[0.0, 0.0]]), arr2(&[[1.0, 0.0], [0.6, 0.8]]), vec![1]),
        (arr2(&[[9e-13, 0.0]]), arr2(&[[-1.0, 0.3], [0.0, 1.0]]), vec![0]),
    ];
    for options in [MarginOptions::arcface(), MarginOptions::cosface()] {
        for (x, w, labels) in &cases {
            let loss = MarginSoftmax::new(w.nrows(), 2, options).unwrap();
            let out = loss.value_and_grad(x.view(), w.view(), labels).unwrap();
            let (x, w) = (x.mapv(f64::from), w.mapv(f64::from));
            let value = |x: &Array2<f64>, w: &Array2<f64>| naive(&options, w.nrows(), x, w, labels);
            let expected = value(&x, &w);
            let name = format!("{:?}, {x}, {w}", options.margin);
            assert!(
                (out.stats.value - expected).abs() <= 1e-4 * expected.abs().max(1e-3),
                "{} for {expected}: {name}",
                out.stats.value
            );
            // A row of the floor's size is moved by a share of the floor, so that it stays on its side of it.
            let slopes = |of: &Array2<f64>, at: &dyn Fn(&Array2<f64>) -> f64| {
                Array2::from_shape_fn(of.dim(), |(i, j)| {
                    let row = of.row(i);
                    let step = if row.dot(&row).sqrt() < 1e-11 { 1e-18 } else { 1e-7 };
                    let moved = |by: f64| {
                        let mut of = of.clone();
                        of[[i, j]] += by;
                        at(&of)
                    };
                    (moved(step) - moved(-step)) / (2.0 * step)
                })
            };
            let dw = out.d_weights.unwrap();
            for (what, got, of, wanted) in [
                ("dx", &out.d_embeddings, &x, slopes(&x, &|x| value(x, &w))),
                ("dw", &dw, &w, slopes(&w, &|w| value(&x, w))),
            ] {
                for (i, (got, wanted)) in got.rows().into_iter().zip(wanted.rows()).enumerate() {
                    let largest = wanted.iter().fold(0.0f64, |most, v| most.max(v.abs()));
                    let unit = if of.row(i).dot(&of.row(i)).sqrt() < 1e-11 { 1e12 } else { 1.0 };
                    for (&got, &wanted) in got.iter().zip(wanted) {
                        let error = (f64::from(got) - wanted).abs();
                        assert!(error <= 1e-3 * largest + 1e-3 * unit, "{what} {got} for {wanted}: {name}");
                    }
                }
            }
        }
    }
}
