//! Generation: prompt in, sampled tokens and their text out.
//!
//! Invariant: the ids of a [`Generation`] are those whose text was handed out, in order; a token that ends generation is
//! not among them. Next hop: the command line prints it.

use crate::sampler::{Sampler, largest_first, top_logits};
use crate::text::TextStream;
use crate::tokenizer::Tokenizer;
use crate::{Executor, Result};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// When to stop and what to report.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// Most tokens to generate; `None`: until the context is full.
    pub max_tokens: Option<usize>,
    /// Whether tokens that end a text are tokens like any other.
    pub ignore_eos: bool,
    /// Texts at which generation stops; they are not part of the text. They may have the names of control tokens in them.
    pub stops: Vec<String>,
    /// How many of the largest logits after the prompt to report.
    pub top_logits: usize,
}

/// Why generation stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// [`Options::max_tokens`] were generated.
    Length,
    /// The model ended its text.
    Eos,
    /// One of [`Options::stops`] came.
    Stop,
    /// The caller asked for it.
    Interrupted,
    /// The KV cache is full.
    Context,
}

impl StopReason {
    /// The name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            StopReason::Length => "length",
            StopReason::Eos => "eos",
            StopReason::Stop => "stop",
            StopReason::Interrupted => "interrupted",
            StopReason::Context => "context",
        }
    }
}

impl std::fmt::Display for StopReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// How long it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timings {
    /// Prompt tokens to process.
    pub prompt_tokens: usize,
    /// Prompt tokens processed.
    pub prefill_tokens: usize,
    /// From the start to the logits after the prompt.
    pub prefill: Duration,
    /// Steps of one token after the prompt; the first generated token needs none.
    pub decode_steps: usize,
    /// From there to the end: steps, sampling, and the caller's handling of text.
    pub decode: Duration,
}

impl Timings {
    /// Prompt tokens per second.
    pub fn prefill_tokens_per_second(&self) -> f64 {
        rate(self.prefill_tokens, self.prefill)
    }

    /// Generated tokens per second, the first left out.
    pub fn decode_tokens_per_second(&self) -> f64 {
        rate(self.decode_steps, self.decode)
    }
}

fn rate(n: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { n as f64 / time.as_secs_f64() }
}

/// What was generated.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// Generated tokens.
    pub ids: Vec<u32>,
    /// Their text, up to a stop string.
    pub text: String,
    /// Why there are no more.
    pub stop_reason: StopReason,
    /// How long it took.
    pub timings: Timings,
    /// The largest logits after the prompt, before any penalty, largest first.
    pub top_logits: Vec<(u32, f32)>,
}

/// Who is told how a generation goes, and what ends it early.
pub struct Watch<'a> {
    /// Gets text as soon as it is certain.
    pub text: &'a mut dyn FnMut(&str),
    /// Gets, while the prompt is processed, how many of its tokens are and how many there are.
    pub prefill: &'a mut dyn FnMut(usize, usize),
    /// Looked at between steps: whether to stop.
    pub interrupted: &'a AtomicBool,
}

/// The `k` largest logits, from the device if it has found them.
fn largest(executor: &mut Executor, k: usize) -> Result<Vec<(u32, f32)>> {
    if k == 0 {
        return Ok(Vec::new());
    }
    match executor.top(k)? {
        Some(top) => largest_first(top.iter(), k),
        None => top_logits(executor.logits()?, k),
    }
}

/// The next token, from the largest logits if they are enough.
fn next(executor: &mut Executor, sampler: &mut Sampler) -> Result<u32> {
    if let Some(needs) = sampler.needs()
        && let Some(top) = executor.top(needs)?
    {
        return sampler.sample_top(top.iter());
    }
    sampler.sample(executor.logits()?)
}

/// Processes `prompt` after what the executor already holds, then generates. The last generated token is not in the KV cache
/// yet: a prompt that goes on from here begins with it.
///
/// # Errors
/// Those of [`Executor::prefill`] and [`Sampler::sample`], with the token that logits came after.
pub fn generate(
    executor: &mut Executor,
    tokenizer: &Tokenizer,
    sampler: &mut Sampler,
    prompt: &[u32],
    options: &Options,
    watch: &mut Watch<'_>,
) -> Result<Generation> {
    let Watch { text: on_text, prefill: on_prefill, interrupted } = watch;
    let is_interrupted = || interrupted.load(Ordering::Relaxed);
    let start = Instant::now();
    let before = executor.position();
    let prefilled = executor.prefill(prompt, &mut |done, all| {
        on_prefill(done, all);
        !is_interrupted()
    })?;
    let mut timings = Timings {
        prompt_tokens: prompt.len(),
        prefill_tokens: executor.position() - before,
        prefill: start.elapsed(),
        decode_steps: 0,
        decode: Duration::ZERO,
    };
    if !prefilled {
        let (ids, text, stop_reason) = (Vec::new(), String::new(), StopReason::Interrupted);
        return Ok(Generation { ids, text, stop_reason, timings, top_logits: Vec::new() });
    }
    let mut last = prompt.last().copied().unwrap_or_default();
    let at = executor.position().saturating_sub(1);
    let top_logits = largest(executor, options.top_logits).map_err(|e| e.after(last, at))?;
    prompt.iter().for_each(|&id| sampler.accept(id));

    let start = Instant::now();
    let room = executor.context() - executor.position() + 1;
    let most = options.max_tokens.unwrap_or(usize::MAX);
    let mut ids = Vec::with_capacity(most.min(room));
    let mut stream = TextStream::new(&options.stops);
    let mut text = String::new();
    let mut emit = |new: &str| {
        if !new.is_empty() {
            text.push_str(new);
            on_text(new);
        }
    };
    let stop_reason = loop {
        if ids.len() >= most {
            break StopReason::Length;
        }
        if is_interrupted() {
            break StopReason::Interrupted;
        }
        if let Some(&id) = ids.last() {
            if executor.position() == executor.context() {
                break StopReason::Context;
            }
            executor.step(&[id])?;
            timings.decode_steps += 1;
            last = id;
        }
        let at = executor.position().saturating_sub(1);
        let id = next(executor, sampler).map_err(|e| e.after(last, at))?;
        if !options.ignore_eos && tokenizer.is_end(id) {
            break StopReason::Eos;
        }
        sampler.accept(id);
        ids.push(id);
        emit(stream.push(tokenizer.token_bytes(id)));
        if !options.stops.is_empty() && tokenizer.token_bytes(id).is_empty() {
            emit(stream.pass(tokenizer.token_text(id).unwrap_or_default()));
        }
        if stream.stopped() {
            break StopReason::Stop;
        }
    };
    emit(stream.finish());
    timings.decode = start.elapsed();
    Ok(Generation { ids, text, stop_reason, timings, top_logits })
}
