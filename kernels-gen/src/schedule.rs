//! Chooses schedules: rows of tables first, else by rule from the spec's figures.
//!
//! A row names an op, the capacities, shapes, formats and the card that it holds for, and the schedule. The tables in
//! `kernels-gen/schedules`, RON files, one for each target, are part of the program; rows that a caller gives come
//! before. Invariant: a row is used as it is or refused.

use crate::Generated;
use crate::body::Matrix;
use crate::gpu::dot::chunk;
use ir::abi::{KV_BLOCK, TILE_ROWS, WARP_ROWS};
use ir::graph::Op;
use ir::quant::Format;
use ir::spec::{CpuSchedule, GpuSchedule, KernelSpec, Prologue, Schedule};
use ir::target::{CTA_RESERVED, Gpu, Machine, Target};
use ir::tensor::{Elem, KvShape, TensorType, kv_shape};
use ir::{Error, Result};
use serde::Deserialize;

/// A row of a table: the kernels that it is for, and their schedule.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Name of the fused op.
    op: String,
    /// Capacities of entry points, first to last.
    tokens: (usize, usize),
    /// Columns of the first weight matrix, first to last; (0, 0) where there is none.
    columns: (usize, usize),
    /// Rows of the first weight matrix, first to last.
    #[serde(default)]
    rows: Option<(usize, usize)>,
    /// Formats of the weight matrices, as [`formats`] has them.
    #[serde(default)]
    format: Option<String>,
    /// Name of the card.
    #[serde(default)]
    card: Option<String>,
    /// What to use.
    schedule: Schedule,
    /// The file, and the number in it.
    #[serde(skip)]
    place: String,
}

/// The fields of a row beside its schedule, and what each is.
pub const KEYS: [(&str, &str); 6] = [
    ("op", "name of the fused op"),
    ("tokens", "capacities of the entry points, first to last: 1 is decode, N is batch@N or prefill@N"),
    ("columns", "columns of the first weight matrix, first to last; (0, 0) where there is none"),
    ("rows", "its rows, first to last; may be left out"),
    ("format", "the formats of all matrices, joined by + where they differ; may be left out"),
    ("card", "name of the card; may be left out"),
];

/// The rows of the table `text`, which is that of `file`. `format: "q4_k"` may stand for `format: Some("q4_k")`.
///
/// # Errors
/// [`Error::Schedule`] naming the place, also for a name that no row can have.
pub fn rows(text: &str, file: &str) -> Result<Vec<Row>> {
    let options = ron::Options::default().with_default_extension(ron::extensions::Extensions::IMPLICIT_SOME);
    let rows = options.from_str::<Vec<Row>>(text);
    let mut rows =
        rows.map_err(|e| Error::Schedule { row: file.into(), what: format!("is no schedule table: {e}") })?;
    for (i, row) in rows.iter_mut().enumerate() {
        row.place = format!("row {} of {file}", i + 1);
        row.check_key()?;
    }
    Ok(rows)
}

/// What a row is looked up by.
#[derive(Debug, PartialEq, Eq)]
struct Key<'a> {
    op: &'a str,
    tokens: usize,
    columns: usize,
    rows: usize,
    format: String,
}

impl<'a> Key<'a> {
    fn of(spec: &'a KernelSpec) -> Key<'a> {
        let first = matrices(spec).next();
        Key {
            op: &spec.kind,
            tokens: spec.tokens,
            columns: first.map_or(0, |(ty, _)| ty.columns()),
            rows: first.map_or(0, |(ty, _)| ty.rows()),
            format: formats(spec),
        }
    }
}

impl std::fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Key { op, tokens, columns, rows, format } = self;
        write!(f, "op: \"{op}\", tokens: ({tokens}, {tokens}), columns: ({columns}, {columns})")?;
        if format.is_empty() { Ok(()) } else { write!(f, ", rows: ({rows}, {rows}), format: \"{format}\"") }
    }
}

/// The formats of a spec's weight matrices in their order, joined by `+`; one name if all are the same.
fn formats(spec: &KernelSpec) -> String {
    let names: Vec<&str> = matrices(spec).map(|(_, format)| format.name).collect();
    if names.iter().all(|name| *name == names[0]) {
        names.first().copied().unwrap_or("").into()
    } else {
        names.join("+")
    }
}

/// The row, as text, that gives a kernel the schedule that it has.
///
/// # Errors
/// [`Error::Verify`] if the schedule cannot be written.
pub fn row(spec: &KernelSpec, schedule: &Schedule, target: &Target) -> Result<String> {
    let card = target.gpu().map(|gpu| format!(", card: \"{}\"", gpu.card.name)).unwrap_or_default();
    let schedule = ron::to_string(schedule).map_err(|e| Error::verify("schedule", e.to_string()))?;
    Ok(format!("({}{card}, schedule: {schedule})", Key::of(spec)))
}

/// A table that gives kernels the schedules that they have; those with the same row share it. Each may have a comment.
///
/// # Errors
/// [`Error::Verify`] if a schedule cannot be written.
pub fn table<'a>(
    kernels: impl IntoIterator<Item = (&'a KernelSpec, &'a Schedule, Option<String>)>,
    target: &Target,
) -> Result<String> {
    let mut rows: Vec<(String, Vec<String>)> = Vec::new();
    for (spec, schedule, comment) in kernels {
        let row = row(spec, schedule, target)?;
        match rows.iter_mut().find(|(known, _)| *known == row) {
            Some((_, comments)) => comments.extend(comment),
            None => rows.push((row, comment.into_iter().collect())),
        }
    }
    let mut text = String::from("[\n");
    for (row, comments) in rows {
        comments.iter().for_each(|comment| text.push_str(&format!("    // {comment}\n")));
        text.push_str(&format!("    {row},\n"));
    }
    Ok(text + "]")
}

/// What the figures of a kernel's schedule may be instead, beside what holds for all: the columns of its chunks and, with
/// the warps and streams that it has, the deepest ring of which one CTA fits, and of which two do. Empty where it has no
/// such choice.
///
/// # Errors
/// [`Error::Unsupported`] for a kernel that cannot be generated.
pub fn choices(spec: &KernelSpec, schedule: &Schedule, target: &Target) -> Result<String> {
    let (Schedule::Gpu(s), Some(gpu)) = (*schedule, target.gpu()) else { return Ok(String::new()) };
    if matrices(spec).next().is_none() {
        return Ok(String::new());
    }
    let rooms = [gpu.card.shared_bytes, gpu.card.sm_shared_bytes / RESIDENT - CTA_RESERVED];
    let mut list = Vec::new();
    for chunk in (0..=12).map(|power| 1 << power) {
        let of = |depth| Schedule::Gpu(GpuSchedule { chunk, depth, ..s });
        if whole_chunks(spec, of(0)) != of(0) {
            continue;
        }
        let mut deepest = [None, None];
        for depth in [0, 1, 2, 4, 8, 16, 32].into_iter().filter(|&depth| depth == 0 || gpu.bulk_copies()) {
            let bytes = crate::generate(spec, &of(depth), target)?.kernel.scratch_bytes;
            for (deepest, _) in deepest.iter_mut().zip(rooms).filter(|(_, room)| bytes <= u64::from(*room)) {
                *deepest = Some(depth);
            }
            if bytes > u64::from(rooms[0]) {
                break;
            }
        }
        list.push(match deepest {
            [None, _] => format!("{chunk} (fits with fewer streams only)"),
            [Some(one), None] => format!("{chunk} (depth up to {one})"),
            [Some(one), Some(two)] => format!("{chunk} (depth up to {one}; two CTAs up to {two})"),
        });
    }
    Ok(format!("with {} streams, chunk {}", s.streams, list.join(", ")))
}

/// Checks that a kernel of the target uses each of the rows, but for those of other cards.
///
/// # Errors
/// [`Error::Schedule`] naming the first that none uses, and what it could have matched.
pub fn check_used(rows: &[Row], specs: &[&KernelSpec], target: &Target) -> Result<()> {
    for (number, row) in rows.iter().enumerate().filter(|(_, row)| row.is_of_card(target)) {
        let first = |spec: &&&KernelSpec| rows.iter().position(|r| r.matches(spec, target));
        if specs.iter().any(|spec| first(&spec) == Some(number)) {
            continue;
        }
        let own: Vec<Key<'_>> = specs.iter().map(|spec| Key::of(spec)).filter(|key| key.op == row.op).collect();
        let what = match own.as_slice() {
            _ if specs.iter().any(|spec| row.matches(spec, target)) => {
                "rows before it match all that it matches".into()
            }
            [] => format!("this model has no kernel {} for {}", row.op, target.name),
            [key, rest @ ..] => {
                let more = if rest.is_empty() { String::new() } else { format!(" and {} others", rest.len()) };
                format!("no kernel of this model matches it; there is ({key}){more}, see rigc schedules")
            }
        };
        return Err(row.refusal(what));
    }
    Ok(())
}

impl Row {
    fn refusal(&self, what: String) -> Error {
        Error::Schedule { row: self.place.clone(), what }
    }

    /// Checks what can be said without a model.
    fn check_key(&self) -> Result<()> {
        let names = crate::ops::ALL.iter().map(|op| op.name);
        if !names.clone().any(|name| name == self.op) {
            let names: Vec<_> = names.collect();
            return Err(self.refusal(format!("there is no op '{}'; the ops are {}", self.op, names.join(", "))));
        }
        let ranges = [("tokens", Some(self.tokens)), ("columns", Some(self.columns)), ("rows", self.rows)];
        for (what, range) in ranges {
            if let Some((first, last)) = range.filter(|(first, last)| first > last) {
                return Err(self.refusal(format!("{what} are ({first}, {last}); the first number is the smaller one")));
            }
        }
        let mut formats = self.format.iter().flat_map(|all| all.split('+'));
        if let Some(name) = formats.find(|name| Format::by_name(name).is_none()) {
            return Err(self.refusal(format!("there is no format '{name}'; write it as rigc inspect does")));
        }
        let mut cards = ir::target::ALL.iter().filter_map(Target::gpu).flat_map(|gpu| gpu.cards);
        match &self.card {
            Some(card) if !cards.any(|c| c.name == card) => Err(self.refusal(format!("there is no card '{card}'"))),
            _ => Ok(()),
        }
    }

    fn is_of_card(&self, target: &Target) -> bool {
        self.card.is_none() || self.card.as_deref() == target.gpu().map(|gpu| gpu.card.name)
    }

    fn matches(&self, spec: &KernelSpec, target: &Target) -> bool {
        let key = Key::of(spec);
        let within = |(first, last): (usize, usize), n: usize| (first..=last).contains(&n);
        self.op == key.op
            && within(self.tokens, key.tokens)
            && within(self.columns, key.columns)
            && self.rows.is_none_or(|rows| within(rows, key.rows))
            && self.format.as_ref().is_none_or(|format| *format == key.format)
            && self.is_of_card(target)
    }

    /// The kernel of a spec that the row matches.
    fn generate(&self, spec: &KernelSpec, target: &Target) -> Result<(Schedule, Generated)> {
        self.schedule.check(spec.tokens, target).map_err(|what| self.refusal(what))?;
        let whole = whole_chunks(spec, self.schedule);
        if let (Schedule::Gpu(given), Schedule::Gpu(whole)) = (self.schedule, whole)
            && given != whole
        {
            let Key { columns, format, .. } = Key::of(spec);
            let what = format!("chunk is {}, but chunks of {format} in rows of {columns} columns", given.chunk);
            return Err(self.refusal(format!("{what} are of {} then: write that", whole.chunk)));
        }
        if let Schedule::Cpu(s) = self.schedule
            && s.split > 0
            && attended(spec).div_ceil(s.split as usize) > MOST_OWN_SPLITS
        {
            let least = attended(spec).div_ceil(MOST_OWN_SPLITS).next_multiple_of(KV_BLOCK);
            let what =
                format!("split is {}; to attend to {} positions it is at least {least}", s.split, attended(spec));
            return Err(self.refusal(what));
        }
        let made = crate::generate(spec, &self.schedule, target).map_err(|e| match e {
            Error::Verify { what, .. } => self.refusal(format!("{} cannot run so: {what}", spec.kind)),
            e => e,
        })?;
        self.check_shared(spec, &made, target)?;
        Ok((self.schedule, made))
    }

    /// Refuses a kernel that wants more shared memory than a CTA of the card has.
    fn check_shared(&self, spec: &KernelSpec, made: &Generated, target: &Target) -> Result<()> {
        let (Schedule::Gpu(s), Some(gpu)) = (self.schedule, target.gpu()) else { return Ok(()) };
        let (need, have) = (made.kernel.scratch_bytes, u64::from(gpu.card.shared_bytes));
        if need <= have {
            return Ok(());
        }
        let fits = |depth: &u32| {
            let shallow = Schedule::Gpu(GpuSchedule { depth: *depth, ..s });
            crate::generate(spec, &shallow, target).is_ok_and(|made| made.kernel.scratch_bytes <= have)
        };
        let depths = std::iter::successors(Some(s.depth), |depth| (*depth > 0).then_some(depth / 2));
        let instead = depths
            .skip(1)
            .find(fits)
            .map_or("fewer warps, streams or columns of a chunk".into(), |depth| format!("a depth of at most {depth}"));
        let (key, machine) = (Key::of(spec), gpu.card.name);
        let what = format!("{} of {} columns needs {need} bytes of shared memory", key.op, key.columns);
        Err(self.refusal(format!("{what}, a CTA of {machine} has {have}: take {instead}")))
    }
}

/// The tuned tables, by target.
const TABLES: &[(&str, &str)] = &[
    ("x86-64", include_str!("../schedules/x86-64.ron")),
    ("x86-64-v3", include_str!("../schedules/x86-64-v3.ron")),
    ("x86-64-v4-vnni", include_str!("../schedules/x86-64-v4-vnni.ron")),
    ("sm_80", include_str!("../schedules/sm_80.ron")),
    ("sm_89", include_str!("../schedules/sm_89.ron")),
    ("sm_90", include_str!("../schedules/sm_90.ron")),
    ("sm_120", include_str!("../schedules/sm_120.ron")),
];

/// Warps of a CTA, those that multiply, depths of their rings and columns of a chunk, best first. Deep rings keep
/// weights coming while a warp computes, many warps prepare input rows faster, large chunks need fewer instructions
/// around them.
const RINGS: [(u32, u32, u32, u32); 11] = [
    (8, 8, 4, 512),
    (8, 8, 2, 512),
    (8, 8, 1, 512),
    (4, 4, 1, 512),
    (4, 3, 1, 512),
    (4, 2, 1, 512),
    (8, 8, 2, 256),
    (4, 4, 2, 256),
    (8, 8, 1, 256),
    (4, 4, 1, 256),
    (2, 2, 1, 256),
];
/// Without rings: with 4 KiB in flight for each warp, several times what hides the latency of memory.
const NO_RING: (u32, u32, u32, u32) = (8, 8, 0, 256);
/// Warps of a CTA whose products are of several tokens: a lane has sums of four rows and of some tokens, for which it has twice
/// the registers with half as many warps.
const STEP_WARPS: u32 = 4;
/// Columns of a chunk in every product; larger ones are for products that give each CTA enough of them.
const CHUNK: u32 = 256;
/// Chunks of a CTA that balance a grid well enough: one more or less is 6 % of its time.
const CHUNKS: usize = 16;
/// CTAs of overlapping launches that a multiprocessor is to hold at once: one computes, one waits with full rings.
const RESIDENT: u32 = 2;

/// Seconds that a load takes while memory is busy, so that the bytes of as many have to be in flight to keep it so: 329 ns
/// without load (Chips and Cheese on GB202); about 700 ns to 1 us at full bandwidth (estimated).
const LOADED_LATENCY: f64 = 0.8e-6;

/// Bytes of weights that a worker takes at once when few tokens are computed and tiles are small: short, as a worker waits
/// half of the time of one on average where workers meet, but long against what it takes to draw it.
const UNIT_BYTES: usize = 16 << 10;

/// Fewest KV positions of a split.
const SPLIT: usize = 512;
/// Most splits of a KV cache.
const MOST_SPLITS: usize = 64;
/// The same for rows of tables.
const MOST_OWN_SPLITS: usize = 1024;
/// Most tokens of a prompt whose queries share the loads of an attention.
const QUERY_TOKENS: usize = 8;
/// Floats of the queries that share the loads: with as many sums they stay in L2.
const QUERY_FLOATS: usize = 32 << 10;

/// The schedule of a spec, which is for `target`, and its kernel: of a row of `own` or of the tuned table if there is
/// one; else the first candidate that has enough in flight and of which two CTAs fit on a multiprocessor, or else one;
/// else, where none has enough, the first of which two fit, or else one. A ring of which only one fits still comes before
/// none: it fills while the CTA prepares its input row.
///
/// # Errors
/// [`Error::Schedule`] for a row that the kernel cannot run with; [`Error::Unsupported`] if it cannot be generated.
pub fn choose(spec: &KernelSpec, target: &Target, own: &[Row]) -> Result<(Schedule, Generated)> {
    let generate = |schedule: Schedule| Ok((schedule, crate::generate(spec, &schedule, target)?));
    let (_, tuned) = TABLES.iter().find(|(name, _)| *name == spec.target).unwrap_or(&("", "[]"));
    let tuned = rows(tuned, &format!("the table of {}", spec.target))?;
    if let Some(row) = own.iter().chain(&tuned).find(|row| row.matches(spec, target)) {
        return row.generate(spec, target);
    }
    let Machine::Gpu(gpu) = &target.machine else { return generate(cpu_rule(spec)) };
    let (one, several) = (gpu.card.shared_bytes, gpu.card.sm_shared_bytes / RESIDENT - CTA_RESERVED);
    let enough = f64::from(gpu.card.bandwidth) * 1e9 * LOADED_LATENCY / f64::from(gpu.card.sms);
    // The first that fits of each kind, best first, and the last of those that do not fit.
    let mut fitting: [Option<(Schedule, Generated)>; 3] = [None, None, None];
    let mut smallest = None;
    for schedule in candidates(spec, gpu) {
        if schedule.depth == 0 && fitting.iter().any(Option::is_some) {
            break;
        }
        let made = generate(whole_chunks(spec, Schedule::Gpu(schedule)))?;
        let bytes = made.1.kernel.scratch_bytes;
        if bytes > u64::from(one) {
            smallest = Some(made);
            continue;
        }
        match (bytes <= u64::from(several), in_flight(spec, made.0) as f64 >= enough || schedule.depth == 0) {
            (true, true) => return Ok(made),
            (false, true) => fitting[0].get_or_insert(made),
            (true, false) => fitting[1].get_or_insert(made),
            (false, false) => fitting[2].get_or_insert(made),
        };
    }
    let chosen = fitting.into_iter().flatten().next().or(smallest);
    chosen.ok_or_else(|| Error::verify("schedule", format!("no candidates for {}", spec.kind)))
}

/// Bytes of weights that the rings of a CTA have room for.
fn in_flight(spec: &KernelSpec, schedule: Schedule) -> u64 {
    let Schedule::Gpu(GpuSchedule { streams, chunk, depth, .. }) = schedule else { return 0 };
    let bytes: u64 = matrices(spec).filter_map(|(ty, _)| ty.weight_bytes()).sum();
    let chunks = tile_columns(spec).div_ceil(chunk as usize) as u64;
    u64::from(streams * depth) * bytes / chunks.max(1)
}

/// Columns of all tiles of the products.
fn tile_columns(spec: &KernelSpec) -> usize {
    matrices(spec).map(|(ty, _)| ty.rows().div_ceil(WARP_ROWS) * ty.columns()).sum()
}

/// What a GPU kernel of a spec may run with, best first: a CTA on every multiprocessor, with rings where there are
/// products and bulk copies.
fn candidates(spec: &KernelSpec, gpu: &Gpu) -> Vec<GpuSchedule> {
    let tiles = tile_columns(spec);
    let enough = |chunk: u32| chunk == CHUNK || tiles / chunk as usize >= CHUNKS * gpu.card.sms as usize;
    let rings = RINGS.iter().filter(|(.., chunk)| gpu.bulk_copies() && tiles > 0 && enough(*chunk));
    let most = if spec.tokens > 1 && tiles > 0 { STEP_WARPS } else { u32::MAX };
    let schedule = |&(warps, streams, depth, chunk): &(u32, u32, u32, u32)| {
        let (warps, streams) = (warps.min(most), streams.min(most));
        GpuSchedule { ctas: gpu.card.sms, warps, streams, chunk, depth }
    };
    rings.chain([&NO_RING]).map(schedule).collect()
}

/// A schedule with the columns that its chunks really have: as many as divide the rows of the matrices.
fn whole_chunks(spec: &KernelSpec, schedule: Schedule) -> Schedule {
    let matrices = matrices(spec).filter_map(|(ty, _)| Matrix::of(0, ty));
    match schedule {
        Schedule::Gpu(s) => {
            let chunk = matrices.map(|m| chunk(&m, s.chunk as usize) as u32).max();
            Schedule::Gpu(GpuSchedule { chunk: chunk.unwrap_or(s.chunk), ..s })
        }
        cpu => cpu,
    }
}

/// A CPU schedule where no table has a row.
fn cpu_rule(spec: &KernelSpec) -> Schedule {
    let tokens = spec.tokens;
    // A band, as that is what lies together; where tiles are not cut, a tile, or several small ones.
    let unit_tiles = matrices(spec).next().map_or(1, |(ty, format)| {
        let row_bytes = format.bytes_of(ty.columns() as u64) as usize;
        let small = if tokens <= 16 { UNIT_BYTES / (row_bytes * TILE_ROWS).max(1) } else { 1 };
        small.clamp(ty.layout.pieces(format, ty.columns()).tiles, 16)
    });
    Schedule::Cpu(CpuSchedule {
        prologue: if tokens == 1 { Prologue::PerWorker } else { Prologue::Shared },
        unit_tiles: unit_tiles as u32,
        query_tokens: if tokens <= 16 { tokens } else { query_tokens(spec) } as u32,
        split: split(attended(spec)) as u32,
    })
}

/// KV positions of a split: few enough to spread over many workers, but no more than [`MOST_SPLITS`] ranges, because
/// each takes memory for its partial results.
fn split(context: usize) -> usize {
    context.div_ceil(MOST_SPLITS).next_multiple_of(KV_BLOCK).max(SPLIT)
}

/// The shape of the queries of an attention, the figures of its keys, and its window.
fn attention(spec: &KernelSpec) -> Option<(&[usize], KvShape, Option<usize>)> {
    spec.body.nodes().iter().find_map(|n| match n.op {
        Op::Attention { window, .. } => {
            Some((spec.body.ty(n.inputs[0]).shape.as_slice(), kv_shape(spec.body.ty(n.inputs[1]))?, window))
        }
        _ => None,
    })
}

/// Most positions of the KV cache that a token attends to; 0 for other ops.
fn attended(spec: &KernelSpec) -> usize {
    attention(spec).map_or(0, |(_, keys, window)| window.unwrap_or(usize::MAX).min(keys.positions))
}

/// Tokens whose queries share the loads of an attention: as many as have queries and sums for [`QUERY_FLOATS`].
fn query_tokens(spec: &KernelSpec) -> usize {
    let most = QUERY_TOKENS;
    attention(spec).map_or(most, |(q, keys, _)| (QUERY_FLOATS / (q[1] / keys.heads * q[2])).clamp(1, most))
}

/// The weight matrices of a spec's products.
fn matrices(spec: &KernelSpec) -> impl Iterator<Item = (&TensorType, Format)> {
    let weights = spec
        .body
        .nodes()
        .iter()
        .filter(|n| matches!(n.op, Op::MatMul | Op::HeadMatMul | Op::ExpertMatMul))
        .map(|n| spec.body.ty(n.inputs[0]));
    weights.filter_map(|ty| match ty.elem {
        Elem::Ggml(format) => Some((ty, format)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a product of so many columns runs with on `target`, and how many of its CTAs a multiprocessor holds.
    fn chosen(target: &str, format: &str, columns: usize) -> (GpuSchedule, u64) {
        let body = format!(
            "%0 = param 0 : {format}[8192,{columns}]@rows32\n%1 = param 1 : f32[1,{columns}]\n\
             %2 = quantize %1 : q8[1,{columns}]\n%3 = matmul %0, %2 : f32[1,8192]\n%4 = param 2 : f32[1,8192]\n\
             %5 = add %3, %4 : f32[1,8192]\noutput \"out\" %5\n"
        );
        let target = Target::by_name(target).unwrap();
        let spec = KernelSpec::new("linear", body.parse().unwrap(), 1, target);
        let (schedule, made) = choose(&spec, target, &[]).unwrap();
        let (Schedule::Gpu(schedule), Some(gpu)) = (schedule, target.gpu()) else { panic!("{schedule}") };
        (schedule, u64::from(gpu.card.sm_shared_bytes) / (made.kernel.scratch_bytes + u64::from(CTA_RESERVED)))
    }

    #[test]
    fn enough_is_in_flight() {
        // Formats of few bits, in long rows: one CTA with enough comes before two without.
        for format in ["iq3_xxs", "iq2_s", "iq2_xs", "iq2_xxs", "q4_k"] {
            for (target, least) in [("sm_120", 8400), ("sm_90", 20_000)] {
                let columns = 28_672;
                let (s, _) = chosen(target, format, columns);
                let block = Format::by_name(format).unwrap();
                let bytes = block.bytes_of(s.chunk.into()) * 32 * u64::from(s.streams * s.depth);
                assert!(bytes >= least, "{target} {format}: {bytes} bytes in flight, {s:?}");
            }
        }
    }

    #[test]
    fn long_rows_keep_their_rings() {
        for format in ["q4_k", "q6_k"] {
            // Two CTAs where rings leave room for them, else one; the longest rows leave no room for a ring.
            for (target, columns, ring, ctas) in [
                ("sm_120", 8192, true, 2),
                ("sm_120", 28_672, true, 1),
                ("sm_120", 65_536, false, 1),
                ("sm_90", 28_672, true, 2),
                ("sm_89", 28_672, false, 2),
            ] {
                let (schedule, resident) = chosen(target, format, columns);
                assert_eq!((schedule.depth > 0, resident), (ring, ctas), "{target} {format} {columns}: {schedule:?}");
            }
        }
    }
}
