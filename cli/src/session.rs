//! A loaded model that generates: how text and results are printed, for one prompt and for a conversation alike.

use crate::failure::INTERRUPTED;
use crate::model::{self, Loaded};
use crate::output::{self, note};
use anyhow::{Context, Result};
use runtime::executor;
use runtime::generate::{self, Generation, StopReason};
use runtime::sampler::{Sampler, SamplerConfig};
use runtime::tokenizer::Tokenizer;
use runtime::{Executor, ModelFile};
use serde::Serialize;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a> {
    model: &'a str,
    device: &'a str,
    target: &'a str,
    prompt_ids: &'a [u32],
    ids: &'a [u32],
    text: &'a str,
    stop_reason: &'static str,
    timings: &'a ReportTimings,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_logits: Option<&'a [(u32, f32)]>,
}

#[derive(Serialize)]
struct ReportTimings {
    load_ms: f64,
    prefill_tokens: usize,
    prefill_ms: f64,
    decode_ms: f64,
    prefill_tokens_per_second: f64,
    decode_tokens_per_second: f64,
    weight_gb_per_second: f64,
}

fn milliseconds(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

impl ReportTimings {
    fn new(load: Duration, g: &Generation, weight_bytes: u64) -> Self {
        let t = &g.timings;
        ReportTimings {
            load_ms: milliseconds(load),
            prefill_tokens: t.prefill_tokens,
            prefill_ms: milliseconds(t.prefill),
            decode_ms: milliseconds(t.decode),
            prefill_tokens_per_second: t.prefill_tokens_per_second(),
            decode_tokens_per_second: t.decode_tokens_per_second(),
            weight_gb_per_second: t.decode_tokens_per_second() * weight_bytes as f64 / 1e9,
        }
    }
}

/// How a session generates.
pub struct Settings {
    /// How to sample.
    pub sampling: SamplerConfig,
    /// When to stop.
    pub options: generate::Options,
    /// How to load the model.
    pub executor: executor::Options,
    /// Whether results are printed as JSON.
    pub json: bool,
}

/// A loaded model and how to sample from it.
pub struct Session {
    /// The model.
    pub executor: Executor,
    /// Its vocabulary.
    pub tokenizer: Tokenizer,
    /// The next to sample with.
    pub sampler: Sampler,
    /// When to stop.
    pub options: generate::Options,
    /// File name of the model.
    pub name: String,
    file: ModelFile,
    sampling: SamplerConfig,
    load: Duration,
    json: bool,
}

impl Session {
    /// Loads the weights; `start` is when the command began.
    pub fn new(loaded: Loaded, tokenizer: Tokenizer, settings: Settings, start: Instant) -> Result<Session> {
        let Loaded { artifact, file, name } = loaded;
        let Settings { sampling, options, executor, json } = settings;
        let sampler = Sampler::new(sampling.clone(), artifact.manifest.config.vocab)?;
        let executor = model::executor(artifact, &file, &executor, json)?;
        let load = start.elapsed();
        Ok(Session { executor, tokenizer, sampler, options, name, file, sampling, load, json })
    }

    /// What the sampler's randomness starts from.
    pub fn seed(&self) -> u64 {
        self.sampling.seed
    }

    /// Samples from now on as at the start.
    pub fn restart_sampler(&mut self) -> Result<()> {
        self.sampler = Sampler::new(self.sampling.clone(), self.executor.manifest().config.vocab)?;
        Ok(())
    }

    /// Generates by `generate`, which gets the session, where text goes and what interrupts. Text is printed as it comes,
    /// unless all is to be JSON.
    pub fn generate<T>(
        &mut self,
        interrupted: &AtomicBool,
        generate: impl FnOnce(&mut Session, &mut dyn FnMut(&str), &AtomicBool) -> runtime::Result<T>,
    ) -> Result<T> {
        let json = self.json;
        let mut failed = None;
        let mut on_text = |text: &str| {
            if !json
                && failed.is_none()
                && let Err(e) = output::print(text)
            {
                failed = Some(e);
                interrupted.store(true, Ordering::Relaxed);
            }
        };
        let result = generate(self, &mut on_text, interrupted)?;
        if let Some(e) = failed {
            return Err(e);
        }
        self.file.check_unchanged()?;
        Ok(result)
    }

    /// Ends what was printed of a generation after all of `prompt_ids`, or prints all of it as JSON.
    pub fn print_end(&self, prompt_ids: &[u32], generation: &Generation) -> Result<()> {
        if !self.json {
            return output::print("\n");
        }
        let report = Report {
            model: &self.name,
            device: &self.executor.device().name,
            target: &self.executor.device().target,
            prompt_ids,
            ids: &generation.ids,
            text: &generation.text,
            stop_reason: generation.stop_reason.name(),
            timings: &self.timings(generation),
            top_logits: (self.options.top_logits > 0).then_some(&generation.top_logits),
        };
        output::print(&(serde_json::to_string(&report).context("the report")? + "\n"))
    }

    fn timings(&self, generation: &Generation) -> ReportTimings {
        ReportTimings::new(self.load, generation, self.executor.weight_bytes())
    }

    /// What a whole run took, on stderr; its exit code.
    pub fn finish(&self, g: &Generation) -> ExitCode {
        let (t, info) = (self.timings(g), self.executor.device());
        note!(
            "\n{} ({}, {} threads): load {:.2} s; prefill {} tokens in {:.2} s, {:.1} tok/s; decode {} tokens in {:.2} s, \
             {:.1} tok/s, {:.1} GB/s of weights; stopped by {}; seed {}",
            info.name,
            info.target,
            info.workers,
            t.load_ms / 1e3,
            t.prefill_tokens,
            t.prefill_ms / 1e3,
            t.prefill_tokens_per_second,
            g.ids.len(),
            t.decode_ms / 1e3,
            t.decode_tokens_per_second,
            t.weight_gb_per_second,
            g.stop_reason,
            self.sampling.seed,
        );
        ExitCode::from(if g.stop_reason == StopReason::Interrupted { INTERRUPTED } else { 0 })
    }
}
