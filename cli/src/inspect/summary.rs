//! What `rigc inspect` prints for people: a model in a few lines, an artifact's entry points and kernels.

use super::kernels::{free, gib};
use super::parameters::{Experts, Parameters};
use super::{Report, Share, Tensor};
use anyhow::Result;
use ir::front::Figures;
use ir::quote;
use ir::target::{self, Card};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Most characters of a name.
const NAME: usize = 100;
/// The context that memory is stated for, where the model's is not smaller.
pub(super) const CONTEXT: u64 = 8192;
/// Most lines of tensors where not all are listed.
const LINES: usize = 40;

/// The whole text; with `all`, every tensor has a line.
pub fn text(r: &Report, all: bool) -> Result<String> {
    let mut s = String::new();
    let files = if r.shards == 1 { String::new() } else { format!(" in {} files", r.shards) };
    writeln!(s, "{}{files}", quote::plain(&r.model, 1000))?;
    let sum = r.formats.values().fold((0, 0), |(n, b): (u64, u64), f| (n.saturating_add(f.elements), b + f.bytes));
    let architecture = r.architecture.as_ref().map_or("no architecture".into(), |name| quote::plain(name, NAME));
    let template = if r.chat_template { "yes" } else { "none" };
    write!(s, "{architecture}")?;
    if let Some(name) = r.name.as_ref().filter(|name| !name.is_empty()) {
        write!(s, " · {}", quote::plain(name, NAME))?;
    }
    let Parameters { total, active, experts } = &r.parameters;
    write!(s, " · {} weights", count(*total))?;
    if let Some(Experts { used, of }) = experts {
        write!(s, ", {} of them active ({used} of {of} experts)", count(*active))?;
    }
    if let Some(main) = r.formats.iter().max_by_key(|(_, f)| f.bytes) {
        write!(s, " · mostly {} ({:.2} bits)", main.0, bits(sum.0, sum.1))?;
    }
    write!(s, " · {:.3} GB", r.bytes as f64 / 1e9)?;
    if let Some(c) = &r.figures {
        write!(s, " · context {}", c.context)?;
    }
    writeln!(s, " · chat template: {template}")?;
    for hash in &r.sha256 {
        writeln!(s, "sha256 {hash}")?;
    }
    for what in &r.skipped {
        writeln!(s, "{what}")?;
    }
    if let Some(why) = &r.unsupported {
        writeln!(s, "cannot be compiled: {}", quote::plain(why, 1000))?;
    }
    if let Some(c) = &r.figures {
        writeln!(s, "{} layers, width {}, vocabulary {}", c.layers, c.width, c.vocab)?;
        memory(&mut s, r, c)?;
    }
    writeln!(s, "\n{:<10} {:>8} {:>16} {:>14} {:>6}", "format", "tensors", "elements", "bytes", "bits")?;
    for (name, Share { tensors, elements, bytes }) in &r.formats {
        writeln!(s, "{name:<10} {tensors:>8} {elements:>16} {bytes:>14} {:>6.2}", bits(*elements, *bytes))?;
    }
    if let Some(a) = &r.artifact {
        writeln!(s, "\nfor {}, context {}, KV {} ({} bytes)", a.machine, a.context, a.kv, a.kv_bytes)?;
        for (name, launches, arena) in &a.entries {
            writeln!(s, "  {name:<14} {launches:>4} launches, {arena} bytes of activations")?;
        }
        for (name, bytes, hash) in &a.kernels {
            writeln!(s, "  {name:<20} {bytes:>7} bytes  {}", hash.get(..12).unwrap_or(hash))?;
        }
        if !all {
            return Ok(s);
        }
    }
    writeln!(s)?;
    if all {
        for t in &r.tensors {
            writeln!(s, "{:<32} {:<8} {} {} bytes", quote::plain(&t.name, NAME), t.format, shape(t), t.bytes)?;
        }
        return Ok(s);
    }
    let folded = fold(&r.tensors);
    for line in folded.iter().take(LINES) {
        writeln!(s, "{line}")?;
    }
    if folded.len() > LINES {
        writeln!(s, "and {} more; --tensors lists all", folded.len() - LINES)?;
    }
    Ok(s)
}

/// What the KV cache takes, and which cards hold that and the weights.
fn memory(s: &mut String, r: &Report, c: &Figures) -> Result<()> {
    let context = CONTEXT.min(c.context as u64);
    let token = r.kv_bytes_per_token.unwrap_or(0);
    let need = r.bytes.saturating_add(r.kv_bytes);
    write!(s, "KV cache: {:.1} KiB a token in f16, {:.2} GiB at {context}", token as f64 / 1024.0, gib(r.kv_bytes))?;
    let gpus = target::ALL.iter().filter_map(|t| t.gpu());
    let mut cards: Vec<&Card> = gpus.flat_map(|gpu| gpu.cards).filter(|c| free(c.memory_bytes) >= need).collect();
    cards.sort_by_key(|c| c.memory_bytes);
    let fits = cards.first().map_or("fits no single card".into(), |card| {
        format!("fits cards from {:.0} GiB, such as {}", gib(card.memory_bytes), card.name)
    });
    writeln!(s, "; with the weights {:.2} GiB: {fits}", gib(need))?;
    Ok(())
}

/// One line for all tensors whose names differ in numbers only.
fn fold(tensors: &[Tensor]) -> Vec<String> {
    struct Group<'a> {
        count: usize,
        bytes: u64,
        shape: String,
        formats: BTreeMap<&'a str, usize>,
    }
    let mut order: Vec<String> = Vec::new();
    let mut groups: BTreeMap<String, Group<'_>> = BTreeMap::new();
    for t in tensors {
        let parts = t.name.split('.').map(|part| {
            let number = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            if number { "*" } else { part }
        });
        let name = parts.collect::<Vec<_>>().join(".");
        let group = groups.entry(name.clone()).or_insert_with(|| {
            order.push(name);
            Group { count: 0, bytes: 0, shape: shape(t), formats: BTreeMap::new() }
        });
        group.count += 1;
        group.bytes += t.bytes;
        *group.formats.entry(&t.format).or_default() += 1;
        if group.shape != shape(t) {
            group.shape = "of several shapes".into();
        }
    }
    let line = |name: &String| {
        let Group { count, bytes, shape, formats } = &groups[name];
        let formats: Vec<String> = match formats.len() {
            1 => formats.keys().map(|f| (*f).to_owned()).collect(),
            _ => formats.iter().map(|(f, n)| format!("{f} x {n}")).collect(),
        };
        let times = if *count == 1 { String::new() } else { format!("{count} x ") };
        let name = quote::plain(name, NAME);
        format!("{name:<28} {:<20} {times}{shape}, {:.2} MB", formats.join(", "), *bytes as f64 / 1e6)
    };
    order.iter().map(line).collect()
}

fn shape(t: &Tensor) -> String {
    let shape: Vec<String> = t.shape.iter().map(usize::to_string).collect();
    format!("[{}]", shape.join(", "))
}

fn bits(elements: u64, bytes: u64) -> f64 {
    if elements > 0 { bytes as f64 * 8.0 / elements as f64 } else { 0.0 }
}

/// A number as people say it.
fn count(n: u64) -> String {
    match n {
        0..1_000_000 => n.to_string(),
        1_000_000..1_000_000_000 => format!("{:.1} M", n as f64 / 1e6),
        _ => format!("{:.1} B", n as f64 / 1e9),
    }
}
