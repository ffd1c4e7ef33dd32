//! What the kernels of a CPU share.
//!
//! Workers take units of a `Parallel` loop and write disjoint memory, so results do not depend on how many workers there
//! are. Next hop: `matmul` prepares rows and multiplies tiles, `attention` takes blocks of KV positions.

pub(crate) mod attention;
pub(crate) mod experts;
pub(crate) mod heads;
pub(crate) mod matmul;
