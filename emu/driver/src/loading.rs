//! Code is loaded: compiled, given variables in a context, and taken away again.

use crate::call::Call;
use crate::code::{Function, Kernel, Library, Module, Preferences};
use crate::error::{Answer, Error};
use crate::finding;
use crate::image::{Refusal, Source};
use crate::jit::{self, Code};
use crate::memory::What;
use crate::options::Logs;
use crate::slots::Handle;
use crate::state::{Context, Driver};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What reads code for the card and the driver of the settings: name, version, compute capability.
pub(crate) fn target(driver: &Driver) -> Answer<(&'static str, u32, u32)> {
    let settings = driver.settings()?;
    Ok((settings.card.name, settings.driver, settings.card.arch.sm))
}

/// Writes to the log why code is refused, and says it where the stand-in is to blame.
pub(crate) fn refuse(call: &Call, logs: &mut Logs, refusal: &Refusal) -> Error {
    logs.error(&refusal.log);
    logs.finish();
    if refusal.ours {
        finding::remark(&format!("{}: {}", call.export.name, refusal.log));
    }
    refusal.error
}

/// Compiles texts for the card.
pub(crate) fn compile(call: &mut Call, sources: Result<Vec<Source>, Refusal>, logs: &mut Logs) -> Answer<Arc<Code>> {
    let settings = call.settings()?;
    let code = sources.and_then(|sources| jit::compile(sources, settings));
    match code {
        Ok(code) => {
            logs.finish();
            Ok(Arc::new(code))
        }
        Err(refusal) => Err(refuse(call, logs, &refusal)),
    }
}

/// Loads code into a context.
///
/// # Errors
/// If its variables do not fit.
pub(crate) fn load(
    driver: &mut Driver,
    context: Handle<Context>,
    code: &Arc<Code>,
    from: &'static str,
    library: Option<Handle<Library>>,
) -> Answer<Handle<Module>> {
    let loaded = code.module.load(driver.work.engine.memory()).map_err(|_| Error::OUT_OF_MEMORY)?;
    for emu::Variable { address, bytes, .. } in loaded.variables() {
        if bytes > 0 {
            driver.memory.insert(address, bytes, What::Variable, context, from, None);
        }
    }
    let (loaded, code) = (Arc::new(loaded), Arc::clone(code));
    Ok(driver.modules.insert(Module { context, loaded, code, from, library, functions: BTreeMap::new() }))
}

/// A launch of a module that has not ended is a finding of the call that unloads it: no documentation says that it waits.
/// It does all the same, as drivers do.
pub(crate) fn check_idle(call: &mut Call, module: Handle<Module>) {
    if let Some(label) = call.work.user(module).map(str::to_owned) {
        _ = call.finding(&format!("{module:?} is still in use by {label}"), Error::INVALID_VALUE);
    }
}

/// Takes a module away, with its functions and variables. Nothing that it was launched for is left.
pub(crate) fn unload(driver: &mut Driver, module: Handle<Module>, by: &'static str) {
    let Some(gone) = driver.modules.remove(module) else { return };
    driver.functions.extract(|_, f| f.module == module);
    let variables: Vec<u64> = gone.loaded.variables().map(|v| v.address).collect();
    for address in variables {
        driver.release(address, by);
    }
}

/// The function of a module for one of its entries.
pub(crate) fn function(driver: &mut Driver, module: Handle<Module>, entry: usize) -> Answer<Handle<Function>> {
    let this = driver.modules.get(module).ok_or(Error::INVALID_HANDLE)?;
    let code = Arc::clone(&this.code);
    let known = code.module.entries().get(entry).ok_or(Error::NOT_FOUND)?;
    if let Some(&function) = this.functions.get(&known.name) {
        return Ok(function);
    }
    let kernel = this.library.and_then(|l| driver.libraries.get(l)).and_then(|l| l.kernels.get(entry).copied());
    let preferences = kernel.and_then(|k| driver.kernels.get(k)).map_or(Preferences::of(known), |k| k.preferences);
    let name = known.name.clone();
    let function = Function {
        module,
        code: Arc::clone(&code),
        entry,
        name: std::ffi::CString::new(name.clone()).unwrap_or_default(),
        preferences,
        kernel,
    };
    let function = driver.functions.insert(function);
    if let Some(m) = driver.modules.get_mut(module) {
        m.functions.insert(name, function);
    }
    Ok(function)
}

/// The module of a library in a context, which is made when it is first wanted.
pub(crate) fn module_of(
    driver: &mut Driver,
    library: Handle<Library>,
    context: Handle<Context>,
) -> Answer<Handle<Module>> {
    let this = driver.libraries.get(library).ok_or(Error::INVALID_HANDLE)?;
    if let Some(&module) = this.modules.get(&context) {
        return Ok(module);
    }
    let (code, from) = (Arc::clone(&this.code), this.from);
    let module = load(driver, context, &code, from, Some(library))?;
    if let Some(l) = driver.libraries.get_mut(library) {
        l.modules.insert(context, module);
    }
    Ok(module)
}

/// The function that a number means in the current context: that of a function, or that of a kernel.
pub(crate) fn function_of(call: &mut Call, number: u64) -> Answer<Handle<Function>> {
    let Ok(kernel) = call.kernels.find(number) else { return call.handle(|d| &d.functions, number) };
    let context = call.context()?;
    let Some(&Kernel { library, entry, .. }) = call.kernels.get(kernel) else { return Err(Error::INVALID_HANDLE) };
    let module = module_of(call, library, context)?;
    function(call, module, entry)
}
