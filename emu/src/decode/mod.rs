//! [`crate::ast`] to [`crate::program`]: lays out variables, resolves names, chooses for each instruction what executes it.
//! `body` has scopes and operands; the other files have the instructions, by family. Nothing is looked up again afterwards.

mod arithmetic;
mod async_copy;
mod body;
mod control;
mod matrix;
mod memory;
mod mods;
mod refused;
mod sync;
mod video;

use crate::ast::{Ast, Function, Init, Param, Var};
use crate::parse::{MAX_VARIABLE, ParseError};
use crate::program::{Code, Constant, Entry, GlobalVar, Instr, Op, ParamLayout, Patch, Place, Program, Rmw};
use crate::types::{CODE_STEP, CODE_WINDOW, LOCAL_WINDOW, SHARED_WINDOW, Space, Ty};
use body::{Body, Scope, Symbol};
use std::collections::{HashMap, HashSet};

/// Frames start at multiples of this.
const FRAME_ALIGN: u64 = 256;

/// How a function takes and returns its values.
#[derive(Debug, Default, Clone, PartialEq, Eq, Hash)]
struct Signature {
    params: Vec<Place>,
    returns: Vec<Place>,
}

/// What all functions of a module share while they are decoded.
struct Shared<'a> {
    program: Program,
    interned: HashMap<Constant, u32>,
    signatures: Vec<Signature>,
    /// Numbers of different signatures.
    kinds: HashMap<Signature, u32>,
    /// Functions by name.
    names: HashMap<&'a str, u32>,
    /// Variables with addresses in their initial values, which are resolved in the end.
    pending: Vec<(u32, &'a Var)>,
}

impl Shared<'_> {
    /// The slot of a constant.
    fn constant(&mut self, c: Constant) -> u32 {
        let constants = &mut self.program.constants;
        let index = *self.interned.entry(c).or_insert_with(|| {
            constants.push(c);
            constants.len() as u32 - 1
        });
        crate::program::CONSTANT + index
    }

    /// The number of a signature.
    fn kind(&mut self, signature: &Signature) -> u32 {
        let next = self.kinds.len() as u32;
        *self.kinds.entry(signature.clone()).or_insert(next)
    }
}

/// Places after one another, each at a multiple of its alignment.
#[derive(Debug, Clone, Copy, Default)]
struct Layout(u64);

impl Layout {
    fn add(&mut self, bytes: u64, align: u64) -> u64 {
        let at = self.0.next_multiple_of(align.max(1));
        self.0 = at + bytes;
        at
    }
}

/// Decodes a module.
pub(crate) fn decode(ast: &Ast) -> Result<Program, ParseError> {
    let mut scope = Scope::default();
    let program = Program {
        code: Vec::new(),
        functions: Vec::new(),
        entries: Vec::new(),
        constants: Vec::new(),
        globals: Vec::new(),
    };
    let mut shared = Shared {
        program,
        interned: HashMap::new(),
        signatures: Vec::new(),
        kinds: HashMap::new(),
        names: HashMap::new(),
        pending: Vec::new(),
    };
    // Shared variables of the module and of functions come first, in every kernel; those of a kernel follow.
    let mut common = Layout::default();
    let mut dynamic_align = 1;
    for var in &ast.vars {
        declare_static(var, &mut scope, &mut common, &mut dynamic_align, &mut shared)?;
    }
    let mut functions: Vec<&Function> = Vec::new();
    for f in &ast.functions {
        match shared.names.get(f.name.as_str()).copied() {
            Some(at) if functions[at as usize].body.is_none() => functions[at as usize] = f,
            Some(_) if f.body.is_none() => {}
            Some(_) => return Err(ParseError::new(f.line, format!("the function {} is defined twice", f.name))),
            None => {
                shared.names.insert(&f.name, functions.len() as u32);
                functions.push(f);
            }
        }
    }
    for (name, function, line) in &ast.aliases {
        match (shared.names.get(function.as_str()).copied(), shared.names.get_mut(name.as_str())) {
            (Some(target), Some(at)) if functions[*at as usize].body.is_none() => *at = target,
            _ => return Err(ParseError::new(*line, format!("{name} cannot be another name of {function}"))),
        }
    }
    for f in &functions {
        scope.insert(&f.name, Symbol::Function(shared.names[f.name.as_str()]), f.line)?;
        shared.signatures.push(signature(&f.params, &f.returns));
    }
    // Functions before kernels, so that all shared variables of functions have their places.
    for (at, f) in functions.iter().enumerate() {
        let signature = shared.signatures[at].clone();
        // A kernel is launched, not called.
        let signature = if f.entry { u32::MAX } else { shared.kind(&signature) };
        let missing = f.body.is_none().then(|| f.name.clone());
        shared.program.functions.push(Code { start: 0, registers: 0, predicates: 0, frame: 0, signature, missing });
    }
    let mut order: Vec<usize> = (0..functions.len()).collect();
    order.sort_by_key(|&at| functions[at].entry);
    for at in order {
        let f = functions[at];
        let (mut own, mut align) = (common, dynamic_align);
        let start = shared.program.code.len() as u32;
        if let Some(stmts) = &f.body {
            let mut body = Body::new(&mut shared, &scope, f, &mut own, &mut align);
            body.declare_params(f)?;
            body.block(stmts)?;
            let (registers, predicates, frame) = body.finish(start)?;
            mark_cas_loops(&mut shared.program.code[start as usize..]);
            let code = &mut shared.program.functions[at];
            (code.start, code.registers, code.predicates, code.frame) = (start, registers, predicates, frame);
        }
        if !f.entry {
            (common, dynamic_align) = (own, align);
            continue;
        }
        let (params, param_bytes) = kernel_params(f);
        shared.program.entries.push(Entry {
            name: f.name.clone(),
            params,
            param_bytes,
            static_shared: own.0,
            max_threads: f.max_threads.or(f.required_threads),
            required_threads: f.required_threads,
            max_registers: f.max_registers,
            registers: shared.program.functions[at].registers,
            local_bytes: shared.program.functions[at].frame.into(),
            dynamic_shared_align: align,
            code: at as u32,
        });
    }
    initialise(&scope, &shared.pending, &mut shared.program.globals)?;
    Ok(shared.program)
}

/// Finds the weak loads of a function that begin a loop with `cas`.
fn mark_cas_loops(code: &mut [Instr]) {
    let of = |a: &crate::program::Address, bytes| (a.base, a.offset, bytes);
    let cas: HashSet<_> = code
        .iter()
        .filter_map(|i| match &i.op {
            Op::Atomic(a) if a.op == Rmw::Cas => Some(of(&a.address, a.ty.bytes())),
            _ => None,
        })
        .collect();
    for instr in code {
        if let Op::Access(a) = &mut instr.op {
            let plain = !a.store && !a.strong && !a.non_coherent && a.regs.len() == 1;
            a.before_cas = plain && cas.contains(&of(&a.address, a.bytes));
        }
    }
}

/// Gives a shared, global or constant variable its place.
fn declare_static<'a>(
    var: &'a Var,
    scope: &mut Scope,
    layout: &mut Layout,
    dynamic_align: &mut u64,
    shared: &mut Shared<'a>,
) -> Result<(), ParseError> {
    let globals = &mut shared.program.globals;
    let symbol = match var.space {
        Space::Shared if var.unsized_array => {
            *dynamic_align = (*dynamic_align).max(var.align);
            Symbol::DynamicShared
        }
        Space::Shared => Symbol::Shared(layout.add(var.bytes, var.align)),
        _ if var.external => Symbol::Elsewhere,
        _ if var.unsized_array => {
            return Err(ParseError::new(var.line, format!("the variable {} is defined nowhere", var.name)));
        }
        _ if globals.iter().map(|g| g.bytes.len() as u64).sum::<u64>() + var.bytes > MAX_VARIABLE => {
            return Err(ParseError::new(var.line, format!("the variables have more than {MAX_VARIABLE} bytes")));
        }
        _ => {
            globals.push(GlobalVar {
                name: var.name.clone(),
                bytes: vec![0; var.bytes as usize],
                align: var.align,
                constant: var.space == Space::Const,
                addresses: Vec::new(),
            });
            let index = globals.len() - 1;
            fill(var, &mut globals[index])?;
            if var.init.iter().any(|i| matches!(i, Init::Address { .. })) {
                shared.pending.push((index as u32, var));
            }
            Symbol::Global(index as u32)
        }
    };
    scope.declare(&var.name, symbol, var.line)
}

/// Writes the numbers of an initialiser.
fn fill(var: &Var, global: &mut GlobalVar) -> Result<(), ParseError> {
    let width = var.ty.bytes() as usize;
    for (i, value) in var.init.iter().enumerate() {
        match value {
            Init::Bits(bits) => {
                global.bytes[i * width..(i + 1) * width].copy_from_slice(&bits.to_le_bytes()[..width]);
            }
            Init::Address { mask, .. } if width != 8 && mask.count_ones() != 8 * width as u32 => {
                return Err(ParseError::new(var.line, format!("an address does not fit an element of {}", var.name)));
            }
            Init::Address { .. } => {}
        }
    }
    Ok(())
}

/// Resolves the addresses in initial values.
fn initialise(scope: &Scope, pending: &[(u32, &Var)], globals: &mut [GlobalVar]) -> Result<(), ParseError> {
    for &(index, var) in pending {
        let bytes = var.ty.bytes() as usize;
        for (i, value) in var.init.iter().enumerate() {
            let Init::Address { name, offset, generic, mask } = value else { continue };
            let (at, shift) = (i * bytes, mask.trailing_zeros() & 63);
            let global = &mut globals[index as usize];
            let fixed = match scope.get(name) {
                Some(Symbol::Global(target)) => {
                    global.addresses.push(Patch { at: at as u64, bytes, target, offset: *offset, shift });
                    continue;
                }
                Some(Symbol::Shared(place)) => place.wrapping_add(if *generic { SHARED_WINDOW } else { 0 }),
                Some(Symbol::Function(f)) => code_address(f),
                _ => return Err(ParseError::new(var.line, format!("{name} has no fixed address"))),
            };
            let value = fixed.wrapping_add_signed(*offset) >> shift;
            global.bytes[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
        }
    }
    Ok(())
}

/// The address of a function.
fn code_address(function: u32) -> u64 {
    CODE_WINDOW + CODE_STEP * u64::from(function)
}

fn kernel_params(f: &Function) -> (Vec<ParamLayout>, u64) {
    let mut layout = Layout::default();
    let place = |p: &Param| ParamLayout { name: p.name.clone(), offset: layout.add(p.bytes, p.align), bytes: p.bytes };
    let params: Vec<ParamLayout> = f.params.iter().map(place).collect();
    (params, layout.0)
}

/// Where a function's parameters and results are in its frame: memory first, then registers, both in order.
fn signature(params: &[Param], returns: &[Param]) -> Signature {
    let (mut layout, mut register) = (Layout::default(), body::FIRST_REGISTER);
    let mut place = |p: &Param| {
        if p.register {
            register += 1;
            Place::Reg(register - 1)
        } else {
            Place::Frame { offset: layout.add(p.bytes, p.align) as u32, bytes: p.bytes as u32 }
        }
    };
    let params = params.iter().map(&mut place).collect();
    let returns = returns.iter().map(place).collect();
    Signature { params, returns }
}

/// The generic window of a space, for `cvta`.
fn window(space: Space) -> u64 {
    match space {
        Space::Shared => SHARED_WINDOW,
        Space::Local => LOCAL_WINDOW,
        Space::Param => crate::types::PARAM_WINDOW,
        _ => 0,
    }
}

/// The type that an operand's register must have at least the bits of.
fn describe(ty: Ty) -> String {
    format!(".{}", ty.name())
}
