//! Values of a body, element by element: what follows a product, and what is done row by row without one.
//!
//! [`Elements`] walks the body from a value to where its operands are and emits the code of one element, or of four; so a
//! new function, or another order of the same ops, needs nothing here. What needs more than the element itself is made
//! before: the figures of norms ([`Elements::reduce`]) and rotated heads ([`finish_head`]). How the elements of a row are
//! spread over threads, and added up, is a [`Team`]'s, of which each kind of machine has its own.

use crate::generator::Generator;
use crate::math::{function, inverse_root};
use ir::abi::f32_row_bytes;
use ir::graph::{Graph, NodeId, Op, Ref, RopeStyle};
use ir::kernel::{Buf, Builder, Compare, Mem, Value};
use ir::tensor::TensorType;
use ir::{Error, Result};
use std::collections::HashMap;

/// Which element.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At {
    /// Its number in the row of its token.
    pub flat: Value,
    /// Its number in the last dimension, of values of three.
    pub last: Value,
    /// Its number in what lies at a [`Place::Local`].
    pub local: Value,
    /// Whether it is the first of four that are wanted.
    pub vector: bool,
}

/// Where elements of a value are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Place {
    /// From an element of a buffer on, by their number in the token's row.
    Flat(Buf, Value),
    /// From an element of a buffer on, those of the part that is worked on.
    Local(Buf, Value),
}

/// The threads that work on a row or a head together.
pub(crate) trait Team {
    /// Whether a thread takes four elements at a time.
    const VECTOR: bool;
    /// Calls `f` for the first of four elements, or for each element, of `count`, spread over the threads.
    fn each(&self, b: &mut Builder, count: usize, f: impl FnOnce(&mut Builder, Value) -> Result<()>) -> Result<()>;
    /// Calls `f` for each number below `count`, spread over the threads.
    fn singly(&self, b: &mut Builder, count: usize, f: impl FnOnce(&mut Builder, Value) -> Result<()>) -> Result<()> {
        self.each(b, count, f)
    }
    /// Adds to a running sum, by `f(element, sum)`, over `count` elements; every thread gets the total.
    fn sum(
        &self,
        b: &mut Builder,
        count: usize,
        mut f: impl FnMut(&mut Builder, Value, Value) -> Result<Value>,
    ) -> Result<Value> {
        let zero = b.float(0.0);
        let sum = b.var(zero);
        self.each(b, count, |b, i| {
            let so_far = b.get(sum);
            let so_far = f(b, i, so_far)?;
            b.set(sum, so_far);
            Ok(())
        })?;
        let own = b.get(sum);
        Ok(self.total(b, own))
    }
    /// The total of what each thread has; every thread gets it.
    fn total(&self, b: &mut Builder, own: Value) -> Value;
    /// Shows each thread what the others have stored.
    fn sync(&self, b: &mut Builder);
}

/// Elements of a body's values, for one token.
pub(crate) struct Elements<'a> {
    body: &'a Graph,
    params: Vec<Buf>,
    /// The token's row in activations.
    token: Value,
    places: HashMap<NodeId, Place>,
    /// Mean and inverse of the root of norms; the mean of layer norms only.
    norms: HashMap<NodeId, (Option<Value>, Value)>,
}

impl<'a> Elements<'a> {
    pub fn new(g: &Generator<'a>, token: Value) -> Self {
        let params = g.params().to_vec();
        Elements { body: g.body(), params, token, places: HashMap::new(), norms: HashMap::new() }
    }

    /// The type of a value.
    pub fn ty(&self, value: Ref) -> &'a TensorType {
        self.body.ty(value)
    }

    /// Says where the elements of a node are, instead of how they are computed.
    pub fn put(&mut self, node: NodeId, place: Place) {
        self.places.insert(node, place);
    }

    /// Emits the value of an element.
    ///
    /// # Errors
    /// [`Error::Verify`] for an op that needs more than the element and was not prepared.
    pub fn value(&self, b: &mut Builder, value: Ref, at: At) -> Result<Value> {
        let node = self.body.node(value.node);
        if let Some(&place) = self.places.get(&value.node) {
            let (buf, index) = match place {
                Place::Flat(buf, start) => (buf, b.iadd(start, at.flat)),
                Place::Local(buf, start) => (buf, b.iadd(start, at.local)),
            };
            return Ok(load(b, buf, index, at.vector));
        }
        let x = |b: &mut Builder| self.value(b, node.inputs[0], at);
        match &node.op {
            Op::Param(n) => {
                let row = b.imul_const(self.token, row_stride(&node.results[0]));
                let index = b.iadd(row, at.flat);
                Ok(load(b, self.params[*n as usize], index, at.vector))
            }
            Op::LastToken => {
                let &Op::Param(n) = &self.body.node(node.inputs[0].node).op else { return Err(unprepared(&node.op)) };
                let (tokens, one) = (b.tokens(), b.int(1));
                let last = b.isub(tokens, one);
                let row = b.imul_const(last, row_stride(&node.results[0]));
                let index = b.iadd(row, at.flat);
                Ok(load(b, self.params[n as usize], index, at.vector))
            }
            Op::Slice { first, count, every } => {
                let mut flat = b.iadd_const(at.flat, *first);
                if node.results[0].shape[1..].iter().product::<usize>() > *count {
                    // What is passed over before it.
                    let parts = b.size(*count);
                    let part = b.udiv(at.flat, parts);
                    let over = b.imul_const(part, every - count);
                    flat = b.iadd(flat, over);
                }
                self.value(b, node.inputs[0], At { flat, last: flat, local: flat, ..at })
            }
            Op::Concat => self.concat(b, [node.inputs[0], node.inputs[1]], at),
            Op::Reshape(_) => x(b),
            Op::Map(f) => {
                let x = x(b)?;
                Ok(function(b, *f, x))
            }
            Op::Add | Op::Mul => {
                let (left, right) = (x(b)?, self.second(b, node.inputs[1], &node.results[0], at)?);
                Ok(if node.op == Op::Add { b.fadd(left, right) } else { b.fmul(left, right) })
            }
            Op::RmsNorm { .. } | Op::LayerNorm { .. } => {
                let &(mean, inverse) = self.norms.get(&value.node).ok_or_else(|| unprepared(&node.op))?;
                let mut v = x(b)?;
                if let Some(mean) = mean {
                    let mean = spread(b, mean, at.vector);
                    v = b.fsub(v, mean);
                }
                let inverse = spread(b, inverse, at.vector);
                v = b.fmul(v, inverse);
                for (i, &weight) in node.inputs[1..].iter().enumerate() {
                    let weight = self.of_columns(b, weight, &node.results[0], at)?;
                    v = if i == 0 { b.fmul(v, weight) } else { b.fadd(v, weight) };
                }
                Ok(v)
            }
            op => Err(unprepared(op)),
        }
    }

    /// The second operand of a sum or product of type `ty`: of the same shape, or of fewer numbers.
    fn second(&self, b: &mut Builder, value: Ref, ty: &TensorType, at: At) -> Result<Value> {
        let own = self.body.ty(value);
        if own.shape.len() == 1 {
            return self.of_columns(b, value, ty, at);
        }
        if own == ty {
            return self.value(b, value, at);
        }
        let zero = b.int(0);
        let number = self.value(b, value, At { flat: zero, last: zero, local: zero, vector: false })?;
        Ok(spread(b, number, at.vector))
    }

    /// The element of a head of two parts, of which the second may have one head for all.
    fn concat(&self, b: &mut Builder, [first, second]: [Ref; 2], at: At) -> Result<Value> {
        let sizes = [first, second].map(|part| self.body.ty(part).columns());
        let shared = self.body.ty(second).shape[1] == 1;
        let (before, all) = (b.size(sizes[0]), b.size(sizes[0] + sizes[1]));
        let (head, last) = (b.udiv(at.flat, all), b.urem(at.flat, all));
        let place = |b: &mut Builder, last: Value, size: usize, shared: bool| {
            let skipped = b.imul_const(head, if shared { 0 } else { size });
            At { flat: b.iadd(skipped, last), last, local: last, ..at }
        };
        let zero = b.float(0.0);
        let zero = spread(b, zero, at.vector);
        let found = b.var(zero);
        let take = |b: &mut Builder, part: Ref, at: At| self.value(b, part, at).map(|v| b.set(found, v));
        let (mut of_first, mut of_second) = (Ok(()), Ok(()));
        let in_first = b.compare(Compare::ULt, last, before);
        b.if_else(
            in_first,
            |b| {
                let at = place(b, last, sizes[0], false);
                of_first = take(b, first, at);
            },
            |b| {
                let last = b.isub(last, before);
                let at = place(b, last, sizes[1], shared);
                of_second = take(b, second, at);
            },
        );
        of_first.and(of_second)?;
        Ok(b.get(found))
    }

    /// A vector's numbers for the columns of a value of type `ty`.
    fn of_columns(&self, b: &mut Builder, vector: Ref, ty: &TensorType, at: At) -> Result<Value> {
        let &Op::Param(n) = &self.body.node(vector.node).op else { return Err(unprepared(&Op::Reshape(Vec::new()))) };
        let buf = self.params[n as usize];
        if self.body.ty(vector).shape == [1] {
            let zero = b.int(0);
            let number = b.load(buf, zero, Mem::F32);
            return Ok(spread(b, number, at.vector));
        }
        let index = if ty.shape.len() == 3 { at.last } else { at.flat };
        Ok(load(b, buf, index, at.vector))
    }

    /// Computes the figures of a norm over `count` elements, of which `at` gives the place of each.
    pub fn reduce(
        &mut self,
        b: &mut Builder,
        team: &impl Team,
        norm: NodeId,
        count: usize,
        at: impl Fn(&mut Builder, Value) -> At,
    ) -> Result<()> {
        let node = self.body.node(norm);
        let x = node.inputs[0];
        let (eps, centred) = match node.op {
            Op::RmsNorm { eps } => (eps, false),
            Op::LayerNorm { eps } => (eps, true),
            ref op => return Err(unprepared(op)),
        };
        let mean = if centred {
            let sum = team.sum(b, count, |b, i, sum| {
                let at = at(b, i);
                let v = self.value(b, x, at)?;
                Ok(b.fadd(v, sum))
            })?;
            let n = b.float(count as f32);
            Some(b.fdiv(sum, n))
        } else {
            None
        };
        let squares = team.sum(b, count, |b, i, sum| {
            let at = at(b, i);
            let mut v = self.value(b, x, at)?;
            if let Some(mean) = mean {
                let mean = spread(b, mean, at.vector);
                v = b.fsub(v, mean);
            }
            Ok(b.fma(v, v, sum))
        })?;
        let inverse = inverse_root(b, squares, count, eps.0);
        self.norms.insert(norm, (mean, inverse));
        Ok(())
    }
}

/// Floats from one token's row of an activation to the next.
pub(crate) fn row_stride(ty: &TensorType) -> usize {
    f32_row_bytes(ty.shape[1..].iter().product()) / 4
}

fn unprepared(op: &Op) -> Error {
    Error::verify("body", format!("{op:?} has no place among the elements of a row"))
}

/// An element, or the four from there on.
pub(crate) fn load(b: &mut Builder, buf: Buf, index: Value, vector: bool) -> Value {
    if vector { b.load4(buf, index, Mem::F32) } else { b.load(buf, index, Mem::F32) }
}

/// A number as it is, or four of it.
pub(crate) fn spread(b: &mut Builder, v: Value, vector: bool) -> Value {
    if vector { b.splat(v) } else { v }
}

/// Where a value goes that a kernel makes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stored {
    /// The number of the result.
    pub number: usize,
    /// What is stored or appended.
    pub value: Ref,
    /// The KV cache that it is appended to, if it is.
    pub cache: Option<Ref>,
}

impl Stored {
    /// Result `number` of a body.
    pub fn of(body: &Graph, number: usize) -> Stored {
        let value = body.outputs()[number].1;
        let node = body.node(value.node);
        match node.op {
            Op::KvAppend => Stored { number, value: node.inputs[1], cache: Some(node.inputs[0]) },
            _ => Stored { number, value, cache: None },
        }
    }
}

/// Heads that one thread, or a few, finish.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    /// Elements of a head.
    pub size: usize,
    /// Its number.
    pub number: Value,
    /// Memory for it, and its first element there. Products of the head may be in it.
    pub scratch: (Buf, Value),
}

impl Head {
    /// Element `i`.
    pub fn at(&self, b: &mut Builder, i: Value, vector: bool) -> At {
        let first = b.imul_const(self.number, self.size);
        At { flat: b.iadd(first, i), last: i, local: i, vector }
    }
}

/// Makes a head of a value and stores it where it goes; `append` puts the head's scratch memory into a KV cache.
///
/// # Errors
/// What [`Elements::value`] and `append` refuse.
pub(crate) fn finish<'a, T: Team>(
    g: &mut Generator<'a>,
    team: &T,
    e: &mut Elements<'_>,
    stored: Stored,
    head: Head,
    append: impl FnOnce(&mut Generator<'a>, Ref) -> Result<()>,
) -> Result<()> {
    finish_head(&mut g.b, team, e, stored.value, head)?;
    match stored.cache {
        Some(cache) => {
            materialise(&mut g.b, team, e, stored.value, head)?;
            append(g, cache)
        }
        None => {
            let y = g.result(stored.number)?;
            store_head(&mut g.b, team, e, stored.value, head, y)
        }
    }
}

/// Prepares a value \[T, heads, size\] for a head: norms of the head, rotations, which are left in its scratch memory. All
/// that `value` depends on is elementwise or one of these, or has a place.
fn finish_head<T: Team>(b: &mut Builder, team: &T, e: &mut Elements<'_>, value: Ref, head: Head) -> Result<()> {
    let body = e.body;
    for id in body.cone([value], |id| !e.places.contains_key(&id)) {
        let node = body.node(id);
        if node.results[0].shape.len() != 3 || e.places.contains_key(&id) {
            continue;
        }
        match node.op {
            Op::RmsNorm { .. } | Op::LayerNorm { .. } => {
                e.reduce(b, team, id, head.size, |b, i| head.at(b, i, T::VECTOR))?;
            }
            Op::Rope { style } => {
                materialise(b, team, e, node.inputs[0], head)?;
                let angles = node.inputs[1];
                let &Op::Param(n) = &body.node(angles.node).op else { return Err(unprepared(&node.op)) };
                let row = b.imul_const(e.token, row_stride(body.ty(angles)));
                let (dim, angles) = (body.ty(angles).columns(), (e.params[n as usize], row));
                team.singly(b, dim / 2, |b, i| {
                    rotate(b, style, dim, head.scratch, angles, i);
                    Ok(())
                })?;
                team.sync(b);
                e.put(id, Place::Local(head.scratch.0, head.scratch.1));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Stores a value of the head, which [`finish_head`] has prepared, in its scratch memory.
fn materialise<T: Team>(b: &mut Builder, team: &T, e: &Elements<'_>, value: Ref, head: Head) -> Result<()> {
    let mut there = value.node;
    while let Op::Reshape(_) = e.body.node(there).op {
        there = e.body.node(there).inputs[0].node;
    }
    if e.places.get(&there) == Some(&Place::Local(head.scratch.0, head.scratch.1)) {
        return Ok(());
    }
    team.each(b, head.size, |b, i| {
        let at = head.at(b, i, T::VECTOR);
        let v = e.value(b, value, at)?;
        let to = b.iadd(head.scratch.1, i);
        b.store(head.scratch.0, to, Mem::F32, v);
        Ok(())
    })?;
    team.sync(b);
    Ok(())
}

/// Stores a value of the head, which [`finish_head`] has prepared, in the token's row of a result.
fn store_head<T: Team>(b: &mut Builder, team: &T, e: &Elements<'_>, value: Ref, head: Head, y: Buf) -> Result<()> {
    let row = b.imul_const(e.token, row_stride(e.body.ty(value)));
    team.each(b, head.size, |b, i| {
        let at = head.at(b, i, T::VECTOR);
        let v = e.value(b, value, at)?;
        let to = b.iadd(row, at.flat);
        b.store(y, to, Mem::F32, v);
        Ok(())
    })
}

/// Rotates pair `i` of the head in place.
fn rotate(b: &mut Builder, style: RopeStyle, dim: usize, (out, at): (Buf, Value), angles: (Buf, Value), i: Value) {
    let (first, second) = match style {
        RopeStyle::Adjacent => {
            let even = b.imul_const(i, 2);
            (even, b.iadd_const(even, 1))
        }
        RopeStyle::Halves => (i, b.iadd_const(i, dim / 2)),
    };
    let (first, second) = (b.iadd(at, first), b.iadd(at, second));
    let angle = b.imul_const(i, 2);
    let cos_at = b.iadd(angles.1, angle);
    let sin_at = b.iadd_const(cos_at, 1);
    let (cos, sin) = (b.load(angles.0, cos_at, Mem::F32), b.load(angles.0, sin_at, Mem::F32));
    let (x, y) = (b.load(out, first, Mem::F32), b.load(out, second, Mem::F32));
    let (xc, ys, xs, yc) = (b.fmul(x, cos), b.fmul(y, sin), b.fmul(x, sin), b.fmul(y, cos));
    let (x, y) = (b.fsub(xc, ys), b.fadd(xs, yc));
    b.store(out, first, Mem::F32, x);
    b.store(out, second, Mem::F32, y);
}

/// Whether an op gives each element from the elements at its place alone.
pub(crate) fn is_elementwise(op: &Op) -> bool {
    matches!(op, Op::Add | Op::Mul | Op::Map(_) | Op::Reshape(_) | Op::Slice { .. })
}
