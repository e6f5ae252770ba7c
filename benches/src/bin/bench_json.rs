//! Prints what criterion measured as one JSON list, each bench with its share of its group's roofline.
//!
//! `bench_json [TEXT] [--from FOLDER] [--out FILE]`: only benches whose id contains TEXT; FOLDER is criterion's (default:
//! `$CRITERION_HOME`, else `criterion` in `$CARGO_TARGET_DIR` or `target`); FILE is written instead of printing, all or
//! nothing. `embedtune_benches::collect` describes the keys.

use std::path::PathBuf;

use embedtune_benches::collect::collect;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (mut filter, mut from, mut out) = (String::new(), None::<PathBuf>, None::<PathBuf>);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--from" => from = Some(value()?.into()),
            "--out" => out = Some(value()?.into()),
            _ if argument.starts_with("--") => {
                return Err(format!("unknown option {argument}: there are --from and --out").into());
            }
            _ => filter = argument,
        }
    }
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let from = from
        .or_else(|| folder("CRITERION_HOME"))
        .unwrap_or_else(|| folder("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()).join("criterion"));
    let results = collect(&from, &filter)?;
    if results.is_empty() {
        return Err(format!(
            "{}: no results with `{filter}` in their id; run `cargo bench -p embedtune-benches -- {filter}` first",
            from.display()
        )
        .into());
    }
    let mut text = serde_json::to_string_pretty(&results)?;
    text.push('\n');
    match out {
        Some(path) => embedtune_train::io::write_atomically(&path, text.as_bytes())?,
        None => print!("{text}"),
    }
    Ok(())
}
