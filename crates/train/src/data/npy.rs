//! NumPy's `.npy` arrays (format versions 1 to 3: numpy/lib/format.py) of the types that vectors and labels have.

use std::io::Read;

use embedtune_retrieval::{NpyHeader, Number};
use ndarray::{Array2, Array3, ShapeBuilder};

use super::exact;
use super::vectors::check_finite;

/// What stands before an array's data.
pub(super) struct Head {
    /// NumPy's name of the type: byte order, kind, width; e.g. `<f4`.
    descr: String,
    shape: Vec<usize>,
    fortran: bool,
    /// Bytes of an element.
    width: usize,
    /// Bytes before the data.
    start: u64,
}

impl Head {
    /// Reads a header and nothing behind it.
    ///
    /// # Errors
    /// In words, without the file's name.
    pub(super) fn read(from: &mut impl Read) -> Result<Self, String> {
        let NpyHeader { descr, fortran, shape, start } = NpyHeader::read(from)?;
        let number = descr.get(1..2).filter(|kind| ["i", "u", "f", "b"].contains(kind));
        let width = number.and_then(|_| descr.get(2..)?.parse().ok()).filter(|w| (1..=16).contains(w));
        let Some(width) = width else {
            return Err(format!("its type is {descr}, not a plain number; convert it with .astype"));
        };
        exact::size(&shape, width)?;
        Ok(Self { descr, shape, fortran, width, start })
    }

    /// Whether rows lie one after another, so that some can be read without the others.
    pub(super) fn in_row_order(&self) -> bool {
        !self.fortran
    }

    /// Where the data begin, and how each number of them is written.
    ///
    /// # Errors
    /// In words: a type that vectors do not have; a file of `bytes` bytes that does not end where the data do.
    pub(super) fn place(&self, bytes: u64) -> Result<(u64, Number), String> {
        let number = Number::of_npy(&self.descr).ok_or_else(|| self.no_vectors())?;
        exact::length(bytes.saturating_sub(self.start), exact::size(&self.shape, self.width)?)?;
        Ok((self.start, number))
    }

    /// Items and length of vectors.
    ///
    /// # Errors
    /// In words: another shape.
    pub(super) fn matrix(&self) -> Result<[usize; 2], String> {
        match *self.shape.as_slice() {
            [items, dim] if dim > 0 => Ok([items, dim]),
            _ => Err(self.no_vectors()),
        }
    }

    fn no_vectors(&self) -> String {
        if let [_, 0] = self.shape.as_slice() {
            return format!("its shape is {:?}: vectors need at least one column", self.shape);
        }
        format!(
            "expected vectors [items, dim] of type float32, float64 or little-endian float16; got {} of shape {:?}; convert them, e.g. with \
             .astype('float32')",
            self.descr, self.shape
        )
    }

    /// Items, tokens of each and length of a token's vector.
    ///
    /// # Errors
    /// In words: another shape.
    pub(super) fn cube(&self) -> Result<[usize; 3], String> {
        match *self.shape.as_slice() {
            [items, tokens, dim] if tokens > 0 && dim > 0 => Ok([items, tokens, dim]),
            _ => Err(self.no_tokens()),
        }
    }

    fn no_tokens(&self) -> String {
        format!(
            "expected tokens [items, tokens, dim] of type float32, float64 or little-endian float16; got {} of shape {:?}",
            self.descr, self.shape
        )
    }

    /// Refuses all but a mask of this shape, row by row.
    ///
    /// # Errors
    /// In words.
    pub(super) fn is_mask(&self, shape: [usize; 2]) -> Result<(), String> {
        if self.shape == shape && !self.fortran {
            return Ok(());
        }
        Err(format!("expected a mask of shape {shape:?} in row order; got shape {:?}", self.shape))
    }

    /// The next `count` numbers.
    ///
    /// # Errors
    /// In words: another type; fewer bytes.
    pub(super) fn values(&self, from: &mut impl Read, count: usize) -> Result<Vec<f32>, String> {
        let expected = exact::size(&[count], self.width)?;
        let bytes = exact::bytes(from.by_ref().take(expected), expected)?;
        floats(&self.descr, &bytes).ok_or_else(|| self.no_tokens())
    }

    /// The next `count` flags of a mask.
    ///
    /// # Errors
    /// In words: fewer bytes.
    pub(super) fn flags(&self, from: &mut impl Read, count: usize) -> Result<Vec<bool>, String> {
        let expected = exact::size(&[count], self.width)?;
        let bytes = exact::bytes(from.by_ref().take(expected), expected)?;
        Ok(flags(&bytes, self.width))
    }

    /// The next `count` vectors of length `dim`.
    ///
    /// # Errors
    /// In words: another type; fewer bytes.
    pub(super) fn rows(&self, from: &mut impl Read, count: usize, dim: usize) -> Result<Array2<f32>, String> {
        let expected = exact::size(&[count, dim], self.width)?;
        let bytes = exact::bytes(from.by_ref().take(expected), expected)?;
        let values = floats(&self.descr, &bytes).ok_or_else(|| self.no_vectors())?;
        Array2::from_shape_vec((count, dim), values).map_err(|e| e.to_string())
    }
}

/// An array as it stands in the file.
pub(super) struct Npy {
    head: Head,
    bytes: Vec<u8>,
}

impl Npy {
    /// Reads one array to the end of `from`.
    ///
    /// # Errors
    /// In words, without the file's name.
    pub(super) fn read(mut from: impl Read) -> Result<Self, String> {
        let head = Head::read(&mut from)?;
        let bytes = exact::bytes(from, exact::size(&head.shape, head.width)?)?;
        Ok(Self { head, bytes })
    }

    /// As vectors, `[items, dim]`.
    ///
    /// # Errors
    /// In words: another type or shape; a value that is not finite, with its row and column.
    pub(super) fn vectors(&self) -> Result<Array2<f32>, String> {
        let values = floats(&self.head.descr, &self.bytes);
        let [items, dim] = self.head.matrix()?;
        let values = values.ok_or_else(|| self.head.no_vectors())?;
        let shape = (items, dim).set_f(self.head.fortran);
        let vectors = Array2::from_shape_vec(shape, values).map_err(|e| e.to_string())?;
        check_finite(vectors.view())?;
        Ok(if vectors.is_standard_layout() { vectors } else { vectors.as_standard_layout().into_owned() })
    }

    /// As token vectors, `[items, tokens, dim]`; values are not looked at.
    ///
    /// # Errors
    /// In words: another type or shape.
    pub(super) fn tokens(&self) -> Result<Array3<f32>, String> {
        let (&[items, tokens, dim], Some(values)) =
            (self.head.shape.as_slice(), floats(&self.head.descr, &self.bytes))
        else {
            return Err(self.head.no_tokens());
        };
        let shape = (items, tokens, dim).set_f(self.head.fortran);
        let values = Array3::from_shape_vec(shape, values).map_err(|e| e.to_string())?;
        Ok(values.as_standard_layout().into_owned())
    }

    /// As a mask, `[items, tokens]`, row by row: a byte or a boolean for each token, or a wider number.
    ///
    /// # Errors
    /// In words: another shape or order.
    pub(super) fn mask(&self) -> Result<Vec<bool>, String> {
        let (&[_, _], false) = (self.head.shape.as_slice(), self.head.fortran) else {
            return Err(format!(
                "expected a mask [items, tokens] in row order; got shape {:?}",
                self.head.shape
            ));
        };
        Ok(flags(&self.bytes, self.head.width))
    }

    /// As labels, `[items]`.
    ///
    /// # Errors
    /// In words: another type or shape; a label below 0 or above 4,294,967,295, with its row.
    pub(super) fn labels(&self) -> Result<Vec<u32>, String> {
        let order = self.head.descr.get(..1).unwrap_or_default();
        let wide: Option<Vec<i128>> = match (order, self.head.descr.get(1..).unwrap_or_default()) {
            (_, "u1") => Some(self.each(|b| u8::from_le_bytes(b).into())),
            (_, "i1") => Some(self.each(|b| i8::from_le_bytes(b).into())),
            ("<", "u2") => Some(self.each(|b| u16::from_le_bytes(b).into())),
            (">", "u2") => Some(self.each(|b| u16::from_be_bytes(b).into())),
            ("<", "i2") => Some(self.each(|b| i16::from_le_bytes(b).into())),
            (">", "i2") => Some(self.each(|b| i16::from_be_bytes(b).into())),
            ("<", "u4") => Some(self.each(|b| u32::from_le_bytes(b).into())),
            (">", "u4") => Some(self.each(|b| u32::from_be_bytes(b).into())),
            ("<", "i4") => Some(self.each(|b| i32::from_le_bytes(b).into())),
            (">", "i4") => Some(self.each(|b| i32::from_be_bytes(b).into())),
            ("<", "u8") => Some(self.each(|b| u64::from_le_bytes(b).into())),
            (">", "u8") => Some(self.each(|b| u64::from_be_bytes(b).into())),
            ("<", "i8") => Some(self.each(|b| i64::from_le_bytes(b).into())),
            (">", "i8") => Some(self.each(|b| i64::from_be_bytes(b).into())),
            _ => None,
        };
        let (&[_], Some(wide)) = (self.head.shape.as_slice(), wide) else {
            return Err(format!(
                "expected labels [items] of a whole-number type, e.g. int64; got {} of shape {:?}; convert them",
                self.head.descr, self.head.shape
            ));
        };
        wide.iter()
            .enumerate()
            .map(|(row, &label)| {
                u32::try_from(label).map_err(|_| {
                    format!("label {label} in row {row} is out of range; labels are 0 to {}", u32::MAX)
                })
            })
            .collect()
    }

    fn each<const N: usize, T>(&self, to: impl Fn([u8; N]) -> T) -> Vec<T> {
        each(&self.bytes, to)
    }
}

fn each<const N: usize, T>(bytes: &[u8], to: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks().0.iter().map(|&b| to(b)).collect()
}

/// Which numbers of `width` bytes are not zero: in any type and byte order zero is all bits zero (the sign of a float's zero
/// apart, which no mask has).
fn flags(bytes: &[u8], width: usize) -> Vec<bool> {
    bytes.chunks_exact(width.max(1)).map(|bytes| bytes.iter().any(|&b| b != 0)).collect()
}

/// Numbers of a type that vectors have; `None` for another.
fn floats(descr: &str, bytes: &[u8]) -> Option<Vec<f32>> {
    let number = Number::of_npy(descr)?;
    let mut values = vec![0.0; bytes.len() / number.width()];
    number.convert(bytes, &mut values);
    Some(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::arr2;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend_from_slice(&(header.len() as u16).to_le_bytes());
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(data);
        bytes
    }

    fn header(descr: &str, fortran: &str, shape: &str) -> String {
        format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n")
    }

    #[test]
    fn types_and_orders() {
        let values = [1.5f32, -2.0, 3.0, 4.0, 5.0, 6.0];
        let little: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let wide: Vec<u8> = values.iter().flat_map(|&v| f64::from(v).to_be_bytes()).collect();
        let rows = arr2(&[[1.5, -2.0, 3.0], [4.0, 5.0, 6.0]]);
        let columns = arr2(&[[1.5, 3.0, 5.0], [-2.0, 4.0, 6.0]]);
        for (descr, fortran, data, expected) in [
            ("<f4", "False", &little, &rows),
            ("<f4", "True", &little, &columns),
            (">f8", "False", &wide, &rows),
        ] {
            let npy = Npy::read(file(&header(descr, fortran, "(2, 3)"), data).as_slice()).unwrap();
            assert_eq!(npy.vectors().unwrap(), expected);
            assert!(npy.labels().unwrap_err().contains("expected labels"));
        }
        for (descr, data, expected) in [
            ("|u1", &[7u8, 200][..], [7, 200]),
            (">i2", &[0, 7, 1, 0], [7, 256]),
            ("<u4", &[7, 0, 0, 0, 255, 255, 255, 255], [7, u32::MAX]),
            ("<i8", &[7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], [7, 256]),
        ] {
            let npy = Npy::read(file(&header(descr, "False", "(2,)"), data).as_slice()).unwrap();
            assert_eq!(npy.labels().unwrap(), expected);
        }
    }

    #[test]
    fn files_of_any_real_size_are_read() {
        let of = |shape: &str| Head::read(&mut file(&header("<f4", "False", shape), &[]).as_slice());
        let head = of("(200000000, 512)").unwrap();
        let bytes = head.start + 200_000_000 * 512 * 4;
        assert_eq!(head.place(bytes), Ok((head.start, Number::F32)));
        assert!(head.place(bytes - 1).unwrap_err().contains("promises 409600000000 bytes of data"));
        assert!(of("(99999999999, 512)").err().unwrap().contains("the file is damaged"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let nan = [1.0f32, f32::NAN].map(f32::to_le_bytes).concat();
        let huge = [1.0, 1e300].map(f64::to_le_bytes).concat();
        let good = file(&header("<f4", "False", "(1, 2)"), &nan);
        for (bytes, expected) in [
            (b"PK\x03\x04....".to_vec(), "not a .npy array"),
            (b"\x93NUMPY\x04\x00\x10\x00".to_vec(), "version 4 of the .npy format"),
            (good[..4].to_vec(), "truncated"),
            (good[..40].to_vec(), "promises"),
            (good[..good.len() - 1].to_vec(), "promises 8 bytes of data and 7 are there"),
            ([good.clone(), vec![0]].concat(), "more than the 8 bytes"),
            (good, "row 0, column 1 is NaN"),
            (file(&header("<f8", "False", "(1, 2)"), &huge), "row 0, column 1 is inf as float32"),
            (file(&header("<f4", "False", "(99999999999, 99999999999)"), &[]), "the file is damaged"),
            (file(&header("<f4", "False", "(18446744073709551616, 1)"), &[]), "does not describe"),
            (file(&header("|O", "False", "(1, 2)"), &[0; 16]), "not a plain number"),
            (file("{'descr': [('a', '<f4')], }", &[]), "does not describe"),
            (file(&header("<f4", "False", "(2,)"), &[0; 8]), "got <f4 of shape [2]"),
            (file(&header("<f4", "False", "(2, 0)"), &[]), "at least one column"),
            (file(&header("<U1", "False", "(2,)"), &[0; 8]), "not a plain number"),
            (b"\x93NUMPY\x02\x00\xff\xff\xff\xff".to_vec(), "4294967295 bytes long"),
        ] {
            let message = Npy::read(bytes.as_slice()).and_then(|npy| npy.vectors()).unwrap_err();
            assert!(message.contains(expected), "{message}\nlacks: {expected}");
        }
        let labels = file(&header("|i1", "False", "(2,)"), &[1, 255]);
        let message = Npy::read(labels.as_slice()).unwrap().labels().unwrap_err();
        assert!(message.contains("label -1 in row 1 is out of range"), "{message}");
    }
}
