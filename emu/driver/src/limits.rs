//! What a card allows of a launch; a driver refuses what is beyond.

use crate::cards::{BLOCK, BLOCK_THREADS, Card, GRID};
use crate::code::{Figures, Preferences};
use crate::error::Error;

/// Checks a launch. What is wrong comes with the code of a driver.
pub(crate) fn check(
    card: &Card,
    entry: &emu::Entry,
    preferences: &Preferences,
    (grid, block): ([u32; 3], [u32; 3]),
    shared: u32,
    cooperative: bool,
) -> Result<(), (Error, String)> {
    let invalid = |what: String| Err((Error::INVALID_VALUE, format!("{}: {what}", entry.name)));
    let threads: u64 = block.iter().map(|&n| u64::from(n)).product();
    let within = |size: [u32; 3], most: [u32; 3]| size.iter().zip(most).all(|(&n, most)| (1..=most).contains(&n));
    if !within(grid, GRID) {
        return invalid(format!("a grid of {grid:?} is not possible; the limits are {GRID:?}"));
    }
    if !within(block, BLOCK) || threads > u64::from(BLOCK_THREADS) {
        return invalid(format!(
            "a block of {block:?} is not possible; the limits are {BLOCK:?} and {BLOCK_THREADS} threads"
        ));
    }
    if let Some(required) = entry.required_threads.filter(|&r| r != block) {
        return invalid(format!("a block of {block:?} is not the one of .reqntid {required:?}"));
    }
    if let Some(most) = entry.max_threads.filter(|m| threads > m.iter().map(|&n| u64::from(n)).product()) {
        return invalid(format!("a block of {block:?} is more than .maxntid {most:?}"));
    }
    let figures = Figures::of(entry);
    if threads > u64::from(figures.max_threads) {
        let what = format!("{threads} threads of {} registers are more than a block has", figures.registers);
        return Err((Error::LAUNCH_OUT_OF_RESOURCES, format!("{}: {what}", entry.name)));
    }
    if shared > preferences.dynamic_shared {
        let most = preferences.dynamic_shared;
        return invalid(format!(
            "{shared} bytes of dynamic shared memory are more than the {most} that were asked for"
        ));
    }
    if u64::from(shared) + entry.static_shared > u64::from(card.block_shared()) {
        let most = card.block_shared();
        return invalid(format!("{shared} bytes of dynamic shared memory do not fit into the {most} of a block"));
    }
    let room = u64::from(figures.blocks(card, threads as u32, shared)) * u64::from(card.multiprocessors);
    let blocks: u64 = grid.iter().map(|&n| u64::from(n)).product();
    if cooperative && blocks > room {
        let what = format!("{blocks} blocks cannot be there at once, only {room}");
        return Err((Error::COOPERATIVE_LAUNCH_TOO_LARGE, format!("{}: {what}", entry.name)));
    }
    Ok(())
}
