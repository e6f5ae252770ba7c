//! Which row of embeddings is which item.

use std::path::{Path, PathBuf};

use embedtune_train::data::Items;
use embedtune_train::io::{self, Pending};
use embedtune_train::{Error, Result};

/// A CSV file under way with the columns `row` and `item`.
pub(crate) struct Names {
    path: PathBuf,
    to: Pending,
    rows: usize,
}

impl Names {
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let mut to = io::begin(path)?;
        to.write(b"row,item\n")?;
        Ok(Self { path: path.to_path_buf(), to, rows: 0 })
    }

    /// Adds images by their files, texts as they are.
    pub(crate) fn push(&mut self, items: &Items) -> Result<()> {
        let names: Vec<String> = match items {
            Items::Files(files) => files.paths().map(|path| path.display().to_string()).collect(),
            Items::Text(texts) => texts.clone(),
            others => {
                let remedy = format!("these are {}, which have no names; leave it out", others.kind());
                return Err(Error::option("names", self.path.display(), remedy));
            }
        };
        let mut lines = csv::Writer::from_writer(Vec::new());
        for name in names {
            let line = lines.write_record([self.rows.to_string(), name]);
            line.map_err(|e| Error::Unsuitable(format!("row {}: {e}", self.rows)))?;
            self.rows += 1;
        }
        let bytes = lines.into_inner().map_err(|e| Error::Unsuitable(e.to_string()))?;
        self.to.write(&bytes)
    }

    pub(crate) fn finish(self) -> Result<()> {
        self.to.commit()
    }
}
