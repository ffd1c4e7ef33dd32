//! CPU code by Cranelift: one function of [`ir::abi::KernelFn`] for each kernel and the kernel's constants after it,
//! without relocations.
//!
//! `lower` walks the kernel, `math` holds the sequences for what Cranelift has no instruction for. Invariant: everything
//! but the constants is reached through the frame, and those lie at fixed distances from the code, so the bytes can be
//! stored and mapped anywhere.

mod lower;
mod math;

use super::{Backend, Emitted};
use cranelift_codegen::binemit::Reloc;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::isa::{self, OwnedTargetIsa};
use cranelift_codegen::settings::{self, Configurable};
use cranelift_codegen::{Context, FinalizedMachReloc, FinalizedRelocTarget, ir as clif};
use ir::kernel::{BufDecl, Kernel, Space};
use ir::target::{Isa, Target};
use ir::{Error, Result, Verified};
use std::collections::HashMap;

/// The backend.
pub(super) struct Cranelift;

/// Cranelift's switches for what an instruction set adds to the one before.
const FEATURES: &[(Isa, &[&str])] = &[
    (Isa::X86_64, &["has_sse3", "has_ssse3", "has_sse41"]),
    (
        Isa::X86_64V3,
        &["has_sse42", "has_popcnt", "has_avx", "has_avx2", "has_fma", "has_bmi1", "has_bmi2", "has_lzcnt"],
    ),
    (Isa::X86_64V4Vnni, &["has_avx512f", "has_avx512dq", "has_avx512vl"]),
];

fn internal(what: impl std::fmt::Display) -> Error {
    Error::verify("code", what.to_string())
}

fn target_isa(target: &Target) -> Result<OwnedTargetIsa> {
    let mut flags = settings::builder();
    for (name, value) in [
        ("opt_level", "speed"),
        ("enable_verifier", if cfg!(debug_assertions) { "true" } else { "false" }),
        ("enable_probestack", "false"),
        ("unwind_info", "false"),
        // Symbols are the constants next to the code: a distance from the instruction, no global offset table.
        ("is_pic", "false"),
    ] {
        flags.set(name, value).map_err(internal)?;
    }
    let mut builder = isa::lookup_by_name("x86_64-unknown-linux-gnu").map_err(internal)?;
    let level = target.cpu();
    for (_, features) in FEATURES.iter().filter(|(isa, _)| Some(*isa) <= level) {
        for feature in *features {
            builder.enable(feature).map_err(internal)?;
        }
    }
    builder.finish(settings::Flags::new(flags)).map_err(internal)
}

/// Puts the constants after the code and writes their distances into the instructions that refer to them.
fn link(kernel: &Kernel, func: &clif::Function, code: &[u8], relocs: &[FinalizedMachReloc]) -> Result<Vec<u8>> {
    let mut bytes = code.to_vec();
    let mut placed = HashMap::new();
    for reloc in relocs {
        let outside = || internal(format!("kernel {} refers to {:?}, outside itself", kernel.name, reloc.target));
        let FinalizedRelocTarget::ExternalName(clif::ExternalName::User(symbol)) = &reloc.target else {
            return Err(outside());
        };
        let number = func.params.user_named_funcs()[*symbol].index;
        let Some(BufDecl { space: Space::Constant(words), .. }) = kernel.buffers.get(number as usize) else {
            return Err(outside());
        };
        if reloc.kind != Reloc::X86CallPCRel4 {
            return Err(outside());
        }
        let at = *placed.entry(number).or_insert_with(|| {
            bytes.resize(bytes.len().next_multiple_of(64), 0);
            let at = bytes.len();
            bytes.extend(words.iter().flat_map(|w| w.to_le_bytes()));
            at
        });
        let distance = at as i64 + reloc.addend - i64::from(reloc.offset);
        let distance = i32::try_from(distance).map_err(internal)?;
        bytes[reloc.offset as usize..][..4].copy_from_slice(&distance.to_le_bytes());
    }
    Ok(bytes)
}

impl Backend for Cranelift {
    fn name(&self) -> &'static str {
        "cranelift"
    }

    fn covers(&self, target: &Target) -> bool {
        target.cpu().is_some()
    }

    fn module_file(&self) -> &'static str {
        "cpu.bin"
    }

    fn align(&self) -> usize {
        64
    }

    fn emit(&self, kernel: &Verified<Kernel>, target: &Target, listings: bool) -> Result<Emitted> {
        let isa = target_isa(target)?;
        let mut context = Context::for_function(clif::Function::new());
        lower::lower(kernel, target, isa.as_ref(), &mut context.func)?;
        let mut texts = Vec::new();
        if listings {
            texts.push(("clif", context.func.display().to_string()));
        }
        context.set_disasm(listings);
        context
            .compile(isa.as_ref(), &mut ControlPlane::default())
            .map_err(|e| internal(format!("kernel {}: {:?}", kernel.name, e.inner)))?;
        let code = context.compiled_code().ok_or_else(|| internal("compiling left no code"))?;
        let bytes = link(kernel, &context.func, code.code_buffer(), code.buffer.relocs())?;
        if let Some(text) = &code.vcode {
            texts.push(("asm", text.clone()));
        }
        Ok(Emitted { code: bytes, listings: texts })
    }
}
