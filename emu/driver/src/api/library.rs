//! Libraries: code of no context, whose kernels become functions where they are used.

use super::context::synchronise;
use super::module::{file, variable};
use crate::abi::{In, Out, OutAddress, Raw, Text};
use crate::call::{Call, exports};
use crate::code::{Kernel, Library, Preferences};
use crate::error::{Answer, Error};
use crate::image::{self, Refusal, Source};
use crate::loading::{self, compile, function, module_of, target};
use crate::options::Logs;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::Arc;

exports! {
    Device {
        cuLibraryLoadData @12000 (library: Out<u64>, code: Raw, jitOptions: In<u32>, jitOptionsValues: In<usize>, numJitOptions: u32, libraryOptions: In<u32>, libraryOptionValues: In<usize>, numLibraryOptions: u32) = load_data;
        cuLibraryLoadFromFile @12000 (library: Out<u64>, fileName: Text, jitOptions: In<u32>, jitOptionsValues: In<usize>, numJitOptions: u32, libraryOptions: In<u32>, libraryOptionValues: In<usize>, numLibraryOptions: u32) = load_file;
        cuLibraryUnload @12000 (library: u64) = unload;
        cuLibraryGetKernel @12000 (pKernel: Out<u64>, library: u64, name: Text) = kernel;
        cuLibraryGetKernelCount @12040 (count: Out<u32>, lib: u64) = count;
        cuLibraryEnumerateKernels @12040 (kernels: Out<u64>, numKernels: u32, lib: u64) = enumerate;
        cuKernelGetLibrary @12050 (pLib: Out<u64>, kernel: u64) = library_of;
    }
    Context {
        cuLibraryGetModule @12000 (pMod: Out<u64>, library: u64) = module;
        cuLibraryGetGlobal @12000 (dptr: Out<u64>, bytes: Out<usize>, library: u64, name: Text) = global;
        cuLibraryGetManaged @12000 (dptr: Out<u64>, bytes: Out<usize>, library: u64, name: Text) = managed;
        cuLibraryGetUnifiedFunction @12000 (fptr: OutAddress, library: u64, symbol: Text) = unified_function;
        cuKernelGetFunction @12000 (pFunc: Out<u64>, kernel: u64) = kernel_function;
    }
}

fn make(call: &mut Call, out: Out<u64>, sources: Result<Vec<Source>, Refusal>, logs: &mut Logs) -> Answer {
    if out.is_null() {
        return Err(Error::INVALID_VALUE);
    }
    let code = compile(call, sources, logs)?;
    let from = call.export.name;
    let empty = Library { code: Arc::clone(&code), from, kernels: Vec::new(), modules: BTreeMap::new() };
    let library = call.libraries.insert(empty);
    let kernel = |entry: usize| {
        let known = &code.module.entries()[entry];
        let name = CString::new(known.name.clone()).unwrap_or_default();
        Kernel { library, code: Arc::clone(&code), entry, name, preferences: Preferences::of(known) }
    };
    let kernels = (0..code.module.entries().len()).map(|entry| call.kernels.insert(kernel(entry))).collect();
    if let Some(l) = call.libraries.get_mut(library) {
        l.kernels = kernels;
    }
    out.set(library.number())
}

#[expect(clippy::too_many_arguments, reason = "as many as in C")]
fn load_data(
    call: &mut Call,
    out: Out<u64>,
    code: Raw,
    options: In<u32>,
    values: In<usize>,
    count: u32,
    _: In<u32>,
    _: In<usize>,
    _: u32,
) -> Answer {
    if code.is_null() {
        return Err(Error::INVALID_VALUE);
    }
    let mut logs = Logs::read(count, options, values)?;
    let (card, driver, sm) = target(call)?;
    let sources = image::read_at(code, card, driver, sm);
    make(call, out, sources, &mut logs)
}

#[expect(clippy::too_many_arguments, reason = "as many as in C")]
fn load_file(
    call: &mut Call,
    out: Out<u64>,
    name: Text,
    options: In<u32>,
    values: In<usize>,
    count: u32,
    _: In<u32>,
    _: In<usize>,
    _: u32,
) -> Answer {
    let mut logs = Logs::read(count, options, values)?;
    let (card, driver, sm) = target(call)?;
    let sources = image::read(&file(name)?, card, driver, sm);
    make(call, out, sources, &mut logs)
}

/// Waits for what its kernels were launched for.
fn unload(call: &mut Call, number: u64) -> Answer {
    let library = call.handle(|d| &d.libraries, number)?;
    let modules = call.libraries.get(library).ok_or(Error::INVALID_HANDLE)?.modules.clone();
    let mut waited = Ok(());
    let by = call.export.name;
    for (context, module) in modules {
        loading::check_idle(call, module);
        waited = waited.and(synchronise(call, context));
        loading::unload(call, module, by);
    }
    call.kernels.extract(|_, k| k.library == library);
    call.libraries.remove(library);
    waited
}

fn kernel(call: &mut Call, out: Out<u64>, number: u64, name: Text) -> Answer {
    let library = call.handle(|d| &d.libraries, number)?;
    let name = name.string()?;
    let this = call.libraries.get(library).ok_or(Error::INVALID_HANDLE)?;
    let entry = this.code.module.entries().iter().position(|e| e.name == name).ok_or(Error::NOT_FOUND)?;
    out.set(this.kernels[entry].number())
}

fn count(call: &mut Call, out: Out<u32>, number: u64) -> Answer {
    let library = call.handle(|d| &d.libraries, number)?;
    out.set(call.libraries.get(library).ok_or(Error::INVALID_HANDLE)?.kernels.len() as u32)
}

fn enumerate(call: &mut Call, out: Out<u64>, most: u32, number: u64) -> Answer {
    let library = call.handle(|d| &d.libraries, number)?;
    let kernels = &call.libraries.get(library).ok_or(Error::INVALID_HANDLE)?.kernels;
    kernels.iter().take(most as usize).enumerate().try_for_each(|(i, k)| out.at(i, k.number()))
}

fn library_of(call: &mut Call, out: Out<u64>, number: u64) -> Answer {
    let kernel = call.handle(|d| &d.kernels, number)?;
    out.set(call.kernels.get(kernel).ok_or(Error::INVALID_HANDLE)?.library.number())
}

fn module(call: &mut Call, out: Out<u64>, number: u64) -> Answer {
    let library = call.handle(|d| &d.libraries, number)?;
    let context = call.context()?;
    out.set(module_of(call, library, context)?.number())
}

fn global(call: &mut Call, out: Out<u64>, bytes: Out<usize>, number: u64, name: Text) -> Answer {
    let library = call.handle(|d| &d.libraries, number)?;
    let context = call.context()?;
    let module = module_of(call, library, context)?;
    variable(call, module, out, bytes, name)
}

/// PTX has managed variables, which the emulator does not tell from others.
fn managed(call: &mut Call, _: Out<u64>, _: Out<usize>, number: u64, _: Text) -> Answer {
    call.handle(|d| &d.libraries, number)?;
    Err(Error::NOT_FOUND)
}

fn unified_function(call: &mut Call, _: OutAddress, number: u64, _: Text) -> Answer {
    call.handle(|d| &d.libraries, number)?;
    Err(Error::NOT_FOUND)
}

fn kernel_function(call: &mut Call, out: Out<u64>, number: u64) -> Answer {
    let kernel = call.handle(|d| &d.kernels, number)?;
    let Some(&Kernel { library, entry, .. }) = call.kernels.get(kernel) else { return Err(Error::INVALID_HANDLE) };
    let context = call.context()?;
    let module = module_of(call, library, context)?;
    out.set(function(call, module, entry)?.number())
}
