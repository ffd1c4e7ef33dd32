//! Waiting with a watchdog: the driver's own calls for that cannot be given up, so a thread makes them.
//!
//! The thread sleeps between steps and is woken when one is under way, so that it costs no time. Whoever waits spins, for
//! longer than a token takes on a card, then looks now and then, and gives up when no kernel has begun for a while: [`Progress`] says which began last. Invariant: at most one wait is under
//! way. Next hop: the driver.

use super::driver::{self, Failure, out};
use cudarc::driver::sys;
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Looks at whether it is over between two looks at the clock.
const LOOKS: u32 = 1 << 10;
/// How long whoever waits spins.
const SPIN: Duration = Duration::from_millis(50);
/// How long it sleeps between two looks afterwards.
const NAP: Duration = Duration::from_millis(1);
/// The most that counts as patience from one look to the next: a process that was stopped meanwhile has not waited.
const MOST_OF_A_LOOK: Duration = Duration::from_secs(1);

/// The number of the launch that began last, as kernels write it to pinned memory.
pub(super) struct Progress {
    word: NonNull<AtomicU32>,
    /// Where kernels find it.
    pub address: sys::CUdeviceptr,
}

impl Progress {
    pub fn new() -> Result<Progress, Failure> {
        // SAFETY: here and below: there is a context, and the driver writes what it is asked for.
        let host =
            unsafe { out(|p| driver::cuMemHostAlloc(p, size_of::<AtomicU32>(), sys::CU_MEMHOSTALLOC_DEVICEMAP)) }?;
        let address = unsafe { out(|p| driver::cuMemHostGetDevicePointer_v2(p, host, 0)) };
        let (Ok(address), Some(word)) = (address, NonNull::new(host.cast::<AtomicU32>())) else {
            // SAFETY: it was just made.
            unsafe { driver::cuMemFreeHost(host) }?;
            return Err(address
                .err()
                .unwrap_or(Failure { call: "cuMemHostAlloc", code: sys::CUresult::CUDA_ERROR_UNKNOWN }));
        };
        let progress = Progress { word, address };
        progress.reset();
        Ok(progress)
    }

    /// Forgets which launch began last.
    pub fn reset(&self) {
        self.word().store(u32::MAX, Ordering::Relaxed);
    }

    /// The launch that began last, if one did.
    pub fn last(&self) -> Option<u32> {
        Some(self.word().load(Ordering::Relaxed)).filter(|&n| n != u32::MAX)
    }

    fn word(&self) -> &AtomicU32 {
        // SAFETY: pinned memory, aligned, that lives until this is dropped; kernels write whole words.
        unsafe { self.word.as_ref() }
    }

    /// Gives the memory back.
    pub fn free(&self) -> Result<(), Failure> {
        // SAFETY: no kernel runs.
        unsafe { driver::cuMemFreeHost(self.word.as_ptr().cast()) }
    }
}

/// What the two threads share.
#[derive(Default)]
struct Wait {
    /// Waits asked for; the last, of [`STOP`], ends the thread.
    asked: AtomicU64,
    /// The event to wait for, or null for the stream.
    event: AtomicPtr<c_void>,
    /// Waits that are over.
    over: AtomicU64,
    /// What the driver answered to the last.
    answer: AtomicU32,
}

/// The number of a wait that is none.
const STOP: u64 = u64::MAX;

/// How waiting ended.
pub(super) enum Ended {
    /// With an answer of the driver.
    Answer(Result<(), Failure>),
    /// It did not: no kernel has begun for so long.
    Hung(Duration),
}

/// A stream and the thread that waits for it.
pub(super) struct Waiter {
    wait: Arc<Wait>,
    thread: Option<JoinHandle<()>>,
    hung: bool,
}

/// Handles that may go to another thread.
struct Handles(sys::CUcontext, sys::CUstream);

// SAFETY: the driver's handles are for all threads.
unsafe impl Send for Handles {}

impl Waiter {
    /// Waits for things of a context and its stream, which live longer than this.
    ///
    /// # Errors
    /// That of the system if it has no thread; within, that of the driver if the thread cannot use the context.
    pub fn new(context: sys::CUcontext, stream: sys::CUstream) -> std::io::Result<Result<Waiter, Failure>> {
        let (wait, handles) = (Arc::<Wait>::default(), Handles(context, stream));
        let shared = Arc::clone(&wait);
        let (tell, entered) = sync_channel(1);
        let thread = std::thread::Builder::new().name("cuda wait".into()).spawn(move || {
            let handles = handles;
            // SAFETY: the context is retained.
            let answer = unsafe { driver::cuCtxSetCurrent(handles.0) };
            let usable = answer.is_ok();
            _ = tell.send(answer);
            if usable {
                work(&shared, handles.1);
            }
        })?;
        let waiter = Waiter { wait, thread: Some(thread), hung: false };
        // Without a context no wait would wait.
        let unknown = Failure { call: "cuCtxSetCurrent", code: sys::CUresult::CUDA_ERROR_UNKNOWN };
        Ok(entered.recv().unwrap_or(Err(unknown)).map(|()| waiter))
    }

    /// Waits for an event or, if that is null, for the stream; gives up after `patience` in which no kernel has begun.
    pub fn wait(&mut self, event: sys::CUevent, progress: &Progress, patience: Duration) -> Ended {
        if self.hung {
            return Ended::Hung(Duration::ZERO);
        }
        let number = self.wait.asked.load(Ordering::Relaxed) + 1;
        self.wait.event.store(event.cast(), Ordering::Relaxed);
        self.wait.asked.store(number, Ordering::Release);
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
        let start = Instant::now();
        let (mut waited, mut looked, mut last) = (Duration::ZERO, start, progress.last());
        let mut looks = 0u32;
        while self.wait.over.load(Ordering::Acquire) != number {
            looks += 1;
            if looks < LOOKS {
                std::hint::spin_loop();
                continue;
            }
            if start.elapsed() < SPIN {
                looks = 0;
                std::thread::yield_now();
            } else {
                std::thread::sleep(NAP);
            }
            let now = Instant::now();
            waited += (now - looked).min(MOST_OF_A_LOOK);
            looked = now;
            if progress.last() != last {
                (waited, last) = (Duration::ZERO, progress.last());
            } else if waited > patience {
                self.hung = true;
                return Ended::Hung(waited);
            }
        }
        let call = if event.is_null() { "cuStreamSynchronize" } else { "cuEventSynchronize" };
        let code = self.wait.answer.load(Ordering::Relaxed);
        Ended::Answer(match code {
            0 => Ok(()),
            // SAFETY: the thread has stored one of the enumeration's values.
            code => Err(Failure { call, code: unsafe { std::mem::transmute::<u32, sys::CUresult>(code) } }),
        })
    }

    /// Whether the driver has not come back from a wait.
    pub fn is_hung(&self) -> bool {
        self.hung
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.wait.asked.store(STOP, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // One that hangs in the driver cannot be waited for.
            if !self.hung {
                _ = thread.join();
            }
        }
    }
}

/// The thread's work, in the stream's context.
fn work(wait: &Wait, stream: sys::CUstream) {
    let mut done = 0;
    loop {
        let asked = wait.asked.load(Ordering::Acquire);
        if asked == STOP {
            return;
        }
        if asked == done {
            std::thread::park();
            continue;
        }
        let event: sys::CUevent = wait.event.load(Ordering::Relaxed).cast();
        // SAFETY: both are living: whoever asked for them waits.
        let answer = unsafe {
            if event.is_null() { driver::cuStreamSynchronize(stream) } else { driver::cuEventSynchronize(event) }
        };
        wait.answer.store(answer.map_or_else(|e| e.code as u32, |()| 0), Ordering::Relaxed);
        done = asked;
        wait.over.store(done, Ordering::Release);
    }
}
