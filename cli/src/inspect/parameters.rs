//! How many weights a model has, and how many of them a token meets: by the names of its tensors.

use ir::gguf::Metadata;
use runtime::ModelFile;
use serde::Serialize;

/// The weights of a file.
#[derive(Debug, Serialize)]
pub struct Parameters {
    pub total: u64,
    /// Those that a token meets: of the experts, as many as are used.
    pub active: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experts: Option<Experts>,
}

/// How many experts a layer has, and how many a token meets.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Experts {
    pub used: u32,
    pub of: u32,
}

impl Parameters {
    /// By the metadata and the tensor table of a file.
    pub fn of(file: &ModelFile) -> Parameters {
        let experts = experts(file.metadata());
        let (mut total, mut of_experts) = (0u64, 0u64);
        for (_, tensor) in file.tensors() {
            total = total.saturating_add(tensor.elements());
            if tensor.name.contains("_exps.") {
                of_experts = of_experts.saturating_add(tensor.elements());
            }
        }
        let met = |e: Experts| (u128::from(of_experts) * u128::from(e.used) / u128::from(e.of)) as u64;
        Parameters { total, active: total - of_experts + experts.map_or(of_experts, met), experts }
    }
}

fn experts(metadata: &Metadata) -> Option<Experts> {
    let architecture = metadata.opt_str("general.architecture").ok()??;
    let figure = |key: &str| metadata.opt_u32(&format!("{architecture}.{key}")).ok().flatten();
    let (of, used) = (figure("expert_count")?, figure("expert_used_count")?);
    (used <= of && of > 0).then_some(Experts { used, of })
}
