//! The name of a value of kernel IR: all that formats know of kernels. Users find it as [`crate::kernel::Value`].

/// The result of an instruction, an index into the kernel's value table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value(pub u32);
