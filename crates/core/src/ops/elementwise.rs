//! Addition, multiplication, activations and dropout.

use ndarray::ArrayD;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::{array, contiguous, shape_error, slice, standard};
use crate::{Error, Grad, Pool, Result, Value, Var, simd};

/// Elements of one task.
pub(super) const BLOCK: usize = 1 << 14;

/// `update(y, x)` for blocks of two slices of one length, in parallel. Compiled once, for all that is done with blocks.
fn in_blocks(y: &mut [f32], x: &[f32], update: &(dyn Fn(&mut [f32], &[f32]) + Sync)) {
    y.par_chunks_mut(BLOCK).zip(x.par_chunks(BLOCK)).for_each(|(y, x)| update(y, x));
}

/// What is done with a block of a value and the same blocks of two operands.
type WithTwo<'u> = dyn Fn(&mut [f32], &[f32], &[f32]) + Sync + 'u;

/// [`in_blocks`] for two operands.
fn in_blocks_of_two(c: &mut [f32], a: &[f32], b: &[f32], update: &WithTwo<'_>) {
    let operands = a.par_chunks(BLOCK).zip(b.par_chunks(BLOCK));
    c.par_chunks_mut(BLOCK).zip(operands).for_each(|(c, (a, b))| update(c, a, b));
}

/// Replaces every element of `g` by `f` of it and the element of `other`, of the same shape.
fn zip_in_place(
    op: &'static str,
    g: ArrayD<f32>,
    other: &Value,
    f: impl Fn(f32, f32) -> f32 + Sync,
) -> Result<ArrayD<f32>> {
    let mut g = contiguous(g);
    in_blocks(g.as_slice_mut().unwrap_or_default(), slice(op, other)?, &|g, other| {
        simd::dispatch(
            #[inline(always)]
            || g.iter_mut().zip(other).for_each(|(g, &other)| *g = f(*g, other)),
        );
    });
    Ok(g)
}

/// Replaces every element of `g` by `f` of it.
fn map_in_place(g: ArrayD<f32>, f: impl Fn(f32) -> f32 + Sync) -> ArrayD<f32> {
    let mut g = contiguous(g);
    g.as_slice_mut().unwrap_or_default().par_chunks_mut(BLOCK).for_each(|g| {
        simd::dispatch(
            #[inline(always)]
            || g.iter_mut().for_each(|g| *g = f(*g)),
        );
    });
    g
}

/// `f` of the elements of two values of one shape, in a buffer of the pool.
fn zip(
    op: &'static str,
    pool: &Pool,
    a: &Value,
    b: &Value,
    f: impl Fn(f32, f32) -> f32 + Sync,
) -> Result<ArrayD<f32>> {
    let (a, b) = (standard(a), standard(b));
    let mut c = pool.take(a.len());
    in_blocks_of_two(&mut c, slice(op, &a)?, slice(op, &b)?, &|c, a, b| {
        simd::dispatch(
            #[inline(always)]
            || c.iter_mut().zip(a.iter().zip(b)).for_each(|(c, (&a, &b))| *c = f(a, b)),
        );
    });
    array(op, a.shape(), c)
}

/// The gradient as it is for the first operand, and `f` of it for the second where that is `wanted`.
fn with_second(
    op: &'static str,
    pool: &Pool,
    g: ArrayD<f32>,
    wanted: bool,
    f: impl Fn(f32) -> f32 + Sync,
) -> Result<[Option<Grad>; 2]> {
    let g = g.into_shared();
    let second = wanted.then(|| zip(op, pool, &g, &g, |g, _| f(g))).transpose()?;
    Ok([Some(Grad::Dense(g.into_owned())), second.map(Grad::Dense)])
}

// `add`, `sub` and `mul` can fail, which the operators' traits cannot express.
#[allow(clippy::should_implement_trait)]
impl<'t> Var<'t> {
    fn same_shape(self, op: &'static str, other: Var<'t>) -> Result<()> {
        if self.shape() == other.shape() {
            return Ok(());
        }
        Err(shape_error(op, format!("{:?}, the first operand's shape", self.shape()), &other.shape()))
    }

    /// `f` of every element, in a buffer of the pool.
    fn map(self, op: &'static str, f: impl Fn(f32) -> f32 + Sync) -> Result<ArrayD<f32>> {
        let x = standard(&self.value());
        let mut y = self.tape().pool().take(x.len());
        in_blocks(&mut y, slice(op, &x)?, &|y, x| {
            simd::dispatch(
                #[inline(always)]
                || y.iter_mut().zip(x).for_each(|(y, &x)| *y = f(x)),
            );
        });
        array(op, x.shape(), y)
    }

    /// Sum of two values of one shape.
    ///
    /// # Errors
    /// Shapes that differ.
    pub fn add(self, other: Var<'t>) -> Result<Var<'t>> {
        self.same_shape("add", other)?;
        let value = zip("add", self.tape().pool(), &self.value(), &other.value(), |a, b| a + b)?;
        let pool = self.tape().pool().clone();
        self.tape().record("add", [self, other], value, move |g, [_, second]| {
            with_second("add", &pool, g, second, |g| g)
        })
    }

    /// Difference of two values of one shape.
    ///
    /// # Errors
    /// Shapes that differ.
    pub fn sub(self, other: Var<'t>) -> Result<Var<'t>> {
        self.same_shape("sub", other)?;
        let value = zip("sub", self.tape().pool(), &self.value(), &other.value(), |a, b| a - b)?;
        let pool = self.tape().pool().clone();
        self.tape().record("sub", [self, other], value, move |g, [_, second]| {
            with_second("sub", &pool, g, second, |g| -g)
        })
    }

    /// Elementwise product of two values of one shape.
    ///
    /// # Errors
    /// Shapes that differ.
    pub fn mul(self, other: Var<'t>) -> Result<Var<'t>> {
        self.same_shape("mul", other)?;
        let (a, b) = (standard(&self.value()), standard(&other.value()));
        let value = zip("mul", self.tape().pool(), &a, &b, |a, b| a * b)?;
        let pool = self.tape().pool().clone();
        self.tape().record("mul", [self, other], value, move |g, [first, second]| {
            let g = g.into_shared();
            let to_second = second.then(|| zip("mul", &pool, &g, &a, |g, a| g * a)).transpose()?;
            let to_first =
                first.then(|| zip_in_place("mul", g.into_owned(), &b, |g, b| g * b)).transpose()?;
            Ok([to_first.map(Grad::Dense), to_second.map(Grad::Dense)])
        })
    }

    /// Product with a constant.
    ///
    /// # Errors
    /// None of its own.
    pub fn scale(self, factor: f32) -> Result<Var<'t>> {
        let value = self.map("scale", |v| v * factor)?;
        self.tape().record("scale", [self], value, move |g, _| {
            Ok([Some(Grad::Dense(map_in_place(g, |g| g * factor)))])
        })
    }

    /// `max(x, 0)`; the gradient at 0 is 0. NaN passes through.
    ///
    /// # Errors
    /// None of its own.
    pub fn relu(self) -> Result<Var<'t>> {
        let value = self.map("relu", |v| if v < 0.0 { 0.0 } else { v })?.into_shared();
        let kept = value.clone();
        self.tape().record("relu", [self], value, move |g, _| {
            let dx = zip_in_place("relu", g, &kept, |g, y| if y <= 0.0 { 0.0 } else { g })?;
            Ok([Some(Grad::Dense(dx))])
        })
    }

    /// `x Phi(x)` with the exact normal distribution function (Hendrycks and Gimpel 2016, arXiv:1606.08415), not
    /// the tanh approximation.
    ///
    /// # Errors
    /// None of its own.
    pub fn gelu(self) -> Result<Var<'t>> {
        let x = standard(&self.value());
        let value = self.map("gelu", |v| (f64::from(v) * normal_cdf(f64::from(v))) as f32)?;
        self.tape().record("gelu", [self], value, move |g, _| {
            let dx = zip_in_place("gelu", g, &x, |g, x| {
                let x = f64::from(x);
                let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
                (f64::from(g) * (normal_cdf(x) + x * density)) as f32
            })?;
            Ok([Some(Grad::Dense(dx))])
        })
    }

    /// Sets each element to 0 with probability `p` and divides the others by `1 - p`. The mask is a function of
    /// `seed` alone.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `0 <= p < 1`.
    pub fn dropout(self, p: f32, seed: u64) -> Result<Var<'t>> {
        if !(0.0..1.0).contains(&p) {
            return Err(Error::Parameter {
                op: "dropout",
                name: "p",
                value: p.to_string(),
                expected: "a probability in [0, 1)".into(),
            });
        }
        if p == 0.0 {
            return Ok(self);
        }
        let (random, keep) = (ChaCha8Rng::seed_from_u64(seed), 1.0 / (1.0 - p));
        let x = standard(&self.value());
        let (pool, length) = (self.tape().pool(), x.len());
        let (mut mask, mut value) = (pool.take(length), pool.take(length));
        let blocks = mask.par_chunks_mut(BLOCK).zip(value.par_chunks_mut(BLOCK));
        blocks.zip(slice("dropout", &x)?.par_chunks(BLOCK)).enumerate().for_each(
            |(at, ((mask, value), x))| {
                // A number takes one word of the stream: a block begins where the one before it ends.
                let mut random = random.clone();
                random.set_word_pos((at * BLOCK) as u128);
                mask.iter_mut().for_each(|m| *m = if random.random::<f32>() < p { 0.0 } else { keep });
                value.iter_mut().zip(&*mask).zip(x).for_each(|((value, m), x)| *value = x * m);
            },
        );
        let mask = array("dropout", x.shape(), mask)?.into_shared();
        self.tape().record("dropout", [self], array("dropout", x.shape(), value)?, move |g, _| {
            Ok([Some(Grad::Dense(zip_in_place("dropout", g, &mask, |g, m| g * m)?))])
        })
    }
}

/// The normal distribution function by the complementary error function of Numerical Recipes (section 6.2.2,
/// "erfccheb"'s rational predecessor; fractional error below 1.2e-7, that is below one f32 ulp of the result).
fn normal_cdf(x: f64) -> f64 {
    let z = x.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * z);
    const C: [f64; 10] = [
        -1.265_512_23,
        1.000_023_68,
        0.374_091_96,
        0.096_784_18,
        -0.186_288_06,
        0.278_868_07,
        -1.135_203_98,
        1.488_515_87,
        -0.822_152_23,
        0.170_872_77,
    ];
    let polynomial = C.iter().rev().fold(0.0, |sum, c| sum * t + c);
    let upper = 0.5 * t * (-z * z + polynomial).exp();
    if x >= 0.0 { 1.0 - upper } else { upper }
}
