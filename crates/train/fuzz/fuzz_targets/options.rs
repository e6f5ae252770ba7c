//! A file of options, its checks, and what is written of it.
#![no_main]

use embedtune_train::run::RunOptions;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(options) = RunOptions::from_toml(text) else { return };
    if options.check().is_ok() {
        let written = options.to_toml().expect("what was read can be written");
        assert_eq!(RunOptions::from_toml(&written).expect("and read again"), options);
    }
});
