//! Words in memory that streams write and wait for.

use crate::abi::{In, structures};
use crate::call::{Call, exports};
use crate::error::{Answer, Error};
use crate::operation::{Operation, Value};
use crate::stream::{self, Request, enqueue};
use emu::Word;

exports! {
    Context {
        cuStreamWriteValue32 @8000 (stream: u64, addr: u64, value: u32, flags: u32) = write_32, cuStreamWriteValue32_ptsz;
        cuStreamWriteValue32_v2 @11070 (stream: u64, addr: u64, value: u32, flags: u32) = write_32, cuStreamWriteValue32_v2_ptsz;
        cuStreamWriteValue64 @9000 (stream: u64, addr: u64, value: u64, flags: u32) = write_64, cuStreamWriteValue64_ptsz;
        cuStreamWriteValue64_v2 @11070 (stream: u64, addr: u64, value: u64, flags: u32) = write_64, cuStreamWriteValue64_v2_ptsz;
        cuStreamWaitValue32 @8000 (stream: u64, addr: u64, value: u32, flags: u32) = wait_32, cuStreamWaitValue32_ptsz;
        cuStreamWaitValue32_v2 @11070 (stream: u64, addr: u64, value: u32, flags: u32) = wait_32, cuStreamWaitValue32_v2_ptsz;
        cuStreamWaitValue64 @9000 (stream: u64, addr: u64, value: u64, flags: u32) = wait_64, cuStreamWaitValue64_ptsz;
        cuStreamWaitValue64_v2 @11070 (stream: u64, addr: u64, value: u64, flags: u32) = wait_64, cuStreamWaitValue64_v2_ptsz;
        cuStreamBatchMemOp @8000 (stream: u64, count: u32, paramArray: In<Param>, flags: u32) = batch, cuStreamBatchMemOp_ptsz;
        cuStreamBatchMemOp_v2 @11070 (stream: u64, count: u32, paramArray: In<Param>, flags: u32) = batch, cuStreamBatchMemOp_v2_ptsz;
    }
}

/// Operations in a batch, at most.
const MOST: u32 = 256;
/// Kinds of operations.
const WAIT_32: u32 = 1;
const WRITE_32: u32 = 2;
const FLUSH: u32 = 3;
const WAIT_64: u32 = 4;
const WRITE_64: u32 = 5;
const BARRIER: u32 = 6;
/// A flag of waits, which also flush; no other changes anything here.
const WAIT_FLUSH: u32 = 1 << 30;
/// A flag of writes: without a barrier before them.
const NO_BARRIER: u32 = 1;

structures! {
    /// `CUstreamBatchMemOpParams`.
    pub(crate) struct Param {
        kind: u32,
        address: u64,
        value: u64,
        flags: u32,
        rest: [u64; 2],
    }
}

/// What a wait compares.
fn compare(flags: u32) -> Answer<emu::Compare> {
    match flags & !WAIT_FLUSH {
        0 => Ok(emu::Compare::Geq),
        1 => Ok(emu::Compare::Eq),
        2 => Ok(emu::Compare::And),
        3 => Ok(emu::Compare::Nor),
        _ => Err(Error::INVALID_VALUE),
    }
}

impl Param {
    /// The operation as words of C.
    pub(super) fn words(of: &Value) -> [u64; 6] {
        let flags = match of.wait {
            None | Some(emu::Compare::Geq) => 0,
            Some(emu::Compare::Eq) => 1,
            Some(emu::Compare::And) => 2,
            Some(emu::Compare::Nor) => 3,
        };
        let (kind, value) = match (of.value, of.wait) {
            (Word::B32(value), None) => (WRITE_32, u64::from(value)),
            (Word::B32(value), Some(_)) => (WAIT_32, u64::from(value)),
            (Word::B64(value), None) => (WRITE_64, value),
            (Word::B64(value), Some(_)) => (WAIT_64, value),
        };
        [u64::from(kind), of.address, value, flags, 0, 0]
    }

    /// The operation that it means; none where nothing is to be done.
    ///
    /// # Errors
    /// `INVALID_VALUE` for kinds and flags that do not exist.
    pub(crate) fn value(&self) -> Answer<Option<Value>> {
        let (value, waits) = match self.kind {
            WAIT_32 => (Word::B32(self.value as u32), true),
            WRITE_32 => (Word::B32(self.value as u32), false),
            WAIT_64 => (Word::B64(self.value), true),
            WRITE_64 => (Word::B64(self.value), false),
            FLUSH | BARRIER => return Ok(None),
            _ => return Err(Error::INVALID_VALUE),
        };
        if !waits && self.flags & !NO_BARRIER != 0 {
            return Err(Error::INVALID_VALUE);
        }
        let wait = if waits { Some(compare(self.flags)?) } else { None };
        Ok(Some(Value { address: self.address, value, wait }))
    }
}

fn run(call: &mut Call, number: u64, values: Vec<Value>) -> Answer {
    let stream = stream::resolve(call, number)?;
    enqueue(call, stream, Request::new(Operation::Values(values))).map(|_| ())
}

fn one(call: &mut Call, stream: u64, kind: u32, address: u64, value: u64, flags: u32) -> Answer {
    let values = Param { kind, address, value, flags, rest: [0; 2] }.value()?.into_iter().collect();
    run(call, stream, values)
}

fn write_32(call: &mut Call, stream: u64, address: u64, value: u32, flags: u32) -> Answer {
    one(call, stream, WRITE_32, address, u64::from(value), flags)
}

fn write_64(call: &mut Call, stream: u64, address: u64, value: u64, flags: u32) -> Answer {
    one(call, stream, WRITE_64, address, value, flags)
}

fn wait_32(call: &mut Call, stream: u64, address: u64, value: u32, flags: u32) -> Answer {
    one(call, stream, WAIT_32, address, u64::from(value), flags)
}

fn wait_64(call: &mut Call, stream: u64, address: u64, value: u64, flags: u32) -> Answer {
    one(call, stream, WAIT_64, address, value, flags)
}

/// What an array of operations means.
///
/// # Errors
/// `INVALID_VALUE` for too many, and for kinds and flags that do not exist.
pub(super) fn parse(params: In<Param>, count: u32, flags: u32) -> Answer<Vec<Value>> {
    if count > MOST || flags != 0 {
        return Err(Error::INVALID_VALUE);
    }
    let params = params.all(count as usize)?;
    params.iter().filter_map(|p| p.value().transpose()).collect()
}

fn batch(call: &mut Call, stream: u64, count: u32, params: In<Param>, flags: u32) -> Answer {
    let values = parse(params, count, flags)?;
    run(call, stream, values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cudarc::driver::sys::CUstreamBatchMemOpParams;

    #[test]
    fn structures_are_those_of_c() {
        assert_eq!(size_of::<Param>(), size_of::<CUstreamBatchMemOpParams>());
    }
}
