//! Addition, multiplication, activations and dropout.

use ndarray::ArrayD;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::{array, contiguous, shape_error, slice, standard};
use crate::{Error, Grad, Result, Value, Var, simd};

/// Elements of one task.
pub(super) const BLOCK: usize = 1 << 14;

/// Replaces every element of `g` by `f` of it and the element of `other`, of the same shape.
fn zip_in_place(
    op: &'static str,
    g: ArrayD<f32>,
    other: &Value,
    f: impl Fn(f32, f32) -> f32 + Sync,
) -> Result<ArrayD<f32>> {
    let mut g = contiguous(g);
    let blocks = g.as_slice_mut().unwrap_or_default().par_chunks_mut(BLOCK);
    blocks.zip(slice(op, other)?.par_chunks(BLOCK)).for_each(|(g, other)| {
        simd::dispatch(
            #[inline(always)]
            || g.iter_mut().zip(other).for_each(|(g, &other)| *g = f(*g, other)),
        );
    });
    Ok(g)
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
        let blocks = y.par_chunks_mut(BLOCK).zip(slice(op, &x)?.par_chunks(BLOCK));
        blocks.for_each(|(y, x)| {
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
        let value = &self.value() + &other.value();
        self.tape().record("add", [self, other], value, |g, [_, second]| {
            let copy = second.then(|| Grad::Dense(g.clone()));
            Ok([Some(Grad::Dense(g)), copy])
        })
    }

    /// Difference of two values of one shape.
    ///
    /// # Errors
    /// Shapes that differ.
    pub fn sub(self, other: Var<'t>) -> Result<Var<'t>> {
        self.same_shape("sub", other)?;
        let value = &self.value() - &other.value();
        self.tape().record("sub", [self, other], value, |g, [_, second]| {
            let negative = second.then(|| Grad::Dense(g.mapv(|v| -v)));
            Ok([Some(Grad::Dense(g)), negative])
        })
    }

    /// Elementwise product of two values of one shape.
    ///
    /// # Errors
    /// Shapes that differ.
    pub fn mul(self, other: Var<'t>) -> Result<Var<'t>> {
        self.same_shape("mul", other)?;
        let (a, b) = (self.value(), other.value());
        let value = &a * &b;
        self.tape().record("mul", [self, other], value, move |g, [first, second]| {
            let to_second = second.then(|| Grad::Dense(&g * &a));
            Ok([first.then(|| Grad::Dense(g * &b)), to_second])
        })
    }

    /// Product with a constant.
    ///
    /// # Errors
    /// None of its own.
    pub fn scale(self, factor: f32) -> Result<Var<'t>> {
        let value = self.map("scale", |v| v * factor)?;
        self.tape().record("scale", [self], value, move |g, _| Ok([Some(Grad::Dense(g * factor))]))
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
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let keep = 1.0 / (1.0 - p);
        let mut value = self.value().into_owned();
        let mut mask = value.clone();
        mask.mapv_inplace(|_| if random.random::<f32>() < p { 0.0 } else { keep });
        value *= &mask;
        self.tape().record("dropout", [self], value, move |g, _| Ok([Some(Grad::Dense(g * &mask))]))
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
