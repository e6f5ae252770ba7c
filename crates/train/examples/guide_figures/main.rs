//! Draws the figures of `embedtune_train::guide`.
//!
//! `cargo run --release -p embedtune-train --example guide_figures` writes all of them to `crates/train/src/guide/figures`;
//! further arguments are a folder to write to instead, and names of figures. Every curve is computed by the library;
//! nothing depends on the clock, the machine or the number of threads.

mod figures;

use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let committed = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src/guide/figures"));
    let folder = arguments.next().map_or_else(committed, PathBuf::from);
    let only: Vec<String> = arguments.collect();
    let wanted = |name: &str| only.is_empty() || only.iter().any(|o| o == name);
    if let Some(unknown) = only.iter().find(|o| figures::ALL.iter().all(|f| f.name != o.as_str())) {
        return Err(format!("no figure is named {unknown}; they are {}", figures::names()).into());
    }
    std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    for figure in figures::ALL.iter().filter(|figure| wanted(figure.name)) {
        let path = folder.join(figure.name).with_extension("svg");
        embedtune_train::io::write_atomically(&path, (figure.draw)()?.as_bytes())?;
        println!("{}{}", path.display(), if figure.trains { " (networks trained)" } else { "" });
    }
    Ok(())
}
