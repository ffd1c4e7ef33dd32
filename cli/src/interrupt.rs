//! Ctrl-C: ends the process at once, or sets a flag where a loop looks at one; a second Ctrl-C always ends it.

use crate::failure::INTERRUPTED;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What Ctrl-C does from now on.
pub struct Interrupt {
    /// Whether Ctrl-C came.
    seen: Arc<AtomicBool>,
    /// Whether somebody looks at `seen`.
    watched: Arc<AtomicBool>,
}

impl Interrupt {
    /// Ctrl-C ends the process with [`INTERRUPTED`]. To be called once.
    pub fn new() -> Interrupt {
        let (seen, watched) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let interrupt = Interrupt { seen: seen.clone(), watched: watched.clone() };
        let handler = move || {
            if seen.swap(true, Ordering::Relaxed) || !watched.load(Ordering::Relaxed) {
                std::process::exit(i32::from(INTERRUPTED));
            }
        };
        // Without a handler, Ctrl-C ends the process as it would any other.
        let _ = ctrlc::set_handler(handler);
        interrupt
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
