//! Every reader of data. The first byte chooses the format, the rest is the file.
#![no_main]

#[path = "../entries.rs"]
#[allow(dead_code)] // Each target uses its own part.
mod entries;

libfuzzer_sys::fuzz_target!(|input: &[u8]| entries::data(input));
