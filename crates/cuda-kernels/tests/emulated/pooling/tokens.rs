//! Sequences of token vectors, with masks and without.

use super::*;

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn tokens_that_the_mask_leaves_out_change_nothing() {
    let device = Device::new();
    let (batch, tokens, dim) = (4, 9, 37);
    // The last item has no token.
    let mask: Vec<u8> = (0..batch * tokens).map(|at| u8::from(at % 3 != 1 && at < 3 * tokens)).collect();
    let on_device = device.upload(&mask);
    let on_device = on_device.as_view();
    for kind in KINDS {
        let layout = Layout::Tokens { batch, tokens, dim, mask: Some(&on_device) };
        check::<f32>(&device, layout, Some(&mask), kind, &[3.0]);
        check::<bf16>(&device, layout, Some(&mask), kind, &[2.5]);
        check::<f16>(&device, Layout::Tokens { batch, tokens, dim, mask: None }, None, kind, &[3.0]);
    }
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn tokens_of_every_number_and_width() {
    let device = Device::new();
    // More tokens than a warp looks at together, fewer than warps; channels in pairs and alone, of more than one block.
    for (batch, tokens, dim) in [(2, 150, 6), (1, 3, 70), (3, 1, 65), (2, 40, 130)] {
        // Whole eights of tokens left out, and in the second item all at the end.
        let mask: Vec<u8> = (0..batch * tokens)
            .map(|at| {
                let (item, token) = (at / tokens, at % tokens);
                u8::from(token / 8 % 3 != 1 && token % 5 != 2 && (item != 1 || token < tokens / 2))
            })
            .collect();
        let on_device = device.upload(&mask);
        let on_device = on_device.as_view();
        let layout = Layout::Tokens { batch, tokens, dim, mask: Some(&on_device) };
        for kind in [Kind::Gem(Sign::Clamp), Kind::Average, Kind::Maximum] {
            check::<bf16>(&device, layout, Some(&mask), kind, &[3.0]);
            check::<f32>(&device, layout, Some(&mask), kind, &[2.5]);
        }
        let whole = Layout::Tokens { batch, tokens, dim, mask: None };
        check::<f16>(&device, whole, None, Kind::Gem(Sign::Signed), &[3.0]);
        // A warp's channels of different powers; one that is whole for all, and fixed.
        let of_channel: Vec<f32> = (0..dim).map(|c| [3.0, 2.5, 1.0, 4.0, 2.0][c % 5]).collect();
        check_clamped::<bf16>(&device, whole, &of_channel, true);
        check_clamped::<bf16>(&device, whole, &of_channel, false);
        for p in [1.0, 2.0, 3.0, 5.0, 2.9] {
            check_clamped::<f16>(&device, whole, &[p], false);
        }
    }
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn tokens_of_any_size_of_values() {
    let device = Device::new();
    // Where powers leave f32, where 1 / top does, and what is not finite beside what is.
    let (tokens, inf) = (20, f32::INFINITY);
    for (scale, p) in [(1e-6, 8.0), (1e10, 4.0), (1e20, 3.0), (2e36, 3.0), (2e37, 2.0), (2e37, 2.5)] {
        let x: Vec<f32> = (0..2 * tokens).map(|at| ((1 + at) as f64 * scale / 3.0) as f32).collect();
        let layout = Layout::Tokens { batch: 1, tokens, dim: 2, mask: None };
        for learnable in [false, true] {
            let clamp = Kind::Gem(Sign::Clamp);
            let got = pool_with(&device, &x, layout, clamp, &[p], &[1.0, 1.0], learnable);
            for channel in 0..2 {
                let row: Vec<f32> = (0..tokens).map(|token| x[token * 2 + channel]).collect();
                let expected = gem_clamped(&row, p, 1e-3);
                let near = |got: f32, expected: f64| {
                    let off = (f64::from(got) - expected).abs();
                    assert!(off <= 4e-5 * expected.abs() + 1e-38, "{scale} {p}: {got}, {expected}")
                };
                near(got.y[channel], expected.value);
                for (token, &slope) in expected.dx.iter().enumerate() {
                    near(got.dx[token * 2 + channel], slope);
                }
            }
        }
    }
    let x: Vec<bf16> = (0..40).map(|at| bf16::from_f32(if at == 7 { inf } else { at as f32 })).collect();
    let layout = Layout::Tokens { batch: 1, tokens, dim: 2, mask: None };
    let got = pool(&device, &x, layout, Kind::Gem(Sign::Clamp), &[3.0], &[bf16::ONE; 2]);
    assert!(got.y[0].is_finite() && got.y[1].is_nan(), "{:?}", got.y);
    assert!((0..40).all(|at| got.dx[at].is_nan() == (at % 2 == 1)), "{:?}", got.dx);
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn a_view_of_tokens_between_words_gives_the_same_bits() {
    let device = Device::new();
    let (tokens, dim) = (30, 34);
    let x: Vec<bf16> = Random(5).normals(tokens * dim).into_iter().map(bf16::from_f32).collect();
    let p = device.upload(&[3.0f32]);
    let p = p.as_view();
    let layout = Layout::Tokens { batch: 1, tokens, dim, mask: None };
    for sign in [Sign::Clamp, Sign::Signed] {
        let gem = Pooling::Gem { p: &p, eps: 1e-3, sign, learnable: false };
        for pooling in [gem, Pooling::Average, Pooling::Maximum] {
            let run = |past: usize| {
                let moved: Vec<bf16> = vec![bf16::ZERO; past].into_iter().chain(x.iter().copied()).collect();
                let moved = device.upload(&moved);
                let mut y = device.zeros::<bf16>(dim);
                let (kernels, stream) = (&device.kernels, &device.stream);
                let of = moved.slice(past..);
                pooling::forward(kernels, stream, &of, layout, pooling, &mut y.as_view_mut()).unwrap();
                device.download(&y)
            };
            assert_eq!(run(0), run(1));
        }
    }
}
