//! `peer SUITE FOLDER`: embedtune's side of one case of `benches/peers`, by the protocol of its README.

use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;

use embedtune_benches::peer::{self, Outcome};

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, suite, folder] = &arguments[..] else { return Err("usage: peer SUITE FOLDER".into()) };
    let folder = Path::new(folder);
    let mut case = peer::load(suite, folder)?;
    let mut out = std::io::stdout();
    writeln!(out, "{{\"resident_bytes\": {}}}", memory("VmRSS:"))?;
    for line in std::io::stdin().lock().lines() {
        match line?.trim() {
            "run" => {
                let (start, cpu) = (Instant::now(), cpu_seconds());
                case.run()?;
                let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
                writeln!(out, "{{\"seconds\": {seconds}, \"cpu_seconds\": {cpu}}}")?;
            }
            "finish" => {
                let peak = memory("VmHWM:");
                let to = folder.join("ours");
                std::fs::create_dir_all(&to)?;
                case.write(&to)?;
                writeln!(out, "{{\"peak_bytes\": {peak}}}")?;
            }
            other => return Err(format!("unknown request {other:?}").into()),
        }
        out.flush()?;
    }
    Ok(())
}

/// Bytes of a line of `/proc/self/status`; 0 where there is none.
fn memory(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap_or_default();
    1024 * line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0u64)
}

/// What all threads have computed so far, to a hundredth of a second: fields 14 and 15 of `/proc/self/stat` in the ticks
/// of the kernel's interface; 0 where there is none.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The program's name, in parentheses, may hold spaces.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}
