//! Golden outputs of the test models, and the one rule by which logits and greedy text are compared with them.

use ir::quant::{DotForm, Format};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// A golden file.
#[derive(Debug, Clone, Deserialize)]
pub struct Golden {
    /// File name of the model.
    pub model: String,
    /// Size of the vocabulary.
    pub n_vocab: usize,
    /// Tolerance as a share of the largest logit, where the files' formats do not say it.
    pub tolerance: Option<f32>,
    /// The prompts.
    pub prompts: Vec<Prompt>,
}

/// A prompt and what llama.cpp made of it.
#[derive(Debug, Clone, Deserialize)]
pub struct Prompt {
    /// `short`, `long`, `odd` or `chat`.
    pub name: String,
    /// The prompt.
    pub text: String,
    /// Its token ids, with bos.
    pub ids: Vec<u32>,
    /// What llama.cpp gave.
    #[serde(flatten)]
    pub expected: Expected,
    /// What a computation without quantised activations gave.
    pub reference: Option<Expected>,
}

/// Outputs for a prompt.
#[derive(Debug, Clone, Deserialize)]
pub struct Expected {
    /// Token ids and logits after the prompt, largest first.
    pub top20: Vec<(u32, f32)>,
    /// Greedy continuation.
    pub greedy: Vec<u32>,
    /// Best minus second-best logit at each step.
    pub greedy_gap: Vec<f32>,
}

impl Golden {
    /// Reads the golden file of the model `stem`.gguf in `models`; `None` if it has none.
    ///
    /// # Panics
    /// If the file is not as documented.
    pub fn load(models: &Path, stem: &str) -> Option<Golden> {
        let path = models.join(format!("golden/{stem}.json"));
        let text = std::fs::read_to_string(&path).ok()?;
        Some(serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
    }
}

/// The folders of models with goldens: trained ones, and random ones of many architectures.
pub const FOLDERS: [&str; 2] = ["models", "arch"];

/// Every model with a golden file in a folder of the test data, by its path.
///
/// # Panics
/// If a golden file is not as documented.
pub fn all(folder: &str) -> Vec<(PathBuf, Golden)> {
    let Some(dir) = crate::shared_dir(folder) else { return Vec::new() };
    let stem = |path: &PathBuf| path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let files = crate::gguf_files(&dir).into_iter();
    files.filter_map(|path| Golden::load(&dir, &stem(&path)).map(|golden| (path, golden))).collect()
}

/// Tolerance as a share of the largest logit, for a model of these formats.
pub fn tolerance_share(formats: impl IntoIterator<Item = Format>) -> f32 {
    formats.into_iter().fold(FLOAT_SHARE, |share, format| {
        share.max(match format.dot {
            DotForm::Float(_) => FLOAT_SHARE,
            DotForm::Int { bits: 8, .. } => 1.5e-2,
            _ => 2e-2,
        })
    })
}

/// [`tolerance_share`] of models whose activations are not quantised.
pub const FLOAT_SHARE: f32 = 2e-3;

impl Expected {
    /// The tolerance of logits: `share` of the largest.
    pub fn tolerance(&self, share: f32) -> f32 {
        share * self.top20.iter().fold(0.0, |m: f32, (_, x)| m.max(x.abs()))
    }

    /// Largest difference of `logits` among the ten best.
    pub fn difference(&self, logits: &[f32]) -> f32 {
        self.top20.iter().take(10).fold(0.0, |m: f32, &(id, x)| m.max((logits[id as usize] - x).abs()))
    }

    /// Whether the ten best logits are within the tolerance.
    ///
    /// # Errors
    /// The largest difference and the tolerance.
    pub fn check_logits(&self, share: f32, logits: &[f32]) -> Result<(), String> {
        let (difference, tolerance) = (self.difference(logits), self.tolerance(share));
        // A NaN fails.
        if difference <= tolerance && logits.iter().all(|x| x.is_finite()) {
            return Ok(());
        }
        Err(format!("logits differ by {difference}, {tolerance} is allowed"))
    }

    /// Whether greedy text is the same up to the first step whose gap is below the tolerance.
    ///
    /// # Errors
    /// The first step that differs, with its gap and the tolerance.
    pub fn check_greedy(&self, share: f32, ids: &[u32]) -> Result<(), String> {
        let tolerance = self.tolerance(share);
        let Some(step) = self.greedy.iter().zip(ids).position(|(a, b)| a != b) else { return Ok(()) };
        if self.greedy_gap[step] < tolerance {
            return Ok(());
        }
        Err(format!("greedy text differs at step {step}, gap {}, {tolerance} is allowed", self.greedy_gap[step]))
    }
}

impl Prompt {
    /// Whether logits after the prompt and greedy text agree with llama.cpp or with the reference.
    ///
    /// # Errors
    /// What differs from both.
    pub fn check(&self, share: f32, logits: &[f32], greedy: &[u32]) -> Result<(), String> {
        let either = |check: &dyn Fn(&Expected) -> Result<(), String>| {
            check(&self.expected).or_else(|e| match &self.reference {
                Some(reference) => check(reference).map_err(|r| format!("llama.cpp: {e}; reference: {r}")),
                None => Err(e),
            })
        };
        either(&|e| e.check_logits(share, logits))?;
        either(&|e| e.check_greedy(share, greedy))
    }
}

/// The index of the largest logit; the lowest of equals.
pub fn argmax(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().fold((0, f32::NEG_INFINITY), |b, (i, &x)| if x > b.1 { (i, x) } else { b });
    best.0 as u32
}
