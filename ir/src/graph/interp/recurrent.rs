//! Ops over recurrent states. Formulas stand in the doc of [`Op`](super::Op); each state is f32 after every token, so that
//! results do not depend on how tokens are grouped into steps.

use super::super::HeadMap;
use super::{Value, mismatch};
use crate::Result;
use crate::tensor::TensorType;
use std::sync::Arc;

/// Exactly `N` operands.
fn take<const N: usize>(operands: Vec<Value>) -> Result<[Value; N]> {
    operands.try_into().map_err(|_| mismatch("another number of operands"))
}

/// The floats of a value, to be changed in place.
fn owned(value: Value) -> Result<Arc<Vec<f32>>> {
    if let Value::F32(x) = value { Ok(x) } else { Err(mismatch("floats")) }
}

/// state \[c - 1, n\], x \[T, n\], w \[n, c\].
pub(super) fn short_conv(operands: Vec<Value>, types: &[&TensorType]) -> Result<Vec<Value>> {
    let [state, x, w] = take(operands)?;
    let (x, w) = (x.f32()?, w.f32()?);
    let (n, taps) = (types[2].shape[0], types[2].shape[1]);
    let mut state = owned(state)?;
    let mut y = Vec::with_capacity(x.len());
    let rows = Arc::make_mut(&mut state);
    for token in x.chunks_exact(n) {
        for (i, (w, &now)) in w.chunks_exact(taps).zip(token).enumerate() {
            let before = rows.iter().skip(i).step_by(n).chain([&now]);
            y.push(before.zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum::<f64>() as f32);
        }
        rows.rotate_left(n);
        let last = rows.len() - n;
        rows[last..].copy_from_slice(token);
    }
    Ok(vec![y.into(), Value::F32(state)])
}

/// state \[V, S, s\], q and k \[T, K, S\], v \[T, V, s\], g and beta \[T, V\].
pub(super) fn delta_rule(operands: Vec<Value>, types: &[&TensorType], heads: HeadMap) -> Result<Vec<Value>> {
    let [state, q, k, v, g, beta] = take(operands)?;
    let [q, k, v, g, beta] = [q.f32()?, k.f32()?, v.f32()?, g.f32()?, beta.f32()?];
    let &[count, keys, values] = types[0].shape.as_slice() else { return Err(mismatch("a state of heads")) };
    let shared = types[1].shape[1];
    let mut state = owned(state)?;
    let matrices = Arc::make_mut(&mut state);
    let mut o = Vec::with_capacity(v.len());
    for t in 0..v.len() / (count * values) {
        for (j, matrix) in matrices.chunks_exact_mut(keys * values).enumerate() {
            let head = match heads {
                HeadMap::Tiled => j % shared,
                HeadMap::Grouped => j / (count / shared),
            };
            let of_keys = (t * shared + head) * keys;
            let (q, k) = (&q[of_keys..][..keys], &k[of_keys..][..keys]);
            let at = t * count + j;
            let (decay, beta) = (f64::from(g[at]).exp(), f64::from(beta[at]));
            for (c, &v) in v[at * values..][..values].iter().enumerate() {
                let known: f64 = (0..keys).map(|r| decay * f64::from(matrix[r * values + c]) * f64::from(k[r])).sum();
                let update = beta * (f64::from(v) - known);
                let mut out = 0.0;
                for r in 0..keys {
                    let m = &mut matrix[r * values + c];
                    let new = decay * f64::from(*m) + f64::from(k[r]) * update;
                    *m = new as f32;
                    out += new * f64::from(q[r]);
                }
                o.push(out as f32);
            }
        }
    }
    Ok(vec![o.into(), Value::F32(state)])
}
