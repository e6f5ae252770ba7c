//! Every operation against finite differences, and the tape's own rules.

use embedtune_core::gradcheck::gradcheck;
use embedtune_core::ops::{BatchNormMode, Conv2d, Pool2d};
use embedtune_core::{Error, Grad, Pool, Result, Tape, Var};
use ndarray::{Array1, ArrayD, IxDyn};
use rand::{Rng, SeedableRng};

fn wave(shape: &[usize], phase: f32) -> ArrayD<f32> {
    let count: usize = shape.iter().product();
    let data = (0..count).map(|i| (i as f32 * 1.37 + phase).sin() + 0.1 * (i as f32 * 0.31).cos()).collect();
    ArrayD::from_shape_vec(IxDyn(shape), data).unwrap()
}

#[test]
fn elementwise() {
    let (a, b) = (wave(&[3, 4], 0.1), wave(&[3, 4], 1.9));
    gradcheck(&[a.clone(), b.clone()], 1e-2, |v| v[0].add(v[1])?.mul(v[0].sub(v[1])?)?.scale(0.7)).unwrap();
    gradcheck(std::slice::from_ref(&a), 1e-2, |v| v[0].relu()).unwrap();
    gradcheck(std::slice::from_ref(&a), 1e-2, |v| v[0].gelu()).unwrap();
    gradcheck(std::slice::from_ref(&a), 1e-2, |v| v[0].dropout(0.4, 7)).unwrap();
    gradcheck(&[a.clone(), b], 1e-2, |v| Var::concatenate(1, &[v[0], v[1]])?.reshape(&[2, 12])).unwrap();
    gradcheck(std::slice::from_ref(&a), 1e-2, |v| v[0].mean()).unwrap();
    gradcheck(&[a], 1e-2, |v| v[0].sum()).unwrap();
}

#[test]
fn products_and_lookup() {
    gradcheck(&[wave(&[3, 4], 0.0), wave(&[4, 5], 0.4)], 1e-2, |v| v[0].matmul(v[1])).unwrap();
    gradcheck(&[wave(&[3, 4], 0.0), wave(&[5, 4], 0.4), wave(&[5], 0.2)], 1e-2, |v| {
        v[0].linear(v[1], Some(v[2]))
    })
    .unwrap();
    gradcheck(&[wave(&[6, 3], 0.0)], 1e-2, |v| v[0].embedding(&[4, 1, 4, 0])).unwrap();
}

#[test]
fn convolutions_of_every_kind() {
    let plain = Conv2d::default();
    for (options, channels, weight) in [
        (plain, 2, [3, 2, 3, 3]),
        (Conv2d { padding: [1, 1], ..plain }, 1, [2, 1, 3, 3]),
        (Conv2d { stride: [2, 1], padding: [1, 0], ..plain }, 2, [2, 2, 3, 2]),
        (Conv2d { dilation: [2, 2], padding: [2, 1], ..plain }, 2, [2, 2, 3, 2]),
        (Conv2d { groups: 2, padding: [1, 2], ..plain }, 4, [4, 2, 3, 3]),
        (plain, 3, [2, 3, 1, 1]),
    ] {
        let inputs = [wave(&[2, channels, 5, 6], 0.3), wave(&weight, 1.1), wave(&[weight[0]], 0.5)];
        gradcheck(&inputs, 2e-2, |v| v[0].conv2d(v[1], Some(v[2]), &options))
            .unwrap_or_else(|e| panic!("{options:?}: {e}"));
    }
}

#[test]
fn pooling_and_norms() {
    let overlapping = Pool2d { kernel: [3, 2], stride: [2, 1], padding: [1, 1] };
    for window in [Pool2d::square(2), overlapping] {
        // Whole numbers in a scrambled order: no two lie within the difference's step, where the maximum kinks.
        let scrambled = ArrayD::from_shape_fn(IxDyn(&[2, 2, 4, 5]), |i| {
            (((i[0] * 2 + i[1]) * 20 + i[2] * 5 + i[3]) * 37 % 83) as f32 / 8.0
        });
        gradcheck(&[scrambled], 1e-2, |v| v[0].max_pool2d(&window)).unwrap();
        gradcheck(&[wave(&[2, 2, 4, 5], 0.3)], 1e-2, |v| v[0].avg_pool2d(&window)).unwrap();
    }
    let (mean, variance) = (Array1::from(vec![0.1, -0.2, 0.3]), Array1::from(vec![0.5, 1.5, 0.8]));
    for shape in [vec![6, 3], vec![2, 3, 2, 3]] {
        let inputs = [wave(&shape, 0.2), wave(&[3], 0.9), wave(&[3], 0.4)];
        gradcheck(&inputs, 2e-2, |v| Ok(v[0].batch_norm(v[1], v[2], 1e-5, BatchNormMode::Train)?.0)).unwrap();
        let mode = BatchNormMode::Eval { mean: &mean, variance: &variance };
        gradcheck(&inputs, 1e-2, |v| Ok(v[0].batch_norm(v[1], v[2], 1e-5, mode)?.0)).unwrap();
    }
    gradcheck(&[wave(&[4, 5], 0.2), wave(&[5], 0.9), wave(&[5], 0.4)], 1e-2, |v| {
        v[0].layer_norm(v[1], v[2], 1e-5)
    })
    .unwrap();
    gradcheck(&[wave(&[4, 5], 0.2)], 1e-2, |v| v[0].normalize_rows(1e-12)).unwrap();
}

#[test]
fn a_wrong_gradient_is_caught() {
    let error = gradcheck(&[wave(&[3], 0.2)], 1e-2, |v| {
        let x = v[0].value();
        v[0].tape().record("wrong", [v[0]], x.mapv(|v| v * v), |g, _| Ok([Some(Grad::Dense(g))]))
    });
    assert!(matches!(error, Err(Error::GradCheck(_))), "{error:?}");
}

#[test]
fn a_long_chain_runs_backward() {
    let tape = Tape::new(&Pool::new());
    let x = tape.leaf(wave(&[2], 0.5));
    let mut y = x;
    for _ in 0..200_000 {
        y = y.scale(1.0).unwrap();
    }
    let grads = tape.backward(y.sum().unwrap()).unwrap();
    assert_eq!(grads.dense(x).unwrap().as_slice().unwrap(), &[1.0, 1.0]);
}

#[test]
fn errors_not_panics() {
    let (tape, other) = (Tape::new(&Pool::new()), Tape::new(&Pool::new()));
    let x = tape.leaf(wave(&[2, 3], 0.1));
    assert!(x.add(tape.leaf(wave(&[3, 2], 0.1))).is_err());
    assert!(matches!(x.add(other.leaf(wave(&[2, 3], 0.1))), Err(Error::ForeignVar { .. })));
    assert!(x.conv2d(x, None, &Conv2d::default()).is_err());
    assert!(x.reshape(&[4]).is_err());
    assert!(matches!(x.embedding(&[0, 9]), Err(Error::Index { position: 1, index: 9, .. })));
    assert!(x.dropout(1.0, 0).is_err());
    assert!(Var::concatenate(0, &[]).is_err());
    let y = x.sum().unwrap();
    tape.backward(y).unwrap();
    assert!(matches!(tape.backward(y), Err(Error::TapeConsumed)));
}

/// Forward and backward of a small network, as bits.
fn network(threads: usize) -> Result<Vec<u32>> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let tape = Tape::new(&Pool::new());
        let x = tape.leaf(wave(&[37, 3, 12, 12], 0.2));
        let w = tape.leaf(wave(&[20, 3, 3, 3], 0.7));
        let (g, b) = (tape.leaf(wave(&[20], 1.7)), tape.leaf(wave(&[20], 0.1)));
        let y = x.conv2d(w, None, &Conv2d { padding: [1, 1], ..Conv2d::default() })?;
        let y = y.batch_norm(g, b, 1e-5, BatchNormMode::Train)?.0.relu()?.max_pool2d(&Pool2d::square(2))?;
        let v = tape.leaf(wave(&[50, 720], 0.3));
        let y = y.reshape(&[37, 720])?.linear(v, None)?;
        let y = y.mul(y)?.mean()?;
        let mut bits = vec![y.value()[IxDyn(&[])].to_bits()];
        let mut grads = tape.backward(y)?;
        for leaf in [x, w, g, b, v] {
            bits.extend(grads.take(leaf).unwrap().into_dense().unwrap().iter().map(|v| v.to_bits()));
        }
        Ok(bits)
    })
}

#[test]
fn the_same_bits_for_any_number_of_threads() {
    let one = network(1).unwrap();
    for threads in [2, 3, 5] {
        assert!(network(threads).unwrap() == one, "{threads} threads");
    }
}

/// Every test of this file once more on the narrower paths.
#[test]
fn narrower_instructions_pass_the_same_tests() {
    const CHOICE: &str = "EMBEDTUNE_SIMD";
    if std::env::var_os(CHOICE).is_some() {
        return;
    }
    for path in ["portable", "avx2"] {
        let tests = std::env::current_exe().unwrap();
        let run = std::process::Command::new(tests).env(CHOICE, path).output().unwrap();
        assert!(run.status.success(), "{path}: {}", String::from_utf8_lossy(&run.stdout));
    }
}

/// Whatever the number of tasks, the mask is that of one stream of random numbers.
#[test]
fn the_mask_of_dropout_is_one_stream() {
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(3);
    let pool = Pool::new();
    let tape = Tape::new(&pool);
    let dropped = tape.leaf(ArrayD::ones(vec![100, 700])).dropout(0.25, 3).unwrap().value();
    for &value in &dropped {
        assert_eq!(value, if random.random::<f32>() < 0.25 { 0.0 } else { 1.0 / 0.75 });
    }
}
