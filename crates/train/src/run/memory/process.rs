//! What the system says of this process's memory; `None` where it does not say (other systems than Linux).

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// glibc raises the size by itself, up to this one.
const LARGEST: usize = 32 << 20;
static RETURNED_FROM: AtomicUsize = AtomicUsize::new(LARGEST);

/// Tells the forecasts of memory that arrays of `bytes` and more go back to the system when they are dropped, that smaller
/// ones stay with the allocator, and that all threads share one arena. For programs that fix these, as the program
/// `embedtune` does on Linux with glibc: `mallopt` with `M_MMAP_THRESHOLD` 524288, `M_ARENA_MAX` 1 and `M_TRIM_THRESHOLD`
/// 2097152 at the start of `main`. Without that glibc's arenas make a run's peak on several threads vary by up to a quarter
/// from run to run, more than a forecast can follow; the environment variables `MALLOC_MMAP_THRESHOLD_`, `MALLOC_ARENA_MAX`
/// and `MALLOC_TRIM_THRESHOLD_` do the same.
///
/// Of this process, once, before runs are built. Where nothing is said, or 32 MiB and more, forecasts are for glibc's
/// defaults.
pub fn assume_returned_from(bytes: usize) {
    RETURNED_FROM.store(bytes, Ordering::Relaxed);
}

/// Bytes from which arrays go back to the system.
pub(in crate::run) fn returned_from() -> usize {
    RETURNED_FROM.load(Ordering::Relaxed)
}

/// Whether all threads share one arena.
pub(in crate::run) fn one_arena() -> bool {
    returned_from() < LARGEST
}

/// Bytes in memory now.
pub(in crate::run) fn resident() -> Option<usize> {
    kibibytes("/proc/self/status", "VmRSS:")
}

/// Bytes in memory at the most so far.
pub fn peak_memory() -> Option<usize> {
    kibibytes("/proc/self/status", "VmHWM:")
}

/// Bytes that the process may still take: what the system has free, or what is left of a limit of its own (`ulimit -v`,
/// `ulimit -d`) or of its control groups, whichever is least.
pub(in crate::run) fn available() -> Option<usize> {
    let free = kibibytes("/proc/meminfo", "MemAvailable:");
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let left = |limit: &str, taken: &str| {
        Some(soft_limit(&limits, limit)?.saturating_sub(kibibytes("/proc/self/status", taken)?))
    };
    let own = [left("Max address space", "VmSize:"), left("Max data size", "VmData:")];
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let groups = left_in_groups(Path::new("/sys/fs/cgroup"), &groups);
    own.into_iter().chain([free, groups]).flatten().min()
}

/// The soft limit of this name in `/proc/self/limits`; `None` where there is none.
fn soft_limit(limits: &str, name: &str) -> Option<usize> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Bytes left of the tightest limit of the control groups in `/proc/self/cgroup`'s text, their parents' included; `root` is
/// where they are mounted. Pages of files that the system would give up count as free.
fn left_in_groups(root: &Path, groups: &str) -> Option<usize> {
    let mut least: Option<usize> = None;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        // Version 2 has one tree; version 1 one for each controller.
        let (root, [limit, used, cached]) = match controllers {
            "" => (root.to_path_buf(), ["memory.max", "memory.current", "inactive_file "]),
            _ if controllers.split(',').any(|name| name == "memory") => (
                root.join("memory"),
                ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "],
            ),
            _ => continue,
        };
        // Inside a container the path may be the outside's: its own group is then the root.
        let inner = root.join(path.trim_start_matches('/'));
        let here = inner.ancestors().take_while(|folder| folder.starts_with(&root));
        for folder in here {
            let text = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
            let number = |name: &str| text(name)?.trim().parse::<usize>().ok();
            let (Some(limit), Some(used)) = (number(limit), number(used)) else { continue };
            let stat = text("memory.stat").unwrap_or_default();
            let given_up = stat.lines().find_map(|line| line.strip_prefix(cached)?.trim().parse().ok());
            let left = limit.saturating_sub(used.saturating_sub(given_up.unwrap_or(0)));
            least = Some(least.map_or(left, |least| least.min(left)));
        }
    }
    least
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
    fn limits_are_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max data size             unlimited            unlimited            bytes     \n\
                      Max address space         2147483648           unlimited            bytes     \n";
        assert_eq!(soft_limit(limits, "Max address space"), Some(2 << 30));
        assert_eq!(soft_limit(limits, "Max data size"), None);
        assert_eq!(soft_limit("", "Max data size"), None);
    }

    #[test]
    fn the_tightest_group_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |folder: &str, files: &[(&str, &str)]| {
            let folder = root.path().join(folder);
            std::fs::create_dir_all(&folder).unwrap();
            files.iter().for_each(|(name, text)| std::fs::write(folder.join(name), text).unwrap());
        };
        let left = |groups: &str| left_in_groups(root.path(), groups);
        assert_eq!(left("0::/a/b\n"), None);
        write("a/b", &[("memory.max", "max\n"), ("memory.current", "10\n")]);
        assert_eq!(left("0::/a/b\n"), None);
        write("a", &[("memory.max", "1000\n"), ("memory.current", "700\n")]);
        assert_eq!(left("0::/a/b\n"), Some(300));
        write("a", &[("memory.stat", "file 400\ninactive_file 200\n")]);
        assert_eq!(left("0::/a/b\n"), Some(500));
        write("a/b", &[("memory.max", "50\n")]);
        assert_eq!(left("0::/a/b\n"), Some(40));
        // Version 1, and a path from outside a container.
        write("memory", &[("memory.limit_in_bytes", "900\n"), ("memory.usage_in_bytes", "100\n")]);
        assert_eq!(left("5:cpu,memory:/docker/x\n3:pids:/docker/x\n"), Some(800));
        assert_eq!(left("nonsense"), None);
    }

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
