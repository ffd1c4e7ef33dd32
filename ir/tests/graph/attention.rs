//! Attention: who sees whom, windows, caps, sinks.

use super::*;

/// Two query heads over one KV head: a uniform one, and one that sees only its best key; each token sees itself and what
/// precedes it.
#[test]
fn attention_is_causal_and_shares_heads() {
    let y = run_body(
        |g| {
            let q = param(g, 0, &[2, 2, 2]);
            let kv = |g: &mut Graph, n| g.leaf(Op::Param(n), ty(Elem::F16, &[1, 4, 2])).unwrap();
            let (k, v) = (kv(g, 1), kv(g, 2));
            let at = g.leaf(Op::Param(3), ty(Elem::I32, &[1])).unwrap();
            g.add(plain(1.0), &[q, k, v, at]).unwrap()
        },
        vec![
            vec![0.0, 0.0, 0.0, 1000.0, 0.0, 0.0, 0.0, 1000.0].into(),
            vec![0.0, 1.0, 0.0, 0.0, 0.0, 2.0, 9.0, 9.0].into(),
            vec![1.0, 2.0, 3.0, 6.0, 8.0, 1.0, 9.0, 9.0].into(),
            vec![1].into(),
        ],
        2,
    );
    assert_eq!(y.f32().unwrap(), [2.0, 4.0, 1.0, 2.0, 4.0, 3.0, 8.0, 1.0]);
}

/// What one query head gives at positions 2 and 3, over values 1, 2, 6, 16 and keys of which the last alone is not 0.
fn attend(query: f32, window: Option<usize>, cap: Option<F32>, sink: Option<f32>) -> Vec<f32> {
    let mut operands: Vec<Value> = vec![
        vec![query; 2].into(),
        vec![0.0, 0.0, 0.0, 1.0].into(),
        vec![1.0, 0.0, 2.0, 0.0, 6.0, 0.0, 16.0, 0.0].into(),
        vec![2].into(),
    ];
    operands.extend(sink.map(|sink| Value::from(vec![sink])));
    let y = run_body(
        |g| {
            let q = param(g, 0, &[2, 1, 1]);
            let kv = |g: &mut Graph, n, size| g.leaf(Op::Param(n), ty(Elem::F16, &[1, 4, size])).unwrap();
            let (k, v) = (kv(g, 1, 1), kv(g, 2, 2));
            let mut all = vec![q, k, v, g.leaf(Op::Param(3), ty(Elem::I32, &[1])).unwrap()];
            all.extend(sink.map(|_| param(g, 4, &[1])));
            g.add(Op::Attention { scale: F32(0.5), window, cap }, &all).unwrap()
        },
        operands,
        2,
    );
    // Values have two elements, of which the second is 0.
    let rows = y.f32().unwrap().as_chunks::<2>().0;
    assert!(rows.iter().all(|row| row[1] == 0.0), "{rows:?}");
    rows.iter().map(|row| row[0]).collect()
}

#[test]
fn attention_has_windows_caps_and_sinks() {
    assert_eq!(attend(0.0, None, None, None), [3.0, 6.25]);
    // Windows of itself, of the one before too, of all and of more than there are.
    let windows = [(1, [6.0, 16.0]), (2, [4.0, 11.0]), (3, [3.0, 8.0]), (4, [3.0, 6.25]), (usize::MAX, [3.0, 6.25])];
    for (window, expected) in windows {
        assert_eq!(attend(0.0, Some(window), None, None), expected, "{window}");
    }
    // A sink weighs as much as one key of score 0, nothing, or all.
    for (sink, expected) in [(0.0, [9.0 / 4.0, 5.0]), (f32::NEG_INFINITY, [3.0, 6.25]), (1e30, [0.0; 2])] {
        assert_eq!(attend(0.0, None, None, Some(sink)), expected, "{sink}");
    }
    assert_eq!(attend(0.0, Some(2), None, Some(0.0)), [8.0 / 3.0, 22.0 / 3.0]);
    // The score 0.5 * 8 of the last key, capped to 2 tanh(2) before its exponential.
    let weight = (2.0 * 2f64.tanh()).exp();
    let expected = ((9.0 + 16.0 * weight) / (3.0 + weight)) as f32;
    assert_eq!(attend(8.0, None, Some(F32(2.0)), None), [3.0, expected]);
    // A sink is not capped.
    let expected = ((9.0 + 16.0 * weight) / (3.0 + weight + 5f64.exp())) as f32;
    assert_eq!(attend(8.0, None, Some(F32(2.0)), Some(5.0))[1], expected);
}
