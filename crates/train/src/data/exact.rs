//! Reading as many bytes as a header promises, without trusting it.

use std::cmp::Ordering;
use std::io::Read;

/// More than any file: a header that asks for more is damaged.
const MOST_BYTES: u64 = 1 << 46;

/// Bytes of an array of `sizes` with `width` bytes an element.
///
/// # Errors
/// In words, for more than 64 TiB.
pub(super) fn size(sizes: &[usize], width: usize) -> Result<u64, String> {
    sizes
        .iter()
        .try_fold(width as u64, |bytes, &size| bytes.checked_mul(size as u64).filter(|&b| b <= MOST_BYTES))
        .ok_or_else(|| {
            format!("its header promises sizes {sizes:?}, more than {MOST_BYTES} bytes; the file is damaged")
        })
}

/// The rest of `from`, which must be `expected` bytes. What is there is read, not what the header promises: a
/// lying header must not allocate.
///
/// # Errors
/// In words, for fewer or more bytes and for what `from` fails with.
pub(super) fn bytes(from: impl Read, expected: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    from.take(expected.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| damaged(&e))?;
    length(bytes.len() as u64, expected).map(|()| bytes)
}

/// Whether `got` bytes of data are there, as the header promises.
///
/// # Errors
/// In words, for fewer or more.
pub(super) fn length(got: u64, expected: u64) -> Result<(), String> {
    match got.cmp(&expected) {
        Ordering::Equal => Ok(()),
        Ordering::Less => Err(format!(
            "its header promises {expected} bytes of data and {got} are there; copy or download it again"
        )),
        Ordering::Greater => Err(format!(
            "it holds more than the {expected} bytes of data that its header promises; copy or download it again"
        )),
    }
}

/// Refuses what stands behind the data.
///
/// # Errors
/// In words: more bytes, and what `from` fails with.
pub(super) fn ended(from: &mut impl Read) -> Result<(), String> {
    match from.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => Err("it holds more data than its header promises; copy or download it again".to_owned()),
        Err(error) => Err(damaged(&error)),
    }
}

/// A failed read, in words.
pub(super) fn damaged(error: &std::io::Error) -> String {
    format!("damaged or truncated ({}); copy or download it again", reason(error))
}

/// Why a read failed.
pub(super) fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => "it ends too early".to_owned(),
        _ => error.to_string(),
    }
}
