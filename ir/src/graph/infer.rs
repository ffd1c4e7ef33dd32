//! The type rule of every op. Invariant: what these rules accept, every later stage handles without checking shapes again.

use super::{F32, Input, MOST_TOP, Op};
use crate::quant;
use crate::tensor::{Elem, Layout, TensorType};

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
        Op::Weight(_) => check_weight(ty),
        Op::Param(_) => match ty.elem {
            Elem::Ggml(_) if ty.layout.is_kv() => check_state(ty),
            Elem::Ggml(_) if ty.layout != Layout::Rows => check_weight(ty),
            _ => rows("a param"),
        },
        _ => Err("it is no leaf".into()),
    }
}

/// A weight: one or two dimensions, rows of whole blocks.
fn check_weight(ty: &TensorType) -> Result<(), String> {
    let Elem::Ggml(format) = ty.elem else { return Err(format!("a weight is of a GGML format, not {ty}")) };
    ensure(ty.shape.len() <= 2, || format!("a weight has one or two dimensions, not {ty}"))?;
    ensure(!ty.layout.is_kv(), || format!("a weight cannot be laid out as {ty}"))?;
    ensure(ty.layout == Layout::Rows || ty.shape.len() == 2, || format!("{ty} has no rows to interleave"))?;
    let block = format.block as usize * ty.layout.span(format);
    ensure(ty.columns().is_multiple_of(block), || {
        format!("rows of {ty} are not a multiple of the block of {block} elements")
    })
}

/// A KV cache: f16 or 8-bit, \[kv heads, context, h\].
fn check_state(ty: &TensorType) -> Result<(), String> {
    let kv = matches!(ty.elem, Elem::Ggml(f) if f == quant::F16 || f == quant::Q8_0);
    ensure(kv && ty.shape.len() == 3 && (ty.layout == Layout::Rows || ty.layout.is_kv()), || {
        format!("a KV cache is {}[G,context,h] or {}[G,context,h], not {ty}", quant::F16, quant::Q8_0)
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
            let [x, w] = take(operands)?;
            float("x", x)?;
            ensure(eps.0.is_finite() && eps.0 >= 0.0, || format!("eps is {}", eps.0))?;
            vector("the weight", w, x.columns())?;
            one(&x.shape)
        }
        Op::MatMul => {
            let [w, x] = take(operands)?;
            matrix("the weight", w)?;
            ensure(is_activation(x) && x.shape.len() == 2, || format!("x is f32[T,C] or q8[T,C], not {x}"))?;
            ensure(x.columns() == w.columns(), || format!("the columns of the weight {w} and of x {x} differ"))?;
            one(&[x.rows(), w.rows()])
        }
        Op::Quantize => {
            let [x] = take(operands)?;
            float("x", x)?;
            ensure(x.shape.len() == 2 && x.columns().is_multiple_of(crate::abi::Q8_BLOCK), || {
                format!("x is f32[T,C], C a multiple of {}, not {x}", crate::abi::Q8_BLOCK)
            })?;
            Ok(vec![TensorType::new(Elem::Q8, x.shape.clone())])
        }
        Op::Add => {
            let [a, b] = take(operands)?;
            float("a", a)?;
            if a != b {
                vector("b", b, a.columns())?;
            }
            one(&a.shape)
        }
        Op::Mul => {
            let [a, b] = take(operands)?;
            float("a", a)?;
            ensure(a == b, || format!("a is {a}, b is {b}"))?;
            one(&a.shape)
        }
        Op::Silu => {
            let [x] = take(operands)?;
            float("x", x)?;
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
        Op::RopeAngles { tokens, dim, theta } => {
            position(operands.first().copied())?;
            ensure(operands.len() <= 2, || format!("{} operands, at most 2 are allowed", operands.len()))?;
            ensure(*dim > 0 && dim.is_multiple_of(2), || format!("dim {dim} is not even and positive"))?;
            ensure(theta.0.is_finite() && theta.0 > 0.0, || format!("theta is {}", theta.0))?;
            if let Some(factors) = operands.get(1) {
                vector("factors", factors, dim / 2)?;
            }
            one(&[*tokens, *dim])
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
            check_state(state)?;
            heads("x", x)?;
            position(Some(at))?;
            ensure(state.shape[0] == x.shape[1] && state.shape[2] == x.shape[2], || {
                format!("heads of x {x} do not fit the KV cache {state}")
            })?;
            ensure(x.shape[0] <= state.shape[1], || format!("{} tokens do not fit the KV cache {state}", x.shape[0]))?;
            Ok(vec![state.clone()])
        }
        Op::Attention { scale, window, cap } => {
            let (operands, sinks) = operands.split_at(operands.len().min(4));
            let [q, k, v, at] = take(operands)?;
            heads("q", q)?;
            check_state(k)?;
            check_state(v)?;
            let layouts = [(Layout::Rows, Layout::Rows), (Layout::Keys, Layout::Values)];
            // Keys and values that share a memory have rows of one size.
            let alike = k.shape[..2] == v.shape[..2] && (k.layout == Layout::Rows || k.shape == v.shape);
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
            ensure(k.shape[2] == q.shape[2] && q.shape[1].is_multiple_of(k.shape[0]), || {
                format!("heads of q {q} do not fit the KV cache {k}")
            })?;
            match sinks {
                [] => {}
                [sinks] => vector("the sinks", sinks, q.shape[1])?,
                _ => return Err(format!("{} operands, at most 5 are allowed", 4 + sinks.len())),
            }
            one(&[q.shape[0], q.shape[1] * v.shape[2]])
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

/// Exactly `N` operands.
fn take<'a, const N: usize>(operands: &[&'a TensorType]) -> Result<[&'a TensorType; N], String> {
    operands.try_into().map_err(|_| format!("{} operands, {N} are expected", operands.len()))
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
