//! The text form of a graph: one line a node, fusion bodies indented, outputs last.
//!
//! ```text
//! %0 = weight "token_embd.weight" : q8_0[2048,512]
//! %1 = tokens : i32[1]
//! %2 = fusion embed %0, %1 : f32[1,512] {
//!   %0 = param 0 : q8_0[2048,512]
//!   %1 = param 1 : i32[1]
//!   %2 = embed %0, %1 : f32[1,512]
//!   output "out" %2
//! }
//! output "x" %2
//! ```
//! `%4.1` is the second result of node 4. What of an op's attributes shows in its type (`reshape`, `rope_angles`, `top_k`,
//! `route`, `repack`) is read off it. Invariant: parsing what was printed gives an equal graph; no input panics.

use super::{Angles, F32, Function, Fusion, Gating, Graph, Groups, HeadMap, Input, Op, Ref, RopeStyle, Weight};
use crate::cursor::Cursor;
use crate::quant::Format;
use crate::tensor::{Elem, Layout, TensorType};
use crate::{Error, Result};
use std::collections::HashMap;
use std::fmt::{Display, Formatter, Write};
use std::ops::Range;

/// The name of an op in text.
pub fn mnemonic(op: &Op) -> &'static str {
    match op {
        Op::Input(Input::Tokens) => "tokens",
        Op::Input(Input::Position) => "position",
        Op::Weight(_) => "weight",
        Op::State(_) => "state",
        Op::Param(_) => "param",
        Op::Embed => "embed",
        Op::RmsNorm { .. } => "rms_norm",
        Op::LayerNorm { .. } => "layer_norm",
        Op::MatMul => "matmul",
        Op::HeadMatMul => "head_matmul",
        Op::Quantize => "quantize",
        Op::Add => "add",
        Op::Mul => "mul",
        Op::Map(function) => function.text().0,
        Op::Reshape(_) => "reshape",
        Op::Slice { .. } => "slice",
        Op::Concat => "concat",
        Op::RopeAngles(_) => "rope_angles",
        Op::PositionScale { .. } => "position_scale",
        Op::Rope { .. } => "rope",
        Op::KvAppend => "kv_append",
        Op::Attention { .. } => "attention",
        Op::ShortConv => "short_conv",
        Op::DeltaRule { .. } => "delta_rule",
        Op::LastToken => "last_token",
        Op::TopK { .. } => "top_k",
        Op::Route { .. } => "route",
        Op::ExpertMatMul => "expert_matmul",
        Op::ExpertRows => "expert_rows",
        Op::ExpertSum => "expert_sum",
        Op::Repack { .. } => "repack",
        Op::Fusion(_) => "fusion",
    }
}

/// A value's name in a list of all.
fn name_in<T: PartialEq>(names: &[(T, &'static str)], value: T) -> &'static str {
    names.iter().find(|(v, _)| *v == value).map_or("", |(_, name)| name)
}

/// The value that attribute `key` names in a list of all, which are of this kind.
fn named<T: Copy>(c: &mut Cursor<'_>, key: &str, names: &[(T, &str)], kind: &str) -> Result<T> {
    let name = c.attribute(key)?;
    let value = names.iter().find(|(_, n)| *n == name).map(|&(value, _)| value);
    value.ok_or_else(|| c.error(format!("'{name}' is no {kind}")))
}

impl RopeStyle {
    /// Every style with its name in text.
    const NAMES: [(RopeStyle, &str); 2] = [(RopeStyle::Adjacent, "adjacent"), (RopeStyle::Halves, "halves")];

    /// The name in text.
    pub fn name(self) -> &'static str {
        name_in(&Self::NAMES, self)
    }
}

impl Gating {
    /// Every kind with its name in text.
    const NAMES: [(Gating, &str); 3] =
        [(Gating::Softmax, "softmax"), (Gating::Sigmoid, "sigmoid"), (Gating::SoftmaxOfChosen, "softmax_of_chosen")];

    /// The name in text.
    pub fn name(self) -> &'static str {
        name_in(&Self::NAMES, self)
    }
}

impl HeadMap {
    /// Every map with its name in text.
    const NAMES: [(HeadMap, &str); 2] = [(HeadMap::Tiled, "tiled"), (HeadMap::Grouped, "grouped")];

    /// The name in text.
    pub fn name(self) -> &'static str {
        name_in(&Self::NAMES, self)
    }
}

impl Display for Graph {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let mut text = String::new();
        print(self, "", &mut text)?;
        f.write_str(&text)
    }
}

fn print(graph: &Graph, indent: &str, out: &mut String) -> std::fmt::Result {
    for (id, node) in graph.iter() {
        write!(out, "{indent}{id} = {}", mnemonic(&node.op))?;
        match &node.op {
            Op::Weight(weight) => {
                write!(out, " \"{}\"", weight.tensor.escape_default())?;
                weight.rows.iter().try_for_each(|rows| write!(out, " rows={}..{}", rows.start, rows.end))?;
            }
            Op::State(name) => write!(out, " \"{}\"", name.escape_default())?,
            Op::Param(i) => write!(out, " {i}")?,
            Op::Fusion(fusion) => write!(out, " \"{}\"", fusion.kind.escape_default())?,
            _ => {}
        }
        list(out, &node.inputs)?;
        match &node.op {
            Op::RmsNorm { eps } | Op::LayerNorm { eps } => write!(out, " eps={:?}", eps.0)?,
            Op::Map(function) => {
                function.text().1.iter().try_for_each(|(name, figure)| write!(out, " {name}={:?}", figure.0))?;
            }
            Op::RopeAngles(angles) => {
                write!(out, " theta={:?}", angles.theta.0)?;
                if angles.magnitude != F32(1.0) {
                    write!(out, " magnitude={:?}", angles.magnitude.0)?;
                }
                if !angles.divisors.is_empty() {
                    let divisors: Vec<String> = angles.divisors.iter().map(|d| format!("{:?}", d.0)).collect();
                    write!(out, " divisors={}", divisors.join("/"))?;
                }
            }
            Op::PositionScale { length, slope, .. } => write!(out, " length={length} slope={:?}", slope.0)?,
            Op::Slice { first, every, .. } => {
                write!(out, " first={first}")?;
                if *every != graph.ty(node.inputs[0]).columns() {
                    write!(out, " every={every}")?;
                }
            }
            Op::Rope { style } => write!(out, " style={}", style.name())?,
            Op::Attention { scale, window, cap } => {
                write!(out, " scale={:?}", scale.0)?;
                window.iter().try_for_each(|w| write!(out, " window={w}"))?;
                cap.iter().try_for_each(|cap| write!(out, " cap={:?}", cap.0))?;
            }
            Op::Route { gating, normalise, scale, groups, .. } => {
                write!(out, " gating={} normalise={normalise} scale={:?}", gating.name(), scale.0)?;
                if let Some(Groups { count, used }) = groups {
                    write!(out, " groups={used}/{count}")?;
                }
            }
            Op::DeltaRule { heads } => write!(out, " heads={}", heads.name())?,
            _ => {}
        }
        out.push_str(" :");
        list(out, &node.results)?;
        if let Op::Fusion(fusion) = &node.op {
            out.push_str(" {\n");
            print(&fusion.body, &format!("{indent}  "), out)?;
            write!(out, "{indent}}}")?;
        }
        out.push('\n');
    }
    for (name, value) in graph.outputs() {
        writeln!(out, "{indent}output \"{}\" {value}", name.escape_default())?;
    }
    Ok(())
}

fn list<T: Display>(out: &mut String, items: &[T]) -> std::fmt::Result {
    items.iter().enumerate().try_for_each(|(i, item)| write!(out, "{} {item}", if i > 0 { "," } else { "" }))
}

impl std::str::FromStr for Graph {
    type Err = Error;

    /// Parses the text form.
    ///
    /// # Errors
    /// [`Error::Malformed`] with the line, or [`Error::Verify`] where an op refuses its operands.
    fn from_str(text: &str) -> Result<Graph> {
        let mut lines = text.lines().enumerate();
        block(&mut lines, false)
    }
}

type Lines<'a> = std::iter::Enumerate<std::str::Lines<'a>>;

/// The lines of a graph, or of a fusion's body up to its brace.
fn block(lines: &mut Lines<'_>, body: bool) -> Result<Graph> {
    let mut graph = Graph::new();
    let mut names: HashMap<u32, Ref> = HashMap::new();
    while let Some((at, line)) = lines.next() {
        let mut cursor = Cursor { rest: line, line: at + 1, form: "graph" };
        if cursor.end() {
            continue;
        }
        if body && cursor.eat("}") {
            cursor.finish()?;
            return Ok(graph);
        }
        if cursor.eat("output") {
            let name = cursor.string()?;
            let value = cursor.value(&names)?;
            cursor.finish()?;
            graph.output(name, value).map_err(|e| cursor.error(e))?;
            continue;
        }
        let id = cursor.expect("%").and_then(|()| cursor.number())?;
        cursor.expect("=")?;
        let value = node(&mut cursor, &names, &mut graph, lines, body)?;
        if names.insert(id, value).is_some() {
            return Err(cursor.error(format!("%{id} is defined twice")));
        }
    }
    if body { Err(Error::malformed("a fusion's body has no closing brace")) } else { Ok(graph) }
}

/// One node, after `=`.
fn node(
    c: &mut Cursor<'_>,
    names: &HashMap<u32, Ref>,
    graph: &mut Graph,
    lines: &mut Lines<'_>,
    body: bool,
) -> Result<Ref> {
    let word = c.word().to_string();
    let label = if matches!(word.as_str(), "weight" | "state" | "fusion") { c.string()? } else { String::new() };
    let param = if word == "param" { c.number()? } else { 0 };
    let mut inputs = Vec::new();
    while c.peek("%") || (!inputs.is_empty() && c.eat(",")) {
        inputs.push(c.value(names)?);
    }
    let op = match word.as_str() {
        "tokens" => Op::Input(Input::Tokens),
        "position" => Op::Input(Input::Position),
        "weight" => Op::Weight(Weight { tensor: label, rows: c.rows()? }),
        "state" => Op::State(label),
        "param" => Op::Param(param),
        "embed" => Op::Embed,
        "rms_norm" => Op::RmsNorm { eps: c.figure("eps")? },
        "layer_norm" => Op::LayerNorm { eps: c.figure("eps")? },
        "matmul" => Op::MatMul,
        "head_matmul" => Op::HeadMatMul,
        "quantize" => Op::Quantize,
        "add" => Op::Add,
        "mul" => Op::Mul,
        "reshape" => Op::Reshape(Vec::new()),
        "slice" => {
            let first = c.parsed("first")?;
            let whole = inputs.first().map_or(0, |&x| graph.ty(x).columns());
            Op::Slice { first, count: 0, every: if c.peek("every") { c.parsed("every")? } else { whole } }
        }
        "concat" => Op::Concat,
        "rope_angles" => Op::RopeAngles(Box::new(Angles {
            tokens: 0,
            dim: 0,
            theta: c.figure("theta")?,
            magnitude: if c.peek("magnitude") { c.figure("magnitude")? } else { F32(1.0) },
            divisors: if c.peek("divisors") { c.figures("divisors")? } else { Vec::new() },
        })),
        "position_scale" => Op::PositionScale { tokens: 0, length: c.parsed("length")?, slope: c.figure("slope")? },
        "rope" => Op::Rope { style: named(c, "style", &RopeStyle::NAMES, "rope style")? },
        "kv_append" => Op::KvAppend,
        "attention" => Op::Attention {
            scale: c.figure("scale")?,
            window: if c.peek("window") { Some(c.parsed("window")?) } else { None },
            cap: if c.peek("cap") { Some(c.figure("cap")?) } else { None },
        },
        "short_conv" => Op::ShortConv,
        "delta_rule" => Op::DeltaRule { heads: named(c, "heads", &HeadMap::NAMES, "map of heads")? },
        "last_token" => Op::LastToken,
        "top_k" => Op::TopK { k: 0 },
        "route" => route(c)?,
        "expert_matmul" => Op::ExpertMatMul,
        "expert_rows" => Op::ExpertRows,
        "expert_sum" => Op::ExpertSum,
        "repack" => Op::Repack { layout: Layout::Rows },
        "fusion" if body => return Err(c.error("a fusion inside a fusion's body")),
        "fusion" => Op::Fusion(Box::new(Fusion { kind: label, body: Graph::new() })),
        _ => match Function::ALL.iter().find(|(_, name, _)| *name == word) {
            Some((function, _, names)) => {
                let figures = names.iter().map(|name| c.figure(name)).collect::<Result<Vec<F32>>>()?;
                Op::Map(function.with(&figures))
            }
            None => return Err(c.error(format!("'{word}' is no op"))),
        },
    };
    c.expect(":")?;
    let mut types = vec![c.tensor_type()?];
    while c.eat(",") {
        types.push(c.tensor_type()?);
    }
    let op = match op {
        Op::Reshape(_) => Op::Reshape(types[0].shape.clone()),
        Op::Slice { first, every, .. } => {
            let parts = inputs.first().map_or(0, |&x| graph.ty(x).columns()).checked_div(every).unwrap_or(0);
            Op::Slice { first, count: types[0].columns().checked_div(parts).unwrap_or(0), every }
        }
        Op::RopeAngles(angles) => {
            let &[tokens, dim] = types[0].shape.as_slice() else { return Err(c.error("angles are f32[T,dim]")) };
            Op::RopeAngles(Box::new(Angles { tokens, dim, ..*angles }))
        }
        Op::PositionScale { length, slope, .. } => Op::PositionScale { tokens: types[0].shape[0], length, slope },
        Op::TopK { .. } => Op::TopK { k: types[0].columns() / 2 },
        Op::Route { gating, normalise, scale, groups, .. } => {
            Op::Route { k: types[0].columns() / 2, gating, normalise, scale, groups }
        }
        Op::Repack { .. } => Op::Repack { layout: types[0].layout },
        Op::Fusion(fusion) => {
            c.expect("{")?;
            c.finish()?;
            Op::Fusion(Box::new(Fusion { kind: fusion.kind, body: block(lines, true)? }))
        }
        op => op,
    };
    c.finish_unless_fusion(&op)?;
    let id = if op.is_leaf() {
        if types.len() != 1 || !inputs.is_empty() {
            return Err(c.error("a leaf has one type and no operands"));
        }
        graph.leaf(op, types[0].clone()).map_err(|e| c.error(e))?.node
    } else {
        graph.push(op, &inputs).map_err(|e| c.error(e))?
    };
    if graph.node(id).results != types {
        return Err(c.error("the type is not what the op gives"));
    }
    Ok(id.into())
}

/// The attributes of a route; its k is read off the type.
fn route(c: &mut Cursor<'_>) -> Result<Op> {
    let gating = named(c, "gating", &Gating::NAMES, "gating")?;
    let (normalise, scale) = (c.parsed("normalise")?, c.figure("scale")?);
    let groups = match c.eat("groups") {
        false => None,
        true => {
            c.expect("=")?;
            let used = c.number()?;
            c.expect("/")?;
            Some(Groups { count: c.number()?, used })
        }
    };
    Ok(Op::Route { k: 0, gating, normalise, scale, groups })
}

impl<'a> Cursor<'a> {
    fn finish_unless_fusion(&mut self, op: &Op) -> Result<()> {
        if matches!(op, Op::Fusion(_)) { Ok(()) } else { self.finish() }
    }

    fn attribute(&mut self, name: &str) -> Result<&'a str> {
        self.expect(name)?;
        self.expect("=")?;
        Ok(self.take(|ch| !ch.is_whitespace()))
    }

    fn parsed<T: std::str::FromStr>(&mut self, name: &str) -> Result<T> {
        let text = self.attribute(name)?;
        text.parse().map_err(|_| self.error(format!("'{text}' is no number")))
    }

    fn figure(&mut self, name: &str) -> Result<F32> {
        self.parsed(name).map(F32)
    }

    fn figures(&mut self, name: &str) -> Result<Vec<F32>> {
        let text = self.attribute(name)?;
        let figure = |part: &str| part.parse().map(F32).map_err(|_| self.error(format!("'{part}' is no number")));
        text.split('/').map(figure).collect()
    }

    /// The rows of a weight, if it is not whole.
    fn rows(&mut self) -> Result<Option<Range<u32>>> {
        if !self.peek("rows") {
            return Ok(None);
        }
        self.expect("rows")?;
        self.expect("=")?;
        let start = self.number()?;
        self.expect("..")?;
        Ok(Some(start..self.number()?))
    }

    fn value(&mut self, names: &HashMap<u32, Ref>) -> Result<Ref> {
        self.expect("%")?;
        let id = self.number()?;
        let result = if self.rest.starts_with('.') && self.eat(".") { self.number()? } else { 0 };
        match names.get(&id) {
            Some(r) => Ok(r.node.at(result)),
            None => Err(self.error(format!("%{id} is not defined"))),
        }
    }

    /// A quoted string as [`str::escape_default`] writes it.
    fn string(&mut self) -> Result<String> {
        self.expect("\"")?;
        let mut out = String::new();
        let mut chars = self.rest.chars();
        loop {
            out.push(match chars.next() {
                Some('"') => break,
                Some('\\') => match chars.next() {
                    Some('n') => '\n',
                    Some('r') => '\r',
                    Some('t') => '\t',
                    Some('u') => {
                        let hex: String = chars.by_ref().take_while(|&ch| ch != '}').take(8).collect();
                        let code = hex.strip_prefix('{').and_then(|h| u32::from_str_radix(h, 16).ok());
                        code.and_then(char::from_u32).ok_or_else(|| self.error("a bad escape"))?
                    }
                    Some(ch @ ('\\' | '"' | '\'')) => ch,
                    _ => return Err(self.error("a bad escape")),
                },
                Some(ch) => ch,
                None => return Err(self.error("a string has no closing quote")),
            });
        }
        self.rest = chars.as_str();
        Ok(out)
    }

    fn tensor_type(&mut self) -> Result<TensorType> {
        let name = self.word();
        let elem = match name {
            "i32" => Elem::I32,
            "q8" => Elem::Q8,
            _ => Elem::Ggml(Format::by_name(name).ok_or_else(|| self.error(format!("'{name}' is no element type")))?),
        };
        self.expect("[")?;
        let mut shape = vec![self.number()?];
        while self.eat(",") {
            shape.push(self.number()?);
        }
        self.expect("]")?;
        let others = [Layout::Rows16, Layout::Rows32, Layout::Keys, Layout::Values];
        let layout = others.into_iter().find(|l| self.eat(l.suffix())).unwrap_or_default();
        Ok(TensorType { elem, shape, layout })
    }
}
