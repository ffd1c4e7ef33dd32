//! Thin wrappers over the operating system: mapped files and the page cache, directories replaced in one step, memory that
//! can be executed, large anonymous memory, thread placement, limits, signals, standard input, the terminal, the time.
//!
//! Invariant: nothing here knows what the memory holds. Next hop: `device` builds the CPU device on it.

pub mod arena;
pub mod cache;
pub mod code;
pub mod fs;
pub mod limits;
pub mod map;
pub mod memory;
pub mod signals;
pub mod stdin;
pub mod terminal;
pub mod thread;
pub mod time;

pub use arena::Arena;
pub use code::CodeMemory;
pub use map::Mapping;

/// Floats as the bytes they are made of.
pub fn f32_bytes_mut(floats: &mut [f32]) -> &mut [u8] {
    // SAFETY: the range is that of `floats`, borrowed for as long; every pattern of bytes is a float, and bytes need no
    // alignment.
    unsafe { std::slice::from_raw_parts_mut(floats.as_mut_ptr().cast(), size_of_val(floats)) }
}

/// Integers as the bytes they are made of.
pub fn u32_bytes(integers: &[u32]) -> &[u8] {
    // SAFETY: the range is that of `integers`, borrowed for as long, and has no padding.
    unsafe { std::slice::from_raw_parts(integers.as_ptr().cast(), size_of_val(integers)) }
}
