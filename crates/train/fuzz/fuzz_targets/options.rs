//! A file of options, its checks, and what is written of it.
#![no_main]

#[path = "../entries.rs"]
#[allow(dead_code)] // Each target uses its own part.
mod entries;

libfuzzer_sys::fuzz_target!(|text: &str| entries::options(text));
