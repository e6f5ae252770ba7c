//! What the host refuses before anything is launched.

use super::*;

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn what_another_pooling_left_is_refused() {
    let device = Device::new();
    let (kernels, stream) = (&device.kernels, &device.stream);
    let (x, dy, mut y, mut dx) =
        (device.zeros::<f32>(98), device.zeros(2), device.zeros(2), device.zeros(98));
    let p = device.upload(&[3.0f32]);
    let p = p.as_view();
    let layout = Layout::Maps { batch: 1, channels: 2, length: 49 };
    let gem = |sign, learnable| Pooling::Gem { p: &p, eps: 1e-6, sign, learnable };
    let saved =
        pooling::forward(kernels, stream, &x.as_view(), layout, Pooling::Average, &mut y.as_view_mut())
            .unwrap();
    let mut back = |layout, pooling, saved: &pooling::Saved| {
        let (x, dy, mut dx) = (x.as_view(), dy.as_view(), dx.as_view_mut());
        pooling::backward(kernels, stream, &x, layout, pooling, saved, &dy, Some(&mut dx), None)
    };
    let mut refused = |layout, pooling, saved: &pooling::Saved| {
        let message = back(layout, pooling, saved).unwrap_err().to_string();
        assert!(message.contains("the forward pass had another pooling"), "{message}");
    };
    for pooling in [gem(Sign::Clamp, false), gem(Sign::Shift, true), Pooling::Maximum] {
        refused(layout, pooling, &saved);
    }
    // The same values and rows in other shapes.
    for other in [
        Layout::Tokens { batch: 1, tokens: 49, dim: 2, mask: None },
        Layout::Maps { batch: 2, channels: 1, length: 49 },
    ] {
        refused(other, Pooling::Average, &saved);
    }
    // What was left for the gradient of the power too will do without it, not the other way round.
    let mut left = |learnable| {
        let pooling = gem(Sign::Clamp, learnable);
        pooling::forward(kernels, stream, &x.as_view(), layout, pooling, &mut y.as_view_mut()).unwrap()
    };
    let (with, without) = (left(true), left(false));
    refused(layout, gem(Sign::Clamp, true), &without);
    for saved in [&with, &without] {
        let (x, dy, mut dx) = (x.as_view(), dy.as_view(), device.zeros::<f32>(98));
        let (pooling, mut to) = (gem(Sign::Clamp, false), dx.as_view_mut());
        pooling::backward(kernels, stream, &x, layout, pooling, saved, &dy, Some(&mut to), None).unwrap();
    }
    // Halves lie elsewhere.
    let (halves, dy, mut dx) = (device.zeros::<f16>(98), device.zeros::<f16>(2), device.zeros::<f16>(98));
    let (x, dy, mut dx) = (halves.as_view(), dy.as_view(), dx.as_view_mut());
    let pooling = gem(Sign::Clamp, true);
    let wrong = pooling::backward(kernels, stream, &x, layout, pooling, &with, &dy, Some(&mut dx), None);
    assert!(wrong.unwrap_err().to_string().contains("the forward pass had another pooling"));
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn a_view_that_starts_between_vectors_is_refused() {
    let device = Device::new();
    let (x, mut y) = (device.zeros::<f32>(9), device.zeros::<f32>(2));
    let layout = Layout::Maps { batch: 1, channels: 2, length: 4 };
    let refused = pooling::forward(
        &device.kernels,
        &device.stream,
        &x.slice(1..),
        layout,
        Pooling::Average,
        &mut y.as_view_mut(),
    );
    assert_eq!(refused.err(), Some(Error::Alignment { what: "the maps", needs: 16, past: 4 }));
}
