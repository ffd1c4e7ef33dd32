//! Operations are checked and handed to the emulator. What it is then asked for is exactly what the data says; where memory of
//! the process is pinned, it is reached by its address, as device memory is.

use crate::code::Figures;
use crate::error::{Answer, Error};
use crate::finding;
use crate::memory::{Place, Process, Staged};
use crate::operation::{Kernel, Memory, Operation, Side, Value};
use crate::slots::Handle;
use crate::state::{Context, Driver};
use crate::thread;
use crate::work::{Pending, Then};
use std::ffi::c_void;
use std::ops::Range;

/// Why a range of addresses cannot be used by a call: a finding where it has words.
pub(crate) fn check(driver: &Driver, what: &str, address: u64, bytes: u64) -> Result<(), (Error, Option<String>)> {
    let words = match driver.memory.place(address, bytes) {
        Place::In(base) => match driver.memory.get(base).and_then(|a| a.freeing) {
            Some(by) => format!("{what} of {bytes} bytes at {address:#x} is in memory that {by} has freed"),
            None => return Ok(()),
        },
        Place::Past { base, bytes: size } => {
            let by = address + bytes - base - size;
            format!(
                "{what} of {bytes} bytes at {address:#x} ends {by} bytes past the allocation of {size} bytes at {base:#x}"
            )
        }
        Place::Freed { base, bytes: size, by } => {
            format!("{what} at {address:#x} is in memory that {by} has freed: {size} bytes at {base:#x}")
        }
        Place::Unknown => return Err((Error::INVALID_VALUE, None)),
    };
    Err((Error::INVALID_VALUE, Some(words)))
}

/// What is wrong with an operation before it is asked for, if anything.
pub(crate) fn refuse(driver: &Driver, operation: &Operation) -> Result<(), (Error, Option<String>)> {
    let invalid = |condition: bool| if condition { Ok(()) } else { Err((Error::INVALID_VALUE, None)) };
    match operation {
        Operation::Copy(copy) if !copy.empty() => {
            for (side, what) in [(&copy.from, "the source"), (&copy.to, "the target")] {
                let span = side.span(copy).ok_or((Error::INVALID_VALUE, None))?;
                invalid(copy.rows <= 1 || side.pitch >= copy.width)?;
                match side.at {
                    Memory::Device(address) => check(driver, what, address, span)?,
                    // What is not pinned is the caller's affair; what is has a size.
                    Memory::Host(address) if driver.memory.around(address).is_some() => {
                        check(driver, what, address, span)?
                    }
                    Memory::Host(address) => invalid(address != 0)?,
                    Memory::Staged(_) => {}
                }
            }
            Ok(())
        }
        Operation::Fill(fill) if fill.rows > 0 && fill.count > 0 => {
            let row = fill.count.checked_mul(u64::from(fill.width)).ok_or((Error::INVALID_VALUE, None))?;
            invalid(fill.to.is_multiple_of(u64::from(fill.width)) && (fill.rows == 1 || fill.pitch >= row))?;
            check(driver, "the target", fill.to, fill.span().ok_or((Error::INVALID_VALUE, None))?)
        }
        Operation::Values(values) => values.iter().try_for_each(|v| {
            invalid(v.address.is_multiple_of(v.bytes()))?;
            check(driver, "the word", v.address, v.bytes())
        }),
        _ => Ok(()),
    }
}

/// A side of a copy as the emulator sees it.
fn place(driver: &Driver, side: &Side, span: u64) -> emu::Place {
    match &side.at {
        Memory::Device(address) => emu::Place::Device(*address),
        Memory::Host(address) if driver.memory.around(*address).is_some() => emu::Place::Device(*address),
        Memory::Host(address) => emu::Place::Host(Box::new(Process::new(*address, span))),
        Memory::Staged(bytes) => emu::Place::Host(Box::new(Staged(bytes.to_vec()))),
    }
}

/// Hands an operation that [`refuse`] lets through to the emulator, after others. `label` names it in messages, `then` is
/// what happens when it has ended.
///
/// # Errors
/// Those of a launch that is not possible.
pub(crate) fn submit(
    driver: &mut Driver,
    context: Handle<Context>,
    operation: &Operation,
    after: &[emu::After],
    label: &str,
    then: Then,
) -> Answer<emu::Op> {
    let mut works = works(driver, operation)?;
    let last = works.pop().unwrap_or(emu::Work::Nothing);
    let mut after = after.to_vec();
    for work in works {
        let op = driver.work.submit(work, &after, label, Pending::new(context, label))?;
        after = vec![emu::After { op, edge: emu::Edge::Full }];
    }
    let mut pending = Pending::new(context, label);
    pending.then = then;
    pending.touches = touches(operation);
    if let Operation::Kernel(kernel) = operation {
        pending.module = driver.functions.get(kernel.function).map(|f| f.module);
    }
    driver.work.submit(last, &after, label, pending)
}

/// The addresses that an operation touches, as far as its data says.
fn touches(operation: &Operation) -> Vec<Range<u64>> {
    match operation {
        Operation::Copy(copy) => {
            let side = |side: &Side| match (&side.at, side.span(copy)) {
                (&(Memory::Device(at) | Memory::Host(at)), Some(span)) => Some(at..at + span),
                _ => None,
            };
            [&copy.from, &copy.to].into_iter().filter_map(side).collect()
        }
        Operation::Fill(fill) => fill.span().map(|span| fill.to..fill.to + span).into_iter().collect(),
        Operation::Values(values) => values.iter().map(|v| v.address..v.address + v.bytes()).collect(),
        _ => Vec::new(),
    }
}

/// What the emulator is to do, in order.
fn works(driver: &Driver, operation: &Operation) -> Answer<Vec<emu::Work>> {
    Ok(match operation {
        Operation::Kernel(kernel) => vec![launch(driver, kernel)?],
        Operation::Copy(copy) if copy.empty() => vec![],
        Operation::Copy(copy) => {
            let span = |side: &Side| side.span(copy).ok_or(Error::INVALID_VALUE);
            let from = place(driver, &copy.from, span(&copy.from)?);
            let to = place(driver, &copy.to, span(&copy.to)?);
            let pitch = |side: &Side| emu::Pitch { row: side.pitch, slice: side.slice };
            let extent = emu::Extent {
                row_bytes: copy.width,
                rows: copy.rows,
                slices: copy.slices,
                from: pitch(&copy.from),
                to: pitch(&copy.to),
            };
            vec![emu::Work::Copy { from, to, extent }]
        }
        Operation::Fill(fill) => {
            let pattern = match fill.width {
                1 => emu::Pattern::D8(fill.value as u8),
                2 => emu::Pattern::D16(fill.value as u16),
                _ => emu::Pattern::D32(fill.value),
            };
            let extent = emu::Extent::rows(fill.count * u64::from(fill.width), fill.rows, fill.pitch, fill.pitch);
            vec![emu::Work::Fill { to: fill.to, pattern, extent }]
        }
        &Operation::Host { function, data } => vec![emu::Work::Call(host_function(function, data))],
        Operation::Values(values) => values
            .iter()
            .map(|&Value { address, value, wait }| match wait {
                None => emu::Work::Write { address, value },
                Some(compare) => emu::Work::Wait { address, value, compare },
            })
            .collect(),
        &Operation::Allocate(base) => vec![emu::Work::Allocate(base)],
        &Operation::Free(base) => vec![emu::Work::Free(base)],
        Operation::Nothing => vec![],
    })
}

fn launch(driver: &Driver, kernel: &Kernel) -> Answer<emu::Work> {
    let function = driver.functions.get(kernel.function).ok_or(Error::INVALID_HANDLE)?;
    let module = driver.modules.get(function.module).ok_or(Error::INVALID_HANDLE)?;
    let launch = emu::Launch {
        entry: function.name.to_string_lossy().into_owned(),
        grid: kernel.grid,
        block: kernel.block,
        dynamic_shared: u64::from(kernel.shared),
        params: kernel.params.clone(),
    };
    let entry = function.code.module.entries().get(function.entry).ok_or(Error::INVALID_HANDLE)?;
    let figures = Figures::of(entry);
    let card = driver.settings()?.card;
    let threads = kernel.block.iter().product();
    let resident = figures.blocks(card, threads, kernel.shared) * card.multiprocessors;
    let options = emu::Options { resident_ctas: Some(resident as usize), ..*driver.work.engine.options() };
    let prepared = module.loaded.prepare(&launch, &options).map_err(|e| {
        // What the card allows was checked before, so that this is a limit of the emulator.
        finding::remark(&format!("{}: {e}", launch.entry));
        Error::LAUNCH_OUT_OF_RESOURCES
    })?;
    Ok(emu::Work::Launch(prepared))
}

/// A function of the program that gets one pointer.
pub(crate) fn host_function(function: usize, data: usize) -> Box<dyn FnOnce() + Send> {
    Box::new(move || {
        // SAFETY: the program gave this address as that of such a function.
        let f: extern "C" fn(*mut c_void) = unsafe { std::mem::transmute::<usize, _>(function) };
        thread::callback(|| f(std::ptr::with_exposed_provenance_mut(data)));
    })
}
