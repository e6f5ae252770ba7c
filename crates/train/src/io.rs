//! Files that are whole or not there.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::sync::{PoisonError, RwLock, RwLockWriteGuard};

use ndarray::ArrayView2;

use crate::{Error, Result};

/// The format's name and version.
const NPY_START: &[u8; 8] = b"\x93NUMPY\x01\x00";

/// How the names of temporary files begin.
pub(crate) const TEMPORARY: &str = ".embedtune-";

/// Held for reading by every write, for writing by whoever must not find one under way.
static WRITES: RwLock<()> = RwLock::new(());

/// Waits for the writes under way and lets no other begin while the guard lives: a program that ends at once, for
/// instance at a second Ctrl-C, does so behind this guard and leaves no temporary file.
pub fn between_writes() -> RwLockWriteGuard<'static, ()> {
    WRITES.write().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a file of this name is one that a writer left when it was killed.
pub fn is_temporary(name: &str) -> bool {
    name.starts_with(TEMPORARY)
}

/// Writes `bytes` to `path`: into a temporary file in the same folder, which is synced and then renamed. Whatever
/// fails, an old file stays as it was and no half-written one is left. A link is followed; a device or a pipe
/// (`/dev/stdout`) is written to as it is.
///
/// # Errors
/// [`Error::Io`] naming the file: a missing or unwritable folder, a full disk.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let _writing = WRITES.read().unwrap_or_else(PoisonError::into_inner);
    let target = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    if std::fs::metadata(&target).is_ok_and(|m| !m.is_file() && !m.is_dir()) {
        let mut device = OpenOptions::new().write(true).open(&target).map_err(Error::io(path, "opening"))?;
        return device.write_all(bytes).map_err(Error::io(path, "writing"));
    }
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY);
    // Temporary files are private by default; results are as readable as any other file, by the user's umask.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder).map_err(Error::io(path, "creating a file beside it"))?;
    file.write_all(bytes).map_err(Error::io(path, "writing"))?;
    file.as_file().sync_all().map_err(Error::io(path, "writing to disk"))?;
    file.persist(&target).map_err(|e| Error::io(path, "replacing")(e.error))?;
    // The rename itself must reach the disk; where folders cannot be synced this is all there is.
    if let Ok(folder) = std::fs::File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// Removes a file that may be absent.
///
/// # Errors
/// [`Error::Io`] if it is there and stays.
pub fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path, "removing")(error)),
        _ => Ok(()),
    }
}

/// Writes rows as a `.npy` array of `f32`, all or nothing.
///
/// # Errors
/// As [`write_atomically`].
pub fn write_npy(path: &Path, rows: ArrayView2<'_, f32>) -> Result<()> {
    // Version 1.0: the data begin at a multiple of 64 bytes (numpy/lib/format.py).
    let mut header = format!(
        "{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}",
        rows.nrows(),
        rows.ncols()
    );
    let start = (NPY_START.len() + 2 + header.len() + 1).next_multiple_of(64);
    let padded = start - NPY_START.len() - 2;
    header += &" ".repeat(padded - 1 - header.len());
    header.push('\n');
    let mut bytes = Vec::with_capacity(start + rows.len() * 4);
    bytes.extend_from_slice(NPY_START);
    // Two numbers and fixed words: never near 65,536 characters.
    bytes.extend_from_slice(&(padded as u16).to_le_bytes());
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend(rows.iter().flat_map(|v| v.to_le_bytes()));
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

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_devices_written_to() {
        use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let [file, link, null] = ["file", "link", "null"].map(|name| folder.path().join(name));
        write_atomically(&file, b"one").unwrap();
        // As readable as a file that the standard library makes.
        std::fs::write(folder.path().join("plain"), "").unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&file), mode(&folder.path().join("plain")));
        symlink(&file, &link).unwrap();
        write_atomically(&link, b"two").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"two");
        assert!(link.is_symlink());
        symlink("/dev/null", &null).unwrap();
        write_atomically(&null, b"three").unwrap();
        assert!(std::fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    }

    #[test]
    fn what_is_written_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v.npy");
        for shape in [(3, 2), (4, 5), (1, 1000)] {
            let rows = ndarray::Array2::from_shape_fn(shape, |(i, j)| i as f32 - 0.5 * j as f32);
            write_npy(&path, rows.view()).unwrap();
            assert_eq!(crate::data::vectors::read_vectors(&path).unwrap(), rows);
            assert_eq!((std::fs::read(&path).unwrap().len() - 4 * rows.len()) % 64, 0);
            // Columns that run together are written as rows all the same.
            write_npy(&path, rows.t()).unwrap();
            assert_eq!(crate::data::vectors::read_vectors(&path).unwrap(), rows.t());
        }
    }

    #[test]
    fn no_write_begins_behind_the_guard() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let guard = between_writes();
        let thread = std::thread::spawn({
            let path = path.clone();
            move || write_atomically(&path, b"late")
        });
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        drop(guard);
        thread.join().unwrap().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"late");
    }
}
