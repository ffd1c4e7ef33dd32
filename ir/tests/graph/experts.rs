//! Routes and products of experts.

use super::*;

/// Weights and numbers that a route gives for a row of logits.
fn routed(op: Op, logits: &[f32], bias: Option<&[f32]>) -> (Vec<f32>, Vec<f32>) {
    let Op::Route { k, .. } = op else { panic!("{op:?}") };
    let n = logits.len();
    let operands = [Some(logits), bias].into_iter().flatten().map(|x| x.to_vec().into()).collect();
    let routing = run_body(
        |g| {
            let mut operands = vec![param(g, 0, &[1, n])];
            operands.extend(bias.map(|_| param(g, 1, &[n])));
            g.add(op, &operands).unwrap()
        },
        operands,
        1,
    );
    let (weights, ids) = routing.f32().unwrap().split_at(k);
    (weights.to_vec(), ids.to_vec())
}

fn softmax(x: &[f64]) -> Vec<f32> {
    let sum: f64 = x.iter().map(|x| x.exp()).sum();
    x.iter().map(|x| (x.exp() / sum) as f32).collect()
}

#[test]
fn experts_are_chosen_by_score() {
    let with = |gating, normalise, scale, k| Op::Route { k, gating, normalise, scale: F32(scale), groups: None };
    let x = [0.0, 2.0, -1.0, 2.0, 1.0];
    let all = softmax(&[0.0, 2.0, -1.0, 2.0, 1.0]);
    assert_eq!(routed(route(3), &x, None), (vec![all[1], all[3], all[4]], vec![1.0, 3.0, 4.0]));
    assert_eq!(routed(route(5), &x, None).1, [1.0, 3.0, 4.0, 0.0, 2.0]);
    // A bias chooses, but does not weigh; of the chosen, the best score comes first.
    let bias = [0.0, 0.0, 9.0, 0.0, 1.0];
    assert_eq!(routed(route(2), &x, Some(&bias)), (vec![all[2], all[4]], vec![2.0, 4.0]));

    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let (weights, ids) = routed(with(Gating::Sigmoid, true, 2.5, 2), &x, None);
    assert_eq!((weights, ids), (vec![1.25, 1.25], vec![1.0, 3.0]));
    let (weights, ids) = routed(with(Gating::Sigmoid, false, 1.0, 2), &x, Some(&[1.0, 0.0, 0.5, -1.0, 0.0]));
    assert_eq!((weights, ids), (vec![0.5, sigmoid(2.0) as f32], vec![0.0, 1.0]));
    let (weights, ids) = routed(with(Gating::SoftmaxOfChosen, false, 1.0, 2), &x, None);
    assert_eq!((weights, ids), (vec![0.5, 0.5], vec![1.0, 3.0]));
    let (weights, ids) = routed(with(Gating::SoftmaxOfChosen, false, 1.0, 2), &x, Some(&[9.0, 0.0, 0.0, 0.0, 0.0]));
    assert_eq!((weights, ids), (softmax(&[0.0, 2.0]), vec![0.0, 1.0]));

    // Small sums do not blow weights up.
    let (weights, _) = routed(with(Gating::Sigmoid, true, 1.0, 2), &[-20.0, -30.0, -40.0], None);
    assert_eq!(weights, [(sigmoid(-20.0) * 16384.0) as f32, (sigmoid(-30.0) * 16384.0) as f32]);
    // One of one.
    assert_eq!(routed(with(Gating::Softmax, true, 1.0, 1), &[-3.0], None), (vec![1.0], vec![0.0]));
}

#[test]
fn experts_are_chosen_from_the_best_groups() {
    // Sums of the best two: 5, 6, 5.5; the best expert is in none of the two groups.
    let x = [4.5, 0.5, 0.0, 3.0, 3.0, -9.0, 2.5, 3.0, 1.0];
    let sigmoids = |op| routed(op, &[0.0; 9], Some(&x)).1;
    assert_eq!(sigmoids(grouped(route(3), 3, 2)), [3.0, 4.0, 7.0]);
    assert_eq!(sigmoids(grouped(route(4), 3, 3)), [0.0, 3.0, 4.0, 7.0]);
    // Equal groups by their number; groups of one have one score.
    assert_eq!(routed(grouped(route(2), 2, 1), &[0.0; 4], None).1, [0.0, 1.0]);
    assert_eq!(routed(grouped(route(2), 4, 2), &[0.0, 3.0, 1.0, 2.0], None).1, [1.0, 3.0]);
}

#[test]
fn routes_of_what_is_not_finite_know_their_experts() {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let biased = |gating| (Op::Route { k: 2, gating, normalise: true, scale: F32(1.0), groups: None }, [0.0; 4]);
    for row in [[nan; 4], [inf; 4], [-inf; 4], [1.0, nan, 2.0, nan], [1.0, inf, nan, -inf], [-inf, -inf, -inf, 0.0]] {
        for gating in [Gating::Softmax, Gating::Sigmoid, Gating::SoftmaxOfChosen] {
            let (op, bias) = biased(gating);
            for bias in [None, Some(bias.as_slice())] {
                let (_, ids) = routed(op.clone(), &row, bias);
                assert!(
                    ids[0] != ids[1] && ids.iter().all(|id| (0.0..4.0).contains(id)),
                    "{row:?} {gating:?}: {ids:?}"
                );
            }
        }
    }
    let (op, bias) = biased(Gating::Softmax);
    let (weights, ids) = routed(op.clone(), &[1.0, nan, 2.0, inf], None);
    assert!(weights.iter().all(|w| w.is_nan()) && ids == [1.0, 3.0], "{weights:?} {ids:?}");
    let (_, ids) = routed(op.clone(), &[-inf, f32::MIN, -inf, 0.0], None);
    assert_eq!(ids, [3.0, 0.0]);
    // Of groups too.
    let (weights, ids) = routed(grouped(op, 2, 1), &[-inf, -inf, -inf, -inf], Some(&bias));
    assert!(weights.iter().all(|w| w.is_nan()) && ids == [0.0, 1.0], "{weights:?} {ids:?}");
}

#[test]
fn experts_multiply_the_rows_of_their_tokens() {
    let routing = vec![0.5, 0.25, 2.0, 0.0, 1.0, -1.0, 1.0, 2.0];
    // Expert e is (e + 1) times the identity, and a row of the second component.
    let w: Vec<f32> = (1..=3).flat_map(|e| [e as f32, 0.0, 0.0, e as f32, 0.0, 1.0]).collect();
    let run = |x: Vec<f32>, shape: &[usize], table: &[usize]| {
        let body = |g: &mut Graph| {
            let (w, x, routing) = (param(g, 0, &[3, 3, 2]), param(g, 1, shape), param(g, 2, &[2, 4]));
            let y = g.add(Op::ExpertMatMul, &[w, x, routing]).unwrap();
            let table = param(g, 3, table);
            let rows = g.add(Op::ExpertRows, &[table, routing]).unwrap();
            let y = if g.ty(rows) == g.ty(y) { g.add(Op::Add, &[y, rows]).unwrap() } else { y };
            let sum = g.add(Op::ExpertSum, &[y, routing]).unwrap();
            g.output("rows", rows).unwrap();
            g.output("sum", sum).unwrap();
            y
        };
        let table: Vec<f32> = (0..table.iter().product()).map(|i| i as f32 * 100.0).collect();
        let mut graph = Graph::new();
        let out = body(&mut graph);
        graph.output("out", out).unwrap();
        let operands = vec![w.clone().into(), x.into(), routing.clone().into(), table.into()];
        let all = interp::run_body(&graph, operands, 2).unwrap();
        [0, 1, 2].map(|i| all[i].f32().unwrap().to_vec())
    };
    // A row for each token.
    let [rows, sum, y] = run(vec![1.0, 2.0, 3.0, 4.0], &[2, 2], &[3]);
    assert_eq!(y, [3.0, 6.0, 2.0, 1.0, 2.0, 2.0, 6.0, 8.0, 4.0, 9.0, 12.0, 4.0]);
    assert_eq!(rows, [200.0, 0.0, 100.0, 200.0]);
    assert_eq!(sum, [1.75, 3.5, 1.5, -3.0, -4.0, 0.0]);
    // One for each expert of a token, and biases.
    let [_, _, y] = run(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], &[2, 2, 2], &[3, 3]);
    assert_eq!(y, [603.0, 706.0, 802.0, 3.0, 104.0, 204.0, 310.0, 412.0, 506.0, 621.0, 724.0, 808.0]);
    let body = |g: &mut Graph| {
        let (table, routing) = (param(g, 0, &[3]), param(g, 1, &[1, 2]));
        g.add(Op::ExpertRows, &[table, routing]).unwrap()
    };
    let mut graph = Graph::new();
    let out = body(&mut graph);
    graph.output("out", out).unwrap();
    for unknown in [3.0, -1.0, f32::NAN] {
        let operands = vec![vec![0.0; 3].into(), vec![1.0, unknown].into()];
        assert!(interp::run_body(&graph, operands, 1).unwrap_err().to_string().contains("expert"));
    }
}
