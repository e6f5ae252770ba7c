//! Whose products are taken, and what can go wrong with cuBLAS. That its values are right the tests of `margin` say, which
//! run with it too.

use embedtune_cuda_kernels::Error;
use embedtune_cuda_kernels::margin::{
    Batch, Centres, Margin, MarginOptions, MarginSoftmax, MarginStats, Products, Sgd,
};

use crate::device::{Device, memory_used};
use crate::errors::succeeded;
use crate::random::Random;
use crate::{with_cublas, with_the_driver};

const SIZES: [usize; 3] = [6, 16, 140];

/// A step of SGD; the centres after it.
fn step(device: &Device, products: Products) -> Result<(MarginStats, Vec<f32>), Error> {
    let [n, dim, classes] = SIZES;
    let options = MarginOptions { products, tile_bytes: 100_000, ..MarginOptions::new(COS) };
    let loss = MarginSoftmax::new(device.kernels.clone(), classes, dim, options)?;
    let mut random = Random(7);
    let (x, mut w) = (device.upload(&random.normals(n * dim)), device.upload(&random.normals(classes * dim)));
    let labels = device.upload(&random.labels(n, classes));
    let mut dx = device.poisoned(n * dim);
    let batch = Batch {
        embeddings: &x.as_view(),
        labels: &labels.as_view(),
        weights: None,
        class_weights: None,
        upstream: 1.0,
    };
    let sgd = Sgd::new(0.5);
    let centres: Centres<'_, '_, f32> = Centres::Sgd(&mut w.as_view_mut(), None, sgd);
    let gradient = Some((&mut dx.as_view_mut(), Default::default()));
    let stats = loss.forward_backward(&device.stream, batch, centres, gradient, None)?;
    Ok((stats, device.download(&w)))
}

const COS: Margin = Margin::Cos { cosine: 0.1 };

/// Whether this process was started for one of the tests below, and with which task.
fn task(name: &str) -> bool {
    std::env::var("EMBEDTUNE_TEST_TASK").as_deref() == Ok(name)
}

/// Runs an ignored test in a process with cuBLAS and this environment.
fn with(test: &str, environment: &[(&str, &str)]) {
    let name = format!("cublas::{test}");
    let environment = [&[("EMBEDTUNE_TEST_TASK", test)], environment].concat();
    succeeded(with_cublas(&["--ignored", "--exact", &name], &environment));
}

#[test]
fn without_cublas_our_own_products_are_taken() {
    let test = "there_is_no_cublas";
    let name = format!("cublas::{test}");
    succeeded(with_the_driver(&["--ignored", "--exact", &name], &[("EMBEDTUNE_TEST_TASK", test)]));
}

#[test]
#[ignore = "run by without_cublas_our_own_products_are_taken"]
fn there_is_no_cublas() {
    if !task("there_is_no_cublas") {
        return;
    }
    let device = Device::new();
    let error = device.kernels.cublas().unwrap_err();
    assert!(matches!(error, Error::NoCublas { .. }), "{error}");
    for part in ["libcublas.so.13", "libcublas.so.12", "LD_LIBRARY_PATH", "Products::Own"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert_eq!(step(&device, Products::Cublas), Err(error));
    let own = step(&device, Products::Own).unwrap();
    for _ in 0..6 {
        assert_eq!(step(&device, Products::Faster).unwrap(), own);
    }
}

/// The products of six calls in a row, each with the values that forcing them gives.
fn turns(device: &Device) -> Vec<Products> {
    let [own, cublas] = [Products::Own, Products::Cublas].map(|products| step(device, products).unwrap());
    assert_ne!(own.1, cublas.1, "the two round differently, or the test would show nothing");
    let one = |_| {
        let result = step(device, Products::Faster).unwrap();
        assert_eq!(result, if result.0.products == Products::Own { own.clone() } else { cublas.clone() });
        result.0.products
    };
    (0..6).map(one).collect()
}

#[test]
fn the_faster_products_stay() {
    // Emulated tensor cores are slow, so that cuBLAS's stand-in wins unless it is made to wait.
    with("cublas_is_faster", &[]);
    with("cublas_is_slower", &[("EMULATED_CUBLAS_MS", "500")]);
}

#[test]
#[ignore = "run by the_faster_products_stay"]
fn cublas_is_faster() {
    if task("cublas_is_faster") {
        use Products::{Cublas, Own};
        assert_eq!(turns(&Device::new()), [Own, Cublas, Own, Cublas, Cublas, Cublas]);
    }
}

#[test]
#[ignore = "run by the_faster_products_stay"]
fn cublas_is_slower() {
    if task("cublas_is_slower") {
        use Products::{Cublas, Own};
        assert_eq!(turns(&Device::new()), [Own, Cublas, Own, Cublas, Own, Own]);
    }
}

#[test]
fn a_cublas_that_does_not_start() {
    with("it_does_not_start", &[("EMULATED_CUBLAS_CREATE", "1")]);
}

#[test]
#[ignore = "run by a_cublas_that_does_not_start"]
fn it_does_not_start() {
    if !task("it_does_not_start") {
        return;
    }
    let device = Device::new();
    let error = step(&device, Products::Cublas).unwrap_err();
    assert!(matches!(error, Error::NoCublas { .. }), "{error}");
    assert!(
        error.to_string().contains("libcublas.so.12 does not start: CUBLAS_STATUS_NOT_INITIALIZED"),
        "{error}"
    );
    assert!((0..6).all(|_| step(&device, Products::Faster).unwrap().0.products == Products::Own));
}

#[test]
fn a_cublas_without_memory() {
    with("it_has_no_memory", &[("EMULATED_CUBLAS_CREATE", "3")]);
}

#[test]
#[ignore = "run by a_cublas_without_memory"]
fn it_has_no_memory() {
    if !task("it_has_no_memory") {
        return;
    }
    let device = Device::new();
    let error = step(&device, Products::Cublas).unwrap_err();
    assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
    assert!(error.to_string().contains("opening cuBLAS"), "{error}");
}

#[test]
fn a_product_that_cublas_refuses() {
    // A step has eight: one forward, one and two times three backward.
    for product in ["0 8", "1 8", "2 13", "7 14"] {
        with("it_refuses_a_product", &[("EMULATED_CUBLAS_FAIL", product)]);
    }
    with("ours_take_over", &[("EMULATED_CUBLAS_FAIL", "0 8")]);
}

#[test]
#[ignore = "run by a_product_that_cublas_refuses"]
fn it_refuses_a_product() {
    if !task("it_refuses_a_product") {
        return;
    }
    let device = Device::new();
    let before = memory_used();
    let error = step(&device, Products::Cublas).unwrap_err();
    assert!(matches!(error, Error::Cublas { .. }), "{error}");
    assert!(error.to_string().starts_with("a product of cuBLAS failed: CUBLAS_STATUS_"), "{error}");
    assert_eq!(memory_used(), before, "a failure leaves memory behind");
    // The next one is not harmed.
    assert_eq!(step(&device, Products::Cublas).unwrap().0.products, Products::Cublas);
}

#[test]
#[ignore = "run by a_product_that_cublas_refuses"]
fn ours_take_over() {
    if !task("ours_take_over") {
        return;
    }
    let device = Device::new();
    let own = step(&device, Products::Own).unwrap();
    assert!((0..6).all(|_| step(&device, Products::Faster).unwrap() == own));
}

/// For `gpu-check.sh`, which asks before it tests cuBLAS's products.
#[test]
#[ignore = "asks whether cuBLAS is here"]
fn cublas_is_here() {
    if task("cublas_is_here") {
        Device::new().kernels.cublas().unwrap();
    }
}
