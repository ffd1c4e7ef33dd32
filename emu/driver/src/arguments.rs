//! Parameters of kernels as a launch gives them, laid out as the kernel declares them.

use crate::abi::{In, Raw};
use crate::error::{Answer, Error};

/// What introduces the entries of `extra`.
const END: usize = 0;
const BUFFER: usize = 1;
const SIZE: usize = 2;
/// Entries of `extra`, at most.
const MOST: usize = 16;

/// Copies the parameters, each from where `params` points, or all from the buffer that `extra` names.
///
/// # Errors
/// `INVALID_VALUE` if neither or both are given, or the buffer is of another size.
pub(crate) fn gather(entry: &emu::Entry, params: In<usize>, extra: In<usize>) -> Answer<Vec<u8>> {
    let mut bytes = vec![0; entry.param_bytes as usize];
    match (params.is_null(), extra.is_null()) {
        (true, true) if entry.params.is_empty() => {}
        (false, true) => {
            for (i, param) in entry.params.iter().enumerate() {
                let value = In::<u8>::new(params.at(i)?).raw().bytes(param.bytes as usize)?;
                let to = bytes.get_mut(param.offset as usize..).ok_or(Error::INVALID_VALUE)?;
                to.get_mut(..value.len()).ok_or(Error::INVALID_VALUE)?.copy_from_slice(&value);
            }
        }
        (true, false) => {
            let (buffer, size) = from_extra(extra)?;
            // What the compiler puts behind the last parameter may be missing or given.
            let used = entry.params.last().map_or(0, |p| p.offset + p.bytes) as usize;
            if size < used || size > bytes.len().next_multiple_of(16) {
                return Err(Error::INVALID_VALUE);
            }
            let given = buffer.bytes(size.min(bytes.len()))?;
            bytes[..given.len()].copy_from_slice(&given);
        }
        _ => return Err(Error::INVALID_VALUE),
    }
    Ok(bytes)
}

fn from_extra(extra: In<usize>) -> Answer<(Raw, usize)> {
    let (mut buffer, mut size) = (None, None);
    for i in (0..MOST).step_by(2) {
        match extra.at(i)? {
            END => break,
            BUFFER => buffer = Some(In::<u8>::new(extra.at(i + 1)?).raw()),
            SIZE => size = Some(In::<usize>::new(extra.at(i + 1)?).get()?),
            _ => return Err(Error::INVALID_VALUE),
        }
    }
    buffer.zip(size).ok_or(Error::INVALID_VALUE)
}
