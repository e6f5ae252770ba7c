//! Vectors written as they are computed.

use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use ndarray::ArrayView2;

use crate::io::Pending;
use crate::{Error, Result, io};

/// Bytes of a `.npy` header, and of a safetensors header with its length: room for any number of rows, which is written
/// last.
const HEADER: usize = 128;

/// The file formats of vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum VectorFormat {
    /// NumPy: float32 `[items, dim]`.
    Npy,
    /// Text: a header `item,e0,e1,...`, a line for each item.
    Csv,
    /// One tensor `embeddings`, F32 `[items, dim]`.
    Safetensors,
}

impl VectorFormat {
    /// By the ending of a file's name.
    ///
    /// # Errors
    /// [`Error::Option`] for another ending, and for a folder.
    pub fn of(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Err(Error::option("out", path.display(), "it is a folder: name a file"));
        }
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("npy") => Ok(Self::Npy),
            Some("csv") => Ok(Self::Csv),
            Some("safetensors") => Ok(Self::Safetensors),
            _ => Err(Error::option(
                "out",
                path.display(),
                "its ending names no format of vectors; write a name that ends in .npy, .csv or .safetensors",
            )),
        }
    }
}

/// Writes vectors block by block, all or nothing: until [`finish`](Self::finish) the file keeps what it held.
pub struct VectorWriter {
    to: Pending,
    format: VectorFormat,
    dim: usize,
    rows: usize,
}

impl VectorWriter {
    /// Begins a file of vectors of length `dim`.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn new(path: &Path, format: VectorFormat, dim: usize) -> Result<Self> {
        let mut to = io::begin(path)?;
        match format {
            VectorFormat::Csv => {
                let names: String = (0..dim).map(|column| format!(",e{column}")).collect();
                to.write(format!("item{names}\n").as_bytes())?;
            }
            _ => to.write(&[b' '; HEADER])?,
        }
        Ok(Self { to, format, dim, rows: 0 })
    }

    /// Appends vectors, `[rows, dim]`.
    ///
    /// # Errors
    /// [`Error::Io`]; vectors of another length.
    pub fn push(&mut self, vectors: ArrayView2<'_, f32>) -> Result<()> {
        if vectors.ncols() != self.dim {
            let (got, expected) = (vectors.ncols(), self.dim);
            return Err(Error::Unsuitable(format!("vectors of length {got} in a file of length {expected}")));
        }
        let bytes = match self.format {
            VectorFormat::Csv => {
                let mut text = String::new();
                for (row, vector) in vectors.rows().into_iter().enumerate() {
                    text += &(self.rows + row).to_string();
                    vector.iter().for_each(|value| text += &format!(",{value}"));
                    text.push('\n');
                }
                text.into_bytes()
            }
            _ => vectors.iter().flat_map(|value| value.to_le_bytes()).collect(),
        };
        self.rows += vectors.nrows();
        self.to.write(&bytes)
    }

    /// Completes the file; the number of vectors.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(mut self) -> Result<usize> {
        let (rows, dim) = (self.rows, self.dim);
        let header = match self.format {
            VectorFormat::Csv => Vec::new(),
            VectorFormat::Npy => io::npy_header(rows, dim, HEADER),
            VectorFormat::Safetensors => {
                let end = rows * dim * size_of::<f32>();
                let mut json = format!(
                    r#"{{"embeddings":{{"dtype":"F32","shape":[{rows},{dim}],"data_offsets":[0,{end}]}}}}"#
                );
                let length = HEADER - 8;
                json += &" ".repeat(length.saturating_sub(json.len()));
                [&(length as u64).to_le_bytes(), json.as_bytes()].concat()
            }
        };
        self.to.overwrite_start(&header)?;
        self.to.commit()?;
        Ok(rows)
    }
}

impl Pending {
    fn overwrite_start(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let path = self.named().to_path_buf();
        let file = self.file();
        file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(bytes)).map_err(Error::io(&path, "writing"))
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, Axis, Slice};

    use super::*;
    use crate::data::Items;
    use crate::data::tensors::read_items;
    use crate::data::vectors::read_vectors;

    #[test]
    fn blocks_become_one_file_of_each_format() {
        let folder = tempfile::tempdir().unwrap();
        let rows = Array2::from_shape_fn((10, 3), |(i, j)| i as f32 * 0.1 - j as f32 * 1e-7);
        for name in ["x.npy", "x.csv", "x.safetensors"] {
            let path = folder.path().join(name);
            let mut writer = VectorWriter::new(&path, VectorFormat::of(&path).unwrap(), 3).unwrap();
            for start in [0, 4, 8] {
                writer.push(rows.slice_axis(Axis(0), Slice::from(start..(start + 4).min(10)))).unwrap();
                assert!(!path.exists(), "nothing is there before all is");
            }
            assert!(writer.push(Array2::zeros((1, 2)).view()).is_err());
            assert_eq!(writer.finish().unwrap(), 10);
        }
        assert_eq!(read_vectors(&folder.path().join("x.npy")).unwrap(), rows);
        match read_items(&folder.path().join("x.safetensors")).unwrap() {
            Items::VectorFile(file) => assert_eq!(file.read_all().unwrap(), rows),
            other => panic!("{}", other.kind()),
        }
        let text = std::fs::read_to_string(folder.path().join("x.csv")).unwrap();
        let read: Vec<f32> = text
            .lines()
            .skip(1)
            .flat_map(|line| line.split(',').skip(1).map(|v| v.parse().unwrap()).collect::<Vec<f32>>())
            .collect();
        assert_eq!((text.lines().next(), read), (Some("item,e0,e1,e2"), rows.iter().copied().collect()));
        // A writer that is dropped leaves nothing.
        drop(VectorWriter::new(&folder.path().join("y.npy"), VectorFormat::Npy, 3).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
        assert!(VectorFormat::of(Path::new("x.txt")).unwrap_err().to_string().contains(".npy, .csv"));
    }
}
