//! Signals that would end the process without a word: a mapped file that is cut short, a limit on file sizes, a wish that
//! the process end.
//!
//! A program asks for this once ([`on_lost_file`], [`file_limit_is_an_error`], [`on_end`]); a library that is part of
//! another program leaves its signals alone. Invariant: every living [`Mapping`](super::Mapping) of a file is in `MAPPED`.

use std::mem::zeroed;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::ptr::null_mut;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// The addresses and paths of mapped files. The lock is never held while a mapping is read: see [`lost`].
static MAPPED: Mutex<Vec<(Range<usize>, PathBuf)>> = Mutex::new(Vec::new());

/// What the program does about a lost file.
static REPORT: OnceLock<fn(&Path) -> i32> = OnceLock::new();

fn mapped() -> MutexGuard<'static, Vec<(Range<usize>, PathBuf)>> {
    MAPPED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Remembers that `path` is mapped at `range`.
pub(super) fn add(range: Range<usize>, path: &Path) {
    mapped().push((range, path.to_owned()));
}

/// Forgets the mapping at `range`.
pub(super) fn remove(range: Range<usize>) {
    mapped().retain(|(r, _)| *r != range);
}

/// From now on, reading a part of a mapped file that is not there any more calls `report` with the file's path and ends
/// the process with the exit code that it gives.
///
/// Where the system refuses, such a read ends the process by a signal, as it does without this call.
pub fn on_lost_file(report: fn(&Path) -> i32) {
    if REPORT.set(report).is_ok() {
        // SAFETY: zeroes are a valid sigaction; `lost` has the signature that SA_SIGINFO asks for, and the old action is
        // not wanted.
        unsafe {
            let mut action: libc::sigaction = zeroed();
            action.sa_sigaction = lost as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            libc::sigaction(libc::SIGBUS, &action, null_mut());
        }
    }
}

/// Handles SIGBUS. A signal that a read of a mapped file raised interrupts nothing but that read: it comes at the reading
/// instruction, in the thread that reads. So this may take the lock, which no reader of a mapping holds, allocate and
/// write. Any other SIGBUS takes its usual course.
extern "C" fn lost(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the system passes a valid `info`; with BUS_ADRERR, its address is set.
    let address = unsafe { ((*info).si_code == libc::BUS_ADRERR).then(|| (*info).si_addr() as usize) };
    if let (Some(address), Some(report)) = (address, REPORT.get()) {
        let files = mapped();
        if let Some((_, path)) = files.iter().find(|(range, _)| range.contains(&address)) {
            let code = report(path);
            // SAFETY: ends the process without running anything else. The lock is still held, so that only the first of
            // several threads reports.
            unsafe { libc::_exit(code) };
        }
    }
    // SAFETY: restoring the default is always allowed; the instruction repeats and ends the process.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// From now on, writing a file beyond the limit on file sizes (`ulimit -f`) fails instead of ending the process.
pub fn file_limit_is_an_error() {
    // SAFETY: ignoring a signal runs no code.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// From now on, a thread of its own calls `handle` when Ctrl-C, SIGTERM or SIGHUP asks the process to end; `true` stands
/// for Ctrl-C. One that is ignored, as by `nohup`, stays so. To be called before any thread is started: those that are
/// running may still end the process.
///
/// # Errors
/// That of the system. The signals then end the process.
pub fn on_end(mut handle: impl FnMut(bool) + Send + 'static) -> std::io::Result<()> {
    // SAFETY: a sigset_t and a sigaction are plain data, for which zero is valid; the calls write no more than these.
    let (set, failed) = unsafe {
        let (mut set, mut action): (libc::sigset_t, libc::sigaction) = (zeroed(), zeroed());
        libc::sigemptyset(&mut set);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            if libc::sigaction(signal, std::ptr::null(), &mut action) == 0 && action.sa_sigaction != libc::SIG_IGN {
                libc::sigaddset(&mut set, signal);
            }
        }
        (set, libc::pthread_sigmask(libc::SIG_BLOCK, &set, null_mut()))
    };
    if failed != 0 {
        return Err(std::io::Error::from_raw_os_error(failed));
    }
    let wait = move || {
        loop {
            let mut signal = 0;
            // SAFETY: the call reads the set and writes the number, both of which outlive it.
            if unsafe { libc::sigwait(&set, &mut signal) } == 0 {
                handle(signal == libc::SIGINT);
            }
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait).map(drop)
}
