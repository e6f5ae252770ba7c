//! Vectors, labels, tokens and masks from safetensors files.

use std::path::Path;

use ndarray::{Array2, Array3};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::Items;
use super::sequences::Sequences;
use super::vectors::{LABELS, MASKS, TOKENS, VECTORS, check_finite};
use crate::{Error, Result};

/// Items and their labels from one safetensors file: a tensor `vectors` (or another of [`read_npz`]'s names),
/// `[items, dim]`, or `tokens`, `[items, tokens, dim]`, with an optional `mask` `[items, tokens]`; and `labels`.
/// Vectors may be F16, BF16, F32 or F64, labels any whole numbers, masks whole numbers or booleans.
///
/// # Errors
/// [`Error::Data`] with the tensor's name: a damaged file, a missing tensor, another type or shape, a value that is not
/// finite, a label out of range.
///
/// [`read_npz`]: super::vectors::read_npz
pub fn read_safetensors(path: &Path) -> Result<(Items, Vec<u32>)> {
    let bytes = std::fs::read(path).map_err(Error::io(path, "reading"))?;
    let file = open(path, &bytes)?;
    let items = items(path, &file)?;
    let (name, labels) = find(path, &file, "labels", &LABELS)?;
    Ok((items, numbers(&labels).map_err(|e| Error::data(path, format!("tensor {name}: {e}")))?))
}

/// As [`read_safetensors`], without labels.
///
/// # Errors
/// As there.
pub fn read_items(path: &Path) -> Result<Items> {
    let bytes = std::fs::read(path).map_err(Error::io(path, "reading"))?;
    items(path, &open(path, &bytes)?)
}

fn open<'a>(path: &Path, bytes: &'a [u8]) -> Result<SafeTensors<'a>> {
    SafeTensors::deserialize(bytes)
        .map_err(|e| Error::data(path, format!("not a complete safetensors file ({e}); write it again")))
}

fn items(path: &Path, file: &SafeTensors<'_>) -> Result<Items> {
    let under = |name: &str| {
        let name = name.to_owned();
        move |e: String| Error::data(path, format!("tensor {name}: {e}"))
    };
    if let Some(name) = TOKENS.iter().find(|name| file.tensor(name).is_ok()) {
        let (values, shape) =
            file.tensor(name).map_err(|e| e.to_string()).and_then(|t| floats(&t)).map_err(under(name))?;
        let &[items, tokens, dim] = shape.as_slice() else {
            return Err(under(name)(format!("expected [items, tokens, dim]; got {shape:?}")));
        };
        let mask = match MASKS.iter().find(|name| file.tensor(name).is_ok()) {
            None => vec![true; items.saturating_mul(tokens)],
            Some(name) => file
                .tensor(name)
                .map_err(|e| e.to_string())
                .and_then(|view| flags(&view, [items, tokens]))
                .map_err(under(name))?,
        };
        let values =
            Array3::from_shape_vec((items, tokens, dim), values).map_err(|e| under(name)(e.to_string()))?;
        return Sequences::new(values, &mask).map(Items::Sequences).map_err(under(name));
    }
    let (name, view) = find(path, file, "vectors", &VECTORS)?;
    let (values, shape) = floats(&view).map_err(under(name))?;
    let &[items, dim] = shape.as_slice() else {
        return Err(under(name)(format!("expected vectors [items, dim]; got {shape:?}")));
    };
    if dim == 0 {
        return Err(under(name)("vectors need at least one column".to_owned()));
    }
    let vectors = Array2::from_shape_vec((items, dim), values).map_err(|e| under(name)(e.to_string()))?;
    check_finite(&vectors).map_err(under(name))?;
    Ok(Items::Vectors(vectors))
}

fn find<'a>(
    path: &Path,
    file: &'a SafeTensors<'a>,
    what: &str,
    accepted: &[&'static str],
) -> Result<(&'static str, TensorView<'a>)> {
    let found = accepted.iter().find_map(|name| file.tensor(name).ok().map(|tensor| (*name, tensor)));
    found.ok_or_else(|| {
        let mut names = file.names();
        names.sort_unstable();
        let detail = format!("no tensor of {what}: it holds {names:?}; name it one of {accepted:?}");
        Error::data(path, detail)
    })
}

fn floats(view: &TensorView<'_>) -> Result<(Vec<f32>, Vec<usize>), String> {
    let data = view.data();
    let values = match view.dtype() {
        Dtype::F32 => each(data, f32::from_le_bytes),
        Dtype::F64 => each(data, |b| f64::from_le_bytes(b) as f32),
        Dtype::BF16 => each(data, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)),
        Dtype::F16 => each(data, |b| half(u16::from_le_bytes(b))),
        other => return Err(format!("its type is {other:?}; expected F16, BF16, F32 or F64")),
    };
    Ok((values, view.shape().to_vec()))
}

/// IEEE 754 half precision: its exponent is moved by a product, which also makes its denormals right.
fn half(bits: u16) -> f32 {
    let (sign, rest) = (u32::from(bits & 0x8000) << 16, u32::from(bits & 0x7fff) << 13);
    let value = f32::from_bits(rest) * f32::from_bits((254 - 15) << 23);
    let special = if bits & 0x7c00 == 0x7c00 { f32::from_bits(rest | 0x7f80_0000) } else { value };
    f32::from_bits(special.to_bits() | sign)
}

fn integers(view: &TensorView<'_>) -> Result<Vec<i128>, String> {
    let data = view.data();
    Ok(match view.dtype() {
        Dtype::BOOL | Dtype::U8 => each(data, |b| u8::from_le_bytes(b).into()),
        Dtype::I8 => each(data, |b| i8::from_le_bytes(b).into()),
        Dtype::U16 => each(data, |b| u16::from_le_bytes(b).into()),
        Dtype::I16 => each(data, |b| i16::from_le_bytes(b).into()),
        Dtype::U32 => each(data, |b| u32::from_le_bytes(b).into()),
        Dtype::I32 => each(data, |b| i32::from_le_bytes(b).into()),
        Dtype::U64 => each(data, |b| u64::from_le_bytes(b).into()),
        Dtype::I64 => each(data, |b| i64::from_le_bytes(b).into()),
        other => return Err(format!("its type is {other:?}; expected whole numbers")),
    })
}

fn numbers(view: &TensorView<'_>) -> Result<Vec<u32>, String> {
    if view.shape().len() != 1 {
        return Err(format!("expected labels [items]; got {:?}", view.shape()));
    }
    let wide = integers(view)?;
    wide.into_iter()
        .enumerate()
        .map(|(row, label)| {
            u32::try_from(label).map_err(|_| {
                format!("label {label} in row {row} is out of range; labels are 0 to {}", u32::MAX)
            })
        })
        .collect()
}

fn flags(view: &TensorView<'_>, shape: [usize; 2]) -> Result<Vec<bool>, String> {
    if view.shape() != shape {
        return Err(format!("expected a mask {shape:?}; got {:?}", view.shape()));
    }
    Ok(integers(view)?.into_iter().map(|flag| flag != 0).collect())
}

fn each<const N: usize, T>(data: &[u8], to: impl Fn([u8; N]) -> T) -> Vec<T> {
    data.as_chunks().0.iter().map(|&bytes| to(bytes)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_precision_is_read_exactly() {
        for (bits, value) in [
            (0x0000u16, 0.0f32),
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x0001, 5.960_464_5e-8),
            (0x0400, 6.103_515_6e-5),
            (0x3555, 0.333_251_95),
            (0x7c00, f32::INFINITY),
        ] {
            assert_eq!(half(bits), value, "{bits:#06x}");
        }
        assert!(half(0x7e00).is_nan());
    }
}
