//! Models of a suite: compiled from figures alone, with weights that are made on the device.

use crate::synth::{
    metadata,
    tables::{MIXES, Mix, SHAPES, Shape, tensors},
};
use anyhow::{Context, Result};
use codegen::schedule::Row;
use ir::artifact::{Artifact, State};
use ir::front::Tensors;
use ir::gguf::{ModelIdentity, ShardIdentity, TensorInfo};
use ir::quant::Format;
use ir::target::Target;

/// A shape of the tables.
pub fn shape(name: &str) -> Result<Shape> {
    SHAPES.iter().find(|s| s.name == name).cloned().with_context(|| format!("there is no shape {name}"))
}

/// A mix of the tables.
pub fn mix(name: &str) -> Result<Mix> {
    MIXES.iter().find(|m| m.name == name).cloned().with_context(|| format!("there is no mix {name}"))
}

/// A mix of one format.
pub fn pure(format: Format) -> Mix {
    Mix { name: format.name.into(), file_type: 0, base: format, rules: Vec::new() }
}

/// A model of any figures, for a context.
pub struct Made<'a> {
    pub shape: &'a Shape,
    pub mix: &'a Mix,
    pub context: usize,
    pub kv: Format,
}

impl Made<'_> {
    /// Compiles it, with schedules that come before rigc's own.
    pub fn compile(&self, target: &Target, schedules: &[Row]) -> ir::Result<Artifact> {
        // Only text needs the vocabulary.
        let shape = Shape { vocabulary: String::new(), context: self.context, ..self.shape.clone() };
        let mut offset = 0;
        let infos: Vec<TensorInfo> = tensors(&shape, self.mix, false)
            .into_iter()
            .map(|t| {
                let (bytes, dims) = (t.bytes(), t.shape.iter().rev().map(|&d| d as u64).collect());
                let info = TensorInfo { name: t.name, dims, type_id: t.format.id, offset, bytes };
                offset += bytes;
                info
            })
            .collect();
        let none = ShardIdentity { length: offset, header: String::new(), samples: String::new() };
        let model = codegen::Model {
            metadata: &metadata(&shape, self.mix),
            tensors: &Tensors::new(&infos)?,
            identity: &ModelIdentity { shards: vec![none] },
            path: "",
        };
        let options = codegen::Options { target, context: Some(self.context), kv: self.kv, schedules };
        Ok(codegen::compile(model, options, &[])?.artifact)
    }
}

/// Bytes that an artifact's model takes on a device, about.
pub fn bytes(artifact: &Artifact) -> u64 {
    let m = &artifact.manifest;
    let weights = m.weights.iter().filter_map(|w| w.ty.weight_bytes());
    let caches = m.states.iter().map(State::own_bytes);
    let arena = m.entries.iter().flat_map(|e| &e.plan.needs).map(|n| n.arena_bytes);
    weights.chain(caches).chain(arena).fold(0, u64::saturating_add)
}
