//! Items without labels, read a block at a time.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use ndarray::Array2;

use super::ahead::Ahead;
use super::npy::Head;
use super::vectors::{check_finite_from, npz_blocks, read_npz_items};
use super::{DataOptions, ImageFiles, Items, exact, folders, parquet, tensors, text};
use crate::{Error, Result};

/// Items that are given out in blocks. No file is in memory as a whole, but for arrays of `.npy` and `.npz` files whose columns
/// run together (Fortran order).
pub struct Stream {
    path: PathBuf,
    from: From,
    /// Items given out.
    given: usize,
}

enum From {
    Memory(Items),
    Rows { file: BufReader<File>, head: Head },
    Csv { records: Box<csv::StringRecordsIntoIter<File>>, column: usize },
    Lines(std::io::Lines<BufReader<File>>),
    Thread(Ahead),
}

impl Stream {
    /// Items that are there already (image files still stay files until their block).
    pub fn of(items: Items) -> Self {
        Self { path: PathBuf::new(), from: From::Memory(items), given: 0 }
    }

    /// Opens a `.npy`, `.npz`, `.safetensors`, `.parquet`, `.csv` or `.txt` file, or a folder of images.
    ///
    /// # Errors
    /// [`Error::Data`] naming the file and what is wrong; another ending.
    pub fn open(path: &Path, options: &DataOptions) -> Result<Self> {
        let file = || File::open(path).map_err(Error::io(path, "opening"));
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        let from = if path.is_dir() {
            let images = folders::images(path)?;
            if images.is_empty() {
                return Err(Error::data(path, "holds no .png, .jpg or .jpeg images"));
            }
            From::Memory(Items::Files(ImageFiles::new(images, options)?))
        } else {
            match ending {
                "npy" => {
                    let mut file = BufReader::new(file()?);
                    let head = Head::read(&mut file).map_err(|e| Error::data(path, e))?;
                    if head.in_row_order() {
                        From::Rows { file, head }
                    } else {
                        From::Memory(Items::Vectors(super::vectors::read_vectors(path)?))
                    }
                }
                "npz" => match npz_blocks(path)? {
                    Some(blocks) => From::Thread(blocks),
                    None => From::Memory(read_npz_items(path)?),
                },
                "parquet" => From::Thread(parquet::item_blocks(path)?),
                // Vectors are read where they lie in the file.
                "safetensors" => match tensors::token_blocks(path)? {
                    Some(blocks) => From::Thread(blocks),
                    None => From::Memory(tensors::read_items(path)?),
                },
                "csv" => {
                    let checked = file()?;
                    // A pipe can be read once only.
                    if checked.metadata().is_ok_and(|metadata| metadata.is_file()) {
                        let bytes = BufReader::new(checked).bytes().map_while(std::io::Result::ok);
                        text::closed_quotes(path, bytes, b',')?;
                    }
                    let mut reader = csv::Reader::from_reader(file()?);
                    let column =
                        text::text_column(path, reader.headers().map_err(|e| text::broken(path, &e))?)?;
                    From::Csv { records: Box::new(reader.into_records()), column }
                }
                "txt" => From::Lines(BufReader::new(file()?).lines()),
                _ => {
                    let detail = "its ending names no kind of items; give .npy, .npz, .safetensors, .parquet, .csv, .txt or a \
                                  folder of images";
                    file()?;
                    return Err(Error::data(path, detail));
                }
            }
        };
        Ok(Self { path: path.to_path_buf(), from, given: 0 })
    }

    /// How many items there are in all, given out or not; `None` where only reading to the end would tell.
    #[expect(clippy::len_without_is_empty, reason = "rarely known")]
    pub fn len(&self) -> Option<usize> {
        match &self.from {
            From::Memory(items) => Some(items.len()),
            From::Rows { head, .. } => head.matrix().ok().map(|[items, _]| items),
            From::Thread(blocks) => blocks.len,
            From::Csv { .. } | From::Lines(_) => None,
        }
    }

    /// The next items, `most` or fewer; `None` at the end.
    ///
    /// # Errors
    /// [`Error::Data`] with the line or row; I/O.
    pub fn next(&mut self, most: usize) -> Result<Option<Items>> {
        let (path, given) = (&self.path, self.given);
        let items = match &mut self.from {
            From::Memory(items) => {
                let rows: Vec<usize> = (given..items.len().min(given.saturating_add(most))).collect();
                items.select(&rows)
            }
            From::Rows { file, head } => {
                let vectors = rows(file, head, given, most).map_err(|e| Error::data(path, e))?;
                Items::Vectors(vectors)
            }
            From::Thread(blocks) => blocks.next(most)?,
            From::Csv { records, column } => {
                let mut texts = Vec::new();
                for record in records.by_ref().take(most) {
                    let record = record.map_err(|e| text::broken(path, &e))?;
                    texts.push(record.get(*column).unwrap_or_default().to_owned());
                }
                Items::Text(texts)
            }
            From::Lines(lines) => {
                let mut texts = Vec::new();
                for (at, line) in (given + 1..).zip(lines.by_ref().take(most)) {
                    let line = line.map_err(|e| match e.kind() {
                        std::io::ErrorKind::InvalidData => {
                            Error::data(path, format!("line {at}: not UTF-8; save the file as UTF-8"))
                        }
                        _ => Error::io(path, "reading")(e),
                    })?;
                    // What some editors begin a file with.
                    texts.push(if at == 1 { line.trim_start_matches('\u{feff}').to_owned() } else { line });
                }
                Items::Text(texts)
            }
        };
        self.given += items.len();
        Ok((!items.is_empty()).then_some(items))
    }
}

/// The next rows of an array; after its last one the file must end.
fn rows(file: &mut BufReader<File>, head: &Head, given: usize, most: usize) -> Result<Array2<f32>, String> {
    let [items, dim] = head.matrix()?;
    let count = most.min(items.saturating_sub(given));
    if count == 0 {
        exact::ended(file)?;
    }
    let vectors = head.rows(file, count, dim).map_err(|e| format!("row {given} and later: {e}"))?;
    check_finite_from(given, vectors.view())?;
    Ok(vectors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Axis, Slice};

    fn all(path: &Path, most: usize) -> Result<Vec<Items>> {
        let mut stream = Stream::open(path, &DataOptions::default())?;
        let len = stream.len();
        assert!(path.extension().is_some_and(|ending| ending == "npy") || len.is_none(), "{len:?}");
        std::iter::from_fn(|| stream.next(most).transpose()).collect()
    }

    #[test]
    fn blocks_are_the_file_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let rows = Array2::from_shape_fn((10, 3), |(i, j)| (i * 3 + j) as f32);
        let path = folder.path().join("x.npy");
        crate::io::write_npy(&path, rows.view()).unwrap();
        let blocks = all(&path, 4).unwrap();
        let expected = [0..4, 4..8, 8..10]
            .map(|range| Items::Vectors(rows.slice_axis(Axis(0), Slice::from(range)).to_owned()));
        assert_eq!(blocks, expected);
        let whole = std::fs::read(&path).unwrap();
        for (bytes, part) in [
            (whole[..whole.len() - 1].to_vec(), "row 8 and later: "),
            ([whole.clone(), vec![0]].concat(), "more data than its header promises"),
            (whole[..20].to_vec(), "promises"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let message = all(&path, 4).unwrap_err().to_string();
            assert!(message.contains(part) && message.contains("x.npy"), "{message}");
        }
        let text = |texts: &[&str]| Items::Text(texts.iter().map(|&t| t.to_owned()).collect());
        let path = folder.path().join("x.csv");
        std::fs::write(&path, "id,text\n1,\"a, b\"\n2,c\n3,d\n").unwrap();
        assert_eq!(all(&path, 2).unwrap(), [text(&["a, b", "c"]), text(&["d"])]);
        std::fs::write(&path, "id,text\n1,a\n2\n").unwrap();
        assert!(all(&path, 2).unwrap_err().to_string().contains("line 3 has 1 columns"));
        std::fs::write(&path, "id,text\n1,a\n2,\"b\n3,c\n").unwrap();
        assert!(all(&path, 2).unwrap_err().to_string().contains("line 3: the quote that opens there"));
        std::fs::write(&path, "id,mood\n1,a\n").unwrap();
        assert!(all(&path, 2).unwrap_err().to_string().contains("no text column"));
        let path = folder.path().join("x.txt");
        std::fs::write(&path, "one\r\ntwo\n").unwrap();
        assert_eq!(all(&path, 9).unwrap(), [text(&["one", "two"])]);
        std::fs::write(&path, "\u{feff}one\ntwo\n").unwrap();
        assert_eq!(all(&path, 9).unwrap(), [text(&["one", "two"])]);
        std::fs::write(&path, b"one\n\xff\n").unwrap();
        assert!(all(&path, 9).unwrap_err().to_string().contains("line 2: not UTF-8"));
        std::fs::write(folder.path().join("x.dat"), "").unwrap();
        assert!(all(&folder.path().join("x.dat"), 1).unwrap_err().to_string().contains("its ending names"));
        assert!(all(&folder.path().join("y.dat"), 1).unwrap_err().to_string().contains("opening failed"));
    }
}
