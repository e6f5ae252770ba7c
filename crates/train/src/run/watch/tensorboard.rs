//! TensorBoard event files.
//!
//! An event file is a sequence of TFRecords: length `u64`, masked CRC-32C of the length, bytes, masked CRC-32C of the bytes,
//! little-endian (TensorFlow, `core/lib/io/record_writer.h`). Each holds an `Event` message of protocol buffers
//! (`core/util/event.proto`): `wall_time` 1 (double), `step` 2 (int64), `file_version` 3 (string), `summary` 5, whose `value`
//! 1 has `tag` 1 (string) and `simple_value` 2 (float).

use std::io::Write;
use std::path::Path;

use crate::run::EpochRecord;
use crate::{Error, Result, io};

/// Writes the records' figures, a step an epoch. What is new is added to the file's end, where TensorBoard goes on reading; a
/// file that holds anything else is replaced, all or nothing. `start` is the run's beginning in seconds since 1970; the
/// events' times are it and the seconds trained.
pub(in crate::run) fn write(path: &Path, start: f64, records: &[EpochRecord]) -> Result<()> {
    let mut file = head(start);
    let mut time = start;
    for epoch in records {
        time += epoch.seconds;
        for (tag, value) in scalars(epoch) {
            scalar(&mut file, time, epoch.epoch as u64, &tag, value);
        }
    }
    match std::fs::read(path) {
        Ok(there) if file.starts_with(&there) => append(path, &file[there.len()..]),
        _ => io::write_atomically(path, &file),
    }
}

/// How an event file begins; `start` in seconds since 1970.
pub(super) fn head(start: f64) -> Vec<u8> {
    let mut file = Vec::new();
    record(&mut file, &event(start, 0, |event| bytes(event, 3, b"brain.Event:2")));
    file
}

/// Adds a figure at `time`, in seconds since 1970.
pub(super) fn scalar(file: &mut Vec<u8>, time: f64, step: u64, tag: &str, value: f64) {
    let mut summary_value = Vec::new();
    bytes(&mut summary_value, 1, tag.as_bytes());
    key(&mut summary_value, 2, 5);
    summary_value.extend_from_slice(&(value as f32).to_le_bytes());
    let mut summary = Vec::new();
    bytes(&mut summary, 1, &summary_value);
    record(file, &event(time, step, |event| bytes(event, 5, &summary)));
}

/// What a kill leaves of it is the beginning of what the next call adds.
fn append(path: &Path, more: &[u8]) -> Result<()> {
    let added = std::fs::OpenOptions::new().append(true).open(path).and_then(|mut file| {
        file.write_all(more)?;
        file.sync_data()
    });
    added.map_err(Error::io(path, "adding to it"))
}

/// The figures that an epoch has, by tag.
fn scalars(epoch: &EpochRecord) -> Vec<(String, f64)> {
    let recall = |quality: Option<crate::run::Quality>| quality.map(|quality| quality.recall_at_1);
    let map = |quality: Option<crate::run::Quality>| quality.map(|quality| quality.map_at_r);
    let trained = epoch.epoch > 0;
    let all = [
        ("train/loss", epoch.loss),
        ("train/active_fraction", epoch.active_fraction),
        ("train/accuracy", epoch.accuracy),
        ("train/grad_norm", epoch.grad_norm),
        ("train/zero_signal_batches", trained.then_some(epoch.zero_signal_batches as f64)),
        ("train/items_per_second", trained.then_some(epoch.items_per_second)),
        ("rate/model", epoch.learning_rate),
        ("rate/centres", epoch.loss_learning_rate),
        ("centres/turn_degrees", epoch.centre_turn_degrees),
        ("centres/angle_degrees", epoch.centre_angle_degrees),
        ("pooling/gem_p", epoch.gem_p),
        ("evaluation/recall_at_1", recall(epoch.metrics)),
        ("evaluation/map_at_r", map(epoch.metrics)),
        ("validation/recall_at_1", recall(epoch.validation)),
        ("validation/map_at_r", map(epoch.validation)),
    ];
    let all = all.into_iter().filter_map(|(tag, value)| Some((tag.to_owned(), value?)));
    let part = if epoch.validation.is_some() { "validation" } else { "evaluation" };
    // Two are there already.
    let more = epoch.figures.iter().filter(|(name, _)| !["recall_at_1", "map_at_r"].contains(&name.as_str()));
    let kept = epoch.kept.iter().flat_map(|kept| {
        let of = kept.metrics;
        [("kept/recall_at_1", of.recall_at_1), ("kept/map_at_r", of.map_at_r)]
    });
    all.chain(more.map(|(name, &value)| (format!("{part}/{name}"), value)))
        .chain(kept.map(|(tag, value)| (tag.to_owned(), value)))
        .collect()
}

fn event(time: f64, step: u64, what: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut event = Vec::new();
    key(&mut event, 1, 1);
    event.extend_from_slice(&time.to_le_bytes());
    key(&mut event, 2, 0);
    varint(&mut event, step);
    what(&mut event);
    event
}

fn record(file: &mut Vec<u8>, data: &[u8]) {
    let length = (data.len() as u64).to_le_bytes();
    file.extend_from_slice(&length);
    file.extend_from_slice(&masked(&length).to_le_bytes());
    file.extend_from_slice(data);
    file.extend_from_slice(&masked(data).to_le_bytes());
}

/// A field's number and wire type.
fn key(message: &mut Vec<u8>, field: u64, wire: u64) {
    varint(message, field << 3 | wire);
}

fn bytes(message: &mut Vec<u8>, field: u64, data: &[u8]) {
    key(message, field, 2);
    varint(message, data.len() as u64);
    message.extend_from_slice(data);
}

fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

/// TensorFlow's mask: a checksum of data that hold checksums would be weak.
fn masked(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), bit by bit: a run writes a few kilobytes an epoch.
fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        // RFC 3720, appendix B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_reader_goes_on_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        let epochs: Vec<EpochRecord> = (1..4)
            .map(|epoch| EpochRecord { epoch, loss: Some(1.0 / epoch as f64), ..EpochRecord::default() })
            .collect();
        write(&path, 10.0, &epochs[..1]).unwrap();
        let mut reader = std::fs::File::open(&path).unwrap();
        let mut read = Vec::new();
        let mut go_on = || std::io::Read::read_to_end(&mut reader, &mut read).map(|_| read.clone()).unwrap();
        let first = go_on();
        write(&path, 10.0, &epochs[..2]).unwrap();
        let second = go_on();
        assert!(second.len() > first.len() && second.starts_with(&first));
        // A kill has left half of what was added.
        let torn = second.len() - 9;
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(torn as u64).unwrap();
        write(&path, 10.0, &epochs).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let alone = folder.path().join("alone");
        write(&alone, 10.0, &epochs).unwrap();
        assert!(whole.starts_with(&second) && whole == std::fs::read(&alone).unwrap());
        // A run that is done again.
        write(&path, 11.0, &epochs[..1]).unwrap();
        write(&alone, 11.0, &epochs[..1]).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&alone).unwrap());
    }

    #[test]
    fn records_can_be_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        let epoch = EpochRecord { epoch: 300, loss: Some(0.5), seconds: 2.0, ..EpochRecord::default() };
        write(&path, 10.0, &[epoch]).unwrap();
        let file = std::fs::read(path).unwrap();
        let (mut rest, mut events) = (file.as_slice(), Vec::new());
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(u32::from_le_bytes(rest[8..12].try_into().unwrap()), masked(&rest[..8]));
            let data = &rest[12..12 + length];
            assert_eq!(rest[12 + length..16 + length], masked(data).to_le_bytes());
            events.push(data);
            rest = &rest[16 + length..];
        }
        assert!(events[0].ends_with(b"\x1a\x0dbrain.Event:2"));
        // time 12 (double), step 300 (varint 0xac 0x02), a summary with one value.
        let mut expected = vec![9];
        expected.extend_from_slice(&12f64.to_le_bytes());
        expected.extend_from_slice(b"\x10\xac\x02\x2a\x13\x0a\x11\x0a\x0atrain/loss\x15");
        expected.extend_from_slice(&0.5f32.to_le_bytes());
        assert_eq!(events[1], expected);
        assert_eq!(events.len(), 4);
    }
}
