//! How much memory this process can still have.

use std::path::Path;

/// Bytes that can be allocated before the machine swaps or the process is killed: the system's estimate of available
/// memory, within the limits of the control groups that the process is in. `None` where the system does not tell.
pub fn available() -> Option<u64> {
    let machine = field(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?.checked_mul(1024)?;
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = groups.lines().find_map(|l| l.strip_prefix("0::/")).unwrap_or_default();
    let root = Path::new("/sys/fs/cgroup");
    let mut group = Some(root.join(path));
    let mut least = machine;
    while let Some(dir) = group.filter(|d| d.starts_with(root)) {
        let read = |file: &str| std::fs::read_to_string(dir.join(file)).ok();
        let number = |file: &str| read(file)?.trim().parse::<u64>().ok();
        if let (Some(max), Some(used)) = (number("memory.max"), number("memory.current")) {
            // Pages of files in the group's account can be dropped.
            let cached = read("memory.stat").and_then(|s| field(&s, "inactive_file")).unwrap_or(0);
            least = least.min(max.saturating_sub(used.saturating_sub(cached)));
        }
        group = dir.parent().map(Path::to_path_buf);
    }
    Some(least)
}

/// The first number after `name` at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|l| l.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        assert_eq!(field("MemTotal: 10 kB\nMemAvailable:   77 kB\n", "MemAvailable:"), Some(77));
        assert_eq!(field("anon 1\ninactive_file 5\n", "inactive_file"), Some(5));
        assert_eq!(field("", "x"), None);
    }
}
