//! Decoded images in a temporary file: read once, decoded once, whatever the number of epochs.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Share of a disk's free bytes that the file may take.
const SHARE: u64 = 2;

/// Images of one size in a file without a name, which is gone when this is dropped or the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Decoded {
    file: File,
    /// Bytes of an image.
    each: usize,
    /// One reader at a time where a file has but one position.
    #[cfg(not(unix))]
    turn: std::sync::Mutex<()>,
}

/// Where the file may be: the folder for temporary files, or the one that survives a restart, which is on a disk.
pub(super) fn places() -> Vec<PathBuf> {
    let mut places = vec![std::env::temp_dir()];
    if cfg!(unix) {
        places.push(PathBuf::from("/var/tmp"));
    }
    places
}

impl Decoded {
    /// Room for `images` of `each` bytes in the first of `places` that is on a disk, not in memory, and keeps half of what is
    /// free; `None` where none is.
    pub(super) fn room(places: &[PathBuf], images: usize, each: usize) -> Option<Self> {
        let bytes = (images as u64).checked_mul(each as u64)?;
        let fits = |place: &&PathBuf| free_on_disk(place).is_some_and(|free| bytes <= free / SHARE);
        places.iter().filter(fits).find_map(|place| {
            let file = tempfile::tempfile_in(place).ok()?;
            Some(Self {
                file,
                each,
                #[cfg(not(unix))]
                turn: std::sync::Mutex::new(()),
            })
        })
    }

    fn start(&self, image: usize) -> u64 {
        image as u64 * self.each as u64
    }

    /// Puts an image in its place.
    #[cfg(unix)]
    pub(super) fn write(&self, image: usize, pixels: &[u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(&self.file, pixels, self.start(image))
    }

    /// Reads an image that was written.
    #[cfg(unix)]
    pub(super) fn read(&self, image: usize, pixels: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, pixels, self.start(image))
    }

    /// Puts an image in its place.
    #[cfg(not(unix))]
    pub(super) fn write(&self, image: usize, pixels: &[u8]) -> io::Result<()> {
        use std::io::{Seek, SeekFrom, Write};
        let _turn = self.turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut file = &self.file;
        file.seek(SeekFrom::Start(self.start(image)))?;
        file.write_all(pixels)
    }

    /// Reads an image that was written.
    #[cfg(not(unix))]
    pub(super) fn read(&self, image: usize, pixels: &mut [u8]) -> io::Result<()> {
        use std::io::{Read, Seek, SeekFrom};
        let _turn = self.turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut file = &self.file;
        file.seek(SeekFrom::Start(self.start(image)))?;
        file.read_exact(pixels)
    }
}

/// Bytes that are free where `place` is; `None` where files are in memory, or the system does not say.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn free_on_disk(place: &Path) -> Option<u64> {
    // linux/magic.h
    const TMPFS: u64 = 0x0102_1994;
    const RAMFS: u64 = 0x8584_58f6;
    let system = rustix::fs::statfs(place).ok()?;
    // The type is as wide as a word, signed or not, depending on the processor.
    let kind = system.f_type as u64 & 0xffff_ffff;
    // Blocks are counted in fragments, where the system has any.
    let block = if system.f_frsize > 0 { system.f_frsize } else { system.f_bsize };
    (kind != TMPFS && kind != RAMFS).then(|| system.f_bavail.saturating_mul(block as u64))
}

#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
fn free_on_disk(place: &Path) -> Option<u64> {
    let system = rustix::fs::statvfs(place).ok()?;
    Some(system.f_bavail.saturating_mul(system.f_frsize))
}

/// Where the system is not asked, the place counts as a disk with room; one that is full is noticed when it is written to.
#[cfg(not(unix))]
fn free_on_disk(_place: &Path) -> Option<u64> {
    Some(u64::MAX)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn images_come_back_from_their_places() {
        let places = [PathBuf::from("/dev/shm"), PathBuf::from("/nowhere")].into_iter().chain(places());
        let Some(decoded) = Decoded::room(&places.collect::<Vec<_>>(), 3, 5) else {
            println!("SKIPPED: no folder for temporary files is on a disk with room");
            return;
        };
        for (image, pixels) in [(2, b"two.."), (0, b"zero."), (1, b"one..")] {
            decoded.write(image, pixels).unwrap();
        }
        let mut pixels = [0; 5];
        decoded.read(1, &mut pixels).unwrap();
        assert_eq!(&pixels, b"one..");
        assert!(decoded.read(3, &mut pixels).is_err());
    }

    #[test]
    fn nothing_is_kept_in_memory_or_on_a_full_disk() {
        #[cfg(target_os = "linux")]
        assert!(
            !Path::new("/dev/shm").exists() || Decoded::room(&[PathBuf::from("/dev/shm")], 1, 1).is_none()
        );
        let here = [std::env::temp_dir()];
        assert!(Decoded::room(&here, usize::MAX, 1).is_none());
        assert!(Decoded::room(&here, usize::MAX, 2).is_none());
        assert!(Decoded::room(&[], 1, 1).is_none());
    }
}
