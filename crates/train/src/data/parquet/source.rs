//! The file that a Parquet reader reads from.

use std::fs::File;
use std::io::{BufReader, Error, ErrorKind, Read, Seek, SeekFrom};

use bytes::Bytes;
use parquet::errors::{ParquetError, Result};
use parquet::file::reader::{ChunkReader, Length};

/// A file that fails where it has ended. The reader skips over whatever a page's header promises, as often as that says, and
/// takes having nothing to skip for having skipped it: of a damaged one for minutes.
pub(super) struct Source {
    file: File,
    length: u64,
}

impl Source {
    /// `file`, which is `length` bytes long.
    pub(super) fn new(file: File, length: u64) -> Self {
        Self { file, length }
    }

    fn at(&self, start: u64) -> std::io::Result<File> {
        let mut file = self.file.try_clone()?;
        file.seek(SeekFrom::Start(start))?;
        Ok(file)
    }
}

impl Length for Source {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for Source {
    type T = BufReader<Ending>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        Ok(BufReader::new(Ending(self.at(start)?)))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        // Before room is made for what is not there.
        if start.checked_add(length as u64).is_none_or(|end| end > self.length) {
            let detail = format!("{length} bytes from {start} on are expected, and it has {}", self.length);
            return Err(ParquetError::EOF(detail));
        }
        let mut bytes = vec![0; length];
        self.at(start)?.read_exact(&mut bytes)?;
        Ok(bytes.into())
    }
}

/// Reads to the end of a file and fails there.
pub(super) struct Ending(File);

impl Read for Ending {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read(to)? {
            0 if !to.is_empty() => Err(Error::new(ErrorKind::UnexpectedEof, "the file ends there")),
            count => Ok(count),
        }
    }
}
