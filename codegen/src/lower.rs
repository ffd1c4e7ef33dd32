//! Lowering: a fused graph becomes kernels and the plan that launches them.

use crate::memory::{Lifetime, place};
use ir::abi::ROW_ALIGN;
use ir::graph::{Fusion, Graph, Input, Node, NodeId, Op, Ref, Weight};
use ir::kernel::{Access, Kernel};
use ir::plan::{Buffer, DeviceId, Needs, Place, Plan, Step, Top};
use ir::spec::{self, KernelSpec, Schedule};
use ir::state::{self, StateKind};
use ir::target::{self, Gpu, Target};
use ir::tensor::{Layout, TensorType};
use ir::work::Work;
use ir::{Error, Result, Verified, artifact};
use kernels_gen::{Generated, Workspace, ops, schedule};
use std::collections::HashMap;

/// The only device: a model is compiled for one.
const DEVICE: DeviceId = DeviceId(0);

/// The kernels, weights and states that the entry points of an artifact share.
#[derive(Debug, Default)]
pub struct KernelTable {
    /// Kernels in the order of their numbers.
    pub kernels: Vec<TableKernel>,
    /// Weights in the order of their numbers.
    pub weights: Vec<artifact::Weight>,
    /// States in the order of their numbers.
    pub states: Vec<artifact::State>,
    schedules: Vec<schedule::Row>,
    by_spec: HashMap<KernelSpec, usize>,
}

/// A kernel and where it comes from.
#[derive(Debug)]
pub struct TableKernel {
    /// What it computes.
    pub spec: KernelSpec,
    /// How.
    pub schedule: Schedule,
    /// The text of both, and its hash.
    pub text: String,
    /// See there.
    pub hash: String,
    /// What a launch moves and computes.
    pub work: Work,
    /// The code, named after its op, its capacity and its number.
    pub kernel: Verified<Kernel>,
    workspaces: Vec<Workspace>,
}

impl TableKernel {
    /// Kernel number `number` of a table: what was generated for a spec and a schedule.
    ///
    /// # Errors
    /// [`Error::Verify`](ir::Error::Verify) if the name spoils it.
    pub fn new(spec: KernelSpec, (schedule, generated): (Schedule, Generated), number: usize) -> Result<Self> {
        let text = spec::text(&spec, &schedule);
        let hash = spec::hash(&text);
        let mut kernel = generated.kernel.into_inner();
        kernel.name = format!("{}_{}_{number}", spec.kind, spec.tokens);
        let (work, kernel) = (Work::of(&spec)?, kernel.verify()?);
        Ok(TableKernel { spec, schedule, text, hash, work, kernel, workspaces: generated.workspaces })
    }

    /// Whether parameter `n` is memory that has to be zero at launch.
    pub fn zeroed(&self, n: usize) -> bool {
        let first = self.kernel.params() as usize - self.workspaces.len();
        n >= first && self.workspaces[n - first] == Workspace::Zeroed
    }
}

/// For people: what the hash is made of, and what the kernel takes.
impl std::fmt::Display for TableKernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}parameters ", self.text)?;
        self.kernel.param_buffers().try_for_each(|b| write!(f, "{}, ", b.name))?;
        writeln!(f, "control\n{} bytes of weights", self.work.weight_bytes)
    }
}

impl KernelTable {
    /// An empty one, with schedules that come before those of the tuned tables.
    pub fn with(schedules: Vec<schedule::Row>) -> KernelTable {
        KernelTable { schedules, ..KernelTable::default() }
    }

    /// The number of the kernel of a fusion; generates it if it is new.
    fn kernel(&mut self, fusion: &Fusion, tokens: usize, target: &Target) -> Result<usize> {
        let spec = KernelSpec::new(fusion.kind.as_str(), fusion.body.clone(), tokens, target);
        if let Some(&known) = self.by_spec.get(&spec) {
            return Ok(known);
        }
        let made = schedule::choose(&spec, target, &self.schedules)?;
        check_shared(&spec, &made.1.kernel, target)?;
        let number = self.kernels.len();
        self.by_spec.insert(spec.clone(), number);
        self.kernels.push(TableKernel::new(spec, made, number)?);
        Ok(number)
    }

    /// Gives each weight that a GPU reads in tiles the kernel that repacks it.
    ///
    /// # Errors
    /// As [`lower`].
    pub fn add_repacks(&mut self, target: &Target) -> Result<()> {
        for n in 0..self.weights.len() {
            let ty = self.weights[n].ty.clone();
            if target.gpu().is_none() || ty.layout == Layout::Rows {
                continue;
            }
            let mut body = Graph::new();
            let raw = TensorType { layout: Layout::Rows, ..ty.clone() };
            let x = body.leaf(Op::Param(0), raw)?;
            let tiles = body.add(Op::Repack { layout: ty.layout }, &[x])?;
            body.output("out", tiles)?;
            let kind = ops::kind(&body)?;
            self.weights[n].repack = Some(self.kernel(&Fusion { kind: kind.into(), body }, 1, target)? as u32);
        }
        Ok(())
    }

    fn weight(&mut self, weight: &Weight, ty: &TensorType) -> u32 {
        let entry = artifact::Weight::new(weight, ty);
        let same = |w: &artifact::Weight| (&w.name, &w.rows, &w.columns) == (&entry.name, &entry.rows, &entry.columns);
        let known = self.weights.iter().position(same);
        known.unwrap_or_else(|| {
            self.weights.push(entry);
            self.weights.len() - 1
        }) as u32
    }

    fn state(&mut self, name: &str, ty: &ir::tensor::TensorType) -> Result<u32> {
        if let Some(n) = self.states.iter().position(|s| s.name == name) {
            return Ok(n as u32);
        }
        let unsupported =
            || Error::unsupported(format!("a state of type {ty}"), format!("states are {}", StateKind::forms()));
        let bytes = state::bytes(ty).ok_or_else(unsupported)?;
        self.states.push(artifact::State { name: name.into(), device: DEVICE, ty: ty.clone(), bytes });
        Ok(self.states.len() as u32 - 1)
    }
}

/// Refuses a kernel that wants more shared memory than a CTA of the card has.
fn check_shared(spec: &KernelSpec, kernel: &Kernel, target: &Target) -> Result<()> {
    let need = kernel.scratch_bytes;
    let fits = |gpu: &Gpu| need <= u64::from(gpu.card.shared_bytes);
    let Some(gpu) = target.gpu().filter(|gpu| !fits(gpu)) else { return Ok(()) };
    let products = spec.body.nodes().iter().filter(|n| n.op == Op::MatMul);
    let columns = products.map(|n| spec.body.ty(n.inputs[0]).columns()).max().unwrap_or(0);
    let larger = target::ALL.iter().find(|t| t.gpu().is_some_and(fits));
    let larger = larger.map(|t| format!("{} or ", t.name)).unwrap_or_default();
    Err(Error::Unsupported {
        feature: format!("a kernel {} of rows of {columns} elements", spec.kind),
        target: Some(format!("{} ({})", target.name, gpu.card.name)),
        hint: format!(
            "it needs {need} bytes of shared memory, where a CTA has {}: compile for {larger}a CPU",
            gpu.card.shared_bytes
        ),
    })
}

/// Buffers of a plan in the making; arena buffers get their offsets at the end.
struct Buffers {
    list: Vec<Buffer>,
    of: HashMap<Ref, u32>,
    /// Lifetimes of arena buffers, by their place in `list`.
    arena: Vec<(u32, Lifetime)>,
    /// Most bytes of zeroed memory of a launch.
    zeroed: u64,
}

impl Buffers {
    fn fixed(&mut self, name: &str, place: Place, bytes: u64) -> u32 {
        self.list.push(Buffer { name: name.into(), device: DEVICE, place, bytes });
        self.list.len() as u32 - 1
    }

    fn arena(&mut self, name: String, bytes: u64, step: usize) -> u32 {
        let number = self.fixed(&name, Place::Arena { offset: 0 }, bytes);
        self.arena.push((number, Lifetime { bytes, first: step, last: step }));
        number
    }

    fn extend(&mut self, number: u32, step: usize) {
        if let Some((_, life)) = self.arena.iter_mut().find(|(n, _)| *n == number) {
            life.last = life.last.max(step);
        }
    }
}

/// Lowers a fused graph: adds its kernels, weights and states to the table and gives its plan.
///
/// # Errors
/// [`Error::Unsupported`] for what no kernel covers, [`Error::Schedule`] for a row of a table that a kernel cannot run with,
/// [`Error::Verify`] for a graph that is not fused.
pub fn lower(graph: &Verified<Graph>, tokens: usize, target: &Target, table: &mut KernelTable) -> Result<Plan> {
    let buffers = Buffers { list: Vec::new(), of: HashMap::new(), arena: Vec::new(), zeroed: 0 };
    let mut lowering = Lowering { graph, tokens, target, table, buffers, steps: Vec::new() };
    graph.iter().try_for_each(|(id, node)| lowering.node(id, node))?;
    lowering.plan()
}

/// A plan in the making.
struct Lowering<'a> {
    graph: &'a Graph,
    tokens: usize,
    target: &'a Target,
    table: &'a mut KernelTable,
    buffers: Buffers,
    steps: Vec<Step>,
}

impl Lowering<'_> {
    /// The launch of a fusion, or the buffer of a leaf.
    fn node(&mut self, id: NodeId, node: &Node) -> Result<()> {
        let ty = &node.results[0];
        let bytes = ty.weight_bytes().unwrap_or(0);
        let buffers = &mut self.buffers;
        let number = match &node.op {
            Op::Fusion(fusion) => return self.launch(id, fusion),
            Op::Weight(weight) => {
                let number = self.table.weight(weight, ty);
                buffers.fixed(&weight.to_string(), Place::Weight(number), bytes)
            }
            Op::State(name) => {
                let state = self.table.state(name, ty)?;
                buffers.fixed(name, Place::State(state), self.table.states[state as usize].bytes)
            }
            Op::Input(Input::Tokens) => buffers.fixed("tokens", Place::Tokens, ty.elements() as u64 * 4),
            Op::Input(Input::Position) => buffers.fixed("position", Place::Control, 0),
            other => return Err(Error::verify("graph", format!("{other:?} is left outside the fusions"))),
        };
        buffers.of.insert(id.at(0), number);
        Ok(())
    }

    fn launch(&mut self, id: NodeId, fusion: &Fusion) -> Result<()> {
        let number = self.table.kernel(fusion, self.tokens, self.target)?;
        let (buffers, step) = (&mut self.buffers, self.steps.len());
        let mut operands = Vec::new();
        for value in &self.graph.node(id).inputs {
            let &buffer = buffers.of.get(value).ok_or_else(|| Error::verify("graph", "an operand has no buffer"))?;
            buffers.extend(buffer, step);
            operands.push(buffer);
        }
        let kernel = &self.table.kernels[number];
        let declared: Vec<_> = kernel.kernel.param_buffers().collect();
        for (decl, &number) in declared.iter().zip(&operands) {
            let Buffer { name, place, .. } = &buffers.list[number as usize];
            let (constant, weight) = (decl.access == Access::Constant, matches!(place, Place::Weight(_)));
            // A load of a constant may miss what a launch has written.
            if constant && !weight || weight && decl.access == Access::Write {
                let what = format!("{} takes {name}, at {place:?}, as {:?}", fusion.kind, decl.access);
                return Err(Error::verify("graph", what));
            }
        }
        for (i, (name, value)) in fusion.body.outputs().iter().enumerate() {
            let producer = fusion.body.node(value.node);
            let buffer = match producer.op.update() {
                Some((old, new)) if new == value.result => match fusion.body.node(producer.inputs[old].node).op {
                    Op::Param(n) => operands[n as usize],
                    _ => return Err(Error::verify("graph", "an update of something other than a state")),
                },
                _ => {
                    let number = buffers.arena(name.clone(), declared[operands.len()].bytes, step);
                    operands.push(number);
                    number
                }
            };
            buffers.of.insert(id.at(i as u32), buffer);
        }
        let mut offset = 0;
        for workspace in &kernel.workspaces {
            let decl = declared[operands.len()];
            operands.push(match workspace {
                Workspace::Scratch => buffers.arena(decl.name.clone(), decl.bytes, step),
                Workspace::Zeroed => {
                    let place = Place::Zeroed { offset };
                    offset += decl.bytes.next_multiple_of(ROW_ALIGN as u64);
                    buffers.fixed(&decl.name, place, decl.bytes)
                }
            });
        }
        buffers.zeroed = buffers.zeroed.max(offset);
        self.steps.push(Step::Launch { kernel: number as u32, buffers: operands });
        Ok(())
    }

    /// The plan, once all nodes are lowered: results live to its end, and buffers of the arena get their places.
    fn plan(mut self) -> Result<Plan> {
        let (graph, end) = (self.graph, self.steps.len());
        let mut output = |name: &str| {
            let value = graph.find_output(name)?;
            let buffer = *self.buffers.of.get(&value)?;
            self.buffers.extend(buffer, end);
            Some((buffer, graph.ty(value).columns() as u32))
        };
        let (logits, _) = output("logits").ok_or_else(|| Error::verify("graph", "it computes no logits"))?;
        let top = output("top").map(|(buffer, columns)| Top { buffer, k: columns / 2 });
        let Buffers { mut list, arena, zeroed, .. } = self.buffers;
        let lifetimes: Vec<Lifetime> = arena.iter().map(|&(_, life)| life).collect();
        let (offsets, arena_bytes) = place(&lifetimes);
        for (&(number, _), offset) in arena.iter().zip(offsets) {
            list[number as usize].place = Place::Arena { offset };
        }
        let needs = vec![Needs { arena_bytes, zeroed_bytes: zeroed }];
        Ok(Plan { buffers: list, steps: self.steps, logits, top, needs, flags: 0 })
    }
}
