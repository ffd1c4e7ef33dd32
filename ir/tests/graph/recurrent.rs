//! Recurrent states: short convolutions and the gated delta rule.

use super::*;

/// A recurrent step of a body in one piece or token by token: outputs and state, each token's bits the same.
fn steps(op: &Op, state: TensorType, x: &[(TensorType, Vec<f32>)], tokens: usize) -> [Vec<f32>; 2] {
    let mut body = Graph::new();
    let mut inputs = vec![body.leaf(Op::Param(0), state.clone()).unwrap()];
    for (i, (ty, _)) in x.iter().enumerate() {
        inputs.push(body.leaf(Op::Param(i as u32 + 1), ty.clone()).unwrap());
    }
    let node = body.push(op.clone(), &inputs).unwrap();
    body.output("out", node.into()).unwrap();
    body.output("state", node.at(1)).unwrap();
    let (all, mut out) = (x[0].0.shape[0], Vec::new());
    let mut held: Value = vec![0.0; state.elements()].into();
    for first in (0..all).step_by(tokens) {
        let now = first..(first + tokens).min(all);
        let mut operands = vec![held];
        for (ty, values) in x {
            let each = ty.elements() / ty.shape[0];
            let of_step = if ty.shape[0] == all { &values[now.start * each..now.end * each] } else { &values[..] };
            operands.push(of_step.to_vec().into());
        }
        let results: [Value; 2] = interp::run_body(&body, operands, now.len()).unwrap().try_into().unwrap();
        out.extend(results[0].f32().unwrap());
        held = results[1].clone();
    }
    [out, held.f32().unwrap().to_vec()]
}

#[test]
fn short_convolutions_go_on_from_step_to_step() {
    // Two columns, three taps; a column of ones and one of numbers.
    let x = (ty(Elem::F32, &[4, 2]), vec![1.0, 2.0, 1.0, 3.0, 1.0, 5.0, 1.0, 7.0]);
    let w = (ty(Elem::F32, &[2, 3]), vec![100.0, 10.0, 1.0, 0.5, 0.0, -1.0]);
    let expected = [1.0, -2.0, 11.0, -3.0, 111.0, -4.0, 111.0, -5.5];
    for tokens in 1..=4 {
        let [y, state] = steps(&Op::ShortConv, ty(Elem::F32, &[2, 2]), &[x.clone(), w.clone()], tokens);
        assert_eq!(y, expected, "{tokens} tokens a step");
        assert_eq!(state, [1.0, 5.0, 1.0, 7.0]);
    }
}

/// By the definition over matrices, in f64, and for both maps of heads.
#[test]
fn the_delta_rule_is_its_formula() {
    let [tokens, count, shared, keys, values] = [5, 6, 2, 3, 4];
    let mut next = 1u64;
    let mut random = |n: usize, low: f32, high: f32| -> Vec<f32> {
        let mut one = || {
            next = next.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            low + (high - low) * ((next >> 40) as f32 / (1 << 24) as f32)
        };
        (0..n).map(|_| one()).collect()
    };
    let q = random(tokens * shared * keys, -1.0, 1.0);
    let k = random(tokens * shared * keys, -0.5, 0.5);
    let v = random(tokens * count * values, -2.0, 2.0);
    let (g, beta) = (random(tokens * count, -1.0, 0.0), random(tokens * count, 0.0, 1.0));
    for (heads, of) in [(HeadMap::Tiled, [0, 1, 0, 1, 0, 1]), (HeadMap::Grouped, [0, 0, 0, 1, 1, 1])] {
        let mut expected = vec![0.0; tokens * count * values];
        let mut matrices = vec![0.0; count * keys * values];
        for t in 0..tokens {
            for j in 0..count {
                let key = |x: &[f32], r: usize| f64::from(x[(t * shared + of[j]) * keys + r]);
                let m: &mut [f64] = &mut matrices[j * keys * values..][..keys * values];
                m.iter_mut().for_each(|m| *m *= f64::from(g[t * count + j]).exp());
                for c in 0..values {
                    let before: f64 = (0..keys).map(|r| m[r * values + c] * key(&k, r)).sum();
                    let u = f64::from(beta[t * count + j]) * (f64::from(v[(t * count + j) * values + c]) - before);
                    (0..keys).for_each(|r| m[r * values + c] += key(&k, r) * u);
                    expected[(t * count + j) * values + c] =
                        (0..keys).map(|r| m[r * values + c] * key(&q, r)).sum::<f64>();
                }
            }
        }
        let of_heads = |n: usize, h: usize, x: &[f32]| (ty(Elem::F32, &[tokens, n, h]), x.to_vec());
        let rows = |x: &[f32]| (ty(Elem::F32, &[tokens, count]), x.to_vec());
        let x = [
            of_heads(shared, keys, &q),
            of_heads(shared, keys, &k),
            of_heads(count, values, &v),
            rows(&g),
            rows(&beta),
        ];
        let op = Op::DeltaRule { heads };
        let state = ty(Elem::F32, &[count, keys, values]);
        let [whole, left] = steps(&op, state.clone(), &x, tokens);
        let near = |a: &[f32], b: &[f64]| a.iter().zip(b).all(|(&a, b)| (f64::from(a) - b).abs() < 1e-6);
        assert!(near(&whole, &expected) && near(&left, &matrices), "{heads:?}");
        for tokens in [1, 2, 3] {
            assert_eq!(steps(&op, state.clone(), &x, tokens), [whole.clone(), left.clone()], "{tokens} tokens a step");
        }
    }
}
