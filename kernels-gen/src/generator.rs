//! What every op's generator shares: the spec, the builder, the buffers of parameters and results.

use crate::{Generated, Workspace};
use ir::abi::{Q8Step, f32_row_bytes};
use ir::graph::Graph;
use ir::kernel::{Access, Buf, Builder, MOST_ELEMENTS, Mem, Value};
use ir::kv::KvFormat;
use ir::role::Role;
use ir::spec::{CpuSchedule, GpuSchedule, KernelSpec, Schedule};
use ir::state;
use ir::target::Target;
use ir::tensor::{Elem, TensorType, kv_bytes};
use ir::{Error, Result};

/// A kernel in the making.
pub(crate) struct Generator<'a> {
    pub spec: &'a KernelSpec,
    pub schedule: &'a Schedule,
    pub target: &'a Target,
    pub b: Builder,
    types: Vec<&'a TensorType>,
    params: Vec<Buf>,
    results: Vec<Option<Buf>>,
    workspaces: Vec<Workspace>,
}

impl<'a> Generator<'a> {
    /// Declares the buffers of the body's parameters and results.
    pub fn new(spec: &'a KernelSpec, schedule: &'a Schedule, target: &'a Target) -> Result<Self> {
        let mut b = Builder::new(spec.kind.as_str());
        let body = &spec.body;
        let mut params = Vec::new();
        let types = body.params()?;
        for (i, &ty) in types.iter().enumerate() {
            let role = Role::of(body, i as u32)?;
            let (mem, bytes) = storage(ty, role)?;
            params.push(b.param(format!("in{i}"), mem, bytes, role.access()));
        }
        let mut results = Vec::new();
        for (i, (_, value)) in body.outputs().iter().enumerate() {
            results.push(match Role::of_result(body, *value) {
                // Written where it is.
                Role::Appended | Role::Updated => None,
                role => {
                    let (mem, bytes) = storage(body.ty(*value), role)?;
                    Some(b.param(format!("out{i}"), mem, bytes, Access::Write))
                }
            });
        }
        Ok(Generator { spec, schedule, target, b, types, params, results, workspaces: Vec::new() })
    }

    pub fn body(&self) -> &'a Graph {
        &self.spec.body
    }

    /// The buffer of body parameter `n`.
    pub fn param(&self, n: u32) -> Buf {
        self.params[n as usize]
    }

    /// The buffers of all body parameters.
    pub fn params(&self) -> &[Buf] {
        &self.params
    }

    /// The type of body parameter `n`.
    pub fn param_type(&self, n: u32) -> &'a TensorType {
        self.types[n as usize]
    }

    /// The buffer of result `n`, which is no updated state.
    pub fn result(&self, n: usize) -> Result<Buf> {
        self.results.get(n).copied().flatten().ok_or_else(|| self.unsupported("its results"))
    }

    /// The schedule of a CPU kernel.
    pub fn cpu(&self) -> Result<CpuSchedule> {
        match self.schedule {
            Schedule::Cpu(s) => Ok(*s),
            Schedule::Gpu(_) => Err(Error::verify("schedule", "a GPU schedule for a CPU kernel")),
        }
    }

    /// The schedule of a GPU kernel.
    pub fn gpu(&self) -> Result<GpuSchedule> {
        match self.schedule {
            Schedule::Gpu(s) => Ok(*s),
            Schedule::Cpu(_) => Err(Error::verify("schedule", "a CPU schedule for a GPU kernel")),
        }
    }

    /// A buffer that all workers or CTAs share during this kernel.
    pub fn workspace(&mut self, name: &str, mem: Mem, bytes: usize) -> Buf {
        self.workspaces.push(Workspace::Scratch);
        self.b.param(name, mem, bytes as u64, Access::Write)
    }

    /// `count` counters that all CTAs share: zero at launch, to be left zero.
    pub fn counters(&mut self, name: &str, count: usize) -> Buf {
        self.workspaces.push(Workspace::Zeroed);
        self.b.param(name, Mem::I32, count as u64 * 4, Access::Write)
    }

    /// The refusal of a body whose `what` the op does not cover.
    pub fn unsupported(&self, what: &str) -> Error {
        Error::Unsupported {
            feature: format!("fused op {} with {what}", self.spec.kind),
            target: Some(self.spec.target.into()),
            hint: format!("its body is {}", self.spec.body.to_string().trim_end().replace('\n', "; ")),
        }
    }

    /// `for index in (from..to).step_by(step)`.
    pub fn for_(
        &mut self,
        from: Value,
        to: Value,
        step: u32,
        f: impl FnOnce(&mut Self, Value) -> Result<()>,
    ) -> Result<()> {
        let index = self.b.open_loop();
        f(self, index)?;
        self.b.close_for(index, from, to, step);
        Ok(())
    }

    /// `if cond`.
    pub fn if_(&mut self, cond: Value, f: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        self.b.open_if();
        f(self)?;
        self.b.close_if(cond);
        Ok(())
    }

    /// The body once for each index below `count`, spread over the workers.
    pub fn parallel(&mut self, count: Value, f: impl FnOnce(&mut Self, Value) -> Result<()>) -> Result<()> {
        let index = self.b.open_loop();
        f(self, index)?;
        self.b.close_parallel(index, count);
        Ok(())
    }

    pub fn finish(self) -> Result<Generated> {
        Ok(Generated { kernel: self.b.finish().verify()?, workspaces: self.workspaces })
    }
}

/// Element type and size of the buffer of a value. Float activations have a row for each token, padded to
/// [`f32_row_bytes`]; vectors are contiguous.
fn storage(ty: &TensorType, role: Role) -> Result<(Mem, u64)> {
    let unsupported = || {
        let hint = format!("norms and biases are f32, KV caches {}", KvFormat::names(""));
        Error::unsupported(format!("an operand of type {ty}"), hint)
    };
    let (mem, bytes) = match (role, ty.elem) {
        (Role::Appended | Role::Attended, _) => (Mem::U8, kv_bytes(ty).ok_or_else(unsupported)?),
        (Role::Matrix | Role::Table | Role::Experts(_) | Role::Repacked, _) => {
            (Mem::U8, ty.weight_bytes().ok_or_else(unsupported)?)
        }
        // Rows as in the file.
        (Role::ExpertTable(_), _) => (Mem::F32, ty.elements() as u64 * 4),
        (Role::Position, _) => (Mem::I32, 0),
        (Role::Updated, _) => (Mem::F32, state::bytes(ty).ok_or_else(unsupported)?),
        (Role::Taps, elem) if elem == Elem::F32 => (Mem::F32, ty.weight_bytes().ok_or_else(unsupported)?),
        (Role::Plain, Elem::I32) => (Mem::I32, ty.elements() as u64 * 4),
        (Role::Plain, Elem::Q8) => (Mem::U8, Q8Step::new(ty.columns(), ty.rows()).bytes() as u64),
        (Role::Plain, elem) if elem == Elem::F32 => {
            let bytes = match ty.shape.as_slice() {
                [n] => n * 4,
                [rows, rest @ ..] => rows * f32_row_bytes(rest.iter().product()),
                [] => return Err(unsupported()),
            };
            (Mem::F32, bytes as u64)
        }
        _ => return Err(unsupported()),
    };
    if bytes.div_ceil(u64::from(mem.bytes())) > MOST_ELEMENTS {
        let instead = match role {
            Role::Appended | Role::Attended => "a shorter context, or a KV cache of fewer bits",
            _ => "a model quantised to fewer bits",
        };
        let hint = format!("kernels reach {MOST_ELEMENTS} bytes of each: use {instead}");
        return Err(Error::unsupported(format!("an operand {ty} of {bytes} bytes"), hint));
    }
    Ok((mem, bytes))
}
