//! What can go wrong, each in a process of its own with the stand-in driver set up for it.

use std::process::Output;
use std::sync::Arc;

use embedtune_cuda_kernels::cudarc::driver::sys::CUmemPool_attribute;
use embedtune_cuda_kernels::cudarc::driver::{CudaContext, result};
use embedtune_cuda_kernels::margin::{Batch, Centres, Margin, MarginOptions, MarginSoftmax};
use embedtune_cuda_kernels::pooling::{self, Layout, Pooling};
use embedtune_cuda_kernels::triplet::{Distance, TripletMargin, TripletOptions};
use embedtune_cuda_kernels::{Error, Kernels, devices};

use crate::device::Device;
use crate::with_the_driver;

/// Runs the ignored test of that name with these settings of the stand-in driver.
fn in_a_process(test: &str, environment: &[(&str, &str)]) {
    succeeded(with_the_driver(&["--ignored", "--exact", test], environment));
}

/// One test ran, and passed.
pub(crate) fn succeeded(output: Output) {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}\n{err}");
}

#[test]
fn a_driver_without_a_gpu() {
    in_a_process("errors::there_is_no_device", &[("EMULATED_DEVICES", "0")]);
}

#[test]
#[ignore = "run by a_driver_without_a_gpu"]
fn there_is_no_device() {
    if std::env::var("EMULATED_DEVICES").as_deref() != Ok("0") {
        return;
    }
    let error = devices().unwrap_err();
    assert!(matches!(error, Error::NoDevice { .. }), "{error}");
}

#[test]
fn a_driver_of_cuda_11() {
    in_a_process("errors::the_driver_is_too_old", &[("EMULATED_DRIVER", "11080")]);
}

#[test]
#[ignore = "run by a_driver_of_cuda_11"]
fn the_driver_is_too_old() {
    if std::env::var_os("EMULATED_DRIVER").is_none() {
        return;
    }
    let device = Device::new();
    let (x, mut y) = (device.zeros::<f32>(8), device.zeros::<f32>(2));
    let layout = Layout::Maps { batch: 1, channels: 2, length: 4 };
    let (kernels, stream) = (&device.kernels, &device.stream);
    let error =
        pooling::forward(kernels, stream, &x.as_view(), layout, Pooling::Average, &mut y.as_view_mut()).err();
    let message = error.map(|error| error.to_string()).unwrap_or_default();
    assert!(message.contains("too old for loading the kernels of pool_short"), "{message}");
    assert!(message.contains("CUDA 12.0 or later"), "{message}");
}

#[test]
fn a_gpu_of_the_seventh_generation() {
    in_a_process("errors::the_device_is_too_old", &[("EMULATED_CAPABILITY", "75")]);
}

#[test]
#[ignore = "run by a_gpu_of_the_seventh_generation"]
fn the_device_is_too_old() {
    if std::env::var_os("EMULATED_CAPABILITY").is_none() {
        return;
    }
    let context = CudaContext::new(0).unwrap();
    let error = Kernels::new(&context).err().unwrap();
    assert_eq!(error, Error::DeviceTooOld { capability: (7, 5), needs: (8, 0) });
    assert!(error.to_string().contains("compute capability 7.5"), "{error}");
}

#[test]
fn what_the_host_refuses() {
    in_a_process("errors::buffers_and_options_are_checked", &[]);
}

#[test]
#[ignore = "run by what_the_host_refuses"]
fn buffers_and_options_are_checked() {
    let device = Device::new();
    let kernels = || Arc::clone(&device.kernels);
    let refused = |options| MarginSoftmax::new(kernels(), 3, 2, options).err().unwrap().to_string();
    let cos = Margin::Cos { cosine: 0.1 };
    assert!(refused(MarginOptions { scale: 0.0, ..MarginOptions::new(cos) }).starts_with("scale = 0"));
    assert!(refused(MarginOptions::new(Margin::Cos { cosine: 3.0 })).starts_with("margin = 3"));
    for sub_centers in [0, 17] {
        let message = refused(MarginOptions { sub_centers, ..MarginOptions::new(cos) });
        assert!(message.starts_with(&format!("sub_centers = {sub_centers}: ")), "{message}");
    }
    assert!(refused(MarginOptions::new(Margin::Sphere { multiplier: 9 })).contains("1 to 8"));
    assert!(MarginSoftmax::new(kernels(), usize::MAX, 2, MarginOptions::new(cos)).is_err());
    let cosine = TripletOptions { distance: Distance::Cosine, normalize: false, ..TripletOptions::default() };
    assert!(
        TripletMargin::new(kernels(), cosine).err().unwrap().to_string().starts_with("normalize = false")
    );

    let tiny = TripletOptions { margin: 1e-50, ..TripletOptions::default() };
    assert!(TripletMargin::new(kernels(), tiny).err().unwrap().to_string().starts_with("margin = 1e-50: "));

    let loss = MarginSoftmax::new(kernels(), 3, 2, MarginOptions::new(cos)).unwrap();
    let (x, w, labels) = (device.zeros::<f32>(4), device.zeros::<f32>(6), device.zeros::<u32>(3));
    let batch = Batch {
        embeddings: &x.as_view(),
        labels: &labels.as_view(),
        weights: None,
        class_weights: None,
        upstream: 1.0,
    };
    let frozen = Centres::Frozen(&w.as_view());
    let refused = loss.forward_backward(&device.stream, batch, frozen, None, None);
    assert_eq!(refused, Err(Error::Length { what: "the embeddings", expected: 6, got: 4 }));

    let mut y = device.zeros::<f32>(2);
    let layout = Layout::Maps { batch: 1, channels: 1, length: 4 };
    let (p, x) = (device.upload(&[3.0f32]), x.as_view());
    let p = p.as_view();
    let gem = Pooling::Gem { p: &p, eps: 2.0, sign: pooling::Sign::Clamp, learnable: false };
    let (kernels, stream) = (&device.kernels, &device.stream);
    let refused = pooling::forward(kernels, stream, &x, layout, gem, &mut y.as_view_mut()).err().unwrap();
    assert!(refused.to_string().starts_with("eps = 2"), "{refused}");
    let refused = pooling::forward(kernels, stream, &x, layout, Pooling::Average, &mut y.as_view_mut());
    assert_eq!(refused.err(), Some(Error::Length { what: "the pooled values", expected: 1, got: 2 }));
}

#[test]
fn what_the_memory_pool_keeps() {
    in_a_process("errors::the_pool_keeps_no_less_than_it_was_told", &[]);
}

#[test]
#[ignore = "run by what_the_memory_pool_keeps"]
fn the_pool_keeps_no_less_than_it_was_told() {
    let attribute = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    let opened = || embedtune_cuda_kernels::context(0).unwrap();
    // SAFETY: the device is a context's.
    let pool = |device| unsafe { result::device::get_mem_pool(device) }.unwrap();
    let keeps = |device| {
        let mut bytes = 0u64;
        // SAFETY: the pool is the device's, the attribute a u64.
        unsafe { result::mem_pool::get_attribute(pool(device), attribute, (&raw mut bytes).cast()) }.unwrap();
        bytes
    };
    let told = |device, mut bytes: u64| {
        // SAFETY: as above.
        unsafe { result::mem_pool::set_attribute(pool(device), attribute, (&raw mut bytes).cast()) }.unwrap();
    };
    // A context of someone else's leaves the pool as it is.
    let theirs = CudaContext::new(0).unwrap();
    told(theirs.cu_device(), 0);
    let _kernels = Kernels::new(&theirs).unwrap();
    assert_eq!(keeps(theirs.cu_device()), 0);
    assert_eq!(keeps(opened().cu_device()), 256 << 20);
    for bytes in [1 << 40, 1 << 20] {
        told(theirs.cu_device(), bytes);
        assert_eq!(keeps(opened().cu_device()), bytes.max(256 << 20));
    }
}
