//! A run's folder. The first byte chooses the file that the rest replaces.
#![no_main]

#[path = "../entries.rs"]
#[allow(dead_code)] // Each target uses its own part.
mod entries;

libfuzzer_sys::fuzz_target!(|input: &[u8]| entries::run(input));
