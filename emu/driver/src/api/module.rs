//! Modules: code in a context.

use super::context::synchronise;
use crate::abi::{In, Out, Raw, Text};
use crate::call::{Call, exports};
use crate::error::{Answer, Error};
use crate::image::{self, Refusal, Source};
use crate::loading::{self, compile, function, load, target};
use crate::options::Logs;

exports! {
    Context {
        cuModuleLoad @2000 (module: Out<u64>, fname: Text) = load_file;
        cuModuleLoadData @2000 (module: Out<u64>, image: Raw) = load_data;
        cuModuleLoadDataEx @2010 (module: Out<u64>, image: Raw, numOptions: u32, options: In<u32>, optionValues: In<usize>) = load_data_with;
        cuModuleLoadFatBinary @2000 (module: Out<u64>, fatCubin: Raw) = load_data;
        cuModuleGetFunction @2000 (hfunc: Out<u64>, hmod: u64, name: Text) = get_function;
        cuModuleGetFunctionCount @12040 (count: Out<u32>, mod_: u64) = count;
        cuModuleEnumerateFunctions @12040 (functions: Out<u64>, numFunctions: u32, mod_: u64) = enumerate;
        cuModuleGetGlobal_v2 @3020 (dptr: Out<u64>, bytes: Out<usize>, hmod: u64, name: Text) = global;
        cuModuleGetLoadingMode @11070 (mode: Out<u32>) = loading_mode;
    }
    Release {
        cuModuleUnload @2000 (hmod: u64) = unload;
    }
}

/// Bytes of a file of code, at most.
const MOST_FILE: u64 = 1 << 30;

/// The bytes of a file.
pub(super) fn file(name: Text) -> Answer<Vec<u8>> {
    let path = std::path::PathBuf::from(name.string()?);
    let size = std::fs::metadata(&path).map_err(|_| Error::FILE_NOT_FOUND)?.len();
    if size > MOST_FILE {
        return Err(Error::INVALID_IMAGE);
    }
    std::fs::read(path).map_err(|_| Error::FILE_NOT_FOUND)
}

fn make(call: &mut Call, out: Out<u64>, sources: Result<Vec<Source>, Refusal>, logs: &mut Logs) -> Answer {
    if out.is_null() {
        return Err(Error::INVALID_VALUE);
    }
    let context = call.context()?;
    let code = compile(call, sources, logs)?;
    let from = call.export.name;
    let module = load(call, context, &code, from, None)?;
    out.set(module.number())
}

fn load_file(call: &mut Call, out: Out<u64>, name: Text) -> Answer {
    let (card, driver, sm) = target(call)?;
    let sources = image::read(&file(name)?, card, driver, sm);
    make(call, out, sources, &mut Logs::none())
}

fn load_data(call: &mut Call, out: Out<u64>, image: Raw) -> Answer {
    read_and_make(call, out, image, &mut Logs::none())
}

fn read_and_make(call: &mut Call, out: Out<u64>, image: Raw, logs: &mut Logs) -> Answer {
    if image.is_null() {
        return Err(Error::INVALID_VALUE);
    }
    let (card, driver, sm) = target(call)?;
    let sources = image::read_at(image, card, driver, sm);
    make(call, out, sources, logs)
}

fn load_data_with(
    call: &mut Call,
    out: Out<u64>,
    image: Raw,
    count: u32,
    options: In<u32>,
    values: In<usize>,
) -> Answer {
    let mut logs = Logs::read(count, options, values)?;
    read_and_make(call, out, image, &mut logs)
}

/// Waits for what it was launched for.
fn unload(call: &mut Call, number: u64) -> Answer {
    let module = call.handle(|d| &d.modules, number)?;
    let this = call.modules.get(module).ok_or(Error::INVALID_HANDLE)?;
    if this.library.is_some() {
        return Err(Error::NOT_PERMITTED);
    }
    let context = this.context;
    loading::check_idle(call, module);
    let waited = synchronise(call, context);
    let by = call.export.name;
    loading::unload(call, module, by);
    waited
}

fn get_function(call: &mut Call, out: Out<u64>, number: u64, name: Text) -> Answer {
    let module = call.handle(|d| &d.modules, number)?;
    let name = name.string()?;
    let code = &call.modules.get(module).ok_or(Error::INVALID_HANDLE)?.code;
    let entry = code.module.entries().iter().position(|e| e.name == name).ok_or(Error::NOT_FOUND)?;
    out.set(function(call, module, entry)?.number())
}

fn count(call: &mut Call, out: Out<u32>, number: u64) -> Answer {
    let module = call.handle(|d| &d.modules, number)?;
    out.set(call.modules.get(module).ok_or(Error::INVALID_HANDLE)?.code.module.entries().len() as u32)
}

fn enumerate(call: &mut Call, out: Out<u64>, most: u32, number: u64) -> Answer {
    let module = call.handle(|d| &d.modules, number)?;
    let entries = call.modules.get(module).ok_or(Error::INVALID_HANDLE)?.code.module.entries().len();
    (0..entries.min(most as usize)).try_for_each(|entry| out.at(entry, function(call, module, entry)?.number()))
}

fn global(call: &mut Call, out: Out<u64>, bytes: Out<usize>, number: u64, name: Text) -> Answer {
    let module = call.handle(|d| &d.modules, number)?;
    variable(call, module, out, bytes, name)
}

/// A variable of a module: its address and size.
pub(super) fn variable(
    call: &mut Call,
    module: crate::slots::Handle<crate::code::Module>,
    out: Out<u64>,
    bytes: Out<usize>,
    name: Text,
) -> Answer {
    let name = name.string()?;
    let loaded = &call.modules.get(module).ok_or(Error::INVALID_HANDLE)?.loaded;
    let variable = loaded.variables().find(|v| v.name == name).ok_or(Error::NOT_FOUND)?;
    let (address, size) = (variable.address, variable.bytes);
    out.set_if(address);
    bytes.set_if(size as usize);
    Ok(())
}

/// Code is loaded at once.
fn loading_mode(_: &mut Call, mode: Out<u32>) -> Answer {
    mode.set(1)
}
