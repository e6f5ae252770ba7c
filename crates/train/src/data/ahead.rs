//! Items of files that can only be read from front to back, read block by block by a thread of their own.

use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use ndarray::Array3;

use super::{Items, Sequences};
use crate::{Error, Result};

/// Bytes of values in a block, at about which it ends.
const BLOCK: usize = 4 << 20;
/// Items of a block at most.
const MOST: usize = 1024;
/// Blocks that lie ready.
const READY: usize = 1;

/// What to do where the thread that reads broke off: a fault of the program that says more on standard error.
const BROKEN_OFF: &str = "reading ended before the end of the file by a fault of the program; please report what it said before this";

/// Takes a block; false where nobody wants more.
pub(super) type Give<'a> = dyn FnMut(Items) -> bool + 'a;

/// Blocks of items, one after another.
pub(super) struct Ahead {
    blocks: Receiver<Result<Items>>,
    /// The thread that reads, until its end was seen.
    reading: Option<JoinHandle<()>>,
    /// That thread has panicked.
    broken: bool,
    block: Option<Items>,
    /// Items of the block that are given out.
    given: usize,
    /// Items in all, where they are known.
    pub(super) len: Option<usize>,
}

impl Ahead {
    /// Starts a thread that calls `read`, which gives block after block of the file at `path`.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub(super) fn new(
        path: &Path,
        len: Option<usize>,
        read: impl FnOnce(&mut Give<'_>) -> Result<()> + Send + 'static,
    ) -> Result<Self> {
        let (to, blocks) = sync_channel(READY);
        let work = move || {
            let ended = to.clone();
            if let Err(error) = read(&mut |items| to.send(Ok(items)).is_ok()) {
                // Nobody listens any more where reading was given up.
                let _ = ended.send(Err(error));
            }
        };
        let thread = std::thread::Builder::new().name("reading".to_owned()).spawn(work);
        let thread = thread.map_err(Error::io(path, "starting a thread that reads it"))?;
        Ok(Self { blocks, reading: Some(thread), broken: false, block: None, given: 0, len })
    }

    /// The next items, `most` or fewer; none at the end.
    ///
    /// # Errors
    /// What `read` ended with; [`Error::Unsuitable`] where it panicked.
    pub(super) fn next(&mut self, most: usize) -> Result<Items> {
        loop {
            if let Some(block) = self.block.as_ref().filter(|block| self.given < block.len()) {
                let rows: Vec<usize> =
                    (self.given..block.len().min(self.given.saturating_add(most))).collect();
                self.given += rows.len();
                return Ok(block.select(&rows));
            }
            match self.blocks.recv() {
                Ok(items) => (self.block, self.given) = (Some(items?), 0),
                // The thread has ended: at the end of the file, or not where it should.
                Err(_) => {
                    if let Some(Err(_)) = self.reading.take().map(JoinHandle::join) {
                        self.broken = true;
                    }
                    if self.broken {
                        return Err(Error::Unsuitable(BROKEN_OFF.to_owned()));
                    }
                    return Ok(Items::Text(Vec::new()));
                }
            }
        }
    }
}

/// Items that make a block where one takes so many bytes.
pub(super) fn at_once(bytes: usize) -> usize {
    (BLOCK / bytes.max(1)).clamp(1, MOST)
}

/// Gives `items` sequences of `tokens` vectors of length `dim` block by block: `values` reads the next so many numbers, `mask`
/// the next so many flags.
///
/// # Errors
/// In words: those of reading, and of [`Sequences::new`].
pub(super) fn sequences(
    [items, tokens, dim]: [usize; 3],
    mut values: impl FnMut(usize) -> Result<Vec<f32>, String>,
    mut mask: impl FnMut(usize) -> Result<Vec<bool>, String>,
    give: &mut Give<'_>,
) -> Result<(), String> {
    let each = tokens.saturating_mul(dim);
    let most = at_once(each.saturating_mul(size_of::<f32>()));
    for first in (0..items).step_by(most) {
        let count = most.min(items - first);
        let block = values(count.saturating_mul(each))?;
        let block = Array3::from_shape_vec((count, tokens, dim), block).map_err(|e| e.to_string())?;
        let block = Sequences::from_block(first, block, &mask(count.saturating_mul(tokens))?)?;
        if !give(Items::Sequences(block)) {
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use ndarray::{Array2, Axis};
    use zip::write::SimpleFileOptions;

    use super::*;
    use crate::data::{DataOptions, Stream, tensors, vectors};

    fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
        let start = [b"\x93NUMPY\x01\x00".as_slice(), &(header.len() as u16).to_le_bytes()].concat();
        [start.as_slice(), header.as_bytes(), data].concat()
    }

    fn npz(path: &Path, arrays: &[(&str, Vec<u8>)]) {
        let mut archive = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
        let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
        for (name, bytes) in arrays {
            archive.start_file(format!("{name}.npy"), options).unwrap();
            archive.write_all(bytes).unwrap();
        }
        archive.finish().unwrap();
    }

    fn blocks(path: &Path, most: usize) -> Result<Vec<Items>> {
        let mut stream = Stream::open(path, &DataOptions::default())?;
        std::iter::from_fn(|| stream.next(most).transpose()).collect()
    }

    /// 3,000 vectors of 40 values: more than a block.
    fn rows() -> Array2<f32> {
        Array2::from_shape_fn((3000, 40), |(i, j)| ((i * 7 + j * 3) % 101) as f32 / 50.0 - 1.0)
    }

    fn bytes(rows: &Array2<f32>) -> Vec<u8> {
        rows.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    #[test]
    fn blocks_of_vectors_are_the_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npz");
        npz(&path, &[("vectors", npy("<f4", "(3000, 40)", &bytes(&rows())))]);
        let mut stream = Stream::open(&path, &DataOptions::default()).unwrap();
        assert_eq!(stream.len(), Some(3000));
        let mut first = 0;
        while let Some(Items::Vectors(block)) = stream.next(700).unwrap() {
            assert!(block.nrows() <= 700);
            assert_eq!(block, rows().slice_axis(Axis(0), (first..first + block.nrows()).into()));
            first += block.nrows();
        }
        assert_eq!(first, 3000);
        // What is wrong is found where it is.
        let mut wrong = rows();
        wrong[[2500, 3]] = f32::NAN;
        let whole = bytes(&wrong);
        for (array, expected) in [
            (npy("<f4", "(3000, 40)", &whole), "x.npz: array vectors: row 2500, column 3 is NaN"),
            (npy("<f4", "(2000, 40)", &whole), "more data than its header promises"),
            (npy("<f4", "(3001, 40)", &bytes(&rows())), "bytes of data and"),
            (npy("<i4", "(3000, 40)", &whole), "expected vectors [items, dim] of type float32"),
            (npy("<f4", "(120000,)", &whole), "expected vectors [items, dim]"),
        ] {
            npz(&path, &[("vectors", array)]);
            let message = blocks(&path, 1024).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}\nlacks: {expected}");
        }
        npz(&path, &[("other", npy("<f4", "(1, 1)", &[0; 4]))]);
        assert!(
            blocks(&path, 9).unwrap_err().to_string().contains("no array of vectors: it holds [\"other\"]")
        );
        // A stream that is given up in the middle.
        npz(&path, &[("vectors", npy("<f4", "(3000, 40)", &bytes(&rows())))]);
        drop(Stream::open(&path, &DataOptions::default()).unwrap().next(1));
    }

    #[test]
    fn a_reader_that_breaks_off_is_no_end() {
        let one = || Items::Text(vec!["a".to_owned()]);
        let read = move |give: &mut Give<'_>| {
            give(one());
            panic!("a fault of the reader, for this test");
        };
        let mut ahead = Ahead::new(Path::new("x"), None, read).unwrap();
        assert_eq!(ahead.next(9).unwrap(), one());
        for _ in 0..2 {
            assert!(ahead.next(9).unwrap_err().to_string().contains("before the end of the file"));
        }
    }

    fn safetensors(path: &Path, tokens: &[u8], mask: &[u8], [items, each, dim]: [usize; 3]) {
        let (a, b) = (tokens.len(), tokens.len() + mask.len());
        let header = format!(
            r#"{{"tokens":{{"dtype":"F32","shape":[{items},{each},{dim}],"data_offsets":[0,{a}]}},"mask":{{"dtype":"BOOL","shape":[{items},{each}],"data_offsets":[{a},{b}]}}}}"#
        );
        let size = (header.len() as u64).to_le_bytes();
        std::fs::write(path, [&size, header.as_bytes(), tokens, mask].concat()).unwrap();
    }

    #[test]
    fn blocks_of_sequences_are_the_whole() {
        const SHAPE: [usize; 3] = [600, 50, 96];
        let [items, each, dim] = SHAPE;
        let values: Vec<f32> = (0..items * each * dim).map(|i| (i % 977) as f32 / 100.0).collect();
        let tokens: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let mask: Vec<u8> = (0..items * each).map(|i| u8::from(i % each == 0 || i % 7 != 3)).collect();
        let folder = tempfile::tempdir().unwrap();
        let [zipped, plain] = ["x.npz", "x.safetensors"].map(|name| folder.path().join(name));
        let shape = format!("({items}, {each}, {dim})");
        let write = |tokens: &[u8], mask: &[u8]| {
            let of_mask = npy("|b1", &format!("({items}, {each})"), mask);
            npz(&zipped, &[("tokens", npy("<f4", &shape, tokens)), ("mask", of_mask)]);
            safetensors(&plain, tokens, mask, SHAPE);
        };
        write(&tokens, &mask);
        let whole = [vectors::read_npz_items(&zipped).unwrap(), tensors::read_items(&plain).unwrap()];
        assert_eq!(whole[0], whole[1]);
        for path in [&zipped, &plain] {
            let found = blocks(path, 90).unwrap();
            assert!(found.len() > items / 90);
            let mut first = 0;
            for block in found {
                let rows: Vec<usize> = (first..first + block.len()).collect();
                assert!(whole[0].select(&rows) == block);
                first += block.len();
            }
            assert_eq!(first, items);
        }
        // An item beyond the first block.
        let mut empty = mask.clone();
        empty[450 * each..451 * each].fill(0);
        write(&tokens, &empty);
        for path in [&zipped, &plain] {
            let message = blocks(path, 90).unwrap_err().to_string();
            assert!(message.contains("item 450 keeps no token"), "{message}");
        }
        npz(&zipped, &[("tokens", npy("<f4", &shape, &tokens)), ("mask", npy("|b1", "(600, 51)", &mask))]);
        let message = blocks(&zipped, 9).unwrap_err().to_string();
        assert!(message.contains("array mask: expected a mask of shape [600, 50]"), "{message}");
        npz(&zipped, &[("tokens", npy("<f4", &shape, &tokens[..tokens.len() / 2]))]);
        let message = blocks(&zipped, 600).unwrap_err().to_string();
        assert!(message.contains("array tokens: "), "{message}");
    }
}
