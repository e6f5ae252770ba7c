use embedtune_cuda_kernels::half::{bf16, f16};
use embedtune_cuda_kernels::pooling::{self, Layout, Pooling, Sign};
use embedtune_cuda_kernels::{Error, Storage, narrow, widen};

use crate::device::{Device, assert_near_of, under_all_schedules};
use crate::pooling_reference::{Pooled, average, gem, gem_clamped, maximum};
use crate::random::Random;

mod refused;
mod tokens;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Gem(Sign),
    Average,
    Maximum,
}

trait Half: Storage {
    /// What rounding to it costs.
    const ROUNDING: f64;
    fn round(v: f32) -> Self;
    fn wide(self) -> f32;
}

impl Half for f32 {
    const ROUNDING: f64 = 0.0;
    fn round(v: f32) -> Self {
        v
    }
    fn wide(self) -> f32 {
        self
    }
}

impl Half for f16 {
    const ROUNDING: f64 = 1.0 / 2048.0;
    fn round(v: f32) -> Self {
        Self::from_f32(v)
    }
    fn wide(self) -> f32 {
        self.to_f32()
    }
}

impl Half for bf16 {
    const ROUNDING: f64 = 1.0 / 256.0;
    fn round(v: f32) -> Self {
        Self::from_f32(v)
    }
    fn wide(self) -> f32 {
        self.to_f32()
    }
}

/// Rows of a layout: the places of each row's values that count, in order.
fn rows(layout: &Layout<'_>, mask: Option<&[u8]>) -> Vec<Vec<usize>> {
    match *layout {
        Layout::Maps { batch, channels, length } => {
            (0..batch * channels).map(|row| (row * length..(row + 1) * length).collect()).collect()
        }
        Layout::Tokens { batch, tokens, dim, .. } => (0..batch * dim)
            .map(|row| {
                let (item, channel) = (row / dim, row % dim);
                (0..tokens)
                    .filter(|token| mask.is_none_or(|mask| mask[item * tokens + token] != 0))
                    .map(|token| (item * tokens + token) * dim + channel)
                    .collect()
            })
            .collect(),
        _ => panic!("no reference for this layout"),
    }
}

struct Results {
    y: Vec<f32>,
    dx: Vec<f32>,
    d_p: Vec<f32>,
}

fn pool<T: Half>(device: &Device, x: &[T], layout: Layout<'_>, kind: Kind, p: &[f32], dy: &[T]) -> Results {
    pool_with(device, x, layout, kind, p, dy, true)
}

fn pool_with<T: Half>(
    device: &Device,
    x: &[T],
    layout: Layout<'_>,
    kind: Kind,
    p: &[f32],
    dy: &[T],
    learnable: bool,
) -> Results {
    let (x, p, dy) = (device.upload(x), device.upload(p), device.upload(dy));
    let (mut y, mut dx) = (device.zeros::<T>(dy.len()), device.zeros::<T>(x.len()));
    let mut d_p = device.poisoned(p.len());
    let p = p.as_view();
    let pooling = match kind {
        Kind::Gem(sign) => Pooling::Gem { p: &p, eps: 1e-3, sign, learnable },
        Kind::Average => Pooling::Average,
        Kind::Maximum => Pooling::Maximum,
    };
    let (kernels, stream) = (&device.kernels, &device.stream);
    let saved =
        pooling::forward(kernels, stream, &x.as_view(), layout, pooling, &mut y.as_view_mut()).unwrap();
    let mut d_p_view = d_p.as_view_mut();
    let d_p_view = (learnable && matches!(kind, Kind::Gem(_))).then_some(&mut d_p_view);
    let (dy, mut dx_view) = (dy.as_view(), dx.as_view_mut());
    pooling::backward(
        kernels,
        stream,
        &x.as_view(),
        layout,
        pooling,
        &saved,
        &dy,
        Some(&mut dx_view),
        d_p_view,
    )
    .unwrap();
    let wide = |values: Vec<T>| values.into_iter().map(T::wide).collect();
    Results { y: wide(device.download(&y)), dx: wide(device.download(&dx)), d_p: device.download(&d_p) }
}

fn check<T: Half>(device: &Device, layout: Layout<'_>, mask: Option<&[u8]>, kind: Kind, p: &[f32]) {
    let rows = rows(&layout, mask);
    let values = match layout {
        Layout::Maps { batch, channels, length } => batch * channels * length,
        Layout::Tokens { batch, tokens, dim, .. } => batch * tokens * dim,
        _ => panic!("no reference for this layout"),
    };
    let mut random = Random(values as u64);
    let mut x: Vec<T> = random.normals(values).into_iter().map(T::round).collect();
    let counted: std::collections::HashSet<usize> = rows.iter().flatten().copied().collect();
    for (at, v) in x.iter_mut().enumerate() {
        // What the mask leaves out may hold anything.
        if !counted.contains(&at) {
            *v = T::round(f32::NAN);
        }
    }
    // A unique minimum: at a tie the shift has a slope on each side, and no derivative.
    for places in rows.iter().filter(|places| !places.is_empty()) {
        let at = places.iter().copied().reduce(|a, b| if x[b].wide() < x[a].wide() { b } else { a }).unwrap();
        x[at] = T::round(x[at].wide() - 0.25);
    }
    let dy: Vec<T> = random.normals(rows.len()).into_iter().map(T::round).collect();
    let what = format!("{kind:?} p = {p:?}, {}, {} rows", T::SUFFIX, rows.len());
    let got = under_all_schedules(&what, || {
        let results = pool(device, &x, layout, kind, p, &dy);
        vec![results.y, results.dx, results.d_p]
    });
    let (mut y, mut dx, mut d_p) = (Vec::new(), vec![0.0; values], vec![0.0; p.len()]);
    for (row, places) in rows.iter().enumerate() {
        let of: Vec<f32> = places.iter().map(|&at| x[at].wide()).collect();
        let Pooled { value, d_p: of_p, dx: slopes } = match kind {
            Kind::Gem(sign) => gem(&of, p[row % p.len()], 1e-3, sign),
            Kind::Average => average(&of),
            Kind::Maximum => maximum(&of),
        };
        let upstream = f64::from(dy[row].wide());
        y.push(value);
        d_p[row % p.len()] += of_p * upstream;
        for (&at, slope) in places.iter().zip(slopes) {
            dx[at] = slope * upstream;
        }
    }
    let near = |part: &str, got: &[f32], expected: &[f64], tolerance| {
        let least = if part == "dp" { 0.3 } else { 1e-2 };
        assert_near_of(&format!("{what}, {part}"), got, expected, tolerance, least);
    };
    near("y", &got[0], &y, 4e-6 + T::ROUNDING);
    near("dx", &got[1], &dx, 2e-5 + T::ROUNDING);
    if matches!(kind, Kind::Gem(_)) {
        near("dp", &got[2], &d_p, 3e-5);
    }
}

const KINDS: [Kind; 5] =
    [Kind::Gem(Sign::Clamp), Kind::Gem(Sign::Shift), Kind::Gem(Sign::Signed), Kind::Average, Kind::Maximum];

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn maps_of_every_kind_and_storage() {
    let device = Device::new();
    for kind in KINDS {
        for p in [3.0, 2.5] {
            // Rows of 49 values start at every place within 16 bytes.
            let layout = Layout::Maps { batch: 3, channels: 7, length: 49 };
            check::<f32>(&device, layout, None, kind, &[p]);
            check::<f16>(&device, layout, None, kind, &[p]);
            check::<bf16>(&device, layout, None, kind, &[p]);
        }
    }
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn maps_of_other_sizes_and_powers() {
    let device = Device::new();
    for (channels, length) in [(1, 1), (5, 3), (2, 300), (4, 64)] {
        let layout = Layout::Maps { batch: 2, channels, length };
        for p in [1.0, 4.0, 0.5, 20.0] {
            check::<f32>(&device, layout, None, Kind::Gem(Sign::Clamp), &[p]);
        }
        let of_channel: Vec<f32> = (0..channels).map(|c| 1.5 + c as f32).collect();
        check::<f32>(&device, layout, None, Kind::Gem(Sign::Clamp), &of_channel);
        check::<bf16>(&device, layout, None, Kind::Maximum, &[1.0]);
    }
    // The gradient of one power is the sum over more rows than one block takes.
    let layout = Layout::Maps { batch: 3, channels: 2000, length: 2 };
    check::<f32>(&device, layout, None, Kind::Gem(Sign::Clamp), &[3.0]);
    let layout = Layout::Tokens { batch: 2, tokens: 3, dim: 200, mask: None };
    check::<f32>(&device, layout, None, Kind::Gem(Sign::Clamp), &[3.0]);
}

/// Rows against the formulas: value, gradient, and the gradient of the power where it is learnable.
fn check_clamped<T: Half>(device: &Device, layout: Layout<'_>, p: &[f32], learnable: bool) {
    let rows = rows(&layout, None);
    let values: usize = rows.iter().map(Vec::len).sum();
    let mut random = Random(values as u64 + 7);
    // Three of four values above eps, and rows of different sizes.
    let x: Vec<T> = random
        .normals(values)
        .into_iter()
        .enumerate()
        .map(|(at, v)| T::round((v + 0.7) * (1 + at % 5) as f32))
        .collect();
    let dy: Vec<T> = random.normals(rows.len()).into_iter().map(T::round).collect();
    let what =
        format!("{layout_name} p = {p:?}, {}, d_p {learnable}", T::SUFFIX, layout_name = name(&layout));
    let got = under_all_schedules(&what, || {
        let results = pool_with(device, &x, layout, Kind::Gem(Sign::Clamp), p, &dy, learnable);
        let d_p = if learnable { results.d_p } else { Vec::new() };
        vec![results.y, results.dx, d_p]
    });
    let (mut y, mut dx, mut d_p) = (Vec::new(), vec![0.0; values], vec![0.0; p.len()]);
    for (row, places) in rows.iter().enumerate() {
        let of: Vec<f32> = places.iter().map(|&at| x[at].wide()).collect();
        let Pooled { value, d_p: of_p, dx: slopes } = gem_clamped(&of, p[row % p.len()], 1e-3);
        let upstream = f64::from(dy[row].wide());
        y.push(value);
        d_p[row % p.len()] += of_p * upstream;
        for (&at, slope) in places.iter().zip(slopes) {
            dx[at] = slope * upstream;
        }
    }
    // A rounding of u counts p times in u^p, and 1 / p times of that in the root.
    let power = f64::from(p.iter().copied().fold(0.0f32, f32::max));
    let near = |part: &str, got: &[f32], expected: &[f64], tolerance| {
        let least = if part == "dp" { 0.3 } else { 1e-2 };
        assert_near_of(&format!("{what}, {part}"), got, expected, tolerance, least);
    };
    near("y", &got[0], &y, 4e-6 + T::ROUNDING);
    near("dx", &got[1], &dx, 1e-5 + 5e-7 * power + T::ROUNDING);
    if learnable {
        near("dp", &got[2], &d_p, 3e-5 + 1e-7 * power);
    }
}

fn name(layout: &Layout<'_>) -> String {
    match *layout {
        Layout::Maps { batch, channels, length } => format!("maps {batch} x {channels} x {length}"),
        Layout::Tokens { batch, tokens, dim, .. } => format!("tokens {batch} x {tokens} x {dim}"),
        _ => "?".to_owned(),
    }
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn gem_of_every_length_and_power() {
    let device = Device::new();
    // One vector and less, teams of 1 to 32 lanes, rows in several parts.
    for (channels, length) in
        [(40, 1), (37, 2), (37, 7), (35, 49), (33, 50), (17, 196), (5, 1000), (3, 1797), (3, 4097)]
    {
        let layout = Layout::Maps { batch: 1, channels, length };
        for (at, p) in [1.0, 2.0, 3.0, 2.9, 6.0, 6.5, 64.0, 1000.0].into_iter().enumerate() {
            check_clamped::<f32>(&device, layout, &[p], at % 2 == 0);
            check_clamped::<bf16>(&device, layout, &[p], at % 2 != 0);
        }
        check_clamped::<f16>(&device, layout, &[3.0], true);
        check_clamped::<f16>(&device, layout, &[2.9], false);
        // Rows of one warp that take different ways.
        let of_channel: Vec<f32> = (0..channels).map(|c| [3.0, 2.5, 1.0, 4.0, 2.0][c % 5]).collect();
        check_clamped::<bf16>(&device, layout, &of_channel, true);
    }
    for p in [1.0, 2.0, 3.0, 2.9, 8.0, 64.0, 1000.0] {
        let layout = Layout::Tokens { batch: 2, tokens: 50, dim: 9, mask: None };
        check_clamped::<f32>(&device, layout, &[p], true);
        check_clamped::<bf16>(&device, layout, &[p], false);
    }
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn long_maps_with_other_signs_and_huge_values() {
    let device = Device::new();
    for sign in [Sign::Shift, Sign::Signed] {
        check::<f32>(
            &device,
            Layout::Maps { batch: 1, channels: 2, length: 1900 },
            None,
            Kind::Gem(sign),
            &[2.5],
        );
    }
    // Largest magnitudes that grow from part to part, past where an inverse is a normal number.
    let layout = Layout::Maps { batch: 1, channels: 2, length: 4096 };
    for scale in [1.0f64, 1e35] {
        let x: Vec<f32> = (0..8192).map(|at| ((1 + at % 4096) as f64 * scale / 40.0) as f32).collect();
        for p in [3.0, 2.5, 40.0] {
            let got = pool(&device, &x, layout, Kind::Gem(Sign::Clamp), &[p], &[1.0, 1.0]);
            let expected = gem_clamped(&x[..4096], p, 1e-3);
            let near = |got: f32, expected: f64| {
                assert!((f64::from(got) / expected - 1.0).abs() < 4e-5, "{got}, {expected}")
            };
            got.y.iter().for_each(|&y| near(y, expected.value));
            near(got.dx[4095], expected.dx[4095]);
            near(got.d_p[0], 2.0 * expected.d_p);
        }
    }
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn no_power_overflows_and_what_is_not_finite_shows() {
    let device = Device::new();
    let layout = Layout::Maps { batch: 1, channels: 4, length: 4 };
    let nan = f32::NAN;
    let x =
        [3e38, 1e38, 2e38, 0.0, 1e-20, 2e-20, 3e-20, 4e-20, 1.0, nan, 2.0, 3.0, f32::INFINITY, 1.0, 1.0, 1.0];
    let got = pool(&device, &x, layout, Kind::Gem(Sign::Clamp), &[50.0], &[1.0; 4]);
    assert!(got.y[0] > 2.8e38 && got.y[0] <= 3e38, "{:?}", got.y);
    assert!((got.y[1] - 1e-3).abs() < 1e-8, "{:?}", got.y);
    assert!(got.y[2].is_nan() && got.y[3].is_nan());
    assert!(
        got.dx[..8].iter().all(|v| v.is_finite()) && got.dx[8..].iter().all(|v| v.is_nan()),
        "{:?}",
        got.dx
    );
    let got = pool(&device, &x, layout, Kind::Maximum, &[1.0], &[1.0; 4]);
    assert!(got.y[0] == 3e38 && got.y[2].is_nan() && got.y[3] == f32::INFINITY);
    assert_eq!(got.dx, [1., 0., 0., 0., 0., 0., 0., 1., 0., 1., 0., 0., 1., 0., 0., 0.]);
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn short_maps_of_every_length() {
    let device = Device::new();
    // From a vector to 256 bytes; rows that start at every place in a word and a vector, and that are laid apart; the last
    // warp and the last vector not full.
    for length in [8, 9, 16, 25, 36, 49, 64, 121, 127, 128] {
        let layout = Layout::Maps { batch: 1, channels: 37, length };
        for kind in [Kind::Gem(Sign::Clamp), Kind::Average, Kind::Maximum] {
            check::<bf16>(&device, layout, None, kind, &[3.0]);
            if length <= 64 {
                check::<f32>(&device, layout, None, kind, &[2.5]);
            }
        }
    }
    // Several warps and blocks.
    let layout = Layout::Maps { batch: 3, channels: 67, length: 49 };
    for kind in KINDS {
        check::<f16>(&device, layout, None, kind, &[3.0]);
    }
}

/// Each row's place of the maximum is where the gradient goes.
fn maximum_is_at<T: Half>(device: &Device, rows: &[Vec<f32>], places: &[usize]) {
    let length = rows[0].len();
    let x: Vec<T> = rows.iter().flatten().copied().map(T::round).collect();
    let layout = Layout::Maps { batch: 1, channels: rows.len(), length };
    let got = pool(device, &x, layout, Kind::Maximum, &[1.0], &vec![T::round(1.0); rows.len()]);
    for (row, &place) in places.iter().enumerate() {
        let of_row = &got.dx[row * length..(row + 1) * length];
        let expected: Vec<f32> = (0..length).map(|at| f32::from(u8::from(at == place))).collect();
        assert_eq!(of_row, expected, "row {row}, {}", T::SUFFIX);
        let (value, expected) = (got.y[row], rows[row][place]);
        assert!(value == expected || value.is_nan() && expected.is_nan(), "row {row}: {value} {expected}");
    }
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn the_first_of_equal_maxima_gets_the_gradient() {
    let device = Device::new();
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    // Long maps and short ones of odd and even length.
    for length in [9, 12, 300] {
        let row = |fill: f32, of: &[(usize, f32)]| {
            let mut row = vec![fill; length];
            of.iter().for_each(|&(at, v)| row[at] = v);
            row
        };
        let rows = [
            row(0.0, &[]),
            row(-inf, &[]),
            row(-1.0, &[(3, 2.0), (4, 2.0), (8, 2.0)]),
            row(-1.0, &[(8, 2.0)]),
            row(-1.0, &[(5, -0.0), (6, 0.0)]),
            row(-1.0, &[(6, 0.0), (7, -0.0)]),
            row(1.0, &[(2, inf), (7, nan), (8, nan)]),
            row(1.0, &[(8, nan)]),
            row(-0.0, &[(4, 0.0)]),
            row(nan, &[]),
        ];
        let places = [0, 0, 3, 8, 5, 6, 7, 8, 0, 0];
        maximum_is_at::<f32>(&device, &rows, &places);
        maximum_is_at::<f16>(&device, &rows, &places);
        maximum_is_at::<bf16>(&device, &rows, &places);
    }
}

#[test]
#[ignore = "needs the emulated device or a GPU"]
fn storage_changes_as_half_does() {
    let device = Device::new();
    let odd = [0.0, -0.0, 1e-8, 6e-8, 65504.0, 65520.0, -7e4, 3.14e-5, f32::INFINITY, f32::MIN_POSITIVE];
    let values: Vec<f32> = Random(1).normals(300).into_iter().chain(odd).collect();
    let x = device.upload(&values);
    let (mut half, mut brain) = (device.zeros::<f16>(values.len()), device.zeros::<bf16>(values.len()));
    narrow(&device.kernels, &device.stream, &x.as_view(), &mut half.as_view_mut()).unwrap();
    narrow(&device.kernels, &device.stream, &x.as_view(), &mut brain.as_view_mut()).unwrap();
    let bits = |values: Vec<f16>| values.into_iter().map(f16::to_bits).collect::<Vec<_>>();
    assert_eq!(bits(device.download(&half)), bits(values.iter().map(|&v| f16::from_f32(v)).collect()));
    assert_eq!(device.download(&brain), values.iter().map(|&v| bf16::from_f32(v)).collect::<Vec<_>>());
    let mut back = device.poisoned(values.len());
    widen(&device.kernels, &device.stream, &half.as_view(), &mut back.as_view_mut()).unwrap();
    assert_eq!(device.download(&back), values.iter().map(|&v| f16::from_f32(v).to_f32()).collect::<Vec<_>>());
}
