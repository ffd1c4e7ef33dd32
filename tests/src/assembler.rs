//! NVIDIA's assemblers and disassembler, where they are installed: `$RIGC_PTXAS` lists assemblers, oldest first, by a colon;
//! without it, `ptxas` of the path is taken. `$RIGC_NVDISASM` is the disassembler.

use codegen::assembly;
use ir::target::Target;
use std::path::Path;
use std::process::{Command, Output};

/// The assemblers, if there are any.
pub fn assemblers() -> Vec<String> {
    let list = std::env::var("RIGC_PTXAS").unwrap_or_else(|_| "ptxas".into());
    let found: Vec<String> =
        list.split(':').filter(|p| Command::new(p).arg("--version").output().is_ok()).map(String::from).collect();
    if found.is_empty() {
        crate::missing("ptxas", &list);
    }
    found
}

/// Runs a tool.
///
/// # Panics
/// If it cannot be started.
pub fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

/// Assembles a file next to itself; gives what the assembler says of its kernels.
///
/// # Panics
/// If it refuses.
pub fn assemble(ptxas: &str, target: &Target, ptx: &Path) -> String {
    let cubin = ptx.with_extension("cubin");
    let arch = format!("-arch={}", target.name);
    let out = run(Command::new(ptxas).args(["-v", &arch]).arg(ptx).arg("-o").arg(&cubin));
    let said = String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{} {}: {said}", ptx.display(), target.name);
    said
}

/// What the disassembler prints; `None` if there is none.
///
/// # Panics
/// If it prints no code.
pub fn disassemble(cubin: &Path) -> Option<String> {
    let tool = std::env::var("RIGC_NVDISASM").unwrap_or_else(|_| "nvdisasm".into());
    if Command::new(&tool).arg("--version").output().is_err() {
        crate::missing("ptxas", &tool);
        return None;
    }
    let out = run(Command::new(&tool).arg("-c").arg(cubin));
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(!assembly::sass(&text).is_empty(), "{}: {text}", cubin.display());
    Some(text)
}

/// The machine code of a module by the newest assembler; `None` where the tools are missing.
///
/// # Panics
/// If the module is refused.
pub fn sass(module: &[u8], target: &Target) -> Option<String> {
    let newest = assemblers().pop()?;
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let ptx = dir.path().join("module.ptx");
    std::fs::write(&ptx, module).unwrap_or_else(|e| panic!("{}: {e}", ptx.display()));
    assemble(&newest, target, &ptx);
    disassemble(&ptx.with_extension("cubin"))
}
