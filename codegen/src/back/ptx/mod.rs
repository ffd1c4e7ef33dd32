//! PTX text for NVIDIA GPUs: one entry for each kernel, and the words of its constants before it.
//!
//! `hoist` moves code out of loops, `emit` walks the kernel, `divide` turns divisions by constants into
//! multiplications, which ptxas does not, `live` finds what is used. Every operation has its rounding written out, so
//! that an assembler may not fuse it. Invariant: parameters are the addresses of the kernel's buffers in their order,
//! then that of [`ir::abi::Control`].

mod divide;
mod emit;
mod hoist;
mod live;

use super::{Backend, Emitted};
use ir::kernel::Kernel;
use ir::target::{Gpu, Target};
use ir::{Error, Result, Verified};

/// The backend.
pub(super) struct Ptx;

fn gpu(target: &Target) -> Result<&Gpu> {
    target.gpu().ok_or_else(|| Error::unsupported(format!("PTX for {}", target.name), "it is no GPU"))
}

impl Backend for Ptx {
    fn name(&self) -> &'static str {
        "ptx"
    }

    fn covers(&self, target: &Target) -> bool {
        target.gpu().is_some()
    }

    fn module_file(&self) -> &'static str {
        "gpu.ptx"
    }

    fn prefix(&self, target: &Target) -> Result<Vec<u8>> {
        let gpu = gpu(target)?;
        let (major, minor) = gpu.ptx;
        let header = format!(
            ".version {major}.{minor}\n.target sm_{}\n.address_size 64\n\n.extern .shared .align 16 .b8 shared[];\n",
            gpu.sm
        );
        Ok(header.into_bytes())
    }

    fn comment(&self, text: &str) -> String {
        text.lines().fold("\n".into(), |comment, line| comment + "// " + line + "\n")
    }

    fn align(&self) -> usize {
        1
    }

    fn emit(&self, kernel: &Verified<Kernel>, target: &Target, listings: bool) -> Result<Emitted> {
        let kernel = hoist::hoist(kernel.clone().into_inner()).verify()?;
        let text = emit::emit(&kernel, gpu(target)?)?;
        let listings = if listings { vec![("ptx", text.clone())] } else { Vec::new() };
        Ok(Emitted { code: text.into_bytes(), listings })
    }
}
