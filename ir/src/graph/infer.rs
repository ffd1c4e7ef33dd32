//! The type rule of every op. Invariant: what these rules accept, every later stage handles without checking shapes again.

use super::{Angles, F32, Gating, Groups, Input, MOST_TOP, Op};
use crate::state::StateKind;
use crate::tensor::{Elem, KvShape, Layout, TensorType, kv_shape};
use std::ops::{Range, RangeInclusive};

/// The most elements of a tensor; keeps every size computed from a type within 64 bits.
const MAX_ELEMENTS: usize = 1 << 40;
/// Up to here a float holds every number of an element.
const MAX_NUMBERED: usize = 1 << 24;

/// Refuses with the rule that is broken.
fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

/// Dimensions that are positive and whose product is at most [`MAX_ELEMENTS`].
pub(crate) fn check_shape(shape: &[usize]) -> Result<(), String> {
    ensure((1..=4).contains(&shape.len()), || format!("{} dimensions, 1 to 4 are allowed", shape.len()))?;
    let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d).filter(|&n| n > 0 && n <= MAX_ELEMENTS));
    ensure(elements.is_some(), || format!("{shape:?} has no elements or more than {MAX_ELEMENTS}"))
}

/// Whether a leaf op can be of type `ty`.
pub(super) fn check_leaf(op: &Op, ty: &TensorType) -> Result<(), String> {
    check_shape(&ty.shape)?;
    let rows = |what: &str| ensure(ty.layout == Layout::Rows, || format!("{what} cannot be laid out as {ty}"));
    match op {
        Op::Input(Input::Tokens) => {
            rows("tokens")?;
            ensure(ty.elem == Elem::I32 && ty.shape.len() == 1, || format!("tokens are i32[T], not {ty}"))
        }
        Op::Input(Input::Position) => {
            rows("position")?;
            ensure(ty.elem == Elem::I32 && ty.shape == [1], || format!("position is i32[1], not {ty}"))
        }
        Op::State(_) => check_state(ty),
        Op::Weight(weight) => {
            let sound = |rows: &Range<u32>| rows.len() == ty.shape[0] && ty.shape.len() < 3;
            ensure(weight.rows.as_ref().is_none_or(sound), || format!("{weight} is not {ty}"))?;
            check_weight(ty)
        }
        Op::Param(_) => match ty.elem {
            Elem::Ggml(_) if ty.layout.is_kv() => cache(ty).map(drop),
            Elem::Ggml(_) if ty.layout != Layout::Rows => check_weight(ty),
            _ => rows("a param"),
        },
        _ => Err("it is no leaf".into()),
    }
}

/// A weight: one or two dimensions, or the matrices of experts; rows of whole blocks.
fn check_weight(ty: &TensorType) -> Result<(), String> {
    let Elem::Ggml(format) = ty.elem else { return Err(format!("a weight is of a GGML format, not {ty}")) };
    ensure(ty.shape.len() <= 3, || format!("a weight has one to three dimensions, not {ty}"))?;
    ensure(!ty.layout.is_kv(), || format!("a weight cannot be laid out as {ty}"))?;
    ensure(ty.layout == Layout::Rows || ty.shape.len() >= 2, || format!("{ty} has no rows to interleave"))?;
    let block = format.block as usize * ty.layout.span(format);
    ensure(ty.columns().is_multiple_of(block), || {
        format!("rows of {ty} are not a multiple of the block of {block} elements")
    })
}

/// A state of any kind.
fn check_state(ty: &TensorType) -> Result<(), String> {
    ensure(StateKind::of(ty).is_some(), || format!("a state is {}, not {ty}", StateKind::forms()))
}

/// A KV cache.
fn cache(ty: &TensorType) -> Result<KvShape, String> {
    let kinds = [StateKind::Rows, StateKind::Ring];
    let shape = kv_shape(ty).filter(|_| StateKind::of(ty).is_some_and(|kind| kinds.contains(&kind)));
    shape.ok_or_else(|| format!("a KV cache is {}, not {ty}", kinds.map(StateKind::form).join(" or ")))
}

/// A recurrent state of this shape.
fn recurrent(ty: &TensorType, shape: &[usize]) -> Result<(), String> {
    ensure(StateKind::of(ty) == Some(StateKind::Recurrent) && ty.shape == shape, || {
        format!("the state is f32{shape:?}, not {ty}")
    })
}

/// Types of the results of `op` applied to operands of these types.
///
/// # Errors
/// The rule that is broken, with the figures.
pub fn infer(op: &Op, operands: &[&TensorType]) -> Result<Vec<TensorType>, String> {
    let results = results(op, operands)?;
    results.iter().try_for_each(|ty| check_shape(&ty.shape))?;
    Ok(results)
}

fn results(op: &Op, operands: &[&TensorType]) -> Result<Vec<TensorType>, String> {
    let one = |shape: &[usize]| Ok(vec![TensorType::new(Elem::F32, shape)]);
    match op {
        Op::Input(_) | Op::Weight(_) | Op::State(_) | Op::Param(_) => Err("a leaf is typed by whoever adds it".into()),
        Op::Embed => {
            let [table, tokens] = take(operands)?;
            matrix("the table", table)?;
            ensure(tokens.elem == Elem::I32 && tokens.shape.len() == 1, || format!("tokens are i32[T], not {tokens}"))?;
            one(&[tokens.shape[0], table.columns()])
        }
        Op::RmsNorm { eps } => {
            let (x, weights) = operands.split_first().ok_or("x is missing")?;
            norm(x, eps.0, weights, 0..=1)?;
            one(&x.shape)
        }
        Op::LayerNorm { eps } => {
            let (x, weights) = operands.split_first().ok_or("x is missing")?;
            norm(x, eps.0, weights, 1..=2)?;
            one(&x.shape)
        }
        Op::MatMul => {
            let [w, x] = take(operands)?;
            matrix("the weight", w)?;
            ensure(is_activation(x) && x.shape.len() == 2, || format!("x is f32[T,C] or q8[T,C], not {x}"))?;
            ensure(x.columns() == w.columns(), || format!("the columns of the weight {w} and of x {x} differ"))?;
            one(&[x.rows(), w.rows()])
        }
        Op::HeadMatMul => {
            let [w, x] = take(operands)?;
            ensure(w.shape.len() == 3, || format!("the weight has three dimensions, not {w}"))?;
            check_weight(w)?;
            let (heads, columns) = (w.shape[0], w.columns());
            let fits = x.shape.len() == 3 && x.shape[1..] == [heads, columns];
            ensure(is_activation(x) && fits, || format!("x is f32 or q8 of {heads} heads of {columns}, not {x}"))?;
            one(&[x.shape[0], heads * w.shape[1]])
        }
        Op::Quantize => {
            let [x] = take(operands)?;
            float("x", x)?;
            ensure(x.shape.len() >= 2 && x.columns().is_multiple_of(crate::abi::Q8_BLOCK), || {
                format!("x is f32[T,..,C], C a multiple of {}, not {x}", crate::abi::Q8_BLOCK)
            })?;
            Ok(vec![TensorType::new(Elem::Q8, x.shape.clone())])
        }
        Op::Add | Op::Mul => {
            let [a, b] = take(operands)?;
            float("a", a)?;
            if a != b && !is_per_token(a, b) && b.shape != [1] {
                vector("b", b, a.columns())?;
            }
            one(&a.shape)
        }
        Op::Map(function) => {
            let [x] = take(operands)?;
            float("x", x)?;
            function.check()?;
            one(&x.shape)
        }
        Op::Reshape(shape) => {
            let [x] = take(operands)?;
            float("x", x)?;
            check_shape(shape)?;
            ensure(shape.first() == x.shape.first() && shape.iter().product::<usize>() == x.elements(), || {
                format!("{x} cannot become {shape:?}: the first dimension and the number of elements stay")
            })?;
            one(shape)
        }
        Op::Slice { first, count, every } => {
            let [x] = take(operands)?;
            float("x", x)?;
            let end = first.checked_add(*count);
            ensure(x.shape.len() > 1 && *count > 0 && end.is_some_and(|end| end <= *every), || {
                format!("{every} columns of {x} have no {count} from {first} on")
            })?;
            ensure(x.columns().is_multiple_of(*every), || format!("the columns of {x} are no multiple of {every}"))?;
            let mut shape = x.shape.clone();
            shape.pop();
            shape.push(x.columns() / every * count);
            one(&shape)
        }
        Op::Concat => {
            let [a, b] = take(operands)?;
            heads("a", a)?;
            heads("b", b)?;
            ensure(b.shape[0] == a.shape[0] && (b.shape[1] == a.shape[1] || b.shape[1] == 1), || {
                format!("b is f32[T,H,n] with the tokens and heads of a {a}, or one head, not {b}")
            })?;
            one(&[a.shape[0], a.shape[1], a.shape[2] + b.shape[2]])
        }
        Op::RopeAngles(angles) => {
            let Angles { tokens, dim, theta, divisors, magnitude } = &**angles;
            position(operands.first().copied())?;
            ensure(operands.len() <= 2, || format!("{} operands, at most 2 are allowed", operands.len()))?;
            ensure(*dim > 0 && dim.is_multiple_of(2), || format!("dim {dim} is not even and positive"))?;
            ensure(theta.0.is_finite() && theta.0 > 0.0, || format!("theta is {}", theta.0))?;
            if let Some(factors) = operands.get(1) {
                vector("factors", factors, dim / 2)?;
            }
            ensure(divisors.is_empty() || divisors.len() == dim / 2, || format!("{} divisors", divisors.len()))?;
            ensure(divisors.iter().all(|d| d.0.is_finite() && d.0 > 0.0), || "a divisor is not positive".into())?;
            ensure(magnitude.0.is_finite() && magnitude.0 > 0.0, || format!("the magnitude is {}", magnitude.0))?;
            one(&[*tokens, *dim])
        }
        Op::PositionScale { tokens, length, slope } => {
            let [at] = take(operands)?;
            position(Some(at))?;
            ensure((1..=1 << 30).contains(length), || format!("the length is {length}"))?;
            ensure(slope.0.is_finite(), || format!("the slope is {}", slope.0))?;
            one(&[*tokens, 1])
        }
        Op::Rope { .. } => {
            let [x, angles] = take(operands)?;
            heads("x", x)?;
            float("angles", angles)?;
            ensure(angles.shape.len() == 2 && angles.shape[0] == x.shape[0] && angles.shape[1] <= x.shape[2], || {
                format!("angles {angles} do not fit x {x}: f32[T,dim], dim at most the head size")
            })?;
            ensure(angles.shape[1].is_multiple_of(2), || format!("angles {angles} have an odd dim"))?;
            one(&x.shape)
        }
        Op::KvAppend => {
            let [state, x, at] = take(operands)?;
            let shape = cache(state)?;
            heads("x", x)?;
            position(Some(at))?;
            ensure([shape.heads, shape.head] == x.shape[1..], || {
                format!("heads of x {x} do not fit the KV cache {state}")
            })?;
            ensure(x.shape[0] <= shape.positions, || format!("{} tokens do not fit the KV cache {state}", x.shape[0]))?;
            Ok(vec![state.clone()])
        }
        Op::Attention { scale, window, cap } => {
            let (operands, sinks) = operands.split_at(operands.len().min(4));
            let [q, k, v, at] = take(operands)?;
            heads("q", q)?;
            let (keys, values) = (cache(k)?, cache(v)?);
            let layouts = [(Layout::Rows, Layout::Rows), (Layout::Keys, Layout::Values)];
            // Keys and values that share a memory have rows of one size.
            let alike =
                KvShape { head: keys.head, ..values } == keys && (k.layout == Layout::Rows || k.shape == v.shape);
            ensure(k.elem == v.elem && alike && layouts.contains(&(k.layout, v.layout)), || {
                format!("k is {k}, v is {v}")
            })?;
            position(Some(at))?;
            let positive = |x: &F32| x.0.is_finite() && x.0 > 0.0;
            ensure(positive(scale), || format!("scale is {}", scale.0))?;
            ensure(*window != Some(0), || "the window is empty".into())?;
            if let Some(cap) = cap {
                ensure(positive(cap), || format!("cap is {}", cap.0))?;
            }
            ensure(keys.head == q.shape[2] && q.shape[1].is_multiple_of(keys.heads), || {
                format!("heads of q {q} do not fit the KV cache {k}")
            })?;
            // All rows of the step are in their places before its first token looks for what it sees.
            let seen = window.and_then(|window| (window - 1).checked_add(q.shape[0]));
            ensure(!keys.ring || seen.is_some_and(|seen| seen <= keys.positions), || {
                format!("the ring {k} does not hold what {} tokens see", q.shape[0])
            })?;
            match sinks {
                [] => {}
                [sinks] => vector("the sinks", sinks, q.shape[1])?,
                _ => return Err(format!("{} operands, at most 5 are allowed", 4 + sinks.len())),
            }
            one(&[q.shape[0], q.shape[1] * values.head])
        }
        Op::ShortConv => {
            let [state, x, w] = take(operands)?;
            float("x", x)?;
            float("w", w)?;
            let &[_, n] = x.shape.as_slice() else { return Err(format!("x is f32[T,n], not {x}")) };
            ensure(w.shape.len() == 2 && w.shape[0] == n && w.shape[1] > 1, || {
                format!("w is f32[{n},c], c at least 2, not {w}")
            })?;
            recurrent(state, &[w.shape[1] - 1, n])?;
            Ok(vec![x.clone(), state.clone()])
        }
        Op::DeltaRule { .. } => {
            let [state, q, k, v, g, beta] = take(operands)?;
            heads("q", q)?;
            heads("v", v)?;
            ensure(k == q, || format!("q is {q}, k is {k}"))?;
            let (&[tokens, shared, keys], &[_, count, values]) = (q.shape.as_slice(), v.shape.as_slice()) else {
                return Err(format!("q is {q}, v is {v}"));
            };
            ensure(v.shape[0] == tokens && count.is_multiple_of(shared), || {
                format!("heads of v {v} are no multiple of those of q {q}, or their tokens differ")
            })?;
            for (what, ty) in [("g", g), ("beta", beta)] {
                float(what, ty)?;
                ensure(ty.shape == [tokens, count], || format!("{what} is f32[{tokens},{count}], not {ty}"))?;
            }
            recurrent(state, &[count, keys, values])?;
            Ok(vec![v.clone(), state.clone()])
        }
        Op::LastToken => {
            let [x] = take(operands)?;
            float("x", x)?;
            ensure(x.shape.len() == 2, || format!("x is f32[T,d], not {x}"))?;
            one(&[1, x.columns()])
        }
        Op::TopK { k } => {
            let [x] = take(operands)?;
            float("x", x)?;
            ensure(x.shape.len() == 2 && x.columns() <= MAX_NUMBERED, || {
                format!("x is f32[T,V], V at most {MAX_NUMBERED}, not {x}")
            })?;
            let most = x.columns().min(MOST_TOP);
            ensure((1..=most).contains(k), || format!("k is {k}, 1 to {most} are allowed"))?;
            one(&[x.rows(), 2 * k + 1])
        }
        Op::Route { k, scale, groups, gating, .. } => {
            ensure(scale.0.is_finite() && scale.0 > 0.0, || format!("scale is {}", scale.0))?;
            let tokens = route(operands, *k, *gating, *groups)?;
            one(&[tokens, 2 * k])
        }
        Op::ExpertMatMul => {
            let [w, x, routing] = take(operands)?;
            ensure(w.shape.len() == 3, || format!("the weight has three dimensions, not {w}"))?;
            check_weight(w)?;
            let (tokens, k) = chosen(routing, w.shape[0])?;
            let rows = [tokens, w.columns()];
            let fits = x.shape == rows || x.shape == [tokens, k, w.columns()];
            ensure(is_activation(x) && fits, || {
                format!("x is f32 or q8 of the shape {rows:?} or of {k} rows a token, not {x}")
            })?;
            one(&[tokens, k, w.shape[1]])
        }
        Op::ExpertRows => {
            let [table, routing] = take(operands)?;
            float("the table", table)?;
            ensure(table.shape.len() <= 2, || format!("the table is f32[E,n] or f32[E], not {table}"))?;
            let (tokens, k) = chosen(routing, table.shape[0])?;
            one(&[tokens, k, table.shape.get(1).copied().unwrap_or(1)])
        }
        Op::ExpertSum => {
            let [y, routing] = take(operands)?;
            float("y", y)?;
            let (tokens, k) = chosen(routing, MOST_TOP)?;
            ensure(y.shape.len() == 3 && y.shape[..2] == [tokens, k], || {
                format!("y is f32[T,k,R] with {tokens} tokens of {k} experts, not {y}")
            })?;
            one(&[tokens, y.columns()])
        }
        Op::Repack { layout } => {
            let [x] = take(operands)?;
            let weight = matches!(x.elem, Elem::Ggml(_)) && x.shape.len() == 2 && x.layout == Layout::Rows;
            ensure(weight && *layout != Layout::Rows, || format!("x is a matrix in the order of its file, not {x}"))?;
            Ok(vec![TensorType { layout: *layout, ..x.clone() }])
        }
        Op::Fusion(fusion) => {
            let params = fusion.body.params().map_err(|e| e.to_string())?;
            ensure(params.len() == operands.len(), || {
                format!("the body has {} params, {} operands are given", params.len(), operands.len())
            })?;
            for (i, (param, operand)) in params.iter().zip(operands).enumerate() {
                ensure(param == operand, || format!("param {i} of the body is {param}, the operand is {operand}"))?;
            }
            ensure(!fusion.body.outputs().is_empty(), || "the body has no outputs".into())?;
            for node in fusion.body.nodes() {
                ensure(!matches!(node.op, Op::Input(_) | Op::Weight(_) | Op::State(_) | Op::Fusion(_)), || {
                    format!("the body contains {}; its only leaves are params", super::text::mnemonic(&node.op))
                })?;
            }
            Ok(fusion.body.outputs().iter().map(|&(_, r)| fusion.body.ty(r).clone()).collect())
        }
    }
}

/// The tokens of a [`Op::Route`].
fn route(operands: &[&TensorType], k: usize, gating: Gating, groups: Option<Groups>) -> Result<usize, String> {
    let (&[x] | &[x, _]) = operands else { return Err(format!("{} operands, 1 or 2 are expected", operands.len())) };
    float("the logits", x)?;
    let experts = x.columns();
    ensure(x.shape.len() == 2 && experts <= MAX_NUMBERED, || {
        format!("the logits are f32[T,E], E at most {MAX_NUMBERED}, not {x}")
    })?;
    let most = experts.min(MOST_TOP);
    ensure((1..=most).contains(&k), || format!("k is {k}, 1 to {most} are allowed"))?;
    if let Some(bias) = operands.get(1) {
        vector("the bias", bias, experts)?;
        float("the bias", bias)?;
    }
    if let Some(Groups { count, used }) = groups {
        ensure((1..=MOST_TOP).contains(&count) && experts.is_multiple_of(count), || {
            format!("{experts} experts cannot be in {count} groups")
        })?;
        ensure((1..=count).contains(&used), || format!("{used} of {count} groups cannot be used"))?;
        ensure(used * (experts / count) >= k, || format!("{used} groups of {count} have fewer than {k} experts"))?;
        ensure(gating != Gating::SoftmaxOfChosen, || "groups need weights of all experts".into())?;
    }
    Ok(x.rows())
}

/// Tokens and experts of each that a routing says, of at least as many experts as a token uses.
fn chosen(routing: &TensorType, experts: usize) -> Result<(usize, usize), String> {
    float("the routing", routing)?;
    let pairs = routing.shape.len() == 2 && routing.columns().is_multiple_of(2);
    ensure(pairs && routing.columns() / 2 <= experts.min(MOST_TOP), || {
        format!("the routing is f32[T,2k], k at most {}, not {routing}", experts.min(MOST_TOP))
    })?;
    Ok((routing.shape[0], routing.columns() / 2))
}

/// Exactly `N` operands.
fn take<'a, const N: usize>(operands: &[&'a TensorType]) -> Result<[&'a TensorType; N], String> {
    operands.try_into().map_err(|_| format!("{} operands, {N} are expected", operands.len()))
}

/// Whether `b` has a number for each token of `a`, or for each row of a token.
fn is_per_token(a: &TensorType, b: &TensorType) -> bool {
    let rows = a.shape.len().saturating_sub(1);
    let each = a.shape.len() == 3 && b.shape.len() == 3 && b.shape[..rows] == a.shape[..rows] && b.columns() == 1;
    float("b", b).is_ok() && a.shape.len() > 1 && (b.shape == [a.shape[0], 1] || each)
}

/// A norm's operands: rows and so many vectors for their columns.
fn norm(x: &TensorType, eps: f32, weights: &[&TensorType], count: RangeInclusive<usize>) -> Result<(), String> {
    float("x", x)?;
    ensure(eps.is_finite() && eps >= 0.0, || format!("eps is {eps}"))?;
    ensure(count.contains(&weights.len()), || format!("{} vectors, {count:?} are expected", weights.len()))?;
    weights.iter().try_for_each(|w| vector("a weight", w, x.columns()))
}

fn float(what: &str, ty: &TensorType) -> Result<(), String> {
    ensure(ty.elem == Elem::F32 && ty.layout == Layout::Rows, || format!("{what} is f32, not {ty}"))
}

fn is_activation(ty: &TensorType) -> bool {
    ty.layout == Layout::Rows && (ty.elem == Elem::F32 || ty.elem == Elem::Q8)
}

fn matrix(what: &str, ty: &TensorType) -> Result<(), String> {
    ensure(ty.shape.len() == 2, || format!("{what} has two dimensions, not {ty}"))?;
    check_weight(ty)
}

fn vector(what: &str, ty: &TensorType, n: usize) -> Result<(), String> {
    let weight = matches!(ty.elem, Elem::Ggml(_)) && ty.layout == Layout::Rows;
    ensure(weight && ty.shape == [n], || format!("{what} has the shape [{n}], not {ty}"))
}

fn heads(what: &str, ty: &TensorType) -> Result<(), String> {
    float(what, ty)?;
    ensure(ty.shape.len() == 3, || format!("{what} is f32[T,H,h], not {ty}"))
}

fn position(ty: Option<&TensorType>) -> Result<(), String> {
    let Some(ty) = ty else { return Err("the position is missing".into()) };
    ensure(ty.elem == Elem::I32 && ty.shape == [1], || format!("position is i32[1], not {ty}"))
}
