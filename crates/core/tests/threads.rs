//! No operation's bits depend on the number of threads, nor does a value that is not a number get lost in one.

use embedtune_core::ops::{BatchNormMode, Conv2d, Pool2d};
use embedtune_core::{Pool, Result, Tape, Var};
use ndarray::{ArrayD, IxDyn};

fn wave(shape: &[usize], phase: f32) -> ArrayD<f32> {
    let count: usize = shape.iter().product();
    let data = (0..count).map(|i| (i as f32 * 1.37 + phase).sin() + 0.1 * (i as f32 * 0.31).cos()).collect();
    ArrayD::from_shape_vec(IxDyn(shape), data).unwrap()
}

type Apply = for<'t> fn(&[Var<'t>]) -> Result<Var<'t>>;

/// An operation with the shapes of its inputs: large enough for several blocks of several sizes.
fn operations() -> Vec<(&'static str, Vec<Vec<usize>>, Apply)> {
    let maps = vec![37, 24, 12, 11];
    let columns = |n: usize| vec![vec![203, n], vec![n], vec![n]];
    vec![
        ("conv2d", vec![maps.clone(), vec![40, 24, 3, 3], vec![40]], |v| {
            v[0].conv2d(v[1], Some(v[2]), &Conv2d { padding: [1, 1], ..Conv2d::default() })
        }),
        ("conv2d to few channels", vec![maps.clone(), vec![3, 24, 3, 2]], |v| {
            v[0].conv2d(v[1], None, &Conv2d { padding: [1, 0], ..Conv2d::default() })
        }),
        ("conv2d from one channel", vec![vec![37, 1, 12, 11], vec![32, 1, 3, 3]], |v| {
            v[0].conv2d(v[1], None, &Conv2d { padding: [1, 1], ..Conv2d::default() })
        }),
        ("conv2d with a stride", vec![maps.clone(), vec![16, 24, 3, 3]], |v| {
            v[0].conv2d(v[1], None, &Conv2d { stride: [2, 1], padding: [1, 2], ..Conv2d::default() })
        }),
        ("conv2d dilated in groups", vec![maps.clone(), vec![32, 12, 3, 3]], |v| {
            let options = Conv2d { dilation: [2, 1], padding: [2, 1], groups: 2, ..Conv2d::default() };
            v[0].conv2d(v[1], None, &options)
        }),
        ("conv2d 1x1", vec![maps.clone(), vec![9, 24, 1, 1]], |v| {
            v[0].conv2d(v[1], None, &Conv2d::default())
        }),
        ("batch_norm", vec![maps.clone(), vec![24], vec![24]], |v| {
            Ok(v[0].batch_norm(v[1], v[2], 1e-5, BatchNormMode::Train)?.0)
        }),
        ("layer_norm", columns(65), |v| v[0].layer_norm(v[1], v[2], 1e-5)),
        ("normalize_rows", vec![vec![203, 65]], |v| v[0].normalize_rows(1e-12)),
        ("relu", vec![maps.clone()], |v| v[0].relu()),
        ("gelu", vec![maps.clone()], |v| v[0].gelu()),
        ("dropout", vec![maps.clone()], |v| v[0].dropout(0.3, 5)),
        ("max_pool2d", vec![maps.clone()], |v| v[0].max_pool2d(&Pool2d::square(2))),
        ("max_pool2d overlapping", vec![maps.clone()], |v| {
            v[0].max_pool2d(&Pool2d { kernel: [3, 2], stride: [2, 1], padding: [1, 1] })
        }),
        ("avg_pool2d", vec![maps.clone()], |v| v[0].avg_pool2d(&Pool2d::square(2))),
        ("linear", vec![vec![203, 65], vec![130, 65], vec![130]], |v| v[0].linear(v[1], Some(v[2]))),
        ("matmul", vec![vec![203, 65], vec![65, 130]], |v| v[0].matmul(v[1])),
        ("embedding", vec![vec![203, 65]], |v| v[0].embedding(&[7, 2, 202, 7])),
        ("bias of maps", vec![maps.clone(), vec![24]], |v| v[0].bias(v[1])),
        ("arithmetic", vec![maps.clone(), maps], |v| {
            v[0].add(v[1])?.mul(v[0].sub(v[1])?)?.scale(0.3)?.mean()
        }),
    ]
}

/// The bits of an operation's value and gradients.
fn bits(threads: usize, shapes: &[Vec<usize>], apply: Apply) -> Vec<u32> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let tape = Tape::new(&Pool::new());
        let leaves: Vec<Var<'_>> =
            shapes.iter().enumerate().map(|(at, shape)| tape.leaf(wave(shape, at as f32))).collect();
        let y = apply(&leaves).unwrap();
        let mut bits: Vec<u32> = y.value().iter().map(|v| v.to_bits()).collect();
        let mut grads = tape.backward_from(y, wave(&y.shape(), 0.6)).unwrap();
        for &leaf in &leaves {
            bits.extend(grads.take(leaf).unwrap().into_dense().unwrap().iter().map(|v| v.to_bits()));
        }
        bits
    })
}

#[test]
fn the_same_bits_for_any_number_of_threads() {
    for (name, shapes, apply) in operations() {
        let one = bits(1, &shapes, apply);
        for threads in [2, 3, 5] {
            assert!(bits(threads, &shapes, apply) == one, "{name} on {threads} threads");
        }
    }
}

/// NaN comes out of every operation that it goes into; infinity and the smallest numbers do not stop any.
#[test]
fn special_numbers_pass_through() {
    for (name, shapes, apply) in operations() {
        for special in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, 1e-45, -0.0]
        {
            let tape = Tape::new(&Pool::new());
            let leaves: Vec<Var<'_>> = (shapes.iter().enumerate())
                .map(|(at, shape)| {
                    let mut x = wave(shape, at as f32);
                    if at == 0 {
                        // In the second row, which every operation reads.
                        let position = x.len() / shape[0] * 2 + 3;
                        x.as_slice_mut().unwrap()[position] = special;
                    }
                    tape.leaf(x)
                })
                .collect();
            let y = apply(&leaves).unwrap();
            let lost = special.is_nan() && !y.value().iter().any(|v| v.is_nan());
            assert!(!lost || name == "dropout", "{name} lost a NaN");
            if special.abs() <= 1.0 {
                assert!(y.value().iter().all(|v| v.is_finite()), "{name} of {special}");
            }
            tape.backward_from(y, wave(&y.shape(), 0.6)).unwrap();
        }
    }
}
