//! A loaded model that generates: how text and results are printed, for one prompt and for a conversation alike.

use crate::failure::INTERRUPTED;
use crate::model::{self, Loaded};
use crate::output::{self, note};
use crate::progress;
use crate::sampling::Sampling;
use anyhow::{Context, Result};
use runtime::device;
use runtime::generate::{self, Generation, StopReason, Watch};
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
    pub sampling: Sampling,
    /// When to stop.
    pub options: generate::Options,
    /// How to load the model.
    pub executor: device::Options,
    /// Whether results are printed as JSON.
    pub json: bool,
    /// Whether all figures of a run are told.
    pub verbose: bool,
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
    sampling: Sampling,
    load: Duration,
    json: bool,
    verbose: bool,
}

impl Session {
    /// Loads the weights; `start` is when the command began.
    pub fn new(loaded: Loaded, tokenizer: Tokenizer, settings: Settings, start: Instant) -> Result<Session> {
        let Settings { sampling, options, executor, json, verbose } = settings;
        let sampler = Sampler::new(sampling.config.clone(), loaded.artifact.manifest.figures.vocab)?;
        let (executor, file, name) = model::executor(loaded, &executor, json)?;
        let load = start.elapsed();
        output::warn(&file, tokenizer.blemishes().iter().chain(&sampling.warnings));
        Ok(Session { executor, tokenizer, sampler, options, name, file, sampling, load, json, verbose })
    }

    /// What the sampler's randomness starts from.
    pub fn seed(&self) -> u64 {
        self.sampling.config.seed
    }

    /// Samples from now on as at the start.
    pub fn restart_sampler(&mut self) -> Result<()> {
        self.sampler = Sampler::new(self.sampling.config.clone(), self.executor.manifest().figures.vocab)?;
        Ok(())
    }

    /// Generates by `generate`, which gets the session and whom to tell. Text is printed as it comes, unless all is to be
    /// JSON; at a terminal a bar shows how far a long prompt is.
    pub fn generate<T>(
        &mut self,
        interrupted: &AtomicBool,
        generate: impl FnOnce(&mut Session, &mut Watch<'_>) -> runtime::Result<T>,
    ) -> Result<T> {
        let json = self.json;
        let mut failed = None;
        let bar = progress::count("prompt", json);
        let mut on_text = |text: &str| {
            bar.finish_and_clear();
            if !json
                && failed.is_none()
                && let Err(e) = output::print(text)
            {
                failed = Some(e);
                interrupted.store(true, Ordering::Relaxed);
            }
        };
        let mut on_prefill = |done: usize, all: usize| {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
        };
        let mut watch = Watch { text: &mut on_text, prefill: &mut on_prefill, interrupted };
        let result = generate(self, &mut watch);
        bar.finish_and_clear();
        let result = result?;
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

    /// What a whole run took, on stderr: a line, or with `--verbose` all figures. Gives its exit code.
    pub fn finish(&self, g: &Generation) -> ExitCode {
        let (t, info) = (self.timings(g), self.executor.device());
        let prompt = match g.timings.prompt_tokens {
            all if all > t.prefill_tokens => format!("{} of {all}", t.prefill_tokens),
            all => all.to_string(),
        };
        let (stop, seed) = (g.stop_reason, self.sampling.config.seed);
        if self.verbose {
            let SamplerConfig { temperature, top_k, top_p, min_p, repeat_penalty, .. } = self.sampling.config;
            let of_file = match self.sampling.of_file.as_slice() {
                [] => String::new(),
                names => format!(" ({} of the file)", names.join(", ")),
            };
            note!("\ndevice    {} ({}, {} threads)", info.name, info.target, info.workers);
            note!("load      {:.2} s", t.load_ms / 1e3);
            let rate = t.prefill_tokens_per_second;
            note!("prefill   {prompt} tokens in {:.2} s, {rate:.1} tok/s", t.prefill_ms / 1e3);
            let (rate, weights) = (t.decode_tokens_per_second, t.weight_gb_per_second);
            let decode = t.decode_ms / 1e3;
            note!("decode    {} tokens in {decode:.2} s, {rate:.1} tok/s, {weights:.1} GB/s of weights", g.ids.len());
            note!(
                "sampling  temp {temperature}, top-k {top_k}, top-p {top_p}, min-p {min_p}, repeat penalty \
                 {repeat_penalty}{of_file}"
            );
            note!("end       stopped by {stop}; seed {seed}");
        } else {
            let rate = match g.timings.decode_steps {
                0 => String::new(),
                _ => format!(" · {:.1} tok/s", t.decode_tokens_per_second),
            };
            let of_file = match self.sampling.of_file.as_slice() {
                [] => String::new(),
                names => format!(" · {} of the file", names.join(", ")),
            };
            note!("\n{prompt} → {} tok{rate} · stopped by {stop}{of_file} · seed {seed}", g.ids.len());
        }
        ExitCode::from(if stop == StopReason::Interrupted { INTERRUPTED } else { 0 })
    }
}
