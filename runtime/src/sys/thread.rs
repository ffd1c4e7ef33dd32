//! Placement of threads on CPUs.

/// The CPUs that this process may use, first one hardware thread of each core, then their siblings.
///
/// Empty where the system does not tell.
pub fn cpus() -> Vec<usize> {
    order(allowed(), core_of).0
}

/// Cores that this process may use, at least 1.
pub fn cores() -> usize {
    match order(allowed(), core_of) {
        (cpus, _) if cpus.is_empty() => std::thread::available_parallelism().map_or(1, |n| n.get()),
        (_, cores) => cores,
    }
}

/// The lowest CPU of the core that `cpu` belongs to.
fn core_of(cpu: usize) -> Option<usize> {
    let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
    // "0,16" or "0-1".
    std::fs::read_to_string(path).ok()?.split([',', '-', '\n']).next()?.parse().ok()
}

/// Sorts CPUs so that the first of each core comes first, and counts the cores.
fn order(cpus: Vec<usize>, core_of: impl Fn(usize) -> Option<usize>) -> (Vec<usize>, usize) {
    let mut seen = std::collections::HashSet::new();
    let (mut first, rest): (Vec<_>, Vec<_>) =
        cpus.into_iter().partition(|&cpu| core_of(cpu).is_none_or(|core| seen.insert(core)));
    let cores = first.len();
    first.extend(rest);
    (first, cores)
}

/// The affinity mask of the calling thread as a list.
fn allowed() -> Vec<usize> {
    CpuSet::of_this_thread().map(|set| (0..CpuSet::LEN).filter(|&cpu| set.contains(cpu)).collect()).unwrap_or_default()
}

/// A set of CPUs.
#[derive(Clone, Copy)]
pub struct CpuSet(libc::cpu_set_t);

impl CpuSet {
    /// CPUs that a set can hold.
    const LEN: usize = libc::CPU_SETSIZE as usize;

    /// The set of these CPUs; numbers too large for a set are left out.
    pub fn new(cpus: &[usize]) -> CpuSet {
        // SAFETY: a cpu_set_t is plain bits, for which zero is valid; only bits of the set are written.
        unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            for &cpu in cpus.iter().filter(|&&cpu| cpu < Self::LEN) {
                libc::CPU_SET(cpu, &mut set);
            }
            CpuSet(set)
        }
    }

    /// The CPUs that the calling thread may use, where the system tells.
    pub fn of_this_thread() -> Option<CpuSet> {
        let mut set = CpuSet::new(&[]);
        // SAFETY: the call writes no more than the size it is given.
        let failed = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set.0) != 0 };
        (!failed).then_some(set)
    }

    /// Ties the calling thread to the set; a refusal is ignored.
    pub fn bind_this_thread(&self) {
        // SAFETY: the call reads no more than the size it is given.
        unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &self.0) };
    }

    /// Whether the calling thread runs on one of them now; false where the system does not tell.
    pub fn has_this_thread(&self) -> bool {
        // SAFETY: the call has no arguments and touches no memory of ours.
        usize::try_from(unsafe { libc::sched_getcpu() }).is_ok_and(|cpu| self.contains(cpu))
    }

    fn contains(&self, cpu: usize) -> bool {
        // SAFETY: callers ask for bits of the set.
        cpu < Self::LEN && unsafe { libc::CPU_ISSET(cpu, &self.0) }
    }
}

impl std::fmt::Debug for CpuSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries((0..Self::LEN).filter(|&cpu| self.contains(cpu))).finish()
    }
}

/// Ties the calling thread to a set of CPUs until dropped.
#[derive(Debug)]
pub struct Bound(Option<CpuSet>);

impl Bound {
    /// Ties the calling thread to `set`.
    pub fn new(set: &CpuSet) -> Bound {
        let before = CpuSet::of_this_thread();
        if before.is_some() {
            set.bind_this_thread();
        }
        Bound(before)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            before.bind_this_thread();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_of_each_core_first() {
        assert_eq!(order(vec![0, 1, 2, 3], |c| Some(c / 2)), (vec![0, 2, 1, 3], 2));
        assert_eq!(order(vec![0, 1, 2, 3], |c| Some(c % 2)), (vec![0, 1, 2, 3], 2));
        assert_eq!(order(vec![3, 5], |_| None), (vec![3, 5], 2));
        assert!(cores() >= 1);
    }

    #[test]
    fn bound_for_a_while() {
        let before = allowed();
        let Some(&cpu) = before.first() else { return };
        let bound = Bound::new(&CpuSet::new(&[cpu]));
        assert_eq!(allowed(), [cpu]);
        assert!(CpuSet::new(&[cpu]).has_this_thread() && !CpuSet::new(&[cpu + 1]).has_this_thread());
        drop(bound);
        assert_eq!(allowed(), before);
    }
}
