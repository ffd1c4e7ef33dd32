//! Functions by name: `cuGetProcAddress` gives the newest variant that the asked version of CUDA has.

use super::TABLES;
use crate::abi::{In, Out, OutAddress, Raw, Text};
use crate::call::{Call, Export, base, exports};
use crate::error::{Answer, Error};

exports! {
    Nothing {
        cuGetProcAddress @11030 (symbol: Text, pfn: OutAddress, cudaVersion: i32, flags: u64) = first;
        cuGetProcAddress_v2 @12000 (symbol: Text, pfn: OutAddress, cudaVersion: i32, flags: u64, symbolStatus: Out<u32>) = get;
        cuGetExportTable @3000 (ppExportTable: OutAddress, pExportTableId: In<[u8; 16]>) = export_table;
        cuDriverGetVersion @2020 (driverVersion: Out<i32>) = version;
        cuProfilerStart @4000 () = profiler;
        cuProfilerStop @4000 () = profiler;
        cuFlushGPUDirectRDMAWrites @11030 (target: u32, scope: u32) = flush;
    }
}

/// Flags of `cuGetProcAddress`.
const LEGACY_STREAM: u64 = 1;
const PER_THREAD_STREAM: u64 = 2;
/// What it says of a name.
const FOUND: u32 = 0;
const NOT_FOUND: u32 = 1;
const TOO_OLD: u32 = 2;

/// The best variant of a function. `Err`: what `cuGetProcAddress` says of it.
fn look_up(symbol: &str, version: u32, driver: u32, own: bool) -> Result<&'static Export, u32> {
    let exports = || TABLES.iter().copied().flatten().copied();
    let variants = || exports().filter(|e| base(e.name) == symbol || e.name == symbol).filter(|e| e.since <= driver);
    let known = variants().filter(|e| e.since <= version);
    // Later versions come first; among equals the one whose default stream is as asked.
    let best = known.filter(|e| own || !e.per_thread).max_by_key(|e| (e.since, e.per_thread == own));
    best.ok_or(if variants().next().is_some() { TOO_OLD } else { NOT_FOUND })
}

fn get(call: &mut Call, symbol: Text, pfn: OutAddress, version: i32, flags: u64, status: Out<u32>) -> Answer {
    pfn.set(0)?;
    if flags & !(LEGACY_STREAM | PER_THREAD_STREAM) != 0 || version < 0 {
        return Err(Error::INVALID_VALUE);
    }
    let driver = call.settings.as_ref().map_or(13000, |s| s.driver);
    let found = look_up(&symbol.string()?, version as u32, driver, flags & PER_THREAD_STREAM != 0);
    status.set_if(found.err().unwrap_or(FOUND));
    match found {
        Ok(export) => pfn.set(export.address.0.expose_provenance()),
        Err(_) if status.is_null() => Err(Error::NOT_FOUND),
        Err(_) => Ok(()),
    }
}

fn first(call: &mut Call, symbol: Text, pfn: OutAddress, version: i32, flags: u64) -> Answer {
    let none = Raw::null().output();
    get(call, symbol, pfn, version, flags, none)
}

/// Tables of functions without names are between NVIDIA's libraries.
fn export_table(_: &mut Call, table: OutAddress, _: In<[u8; 16]>) -> Answer {
    table.set(0)?;
    Err(Error::NOT_FOUND)
}

fn version(call: &mut Call, version: Out<i32>) -> Answer {
    version.set(call.settings.as_ref().map_or(13000, |s| s.driver as i32))
}

fn profiler(_: &mut Call) -> Answer {
    Ok(())
}

fn flush(_: &mut Call, _: u32, _: u32) -> Answer {
    Ok(())
}
