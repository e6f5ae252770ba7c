//! Takes the snippet out of the README of embedtune-losses, so that what is documented is what is compiled.

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    println!("cargo::rerun-if-changed={}", readme.display());
    let text = std::fs::read_to_string(readme)?;
    let snippet = text
        .split("```rust,ignore\n")
        .filter_map(|part| part.split("```").next())
        .find(|code| code.contains("Tensor"))
        .ok_or("the README has no snippet for tch")?;
    // One expression, as `include!` wants it.
    std::fs::write(Path::new(&std::env::var("OUT_DIR")?).join("snippet.rs"), format!("{{\n{snippet}}}\n"))?;
    Ok(())
}
