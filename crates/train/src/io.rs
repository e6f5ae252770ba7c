//! Files that are whole or not there.

use std::io::Write;
use std::path::Path;

use ndarray::ArrayView2;
use ndarray_npy::WriteNpyExt;

use crate::{Error, Result};

/// Writes `bytes` to `path`: into a temporary file in the same folder, which is synced and then renamed. Whatever
/// fails, an old file stays as it was and no half-written one is left.
///
/// # Errors
/// [`Error::Io`] naming the file: a missing or unwritable folder, a full disk.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".embedtune-")
        .tempfile_in(folder)
        .map_err(Error::io(path, "creating a file beside it"))?;
    file.write_all(bytes).map_err(Error::io(path, "writing"))?;
    file.as_file().sync_all().map_err(Error::io(path, "writing to disk"))?;
    file.persist(path).map_err(|e| Error::io(path, "replacing")(e.error))?;
    // The rename itself must reach the disk; where folders cannot be synced this is all there is.
    if let Ok(folder) = std::fs::File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// Writes rows as a `.npy` array of `f32`, all or nothing.
///
/// # Errors
/// As [`write_atomically`].
pub fn write_npy(path: &Path, rows: ArrayView2<'_, f32>) -> Result<()> {
    let mut bytes = Vec::new();
    rows.write_npy(&mut bytes).map_err(|e| Error::data(path, e.to_string()))?;
    write_atomically(path, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write_atomically(&path, b"one").unwrap();
        write_atomically(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let error = write_atomically(&folder.path().join("no/such"), b"").unwrap_err().to_string();
        assert!(error.contains("such"), "{error}");
    }
}
