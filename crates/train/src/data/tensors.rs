//! Vectors, labels, tokens and masks from safetensors files.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use embedtune_retrieval::Number;
use ndarray::{Array2, Array3};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::ahead::{self, Ahead, Give};
use super::sequences::Sequences;
use super::vectors::{LABELS, MASKS, TOKENS, VECTORS, check_finite};
use super::{Items, VectorFile, exact};
use crate::{Error, Result};

/// More than any header: safetensors' own limit.
const MOST_HEADER: u64 = 100_000_000;

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
    open_safetensors(path, true)
}

/// As [`read_safetensors`]; unless they are wanted `in_memory`, vectors stay in the file until they are needed.
///
/// # Errors
/// As there.
pub fn open_safetensors(path: &Path, in_memory: bool) -> Result<(Items, Vec<u32>)> {
    let mut file = Tensors::open(path)?;
    let items = file.items(in_memory)?;
    Ok((items, file.labels()?))
}

/// As [`open_safetensors`], without labels; vectors stay in the file.
///
/// # Errors
/// As there.
pub fn read_items(path: &Path) -> Result<Items> {
    Tensors::open(path)?.items(false)
}

/// Sequences of token vectors, block by block; `None` for a file that holds none.
///
/// # Errors
/// As [`read_safetensors`], for what the header tells; the rest with the block.
pub(super) fn token_blocks(path: &Path) -> Result<Option<Ahead>> {
    let file = Tensors::open(path)?;
    let Some(name) = TOKENS.iter().copied().find(|name| file.has(name)) else { return Ok(None) };
    let (start, info) = file.info(name)?;
    let number = number(info.dtype).map_err(|e| file.wrong(name, e))?;
    let &[items, tokens, dim] = info.shape.as_slice() else {
        return Err(file.wrong(name, format!("expected [items, tokens, dim]; got {:?}", info.shape)));
    };
    if tokens == 0 || dim == 0 {
        return Err(
            file.wrong(name, format!("its shape is {:?}; sequences need tokens and columns", info.shape))
        );
    }
    let mask = match MASKS.iter().copied().find(|name| file.has(name)) {
        None => None,
        Some(name) => {
            let (start, info) = file.info(name)?;
            is_mask(&info, [items, tokens]).map_err(|e| file.wrong(name, e))?;
            Some((start, info))
        }
    };
    let owned = path.to_path_buf();
    let read = move |give: &mut Give<'_>| {
        let open = |start: u64| -> Result<File> {
            let mut file = File::open(&owned).map_err(Error::io(&owned, "opening"))?;
            file.seek(SeekFrom::Start(start)).map_err(Error::io(&owned, "reading"))?;
            Ok(file)
        };
        let next = |file: &File, bytes: usize| exact::bytes(file.take(bytes as u64), bytes as u64);
        let of_values = open(start)?;
        let of_mask = mask.as_ref().map(|(start, _)| open(*start)).transpose()?;
        let values = |count: usize| {
            let mut values = vec![0.0; count];
            number.convert(&next(&of_values, count.saturating_mul(number.width()))?, &mut values);
            Ok(values)
        };
        let flags = |count: usize| match (&of_mask, &mask) {
            (Some(file), Some((_, info))) => {
                let width = info.dtype.bitsize() / 8;
                let data = next(file, count.saturating_mul(width))?;
                Ok(integers(&View { info: info.clone(), data })?.into_iter().map(|flag| flag != 0).collect())
            }
            _ => Ok(vec![true; count]),
        };
        ahead::sequences([items, tokens, dim], values, flags, give)
            .map_err(|e| Error::data(&owned, format!("tensor {name}: {e}")))
    };
    Ahead::new(path, Some(items), read).map(Some)
}

/// The labels alone.
///
/// # Errors
/// As [`read_safetensors`].
pub fn read_labels(path: &Path) -> Result<Vec<u32>> {
    Tensors::open(path)?.labels()
}

/// A file whose header has been read.
struct Tensors<'a> {
    path: &'a Path,
    file: File,
    header: Metadata,
    /// Where the data begin.
    start: u64,
}

/// One tensor's bytes.
struct View {
    info: TensorInfo,
    data: Vec<u8>,
}

impl<'a> Tensors<'a> {
    fn open(path: &'a Path) -> Result<Self> {
        let broken = |why: String| {
            Error::data(path, format!("not a complete safetensors file ({why}); write it again"))
        };
        let file = File::open(path).map_err(Error::io(path, "opening"))?;
        let length = file.metadata().map_err(Error::io(path, "reading"))?.len();
        let mut from = BufReader::new(&file);
        let mut size = [0u8; 8];
        from.read_exact(&mut size).map_err(|e| broken(exact::reason(&e)))?;
        let size = u64::from_le_bytes(size);
        if size > MOST_HEADER {
            return Err(broken(format!("its header is said to be {size} bytes long")));
        }
        let mut text = Vec::new();
        from.take(size).read_to_end(&mut text).map_err(|e| broken(exact::reason(&e)))?;
        if (text.len() as u64) < size {
            return Err(broken("it ends in its header".to_owned()));
        }
        // Checks that the tensors lie one behind the other and are as long as their shapes say.
        let header: Metadata = serde_json::from_slice(&text).map_err(|e| broken(e.to_string()))?;
        let start = 8 + size;
        let (got, expected) = (length.saturating_sub(start), header.data_len() as u64);
        if got != expected {
            return Err(broken(format!("its header promises {expected} bytes of data and {got} are there")));
        }
        Ok(Self { path, file, header, start })
    }

    fn wrong(&self, name: &str, detail: impl std::fmt::Display) -> Error {
        Error::data(self.path, format!("tensor {name}: {detail}"))
    }

    fn has(&self, name: &str) -> bool {
        self.header.info(name).is_some()
    }

    fn find(&self, what: &str, accepted: &[&'static str]) -> Result<&'static str> {
        accepted.iter().copied().find(|name| self.has(name)).ok_or_else(|| {
            let mut names = self.header.offset_keys();
            names.sort_unstable();
            let detail = format!("no tensor of {what}: it holds {names:?}; name it one of {accepted:?}");
            Error::data(self.path, detail)
        })
    }

    /// The place, type and shape of a tensor that is there.
    fn info(&self, name: &str) -> Result<(u64, TensorInfo)> {
        let info = self.header.info(name).ok_or_else(|| self.wrong(name, "it is not there"))?.clone();
        Ok((self.start + info.data_offsets.0 as u64, info))
    }

    fn read(&mut self, name: &str) -> Result<View> {
        let (start, info) = self.info(name)?;
        let bytes = (info.data_offsets.1 - info.data_offsets.0) as u64;
        self.file.seek(SeekFrom::Start(start)).map_err(Error::io(self.path, "reading"))?;
        let data = exact::bytes((&self.file).take(bytes), bytes).map_err(|e| self.wrong(name, e))?;
        Ok(View { info, data })
    }

    fn items(&mut self, in_memory: bool) -> Result<Items> {
        if let Some(name) = TOKENS.iter().copied().find(|name| self.has(name)) {
            return self.sequences(name);
        }
        let name = self.find("vectors", &VECTORS)?;
        let (start, info) = self.info(name)?;
        let number = number(info.dtype).map_err(|e| self.wrong(name, e))?;
        let &[items, dim] = info.shape.as_slice() else {
            return Err(self.wrong(name, format!("expected vectors [items, dim]; got {:?}", info.shape)));
        };
        if dim == 0 {
            return Err(self.wrong(name, "vectors need at least one column"));
        }
        if !in_memory && self.file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            return match VectorFile::open(self.path, start, [items, dim], number) {
                Err(Error::Data { detail, .. }) => Err(self.wrong(name, detail)),
                opened => opened.map(Items::VectorFile),
            };
        }
        let values = floats(&self.read(name)?).map_err(|e| self.wrong(name, e))?;
        let vectors = Array2::from_shape_vec((items, dim), values).map_err(|e| self.wrong(name, e))?;
        check_finite(vectors.view()).map_err(|e| self.wrong(name, e))?;
        Ok(Items::Vectors(vectors))
    }

    fn sequences(&mut self, name: &str) -> Result<Items> {
        let view = self.read(name)?;
        let values = floats(&view).map_err(|e| self.wrong(name, e))?;
        let &[items, tokens, dim] = view.info.shape.as_slice() else {
            return Err(self.wrong(name, format!("expected [items, tokens, dim]; got {:?}", view.info.shape)));
        };
        let mask = match MASKS.iter().copied().find(|name| self.has(name)) {
            None => vec![true; items.saturating_mul(tokens)],
            Some(name) => flags(&self.read(name)?, [items, tokens]).map_err(|e| self.wrong(name, e))?,
        };
        let values = Array3::from_shape_vec((items, tokens, dim), values).map_err(|e| self.wrong(name, e))?;
        Sequences::new(values, &mask).map(Items::Sequences).map_err(|e| self.wrong(name, e))
    }

    fn labels(&mut self) -> Result<Vec<u32>> {
        let name = self.find("labels", &LABELS)?;
        numbers(&self.read(name)?).map_err(|e| self.wrong(name, e))
    }
}

/// How a tensor's numbers are written.
fn number(dtype: Dtype) -> Result<Number, String> {
    match dtype {
        Dtype::F32 => Ok(Number::F32),
        Dtype::F64 => Ok(Number::F64),
        Dtype::BF16 => Ok(Number::Bf16),
        Dtype::F16 => Ok(Number::F16),
        other => Err(format!("its type is {other:?}; expected F16, BF16, F32 or F64")),
    }
}

fn floats(view: &View) -> Result<Vec<f32>, String> {
    let number = number(view.info.dtype)?;
    let mut values = vec![0.0; view.data.len() / number.width()];
    number.convert(&view.data, &mut values);
    Ok(values)
}

fn integers(view: &View) -> Result<Vec<i128>, String> {
    let data = &view.data;
    Ok(match view.info.dtype {
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

fn numbers(view: &View) -> Result<Vec<u32>, String> {
    if view.info.shape.len() != 1 {
        return Err(format!("expected labels [items]; got {:?}", view.info.shape));
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

fn is_mask(info: &TensorInfo, shape: [usize; 2]) -> Result<(), String> {
    if info.shape == shape { Ok(()) } else { Err(format!("expected a mask {shape:?}; got {:?}", info.shape)) }
}

fn flags(view: &View, shape: [usize; 2]) -> Result<Vec<bool>, String> {
    is_mask(&view.info, shape)?;
    Ok(integers(view)?.into_iter().map(|flag| flag != 0).collect())
}

fn each<const N: usize, T>(data: &[u8], to: impl Fn([u8; N]) -> T) -> Vec<T> {
    data.as_chunks().0.iter().map(|&bytes| to(bytes)).collect()
}
