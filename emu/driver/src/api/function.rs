//! Questions to functions and kernels, and what can be set of them.

use crate::abi::{Out, OutAddress};
use crate::call::{Call, exports};
use crate::code::{Figures, Kernel, Preferences};
use crate::error::{Answer, Error};
use crate::jit::Code;
use crate::loading::function_of;
use crate::slots::Handle;
use std::ffi::CString;
use std::sync::Arc;

exports! {
    Context {
        cuFuncGetAttribute @2020 (pi: Out<i32>, attrib: u32, hfunc: u64) = attribute;
        cuFuncSetAttribute @9000 (hfunc: u64, attrib: u32, value: i32) = set_attribute;
        cuFuncSetCacheConfig @3000 (hfunc: u64, config: u32) = set_cache;
        cuFuncSetSharedMemConfig @4020 (hfunc: u64, config: u32) = set_shared_config;
        cuFuncGetModule @11000 (hmod: Out<u64>, hfunc: u64) = module;
        cuFuncGetName @12030 (name: OutAddress, hfunc: u64) = name;
        cuFuncGetParamInfo @12040 (func: u64, paramIndex: usize, paramOffset: Out<usize>, paramSize: Out<usize>) = parameter;
        cuFuncGetParamCount @12090 (func: u64, paramCount: Out<usize>) = parameter_count;
        cuFuncIsLoaded @12040 (state: Out<u32>, function: u64) = is_loaded;
        cuFuncLoad @12040 (function: u64) = load;
        cuKernelGetName @12030 (name: OutAddress, hfunc: u64) = kernel_name;
    }
    Device {
        cuKernelGetAttribute @12000 (pi: Out<i32>, attrib: u32, kernel: u64, dev: i32) = kernel_attribute;
        cuKernelSetAttribute @12000 (attrib: u32, val: i32, kernel: u64, dev: i32) = set_kernel_attribute;
        cuKernelSetCacheConfig @12000 (kernel: u64, config: u32, dev: i32) = set_kernel_cache;
        cuKernelGetParamInfo @12040 (kernel: u64, paramIndex: usize, paramOffset: Out<usize>, paramSize: Out<usize>) = kernel_parameter;
        cuKernelGetParamCount @12090 (kernel: u64, paramCount: Out<usize>) = kernel_parameter_count;
    }
}

/// What is asked of a kernel, wherever it is.
struct About {
    code: Arc<Code>,
    entry: usize,
    preferences: Preferences,
}

impl About {
    fn entry(&self) -> Answer<&emu::Entry> {
        self.code.module.entries().get(self.entry).ok_or(Error::INVALID_HANDLE)
    }
}

fn of_function(call: &mut Call, number: u64) -> Answer<About> {
    let function = function_of(call, number)?;
    let f = call.functions.get(function).ok_or(Error::INVALID_HANDLE)?;
    Ok(About { code: Arc::clone(&f.code), entry: f.entry, preferences: f.preferences })
}

fn kernel_handle(call: &mut Call, number: u64) -> Answer<Handle<Kernel>> {
    call.handle(|d| &d.kernels, number)
}

fn of_kernel(call: &mut Call, number: u64) -> Answer<About> {
    let kernel = kernel_handle(call, number)?;
    let k = call.kernels.get(kernel).ok_or(Error::INVALID_HANDLE)?;
    Ok(About { code: Arc::clone(&k.code), entry: k.entry, preferences: k.preferences })
}

/// Attributes by number, as C has them.
fn ask(call: &Call, about: &About, attribute: u32) -> Answer<i32> {
    let figures = Figures::of(about.entry()?);
    let p = &about.preferences;
    let value = match attribute {
        0 => figures.max_threads,
        1 => figures.static_shared,
        // No variables of constant memory are of one kernel.
        2 => 0,
        3 => figures.local,
        4 => figures.registers,
        5 => about.code.target(),
        6 => call.settings()?.card.arch.sm,
        7 => 0,
        8 => p.dynamic_shared,
        9 => return Ok(p.carveout),
        10 | 16 => 0,
        11..=13 => return Ok(p.cluster[attribute as usize - 11]),
        14 => return Ok(p.non_portable_cluster),
        15 => return Ok(p.cluster_policy),
        _ => return Err(Error::INVALID_VALUE),
    };
    Ok(value as i32)
}

/// Sets an attribute.
fn set(call: &Call, about: &About, attribute: u32, value: i32) -> Answer<Preferences> {
    let mut p = about.preferences;
    match attribute {
        8 => {
            let room = call.settings()?.card.block_shared().saturating_sub(about.entry()?.static_shared as u32);
            let asked = u32::try_from(value).map_err(|_| Error::INVALID_VALUE)?;
            if asked > room {
                return Err(Error::INVALID_VALUE);
            }
            p.dynamic_shared = asked;
        }
        9 if (-1..=100).contains(&value) => p.carveout = value,
        11..=13 if value >= 0 => p.cluster[attribute as usize - 11] = value,
        14 if (0..=1).contains(&value) => p.non_portable_cluster = value,
        15 if (0..=2).contains(&value) => p.cluster_policy = value,
        _ => return Err(Error::INVALID_VALUE),
    }
    Ok(p)
}

fn attribute(call: &mut Call, out: Out<i32>, attribute: u32, number: u64) -> Answer {
    let about = of_function(call, number)?;
    out.set(ask(call, &about, attribute)?)
}

fn kernel_attribute(call: &mut Call, out: Out<i32>, attribute: u32, number: u64, device: i32) -> Answer {
    super::device::check(device)?;
    let about = of_kernel(call, number)?;
    out.set(ask(call, &about, attribute)?)
}

fn set_attribute(call: &mut Call, number: u64, attribute: u32, value: i32) -> Answer {
    let about = of_function(call, number)?;
    let preferences = set(call, &about, attribute, value)?;
    let function = function_of(call, number)?;
    if let Some(f) = call.functions.get_mut(function) {
        f.preferences = preferences;
    }
    Ok(())
}

fn set_kernel_attribute(call: &mut Call, attribute: u32, value: i32, number: u64, device: i32) -> Answer {
    super::device::check(device)?;
    let about = of_kernel(call, number)?;
    let preferences = set(call, &about, attribute, value)?;
    set_kernel(call, number, preferences)
}

/// Sets what can be set of a kernel, also where it is a function already.
fn set_kernel(call: &mut Call, number: u64, preferences: Preferences) -> Answer {
    let kernel = kernel_handle(call, number)?;
    if let Some(k) = call.kernels.get_mut(kernel) {
        k.preferences = preferences;
    }
    for (_, f) in call.functions.iter_mut().filter(|(_, f)| f.kernel == Some(kernel)) {
        f.preferences = preferences;
    }
    Ok(())
}

fn set_cache(call: &mut Call, number: u64, config: u32) -> Answer {
    let function = function_of(call, number)?;
    if config > 3 {
        return Err(Error::INVALID_VALUE);
    }
    if let Some(f) = call.functions.get_mut(function) {
        f.preferences.cache = config;
    }
    Ok(())
}

fn set_kernel_cache(call: &mut Call, number: u64, config: u32, device: i32) -> Answer {
    super::device::check(device)?;
    let about = of_kernel(call, number)?;
    if config > 3 {
        return Err(Error::INVALID_VALUE);
    }
    set_kernel(call, number, Preferences { cache: config, ..about.preferences })
}

/// Banks have four bytes on all cards.
fn set_shared_config(call: &mut Call, number: u64, config: u32) -> Answer {
    function_of(call, number)?;
    if config > 2 { Err(Error::INVALID_VALUE) } else { Ok(()) }
}

fn module(call: &mut Call, out: Out<u64>, number: u64) -> Answer {
    let function = function_of(call, number)?;
    out.set(call.functions.get(function).ok_or(Error::INVALID_HANDLE)?.module.number())
}

fn address(name: &CString) -> usize {
    name.as_ptr().expose_provenance()
}

fn name(call: &mut Call, out: OutAddress, number: u64) -> Answer {
    let function = function_of(call, number)?;
    out.set(address(&call.functions.get(function).ok_or(Error::INVALID_HANDLE)?.name))
}

fn kernel_name(call: &mut Call, out: OutAddress, number: u64) -> Answer {
    let kernel = kernel_handle(call, number)?;
    out.set(address(&call.kernels.get(kernel).ok_or(Error::INVALID_HANDLE)?.name))
}

fn put_parameter(about: &About, index: usize, offset: Out<usize>, size: Out<usize>) -> Answer {
    let param = about.entry()?.params.get(index).ok_or(Error::INVALID_VALUE)?;
    offset.set(param.offset as usize)?;
    size.set_if(param.bytes as usize);
    Ok(())
}

fn parameter(call: &mut Call, number: u64, index: usize, offset: Out<usize>, size: Out<usize>) -> Answer {
    put_parameter(&of_function(call, number)?, index, offset, size)
}

fn kernel_parameter(call: &mut Call, number: u64, index: usize, offset: Out<usize>, size: Out<usize>) -> Answer {
    put_parameter(&of_kernel(call, number)?, index, offset, size)
}

fn parameter_count(call: &mut Call, number: u64, count: Out<usize>) -> Answer {
    count.set(of_function(call, number)?.entry()?.params.len())
}

fn kernel_parameter_count(call: &mut Call, number: u64, count: Out<usize>) -> Answer {
    count.set(of_kernel(call, number)?.entry()?.params.len())
}

/// Code is loaded at once.
fn is_loaded(call: &mut Call, state: Out<u32>, number: u64) -> Answer {
    function_of(call, number)?;
    state.set(1)
}

fn load(call: &mut Call, number: u64) -> Answer {
    function_of(call, number).map(|_| ())
}
