//! A fingerprint of the data, so that a resumed run notices when they have changed.

use flate2::Crc;
use ndarray::ArrayView;

use crate::data::{Dataset, Items, Split};

/// CRC-32 over shapes, contents, labels and class names of all parts, as eight hexadecimal digits.
pub fn checksum(split: &Split) -> String {
    let mut crc = Crc::new();
    for part in [Some(&split.train), Some(&split.queries), split.gallery.as_ref()] {
        match part {
            Some(part) => add(&mut crc, part),
            None => crc.update(b"none"),
        }
    }
    format!("{:08x}", crc.sum())
}

fn add(crc: &mut Crc, data: &Dataset) {
    match &data.items {
        Items::Images(images) => {
            shape(crc, images.shape());
            bytes(crc, images.view(), |v| [v]);
        }
        Items::Files(files) => {
            shape(crc, &files.shape());
            shape(crc, &[files.len()]);
            for (path, sum) in files.paths().zip(files.checksums()) {
                crc.update(path.file_name().unwrap_or_default().as_encoded_bytes());
                crc.update(&sum.to_le_bytes());
            }
        }
        Items::Sequences(sequences) => {
            shape(crc, sequences.values().shape());
            shape(crc, sequences.lengths());
            bytes(crc, sequences.values().view(), f32::to_le_bytes);
        }
        Items::Vectors(vectors) => {
            shape(crc, vectors.shape());
            bytes(crc, vectors.view(), f32::to_le_bytes);
        }
        Items::VectorFile(file) => {
            shape(crc, &[file.len(), file.dim()]);
            // What cannot be read, training reports.
            let _ = file.each_block(|block| bytes(crc, block, f32::to_le_bytes));
        }
        Items::Text(texts) => {
            shape(crc, &[texts.len()]);
            for text in texts {
                crc.update(text.as_bytes());
                crc.update(&[0]);
            }
        }
    }
    for label in &data.labels {
        crc.update(&label.to_le_bytes());
    }
    for class in &data.classes {
        crc.update(class.as_bytes());
        crc.update(&[0]);
    }
}

fn shape(crc: &mut Crc, shape: &[usize]) {
    for &extent in shape {
        crc.update(&(extent as u64).to_le_bytes());
    }
}

/// In logical order, whatever the strides; buffered, because the checksum is slow on single values.
fn bytes<T: Copy, D: ndarray::Dimension, const N: usize>(
    crc: &mut Crc,
    values: ArrayView<'_, T, D>,
    to_bytes: impl Fn(T) -> [u8; N],
) {
    const BUFFER: usize = 1 << 16;
    let mut buffer = Vec::with_capacity(BUFFER + N);
    for &value in values.iter() {
        buffer.extend_from_slice(&to_bytes(value));
        if buffer.len() >= BUFFER {
            crc.update(&buffer);
            buffer.clear();
        }
    }
    crc.update(&buffer);
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array2, arr2};

    fn split(vectors: Array2<f32>, labels: Vec<u32>, classes: &[&str]) -> Split {
        let classes: Vec<String> = classes.iter().map(|&c| c.to_owned()).collect();
        let data = Dataset::new(Items::Vectors(vectors), labels, classes);
        Split { train: data.clone(), queries: data, gallery: None }
    }

    #[test]
    fn every_part_counts() {
        let vectors = arr2(&[[1.0, 2.0], [3.0, 4.0]]);
        let base = split(vectors.clone(), vec![0, 1], &["a", "b"]);
        assert_eq!(checksum(&base), checksum(&base.clone()));
        let mut others = vec![
            split(vectors.clone().reversed_axes(), vec![0, 1], &["a", "b"]),
            split(vectors.clone(), vec![1, 0], &["a", "b"]),
            split(vectors.clone(), vec![0, 1], &["a", "c"]),
            Split { gallery: Some(base.queries.clone()), ..base.clone() },
        ];
        let mut changed = base.clone();
        changed.queries.items = Items::Vectors(arr2(&[[1.0, 2.0], [3.0, 4.5]]));
        others.push(changed);
        for other in others {
            assert_ne!(checksum(&base), checksum(&other), "{other:?}");
        }
    }
}
