//! Shapes at their ends: nothing in an axis, steps and borders of any size. An error or a value, never a panic.

use embedtune_core::ops::{BatchNormMode, Conv2d, Pool2d};
use embedtune_core::{Pool, Tape, Var};
use ndarray::{ArrayD, IxDyn};

const SIZES: [usize; 6] = [0, 1, 2, 3, 1 << 40, usize::MAX];

fn ones(shape: &[usize]) -> ArrayD<f32> {
    ArrayD::ones(IxDyn(shape))
}

/// Runs backward where there is a value.
fn through<'t>(tape: &'t Tape, y: embedtune_core::Result<Var<'t>>) -> bool {
    let Ok(y) = y else { return false };
    let sum = y.sum().unwrap();
    tape.backward(sum).unwrap();
    true
}

#[test]
fn windows_and_images_of_any_size() {
    let pool = Pool::new();
    for shape in [[0, 2, 4, 4], [2, 0, 4, 4], [2, 1, 0, 4], [2, 1, 4, 0], [1, 1, 1, 1], [2, 3, 4, 5]] {
        for kernel in SIZES {
            for stride in SIZES {
                for padding in SIZES {
                    let window = Pool2d { kernel: [kernel, 2], stride: [stride, 1], padding: [padding, 0] };
                    for max in [true, false] {
                        let tape = Tape::new(&pool);
                        let x = tape.leaf(ones(&shape));
                        through(&tape, if max { x.max_pool2d(&window) } else { x.avg_pool2d(&window) });
                    }
                }
            }
        }
    }
}

#[test]
fn convolutions_of_any_stride_padding_and_dilation() {
    let pool = Pool::new();
    for (x, w) in [
        ([0, 2, 4, 4], [3, 2, 2, 2]),
        ([2, 0, 4, 4], [3, 0, 2, 2]),
        ([2, 2, 0, 4], [3, 2, 2, 2]),
        ([2, 2, 4, 4], [0, 2, 2, 2]),
        ([2, 2, 4, 4], [3, 2, 2, 2]),
        ([2, 2, 4, 4], [3, 2, 1, 1]),
        ([2, 9, 4, 4], [8, 9, 2, 2]),
    ] {
        for stride in SIZES {
            // A border of 2^40 can exist; what cannot is the memory for it.
            for padding in SIZES.into_iter().filter(|&padding| padding != 1 << 40) {
                for dilation in SIZES {
                    let options = Conv2d {
                        stride: [1, stride],
                        padding: [0, padding],
                        dilation: [1, dilation],
                        groups: 1,
                    };
                    let tape = Tape::new(&pool);
                    let (x, w) = (tape.leaf(ones(&x)), tape.leaf(ones(&w)));
                    through(&tape, x.conv2d(w, None, &options));
                }
            }
        }
        // Sizes that only an empty axis makes representable.
        let huge = Conv2d { padding: [1 << 62; 2], ..Conv2d::default() };
        let tape = Tape::new(&pool);
        let (leaf, kernel) = (tape.leaf(ones(&x)), tape.leaf(ones(&w)));
        assert!(!through(&tape, leaf.conv2d(kernel, None, &huge)));
        for groups in SIZES {
            let tape = Tape::new(&pool);
            let (x, w) = (tape.leaf(ones(&x)), tape.leaf(ones(&w)));
            through(&tape, x.conv2d(w, None, &Conv2d { groups, ..Conv2d::default() }));
        }
    }
}

#[test]
fn norms_products_and_tables_without_rows_or_columns() {
    let pool = Pool::new();
    for shape in [[0, 3], [3, 0], [0, 0], [1, 1]] {
        let tape = Tape::new(&pool);
        let (x, p) = (tape.leaf(ones(&shape)), tape.leaf(ones(&shape[1..])));
        let (mean, variance) = (ndarray::Array1::zeros(shape[1]), ndarray::Array1::ones(shape[1]));
        let running = BatchNormMode::Eval { mean: &mean, variance: &variance };
        let results = [
            x.batch_norm(p, p, 1e-5, BatchNormMode::Train).map(|y| y.0),
            x.batch_norm(p, p, 1e-5, running).map(|y| y.0),
            x.layer_norm(p, p, 1e-5),
            x.normalize_rows(1e-12),
            x.linear(x, None),
            x.bias(p),
            x.embedding(&[]),
            x.reshape(&[0, 7]),
            Var::concatenate(0, &[x, x]),
            x.mean(),
            x.gelu(),
            x.dropout(0.5, 1),
        ];
        let sums: Vec<_> = results.into_iter().flatten().map(|y| y.sum().unwrap()).collect();
        let total = sums.iter().copied().reduce(|a, b| a.add(b).unwrap()).unwrap();
        assert!(through(&tape, Ok(total)));
    }
}
