//! A PTX emulator: parses PTX text, executes its kernels on the CPU, and checks what no card checks.
//!
//! [`Module::parse`] reads a text (`lex`, `parse`, `ast`) and decodes it (`decode`) into compact code (`program`), or
//! says by name and line what it does not know. [`Module::load`] gives its variables places in a [`Memory`];
//! [`Loaded::run`] runs a kernel to its end or to its first [`Fault`], and [`run`] several, which may overlap. An
//! [`Engine`] runs a graph of launches, copies and more (`operation`) beside a host that shares memory with them, and a
//! [`Machine`] queues of launches on one. Warps execute instructions over 32 lanes at once (`exec`, `alu`) in an order that [`Schedule`] chooses (`sched`). Every
//! access is checked for bounds, alignment, initialisation (`store`) and races (`race`, by the clocks of `clock`).
//!
//! It knows nothing of rigc, and agrees with the cards only because both follow the PTX ISA.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod agents;
mod alu;
mod ast;
pub mod case;

mod clock;
mod counters;
mod decode;
mod engine;
mod exec;
mod fault;
mod host;
mod launch;
mod lex;
mod matrix;
mod memory;
mod operation;
mod order;
mod parse;
mod parse_error;
mod program;
mod queue;
mod race;
mod sched;
mod store;
mod types;

pub use counters::Counters;
pub use engine::{After, Edge, Engine, Op, Turn};
pub use fault::{Fault, FaultKind, ThreadId};
pub use host::HostView;
pub use launch::{Card, Error, Launch, LaunchError, Options, Schedule};
pub use memory::{Memory, MemoryError};
pub use operation::{Compare, Extent, Pattern, Pitch, Place, Prepared, Word, Work};
pub use order::HostError;
pub use parse_error::ParseError;
pub use program::{Entry, ParamLayout};
pub use queue::{Event, Machine, Queue};
pub use store::HostMemory;

use program::Program;
use std::sync::Arc;

/// A PTX module, ready to be loaded.
#[derive(Debug)]
pub struct Module {
    version: (u32, u32),
    target: String,
    program: Arc<Program>,
}

impl Module {
    /// Parses PTX.
    ///
    /// # Errors
    /// The first thing that is malformed or that the emulator does not execute, with its line.
    pub fn parse(text: &str) -> Result<Module, ParseError> {
        let ast = parse::parse(text)?;
        let program = decode::decode(&ast)?;
        Ok(Module { version: ast.version, target: ast.target, program: program.into() })
    }

    /// `.version`.
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// `.target`, without its options.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The kernels, in order of the text.
    pub fn entries(&self) -> &[Entry] {
        &self.program.entries
    }

    /// Names of the functions that the module declares and does not define.
    pub fn missing(&self) -> impl Iterator<Item = &str> {
        self.program.functions.iter().filter_map(|code| code.missing.as_deref())
    }

    /// Gives the variables of the module places, with their initial values.
    ///
    /// # Errors
    /// If they do not fit into memory.
    pub fn load(&self, memory: &mut Memory) -> Result<Loaded, MemoryError> {
        let mut globals = Vec::new();
        for var in &self.program.globals {
            globals.push(memory.alloc_with(var.bytes.clone(), var.align)?);
        }
        for (var, &base) in self.program.globals.iter().zip(&globals) {
            for patch in &var.addresses {
                let value = globals[patch.target as usize].wrapping_add_signed(patch.offset) >> patch.shift;
                memory.write(base + patch.at, &value.to_le_bytes()[..patch.bytes])?;
            }
            if var.constant {
                memory.protect(base)?;
            }
        }
        Ok(Loaded { program: Arc::clone(&self.program), target: self.target.clone(), globals })
    }
}

/// A module whose variables are in a memory.
#[derive(Debug)]
pub struct Loaded {
    program: Arc<Program>,
    target: String,
    globals: Vec<u64>,
}

impl Loaded {
    /// The kernels, in order of the text.
    pub fn entries(&self) -> &[Entry] {
        &self.program.entries
    }

    /// The variables of global and constant memory, in order of the text.
    pub fn variables(&self) -> impl Iterator<Item = Variable<'_>> {
        self.program.globals.iter().zip(&self.globals).map(|(var, &address)| Variable {
            name: &var.name,
            address,
            bytes: var.bytes.len() as u64,
            constant: var.constant,
        })
    }

    /// Frees the variables. What was prepared for a launch and touches them finds them freed.
    pub fn unload(self, memory: &mut Memory) {
        for base in self.globals {
            // It is there unless somebody else has freed it.
            _ = memory.free(base);
        }
    }

    /// How many CTAs of a launch a multiprocessor holds at once, as [`Options::resident_ctas`] says.
    ///
    /// # Errors
    /// If the launch is not possible, whatever its parameters.
    pub fn occupancy(&self, launch: &Launch, options: &Options) -> Result<u64, LaunchError> {
        launch::occupancy(&self.program, &self.target, launch, options)
    }

    /// The address of a variable of the module.
    pub fn symbol(&self, name: &str) -> Option<u64> {
        let index = self.program.globals.iter().position(|g| g.name == name)?;
        self.globals.get(index).copied()
    }

    /// A launch for an [`Engine`], of the memory the module was loaded into. It can be submitted any number of times.
    ///
    /// # Errors
    /// If it is not possible.
    pub fn prepare(&self, launch: &Launch, options: &Options) -> Result<Prepared, LaunchError> {
        launch::prepare(&self.program, &self.target, &self.globals, launch, options).map(Prepared)
    }

    /// Runs a kernel. `memory` is the one the module was loaded into.
    ///
    /// # Errors
    /// If the launch is not possible, or the first fault of the kernel.
    pub fn run(&self, memory: &mut Memory, launch: &Launch, options: &Options) -> Result<Counters, Error> {
        run(memory, &[Step { loaded: self, launch, overlaps: false }], options)
    }
}

/// A variable of a loaded module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variable<'a> {
    /// Its name.
    pub name: &'a str,
    /// Where it is.
    pub address: u64,
    /// How large it is.
    pub bytes: u64,
    /// Whether it is in constant memory, which kernels cannot write.
    pub constant: bool,
}

/// A launch among others.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// The module.
    pub loaded: &'a Loaded,
    /// What is launched.
    pub launch: &'a Launch,
    /// It is a programmatic dependent launch: it may begin when every CTA of the launch before has executed
    /// `griddepcontrol.launch_dependents` or has ended, and only `griddepcontrol.wait` orders it with that launch.
    pub overlaps: bool,
}

/// Runs launches in their order. `memory` is the one their modules were loaded into.
///
/// # Errors
/// If a launch is not possible, or the first fault of a kernel.
pub fn run(memory: &mut Memory, steps: &[Step], options: &Options) -> Result<Counters, Error> {
    let prepared: Vec<(Prepared, bool)> = steps
        .iter()
        .map(|s| Ok((s.loaded.prepare(s.launch, options)?, s.overlaps)))
        .collect::<Result<_, LaunchError>>()?;
    let mut engine = Engine::new(std::mem::replace(memory, Memory::new(0)), *options);
    let ended = run_all(&mut engine, prepared);
    *memory = engine.into_memory();
    memory.boundary();
    ended
}

fn run_all(engine: &mut Engine, steps: Vec<(Prepared, bool)>) -> Result<Counters, Error> {
    let mut last = None;
    for (prepared, overlaps) in steps {
        if !overlaps {
            finish(engine, last)?;
        }
        let after: Vec<After> = last.map(|op| After { op, edge: Edge::Programmatic }).into_iter().collect();
        last = Some(engine.submit("", Work::Launch(prepared), &after)?);
    }
    finish(engine, last)?;
    Ok(engine.counters())
}

/// Runs all there is to its end, and knows that.
fn finish(engine: &mut Engine, last: Option<Op>) -> Result<(), Error> {
    let Some(last) = last else { return Ok(()) };
    while !engine.done(last) {
        if let Turn::Stuck(_, fault) | Turn::Failed(_, fault) = engine.turn() {
            return Err(fault.into());
        }
    }
    engine.learn(last);
    Ok(())
}
