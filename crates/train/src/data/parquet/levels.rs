//! The rows of a column as the reader gives them: values, and the levels that say where they belong.

use parquet::column::reader::ColumnReaderImpl;
use parquet::data_type::DataType;
use parquet::errors::ParquetError;
use parquet::schema::types::ColumnDescriptor;

use super::super::exact;

/// Rows that are read at a time.
const ROWS: usize = 8192;

/// Some rows of a column: its values without the nulls, and the levels that say where they belong.
pub(super) struct Block<T> {
    pub(super) values: Vec<T>,
    pub(super) definition: Vec<i16>,
    pub(super) repetition: Vec<i16>,
    pub(super) rows: usize,
}

/// Why reading a column ends.
pub(super) enum Stop {
    File(ParquetError),
    Column(String),
    /// Nobody wants more.
    Enough,
}

impl From<String> for Stop {
    fn from(detail: String) -> Self {
        Self::Column(detail)
    }
}

impl From<&str> for Stop {
    fn from(detail: &str) -> Self {
        Self::Column(detail.to_owned())
    }
}

/// Gives `take` the next rows of a column again and again, until all of its row group are there.
pub(super) fn blocks<T: DataType>(
    mut reader: ColumnReaderImpl<T>,
    rows: usize,
    mut take: impl FnMut(Block<T::T>) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let mut left = rows;
    while left > 0 {
        let mut block = Block { values: Vec::new(), definition: Vec::new(), repetition: Vec::new(), rows: 0 };
        let (definition, repetition) = (&mut block.definition, &mut block.repetition);
        let read = reader.read_records(left.min(ROWS), Some(definition), Some(repetition), &mut block.values);
        (block.rows, ..) = read.map_err(Stop::File)?;
        if block.rows == 0 {
            return Err(Stop::Column(format!("{left} of the {rows} rows of a group are not there")));
        }
        left = left.saturating_sub(block.rows);
        take(block)?;
    }
    Ok(())
}

/// Refuses nulls and lists in a column of one value a row; `first` is the block's first row.
pub(super) fn check_scalars<T>(
    block: &Block<T>,
    about: &ColumnDescriptor,
    first: usize,
) -> Result<(), String> {
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
pub(super) struct Vectors {
    pub(super) values: Vec<f32>,
    pub(super) dim: Option<usize>,
    pub(super) rows: usize,
    /// The definition level of a value that is there.
    pub(super) deepest: i16,
}

impl Vectors {
    pub(super) fn add<T: Copy>(&mut self, block: Block<T>, number: impl Fn(T) -> f32) -> Result<(), String> {
        if block.repetition.len() != block.definition.len() {
            return Err("its levels do not fit together; the file is damaged".to_owned());
        }
        let starts = block.repetition.iter().enumerate().filter(|(_, level)| **level == 0).map(|(at, _)| at);
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
