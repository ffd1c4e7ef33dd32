//! The worker pool of the CPU device: threads that start together, meet at barriers, and do not sleep in between.
//!
//! A job is one replay of a plan, so workers meet only at barriers from its first launch to its last and never park there.
//! Between jobs they spin for a while, then park. Invariant: one job at a time, and [`Pool::run`] returns when every
//! worker has left it. Next hop: `cpu` runs recorded launches on it.

use crate::sys::thread::{self, Bound, CpuSet};
use crate::{Error, Result};
use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Most workers of a pool.
pub const MAX_WORKERS: usize = 1024;

/// Looks at a flag before a waiter first offers its core to others: 1 to 5 us on current CPUs. When other programs keep
/// the cores busy, waiters may share a core with those they wait for, and each wait then takes this long at least.
const SPINS: u32 = 100;
/// The same when there are more workers than CPUs.
const SPINS_OVERSUBSCRIBED: u32 = 20;
/// How long idle workers stay awake after a job; longer than choosing and printing a token takes.
const LINGER: Duration = Duration::from_millis(2);

/// What workers run, with its lifetime erased.
type Job = *const (dyn Fn(usize) + Sync);

/// A value in cache lines of its own (two, as CPUs fetch them in pairs).
#[derive(Debug, Default)]
#[repr(align(128))]
struct Line<T>(T);

/// What the threads share.
#[derive(Debug)]
struct Shared {
    /// Number of the latest job.
    epoch: Line<AtomicU32>,
    /// Threads that have not finished it.
    running: Line<AtomicU32>,
    /// Workers that have come to the current barrier.
    arrived: Line<AtomicU32>,
    /// Barriers passed.
    passed: Line<AtomicU32>,
    /// Written by `run` alone, before it raises `epoch`.
    job: Line<UnsafeCell<Option<Job>>>,
    workers: u32,
    spins: u32,
    linger: Duration,
    stop: AtomicBool,
    /// Whether a worker has panicked in the current job, and the first panic.
    failed: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    parked: AtomicU32,
    lock: Mutex<()>,
    wake: Condvar,
}

// SAFETY: `job` is the only field that is not `Sync`. `run` writes it while no thread is in a job, then raises `epoch`
// (release); threads read it after they have seen the new epoch (acquire) and before they lower `running` (release), for
// whose zero `run` waits (acquire).
unsafe impl Sync for Shared {}
// SAFETY: the job pointer is only followed while its owner waits in `run`; what it points to is `Sync`.
unsafe impl Send for Shared {}

impl Shared {
    /// Returns once `done`; gives the core to others after some time.
    fn wait(&self, done: impl Fn() -> bool) {
        for _ in 0..self.spins {
            if done() {
                return;
            }
            std::hint::spin_loop();
        }
        while !done() {
            std::thread::yield_now();
        }
    }

    /// Whether a worker has panicked in this job.
    fn failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Waits for all workers; false if one has panicked, so that the others may not come.
    fn barrier(&self) -> bool {
        let passed = self.passed.0.load(Ordering::Relaxed);
        // The workers' writes are released here and, through the last one's store, acquired by all.
        if self.arrived.0.fetch_add(1, Ordering::AcqRel) + 1 == self.workers {
            self.arrived.0.store(0, Ordering::Relaxed);
            self.passed.0.store(passed.wrapping_add(1), Ordering::Release);
        } else {
            self.wait(|| self.passed.0.load(Ordering::Acquire) != passed || self.failed());
        }
        !self.failed()
    }

    /// Calls the job; keeps the first panic.
    fn call(&self, job: &(dyn Fn(usize) + Sync), worker: usize) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| job(worker))) {
            self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(payload);
            self.failed.store(true, Ordering::Relaxed);
        }
    }

    /// Waits for a job after number `seen`, and returns its number.
    fn next(&self, seen: u32) -> u32 {
        let current = || self.epoch.0.load(Ordering::Acquire);
        for _ in 0..self.spins {
            if current() != seen {
                return current();
            }
            std::hint::spin_loop();
        }
        let since = Instant::now();
        while since.elapsed() < self.linger {
            if current() != seen {
                return current();
            }
            std::thread::yield_now();
        }
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        // Either `publish` sees this count, or the load below sees its epoch: both pairs are sequentially consistent.
        self.parked.fetch_add(1, Ordering::SeqCst);
        while self.epoch.0.load(Ordering::SeqCst) == seen {
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.parked.fetch_sub(1, Ordering::SeqCst);
        current()
    }

    /// Starts all threads on what has been prepared.
    fn publish(&self) {
        self.epoch.0.fetch_add(1, Ordering::SeqCst);
        if self.parked.load(Ordering::SeqCst) > 0 {
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.wake.notify_all();
        }
    }

    /// The life of worker `worker`, a thread of the pool.
    fn work(&self, worker: usize) {
        let mut seen = 0;
        loop {
            seen = self.next(seen);
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            // SAFETY: see `Sync for Shared`: the job was written before this epoch and lives until `running` is 0.
            let job = unsafe { (*self.job.0.get()).map(|job| &*job) };
            if let Some(job) = job {
                self.call(job, worker);
            }
            self.running.0.fetch_sub(1, Ordering::Release);
        }
    }
}

/// A set of workers; the thread that calls [`Pool::run`] is worker 0.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<std::thread::JoinHandle<()>>,
    /// The CPUs that no thread of the pool is tied to: worker 0's during a job.
    others: Option<CpuSet>,
}

impl Pool {
    /// Starts `workers - 1` threads, each tied to a CPU of its own where there are enough.
    ///
    /// # Errors
    /// [`Error::Limit`] for 0 or more than [`MAX_WORKERS`] workers, [`Error::Device`] if the system refuses a thread.
    pub fn new(workers: usize) -> Result<Pool> {
        let Some(count) = u32::try_from(workers).ok().filter(|_| (1..=MAX_WORKERS).contains(&workers)) else {
            return Err(Error::Limit {
                what: "the worker pool".into(),
                need: workers as u64,
                have: MAX_WORKERS as u64,
            });
        };
        let cpus = thread::cpus();
        let oversubscribed = workers > cpus.len().max(1);
        let shared = Arc::new(Shared {
            epoch: Line::default(),
            running: Line::default(),
            arrived: Line::default(),
            passed: Line::default(),
            job: Line(UnsafeCell::new(None)),
            workers: count,
            spins: if oversubscribed { SPINS_OVERSUBSCRIBED } else { SPINS },
            linger: if oversubscribed { Duration::ZERO } else { LINGER },
            stop: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            panic: Mutex::new(None),
            parked: AtomicU32::new(0),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        });
        // From here on, dropping the pool ends the threads started so far.
        let others = (workers > 1 && !oversubscribed).then(|| [&cpus[..1], &cpus[workers..]].concat());
        let others = others.map(|cpus| CpuSet::new(&cpus));
        let mut pool = Pool { shared, threads: Vec::with_capacity(workers - 1), others };
        for worker in 1..workers {
            let shared = Arc::clone(&pool.shared);
            let cpu = cpus.get(worker).filter(|_| !oversubscribed).map(|&cpu| CpuSet::new(&[cpu]));
            let body = move || {
                if let Some(cpu) = cpu {
                    cpu.bind_this_thread();
                }
                shared.work(worker);
            };
            let thread = std::thread::Builder::new().name(format!("rigc-worker-{worker}")).spawn(body);
            pool.threads.push(thread.map_err(|e| {
                Error::device(format!("the system refuses thread {worker} of {workers}: {e}; use fewer threads"))
            })?);
        }
        Ok(pool)
    }

    /// Number of workers.
    pub fn workers(&self) -> usize {
        self.shared.workers as usize
    }

    /// Calls `job` with each worker's index on all workers at once, and returns when every call has.
    ///
    /// # Panics
    /// If a call panicked, after all have ended: with what the first one said.
    pub fn run(&mut self, job: &(dyn Fn(usize) + Sync)) {
        let shared = &*self.shared;
        if shared.workers == 1 {
            return job(0);
        }
        // Where this thread runs it mostly stays, so only the first of many jobs has to move it.
        let elsewhere = self.others.as_ref().filter(|others| !others.has_this_thread());
        let _bound = elsewhere.map(Bound::new);
        // SAFETY: only the lifetime changes. The pointer is followed by threads that `running` counts, and this function
        // does not return, nor unwind, before that count is 0.
        let erased: Job = unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), Job>(job) };
        // SAFETY: `&mut self` and the wait below: no thread is in a job now, so none reads the cell.
        unsafe { *shared.job.0.get() = Some(erased) };
        shared.running.0.store(shared.workers - 1, Ordering::Relaxed);
        shared.publish();
        shared.call(job, 0);
        shared.wait(|| shared.running.0.load(Ordering::Acquire) == 0);
        if shared.failed.swap(false, Ordering::Relaxed) {
            // Some workers may not have come to the barrier that others left.
            shared.arrived.0.store(0, Ordering::Relaxed);
            let payload = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
            resume_unwind(payload.unwrap_or_else(|| Box::new("a worker panicked")));
        }
    }

    /// What jobs hand to [`barrier`].
    pub fn handle(&self) -> *const u8 {
        Arc::as_ptr(&self.shared).cast()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.shared.publish();
        for thread in self.threads.drain(..) {
            // Threads catch the panics of jobs, so there is no result to lose.
            let _ = thread.join();
        }
    }
}

/// [`ir::abi::Atom::Barrier`]: returns when every worker of the pool has called it in the current job, or one has panicked.
/// It does not panic itself, as the frames of generated code cannot be unwound.
///
/// # Safety
/// `pool` is the [`Pool::handle`] of a living pool, and the caller runs in its [`Pool::run`].
pub unsafe extern "C" fn barrier(pool: *const u8, worker: usize) {
    // SAFETY: as above.
    unsafe { meet(pool, worker) };
}

/// The same, and whether the job can go on: whether no worker has panicked.
///
/// # Safety
/// As [`barrier`].
pub(super) unsafe fn meet(pool: *const u8, _worker: usize) -> bool {
    // SAFETY: the caller guarantees that this is the `Shared` of a living pool.
    unsafe { &*pool.cast::<Shared>() }.barrier()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    /// A pool handle that a test's closure may hold.
    #[derive(Clone, Copy)]
    struct Handle(*const u8);
    // SAFETY: the handle points to a `Shared`, which is `Sync`.
    unsafe impl Sync for Handle {}
    impl Handle {
        fn barrier(&self, worker: usize) -> bool {
            // SAFETY: tests call it inside of `run` of the pool that it came from.
            unsafe { meet(self.0, worker) }
        }
    }

    /// Every worker sees, after a barrier, what all others wrote before it.
    fn check_barriers(workers: usize, jobs: usize, barriers: usize) {
        let mut pool = Pool::new(workers).unwrap();
        let handle = Handle(pool.handle());
        let cells: Vec<AtomicUsize> = (0..workers).map(|_| AtomicUsize::new(0)).collect();
        for job in 0..jobs {
            pool.run(&|w| {
                for b in 0..barriers {
                    let stamp = (job * barriers + b) * 2 + 1;
                    cells[w].store(stamp, Ordering::Relaxed);
                    handle.barrier(w);
                    for c in &cells {
                        assert_eq!(c.load(Ordering::Relaxed), stamp);
                    }
                    handle.barrier(w);
                }
            });
        }
    }

    #[test]
    fn barriers_order_memory() {
        for (workers, jobs, barriers) in [(1, 1000, 10), (2, 2000, 10), (3, 300, 10), (8, 100, 10), (64, 3, 3)] {
            check_barriers(workers, jobs, barriers);
        }
    }

    #[test]
    fn every_worker_runs_every_job_once() {
        for workers in [1, 2, 3, 8] {
            let mut pool = Pool::new(workers).unwrap();
            let counts: Vec<AtomicUsize> = (0..workers).map(|_| AtomicUsize::new(0)).collect();
            for _ in 0..3000 {
                pool.run(&|w| {
                    counts[w].fetch_add(1, Ordering::Relaxed);
                });
            }
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 3000));
        }
    }

    #[test]
    fn parked_workers_wake() {
        let mut pool = Pool::new(3).unwrap();
        let count = AtomicUsize::new(0);
        for _ in 0..20 {
            std::thread::sleep(LINGER * 2);
            pool.run(&|_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
        }
        assert_eq!(count.into_inner(), 60);
    }

    /// The others leave barriers at which the culprit does not come, as often as they meet one.
    #[test]
    fn panics_reach_the_caller_and_the_pool_lives_on() {
        for workers in [1, 2, 3] {
            let mut pool = Pool::new(workers).unwrap();
            let handle = Handle(pool.handle());
            for culprit in 0..workers {
                let waited = AtomicUsize::new(0);
                let result = catch_unwind(AssertUnwindSafe(|| {
                    pool.run(&|w| {
                        if w == culprit {
                            resume_unwind(Box::new(format!("worker {w}")));
                        }
                        (0..3).for_each(|_| _ = waited.fetch_add(usize::from(handle.barrier(w)), Ordering::Relaxed));
                    });
                }));
                assert_eq!(waited.load(Ordering::Relaxed), 0, "nobody is waited for");
                let said = result.unwrap_err().downcast::<String>().unwrap();
                assert_eq!(*said, format!("worker {culprit}"));
                let count = AtomicUsize::new(0);
                pool.run(&|w| {
                    assert!(handle.barrier(w));
                    count.fetch_add(1, Ordering::Relaxed);
                    assert!(handle.barrier(w));
                    assert_eq!(count.load(Ordering::Relaxed), workers);
                });
            }
        }
    }

    #[test]
    fn absurd_worker_counts_are_errors() {
        for workers in [0, MAX_WORKERS + 1, usize::MAX] {
            assert!(matches!(Pool::new(workers), Err(Error::Limit { .. })));
        }
    }
}
