//! Copies: of one, two and three dimensions, in every direction, at once or in a stream.

use crate::abi::{In, Show, structures};
use crate::call::{Call, exports};
use crate::error::{Answer, Error};
use crate::operation::{Copy, Memory, Operation, Side};
use crate::progress;
use crate::slots::Handle;
use crate::state::Stream;
use crate::stream::{self, Request, enqueue};
use serde_json::{Value, json};

exports! {
    Context {
        cuMemcpy @4000 (dst: u64, src: u64, ByteCount: usize) = any, cuMemcpy_ptds;
        cuMemcpyAsync @4000 (dst: u64, src: u64, ByteCount: usize, hStream: u64) = any_async, cuMemcpyAsync_ptsz;
        cuMemcpyHtoD_v2 @3020 (dstDevice: u64, srcHost: u64, ByteCount: usize) = to_device, cuMemcpyHtoD_v2_ptds;
        cuMemcpyHtoDAsync_v2 @3020 (dstDevice: u64, srcHost: u64, ByteCount: usize, hStream: u64) = to_device_async, cuMemcpyHtoDAsync_v2_ptsz;
        cuMemcpyDtoH_v2 @3020 (dstHost: u64, srcDevice: u64, ByteCount: usize) = to_host, cuMemcpyDtoH_v2_ptds;
        cuMemcpyDtoHAsync_v2 @3020 (dstHost: u64, srcDevice: u64, ByteCount: usize, hStream: u64) = to_host_async, cuMemcpyDtoHAsync_v2_ptsz;
        cuMemcpyDtoD_v2 @3020 (dstDevice: u64, srcDevice: u64, ByteCount: usize) = within_device, cuMemcpyDtoD_v2_ptds;
        cuMemcpyDtoDAsync_v2 @3020 (dstDevice: u64, srcDevice: u64, ByteCount: usize, hStream: u64) = within_device_async, cuMemcpyDtoDAsync_v2_ptsz;
        cuMemcpyPeer @4000 (dstDevice: u64, dstContext: u64, srcDevice: u64, srcContext: u64, ByteCount: usize) = peer, cuMemcpyPeer_ptds;
        cuMemcpyPeerAsync @4000 (dstDevice: u64, dstContext: u64, srcDevice: u64, srcContext: u64, ByteCount: usize, hStream: u64) = peer_async, cuMemcpyPeerAsync_ptsz;
        cuMemcpy2D_v2 @3020 (pCopy: In<Copy2>) = two, cuMemcpy2D_v2_ptds;
        cuMemcpy2DUnaligned_v2 @3020 (pCopy: In<Copy2>) = two, cuMemcpy2DUnaligned_v2_ptds;
        cuMemcpy2DAsync_v2 @3020 (pCopy: In<Copy2>, hStream: u64) = two_async, cuMemcpy2DAsync_v2_ptsz;
        cuMemcpy3D_v2 @3020 (pCopy: In<Copy3>) = three, cuMemcpy3D_v2_ptds;
        cuMemcpy3DAsync_v2 @3020 (pCopy: In<Copy3>, hStream: u64) = three_async, cuMemcpy3DAsync_v2_ptsz;
        cuMemcpy3DPeer @4000 (pCopy: In<Copy3>) = three, cuMemcpy3DPeer_ptds;
        cuMemcpy3DPeerAsync @4000 (pCopy: In<Copy3>, hStream: u64) = three_async, cuMemcpy3DPeerAsync_ptsz;
    }
}

structures! {
    /// One side of `CUDA_MEMCPY2D`.
    pub(crate) struct Side2 {
        x: usize,
        y: usize,
        kind: u32,
        host: usize,
        device: u64,
        array: usize,
        pitch: usize,
    }

    /// `CUDA_MEMCPY2D`.
    pub(crate) struct Copy2 {
        from: Side2,
        to: Side2,
        width: usize,
        height: usize,
    }

    /// One side of `CUDA_MEMCPY3D`, and of `CUDA_MEMCPY3D_PEER`, where the reserved word is a context.
    pub(crate) struct Side3 {
        x: usize,
        y: usize,
        z: usize,
        level: usize,
        kind: u32,
        host: usize,
        device: u64,
        array: usize,
        reserved: usize,
        pitch: usize,
        height: usize,
    }

    /// `CUDA_MEMCPY3D`.
    pub(crate) struct Copy3 {
        from: Side3,
        to: Side3,
        width: usize,
        height: usize,
        depth: usize,
    }
}

/// Kinds of memory.
const HOST: u32 = 1;
const DEVICE: u32 = 2;
const ARRAY: u32 = 3;
const UNIFIED: u32 = 4;

impl Side3 {
    /// The first byte, and the steps from row to row and from slice to slice.
    fn side(&self, call: &Call, width: usize, height: usize) -> Answer<Side> {
        let pitch = if self.pitch == 0 { width } else { self.pitch };
        let rows = if self.height == 0 { height } else { self.height };
        let slice = pitch.checked_mul(rows).ok_or(Error::INVALID_VALUE)?;
        let offset = || {
            let slices = self.z.checked_mul(slice)?;
            let rows = self.y.checked_mul(pitch)?;
            slices.checked_add(rows)?.checked_add(self.x)
        };
        let offset = offset().ok_or(Error::INVALID_VALUE)? as u64;
        let at = |base: u64| base.checked_add(offset).ok_or(Error::INVALID_VALUE);
        let at = match self.kind {
            HOST => Memory::Host(at(self.host as u64)?),
            DEVICE => Memory::Device(at(self.device)?),
            UNIFIED => unified(call, at(self.device)?),
            ARRAY => return Err(Error::NOT_SUPPORTED),
            _ => return Err(Error::INVALID_VALUE),
        };
        Ok(Side { at, pitch: pitch as u64, slice: slice as u64 })
    }
}

impl Copy3 {
    /// The copy that it means.
    ///
    /// # Errors
    /// `NOT_SUPPORTED` for arrays, `INVALID_VALUE` for kinds of memory that do not exist.
    pub(crate) fn copy(&self, call: &Call) -> Answer<Copy> {
        let (width, height) = (self.width, self.height);
        Ok(Copy {
            from: self.from.side(call, width, height)?,
            to: self.to.side(call, width, height)?,
            width: width as u64,
            rows: height as u64,
            slices: self.depth as u64,
        })
    }
}

impl Side3 {
    /// The structure of a side, with its first byte.
    fn of(side: &Side) -> Side3 {
        let (kind, address) = match side.at {
            Memory::Host(address) => (HOST, address),
            Memory::Device(address) => (DEVICE, address),
            Memory::Staged(_) => (HOST, 0),
        };
        let (host, device) = if kind == HOST { (address as usize, 0) } else { (0, address) };
        let height = side.slice.checked_div(side.pitch).unwrap_or(0) as usize;
        let pitch = side.pitch as usize;
        Side3 { x: 0, y: 0, z: 0, level: 0, kind, host, device, array: 0, reserved: 0, pitch, height }
    }
}

impl Copy3 {
    /// The structure of a copy.
    pub(crate) fn of(copy: &Copy) -> Copy3 {
        let (from, to) = (Side3::of(&copy.from), Side3::of(&copy.to));
        Copy3 { from, to, width: copy.width as usize, height: copy.rows as usize, depth: copy.slices as usize }
    }
}

impl Copy2 {
    fn three(&self) -> Copy3 {
        let side = |s: &Side2| Side3 {
            x: s.x,
            y: s.y,
            z: 0,
            level: 0,
            kind: s.kind,
            host: s.host,
            device: s.device,
            array: s.array,
            reserved: 0,
            pitch: s.pitch,
            height: 0,
        };
        Copy3 { from: side(&self.from), to: side(&self.to), width: self.width, height: self.height, depth: 1 }
    }
}

/// What of a copy a trace shows.
impl Show for Copy3 {
    fn show(&self, _: bool) -> Value {
        json!({"width": self.width, "height": self.height, "depth": self.depth})
    }
}

/// Where an address is, of which the caller does not say it.
fn unified(call: &Call, address: u64) -> Memory {
    if call.memory.place(address, 1) == crate::memory::Place::Unknown {
        Memory::Host(address)
    } else {
        Memory::Device(address)
    }
}

/// Whether a driver waits for a copy that was to be asynchronous: to memory of the process that is not pinned.
fn pageable(call: &Call, at: &Memory) -> bool {
    matches!(at, Memory::Host(address) if call.memory.around(*address).is_none())
}

/// Whether a side is memory of the process.
fn host(call: &Call, at: &Memory) -> bool {
    match at {
        Memory::Device(a) | Memory::Host(a) => call.memory.around(*a).is_none_or(|(_, a)| a.what.host()),
        Memory::Staged(_) => true,
    }
}

/// Copies in a stream.
fn run_async(call: &mut Call, copy: Copy, number: u64) -> Answer {
    let stream = stream::resolve(call, number)?;
    let wait = !copy.empty() && pageable(call, &copy.to.at);
    match enqueue(call, stream, Request::new(Operation::Copy(copy)))? {
        Some(op) if wait => progress::wait_for(call, op),
        _ => Ok(()),
    }
}

/// Copies in the default stream, and waits unless both sides are memory of the device.
fn run(call: &mut Call, copy: Copy) -> Answer {
    let stream: Handle<Stream> = stream::resolve(call, 0)?;
    let wait = host(call, &copy.from.at) || host(call, &copy.to.at);
    stream::forbid_captured(call, stream)?;
    call.graphs.captures.forbid_unsafe()?;
    match enqueue(call, stream, Request::new(Operation::Copy(copy)))? {
        Some(op) if wait => progress::wait_for(call, op),
        _ => Ok(()),
    }
}

fn flat(from: Memory, to: Memory, bytes: usize) -> Copy {
    Copy::flat(from, to, bytes as u64)
}

fn any(call: &mut Call, to: u64, from: u64, bytes: usize) -> Answer {
    let copy = flat(unified(call, from), unified(call, to), bytes);
    run(call, copy)
}

fn any_async(call: &mut Call, to: u64, from: u64, bytes: usize, stream: u64) -> Answer {
    let copy = flat(unified(call, from), unified(call, to), bytes);
    run_async(call, copy, stream)
}

fn to_device(call: &mut Call, to: u64, from: u64, bytes: usize) -> Answer {
    run(call, flat(Memory::Host(from), Memory::Device(to), bytes))
}

fn to_device_async(call: &mut Call, to: u64, from: u64, bytes: usize, stream: u64) -> Answer {
    run_async(call, flat(Memory::Host(from), Memory::Device(to), bytes), stream)
}

fn to_host(call: &mut Call, to: u64, from: u64, bytes: usize) -> Answer {
    run(call, flat(Memory::Device(from), Memory::Host(to), bytes))
}

fn to_host_async(call: &mut Call, to: u64, from: u64, bytes: usize, stream: u64) -> Answer {
    run_async(call, flat(Memory::Device(from), Memory::Host(to), bytes), stream)
}

fn within_device(call: &mut Call, to: u64, from: u64, bytes: usize) -> Answer {
    run(call, flat(Memory::Device(from), Memory::Device(to), bytes))
}

fn within_device_async(call: &mut Call, to: u64, from: u64, bytes: usize, stream: u64) -> Answer {
    run_async(call, flat(Memory::Device(from), Memory::Device(to), bytes), stream)
}

fn contexts(call: &mut Call, all: [u64; 2]) -> Answer {
    all.into_iter().try_for_each(|number| call.handle(|d| &d.contexts, number).map(|_| ()))
}

fn peer(call: &mut Call, to: u64, to_context: u64, from: u64, from_context: u64, bytes: usize) -> Answer {
    contexts(call, [to_context, from_context])?;
    within_device(call, to, from, bytes)
}

fn peer_async(
    call: &mut Call,
    to: u64,
    to_context: u64,
    from: u64,
    from_context: u64,
    bytes: usize,
    stream: u64,
) -> Answer {
    contexts(call, [to_context, from_context])?;
    within_device_async(call, to, from, bytes, stream)
}

fn two(call: &mut Call, copy: In<Copy2>) -> Answer {
    let copy = copy.get()?.three().copy(call)?;
    run(call, copy)
}

fn two_async(call: &mut Call, copy: In<Copy2>, stream: u64) -> Answer {
    let copy = copy.get()?.three().copy(call)?;
    run_async(call, copy, stream)
}

fn three(call: &mut Call, copy: In<Copy3>) -> Answer {
    let copy = copy.get()?.copy(call)?;
    run(call, copy)
}

fn three_async(call: &mut Call, copy: In<Copy3>, stream: u64) -> Answer {
    let copy = copy.get()?.copy(call)?;
    run_async(call, copy, stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cudarc::driver::sys::{CUDA_MEMCPY2D, CUDA_MEMCPY3D, CUDA_MEMCPY3D_PEER};
    use std::mem::offset_of;

    #[test]
    fn structures_are_those_of_c() {
        assert_eq!(size_of::<Copy2>(), size_of::<CUDA_MEMCPY2D>());
        assert_eq!(offset_of!(Copy2, to.device), offset_of!(CUDA_MEMCPY2D, dstDevice));
        assert_eq!(offset_of!(Copy2, height), offset_of!(CUDA_MEMCPY2D, Height));
        assert_eq!(size_of::<Copy3>(), size_of::<CUDA_MEMCPY3D>());
        assert_eq!(size_of::<Copy3>(), size_of::<CUDA_MEMCPY3D_PEER>());
        assert_eq!(offset_of!(Copy3, from.height), offset_of!(CUDA_MEMCPY3D, srcHeight));
        assert_eq!(offset_of!(Copy3, to.kind), offset_of!(CUDA_MEMCPY3D, dstMemoryType));
        assert_eq!(offset_of!(Copy3, depth), offset_of!(CUDA_MEMCPY3D_PEER, Depth));
    }
}
