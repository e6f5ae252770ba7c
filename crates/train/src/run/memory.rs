//! What the system says of this process's memory; `None` where it does not say (other systems than Linux).

use std::path::Path;

/// Bytes in memory now.
pub(super) fn resident() -> Option<usize> {
    kibibytes("/proc/self/status", "VmRSS:")
}

/// Bytes in memory at the most so far.
pub fn peak_memory() -> Option<usize> {
    kibibytes("/proc/self/status", "VmHWM:")
}

/// Bytes that the process may still take: what the system has free, or what is left of its control group's limit.
pub(super) fn available() -> Option<usize> {
    let free = kibibytes("/proc/meminfo", "MemAvailable:")?;
    let group = Path::new("/sys/fs/cgroup");
    let number = |name: &str| std::fs::read_to_string(group.join(name)).ok()?.trim().parse::<usize>().ok();
    match (number("memory.max"), number("memory.current")) {
        (Some(limit), Some(used)) => Some(free.min(limit.saturating_sub(used))),
        _ => Some(free),
    }
}

fn kibibytes(file: &str, name: &str) -> Option<usize> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn memory_is_seen_as_it_is_taken() {
        // Other tests of this process may free some meanwhile.
        const TAKEN: usize = 192 << 20;
        const SLACK: usize = 64 << 20;
        let before = resident().unwrap();
        let taken = std::hint::black_box(vec![1u8; TAKEN]);
        let grown = resident().unwrap() - before;
        assert!(grown >= TAKEN - SLACK, "{grown} bytes for {}", taken.len());
        assert!(peak_memory().unwrap() >= before + TAKEN - SLACK);
        assert!(available().unwrap() > 0);
    }
}
