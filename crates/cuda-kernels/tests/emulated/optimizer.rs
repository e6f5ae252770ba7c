//! Optimizer steps from gradients in memory, and the definitions in f64 that the fused ones are compared with too.

use embedtune_cuda_kernels::Error;
use embedtune_cuda_kernels::optimizer::{self, Adam, Sgd};

use crate::device::{Device, assert_near, under_all_schedules};
use crate::random::Random;

/// More than a block, and no multiple of one.
const LEN: usize = 1000;

/// What an optimizer makes of gradients, in f64.
pub(crate) fn sgd_reference(options: Sgd, w: &mut [f64], b: &mut [f64], g: impl Iterator<Item = f64>) {
    for ((w, b), g) in w.iter_mut().zip(b).zip(g) {
        let g = g + options.weight_decay * *w;
        *b = if options.first_step { g } else { options.momentum * *b + (1.0 - options.dampening) * g };
        let direction = if options.momentum == 0.0 {
            g
        } else if options.nesterov {
            g + options.momentum * *b
        } else {
            *b
        };
        *w -= options.rate * direction;
    }
}

/// `top` is AMSGrad's largest second moment so far.
pub(crate) fn adam_reference(
    options: Adam,
    amsgrad: bool,
    w: &mut [f64],
    [m, v, top]: [&mut [f64]; 3],
    g: impl Iterator<Item = f64>,
) {
    let (b1, b2) = options.betas;
    let t = options.step as i32;
    for ((((w, m), v), top), g) in w.iter_mut().zip(m).zip(v).zip(top).zip(g) {
        let mut g = g;
        match options.decoupled {
            true => *w *= 1.0 - options.rate * options.weight_decay,
            false => g += options.weight_decay * *w,
        }
        *m = b1 * *m + (1.0 - b1) * g;
        *v = b2 * *v + (1.0 - b2) * g * g;
        *top = if amsgrad { top.max(*v) } else { *v };
        let (mean, square) = (*m / (1.0 - b1.powi(t)), *top / (1.0 - b2.powi(t)));
        *w -= options.rate * mean / (square.sqrt() + options.eps);
    }
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn sgd_is_its_definition() {
    let device = Device::new();
    for (momentum, dampening, nesterov) in [(0.0, 0.0, false), (0.9, 0.1, false), (0.9, 0.0, true)] {
        let mut random = Random(7);
        let start = random.normals(LEN);
        let gradients: Vec<Vec<f32>> = (0..3).map(|_| random.normals(LEN)).collect();
        let sgd = |step| Sgd {
            rate: 0.3,
            weight_decay: 1e-2,
            momentum,
            dampening,
            nesterov,
            first_step: step == 0,
        };
        let moved = under_all_schedules("SGD", || {
            let (mut w, mut buffer) = (device.upload(&start), device.poisoned(LEN));
            for (step, gradient) in gradients.iter().enumerate() {
                let gradient = device.upload(gradient);
                let (mut w, mut buffer) = (w.as_view_mut(), buffer.as_view_mut());
                let buffer = (momentum > 0.0).then_some(&mut buffer);
                let (kernels, stream) = (&device.kernels, &device.stream);
                optimizer::sgd(kernels, stream, &gradient.as_view(), 0.5, &mut w, buffer, sgd(step)).unwrap();
            }
            vec![device.download(&w)]
        });
        let mut exact: Vec<f64> = start.iter().map(|&v| f64::from(v)).collect();
        let mut buffer = vec![0.0; LEN];
        for (step, gradient) in gradients.iter().enumerate() {
            sgd_reference(sgd(step), &mut exact, &mut buffer, gradient.iter().map(|&g| 0.5 * f64::from(g)));
        }
        assert_near(&format!("SGD {momentum} {nesterov}"), &moved[0], &exact, 1e-6);
    }
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn adam_is_its_definition() {
    let device = Device::new();
    for (decoupled, amsgrad) in [(false, false), (true, false), (false, true)] {
        let mut random = Random(8);
        let start = random.normals(LEN);
        // Ever smaller, so that the largest second moment is an earlier one.
        let gradients: Vec<Vec<f32>> =
            (0..4).map(|t| random.normals(LEN).iter().map(|g| g / (1.0 + t as f32)).collect()).collect();
        let adam =
            |step| Adam { rate: 0.02, betas: (0.9, 0.9), eps: 1e-3, weight_decay: 0.05, decoupled, step };
        let moved = under_all_schedules("Adam", || {
            let mut w = device.upload(&start);
            let [mut m, mut v, mut top] = [0; 3].map(|_| device.zeros::<f32>(LEN));
            for (gradient, step) in gradients.iter().zip(1..) {
                let gradient = device.upload(gradient);
                let moments = [&mut m.as_view_mut(), &mut v.as_view_mut()];
                let mut top = top.as_view_mut();
                let largest = amsgrad.then_some(&mut top);
                let (kernels, stream, w) = (&device.kernels, &device.stream, &mut w.as_view_mut());
                optimizer::adam(kernels, stream, &gradient.as_view(), 0.5, w, moments, largest, adam(step))
                    .unwrap();
            }
            vec![device.download(&w)]
        });
        let mut exact: Vec<f64> = start.iter().map(|&v| f64::from(v)).collect();
        let [mut m, mut v, mut top] = [0; 3].map(|_| vec![0.0; LEN]);
        for (gradient, step) in gradients.iter().zip(1..) {
            let gradient = gradient.iter().map(|&g| 0.5 * f64::from(g));
            adam_reference(adam(step), amsgrad, &mut exact, [&mut m, &mut v, &mut top], gradient);
        }
        assert_near(&format!("Adam, decoupled {decoupled}, AMSGrad {amsgrad}"), &moved[0], &exact, 1e-6);
    }
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn the_norm_is_that_of_the_values() {
    let device = Device::new();
    for len in [0, 1, 5, 100_000] {
        let values = Random(9).normals(len);
        let exact = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        let found = under_all_schedules("norm", || {
            let values = device.upload(&[&values[..], &[0.0]].concat());
            let of = values.slice(..len);
            let norm = optimizer::norm(&device.kernels, &device.stream, &of).unwrap();
            assert!((norm - exact).abs() <= 1e-12 * exact, "{len}: {norm} {exact}");
            vec![vec![norm as f32]]
        });
        assert_eq!(found[0].len(), 1);
    }
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn buffers_of_other_lengths_are_refused() {
    let device = Device::new();
    let (kernels, stream) = (&device.kernels, &device.stream);
    let (g, mut w, mut short) = (device.zeros::<f32>(4), device.zeros::<f32>(4), device.zeros::<f32>(3));
    let sgd = Sgd { momentum: 0.9, ..Sgd::new(0.1) };
    let (g, mut w, mut short) = (g.as_view(), w.as_view_mut(), short.as_view_mut());
    let missing = optimizer::sgd(kernels, stream, &g, 1.0, &mut w, None, sgd).unwrap_err().to_string();
    assert!(missing.starts_with("momentum = 0.9: needs a momentum buffer"), "{missing}");
    let wrong = optimizer::sgd(kernels, stream, &g, 1.0, &mut w, Some(&mut short), sgd);
    assert_eq!(wrong, Err(Error::Length { what: "the momentum buffer", expected: 4, got: 3 }));
    let wrong = optimizer::sgd(kernels, stream, &g, 1.0, &mut short, None, Sgd { momentum: 0.0, ..sgd });
    assert_eq!(wrong, Err(Error::Length { what: "the gradient", expected: 3, got: 4 }));
    let mut moved = device.upload(&[1.0f32; 4]);
    let mut moved = moved.as_view_mut();
    for (options, said) in [
        (Sgd::new(1e39), "rate = 1e39: the kernels take it in f32"),
        (Sgd { weight_decay: 1e-50, ..Sgd::new(0.1) }, "weight_decay = 1e-50: the kernels take it in f32"),
    ] {
        let refused = optimizer::sgd(kernels, stream, &g, 1.0, &mut moved, None, options).unwrap_err();
        assert!(refused.to_string().starts_with(said), "{refused}");
    }
    let adam =
        Adam { rate: 0.1, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.0, decoupled: false, step: 1 };
    let [mut first, mut second] = [0; 2].map(|_| device.zeros::<f32>(4));
    for (options, said) in [
        (Adam { eps: 1e-50, ..adam }, "eps = 1e-50: the kernels take it in f32"),
        (Adam { betas: (0.9, 1.0), ..adam }, "betas = 1: from 0 to below 1"),
        (Adam { step: 0, ..adam }, "step = 0: steps count from 1"),
    ] {
        let moments = [&mut first.as_view_mut(), &mut second.as_view_mut()];
        let refused = optimizer::adam(kernels, stream, &g, 1.0, &mut moved, moments, None, options);
        let refused = refused.unwrap_err().to_string();
        assert!(refused.starts_with(said), "{refused}");
    }
}
