//! What a kernel works on, in a few characters: by the names and formats of the weights that its launches take.

use anyhow::Result;
use ir::artifact::{Manifest, Weight};
use ir::plan::{Place, Step};
use ir::spec;

/// A kernel's part in the model.
pub struct Subject {
    /// Its weight matrices, such as `ffn_gate+up`, or else its fused op.
    pub role: String,
    /// Their formats, or that of the KV cache that it attends to.
    pub format: Option<String>,
}

impl Subject {
    /// Of kernel `number`, by its first launch.
    pub fn of(m: &Manifest, number: usize) -> Result<Subject> {
        let k = &m.kernels[number];
        let mut matrices: Vec<&Weight> = Vec::new();
        let launched = m.entries.iter().find_map(|e| {
            let launches = e.plan.steps.iter().filter_map(Step::launch);
            let (_, buffers) = launches.into_iter().find(|(kernel, _)| *kernel as usize == number)?;
            Some((&e.plan, buffers))
        });
        if let Some((plan, buffers)) = launched {
            matrices.extend(buffers.iter().filter_map(|&b| match plan.buffers.get(b as usize)?.place {
                Place::Weight(n) => m.weights.get(n as usize).filter(|w| w.ty.shape.len() > 1),
                _ => None,
            }));
        }
        if matrices.is_empty() {
            let format = (k.work.attended_bytes > 0).then(|| m.kv.to_string());
            return Ok(Subject { role: spec::parse(&k.text)?.kind, format });
        }
        let mut formats: Vec<String> = Vec::new();
        for w in &matrices {
            let format = w.ty.elem.to_string();
            if !formats.contains(&format) {
                formats.push(format);
            }
        }
        let names: Vec<&str> = matrices.iter().map(|w| tensor(&w.name)).collect();
        Ok(Subject { role: joined(&names), format: Some(formats.join("+")) })
    }
}

/// A tensor's name without its layer and its `.weight`.
fn tensor(name: &str) -> &str {
    let name = name.strip_suffix(".weight").unwrap_or(name);
    let of_layer = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    of_layer.map_or(name, |(_, name)| name)
}

/// Names joined by `+`, without the first word where all have it.
fn joined(names: &[&str]) -> String {
    let word = names[0].split_once('_').map_or("", |(word, _)| word);
    let same = !word.is_empty() && names.iter().all(|n| n.strip_prefix(word).is_some_and(|rest| rest.starts_with('_')));
    let rest = names[1..].iter().map(|n| if same { &n[word.len() + 1..] } else { n });
    std::iter::once(names[0]).chain(rest).collect::<Vec<_>>().join("+")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names() {
        assert_eq!(["blk.12.ffn_up.weight", "output.weight", "x"].map(tensor), ["ffn_up", "output", "x"]);
        for (names, expected) in [
            (&["ffn_gate", "ffn_up"][..], "ffn_gate+up"),
            (&["attn_q", "attn_k", "attn_v"], "attn_q+k+v"),
            (&["attn_q", "attnk"], "attn_q+attnk"),
            (&["output"], "output"),
        ] {
            assert_eq!(joined(names), expected);
        }
    }
}
