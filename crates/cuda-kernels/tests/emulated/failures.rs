//! Every entry point with each of its allocations and each of its launches made to fail: an error with a name, nothing left
//! behind, nothing written that its buffers did not hold before (but for what earlier launches of the same call wrote),
//! and the next call as if nothing had been.

use embedtune_cuda_kernels::cudarc::driver::CudaSlice;
use embedtune_cuda_kernels::half::f16;
use embedtune_cuda_kernels::margin::{Batch, Centres, Margin, MarginOptions, MarginSoftmax, Products, Sgd};
use embedtune_cuda_kernels::optimizer::{self, Adam};
use embedtune_cuda_kernels::pooling::{self, Layout, Pooling, Sign};
use embedtune_cuda_kernels::triplet::{Miner, TripletMargin, TripletOptions};
use embedtune_cuda_kernels::{Error, Write, emulator, narrow, widen};

use crate::device::{Device, memory_used};
use crate::margin::products;
use crate::random::Random;

#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    Allocation,
    Launch,
}

impl What {
    fn fail(self, n: Option<u32>) -> bool {
        match self {
            What::Allocation => emulator::fail_allocation(n),
            What::Launch => emulator::fail_launch(n),
        }
    }
}

/// Lets the first allocation or launch fail, then the second, and so on until the call succeeds; returns how many failed. The
/// names of kernels start in one of these ways.
fn fail_every(what: What, kernels: &[&str], call: &mut dyn FnMut() -> Result<(), Error>) -> u32 {
    // What is loaded and chosen once is.
    call().unwrap();
    let before = memory_used();
    for n in 0..200 {
        what.fail(Some(n));
        let result = call();
        what.fail(None);
        assert_eq!(memory_used(), before, "{what:?} {n} leaves memory behind");
        match (what, result) {
            (_, Ok(())) => return n,
            (What::Allocation, Err(error @ Error::OutOfMemory { .. })) => {
                let told = error.to_string();
                // The one copy that allocates has no size to tell.
                assert!(told.contains(" bytes for ") || told.contains("copying a number"), "{told}");
            }
            (What::Launch, Err(Error::Launch { kernel, reason })) => {
                assert!(kernels.iter().any(|name| kernel.starts_with(name)), "{kernel}");
                assert!(reason.contains("CUDA_ERROR_LAUNCH_FAILED"), "{reason}");
            }
            (_, Err(error)) => panic!("{what:?} {n}: {error}"),
        }
    }
    panic!("two hundred times {what:?}")
}

/// Allocations, then launches: how many of each there are.
fn fail_each(kernels: &[&str], call: &mut dyn FnMut() -> Result<(), Error>) -> [u32; 2] {
    [What::Allocation, What::Launch].map(|what| fail_every(what, kernels, call))
}

/// On a GPU nothing can be made to fail.
fn device() -> Option<Device> {
    let device = Device::new();
    (emulator::fail_launch(None) && emulator::fail_allocation(None)).then_some(device)
}

/// What buffers hold before, and no kernel writes.
const MARK: f32 = -7.0;

fn marked(device: &Device, len: usize) -> CudaSlice<f32> {
    device.upload(&vec![MARK; len])
}

#[test]
#[ignore = "needs the emulated device"]
fn pooling_that_fails_writes_nothing() {
    let Some(device) = device() else { return };
    let (kernels, stream) = (&device.kernels, &device.stream);
    let (batch, channels, length) = (2, 3, 50);
    let x = device.upload(&Random(3).normals(batch * channels * length));
    let p = device.upload(&[2.5f32]);
    let (x, p) = (x.as_view(), p.as_view());
    let gem = Pooling::Gem { p: &p, eps: 1e-3, sign: Sign::Clamp, learnable: true };
    let maps = Layout::Maps { batch, channels, length };
    let tokens = Layout::Tokens { batch, tokens: length, dim: channels, mask: None };
    for (layout, pooling) in
        [(maps, gem), (maps, Pooling::Average), (tokens, gem), (tokens, Pooling::Maximum)]
    {
        let y = std::cell::RefCell::new(marked(&device, batch * channels));
        let counts = fail_each(&["pool_"], &mut || {
            let mut y = y.borrow_mut();
            pooling::forward(kernels, stream, &x, layout, pooling, &mut y.as_view_mut()).map(drop)
        });
        assert_eq!(counts, [1, 1]);
        *y.borrow_mut() = marked(&device, batch * channels);
        for what in [What::Allocation, What::Launch] {
            what.fail(Some(0));
            let failed =
                pooling::forward(kernels, stream, &x, layout, pooling, &mut y.borrow_mut().as_view_mut());
            what.fail(None);
            assert!(failed.is_err());
            assert!(device.download(&y.borrow()).iter().all(|&v| v == MARK), "{what:?}");
        }
        let saved = pooling::forward(kernels, stream, &x, layout, pooling, &mut y.borrow_mut().as_view_mut())
            .unwrap();

        let learnable = matches!(pooling, Pooling::Gem { .. });
        let dy = device.upload(&vec![1.0f32; batch * channels]);
        let (dx, d_p) =
            (std::cell::RefCell::new(marked(&device, x.len())), std::cell::RefCell::new(marked(&device, 1)));
        let mut call = || {
            let (mut dx, mut d_p) = (dx.borrow_mut(), d_p.borrow_mut());
            let (mut dx, mut d_p) = (dx.as_view_mut(), d_p.as_view_mut());
            let d_p = learnable.then_some(&mut d_p);
            pooling::backward(kernels, stream, &x, layout, pooling, &saved, &dy.as_view(), Some(&mut dx), d_p)
        };
        let counts = fail_each(&["pool_"], &mut call);
        assert_eq!(counts, if learnable { [1, 3] } else { [0, 1] });
        let good = (device.download(&dx.borrow()), device.download(&d_p.borrow()));
        for (what, n) in [(What::Allocation, 0), (What::Launch, 0), (What::Launch, counts[1] - 1)] {
            if what == What::Allocation && !learnable {
                continue;
            }
            (*dx.borrow_mut(), *d_p.borrow_mut()) = (marked(&device, x.len()), marked(&device, 1));
            what.fail(Some(n));
            let failed = call();
            what.fail(None);
            assert!(failed.is_err());
            assert!(device.download(&dx.borrow()).iter().all(|&v| v == MARK), "{what:?} {n}");
            // The power's gradient is made before: whole, or not at all.
            let d_p = device.download(&d_p.borrow())[0];
            assert!(d_p == MARK || d_p == good.1[0], "{what:?} {n}: {d_p}");
        }
        call().unwrap();
        assert_eq!((device.download(&dx.borrow()), device.download(&d_p.borrow())), good);
    }
}

#[test]
#[ignore = "needs the emulated device"]
fn optimizers_that_fail_move_nothing() {
    let Some(device) = device() else { return };
    let (kernels, stream, len) = (&device.kernels, &device.stream, 300);
    let values = device.upload(&vec![2.0f32; len]);
    let counts = fail_each(&["square_sums"], &mut || {
        let norm = optimizer::norm(kernels, stream, &values.as_view())?;
        assert!((norm - 2.0 * (len as f64).sqrt()).abs() < 1e-9, "{norm}");
        Ok(())
    });
    assert_eq!(counts, [1, 1]);

    let sgd = Sgd { momentum: 0.9, ..Sgd::new(0.1) };
    let adam =
        Adam { rate: 0.1, weight_decay: 0.0, betas: (0.9, 0.999), eps: 1e-8, decoupled: true, step: 1 };
    emulator::fail_launch(Some(0));
    let (mut w, mut first, mut second) = (marked(&device, len), marked(&device, len), marked(&device, len));
    let failed = optimizer::sgd(
        kernels,
        stream,
        &values.as_view(),
        1.0,
        &mut w.as_view_mut(),
        Some(&mut first.as_view_mut()),
        sgd,
    );
    assert!(matches!(&failed, Err(Error::Launch { kernel, .. }) if kernel == "sgd_step"), "{failed:?}");
    emulator::fail_launch(Some(0));
    let failed = optimizer::adam(
        kernels,
        stream,
        &values.as_view(),
        1.0,
        &mut w.as_view_mut(),
        [&mut first.as_view_mut(), &mut second.as_view_mut()],
        None,
        adam,
    );
    assert!(matches!(&failed, Err(Error::Launch { kernel, .. }) if kernel == "adam_step"), "{failed:?}");
    emulator::fail_launch(Some(0));
    let mut half = device.zeros::<f16>(len);
    let failed = narrow(kernels, stream, &values.as_view(), &mut half.as_view_mut());
    assert!(matches!(&failed, Err(Error::Launch { kernel, .. }) if kernel == "narrow_f16"), "{failed:?}");
    emulator::fail_launch(Some(0));
    let failed = widen(kernels, stream, &half.as_view(), &mut w.as_view_mut());
    assert!(matches!(&failed, Err(Error::Launch { kernel, .. }) if kernel == "widen_f16"), "{failed:?}");
    for buffer in [&w, &first, &second] {
        assert!(device.download(buffer).iter().all(|&v| v == MARK));
    }
    widen(kernels, stream, &half.as_view(), &mut w.as_view_mut()).unwrap();
    assert!(device.download(&w).iter().all(|&v| v == 0.0));
}

#[test]
#[ignore = "needs the emulated device"]
fn margin_losses_that_fail_move_no_centre_for_want_of_memory() {
    let Some(device) = device() else { return };
    let (n, dim, classes) = (6, 16, 300);
    let mut random = Random(5);
    let (x, w) = (random.normals(n * dim), random.normals(classes * dim));
    let x = device.upload(&x);
    let labels = device.upload(&[0u32, 1, 0, 1, 2, 299]);
    let options = MarginOptions {
        products: products(),
        tile_bytes: 60_000,
        ..MarginOptions::new(Margin::Cos { cosine: 0.1 })
    };
    let loss = MarginSoftmax::new(device.kernels.clone(), classes, dim, options).unwrap();
    let sgd = Sgd::new(0.1);
    let centres = std::cell::RefCell::new(device.upload(&w));
    let mut dx = device.zeros::<f32>(n * dim);
    let mut values = Vec::new();
    let mut call = || {
        let batch = Batch {
            embeddings: &x.as_view(),
            labels: &labels.as_view(),
            weights: None,
            class_weights: None,
            upstream: 1.0,
        };
        *centres.borrow_mut() = device.upload(&w);
        let mut centres = centres.borrow_mut();
        let mut centres = centres.as_view_mut();
        let moved: Centres<'_, '_, f32> = Centres::Sgd(&mut centres, None, sgd);
        let gradient = Some((&mut dx.as_view_mut(), Write::Overwrite));
        let stats = loss.forward_backward(&device.stream, batch, moved, gradient, None)?;
        values.push(stats.value);
        Ok(())
    };
    // The upload of the centres is the first allocation of each call: it is let through.
    for (what, least) in [(What::Allocation, 12), (What::Launch, 6)] {
        call().unwrap();
        let good = device.download(&centres.borrow());
        assert!(good != w);
        let mut failures = 0;
        for n in 0..200 {
            let skip = u32::from(what == What::Allocation);
            what.fail(Some(n + skip));
            let result = call();
            what.fail(None);
            let after = device.download(&centres.borrow());
            match (what, result) {
                (_, Ok(())) => break,
                (What::Allocation, Err(Error::OutOfMemory { .. })) => {
                    assert!(after == w, "allocation {n}: centres moved")
                }
                (What::Launch, Err(Error::Launch { kernel, .. })) => {
                    assert!(kernel.starts_with("margin_") || kernel.starts_with("centres_"), "{kernel}");
                    // Centres move a tile at a time: a class has moved as it should, or not at all.
                    let whole = after.iter().zip(&w).zip(&good).all(|((a, w), g)| a == w || a == g);
                    assert!(whole, "launch {n} of {kernel}");
                }
                (_, Err(error)) => panic!("{what:?} {n}: {error}"),
            }
            failures += 1;
        }
        assert!(failures >= least, "{failures} of {what:?}");
        call().unwrap();
        assert_eq!(device.download(&centres.borrow()), good);
    }
    assert!(values.iter().all(|value| *value == values[0]));
}

#[test]
#[ignore = "needs the emulated device"]
fn margin_gradients_that_fail_can_be_asked_again() {
    let Some(device) = device() else { return };
    let (n, dim, classes) = (6, 16, 140);
    let mut random = Random(6);
    let x = device.upload(&random.normals(n * dim));
    let w = device.upload(&random.normals(classes * dim));
    let labels = device.upload(&[0u32, 1, 0, 1, 2, 2]);
    let (mut dx, mut dw) = (device.zeros::<f32>(n * dim), device.zeros::<f32>(classes * dim));
    let options = MarginOptions { products: products(), ..MarginOptions::new(Margin::Cos { cosine: 0.1 }) };
    let loss = MarginSoftmax::new(device.kernels.clone(), classes, dim, options).unwrap();
    let mut all = Vec::new();
    let counts = fail_each(&["margin_", "centres_"], &mut || {
        let batch = Batch {
            embeddings: &x.as_view(),
            labels: &labels.as_view(),
            weights: None,
            class_weights: None,
            upstream: 1.0,
        };
        let centres = Centres::Gradient(&w.as_view(), &mut dw.as_view_mut(), Write::Overwrite);
        let gradient = Some((&mut dx.as_view_mut(), Write::Overwrite));
        all.push(loss.forward_backward(&device.stream, batch, centres, gradient, None)?);
        Ok(())
    });
    let least = if products() == Products::Cublas { 13 } else { 15 };
    assert!(counts[0] >= least && counts[1] >= 6, "{counts:?}");
    assert!(all.len() >= 4 && all.iter().all(|stats| *stats == all[0]));
}

#[test]
#[ignore = "needs the emulated device"]
fn triplets_that_fail_can_be_asked_again() {
    let Some(device) = device() else { return };
    let (n, dim) = (12, 20);
    let x = device.upload(&Random(9).normals(n * dim));
    let labels: Vec<u32> = (0..n as u32).map(|i| i / 3).collect();
    let labels = device.upload(&labels);
    for (miner, least) in [(Miner::None, [9, 5]), (Miner::BatchHard, [8, 5])] {
        let options = TripletOptions { miner, ..TripletOptions::default() };
        let loss = TripletMargin::new(device.kernels.clone(), options).unwrap();
        let mut dx = device.zeros::<f32>(n * dim);
        let mut all = Vec::new();
        let counts = fail_each(&["triplet_"], &mut || {
            let (x, labels) = (x.as_view(), labels.as_view());
            let gradient = Some(&mut dx.as_view_mut());
            all.push(loss.forward_backward(&device.stream, &x, &labels, dim, 1.0, gradient)?);
            Ok(())
        });
        assert!(counts.iter().zip(least).all(|(&count, least)| count >= least), "{counts:?}");
        assert!(all.len() >= 4 && all.iter().all(|stats| *stats == all[0]));
    }
}
