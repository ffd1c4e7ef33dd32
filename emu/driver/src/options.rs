//! Options of the compiler in the driver: where it writes its log, and how long it took. The others change nothing that an
//! emulator does.

use crate::abi::{In, Out, Raw};
use crate::error::{Answer, Error};
use std::time::Instant;

/// Options by number, as C has them; the highest is that of CUDA 13.
const WALL_TIME: u32 = 2;
const INFO_BUFFER: u32 = 3;
const INFO_BYTES: u32 = 4;
const ERROR_BUFFER: u32 = 5;
const ERROR_BYTES: u32 = 6;
const MOST: u32 = 64;

/// A buffer for a log.
#[derive(Debug, Clone, Copy, Default)]
struct Buffer {
    at: Option<Out<u8>>,
    bytes: usize,
    used: usize,
    /// Where the number of bytes is said.
    said: Option<Out<usize>>,
}

/// Where logs go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Logs {
    info: Buffer,
    error: Buffer,
    time: Option<Out<f32>>,
    start: Instant,
}

impl Logs {
    /// Logs that go nowhere.
    pub(crate) fn none() -> Logs {
        Logs { info: Buffer::default(), error: Buffer::default(), time: None, start: Instant::now() }
    }

    /// Reads an array of options and one of values, each of the size of a pointer.
    pub(crate) fn read(count: u32, options: In<u32>, values: In<usize>) -> Answer<Logs> {
        let mut logs = Logs::none();
        for i in 0..count as usize {
            let (option, value) = (options.at(i)?, values.at(i)?);
            let slot = values.element(i);
            match option {
                WALL_TIME => logs.time = Some(slot.output()),
                INFO_BUFFER => logs.info.at = Some(In::<u8>::new(value).raw().output()),
                ERROR_BUFFER => logs.error.at = Some(In::<u8>::new(value).raw().output()),
                INFO_BYTES => (logs.info.bytes, logs.info.said) = (value & 0xffff_ffff, Some(slot.output())),
                ERROR_BYTES => (logs.error.bytes, logs.error.said) = (value & 0xffff_ffff, Some(slot.output())),
                _ if option < MOST => {}
                _ => return Err(Error::INVALID_VALUE),
            }
        }
        for buffer in [&mut logs.info, &mut logs.error] {
            buffer.put("")?;
        }
        Ok(logs)
    }

    /// Adds to the log of errors.
    pub(crate) fn error(&mut self, text: &str) {
        _ = self.error.put(text);
    }

    /// Says how long it took.
    pub(crate) fn finish(&self) {
        if let Some(time) = self.time {
            time.set_if(self.start.elapsed().as_secs_f32() * 1000.0);
        }
    }
}

impl Buffer {
    /// Appends as much as fits, and says how much there is.
    fn put(&mut self, text: &str) -> Answer {
        let room = self.bytes.saturating_sub(self.used + 1);
        if let Some(at) = self.at.filter(|at| !at.is_null() && self.bytes > 0) {
            for byte in text.bytes().take(room) {
                at.at(self.used, byte)?;
                self.used += 1;
            }
            at.at(self.used, 0)?;
        }
        if let Some(said) = self.said {
            said.set(self.used)?;
        }
        Ok(())
    }
}

impl In<usize> {
    /// Where an element is.
    fn element(self, index: usize) -> Raw {
        In::<usize>::new(self.raw().address() + index * size_of::<usize>()).raw()
    }
}
