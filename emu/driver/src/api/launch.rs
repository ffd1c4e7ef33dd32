//! Launches of kernels.

use crate::abi::{In, structures};
use crate::arguments::gather;
use crate::call::{Call, exports};
use crate::error::{Answer, Error};
use crate::finding;
use crate::limits;
use crate::loading::function_of;
use crate::operation::{Kernel, Operation};
use crate::slots::Handle;
use crate::state::{Event, Record, Stream};
use crate::stream::{self, Request, enqueue};
use crate::submit;
use crate::work::Then;
use emu::{After, Edge};

exports! {
    Context {
        cuLaunchKernel @4000 (f: u64, gridDimX: u32, gridDimY: u32, gridDimZ: u32, blockDimX: u32, blockDimY: u32, blockDimZ: u32, sharedMemBytes: u32, hStream: u64, kernelParams: In<usize>, extra: In<usize>) = launch, cuLaunchKernel_ptsz;
        cuLaunchKernelEx @11060 (config: In<Config>, f: u64, kernelParams: In<usize>, extra: In<usize>) = launch_with, cuLaunchKernelEx_ptsz;
        cuLaunchCooperativeKernel @9000 (f: u64, gridDimX: u32, gridDimY: u32, gridDimZ: u32, blockDimX: u32, blockDimY: u32, blockDimZ: u32, sharedMemBytes: u32, hStream: u64, kernelParams: In<usize>) = launch_cooperative, cuLaunchCooperativeKernel_ptsz;
    }
}

structures! {
    /// `CUlaunchConfig`.
    pub(crate) struct Config {
        grid: [u32; 3],
        block: [u32; 3],
        shared: u32,
        stream: u64,
        attributes: usize,
        count: u32,
    }

    /// `CUlaunchAttribute`.
    pub(crate) struct Attribute {
        pub(crate) id: u32,
        pad: u32,
        pub(crate) value: [u64; 8],
    }
}

impl Config {
    /// Threads of a block, and its dynamic shared memory.
    pub(super) fn block(&self) -> (u32, u32) {
        (self.block.iter().fold(1, |n: u32, &d| n.saturating_mul(d)), self.shared)
    }
}

impl Attribute {
    /// From the bytes of its value.
    pub(crate) fn new(id: u32, bytes: &[u8; 64]) -> Attribute {
        let mut value = [0; 8];
        for (word, eight) in value.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_ne_bytes(*eight);
        }
        Attribute { id, pad: 0, value }
    }
}

/// Attributes of a launch, at most.
const MOST: u32 = 64;

/// What attributes ask of a launch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wishes {
    pub(crate) cooperative: bool,
    /// It may begin before the launch before it has ended.
    pub(crate) programmatic: bool,
    pub(crate) priority: i32,
    /// Numbers of events that happen with it.
    pub(crate) events: Vec<u64>,
}

impl Wishes {
    /// What an attribute adds.
    ///
    /// # Errors
    /// `NOT_SUPPORTED` for what cannot be honoured, `INVALID_VALUE` for what does not exist.
    pub(crate) fn add(&mut self, attribute: &Attribute) -> Answer {
        let word = |i: usize| (attribute.value[i / 2] >> (32 * (i % 2))) as u32;
        match attribute.id {
            // Nothing; windows of caches, how the host waits, how clusters are scheduled, domains of fences (all are one
            // here), the share of shared memory, links.
            0 | 1 | 3 | 5 | 9 | 10 | 14 | 16 => {}
            2 => self.cooperative = word(0) != 0,
            4 | 11 if (0..3).all(|i| word(i) <= 1) => {}
            6 => self.programmatic = word(0) != 0,
            7 | 12 => self.events.push(attribute.value[0]),
            8 => self.priority = word(0) as i32,
            4 | 11 => {
                let size = [word(0), word(1), word(2)];
                finding::remark(&format!("clusters of several blocks are not supported: {size:?}"));
                return Err(Error::NOT_SUPPORTED);
            }
            13 if word(0) == 0 => {}
            13 => {
                finding::remark("nodes that kernels update are not supported");
                return Err(Error::NOT_SUPPORTED);
            }
            _ => return Err(Error::INVALID_VALUE),
        }
        Ok(())
    }
}

/// A launch that the card allows, with its parameters copied.
///
/// # Errors
/// Those of a driver, with a remark.
pub(crate) fn kernel(
    call: &mut Call,
    number: u64,
    (grid, block): ([u32; 3], [u32; 3]),
    shared: u32,
    wishes: &Wishes,
    (params, extra): (In<usize>, In<usize>),
) -> Answer<Kernel> {
    let handle = function_of(call, number)?;
    let function = call.functions.get(handle).ok_or(Error::INVALID_HANDLE)?;
    let entry = function.code.module.entries().get(function.entry).ok_or(Error::INVALID_HANDLE)?;
    let Wishes { cooperative, priority, .. } = *wishes;
    let mut kernel =
        Kernel { function: handle, grid, block, shared, params: Default::default(), cooperative, priority };
    // Parameters of a launch that is refused are not looked at.
    fits(call, &kernel)?;
    kernel.params = gather(entry, params, extra)?;
    Ok(kernel)
}

/// Checks that the card allows a launch.
///
/// # Errors
/// Those of a driver, with a remark.
pub(crate) fn fits(call: &Call, kernel: &Kernel) -> Answer {
    let function = call.functions.get(kernel.function).ok_or(Error::INVALID_HANDLE)?;
    let entry = function.code.module.entries().get(function.entry).ok_or(Error::INVALID_HANDLE)?;
    let (size, all) = ((kernel.grid, kernel.block), kernel.cooperative);
    let checked = limits::check(call.settings()?.card, entry, &function.preferences, size, kernel.shared, all);
    checked.map_err(|(error, what)| {
        finding::remark(&format!("{}: {what}", call.export.name));
        error
    })
}

fn run(call: &mut Call, number: u64, kernel: Kernel, wishes: &Wishes) -> Answer {
    let stream = stream::resolve(call, number)?;
    let name = call.functions.get(kernel.function).map(|f| f.name.to_string_lossy().into_owned());
    let edge = if wishes.programmatic { Edge::Programmatic } else { Edge::Full };
    let label = format!(" of {}", name.unwrap_or_default());
    let request = Request { edge, label, ..Request::new(Operation::Kernel(kernel)) };
    let op = enqueue(call, stream, request)?;
    for &event in &wishes.events {
        let event = call.handle(|d| &d.events, event)?;
        match op {
            Some(op) => record(call, event, stream, op)?,
            None => _ = call.graphs.captures.record(event.number(), stream.number())?,
        }
    }
    Ok(())
}

/// Records an event beside a stream, whose next launch may still overlap this one.
fn record(call: &mut Call, event: Handle<Event>, stream: Handle<Stream>, op: emu::Op) -> Answer {
    let context = call.streams.get(stream).ok_or(Error::INVALID_HANDLE)?.context;
    let after = [After { op, edge: Edge::Full }];
    let op = submit::submit(call, context, &Operation::Nothing, &after, "an event of a launch", Then::Event(event))?;
    if let Some(e) = call.events.get_mut(event) {
        e.record = Some(Record { op, at: None });
    }
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "as many as in C")]
fn launch(
    call: &mut Call,
    function: u64,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    shared: u32,
    stream: u64,
    params: In<usize>,
    extra: In<usize>,
) -> Answer {
    let size = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
    let wishes = Wishes::default();
    let kernel = kernel(call, function, size, shared, &wishes, (params, extra))?;
    run(call, stream, kernel, &wishes)
}

fn launch_with(call: &mut Call, config: In<Config>, function: u64, params: In<usize>, extra: In<usize>) -> Answer {
    let config = config.get()?;
    if config.count > MOST {
        return Err(Error::INVALID_VALUE);
    }
    let mut wishes = Wishes::default();
    for attribute in In::<Attribute>::new(config.attributes).all(config.count as usize)? {
        wishes.add(&attribute)?;
    }
    let kernel = kernel(call, function, (config.grid, config.block), config.shared, &wishes, (params, extra))?;
    run(call, config.stream, kernel, &wishes)
}

#[expect(clippy::too_many_arguments, reason = "as many as in C")]
fn launch_cooperative(
    call: &mut Call,
    function: u64,
    grid_x: u32,
    grid_y: u32,
    grid_z: u32,
    block_x: u32,
    block_y: u32,
    block_z: u32,
    shared: u32,
    stream: u64,
    params: In<usize>,
) -> Answer {
    let size = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
    let wishes = Wishes { cooperative: true, ..Wishes::default() };
    let kernel = kernel(call, function, size, shared, &wishes, (params, In::new(0)))?;
    run(call, stream, kernel, &wishes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cudarc::driver::sys::{CUlaunchAttribute, CUlaunchConfig};
    use std::mem::offset_of;

    #[test]
    fn structures_are_those_of_c() {
        assert_eq!(size_of::<Config>(), size_of::<CUlaunchConfig>());
        assert_eq!(offset_of!(Config, attributes), offset_of!(CUlaunchConfig, attrs));
        assert_eq!(size_of::<Attribute>(), size_of::<CUlaunchAttribute>());
        assert_eq!(offset_of!(Attribute, value), offset_of!(CUlaunchAttribute, value));
    }
}
