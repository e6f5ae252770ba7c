//! `log2` and `exp2` in fewer instructions, of those that AVX-512 alone has: exponent and mantissa apart, tables of 32
//! values in registers, powers of 2.

use std::any::Any;
use std::arch::x86_64::{__m512, __m512i, _MM_MANT_NORM_P75_1P5, _MM_MANT_SIGN_SRC};

use pulp::x86::V4;
use pulp::{Simd, f32x16};

/// By the first five bits of the mantissa: about 1 over the middle of the mantissas in `[0.75, 1.5)` that begin with
/// them; 1 where they touch 1, so that a small logarithm keeps its digits.
const INVERSE: [f32; 32] = inverses();
/// `-log2` of these.
const LOG: [f32; 32] = [
    0.0,
    0.066_089_22,
    0.108_524_43,
    0.149_747_15,
    0.189_824_57,
    0.228_818_66,
    0.266_786_55,
    0.303_780_7,
    0.339_849_98,
    0.375_039_5,
    0.409_390_9,
    0.442_943_5,
    0.475_733_43,
    0.507_794_6,
    0.539_158_8,
    0.569_855_6,
    -0.400_087_12,
    -0.370_643_38,
    -0.341_788_5,
    -0.313_499_48,
    -0.285_754_53,
    -0.258_532_97,
    -0.231_815_6,
    -0.205_584_17,
    -0.179_821_03,
    -0.154_509_89,
    -0.129_635_35,
    -0.105_182_31,
    -0.081_136_7,
    -0.057_485_443,
    -0.034_215_786,
    0.0,
];
/// `log2(1 + r) / r` from -1/64 to 1/32: minimax, relative error 8e-9.
const LOG2: [f32; 4] = [std::f32::consts::LOG2_E, -0.721_349_4, 0.480_952, -0.351_954_04];
/// `2^r` from 0 to 1: minimax, relative error 1.4e-8.
const EXP2: [f32; 7] =
    [1.0, 0.693_147_06, 0.240_229_31, 0.055_485_282, 0.009_675_452, 0.001_246_784_7, 0.000_216_129_15];

const fn inverses() -> [f32; 32] {
    let mut inverses = [1.0; 32];
    let mut at = 1;
    while at < 31 {
        let middle = (65 + 2 * at) as f32 / 64.0;
        inverses[at] = 1.0 / if at < 16 { middle } else { middle / 2.0 };
        at += 1;
    }
    inverses
}

/// These instructions and their vector, if `simd`'s are these; the compiler knows whether they are. (No function is an
/// argument here: a call of one that is not inlined lacks the instructions.)
#[inline(always)]
pub(super) fn from<S: Simd>(simd: S, v: S::f32s) -> Option<(V4, __m512)> {
    let simd = (&simd as &dyn Any).downcast_ref::<V4>()?;
    let v = (&v as &dyn Any).downcast_ref::<f32x16>()?;
    Some((*simd, pulp::cast(*v)))
}

/// The way back.
#[inline(always)]
pub(super) fn to<S: Simd>(v: __m512) -> Option<S::f32s> {
    let v: f32x16 = pulp::cast(v);
    (&v as &dyn Any).downcast_ref::<S::f32s>().copied()
}

/// As `math::log2`.
#[inline(always)]
pub(super) fn log2(simd: V4, u: __m512) -> __m512 {
    let avx = simd.avx512f;
    // The exponent goes up where the mantissa in [1, 2) is not below 1.5; tested at the cut.
    let exponent = avx._mm512_getexp_ps(avx._mm512_mul_ps(u, avx._mm512_set1_ps(4.0 / 3.0)));
    let mantissa = avx._mm512_getmant_ps::<_MM_MANT_NORM_P75_1P5, _MM_MANT_SIGN_SRC>(u);
    // A table looks at the last five bits only.
    let at = avx._mm512_srli_epi32::<18>(pulp::cast(u));
    let r = avx._mm512_fmsub_ps(mantissa, look_up(simd, &INVERSE, at), avx._mm512_set1_ps(1.0));
    avx._mm512_fmadd_ps(horner(simd, r, &LOG2), r, avx._mm512_add_ps(exponent, look_up(simd, &LOG, at)))
}

/// As `math::exp2`.
#[inline(always)]
pub(super) fn exp2(simd: V4, x: __m512) -> __m512 {
    // Towards minus infinity, as `scalef` takes its second argument.
    const DOWN: i32 = 0x09;
    // A result below the normal numbers takes a hundred times as long.
    let x = simd.avx512f._mm512_max_ps(x, simd.avx512f._mm512_set1_ps(-126.0));
    let r = simd.avx512dq._mm512_reduce_ps::<DOWN>(x);
    simd.avx512f._mm512_scalef_ps(horner(simd, r, &EXP2), x)
}

#[inline(always)]
fn look_up(simd: V4, table: &[f32; 32], at: __m512i) -> __m512 {
    let halves: [__m512; 2] = pulp::cast(*table);
    simd.avx512f._mm512_permutex2var_ps(halves[0], at, halves[1])
}

#[inline(always)]
fn horner<const N: usize>(simd: V4, x: __m512, coefficients: &[f32; N]) -> __m512 {
    let mut sum = simd.avx512f._mm512_set1_ps(coefficients[N - 1]);
    let mut i = N - 1;
    while i > 0 {
        i -= 1;
        sum = simd.avx512f._mm512_fmadd_ps(sum, x, simd.avx512f._mm512_set1_ps(coefficients[i]));
    }
    sum
}
