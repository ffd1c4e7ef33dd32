//! The linker: PTX, and machine code of the stand-in, to machine code of the stand-in.

use super::module::file;
use crate::abi::{In, Out, OutAddress, Raw, Text};
use crate::call::{Call, exports};
use crate::code::Linker;
use crate::error::{Answer, Error};
use crate::image::{self, Refusal, Source};
use crate::jit;
use crate::loading::{compile, refuse, target};
use crate::options::Logs;
use crate::slots::Handle;

exports! {
    Context {
        cuLinkCreate @5050 (numOptions: u32, options: In<u32>, optionValues: In<usize>, stateOut: Out<u64>) = create;
        cuLinkCreate_v2 @6050 (numOptions: u32, options: In<u32>, optionValues: In<usize>, stateOut: Out<u64>) = create;
        cuLinkAddData @5050 (state: u64, kind: u32, data: Raw, size: usize, name: Text, numOptions: u32, options: In<u32>, optionValues: In<usize>) = add_data;
        cuLinkAddData_v2 @6050 (state: u64, kind: u32, data: Raw, size: usize, name: Text, numOptions: u32, options: In<u32>, optionValues: In<usize>) = add_data;
        cuLinkAddFile @5050 (state: u64, kind: u32, path: Text, numOptions: u32, options: In<u32>, optionValues: In<usize>) = add_file;
        cuLinkAddFile_v2 @6050 (state: u64, kind: u32, path: Text, numOptions: u32, options: In<u32>, optionValues: In<usize>) = add_file;
        cuLinkComplete @5050 (state: u64, cubinOut: OutAddress, sizeOut: Out<usize>) = complete;
    }
    Release {
        cuLinkDestroy @5050 (state: u64) = destroy;
    }
}

/// Kinds of inputs.
const CUBIN: u32 = 0;
const PTX: u32 = 1;
const FAT: u32 = 2;
const OBJECT: u32 = 3;
const LIBRARY: u32 = 4;

fn create(call: &mut Call, count: u32, options: In<u32>, values: In<usize>, out: Out<u64>) -> Answer {
    if out.is_null() {
        return Err(Error::INVALID_VALUE);
    }
    let logs = Logs::read(count, options, values)?;
    let context = call.context()?;
    let linker = call.linkers.insert(Linker { context, sources: Vec::new(), logs, result: None });
    out.set(linker.number())
}

/// The texts of an input.
fn read(call: &Call, kind: u32, bytes: &[u8], name: &str) -> Result<Vec<Source>, Refusal> {
    let (card, driver, sm) = target(call)?;
    let machine = || {
        let log = format!("{name}: machine code of real cards is not linked; give the linker PTX");
        Refusal::ours(Error::NO_BINARY_FOR_GPU, log)
    };
    let mut sources = match kind {
        PTX | CUBIN | FAT => image::read(bytes, card, driver, sm)?,
        OBJECT | LIBRARY => return Err(machine()),
        5 => return Err(Refusal::ours(Error::NOT_SUPPORTED, format!("{name}: NVVM IR is not linked"))),
        _ => return Err(Error::INVALID_VALUE.into()),
    };
    if kind == CUBIN && sources.iter().any(|s| s.name == "ptx") && sources.len() == 1 && !bytes.starts_with(b"\x7f") {
        return Err(Refusal::new(Error::INVALID_IMAGE, format!("{name} is no machine code")));
    }
    for source in &mut sources {
        if !name.is_empty() {
            source.name = name.to_owned();
        }
    }
    Ok(sources)
}

fn add(call: &mut Call, linker: Handle<Linker>, kind: u32, bytes: &[u8], name: &str) -> Answer {
    let sources = read(call, kind, bytes, name);
    let mut logs = call.linkers.get(linker).ok_or(Error::INVALID_HANDLE)?.logs;
    // A driver compiles PTX when it is added.
    let checked = sources.and_then(|sources| {
        let settings = call.settings()?;
        sources.iter().try_for_each(|s| jit::check(s, settings))?;
        Ok(sources)
    });
    let added = checked.map_err(|refusal| refuse(call, &mut logs, &refusal));
    let this = call.linkers.get_mut(linker).ok_or(Error::INVALID_HANDLE)?;
    this.logs = logs;
    this.sources.extend(added?);
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "as many as in C")]
fn add_data(
    call: &mut Call,
    number: u64,
    kind: u32,
    data: Raw,
    size: usize,
    name: Text,
    _: u32,
    _: In<u32>,
    _: In<usize>,
) -> Answer {
    let linker = call.handle(|d| &d.linkers, number)?;
    if data.is_null() {
        return Err(Error::INVALID_VALUE);
    }
    add(call, linker, kind, &data.bytes(size)?, &name.string().unwrap_or_default())
}

fn add_file(call: &mut Call, number: u64, kind: u32, path: Text, _: u32, _: In<u32>, _: In<usize>) -> Answer {
    let linker = call.handle(|d| &d.linkers, number)?;
    add(call, linker, kind, &file(path)?, &path.string()?)
}

fn complete(call: &mut Call, number: u64, out: OutAddress, size: Out<usize>) -> Answer {
    let linker = call.handle(|d| &d.linkers, number)?;
    let this = call.linkers.get(linker).ok_or(Error::INVALID_HANDLE)?;
    let (sources, mut logs) = (this.sources.clone(), this.logs);
    if sources.is_empty() {
        return Err(Error::INVALID_VALUE);
    }
    let code = compile(call, Ok(sources), &mut logs);
    let (card, driver, _) = target(call)?;
    let this = call.linkers.get_mut(linker).ok_or(Error::INVALID_HANDLE)?;
    this.logs = logs;
    let machine = this.result.insert(image::assemble(card, driver, &code?.sources));
    out.set(machine.as_ptr().expose_provenance())?;
    size.set_if(machine.len());
    Ok(())
}

fn destroy(call: &mut Call, number: u64) -> Answer {
    let linker = call.handle(|d| &d.linkers, number)?;
    call.linkers.remove(linker);
    Ok(())
}
