//! What a kernel reads, writes and multiplies, by its body: for predictions of its time and for prints.
//!
//! Invariant: figures are those of one launch for as many tokens as the entry point takes, and count each byte once,
//! however many workers read it.

use crate::Result;
use crate::graph::Op;
use crate::role::Role;
use crate::spec::KernelSpec;
use crate::tensor::{Elem, TensorType, kv_row_bytes};
use serde::{Deserialize, Serialize};

/// What one launch of a kernel moves and computes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Work {
    /// Weights that a row of activations is multiplied by, of experts those of as many as a token uses.
    pub products: u64,
    /// Bytes of weights that are read, of an embedding table the rows of the tokens, of experts those of as many as the tokens
    /// can use; and of those that are written.
    pub weight_bytes: u64,
    /// Bytes of activations, read and written.
    pub activation_bytes: u64,
    /// Bytes that are appended to KV caches.
    pub appended_bytes: u64,
    /// Bytes of KV caches that are read for each position that is attended to.
    pub attended_bytes: u64,
    /// Most positions that a token attends to; 0: all up to itself.
    pub window: u64,
    /// Bytes of recurrent states, read and written.
    pub state_bytes: u64,
}

impl Work {
    /// The work of a spec.
    ///
    /// # Errors
    /// [`crate::Error::Verify`] for a body whose parameters are not numbered, or one that has no single [`Role`].
    pub fn of(spec: &KernelSpec) -> Result<Work> {
        let (body, tokens) = (&spec.body, spec.tokens as u64);
        let mut work = Work::default();
        let floats = |ty: &TensorType| ty.elements() as u64 * 4;
        let position = |ty: &TensorType| (ty.shape[0] * kv_row_bytes(ty.elem, ty.columns()).unwrap_or(0)) as u64;
        for (n, ty) in body.params()?.into_iter().enumerate() {
            match Role::of(body, n as u32)? {
                Role::Matrix => {
                    work.products += ty.elements() as u64;
                    work.weight_bytes += ty.weight_bytes().unwrap_or(0);
                }
                Role::Table => {
                    if let Elem::Ggml(format) = ty.elem {
                        work.weight_bytes += format.bytes_of(ty.columns() as u64) * tokens;
                    }
                }
                Role::Experts(used) => {
                    let (experts, bytes) = (ty.shape[0] as u64, ty.weight_bytes().unwrap_or(0));
                    work.products += ty.elements() as u64 / experts * used as u64;
                    work.weight_bytes += bytes / experts * experts.min(used as u64 * tokens);
                }
                Role::ExpertTable(used) => work.weight_bytes += floats(ty) / ty.shape[0] as u64 * used as u64 * tokens,
                Role::Repacked => work.weight_bytes += ty.weight_bytes().unwrap_or(0),
                Role::Appended => work.appended_bytes += position(ty) * tokens,
                Role::Attended => work.attended_bytes += position(ty),
                Role::Updated => work.state_bytes += 2 * floats(ty),
                Role::Taps => work.weight_bytes += floats(ty),
                Role::Position => {}
                // Tokens.
                Role::Plain if ty.elem == Elem::I32 => {}
                Role::Plain if ty.shape.len() == 1 => work.weight_bytes += floats(ty),
                Role::Plain => work.activation_bytes += floats(ty),
            }
        }
        let window = |op: &Op| if let Op::Attention { window, .. } = op { *window } else { None };
        work.window = body.nodes().iter().find_map(|n| window(&n.op)).unwrap_or(0) as u64;
        for (_, value) in body.outputs() {
            let ty = body.ty(*value);
            match Role::of_result(body, *value) {
                // Counted as a parameter.
                Role::Appended | Role::Updated => {}
                Role::Repacked => work.weight_bytes += ty.weight_bytes().unwrap_or(0),
                _ => work.activation_bytes += floats(ty),
            }
        }
        Ok(work)
    }

    /// Bytes that a launch at `position` moves.
    pub fn bytes(&self, position: u64) -> u64 {
        let most = if self.window > 0 { self.window } else { u64::MAX };
        let attended = self.attended_bytes.saturating_mul(position.saturating_add(1).min(most));
        [self.activation_bytes, self.appended_bytes, self.state_bytes, attended]
            .iter()
            .fold(self.weight_bytes, |n, b| n.saturating_add(*b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::ALL;

    fn work(body: &str, tokens: usize) -> Work {
        Work::of(&KernelSpec::new("op", body.parse().unwrap(), tokens, &ALL[0])).unwrap()
    }

    #[test]
    fn of_a_product() {
        let w = work(
            "%0 = param 0 : q8_0[48,64]@rows32\n%1 = param 1 : f32[1,64]\n%2 = param 2 : f32[64]\n\
             %3 = rms_norm %1, %2 eps=1e-5 : f32[1,64]\n%4 = quantize %3 : q8[1,64]\n\
             %5 = matmul %0, %4 : f32[1,48]\noutput \"out\" %5\n",
            1,
        );
        // Tiles of 32 rows are full.
        assert_eq!((w.products, w.weight_bytes), (48 * 64, 64 * 2 * 34 + 64 * 4));
        assert_eq!((w.activation_bytes, w.bytes(0)), (4 * (64 + 48), w.weight_bytes + 4 * (64 + 48)));
    }

    #[test]
    fn of_a_table() {
        let body = "%0 = param 0 : q8_0[100,64]@rows32\n%1 = param 1 : i32[2]\n%2 = embed %0, %1 : f32[2,64]\noutput \"out\" %2\n";
        let expected = Work { weight_bytes: 2 * 2 * 34, activation_bytes: 2 * 64 * 4, ..Work::default() };
        assert_eq!(work(body, 2), expected);
    }

    #[test]
    fn of_a_repack() {
        let w = work("%0 = param 0 : q8_0[33,64]\n%1 = repack %0 : q8_0[33,64]@rows32\noutput \"out\" %1\n", 1);
        // Read as in the file, written in full tiles.
        assert_eq!(w, Work { weight_bytes: (33 + 64) * 2 * 34, ..Work::default() });
    }

    #[test]
    fn of_experts() {
        let body = |tokens: usize| {
            format!(
                "%0 = param 0 : q8_0[6,40,64]@rows16\n%1 = param 1 : f32[{tokens},64]\n%2 = quantize %1 : q8[{tokens},64]\n\
                 %3 = param 2 : f32[{tokens},4]\n%4 = expert_matmul %0, %2, %3 : f32[{tokens},2,40]\n\
                 %5 = param 3 : f32[6,40]\n%6 = expert_rows %5, %3 : f32[{tokens},2,40]\n\
                 %7 = add %4, %6 : f32[{tokens},2,40]\noutput \"out\" %7\n"
            )
        };
        // Tiles of 16 rows are full; two tokens can use four experts, five no more than six.
        for (tokens, experts) in [(1, 2), (2, 4), (5, 6)] {
            let w = work(&body(tokens as usize), tokens as usize);
            assert_eq!(w.products, 2 * 40 * 64);
            assert_eq!(w.weight_bytes, experts * 48 * 2 * 34 + tokens * 2 * 40 * 4);
            assert_eq!(w.activation_bytes, tokens * 4 * (64 + 4 + 2 * 40));
        }
    }

    #[test]
    fn of_a_recurrent_state() {
        let w = work(
            "%0 = param 0 : f32[3,16]\n%1 = param 1 : f32[2,16]\n%2 = param 2 : f32[16,4]\n\
             %3 = short_conv %0, %1, %2 : f32[2,16], f32[3,16]\noutput \"out\" %3\noutput \"state\" %3.1\n",
            2,
        );
        let expected =
            Work { weight_bytes: 4 * 64, activation_bytes: 2 * 4 * 32, state_bytes: 2 * 4 * 48, ..Work::default() };
        assert_eq!(w, expected);
        assert_eq!(w.bytes(7), 4 * 64 + 2 * 4 * 32 + 2 * 4 * 48);
    }

    #[test]
    fn of_attention() {
        let w = work(
            "%0 = param 0 : f32[1,4,16]\n%1 = param 1 : f16[2,32,16]\n%2 = param 2 : f16[2,32,16]\n\
             %3 = param 3 : i32[1]\n%4 = attention %0, %1, %2, %3 scale=0.25 : f32[1,64]\noutput \"out\" %4\n",
            1,
        );
        assert_eq!((w.products, w.weight_bytes, w.appended_bytes), (0, 0, 0));
        assert_eq!((w.attended_bytes, w.bytes(9)), (2 * 2 * 32, 10 * 128 + 2 * 64 * 4));
    }

    #[test]
    fn of_a_window_with_sinks() {
        let w = work(
            "%0 = param 0 : f32[1,4,16]\n%1 = param 1 : f16[2,32,16]\n%2 = param 2 : f16[2,32,16]\n\
             %3 = param 3 : i32[1]\n%4 = param 4 : f32[4]\n\
             %5 = attention %0, %1, %2, %3, %4 scale=0.25 window=7 : f32[1,64]\noutput \"out\" %5\n",
            1,
        );
        let others = 4 * 4 + 2 * 64 * 4;
        assert_eq!([5, 6, 7, 31].map(|p| w.bytes(p)), [6, 7, 7, 7].map(|seen| seen * 128 + others));
    }
}
