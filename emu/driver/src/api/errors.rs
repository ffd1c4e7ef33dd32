//! Names and texts of error codes.

use crate::abi::OutAddress;
use crate::call::{Call, exports};
use crate::error::{Answer, CODES, Code, Error};

exports! {
    Nothing {
        cuGetErrorString @6000 (error: u32, pStr: OutAddress) = string;
        cuGetErrorName @6000 (error: u32, pStr: OutAddress) = name;
    }
}

fn code(error: u32, out: OutAddress) -> Answer<&'static Code> {
    out.set(0)?;
    CODES.iter().find(|c| c.number == error).ok_or(Error::INVALID_VALUE)
}

fn string(_: &mut Call, error: u32, out: OutAddress) -> Answer {
    out.set(code(error, out)?.text.as_ptr().expose_provenance())
}

fn name(_: &mut Call, error: u32, out: OutAddress) -> Answer {
    out.set(code(error, out)?.name.as_ptr().expose_provenance())
}
