//! Vectors or texts with labels from the columns of a Parquet file.

#[cfg(feature = "parquet")]
mod levels;
#[cfg(feature = "parquet")]
mod source;

use std::path::Path;

use super::Items;
use super::ahead::Ahead;
use super::text::Table;
use crate::Result;

/// Labels as a file gives them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Labels {
    /// Whole numbers.
    Numbers(Vec<u32>),
    /// Names.
    Names(Vec<String>),
}

/// Items with their labels from one Parquet file (feature `parquet`), read as a whole. The columns are found by name: a column
/// `vector` (or `vectors`, `embedding`, `embeddings`, `x`, `data`), a list or fixed-size list of float32 or float64, of one
/// length in all rows; or else a column `text` (or `query`, `sentence`, `item`, `utterance`); and a column `label` (or
/// `labels`, `y`, `target`, `targets`, `category`, `intent`, `class`) of whole numbers or of names. Other columns are left
/// alone. Uncompressed, Snappy, gzip and LZ4 pages are read.
///
/// # Errors
/// [`Error::Data`](crate::Error::Data) naming the column and, where it is in one, the row (from 0): a missing column, another
/// type, a null, vectors of different lengths, a value that is not finite, a label out of range; a damaged file; a build
/// without the feature.
pub fn read(path: &Path) -> Result<(Items, Labels)> {
    imp::read(path)
}

/// As [`read`], without labels.
///
/// # Errors
/// As there.
pub fn read_items(path: &Path) -> Result<Items> {
    imp::read_items(path)
}

/// As [`read_items`], block by block.
///
/// # Errors
/// As there, with the block.
pub(super) fn item_blocks(path: &Path) -> Result<Ahead> {
    let owned = path.to_path_buf();
    Ahead::new(path, imp::rows(path)?, move |give| imp::item_blocks(&owned, give))
}

/// Pairs of texts, by the names that columns have in CSV files ([`super::text::read_table`]); with the score of each where the
/// file has a column of scores. `None` where the file has vectors, or texts with labels.
///
/// # Errors
/// As [`read`]; an empty text, a score that is not finite.
pub fn read_pairs(path: &Path) -> Result<Option<Table>> {
    imp::read_pairs(path)
}

#[cfg(not(feature = "parquet"))]
mod imp {
    use std::path::Path;

    use super::{Items, Labels, Table};
    use crate::{Error, Result};

    pub(super) fn read(path: &Path) -> Result<(Items, Labels)> {
        Err(Error::data(path, "this build reads no Parquet; build it with the feature `parquet`"))
    }

    pub(super) fn read_items(path: &Path) -> Result<Items> {
        read(path).map(|(items, _)| items)
    }

    pub(super) fn read_pairs(path: &Path) -> Result<Option<Table>> {
        read(path).map(|_| None)
    }

    pub(super) fn rows(path: &Path) -> Result<Option<usize>> {
        read(path).map(|_| None)
    }

    pub(super) fn item_blocks(path: &Path, _: &mut super::super::ahead::Give<'_>) -> Result<()> {
        read(path).map(drop)
    }
}

#[cfg(feature = "parquet")]
mod imp {
    use std::fs::File;
    use std::panic::AssertUnwindSafe;
    use std::path::Path;

    use ndarray::Array2;
    use parquet::basic::{ConvertedType, LogicalType, Type};
    use parquet::column::reader::ColumnReader;
    use parquet::data_type::ByteArray;
    use parquet::errors::ParquetError;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::schema::types::ColumnDescriptor;

    use super::super::ahead::Give;
    use super::super::text::{LABEL, LEFT, RIGHT, SCORE, TEXT, Table as Texts};
    use super::super::vectors::{LABELS, VECTORS, check_finite, check_finite_from};
    use super::levels::{Block, Stop, Vectors, blocks, check_scalars};
    use super::source::Source;
    use super::{Items, Labels};
    use crate::{Error, Result};

    /// Names of columns of vectors beside those of arrays.
    const VECTOR: [&str; 2] = ["vector", "embedding"];

    pub(super) fn read(path: &Path) -> Result<(Items, Labels)> {
        guarded(path, || read_all(path))
    }

    /// Some damaged files end in a panic inside the reader (its own checks are asserts), which is an error here.
    fn guarded<T>(path: &Path, read: impl FnOnce() -> Result<T>) -> Result<T> {
        std::panic::catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| {
            Err(damaged(path, &ParquetError::General("its parts do not fit together".to_owned())))
        })
    }

    fn read_all(path: &Path) -> Result<(Items, Labels)> {
        let file = Table::open(path)?;
        let (items, labels) = (file.items()?, file.labels()?);
        let count = match &labels {
            Labels::Numbers(labels) => labels.len(),
            Labels::Names(labels) => labels.len(),
        };
        if count != items.len() || count == 0 {
            return Err(Error::data(
                path,
                format!("has {} items and {count} labels; write it again", items.len()),
            ));
        }
        Ok((items, labels))
    }

    pub(super) fn read_items(path: &Path) -> Result<Items> {
        guarded(path, || Table::open(path)?.items())
    }

    /// Rows, as the file says.
    pub(super) fn rows(path: &Path) -> Result<Option<usize>> {
        let file = guarded(path, || Table::open(path))?.file;
        Ok(usize::try_from(file.metadata().file_metadata().num_rows()).ok())
    }

    pub(super) fn item_blocks(path: &Path, give: &mut Give<'_>) -> Result<()> {
        guarded(path, || {
            let file = Table::open(path)?;
            match file.item_column()? {
                (column, true) => file.vector_blocks(column, &mut |rows| give(Items::Vectors(rows))),
                (column, false) => file.each_text(column, &mut |texts| give(Items::Text(texts))),
            }
        })
    }

    pub(super) fn read_pairs(path: &Path) -> Result<Option<Texts>> {
        guarded(path, || Table::open(path)?.pairs())
    }

    struct Table<'a> {
        path: &'a Path,
        file: SerializedFileReader<Source>,
    }

    /// One column: its name and its place among the leaves of the schema.
    #[derive(Clone, Copy)]
    struct Column<'a> {
        name: &'a str,
        leaf: usize,
        about: &'a ColumnDescriptor,
    }

    impl<'a> Table<'a> {
        fn open(path: &'a Path) -> Result<Self> {
            let file = File::open(path).map_err(Error::io(path, "opening"))?;
            let length = file.metadata().map_err(Error::io(path, "reading"))?.len();
            let file = SerializedFileReader::new(Source::new(file, length)).map_err(|e| damaged(path, &e))?;
            // The reader asserts what it should check: that the columns lie inside the file.
            let columns = file.metadata().row_groups().iter().flat_map(|group| group.columns());
            for column in columns {
                let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
                let size = u64::try_from(column.compressed_size()).ok();
                let end =
                    u64::try_from(start).ok().zip(size).and_then(|(start, size)| start.checked_add(size));
                if column.num_values() < 0 || end.is_none_or(|end| end > length) {
                    let wrong = format!("the column {} lies outside the file", column.column_path());
                    return Err(damaged(path, &ParquetError::General(wrong)));
                }
            }
            Ok(Self { path, file })
        }

        fn columns(&self) -> impl Iterator<Item = Column<'_>> {
            let leaves = self.file.metadata().file_metadata().schema_descr().columns().iter().enumerate();
            leaves.map(|(leaf, about)| {
                let name = about.path().parts().first().map_or("", String::as_str);
                Column { name, leaf, about }
            })
        }

        /// The column with one of these names, by their order; an error if it is a struct of several.
        fn find(&self, names: &[&str]) -> Result<Option<Column<'_>>> {
            for wanted in names {
                let mut found = self.columns().filter(|column| column.name.eq_ignore_ascii_case(wanted));
                match (found.next(), found.next()) {
                    (Some(column), None) => return Ok(Some(column)),
                    (Some(column), Some(_)) => {
                        return Err(
                            self.wrong(column, "holds several columns; give one list, text or number a row")
                        );
                    }
                    (None, _) => {}
                }
            }
            Ok(None)
        }

        fn wrong(&self, column: Column<'_>, detail: impl std::fmt::Display) -> Error {
            Error::data(self.path, format!("column `{}`: {detail}", column.name))
        }

        fn missing(&self, what: &str, names: &[&str]) -> Error {
            let mut found: Vec<&str> = self.columns().map(|column| column.name).collect();
            found.dedup();
            Error::data(self.path, format!("no column of {what}: it has {found:?}; name it one of {names:?}"))
        }

        fn items(&self) -> Result<Items> {
            match self.item_column()? {
                (column, true) => self.vectors(column).map(Items::Vectors),
                (column, false) => self.texts(column).map(Items::Text),
            }
        }

        /// The column of items, and whether these are vectors, not texts.
        fn item_column(&self) -> Result<(Column<'_>, bool)> {
            if let Some(column) = self.find(&vector_names())? {
                return Ok((column, true));
            }
            match self.find(&TEXT)? {
                Some(column) => Ok((column, false)),
                None => {
                    let names: Vec<&str> = VECTOR.iter().chain(&TEXT).copied().collect();
                    Err(self.missing("vectors or texts", &names))
                }
            }
        }

        /// Pairs of texts with or without scores, where there are no labels and no vectors.
        fn pairs(&self) -> Result<Option<Texts>> {
            let (left, right) = (self.find(&LEFT)?, self.find(&RIGHT)?);
            let other = [self.label_column()?, self.find(&vector_names())?];
            let (Some(left), Some(right), [None, None]) = (left, right, other) else { return Ok(None) };
            let [left, right] = [self.filled(left)?, self.filled(right)?];
            if left.len() != right.len() || left.is_empty() {
                let detail = format!("has {} and {} texts in pairs; write it again", left.len(), right.len());
                return Err(Error::data(self.path, detail));
            }
            let scores = match self.find(&SCORE)? {
                None => None,
                Some(column) => {
                    let scores = self.scores(column)?;
                    if scores.len() != left.len() {
                        let detail = format!("has {} values for {} pairs", scores.len(), left.len());
                        return Err(self.wrong(column, detail));
                    }
                    Some(scores)
                }
            };
            let pairs = left.into_iter().zip(right).map(|(left, right)| [left, right]).collect();
            Ok(Some(Texts::Pairs(pairs, scores, Vec::new())))
        }

        /// Texts of which none is empty.
        fn filled(&self, column: Column<'_>) -> Result<Vec<String>> {
            let texts = self.texts(column)?;
            match texts.iter().position(|text| text.trim().is_empty()) {
                None => Ok(texts),
                Some(row) => {
                    Err(self.wrong(column, format!("row {row} is empty; fill it in or leave the row out")))
                }
            }
        }

        fn scores(&self, column: Column<'_>) -> Result<Vec<f64>> {
            let mut scores: Vec<f64> = Vec::new();
            macro_rules! take {
                ($reader:expr, $rows:expr, $number:expr) => {
                    blocks($reader, $rows, |block| {
                        check_scalars(&block, column.about, scores.len())?;
                        scores.extend(block.values.iter().map($number));
                        Ok(())
                    })
                };
            }
            self.each_group(column, |reader, rows| match reader {
                ColumnReader::FloatColumnReader(reader) => take!(reader, rows, |&v| f64::from(v)),
                ColumnReader::DoubleColumnReader(reader) => take!(reader, rows, |&v| v),
                ColumnReader::Int32ColumnReader(reader) => take!(reader, rows, |&v| f64::from(v)),
                ColumnReader::Int64ColumnReader(reader) => take!(reader, rows, |&v| v as f64),
                _ => Err(Stop::Column(format!("is {}; expected numbers", one(column)))),
            })?;
            match scores.iter().position(|score| !score.is_finite()) {
                None => Ok(scores),
                Some(row) => {
                    let detail =
                        format!("the score in row {row} is {}; write a number, e.g. 0.8", scores[row]);
                    Err(self.wrong(column, detail))
                }
            }
        }

        fn label_column(&self) -> Result<Option<Column<'_>>> {
            let names: Vec<&str> = LABEL.iter().chain(&LABELS).copied().collect();
            self.find(&names)
        }

        fn labels(&self) -> Result<Labels> {
            let names: Vec<&str> = LABEL.iter().chain(&LABELS).copied().collect();
            let Some(column) = self.label_column()? else { return Err(self.missing("labels", &names)) };
            match column.about.physical_type() {
                Type::INT32 | Type::INT64 => self.numbers(column).map(Labels::Numbers),
                Type::BYTE_ARRAY => {
                    let labels = self.texts(column)?;
                    match labels.iter().position(|label| label.trim().is_empty()) {
                        Some(row) => Err(self
                            .wrong(column, format!("row {row} is empty; fill it in or leave the row out"))),
                        None => Ok(Labels::Names(
                            labels.into_iter().map(|label| label.trim().to_owned()).collect(),
                        )),
                    }
                }
                other => Err(self.wrong(column, format!("is {other}; expected whole numbers or names"))),
            }
        }

        /// Calls `take` with the column's reader of each row group and its number of rows.
        fn each_group(
            &self,
            column: Column<'_>,
            mut take: impl FnMut(ColumnReader, usize) -> Result<(), Stop>,
        ) -> Result<()> {
            for group in 0..self.file.num_row_groups() {
                let reader = self.file.get_row_group(group).and_then(|group| {
                    let rows = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
                    Ok((group.get_column_reader(column.leaf)?, rows))
                });
                let taken = reader.map_err(Stop::File).and_then(|(reader, rows)| take(reader, rows));
                match taken {
                    Ok(()) => {}
                    Err(Stop::Enough) => break,
                    Err(Stop::File(e)) => return Err(damaged(self.path, &e)),
                    Err(Stop::Column(detail)) => return Err(self.wrong(column, detail)),
                }
            }
            Ok(())
        }

        fn vectors(&self, column: Column<'_>) -> Result<Array2<f32>> {
            let to = self.lists(column, &mut |_| Ok(()))?;
            let dim = to.dim.filter(|&dim| dim > 0);
            let dim = dim.ok_or_else(|| self.wrong(column, "holds no values; vectors need at least one"))?;
            let vectors =
                Array2::from_shape_vec((to.rows, dim), to.values).map_err(|e| self.wrong(column, e))?;
            check_finite(vectors.view()).map_err(|e| self.wrong(column, e))?;
            Ok(vectors)
        }

        /// Gives the vectors block by block.
        fn vector_blocks(&self, column: Column<'_>, give: &mut dyn FnMut(Array2<f32>) -> bool) -> Result<()> {
            let mut first = 0;
            self.lists(column, &mut |to| {
                let values = std::mem::take(&mut to.values);
                let dim =
                    to.dim.filter(|&dim| dim > 0).ok_or("holds no values; vectors need at least one")?;
                let rows =
                    Array2::from_shape_vec((to.rows - first, dim), values).map_err(|e| e.to_string())?;
                check_finite_from(first, rows.view())?;
                first = to.rows;
                if give(rows) { Ok(()) } else { Err(Stop::Enough) }
            })?;
            Ok(())
        }

        /// All lists of a column; `after` each block of them it may take what is there.
        fn lists(
            &self,
            column: Column<'_>,
            after: &mut dyn FnMut(&mut Vectors) -> Result<(), Stop>,
        ) -> Result<Vectors> {
            let mut to =
                Vectors { values: Vec::new(), dim: None, rows: 0, deepest: column.about.max_def_level() };
            if column.about.max_rep_level() != 1 {
                return Err(self.wrong(
                    column,
                    format!("is {}, not a list; give one list of floats a row", one(column)),
                ));
            }
            self.each_group(column, |reader, rows| match reader {
                ColumnReader::FloatColumnReader(reader) => blocks(reader, rows, |block| {
                    to.add(block, |v| v)?;
                    after(&mut to)
                }),
                ColumnReader::DoubleColumnReader(reader) => blocks(reader, rows, |block| {
                    to.add(block, |v| v as f32)?;
                    after(&mut to)
                }),
                _ => Err(Stop::Column(format!("is a list of {}; expected float32 or float64", one(column)))),
            })?;
            Ok(to)
        }

        fn texts(&self, column: Column<'_>) -> Result<Vec<String>> {
            let mut texts: Vec<String> = Vec::new();
            self.each_text(column, &mut |block| {
                texts.extend(block);
                true
            })?;
            Ok(texts)
        }

        /// Gives the texts block by block.
        fn each_text(&self, column: Column<'_>, give: &mut dyn FnMut(Vec<String>) -> bool) -> Result<()> {
            let mut first = 0;
            self.each_group(column, |reader, rows| match reader {
                ColumnReader::ByteArrayColumnReader(reader) => {
                    blocks(reader, rows, |block: Block<ByteArray>| {
                        check_scalars(&block, column.about, first)?;
                        let text = |(row, value): (usize, &ByteArray)| {
                            let text = value.as_utf8().map_err(|_| format!("row {row} is not UTF-8"))?;
                            Ok::<_, String>(text.to_owned())
                        };
                        let texts = (first..).zip(&block.values).map(text).collect::<Result<Vec<_>, _>>()?;
                        first += texts.len();
                        if give(texts) { Ok(()) } else { Err(Stop::Enough) }
                    })
                }
                _ => Err(Stop::Column(format!("is {}; expected texts", one(column)))),
            })
        }

        fn numbers(&self, column: Column<'_>) -> Result<Vec<u32>> {
            let unsigned = unsigned(column.about);
            let mut labels: Vec<u32> = Vec::new();
            let mut add = |number: i64| {
                let label = u32::try_from(number).map_err(|_| {
                    format!(
                        "label {number} in row {} is out of range; labels are 0 to {}",
                        labels.len(),
                        u32::MAX
                    )
                });
                label.map(|label| labels.push(label))
            };
            let mut rows_before = 0;
            self.each_group(column, |reader, rows| {
                let mut check = |rows: usize| {
                    let first = rows_before;
                    rows_before += rows;
                    first
                };
                match reader {
                    ColumnReader::Int32ColumnReader(reader) => blocks(reader, rows, |block| {
                        check_scalars(&block, column.about, check(block.rows))?;
                        let wide = |v: i32| if unsigned { i64::from(v as u32) } else { i64::from(v) };
                        Ok(block.values.iter().try_for_each(|&v| add(wide(v)))?)
                    }),
                    ColumnReader::Int64ColumnReader(reader) => blocks(reader, rows, |block| {
                        check_scalars(&block, column.about, check(block.rows))?;
                        Ok(block.values.iter().try_for_each(|&v| add(v))?)
                    }),
                    _ => Err(Stop::Column(format!("is {}; expected whole numbers", one(column)))),
                }
            })?;
            Ok(labels)
        }
    }

    fn vector_names() -> Vec<&'static str> {
        VECTOR.iter().chain(&VECTORS).copied().collect()
    }

    /// A column's type, in a word.
    fn one(column: Column<'_>) -> String {
        format!("{}", column.about.physical_type()).to_lowercase()
    }

    fn unsigned(about: &ColumnDescriptor) -> bool {
        let converted = about.converted_type();
        matches!(about.logical_type_ref(), Some(LogicalType::Integer(int)) if !int.is_signed)
            || [ConvertedType::UINT_8, ConvertedType::UINT_16, ConvertedType::UINT_32, ConvertedType::UINT_64]
                .contains(&converted)
    }

    fn damaged(path: &Path, error: &ParquetError) -> Error {
        let reason = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        Error::data(
            path,
            format!(
                "not a Parquet file that can be read ({reason}); write it again, without encryption and compressed by Snappy, \
                 gzip, LZ4 or not at all"
            ),
        )
    }
}
