//! What belongs to a thread of the program: its number, its stack of contexts, and whether it runs a callback.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, Ordering};

/// Threads that have called, so far.
static THREADS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static NUMBER: u64 = THREADS.fetch_add(1, Ordering::Relaxed) + 1;
    /// Numbers of contexts, the current one last. 0 is none.
    static CONTEXTS: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
    static CALLBACK: Cell<bool> = const { Cell::new(false) };
}

/// Threads are numbered in the order of their first calls, from 1; 0 is one that is ending.
pub(crate) fn number() -> u64 {
    NUMBER.try_with(|n| *n).unwrap_or(0)
}

/// The number of the current context.
pub(crate) fn current_context() -> Option<u64> {
    with_contexts(|c| c.last().copied()).flatten().filter(|&n| n != 0)
}

/// Replaces the current context, or makes one current if none is. 0: none.
pub(crate) fn set_context(number: u64) {
    with_contexts(|contexts| {
        contexts.pop();
        if number != 0 {
            contexts.push(number);
        }
    });
}

pub(crate) fn push_context(number: u64) {
    with_contexts(|contexts| contexts.push(number));
}

pub(crate) fn pop_context() -> Option<u64> {
    with_contexts(Vec::pop).flatten()
}

/// A thread whose variables are gone has none.
fn with_contexts<T>(f: impl FnOnce(&mut Vec<u64>) -> T) -> Option<T> {
    CONTEXTS.try_with(|contexts| f(&mut contexts.borrow_mut())).ok()
}

/// Whether this thread runs a callback, which may not call.
pub(crate) fn in_callback() -> bool {
    CALLBACK.try_with(Cell::get).unwrap_or(false)
}

/// Runs a callback.
pub(crate) fn callback(f: impl FnOnce()) {
    CALLBACK.set(true);
    f();
    CALLBACK.set(false);
}
