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

#[cfg(test)]
mod tests {
    use super::*;
    use ir::kernel::{Access, Builder, Grid, MOST_ELEMENTS, Mem, Value};

    /// The PTX of a load at this index of a buffer as large as there may be.
    fn load(index: impl FnOnce(&mut Builder) -> Value) -> Result<String> {
        let mut b = Builder::new("k");
        b.set_grid(Grid { ctas: 1, threads: 32 });
        let (from, to) =
            (b.param("from", Mem::I32, 4 * MOST_ELEMENTS, Access::Read), b.param("to", Mem::I32, 4, Access::Write));
        b.await_previous();
        let index = index(&mut b);
        let (zero, v) = (b.int(0), b.load(from, index, Mem::I32));
        b.store(to, zero, Mem::I32, v);
        let emitted = Ptx.emit(&b.finish().verify()?, Target::by_name("sm_80")?, false)?;
        Ok(String::from_utf8(emitted.code).expect("PTX is text"))
    }

    /// Instructions add signed 32-bit numbers: what is more stays in the index, and is refused where there is none.
    #[test]
    fn offsets_have_31_bits() {
        let most = (1 << 29) - 1;
        for (index, offset) in [(1usize, Some("+4]")), (most, Some("+2147483644]")), (most + 1, None), (1 << 31, None)]
        {
            let constant = load(|b| b.size(index));
            match offset {
                Some(offset) => assert!(constant.unwrap().contains(offset), "{index}"),
                None => {
                    let said = constant.unwrap_err().to_string();
                    let words = format!("byte {} of buffer from of kernel k", 4 * index as u64);
                    assert!(said.contains(&words) && said.contains("31 bits"), "{said}");
                }
            }
            let text = load(|b| {
                let position = b.position();
                b.iadd_const(position, index)
            });
            let text = text.unwrap();
            // The position, or what is the sum.
            let position = text.split("ld.global.u32 ").nth(1).and_then(|rest| rest.split(',').next()).unwrap();
            let of_position = text.contains(&format!(", {position}, 4, "));
            assert_eq!((text.contains(offset.unwrap_or("+0]")), of_position), (true, offset.is_some()), "{text}");
        }
    }
}
