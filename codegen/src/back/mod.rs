//! The backends: from verified kernels to code. To add one: a folder here and its name in the list below.

mod cranelift;
mod ptx;

use ir::kernel::Kernel;
use ir::target::Target;
use ir::{Result, Verified};

/// The code of one kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emitted {
    /// What the module holds: position-independent machine code or text, with the kernel's constants.
    pub code: Vec<u8>,
    /// Text forms by stage name, if asked for.
    pub listings: Vec<(&'static str, String)>,
}

/// Turns kernels into code. Pure: the same kernel and target give the same bytes on any machine.
pub trait Backend: Sync {
    /// Name in prints.
    fn name(&self) -> &'static str;

    /// Whether it emits for this target.
    fn covers(&self, target: &Target) -> bool;

    /// File name of the module that its kernels go to.
    fn module_file(&self) -> &'static str;

    /// What comes before the kernels of a module.
    ///
    /// # Errors
    /// [`ir::Error::Unsupported`] for a target of another backend.
    fn prefix(&self, _target: &Target) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    /// A text as a comment of a module, if modules are text.
    fn comment(&self, _text: &str) -> String {
        String::new()
    }

    /// Where kernels start in a module.
    fn align(&self) -> usize;

    /// Emits one kernel.
    ///
    /// # Errors
    /// [`ir::Error::Unsupported`] for what the target cannot do.
    fn emit(&self, kernel: &Verified<Kernel>, target: &Target, listings: bool) -> Result<Emitted>;
}

/// Every backend.
pub static ALL: &[&dyn Backend] = &[&cranelift::Cranelift, &ptx::Ptx];

/// The backend of a target.
///
/// # Errors
/// [`ir::Error::Unsupported`] if none covers it.
pub fn for_target(target: &Target) -> Result<&'static dyn Backend> {
    ALL.iter()
        .copied()
        .find(|b| b.covers(target))
        .ok_or_else(|| ir::Error::unsupported(format!("target '{}'", target.name), "no backend emits for it"))
}
