//! GeM, average and maximum over feature maps and masked tokens, with the gradient of GeM's power from the forward
//! pass's own sums. f32, f16 or bf16 storage; sums in f32. The same bits on every run.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, CudaView, CudaViewMut, DeviceRepr};

use crate::kernels::{Arg, Args, Shape};
use crate::scratch::Scratch;
use crate::{Error, Kernels, Result, Storage, check};

/// What GeM does with values that have no real power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Sign {
    /// Values below `eps` count as `eps` and have no gradient.
    #[default]
    Clamp,
    /// The row's minimum is subtracted before (the smallest value is then `eps`) and added back after.
    Shift,
    /// `sign(x) |x|^p` and a signed root, a straight line where the powers cancel to less than 1e-3 of the largest.
    Signed,
}

/// A pooling and its options.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub enum Pooling<'a> {
    /// Generalised mean.
    Gem {
        /// The powers: one for all channels or one for each; below 0.1 they count as 0.1.
        p: &'a CudaView<'a, f32>,
        /// Floor of magnitudes, from 1e-30 to 1; 1e-6 is usual.
        eps: f32,
        /// What is done with negative values.
        sign: Sign,
        /// Whether the backward pass will ask for the gradient of `p`.
        learnable: bool,
    },
    /// Arithmetic mean.
    Average,
    /// The largest value, the first of equals; NaN if there is one.
    Maximum,
}

/// `GemOptions` of `kernels/pool.cuh`.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
pub(crate) struct GemArgument {
    eps: f32,
    sign: i32,
    want_d_p: i32,
    powers: i32,
}

// SAFETY: plain numbers, laid out as the kernels declare them.
#[expect(unsafe_code, reason = "what says that a structure may be a kernel's argument")]
unsafe impl DeviceRepr for GemArgument {}

/// What a forward pass leaves for the backward pass: 4 bytes a pooled value; with GeM 8, or 12 where its power learns, and
/// with signs other than [`Sign::Clamp`] 28.
pub struct Saved {
    /// The planes of `Plane` of `kernels/pool.cuh` that the pooling's backward pass reads, `len` numbers each.
    left: CudaSlice<f32>,
    len: usize,
    of: Pass,
}

/// What two passes must have in common for one to go on from the other.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Pass {
    pooling: &'static str,
    argument: GemArgument,
    storage: &'static str,
    /// Whether maps, and the three sizes.
    maps: bool,
    sizes: [usize; 3],
}

impl Pass {
    fn of<T: Storage>(pooling: &Pooling<'_>, argument: GemArgument, layout: Layout<'_>) -> Self {
        let (maps, sizes) = match layout {
            Layout::Maps { batch, channels, length } => (true, [batch, channels, length]),
            Layout::Tokens { batch, tokens, dim, .. } => (false, [batch, tokens, dim]),
        };
        Self { pooling: pooling.name(), argument, storage: T::SUFFIX, maps, sizes }
    }

    /// Whether a backward pass may go on from this forward pass: one that prepared for the gradient of the power will do
    /// without it too.
    fn serves(self, mut backward: Self) -> bool {
        if self.argument.want_d_p == 1 {
            backward.argument.want_d_p = 1;
        }
        self == backward
    }
}

/// The plane with GeM's gradient of the power.
const D_P_PLANE: usize = 2;

/// Feature maps or tokens.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub enum Layout<'a> {
    /// `[batch, channels, length]`, pooled to `[batch, channels]`.
    Maps {
        /// Items.
        batch: usize,
        /// Maps of an item.
        channels: usize,
        /// Values of a map, height times width.
        length: usize,
    },
    /// `[batch, tokens, dim]`, pooled to `[batch, dim]`.
    Tokens {
        /// Items.
        batch: usize,
        /// Tokens of an item.
        tokens: usize,
        /// Values of a token.
        dim: usize,
        /// `[batch, tokens]`, not 0 for each token that counts; all without.
        mask: Option<&'a CudaView<'a, u8>>,
    },
}

impl Layout<'_> {
    /// Values, pooled values, channels.
    fn sizes(&self) -> Result<(usize, usize, usize)> {
        match *self {
            Layout::Maps { batch, channels, length } => {
                let values = check::size("maps [batch, channels, length]", &[batch, channels, length])?;
                check::size("pooled values [batch x channels]", &[batch * channels])?;
                Ok((values, batch * channels, channels))
            }
            Layout::Tokens { batch, tokens, dim, mask } => {
                let values = check::size("tokens [batch, tokens, dim]", &[batch, tokens, dim])?;
                check::size("pooled values [batch x dim]", &[batch * dim])?;
                if let Some(mask) = mask {
                    check::length("the mask", mask.len(), batch * tokens)?;
                }
                Ok((values, batch * dim, dim))
            }
        }
    }
}

impl Pooling<'_> {
    fn name(&self) -> &'static str {
        match self {
            Pooling::Gem { .. } => "gem",
            Pooling::Average => "average",
            Pooling::Maximum => "maximum",
        }
    }

    fn argument(&self, channels: usize) -> Result<GemArgument> {
        let Pooling::Gem { p, eps, sign, learnable } = *self else {
            return Ok(GemArgument { eps: 1.0, sign: 0, want_d_p: 0, powers: 1 });
        };
        if p.len() != 1 {
            check::length("the powers (one, or one for each channel)", p.len(), channels)?;
        }
        if !(1e-30..=1.0).contains(&eps) {
            let reason = "give a number from 1e-30 to 1; 1e-6 is usual";
            return Err(Error::Option { option: "eps", value: eps.to_string(), reason });
        }
        let sign = match sign {
            Sign::Clamp => 0,
            Sign::Shift => 1,
            Sign::Signed => 2,
        };
        Ok(GemArgument { eps, sign, want_d_p: i32::from(learnable), powers: check::int(p.len()) })
    }

    /// How many planes the forward pass leaves.
    fn planes(&self) -> usize {
        match self {
            Pooling::Gem { sign: Sign::Clamp, learnable, .. } => 2 + usize::from(*learnable),
            Pooling::Gem { .. } => 7,
            Pooling::Average | Pooling::Maximum => 1,
        }
    }

    fn powers(&self) -> Option<&CudaView<'_, f32>> {
        match self {
            Pooling::Gem { p, .. } => Some(p),
            _ => None,
        }
    }
}

/// `Staging` of `kernels/pool_gem.cu`: how a warp lays rows of maps out in shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Staging {
    team: i32,
    vectors: i32,
    stride: i32,
    chunk: i32,
    steps: i32,
}

// SAFETY: plain numbers, laid out as the kernels declare them.
#[expect(unsafe_code, reason = "what says that a structure may be a kernel's argument")]
unsafe impl DeviceRepr for Staging {}

/// Warps of a block of GeM's forward pass over maps, and vectors of 16 bytes that one has in shared memory at most: seven
/// blocks on a multiprocessor with 227 KiB.
const GEM_WARPS: usize = 4;
const GEM_VECTORS: usize = 448;
/// Warps that a launch should have where there are rows enough, before a warp takes more of them one after another.
const GEM_LAUNCH: usize = 132 * 28;
/// Threads of a block of its backward pass.
const GEM_THREADS: usize = 256;

impl Staging {
    /// For rows of `length` values, `in_vector` of them in 16 bytes.
    fn of(rows: usize, length: usize, in_vector: usize) -> Self {
        let vectors = covering(length, in_vector);
        let laid = |team: usize| -> (usize, usize) {
            // Rows so far apart that eight lanes read eight different groups of banks.
            let stride = match team {
                1 => vectors | 1,
                2 => (vectors + 1) / 4 * 4 + 2,
                4 => (vectors + 3) / 8 * 8 + 4,
                _ => vectors,
            };
            (stride, 32 / team * stride)
        };
        let team = [1, 2, 4, 8, 16].into_iter().find(|&team| laid(team).1 <= GEM_VECTORS).unwrap_or(32);
        let stride = laid(team).0.min(GEM_VECTORS);
        let chunk = vectors.min(stride);
        let in_warp = 32 / team;
        let mut steps = team;
        while steps > 1 && rows.div_ceil(in_warp * steps) < GEM_LAUNCH {
            steps /= 2;
        }
        let int = check::int;
        Self {
            team: int(team),
            vectors: int(vectors),
            stride: int(stride),
            chunk: int(chunk),
            steps: int(steps),
        }
    }

    fn shape(self, rows: usize) -> Shape {
        let [team, stride, steps] = [self.team, self.stride, self.steps].map(|v| v as usize);
        let in_block = 32 / team * steps * GEM_WARPS;
        let shared = GEM_WARPS * (32 / team) * stride * check::ALIGNMENT;
        Shape {
            shared: u32::try_from(shared).unwrap_or(u32::MAX),
            ..Shape::blocks([rows.div_ceil(in_block), 1, 1], (GEM_WARPS * 32) as u32)
        }
    }
}

/// Vectors of 16 bytes, `in_vector` values each, that a row of `length` values touches at most, wherever it starts; at
/// least one.
fn covering(length: usize, in_vector: usize) -> usize {
    // Rows start at multiples of what `length` and a vector have in common: its power of two.
    let common = 1 << length.trailing_zeros().min(in_vector.trailing_zeros());
    (length + in_vector - common).div_ceil(in_vector).max(1)
}

/// Lanes of a row in GeM's backward pass: fewer leave fewer of them without a vector at the row's end, and more rows to a
/// warp that share what is computed once a row; more read more of it at once.
fn lanes(vectors: usize) -> usize {
    match vectors {
        0..=2 => 2,
        3..=32 => 4,
        33..=128 => 8,
        _ => 32,
    }
}

/// Threads of a token kernel's block, and lanes of its warps, each of which has its channels.
const TOKEN_THREADS: u32 = 128;
const TOKEN_LANES: usize = 32;
/// Threads of a sum's block.
const SUM_THREADS: u32 = 256;
/// Rows of a power that a block sums at least, and blocks at most.
const SUM_SHARE: usize = 4096;
const SUM_BLOCKS: usize = 256;

/// Writes the pooled values of `x` to `y`, and returns what [`backward`] needs. Does not wait for the device.
///
/// A row without values (or without a token that counts) gives 0. NaN or infinity in a row makes its GeM NaN.
///
/// # Errors
/// Buffers of wrong lengths or alignment, options out of range; what the driver says.
pub fn forward<T: Storage>(
    kernels: &Kernels,
    stream: &Arc<CudaStream>,
    x: &CudaView<'_, T>,
    layout: Layout<'_>,
    pooling: Pooling<'_>,
    y: &mut CudaViewMut<'_, T>,
) -> Result<Saved> {
    let (values, rows, channels) = layout.sizes()?;
    let argument = pooling.argument(channels)?;
    check::length("the values to pool", x.len(), values)?;
    check::length("the pooled values", y.len(), rows)?;
    let left = kernels.allocate_kept(stream, rows * pooling.planes(), "what pooling leaves")?;
    let mut saved = Saved { left, len: rows, of: Pass::of::<T>(&pooling, argument, layout) };
    if rows == 0 {
        return Ok(saved);
    }
    let pairs = pairs(layout, x, stream);
    let args = Args::default().read(x, stream);
    let args = match layout {
        Layout::Maps { .. } => {
            check::aligned("the maps", x, stream)?;
            args
        }
        Layout::Tokens { mask, .. } => args.optional(mask, stream),
    };
    let args = with_powers::<T>(args, stream, layout, &pooling, argument, "");
    let args = args.write(y, stream).write(&mut saved.left, stream);
    launch::<T>(kernels, stream, "", layout, pooling, pairs, args)?;
    Ok(saved)
}

/// Writes the gradient of `x` to `dx`, and that of the powers to `d_p` (as long as they), given that of the pooled
/// values, `dy`. The other arguments are the forward pass's. Does not wait for the device.
///
/// # Errors
/// As [`forward`]; another pooling, type or shape than the forward pass's, which may have been `learnable` where this one
/// is not; `d_p` for a pooling that is not `learnable`.
pub fn backward<T: Storage>(
    kernels: &Kernels,
    stream: &Arc<CudaStream>,
    x: &CudaView<'_, T>,
    layout: Layout<'_>,
    pooling: Pooling<'_>,
    saved: &Saved,
    dy: &CudaView<'_, T>,
    dx: Option<&mut CudaViewMut<'_, T>>,
    d_p: Option<&mut CudaViewMut<'_, f32>>,
) -> Result<()> {
    let (values, rows, channels) = layout.sizes()?;
    let argument = pooling.argument(channels)?;
    check::length("the values to pool", x.len(), values)?;
    check::length("the gradient of the pooled values", dy.len(), rows)?;
    check::length("what the forward pass left", saved.len, rows)?;
    if !saved.of.serves(Pass::of::<T>(&pooling, argument, layout)) {
        let reason = "the forward pass had another pooling, other options or another shape; give it and the backward pass \
                      the same";
        return Err(Error::Option { option: "pooling", value: pooling.name().to_owned(), reason });
    }
    if let Some(dx) = &dx {
        check::length("the gradient of the values", dx.len(), values)?;
    }
    if let Some(d_p) = &d_p {
        if argument.want_d_p == 0 {
            let reason = "set it in the forward pass to have the gradient of the powers";
            return Err(Error::Option { option: "learnable", value: "false".to_owned(), reason });
        }
        check::length("the gradient of the powers", d_p.len(), argument.powers as usize)?;
    }
    if let Some(d_p) = d_p {
        sum_d_p(kernels, stream, saved, dy, argument.powers as usize, d_p)?;
    }
    let Some(dx) = dx else { return Ok(()) };
    if values == 0 {
        return Ok(());
    }
    let pairs = pairs(layout, x, stream) && pairs(layout, &dx.as_view(), stream);
    let args = Args::default().read(x, stream);
    let args = match layout {
        Layout::Maps { .. } => {
            check::aligned("the maps", x, stream)?;
            check::aligned("the gradient of the maps", &dx.as_view(), stream)?;
            args
        }
        Layout::Tokens { mask, .. } => args.optional(mask, stream),
    };
    let args = with_powers::<T>(args, stream, layout, &pooling, argument, BACKWARD);
    let args = args.read(&saved.left, stream).read(dy, stream).write(dx, stream);
    launch::<T>(kernels, stream, BACKWARD, layout, pooling, pairs, args)
}

/// Whether a lane can take two neighbouring channels of tokens at once: words of 4 bytes.
fn pairs<T: Storage>(layout: Layout<'_>, values: &CudaView<'_, T>, stream: &CudaStream) -> bool {
    let Layout::Tokens { dim, .. } = layout else { return false };
    size_of::<T>() == 2 && dim.is_multiple_of(2) && check::is_multiple_of(4, values, stream)
}

/// What the names of the backward passes' kernels have before the pooling's.
const BACKWARD: &str = "backward_";

/// The powers and GeM's options, for the kernels that take them.
fn with_powers<'a, T: Storage>(
    args: Args<'a>,
    stream: &'a Arc<CudaStream>,
    layout: Layout<'_>,
    pooling: &'a Pooling<'_>,
    argument: GemArgument,
    direction: &str,
) -> Args<'a> {
    match (layout, pooling.powers()) {
        (Layout::Maps { length, .. }, None) if short::<T>(length, pooling, direction).is_none() => args,
        (_, powers) => args.optional(powers, stream).arg(Arg::Gem(argument)),
    }
}

/// Bytes of a row of `kernels/pool_short.cu` at most, at least a vector; its rows to a warp, and warps to a block.
const SHORT_BYTES: usize = 256;
const SHORT_ROWS: usize = 32;
const SHORT_WARPS: usize = 4;

/// Whether maps are short ones, to be done by `kernels/pool_short.cu`, and then the bytes from row to row in shared memory.
fn short<T: Storage>(length: usize, pooling: &Pooling<'_>, direction: &str) -> Option<usize> {
    let bytes = length * size_of::<T>();
    // Its backward pass has one power, and values whose gradient hangs on nothing but themselves.
    let not_back = match pooling {
        Pooling::Gem { p, sign, .. } => direction == BACKWARD && (*sign != Sign::Clamp || p.len() != 1),
        _ => false,
    };
    if !(check::ALIGNMENT..=SHORT_BYTES).contains(&bytes) || not_back {
        return None;
    }
    // Rows of an even number of vectors would all start in the same few banks.
    let apart = if bytes.is_multiple_of(2 * check::ALIGNMENT) { check::ALIGNMENT } else { 0 };
    Some(bytes + apart)
}

fn launch<T: Storage>(
    kernels: &Kernels,
    stream: &Arc<CudaStream>,
    direction: &str,
    layout: Layout<'_>,
    pooling: Pooling<'_>,
    pairs: bool,
    args: Args<'_>,
) -> Result<()> {
    let (kind, suffix) = (pooling.name(), T::SUFFIX);
    match layout {
        Layout::Maps { batch, channels, length } => {
            let rows = batch * channels;
            if let Some(stride) = short::<T>(length, &pooling, direction) {
                let name = format!("pool_short_{direction}{kind}_{suffix}");
                let blocks = rows.div_ceil(SHORT_ROWS * SHORT_WARPS);
                let mut shape = Shape::blocks([blocks, 1, 1], (32 * SHORT_WARPS) as u32);
                let args = args.int(rows).int(length);
                if direction == BACKWARD {
                    return kernels.launch(stream, &name, shape, args);
                }
                let shared = SHORT_WARPS * (SHORT_ROWS * stride + check::ALIGNMENT);
                shape.shared = u32::try_from(shared).unwrap_or(u32::MAX);
                return kernels.launch(stream, &name, shape, args.int(stride));
            }
            let name = format!("pool_maps_{direction}{kind}_{suffix}");
            let args = args.int(rows).int(length);
            let in_vector = check::ALIGNMENT / size_of::<T>();
            match pooling {
                Pooling::Gem { .. } if direction.is_empty() => {
                    let staging = Staging::of(rows, length, in_vector);
                    kernels.launch(stream, &name, staging.shape(rows), args.arg(Arg::Staging(staging)))
                }
                Pooling::Gem { .. } => {
                    let lanes = lanes(covering(length, in_vector));
                    let blocks = rows.div_ceil(GEM_THREADS / lanes);
                    let shape = Shape::blocks([blocks, 1, 1], GEM_THREADS as u32);
                    kernels.launch(stream, &name, shape, args.int(lanes))
                }
                Pooling::Average | Pooling::Maximum => {
                    kernels.launch(stream, &name, Shape::warps(rows), args)
                }
            }
        }
        Layout::Tokens { batch, tokens, dim, .. } => {
            let (of_lane, pairs) = if pairs { (2, "pairs_") } else { (1, "") };
            let shape = Shape::blocks([batch, dim.div_ceil(TOKEN_LANES * of_lane), 1], TOKEN_THREADS);
            let name = format!("pool_tokens_{direction}{pairs}{kind}_{suffix}");
            kernels.launch(stream, &name, shape, args.int(tokens).int(dim))
        }
    }
}

/// `d_p = sum over rows of dy * d value / d p`, in f64 and in a fixed order.
fn sum_d_p<T: Storage>(
    kernels: &Kernels,
    stream: &Arc<CudaStream>,
    saved: &Saved,
    dy: &CudaView<'_, T>,
    powers: usize,
    d_p: &mut CudaViewMut<'_, f32>,
) -> Result<()> {
    let of_power = saved.len / powers.max(1);
    let share = of_power.div_ceil(SUM_BLOCKS).max(SUM_SHARE);
    let blocks = of_power.div_ceil(share).max(1);
    let plane = D_P_PLANE * saved.len;
    let of_p = saved.left.slice(plane..plane + saved.len);
    let mut partial: Scratch<f64> =
        kernels.allocate(stream, blocks * powers, "sums of the powers' gradient")?;
    let args = Args::default()
        .read(&of_p, stream)
        .read(dy, stream)
        .write(&mut partial, stream)
        .int(saved.len)
        .int(powers)
        .int(share);
    let name = format!("pool_d_p_{}", T::SUFFIX);
    kernels.launch(stream, &name, Shape::blocks([blocks, powers, 1], SUM_THREADS), args)?;
    let args = Args::default().read(&partial, stream).write(d_p, stream).int(blocks).int(powers);
    let shape = Shape::blocks([powers.div_ceil(SUM_THREADS as usize), 1, 1], SUM_THREADS);
    kernels.launch(stream, "pool_d_p_total", shape, args)
}
