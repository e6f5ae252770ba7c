//! Vectors or texts with labels from the columns of a Parquet file.

use std::path::Path;

use super::Items;
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

#[cfg(not(feature = "parquet"))]
mod imp {
    use std::path::Path;

    use super::{Items, Labels};
    use crate::{Error, Result};

    pub(super) fn read(path: &Path) -> Result<(Items, Labels)> {
        Err(Error::data(path, "this build reads no Parquet; build it with the feature `parquet`"))
    }

    pub(super) fn read_items(path: &Path) -> Result<Items> {
        read(path).map(|(items, _)| items)
    }
}

#[cfg(feature = "parquet")]
mod imp {
    use std::fs::File;
    use std::panic::AssertUnwindSafe;
    use std::path::Path;

    use ndarray::Array2;
    use parquet::basic::{ConvertedType, LogicalType, Type};
    use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
    use parquet::data_type::{ByteArray, DataType};
    use parquet::errors::ParquetError;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::schema::types::ColumnDescriptor;

    use super::super::exact;
    use super::super::text::{LABEL, TEXT};
    use super::super::vectors::{LABELS, VECTORS, check_finite};
    use super::{Items, Labels};
    use crate::{Error, Result};

    /// Names of columns of vectors beside those of arrays.
    const VECTOR: [&str; 2] = ["vector", "embedding"];
    /// Rows that are read at a time.
    const ROWS: usize = 8192;

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

    struct Table<'a> {
        path: &'a Path,
        file: SerializedFileReader<File>,
    }

    /// One column: its name and its place among the leaves of the schema.
    #[derive(Clone, Copy)]
    struct Column<'a> {
        name: &'a str,
        leaf: usize,
        about: &'a ColumnDescriptor,
    }

    /// Some rows of a column: its values without the nulls, and the levels that say where they belong.
    struct Block<T> {
        values: Vec<T>,
        definition: Vec<i16>,
        repetition: Vec<i16>,
        rows: usize,
    }

    impl<'a> Table<'a> {
        fn open(path: &'a Path) -> Result<Self> {
            let file = File::open(path).map_err(Error::io(path, "opening"))?;
            let length = file.metadata().map_err(Error::io(path, "reading"))?.len();
            let file = SerializedFileReader::new(file).map_err(|e| damaged(path, &e))?;
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
            let vectors: Vec<&str> = VECTOR.iter().chain(&VECTORS).copied().collect();
            if let Some(column) = self.find(&vectors)? {
                return self.vectors(column).map(Items::Vectors);
            }
            match self.find(&TEXT)? {
                Some(column) => self.texts(column).map(Items::Text),
                None => {
                    let names: Vec<&str> = VECTOR.iter().chain(&TEXT).copied().collect();
                    Err(self.missing("vectors or texts", &names))
                }
            }
        }

        fn labels(&self) -> Result<Labels> {
            let names: Vec<&str> = LABEL.iter().chain(&LABELS).copied().collect();
            let Some(column) = self.find(&names)? else { return Err(self.missing("labels", &names)) };
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
                taken.map_err(|stop| match stop {
                    Stop::File(e) => damaged(self.path, &e),
                    Stop::Column(detail) => self.wrong(column, detail),
                })?;
            }
            Ok(())
        }

        fn vectors(&self, column: Column<'_>) -> Result<Array2<f32>> {
            let mut to =
                Vectors { values: Vec::new(), dim: None, rows: 0, deepest: column.about.max_def_level() };
            if column.about.max_rep_level() != 1 {
                return Err(self.wrong(
                    column,
                    format!("is {}, not a list; give one list of floats a row", one(column)),
                ));
            }
            self.each_group(column, |reader, rows| match reader {
                ColumnReader::FloatColumnReader(reader) => blocks(reader, rows, |block| to.add(block, |v| v)),
                ColumnReader::DoubleColumnReader(reader) => {
                    blocks(reader, rows, |block| to.add(block, |v| v as f32))
                }
                _ => Err(Stop::Column(format!("is a list of {}; expected float32 or float64", one(column)))),
            })?;
            let dim = to.dim.filter(|&dim| dim > 0);
            let dim = dim.ok_or_else(|| self.wrong(column, "holds no values; vectors need at least one"))?;
            let vectors =
                Array2::from_shape_vec((to.rows, dim), to.values).map_err(|e| self.wrong(column, e))?;
            check_finite(vectors.view()).map_err(|e| self.wrong(column, e))?;
            Ok(vectors)
        }

        fn texts(&self, column: Column<'_>) -> Result<Vec<String>> {
            let mut texts: Vec<String> = Vec::new();
            self.each_group(column, |reader, rows| match reader {
                ColumnReader::ByteArrayColumnReader(reader) => {
                    blocks(reader, rows, |block: Block<ByteArray>| {
                        let first = texts.len();
                        check_scalars(&block, column.about, first)?;
                        for (at, value) in block.values.iter().enumerate() {
                            let text =
                                value.as_utf8().map_err(|_| format!("row {} is not UTF-8", first + at))?;
                            texts.push(text.to_owned());
                        }
                        Ok(())
                    })
                }
                _ => Err(Stop::Column(format!("is {}; expected texts", one(column)))),
            })?;
            Ok(texts)
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
                        block.values.iter().try_for_each(|&v| add(wide(v)))
                    }),
                    ColumnReader::Int64ColumnReader(reader) => blocks(reader, rows, |block| {
                        check_scalars(&block, column.about, check(block.rows))?;
                        block.values.iter().try_for_each(|&v| add(v))
                    }),
                    _ => Err(Stop::Column(format!("is {}; expected whole numbers", one(column)))),
                }
            })?;
            Ok(labels)
        }
    }

    /// Why reading a column ends.
    enum Stop {
        File(ParquetError),
        Column(String),
    }

    /// Gives `take` the next rows of a column again and again, until all of its row group are there.
    fn blocks<T: DataType>(
        mut reader: ColumnReaderImpl<T>,
        rows: usize,
        mut take: impl FnMut(Block<T::T>) -> Result<(), String>,
    ) -> Result<(), Stop> {
        let mut left = rows;
        while left > 0 {
            let mut block =
                Block { values: Vec::new(), definition: Vec::new(), repetition: Vec::new(), rows: 0 };
            let (definition, repetition) = (&mut block.definition, &mut block.repetition);
            let read =
                reader.read_records(left.min(ROWS), Some(definition), Some(repetition), &mut block.values);
            (block.rows, ..) = read.map_err(Stop::File)?;
            if block.rows == 0 {
                return Err(Stop::Column(format!("{left} of the {rows} rows of a group are not there")));
            }
            left = left.saturating_sub(block.rows);
            take(block).map_err(Stop::Column)?;
        }
        Ok(())
    }

    /// Refuses nulls and lists in a column of one value a row; `first` is the block's first row.
    fn check_scalars<T>(block: &Block<T>, about: &ColumnDescriptor, first: usize) -> Result<(), String> {
        if about.max_rep_level() > 0 {
            return Err("is a list; expected one value a row".to_owned());
        }
        if let Some(at) = block.definition.iter().position(|&level| level < about.max_def_level()) {
            return Err(format!("row {} is null; fill it in or leave the row out", first + at));
        }
        if block.values.len() == block.rows {
            return Ok(());
        }
        Err(format!("{} values in {} rows; the file is damaged", block.values.len(), block.rows))
    }

    /// Lists of one length, one behind the other.
    struct Vectors {
        values: Vec<f32>,
        dim: Option<usize>,
        rows: usize,
        /// The definition level of a value that is there.
        deepest: i16,
    }

    impl Vectors {
        fn add<T: Copy>(&mut self, block: Block<T>, number: impl Fn(T) -> f32) -> Result<(), String> {
            if block.repetition.len() != block.definition.len() {
                return Err("its levels do not fit together; the file is damaged".to_owned());
            }
            let starts =
                block.repetition.iter().enumerate().filter(|(_, level)| **level == 0).map(|(at, _)| at);
            let starts: Vec<usize> = starts.chain([block.repetition.len()]).collect();
            let mut values = block.values.into_iter();
            for ends in starts.windows(2) {
                let &[from, to] = ends else { continue };
                let row = self.rows;
                let levels = block.definition.get(from..to).unwrap_or_default();
                if let Some(level) = levels.iter().find(|level| **level < self.deepest) {
                    let what = if levels.len() > 1 || *level + 1 == self.deepest {
                        "has no value or a null in it"
                    } else {
                        "is null"
                    };
                    return Err(format!("row {row} {what}; fill it in or leave the row out"));
                }
                let dim = *self.dim.get_or_insert(levels.len());
                if levels.len() != dim {
                    return Err(format!("row {row} has {} values, the rows before it {dim}", levels.len()));
                }
                exact::size(&[row + 1, dim], size_of::<f32>())?;
                let before = self.values.len();
                self.values.extend(values.by_ref().take(dim).map(&number));
                if self.values.len() - before != dim {
                    return Err(format!("row {row} ends too early; the file is damaged"));
                }
                self.rows += 1;
            }
            Ok(())
        }
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
                "not a Parquet file that can be read ({reason}); write it again, without encryption and \
                                   compressed by Snappy, gzip, LZ4 or not at all"
            ),
        )
    }
}
