//! `rigc perplexity`: how well a model predicts a text, computed as llama-perplexity does, so that the figures compare.
//!
//! The text's tokens, BOS as the GGUF says, are cut into chunks of `--ctx`; a rest is left out. Each chunk is a text of
//! its own, whose first token BOS replaces if the model wants one. Only tokens after the first half and one are scored, so
//! that each has at least half a chunk before it. The result is exp of the mean negative log-likelihood.

use crate::failure::{INTERRUPTED, usage};
use crate::interrupt::Interrupt;
use crate::model::{self, CompileArgs};
use crate::{output, progress, text};
use anyhow::{Context, Result};
use runtime::Executor;
use runtime::device;
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Tokens of a chunk where neither the user nor an artifact says.
const CHUNK: usize = 256;

/// Measure how well a model predicts a text: exp of the mean negative log-likelihood of its tokens
#[derive(Debug, clap::Args)]
#[command(after_help = "Chunks of --ctx tokens, each after BOS if the model wants one, of \
which the second half is scored. Only figures of the same text, tokenizer and --ctx compare.")]
pub struct Args {
    /// GGUF file or artifact (.rig)
    model: PathBuf,
    /// Text file
    file: PathBuf,
    /// Tokens of a chunk
    #[arg(long, value_name = "N", default_value_t = CHUNK as u32, value_parser = clap::value_parser!(u32).range(4..))]
    ctx: u32,
    /// Chunks to compute [default: all of the text]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    chunks: Option<u32>,
    /// CPU target: x86-64, x86-64-v3, x86-64-v4-vnni, or native (the best that this CPU runs) [default: native]
    #[arg(long)]
    target: Option<String>,
    /// Format of the KV cache: f16 or q8_0 [default: f16]
    #[arg(long)]
    kv: Option<String>,
    /// Threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    model: String,
    file: String,
    context: usize,
    chunks: usize,
    tokens: usize,
    scored: usize,
    perplexity: f64,
    standard_error: f64,
    mean_nll: f64,
    seconds: f64,
}

/// Negative log-likelihoods, summed.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Score {
    count: usize,
    sum: f64,
    squares: f64,
}

impl Score {
    fn add(&mut self, nll: f64) {
        self.count += 1;
        self.sum += nll;
        self.squares += nll * nll;
    }

    fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }

    fn perplexity(&self) -> f64 {
        self.mean().exp()
    }

    /// Of the perplexity, to first order in that of the mean.
    fn standard_error(&self) -> f64 {
        let variance = (self.squares / self.count as f64 - self.mean().powi(2)).max(0.0);
        (variance / (self.count as f64 - 1.0)).sqrt() * self.perplexity()
    }
}

/// -ln of the probability that softmax of `logits` gives to `token`; not finite if a logit is NaN or infinity.
fn nll(logits: &[f32], token: u32) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from((x - most).exp())).sum();
    f64::from(most - logits[token as usize]) + sum.ln()
}

/// Scores one chunk, whose first token is replaced by `bos`. `None` if interrupted.
fn chunk(
    executor: &mut Executor,
    tokens: &[u32],
    bos: Option<u32>,
    score: &mut Score,
    interrupted: &AtomicBool,
) -> Result<Option<()>> {
    let go_on = || !interrupted.load(Ordering::Relaxed);
    let first = tokens.len() / 2;
    let mut head = tokens[..first].to_vec();
    if let Some(bos) = bos {
        head[0] = bos;
    }
    executor.set_position(0)?;
    if !executor.prefill(&head, &mut |_, _| go_on())? {
        return Ok(None);
    }
    let scored = &tokens[first..tokens.len() - 1];
    let mut answers = tokens[first + 1..].iter();
    for step in scored.chunks(executor.logits_capacity().max(1)) {
        if !go_on() {
            return Ok(None);
        }
        executor.step(step)?;
        let start = executor.position() - step.len();
        for (i, (&token, &answer)) in step.iter().zip(answers.by_ref()).enumerate() {
            let nll = nll(executor.logits_of(i)?, answer);
            if !nll.is_finite() {
                return Err(runtime::Error::NotFinite { after: Some((token, start + i)) }.into());
            }
            score.add(nll);
        }
    }
    Ok(Some(()))
}

/// Runs the command.
pub fn run(args: Args) -> Result<ExitCode> {
    let interrupt = Interrupt::new();
    let context = args.ctx as usize;
    let text = text::file(&args.file)?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    // An artifact's context is its own; it only has to be large enough.
    let ctx = (!model::is_artifact(&args.model)).then_some(args.ctx);
    let compile = CompileArgs { target: args.target, ctx, kv: args.kv, schedules: None, ..CompileArgs::default() };
    let loaded = model::load(Some(&args.model), &compile)?;
    let has = loaded.artifact.manifest.context as usize;
    if has < context {
        let name = &loaded.name;
        return Err(usage(format!("{name} holds {has} tokens, --ctx is {context}; compile it with --ctx {context}")));
    }
    let tokenizer = model::tokenizer(&loaded.file)?;
    let tokens = tokenizer.encode_prompt(text, false)?;
    let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    if tokens.len() < 2 * context {
        let path = args.file.display();
        let (n, need) = (tokens.len(), 2 * context);
        return Err(usage(format!(
            "{path} has {n} tokens, but two chunks need {need}; give more text or a lower --ctx"
        )));
    }
    let vocab = loaded.artifact.manifest.figures.vocab;
    if let Some(id) = tokens.iter().find(|&&id| id as usize >= vocab) {
        let name = &loaded.name;
        return Err(usage(format!("{name} has a tokenizer that gives token {id}, but a vocabulary of {vocab}")));
    }
    let chunks = (tokens.len() / context).min(args.chunks.map_or(usize::MAX, |n| n as usize));

    let options = device::Options { threads: args.threads.map_or(0, usize::from), ..Default::default() };
    let (mut executor, file, name) = model::executor(loaded, &options, args.json)?;
    output::warn(&file, tokenizer.blemishes());
    let interrupted = interrupt.flag();
    let bar = progress::count("chunks", args.json);
    bar.set_length(chunks as u64);
    let start = Instant::now();
    let mut score = Score::default();
    for part in tokens.chunks_exact(context).take(chunks) {
        if chunk(&mut executor, part, bos, &mut score, interrupted)?.is_none() {
            bar.finish_and_clear();
            return Ok(ExitCode::from(INTERRUPTED));
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    file.check_unchanged()?;
    let report = Report {
        model: name,
        file: args.file.display().to_string(),
        context,
        chunks,
        tokens: tokens.len(),
        scored: score.count,
        perplexity: score.perplexity(),
        standard_error: score.standard_error(),
        mean_nll: score.mean(),
        seconds: start.elapsed().as_secs_f64(),
    };
    if args.json {
        output::print(&(serde_json::to_string(&report).context("the report")? + "\n"))?;
    } else {
        let Report { perplexity, standard_error, scored, .. } = report;
        output::print(&format!(
            "perplexity {perplexity:.4} +- {standard_error:.5} ({scored} tokens scored in {chunks} chunks of {context})\n"
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likelihoods() {
        let even = [3.0; 8];
        assert!((nll(&even, 5) - 8f64.ln()).abs() < 1e-12);
        assert!((nll(&[0.0, 1000.0], 1)).abs() < 1e-12);
        assert!((nll(&[0.0, 1000.0], 0) - 1000.0).abs() < 1e-9);
        for bad in
            [[f32::NAN, 0.0, 1.0], [0.0, f32::NAN, 1.0], [0.0, 1.0, f32::INFINITY], [f32::NEG_INFINITY, 0.0, 0.0]]
        {
            assert!(!nll(&bad, 0).is_finite(), "{bad:?}");
        }
    }

    #[test]
    fn scores() {
        let mut score = Score::default();
        [1.0, 2.0, 3.0].into_iter().for_each(|x| score.add(x));
        assert!((score.perplexity() - 2f64.exp()).abs() < 1e-12);
        assert!((score.standard_error() - (2.0f64 / 3.0 / 2.0).sqrt() * 2f64.exp()).abs() < 1e-9);
    }
}
