//! Files that are whole or not there.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

use ndarray::ArrayView2;
use tempfile::NamedTempFile;

use crate::{Error, Result};

/// The format's name and version.
const NPY_START: &[u8; 8] = b"\x93NUMPY\x01\x00";

/// How the names of temporary files begin.
pub(crate) const TEMPORARY: &str = ".embedtune-";

/// Longer than it takes to lock a file that was just made.
const UNLOCKED: Duration = Duration::from_secs(10);

/// Held for reading by every rename, for writing by whoever must not find one under way.
static WRITES: RwLock<()> = RwLock::new(());
/// Temporary files that are being written.
static PENDING: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A path as one word of a shell's command, quoted where that is needed, for commands to paste.
pub fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    // Windows separates folders by what elsewhere takes the next character's meaning.
    let plain = |c: char| c.is_alphanumeric() || "/._-+=:,@%".contains(c) || (cfg!(windows) && c == '\\');
    if !text.is_empty() && text.chars().all(plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Ends all writing: waits for the renames under way, lets no other begin while the guard lives, and removes the
/// temporary files of writes that have not come to theirs, which will fail. A program that ends at once, for instance at
/// a second Ctrl-C, does so behind this guard and leaves no temporary file.
pub fn between_writes() -> RwLockWriteGuard<'static, ()> {
    let guard = WRITES.write().unwrap_or_else(PoisonError::into_inner);
    for path in std::mem::take(&mut *PENDING.lock().unwrap_or_else(PoisonError::into_inner)) {
        // One that is gone already needs nothing.
        let _ = std::fs::remove_file(path);
    }
    guard
}

/// A file under way: a temporary one in the same folder until [`commit`](Self::commit), which syncs and renames it.
/// Dropped before that, it leaves nothing.
pub struct Pending {
    file: NamedTempFile,
    target: PathBuf,
    /// The target as it was given, for messages.
    named: PathBuf,
    /// Whether the target is a device or a pipe (`/dev/stdout`), which cannot be replaced.
    device: bool,
}

/// Refuses a place where no file can be written, before work is put into what is written there: one in a folder that is not
/// there, or where a folder stands. Touches nothing.
///
/// # Errors
/// [`Error::Io`] naming the file.
pub fn check_place(path: &Path) -> Result<()> {
    let folder = folder_of(path);
    let refused = |error: std::io::Error| Err(Error::io(path, "writing")(error));
    if path.is_dir() {
        return refused(ErrorKind::IsADirectory.into());
    }
    match std::fs::metadata(folder) {
        Ok(found) if !found.is_dir() => refused(ErrorKind::NotADirectory.into()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let reason = format!("there is no folder {} (make it, if it is meant)", folder.display());
            refused(std::io::Error::new(ErrorKind::NotFound, reason))
        }
        _ => Ok(()),
    }
}

/// Begins a file that will stand at `path`. A link is followed; a device or a pipe is written to as it is, at the end.
/// Removes what a writer of the same file has left that was killed.
///
/// # Errors
/// [`Error::Io`] naming the file: a missing or unwritable folder.
pub fn begin(path: &Path) -> Result<Pending> {
    // Between the guard and its removal of temporary files none may be made.
    let _writing = WRITES.read().unwrap_or_else(PoisonError::into_inner);
    check_place(path)?;
    let target = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let device = std::fs::metadata(&target).is_ok_and(|m| !m.is_file() && !m.is_dir());
    let prefix = prefix_of(&target);
    if !device {
        remove_stale(folder_of(&target), &prefix);
    }
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix);
    // Made by the standard library: temporary files are private, and their errors name a file that nobody knows. Results are
    // as readable as any other file, by the user's umask.
    let make = |path: &Path| OpenOptions::new().read(true).write(true).create_new(true).open(path);
    let file = if device { builder.make(make) } else { builder.make_in(folder_of(&target), make) };
    let file = file.map_err(Error::io(path, "creating a file beside it"))?;
    // Tells others that somebody is writing it; where files cannot be locked, they will not find that out either.
    let _ = file.as_file().lock();
    PENDING.lock().unwrap_or_else(PoisonError::into_inner).insert(file.path().to_path_buf());
    Ok(Pending { file, target, named: path.to_path_buf(), device })
}

/// How the names of temporary files for `target` begin: so that what another program left of this file is told from what
/// stands beside it.
fn prefix_of(target: &Path) -> String {
    let mut crc = flate2::Crc::new();
    crc.update(target.file_name().unwrap_or_default().as_encoded_bytes());
    format!("{TEMPORARY}{:08x}-", crc.sum())
}

/// Removes temporary files that writers of the same target left when they were killed: those that nobody holds a lock on.
/// What cannot be listed, opened or locked stays.
fn remove_stale(folder: &Path, prefix: &str) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(prefix) {
            continue;
        }
        let path = entry.path();
        // A moment passes between making a file and locking it.
        let age = entry.metadata().and_then(|metadata| metadata.modified()).map(|time| time.elapsed());
        let settled = age.is_ok_and(|age| age.is_ok_and(|age| age >= UNLOCKED));
        if settled && std::fs::File::open(&path).is_ok_and(|file| file.try_lock().is_ok()) {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn folder_of(target: &Path) -> &Path {
    target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl Pending {
    /// Appends bytes.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file: a full disk.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.as_file_mut().write_all(bytes).map_err(Error::io(&self.named, "writing"))
    }

    /// Where the file will stand, as it was given.
    pub(crate) fn named(&self) -> &Path {
        &self.named
    }

    /// The file under way.
    pub(crate) fn file(&mut self) -> &mut std::fs::File {
        self.file.as_file_mut()
    }

    /// Puts the whole file in its place.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file; what stood there still does.
    pub fn commit(self) -> Result<()> {
        let _writing = WRITES.read().unwrap_or_else(PoisonError::into_inner);
        let (target, named) = (self.target, self.named.as_path());
        PENDING.lock().unwrap_or_else(PoisonError::into_inner).remove(self.file.path());
        if self.device {
            let mut from = self.file.as_file();
            from.rewind().map_err(Error::io(named, "reading"))?;
            let mut device =
                OpenOptions::new().write(true).open(&target).map_err(Error::io(named, "opening"))?;
            return std::io::copy(&mut from, &mut device).map(drop).map_err(Error::io(named, "writing"));
        }
        self.file.as_file().sync_all().map_err(Error::io(named, "writing to disk"))?;
        self.file.persist(&target).map_err(|e| Error::io(named, "replacing")(e.error))?;
        // The rename itself must reach the disk; where folders cannot be synced this is all there is.
        if let Ok(folder) = std::fs::File::open(folder_of(&target)) {
            let _ = folder.sync_all();
        }
        Ok(())
    }
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
    let mut file = begin(path)?;
    file.write(bytes)?;
    file.commit()
}

/// Removes a file that may be absent.
///
/// # Errors
/// [`Error::Io`] if it is there and stays.
pub fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io(path, "removing")(error)),
        _ => Ok(()),
    }
}

/// Writes rows as a `.npy` array of `f32`, all or nothing.
///
/// # Errors
/// As [`write_atomically`].
pub fn write_npy(path: &Path, rows: ArrayView2<'_, f32>) -> Result<()> {
    let mut bytes = npy_header(rows.nrows(), rows.ncols(), 64);
    bytes.extend(rows.iter().flat_map(|v| v.to_le_bytes()));
    write_atomically(path, &bytes)
}

/// The header of a `.npy` array of `f32`, `length` bytes long or more: version 1.0, in which the data begin at a multiple
/// of 64 bytes (numpy/lib/format.py). 128 bytes are enough for any shape.
pub(crate) fn npy_header(rows: usize, columns: usize, length: usize) -> Vec<u8> {
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    let start = (NPY_START.len() + 2 + header.len() + 1).max(length).next_multiple_of(64);
    let padded = start - NPY_START.len() - 2;
    header += &" ".repeat(padded - 1 - header.len());
    header.push('\n');
    // Two numbers and fixed words: never near 65,536 characters.
    [NPY_START.as_slice(), &(padded as u16).to_le_bytes(), header.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_can_be_pasted() {
        for (path, expected) in [
            ("runs/fit-1", "runs/fit-1"),
            ("a\\b", if cfg!(windows) { "a\\b" } else { "'a\\b'" }),
            ("my photos", "'my photos'"),
            ("it's; $x", r"'it'\''s; $x'"),
        ] {
            assert_eq!(shell_word(Path::new(path)), expected);
        }
    }

    /// The guard's test removes what others are writing: one at a time.
    static ALONE: Mutex<()> = Mutex::new(());

    fn alone() -> std::sync::MutexGuard<'static, ()> {
        ALONE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[test]
    fn a_failed_write_leaves_nothing() {
        let _alone = alone();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write_atomically(&path, b"one").unwrap();
        write_atomically(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_place_that_cannot_be_is_named_as_it_was_given() {
        let _alone = alone();
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), "").unwrap();
        std::fs::create_dir(at("folder")).unwrap();
        for (name, part) in [
            ("no/such", "there is no folder"),
            ("file/such", "a file stands where a folder is needed"),
            ("folder", "it is a folder: name a file"),
        ] {
            for error in [check_place(&at(name)), write_atomically(&at(name), b"")] {
                let said = error.unwrap_err().to_string();
                let named = said.starts_with(&format!("{}: writing failed: ", at(name).display()));
                assert!(named && said.contains(part) && !said.contains(TEMPORARY), "{said}");
            }
        }
        // What the system refuses, with its reason and no other name.
        let long = at(&"x".repeat(300)).join("such");
        let said = write_atomically(&long, b"").unwrap_err().to_string();
        assert!(said.contains("os error") && !said.contains(TEMPORARY), "{said}");
    }

    #[test]
    fn what_a_killed_writer_left_is_removed_by_the_next() {
        let _alone = alone();
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("x.npy");
        let prefix = prefix_of(&target);
        let left = |name: String, age: u64| {
            let path = folder.path().join(name);
            let file = std::fs::File::create(&path).unwrap();
            file.set_modified(std::time::SystemTime::now() - Duration::from_secs(age)).unwrap();
            (path, file)
        };
        let (stale, _) = left(format!("{prefix}dead"), 100);
        let (held, lock) = left(format!("{prefix}alive"), 100);
        lock.lock().unwrap();
        let (fresh, _) = left(format!("{prefix}fresh"), 0);
        let (other, _) = left(format!("{}dead", prefix_of(&folder.path().join("y.npy"))), 100);
        write_atomically(&target, b"whole").unwrap();
        assert!(!stale.exists() && held.exists() && fresh.exists() && other.exists());
        // One's own file under way is safe from others, too.
        let mut pending = begin(&target).unwrap();
        pending.write(b"later").unwrap();
        let own = pending.file.path().to_path_buf();
        pending.file().set_modified(std::time::SystemTime::now() - Duration::from_secs(100)).unwrap();
        drop(lock);
        write_atomically(&target, b"between").unwrap();
        assert!(own.exists() && !held.exists());
        pending.commit().unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"later");
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_devices_written_to() {
        let _alone = alone();
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
        let _alone = alone();
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
    fn no_write_ends_or_begins_behind_the_guard() {
        let _alone = alone();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let mut long = begin(&folder.path().join("b")).unwrap();
        long.write(b"half").unwrap();
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
        assert!(long.commit().is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
