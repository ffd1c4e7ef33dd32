//! Ctrl-C, SIGTERM and SIGHUP: each ends the process at once, or sets a flag where a loop looks at one; a second one
//! always ends it. The terminal is left as it was found.

use crate::failure::INTERRUPTED;
use runtime::sys::signals;
use runtime::sys::terminal::Terminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What Ctrl-C does from now on.
#[derive(Clone)]
pub struct Interrupt {
    /// Whether Ctrl-C came.
    seen: Arc<AtomicBool>,
    /// Whether somebody looks at `seen`.
    watched: Arc<AtomicBool>,
    /// Whether the process has to end, and not only what it is at.
    ending: Arc<AtomicBool>,
}

impl Interrupt {
    /// Each signal ends the process with [`INTERRUPTED`]. To be called once.
    pub fn new() -> Interrupt {
        let interrupt = Interrupt { seen: Arc::default(), watched: Arc::default(), ending: Arc::default() };
        let Interrupt { seen, watched, ending } = interrupt.clone();
        let terminal = Terminal::now();
        let handle = move |ctrl_c: bool| {
            if !ctrl_c {
                ending.store(true, Ordering::Relaxed);
            }
            if seen.swap(true, Ordering::Relaxed) || !watched.load(Ordering::Relaxed) {
                if let Some(terminal) = terminal {
                    terminal.restore();
                }
                std::process::exit(i32::from(INTERRUPTED));
            }
        };
        // Without a handler, the signals end the process as they would any other.
        let _ = signals::on_end(handle);
        interrupt
    }

    /// Whether a signal came that is not meant for what the process is at, but for the process.
    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    /// The flag that Ctrl-C sets from now on.
    pub fn flag(&self) -> &AtomicBool {
        self.watched.store(true, Ordering::Relaxed);
        &self.seen
    }

    /// Ctrl-C ends the process again, until the next [`flag`](Self::flag).
    pub fn rest(&self) {
        self.watched.store(false, Ordering::Relaxed);
        self.seen.store(false, Ordering::Relaxed);
    }
}
