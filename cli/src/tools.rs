//! NVIDIA's assembler and disassembler, where this machine has them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The tool that an environment variable names (the last of a list), or that of the path.
fn tool(variable: &str, name: &str) -> String {
    let named = std::env::var(variable).ok().filter(|list| !list.is_empty());
    named.map_or_else(|| name.into(), |list| list.rsplit(':').next().unwrap_or(name).to_owned())
}

/// Runs the tool; or why it gives nothing.
fn run(variable: &str, name: &str, arguments: impl FnOnce(&mut Command)) -> Result<Output, String> {
    let tool = tool(variable, name);
    let mut command = Command::new(&tool);
    arguments(&mut command);
    let output = command.output().map_err(|e| format!("{tool} cannot be run ({e}); {variable} may name it"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        return Err(format!("{tool} fails: {}", said.lines().next().unwrap_or("it does not say why")));
    }
    Ok(output)
}

/// Assembles a module for a target in `dir`; what the assembler says of its kernels, and the machine code.
pub fn assemble(module: &[u8], target: &str, dir: &Path) -> Result<(String, PathBuf), String> {
    let (ptx, cubin) = (dir.join("module.ptx"), dir.join("module.cubin"));
    std::fs::write(&ptx, module).map_err(|e| format!("{} cannot be written: {e}", ptx.display()))?;
    let output = run("RIGC_PTXAS", "ptxas", |c| {
        c.args(["-v", "-arch", target]).arg(&ptx).arg("-o").arg(&cubin);
    })?;
    Ok((String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout), cubin))
}

/// Machine code as text.
pub fn disassemble(cubin: &Path) -> Result<String, String> {
    let output = run("RIGC_NVDISASM", "nvdisasm", |c| {
        c.arg("-c").arg(cubin);
    })?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
