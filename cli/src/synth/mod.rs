//! `rigc synth`: model files of random weights, with the shapes and mixes of formats of published models.
//!
//! `tables` reads the shapes, mixes and vocabularies, which are RON files; `vocab` makes the tokens, `weights` the data.
//! Invariant: the file has its name only when it is whole.

pub mod tables;
mod vocab;
mod weights;

use crate::failure::{INTERRUPTED, usage};
use crate::interrupt::Interrupt;
use crate::output::note;
use crate::progress;
use crate::temporary::Temporary;
use anyhow::Result;
use clap::builder::PossibleValuesParser;
use ir::gguf::{Metadata, NewTensor, Value, Writer};
use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use tables::{MIXES, Mix, SHAPES, Shape, VOCABULARIES};

fn shape_names() -> PossibleValuesParser {
    SHAPES.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().into()
}

fn mix_names() -> PossibleValuesParser {
    MIXES.iter().map(|m| m.name.as_str()).collect::<Vec<_>>().into()
}

/// Make a GGUF file of random weights in the shape and the formats of a published model
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Matrices have the formats that llama.cpp's quantiser gives them. The vocabulary has the true size, and \
256 bytes, a few merges and made-up words."
)]
pub struct Args {
    /// Shape of the model
    #[arg(long, value_name = "NAME", value_parser = shape_names())]
    shape: String,
    /// Mix of formats
    #[arg(long, value_name = "NAME", value_parser = mix_names())]
    quant: String,
    /// File to write
    #[arg(short, long, value_name = "FILE.gguf")]
    output: PathBuf,
    /// A hole instead of data: all weights are 0 and take no room on disk; for planning
    #[arg(long)]
    sparse: bool,
    /// Every matrix in the mix's main format
    #[arg(long)]
    pure: bool,
    /// Only so many layers of the model
    #[arg(long, value_name = "N")]
    layers: Option<usize>,
    /// Seed of the weights
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Replace FILE.gguf
    #[arg(long)]
    force: bool,
}

/// The keys of a model; without tokens, if its vocabulary is none of the tables'.
pub fn metadata(shape: &Shape, mix: &Mix) -> Metadata {
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", shape.architecture.as_str());
    metadata.insert("general.name", format!("random {} {}", shape.name, mix.name).as_str());
    metadata.insert("general.file_type", Value::U32(mix.file_type));
    metadata.insert("general.quantization_version", Value::U32(2));
    let mut put = |key: &str, value: Value| {
        metadata.insert(format!("{}.{key}", shape.architecture), value);
    };
    for (key, n) in [
        ("vocab_size", shape.vocab),
        ("context_length", shape.context),
        ("embedding_length", shape.width),
        ("block_count", shape.layers),
        ("feed_forward_length", shape.ffn),
        ("attention.head_count", shape.heads),
        ("attention.head_count_kv", shape.kv_heads),
        ("attention.key_length", shape.head),
        ("attention.value_length", shape.head),
        ("rope.dimension_count", shape.head),
    ] {
        put(key, Value::U32(n as u32));
    }
    if let Some(experts) = &shape.experts {
        put("expert_count", Value::U32(experts.count as u32));
        put("expert_used_count", Value::U32(experts.used as u32));
        put("expert_feed_forward_length", Value::U32(experts.ffn as u32));
    }
    if let Some(harmony) = &shape.harmony {
        put("attention.sliding_window", Value::U32(harmony.window as u32));
        put("rope.scaling.type", "yarn".into());
        put("rope.scaling.factor", Value::F32(harmony.yarn_factor));
        put("rope.scaling.original_context_length", Value::U32(harmony.yarn_context as u32));
    }
    put("attention.layer_norm_rms_epsilon", Value::F32(shape.eps));
    put("rope.freq_base", Value::F32(shape.theta));
    if let Some(vocabulary) = VOCABULARIES.iter().find(|v| v.name == shape.vocabulary) {
        vocab::insert(&mut metadata, shape, vocabulary);
    }
    metadata
}

/// Runs the command.
pub fn run(args: Args) -> Result<ExitCode> {
    let absent = || usage("no such shape or mix");
    let whole = SHAPES.iter().find(|s| s.name == args.shape).ok_or_else(absent)?;
    let layers = args.layers.unwrap_or(whole.layers);
    if !(1..=whole.layers).contains(&layers) {
        return Err(usage(format!("{} has {} layers; give --layers 1 to {0}", whole.name, whole.layers)));
    }
    let shape = &Shape { layers, ..whole.clone() };
    let mix = MIXES.iter().find(|m| m.name == args.quant).ok_or_else(absent)?;
    let path = args.output.as_path();
    if path.is_dir() || (path.exists() && !args.force) {
        let what = if path.is_dir() { "is a directory; give a file" } else { "exists; remove it or add --force" };
        return Err(usage(format!("{} {what}", path.display())));
    }
    let writer = Writer { metadata: metadata(shape, mix), tensors: tables::tensors(shape, mix, args.pure) };
    let total: u64 = writer.tensors.iter().map(NewTensor::bytes).sum();
    check_room(path, total, args.sparse)?;
    let interrupt = Interrupt::new();
    let interrupted = interrupt.flag();
    if path.file_name().is_none() {
        return Err(usage(format!("{} is no name for a file; give -o FILE.gguf", path.display())));
    }
    let temporary = Temporary::public(path).map_err(|e| runtime::Error::io(path, e))?;
    let file = temporary.file();
    let written = if args.sparse { holes(&writer, file) } else { fill(&writer, file, shape, args.seed, interrupted) };
    if interrupted.load(Ordering::Relaxed) {
        return Ok(ExitCode::from(INTERRUPTED));
    }
    let named = if args.force { Temporary::replace } else { Temporary::create };
    written.and_then(|()| named(temporary, path)).map_err(|e| match e.kind() {
        ErrorKind::AlreadyExists => usage(format!("{} exists; remove it or add --force", path.display())),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => no_room(path, total, &e),
        _ => runtime::Error::io(path, e).into(),
    })?;
    let elements: u64 = writer.tensors.iter().map(|t| t.shape.iter().map(|&d| d as u64).product::<u64>()).sum();
    note!(
        "{}: {} tensors, {:.2} G weights, {:.2} GB, {:.2} bits a weight{}",
        path.display(),
        writer.tensors.len(),
        elements as f64 / 1e9,
        total as f64 / 1e9,
        total as f64 * 8.0 / elements as f64,
        if args.sparse { ", all holes" } else { "" }
    );
    Ok(ExitCode::SUCCESS)
}

/// Refuses a file that the file system has no room for, before anything is written.
fn check_room(path: &Path, total: u64, sparse: bool) -> Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match runtime::sys::fs::available(parent) {
        Ok(free) if free < total && !sparse => {
            Err(no_room(path, total, &format!("{:.2} GB are free", free as f64 / 1e9)))
        }
        // Another error comes when the file is made.
        _ => Ok(()),
    }
}

fn no_room(path: &Path, total: u64, why: &dyn std::fmt::Display) -> anyhow::Error {
    usage(format!("{} needs {:.2} GB, for which there is no room: {why}", path.display(), total as f64 / 1e9))
}

/// The header, and data that reads as zeros.
fn holes(writer: &Writer, file: &File) -> std::io::Result<()> {
    let mut out = BufWriter::new(file);
    let length = writer.header_to(&mut out)?;
    out.flush()?;
    file.set_len(length)
}

/// The header, and random data.
fn fill(writer: &Writer, file: &File, shape: &Shape, seed: u64, interrupted: &AtomicBool) -> std::io::Result<()> {
    let total: u64 = writer.tensors.iter().map(NewTensor::bytes).sum();
    let bar = progress::bytes("writing", false);
    progress::start(&bar, total);
    let mut tick = |bytes: u64| {
        bar.inc(bytes);
        if interrupted.load(Ordering::Relaxed) { Err(std::io::Error::other("interrupted")) } else { Ok(()) }
    };
    let mut out = BufWriter::new(file);
    let result = writer.write(&mut out, |tensor, i, out| {
        weights::write(tensor, shape, &mut weights::numbers(seed, i as u64), out, &mut tick)
    });
    bar.finish_and_clear();
    result
}
