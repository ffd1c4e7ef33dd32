//! How much memory this process can still have.

use std::path::Path;

/// A version of control groups.
struct Groups {
    /// What a line of `/proc/self/cgroup` has before the path of the group that accounts memory.
    controllers: &'static str,
    /// Where groups are directories.
    root: &'static str,
    /// Files of the most memory that a group may have, and of what it has.
    limit: &'static str,
    used: &'static str,
    /// In `memory.stat`: pages of files in the group's account, which can be dropped.
    cached: &'static str,
}

static GROUPS: [Groups; 2] = [
    Groups {
        controllers: "",
        root: "/sys/fs/cgroup",
        limit: "memory.max",
        used: "memory.current",
        cached: "inactive_file ",
    },
    Groups {
        controllers: "memory",
        root: "/sys/fs/cgroup/memory",
        limit: "memory.limit_in_bytes",
        used: "memory.usage_in_bytes",
        cached: "total_inactive_file ",
    },
];

impl Groups {
    /// What the group and those around it have left, if one of them has a limit. `groups` is `/proc/self/cgroup`.
    fn left(&self, groups: &str, read: &dyn Fn(&Path) -> Option<String>) -> Option<u64> {
        // Lines are `number:controllers:/path`.
        let path = groups.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            let named = controllers.split(',').any(|c| c == self.controllers);
            named.then(|| path.trim_start_matches('/'))
        })?;
        let root = Path::new(self.root);
        let inside = root.join(path);
        let number = |dir: &Path, file: &str| read(&dir.join(file))?.trim().parse::<u64>().ok();
        let left = |dir: &Path| {
            let (limit, used) = (number(dir, self.limit)?, number(dir, self.used)?);
            let cached = read(&dir.join("memory.stat")).and_then(|s| field(&s, self.cached)).unwrap_or(0);
            Some(limit.saturating_sub(used.saturating_sub(cached)))
        };
        inside.ancestors().take_while(|dir| dir.starts_with(root)).filter_map(left).min()
    }
}

/// Bytes that can be allocated before the machine swaps or the process is killed: the system's estimate of available
/// memory, within the limits of the control groups that the process is in. `None` where the system does not tell.
pub fn available() -> Option<u64> {
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let machine = field(&read(Path::new("/proc/meminfo"))?, "MemAvailable:")?.checked_mul(1024)?;
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    Some(GROUPS.iter().filter_map(|g| g.left(&groups, &read)).fold(machine, u64::min))
}

/// The first number after `name` at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|l| l.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_groups() {
        let files = [
            ("/sys/fs/cgroup/a/b/memory.max", "max"),
            ("/sys/fs/cgroup/a/memory.max", "1000"),
            ("/sys/fs/cgroup/a/memory.current", "700"),
            ("/sys/fs/cgroup/a/memory.stat", "anon 1\ninactive_file 200\n"),
            ("/sys/fs/cgroup/memory/c/memory.limit_in_bytes", "900\n"),
            ("/sys/fs/cgroup/memory/c/memory.usage_in_bytes", "700\n"),
            ("/sys/fs/cgroup/memory/c/memory.stat", "inactive_file 1\ntotal_inactive_file 100\n"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "0\n"),
        ];
        let read = |path: &Path| files.iter().find(|(p, _)| Path::new(p) == path).map(|(_, text)| (*text).to_owned());
        let left = |groups: &str| GROUPS.each_ref().map(|g| g.left(groups, &read));
        assert_eq!(left("0::/a/b\n"), [Some(500), None]);
        assert_eq!(left("5:cpu,cpuacct:/a\n4:memory:/c\n0::/\n"), [None, Some(300)]);
        assert_eq!(left("4:hugetlb,memory:/c/gone\n"), [None, Some(300)]);
        assert_eq!(left(""), [None, None]);
    }

    #[test]
    fn fields() {
        assert_eq!(field("MemTotal: 10 kB\nMemAvailable:   77 kB\n", "MemAvailable:"), Some(77));
        assert_eq!(field("anon 1\ninactive_file 5\n", "inactive_file"), Some(5));
        assert_eq!(field("", "x"), None);
    }
}
