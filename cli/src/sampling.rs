//! How to sample: by the flags, else by what the model's file recommends, else by rigc's defaults.

use ir::gguf::{Metadata, Value};
use runtime::sampler::SamplerConfig;

/// Flags that choose how to sample.
#[derive(Debug, clap::Args)]
pub struct SamplingArgs {
    /// Temperature; 0 takes the likeliest token [default: the file's general.sampling.temp, else 0.8]
    #[arg(long, value_name = "T")]
    temp: Option<f32>,
    /// Sample from the K likeliest tokens; 0: from all [default: the file's general.sampling.top_k, else 40]
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Sample from the likeliest tokens that together have this probability [default: the file's
    /// general.sampling.top_p, else 0.95]
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Leave out tokens less likely than this share of the likeliest [default: the file's general.sampling.min_p, else
    /// 0.05]
    #[arg(long, value_name = "P")]
    min_p: Option<f32>,
    /// Divide the logits of recent tokens by this; 1: off [default: the file's general.sampling.penalty_repeat, else 1]
    #[arg(long, value_name = "R")]
    repeat_penalty: Option<f32>,
    /// Seed of the sampler [default: random; the summary prints it]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// Recommendations that are not followed, where they are not 0.
const NOT_FOLLOWED: &[&str] = &["xtc_probability", "mirostat"];

/// How to sample, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// The settings.
    pub config: SamplerConfig,
    /// The flags for which the model's file decides.
    pub of_file: Vec<&'static str>,
    /// What the file recommends in vain, a sentence each.
    pub warnings: Vec<String>,
}

impl SamplingArgs {
    /// How to sample from the model of this header.
    pub fn choose(&self, metadata: &Metadata) -> Sampling {
        let full = |key: &str| format!("general.sampling.{key}");
        let file = |key: &str| metadata.get(&full(key)).map(number);
        let ignored = NOT_FOLLOWED.iter().filter(|key| file(key).is_some_and(|x| x != 0.0));
        let mut warnings: Vec<String> =
            ignored.map(|key| format!("{} is not supported and not followed", full(key))).collect();
        let mut of_file = Vec::new();
        let mut choose =
            |name, key: &str, given: Option<f32>, default: f32, valid: fn(f32) -> bool| match (given, file(key)) {
                (Some(x), _) => x,
                (None, None) => default,
                (None, Some(x)) if valid(x) => {
                    of_file.push(name);
                    x
                }
                (None, Some(x)) => {
                    warnings.push(format!("{} is {x}, which makes no sense; {default} is used", full(key)));
                    default
                }
            };
        let default = SamplerConfig::default();
        let config = SamplerConfig {
            temperature: choose("temp", "temp", self.temp, default.temperature, |x| x >= 0.0 && x.is_finite()),
            // A number below 0 stands for all, as 0 does.
            top_k: match self.top_k {
                Some(k) => k,
                None => choose("top-k", "top_k", None, default.top_k as f32, |x| !x.is_nan()) as usize,
            },
            top_p: choose("top-p", "top_p", self.top_p, default.top_p, |x| x > 0.0 && x <= 1.0),
            min_p: choose("min-p", "min_p", self.min_p, default.min_p, |x| (0.0..=1.0).contains(&x)),
            repeat_penalty: choose(
                "repeat-penalty",
                "penalty_repeat",
                self.repeat_penalty,
                default.repeat_penalty,
                |x| x > 0.0 && x.is_finite(),
            ),
            seed: self.seed.unwrap_or_else(random_seed),
        };
        Sampling { config, of_file, warnings }
    }
}

/// A value as a number; NaN if it is none.
fn number(value: &Value) -> f32 {
    match *value {
        Value::F32(x) => x,
        Value::F64(x) => x as f32,
        Value::U8(n) => n.into(),
        Value::I8(n) => n.into(),
        Value::U16(n) => n.into(),
        Value::I16(n) => n.into(),
        Value::U32(n) => n as f32,
        Value::I32(n) => n as f32,
        Value::U64(n) => n as f32,
        Value::I64(n) => n as f32,
        _ => f32::NAN,
    }
}

/// A seed that differs from run to run.
pub fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish() & 0xffff_ffff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_come_before_the_file_and_the_file_before_defaults() {
        let args =
            |top_p| SamplingArgs { temp: None, top_k: None, top_p, min_p: None, repeat_penalty: None, seed: Some(0) };
        #[track_caller]
        fn check(
            args: &SamplingArgs,
            keys: &[(&str, Value)],
            config: SamplerConfig,
            of_file: &[&str],
            warnings: usize,
        ) {
            let keys = keys.iter().map(|(key, value)| (format!("general.sampling.{key}"), value.clone()));
            let got = args.choose(&keys.collect());
            assert_eq!((got.config, got.of_file, got.warnings.len()), (config, of_file.to_vec(), warnings));
        }
        let default = SamplerConfig::default;
        check(&args(None), &[], default(), &[], 0);
        let keys = [("top_p", Value::F32(0.5)), ("temp", Value::F64(0.25)), ("penalty_repeat", Value::U8(2))];
        let all = SamplerConfig { top_p: 0.5, temperature: 0.25, repeat_penalty: 2.0, ..default() };
        check(&args(None), &keys, all.clone(), &["temp", "top-p", "repeat-penalty"], 0);
        check(&args(Some(0.75)), &keys, SamplerConfig { top_p: 0.75, ..all }, &["temp", "repeat-penalty"], 0);
        for (value, top_k) in
            [(Value::I32(7), 7), (Value::I32(-1), 0), (Value::F32(3.0), 3), (Value::U64(u64::MAX), usize::MAX)]
        {
            check(&args(None), &[("top_k", value)], SamplerConfig { top_k, ..default() }, &["top-k"], 0);
        }
        for (key, value) in [
            ("top_k", Value::from("many")),
            ("temp", Value::F32(-1.0)),
            ("temp", Value::F32(f32::INFINITY)),
            ("top_p", Value::F32(0.0)),
            ("min_p", Value::F32(f32::NAN)),
            ("penalty_repeat", Value::I8(0)),
            ("mirostat", Value::U32(2)),
            ("xtc_probability", Value::F32(0.1)),
        ] {
            check(&args(None), &[(key, value)], default(), &[], 1);
        }
    }
}
