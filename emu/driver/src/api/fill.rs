//! Fills of device memory, at once or in a stream. Those at once do not wait, as with any driver.

use crate::call::{Call, exports};
use crate::error::Answer;
use crate::operation::{Fill, Operation};
use crate::progress;
use crate::stream::{self, Request, enqueue};

exports! {
    Context {
        cuMemsetD8_v2 @3020 (dstDevice: u64, uc: u8, N: usize) = bytes, cuMemsetD8_v2_ptds;
        cuMemsetD16_v2 @3020 (dstDevice: u64, us: u16, N: usize) = halves, cuMemsetD16_v2_ptds;
        cuMemsetD32_v2 @3020 (dstDevice: u64, ui: u32, N: usize) = words, cuMemsetD32_v2_ptds;
        cuMemsetD8Async @3020 (dstDevice: u64, uc: u8, N: usize, hStream: u64) = bytes_async, cuMemsetD8Async_ptsz;
        cuMemsetD16Async @3020 (dstDevice: u64, us: u16, N: usize, hStream: u64) = halves_async, cuMemsetD16Async_ptsz;
        cuMemsetD32Async @3020 (dstDevice: u64, ui: u32, N: usize, hStream: u64) = words_async, cuMemsetD32Async_ptsz;
        cuMemsetD2D8_v2 @3020 (dstDevice: u64, dstPitch: usize, uc: u8, Width: usize, Height: usize) = rows_of_bytes, cuMemsetD2D8_v2_ptds;
        cuMemsetD2D16_v2 @3020 (dstDevice: u64, dstPitch: usize, us: u16, Width: usize, Height: usize) = rows_of_halves, cuMemsetD2D16_v2_ptds;
        cuMemsetD2D32_v2 @3020 (dstDevice: u64, dstPitch: usize, ui: u32, Width: usize, Height: usize) = rows_of_words, cuMemsetD2D32_v2_ptds;
        cuMemsetD2D8Async @3020 (dstDevice: u64, dstPitch: usize, uc: u8, Width: usize, Height: usize, hStream: u64) = rows_of_bytes_async, cuMemsetD2D8Async_ptsz;
        cuMemsetD2D16Async @3020 (dstDevice: u64, dstPitch: usize, us: u16, Width: usize, Height: usize, hStream: u64) = rows_of_halves_async, cuMemsetD2D16Async_ptsz;
        cuMemsetD2D32Async @3020 (dstDevice: u64, dstPitch: usize, ui: u32, Width: usize, Height: usize, hStream: u64) = rows_of_words_async, cuMemsetD2D32Async_ptsz;
    }
}

fn fill(to: u64, pitch: usize, value: impl Into<u32>, width: u32, (count, rows): (usize, usize)) -> Fill {
    Fill { to, pitch: pitch as u64, value: value.into(), width, count: count as u64, rows: rows as u64 }
}

fn run(call: &mut Call, fill: Fill) -> Answer {
    let stream = stream::resolve(call, 0)?;
    // Memory of the process is filled before the call returns.
    let wait = call.memory.around(fill.to).is_some_and(|(_, a)| a.what.host());
    if wait {
        stream::forbid_captured(call, stream)?;
    }
    match enqueue(call, stream, Request::new(Operation::Fill(fill)))? {
        Some(op) if wait => progress::wait_for(call, op),
        _ => Ok(()),
    }
}

fn run_async(call: &mut Call, fill: Fill, number: u64) -> Answer {
    let stream = stream::resolve(call, number)?;
    enqueue(call, stream, Request::new(Operation::Fill(fill))).map(|_| ())
}

macro_rules! fills {
    ($($flat:ident $flat_async:ident $rows:ident $rows_async:ident: $ty:ty, $width:literal;)*) => { $(
        fn $flat(call: &mut Call, to: u64, value: $ty, count: usize) -> Answer {
            run(call, fill(to, 0, value, $width, (count, 1)))
        }

        fn $flat_async(call: &mut Call, to: u64, value: $ty, count: usize, stream: u64) -> Answer {
            run_async(call, fill(to, 0, value, $width, (count, 1)), stream)
        }

        fn $rows(call: &mut Call, to: u64, pitch: usize, value: $ty, width: usize, height: usize) -> Answer {
            run(call, fill(to, pitch, value, $width, (width, height)))
        }

        fn $rows_async(
            call: &mut Call,
            to: u64,
            pitch: usize,
            value: $ty,
            width: usize,
            height: usize,
            stream: u64,
        ) -> Answer {
            run_async(call, fill(to, pitch, value, $width, (width, height)), stream)
        }
    )* };
}

fills! {
    bytes bytes_async rows_of_bytes rows_of_bytes_async: u8, 1;
    halves halves_async rows_of_halves rows_of_halves_async: u16, 2;
    words words_async rows_of_words rows_of_words_async: u32, 4;
}
