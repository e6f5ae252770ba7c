//! A [`State`] in a safetensors file.
//!
//! Tensors are stored as `F32`, counters as `U64` scalars. One metadata entry, `embedtune`, holds a JSON object
//! with the format's version, the kind of file and a CRC-32 of the contents: safetensors itself would load a
//! file whose weights a bad disk has changed. (One entry alone, because the library writes several in random
//! order, and equal runs should write equal bytes.)

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use flate2::Crc;
use ndarray::{ArrayD, IxDyn};
use safetensors::{Dtype, SafeTensors, View};
use serde::{Deserialize, Serialize};

use crate::{Error, Result, State, io};

const FORMAT: u32 = 1;
const KEY: &str = "embedtune";

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Encoder and class centres.
    Model,
    /// Everything that training continues from.
    Checkpoint,
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
    version: String,
    kind: Kind,
    crc32: u32,
    /// The options of the run, as TOML, where the file continues one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    options: Option<String>,
    /// Over the options' text. Checkpoints of before there was one have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    options_crc32: Option<u32>,
}

/// A tensor or a counter whose bytes are made as the file is laid out: beside the file in memory there is no other copy.
enum Entry<'a> {
    Tensor(&'a ArrayD<f32>),
    Counter(u64),
}

impl View for Entry<'_> {
    fn dtype(&self) -> Dtype {
        match self {
            Self::Tensor(_) => Dtype::F32,
            Self::Counter(_) => Dtype::U64,
        }
    }
    fn shape(&self) -> &[usize] {
        match self {
            Self::Tensor(tensor) => tensor.shape(),
            Self::Counter(_) => &[],
        }
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(match self {
            Self::Tensor(tensor) => tensor.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Self::Counter(count) => count.to_le_bytes().to_vec(),
        })
    }
    fn data_len(&self) -> usize {
        match self {
            Self::Tensor(tensor) => tensor.len() * size_of::<f32>(),
            Self::Counter(_) => size_of::<u64>(),
        }
    }
}

/// Writes `state` to `path`, all or nothing.
pub(crate) fn write(path: &Path, kind: Kind, state: &State) -> Result<()> {
    io::write_atomically(path, &encode(path, kind, state, None)?)
}

/// The bytes of a file for `path`, with the options that it belongs to.
pub(crate) fn encode(path: &Path, kind: Kind, state: &State, options: Option<String>) -> Result<Vec<u8>> {
    let tensors = state.tensors.iter().map(|(name, tensor)| (name.as_str(), Entry::Tensor(tensor)));
    let counters = state.counters.iter().map(|(name, count)| (name.as_str(), Entry::Counter(*count)));
    let entries: Vec<(&str, Entry<'_>)> = tensors.chain(counters).collect();
    let header = Header {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kind,
        crc32: crc(entries.iter().map(|(name, entry)| (*name, entry.data()))),
        options_crc32: options.as_deref().map(text_crc),
        options,
    };
    let header = serde_json::to_string(&header).map_err(|e| Error::data(path, e.to_string()))?;
    let info = HashMap::from([(KEY.to_owned(), header)]);
    safetensors::serialize(entries, Some(info))
        .map_err(|e| Error::data(path, format!("cannot be written: {e}")))
}

/// Reads what [`write`] wrote.
pub(crate) fn read(path: &Path, kind: Kind) -> Result<State> {
    read_with_options(path, kind).map(|(state, _)| state)
}

/// Reads what [`encode`] made.
pub(crate) fn read_with_options(path: &Path, kind: Kind) -> Result<(State, Option<String>)> {
    let bytes = std::fs::read(path).map_err(Error::io(path, "reading"))?;
    let broken = |why: String| {
        Error::data(path, format!("{why}; restore the file, or train again into another folder"))
    };
    let (_, metadata) = SafeTensors::read_metadata(&bytes)
        .map_err(|e| broken(format!("not a complete safetensors file ({e})")))?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|e| broken(format!("not a complete safetensors file ({e})")))?;
    let header = metadata.metadata().as_ref().and_then(|info| info.get(KEY));
    let header =
        header.ok_or_else(|| broken("was not written by embedtune (no `embedtune` metadata)".into()))?;
    let header: Header = serde_json::from_str(header)
        .map_err(|e| broken(format!("its `embedtune` metadata is unreadable ({e})")))?;
    if header.format != FORMAT {
        let detail = format!(
            "format {} (embedtune {}); this program reads format {FORMAT}: use that version, or train again",
            header.format, header.version
        );
        return Err(Error::data(path, detail));
    }
    if header.kind != kind {
        return Err(broken(format!("holds a {:?}, expected a {kind:?}", header.kind)));
    }
    let mut views = file.tensors();
    views.sort_by(|a, b| (a.1.dtype() != Dtype::F32, &a.0).cmp(&(b.1.dtype() != Dtype::F32, &b.0)));
    if crc(views.iter().map(|(name, view)| (name.as_str(), Cow::Borrowed(view.data())))) != header.crc32 {
        return Err(broken("its contents do not match their checksum".into()));
    }
    let held = header.options.as_deref().map(text_crc);
    if header.options_crc32.is_some() && held != header.options_crc32 {
        return Err(broken("the options that it holds do not match their checksum".into()));
    }
    let mut state = State::default();
    for (name, view) in views {
        match view.dtype() {
            Dtype::F32 => {
                let values = view.data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
                let tensor = ArrayD::from_shape_vec(IxDyn(view.shape()), values)
                    .map_err(|e| broken(format!("tensor `{name}`: {e}")))?;
                state.tensors.insert(name, tensor);
            }
            Dtype::U64 => {
                let count = view.data().try_into().map(u64::from_le_bytes);
                let count =
                    count.map_err(|_| broken(format!("counter `{name}` has shape {:?}", view.shape())))?;
                state.counters.insert(name, count);
            }
            other => return Err(broken(format!("tensor `{name}` has type {other:?}, expected F32 or U64"))),
        }
    }
    Ok((state, header.options))
}

/// Over names and contents, tensors before counters, each in the order of their names.
fn crc<'a>(entries: impl Iterator<Item = (&'a str, Cow<'a, [u8]>)>) -> u32 {
    let mut crc = Crc::new();
    for (name, bytes) in entries {
        crc.update(name.as_bytes());
        crc.update(&bytes);
    }
    crc.sum()
}

fn text_crc(text: &str) -> u32 {
    let mut crc = Crc::new();
    crc.update(text.as_bytes());
    crc.sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::arr2;

    fn state() -> State {
        let mut state = State::default();
        state
            .tensors
            .insert("encoder.weight".into(), arr2(&[[1.0, -2.5], [f32::MIN_POSITIVE, 3e38]]).into_dyn());
        state.tensors.insert("scalar".into(), ndarray::arr0(7.0).into_dyn());
        state.tensors.insert("empty".into(), ArrayD::zeros(IxDyn(&[0, 4])));
        state.counters.insert("aa_first".into(), u64::MAX);
        state
    }

    #[test]
    fn a_state_survives_and_equal_states_give_equal_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        write(&a, Kind::Model, &state()).unwrap();
        write(&b, Kind::Model, &state()).unwrap();
        assert_eq!(read(&a, Kind::Model).unwrap(), state());
        assert_eq!(std::fs::read(a).unwrap(), std::fs::read(b).unwrap());
    }

    #[test]
    fn damaged_options_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        let options = "epochs = 3\nlearning_rate = 0.001\n".to_owned();
        let good = encode(&path, Kind::Checkpoint, &state(), Some(options.clone())).unwrap();
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            read_with_options(&path, Kind::Checkpoint)
        };
        assert_eq!(read(&good).unwrap(), (state(), Some(options)));
        let at = |text: &[u8]| good.windows(text.len()).position(|window| window == text).unwrap();
        // One digit for another, and the options' own name.
        for (at, with) in [(at(b"epochs = 3") + 9, b'2'), (at(b"options") + 1, b'q')] {
            let mut damaged = good.clone();
            damaged[at] = with;
            let message = read(&damaged).unwrap_err().to_string();
            assert!(message.contains("the options that it holds do not match their checksum"), "{message}");
            assert!(message.contains("checkpoint.safetensors"), "{message}");
        }
    }

    #[test]
    fn damaged_and_foreign_files_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        write(&path, Kind::Model, &state()).unwrap();
        let good = std::fs::read(&path).unwrap();
        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let foreign = safetensors::serialize(Vec::<(String, Entry<'_>)>::new(), None).unwrap();
        let cases = [
            (good[..good.len() - 1].to_vec(), "not a complete safetensors file"),
            (b"PK\x03\x04 something else".to_vec(), "not a complete safetensors file"),
            (Vec::new(), "not a complete safetensors file"),
            (flipped, "do not match their checksum"),
            (foreign, "was not written by embedtune"),
        ];
        for (bytes, expected) in cases {
            std::fs::write(&path, bytes).unwrap();
            let message = read(&path, Kind::Model).unwrap_err().to_string();
            assert!(message.contains(expected) && message.contains("model.safetensors"), "{message}");
        }
        std::fs::write(&path, good).unwrap();
        let message = read(&path, Kind::Checkpoint).unwrap_err().to_string();
        assert!(message.contains("holds a Model, expected a Checkpoint"), "{message}");
    }
}
