//! The [`Unpack`] view of one weight block over the kernel builder, for every layout.

use crate::body::Matrix;
use ir::abi::LANE_BYTES;
use ir::kernel::{Buf, Builder, Compare, Mem, Value};
use ir::quant::{FloatKind, Format, Quad, Scaling, Unpack, Unpacked, Wide};
use ir::tensor::Layout;
use std::collections::HashMap;

/// [`ir::quant::QuantFormat::unpack`].
pub(crate) type UnpackFn = fn(&mut dyn Unpack, u32) -> Unpacked;

/// Four bytes: in one word, or each in its own.
#[derive(Debug, Clone, Copy)]
enum Four {
    Word(Value),
    Bytes([Value; 4]),
}

/// One block of one row, and what has been loaded of it. Wide handles index `wides`: vectors of four words or, for a lane that
/// has one of the four, that word.
pub(crate) struct Block {
    buf: Buf,
    format: Format,
    layout: Layout,
    /// Byte index, but for a constant, of the block (rows layout) or of the tile's block (tiled layouts).
    base: Value,
    /// The constant.
    offset: usize,
    /// Row in the tile, in tiled layouts.
    lane: Option<Value>,
    wides: Vec<Value>,
    quads: Vec<Four>,
    loaded: HashMap<(usize, u32, Mem), Value>,
    /// Sixteen bytes of a field, or a lane's word of them.
    vectors: HashMap<(usize, u32), Value>,
    as_they_are: bool,
    word: Option<Word>,
}

/// A block while code is added that reads it.
pub(crate) struct BlockView<'a> {
    b: &'a mut Builder,
    at: &'a mut Block,
}

/// Which of the four words of each 16 codes a lane has, of four lanes that share a row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Word {
    number: Value,
    is_odd: Value,
    is_high: Value,
}

impl Word {
    /// The word of this number, below four.
    pub fn new(b: &mut Builder, number: Value) -> Word {
        let (two, one) = (b.int(2), b.int(1));
        let odd = b.and(number, one);
        let is_low = b.compare(Compare::ULt, number, two);
        let (zero, one) = (b.int(0), b.int(1));
        let high = b.select(is_low, zero, one);
        Word { number, is_odd: b.compare(Compare::IEq, odd, one), is_high: b.compare(Compare::IEq, high, one) }
    }

    /// Its own of four.
    fn of(self, b: &mut Builder, words: [Value; 4]) -> Value {
        let [low, high] = [0, 2].map(|i| b.select(self.is_odd, words[i + 1], words[i]));
        b.select(self.is_high, high, low)
    }
}

/// Where a row is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowAt {
    /// Byte index of what is not cut: the row, the tile, or the band of tiles.
    pub base: Value,
    /// Row in the tile, in tiled layouts.
    pub lane: Option<Value>,
    /// Tile in the band, where tiles are cut.
    pub tile: Option<Value>,
}

/// Where `row`, an i32 value, is.
pub(crate) fn row_at(b: &mut Builder, m: &Matrix, row: Value) -> RowAt {
    let at = row_in(b, m, row);
    match m.base {
        Some(base) => RowAt { base: b.iadd(base, at.base), ..at },
        None => at,
    }
}

/// Where it is, from the beginning of the matrix on.
fn row_in(b: &mut Builder, m: &Matrix, row: Value) -> RowAt {
    let tile_rows = m.layout.tile_rows();
    if tile_rows == 1 {
        return RowAt { base: b.imul_const(row, m.row_bytes()), lane: None, tile: None };
    }
    let rows = b.size(tile_rows);
    let (tile, lane) = (b.udiv(row, rows), b.urem(row, rows));
    let pieces = m.pieces();
    if pieces.count == 1 {
        return RowAt { base: b.imul_const(tile, tile_rows * m.row_bytes()), lane: Some(lane), tile: None };
    }
    let tiles = b.size(pieces.tiles);
    let (band, tile) = (b.udiv(tile, tiles), b.urem(tile, tiles));
    RowAt { base: b.imul_const(band, pieces.tiles * tile_rows * m.row_bytes()), lane: Some(lane), tile: Some(tile) }
}

/// Byte index, from its band on, of block `block` of the first row of tile `tile` of a band whose tiles are cut.
fn in_pieces(b: &mut Builder, m: &Matrix, tile: Value, block: Value) -> Value {
    let (pieces, bytes) = (m.pieces(), m.format.bytes as usize * m.layout.tile_rows());
    let (blocks, each) = (m.columns / m.format.block as usize, pieces.columns / m.format.block as usize);
    let (blocks_each, last) = (b.size(each), b.size(pieces.count - 1));
    let (piece, within) = (b.udiv(block, blocks_each), b.urem(block, blocks_each));
    let blocks_last = b.size(blocks - (pieces.count - 1) * each);
    let whole = b.compare(Compare::ULt, piece, last);
    let blocks_here = b.select(whole, blocks_each, blocks_last);
    let before = b.imul_const(piece, pieces.tiles * each);
    let tiles_before = b.imul(tile, blocks_here);
    let at = b.iadd(before, tiles_before);
    let at = b.iadd(at, within);
    b.imul_const(at, bytes)
}

impl Block {
    /// Block number `block` of the row at `row`.
    pub fn new(b: &mut Builder, buf: Buf, m: &Matrix, row: RowAt, block: Value) -> Block {
        let (layout, bytes) = (m.layout, m.format.bytes as usize);
        let at = match row.tile {
            Some(tile) => in_pieces(b, m, tile, block),
            None => {
                let span = layout.span(m.format);
                let spans = b.size(span);
                let (number, within) = (b.udiv(block, spans), b.urem(block, spans));
                let number = b.imul_const(number, span * bytes * layout.tile_rows());
                let within = b.imul_const(within, bytes);
                b.iadd(number, within)
            }
        };
        let (base, offset) = match b.as_int(at) {
            Some(constant) => (row.base, constant as usize),
            None => (b.iadd(row.base, at), 0),
        };
        Block {
            buf,
            format: m.format,
            layout,
            base,
            offset,
            lane: row.lane,
            wides: Vec::new(),
            quads: Vec::new(),
            loaded: HashMap::new(),
            vectors: HashMap::new(),
            as_they_are: false,
            word: None,
        }
    }

    /// For a reader that undoes shifts itself: codes stay where they are in their bytes, unsigned and times a power of two, and
    /// those that are looked up come in pairs. `word`: the reader has one word of four only.
    pub fn codes_as_they_are(self, word: Option<Word>) -> Self {
        Block { as_they_are: true, word, ..self }
    }

    /// To add code that reads it.
    pub fn view<'a>(&'a mut self, b: &'a mut Builder) -> BlockView<'a> {
        BlockView { b, at: self }
    }
}

impl BlockView<'_> {
    /// The builder, to go on.
    pub fn builder(&mut self) -> &mut Builder {
        self.b
    }

    /// The vector behind a handle, or the word.
    pub fn vector(&self, w: Wide) -> Value {
        self.at.wides[w.0 as usize]
    }

    /// A scaling as one f32.
    pub fn scale(&mut self, s: Scaling) -> Value {
        match s.times {
            None => s.factor,
            Some(times) => {
                let times = self.b.to_float(times);
                self.b.fmul(s.factor, times)
            }
        }
    }

    /// The element of a float format.
    pub fn float(&mut self, mem: Mem) -> Value {
        let at = self.address(0, 0);
        self.b.load(self.at.buf, at, mem)
    }

    fn address(&mut self, field: usize, byte: u32) -> Value {
        let f = self.at.format.fields[field];
        match self.at.lane {
            None => self.b.iadd_const(self.at.base, self.at.offset + (f.offset + byte) as usize),
            Some(lane) => {
                let (rows, unit, byte) =
                    (self.at.layout.tile_rows(), self.at.layout.unit(self.at.format, &f), byte as usize);
                let first = self.at.layout.reordered(self.at.format, f.offset as usize + byte / unit * unit);
                let fixed = first * rows + byte % unit;
                let in_tile = self.b.imul_const(lane, unit);
                let at = self.b.iadd(self.at.base, in_tile);
                self.b.iadd_const(at, self.at.offset + fixed)
            }
        }
    }

    fn load(&mut self, field: usize, byte: u32, mem: Mem) -> Value {
        if let Some(&v) = self.at.loaded.get(&(field, byte, mem)) {
            return v;
        }
        let unit = self.unit(field);
        // A lane of a GPU takes what lies together at once.
        let v = if self.at.layout == Layout::Rows32 && unit >= 4 && (mem.bytes() < 4 || unit == LANE_BYTES) {
            let word = if unit == LANE_BYTES {
                let vector = self.vector_at(field, byte & !15);
                self.b.lane(vector, (byte % 16 / 4) as u8)
            } else {
                self.load(field, byte & !3, Mem::I32)
            };
            match mem {
                Mem::U8 => self.b.byte(word, (byte % 4) as u8, false),
                Mem::U16 => {
                    let low = self.ishr(word, byte % 4 * 8);
                    self.iand(low, 0xffff)
                }
                _ => word,
            }
        } else {
            let at = self.address(field, byte);
            self.b.load(self.at.buf, at, mem)
        };
        self.at.loaded.insert((field, byte, mem), v);
        v
    }

    /// The 16 bytes at `byte` of a field where they lie together.
    fn vector_at(&mut self, field: usize, byte: u32) -> Value {
        if let Some(&v) = self.at.vectors.get(&(field, byte)) {
            return v;
        }
        let at = self.address(field, byte);
        let v = self.b.load4(self.at.buf, at, Mem::I32);
        self.at.vectors.insert((field, byte), v);
        v
    }

    fn unit(&self, field: usize) -> usize {
        self.at.layout.unit(self.at.format, &self.at.format.fields[field])
    }

    fn push_quad(&mut self, four: Four) -> Quad {
        self.at.quads.push(four);
        Quad(self.at.quads.len() as u32 - 1)
    }

    /// The same for the four bytes: `f` of a word or of one byte, to which masks of one byte are fitted.
    fn each(&mut self, a: Quad, f: impl Fn(&mut Self, Value, u32) -> Value) -> Quad {
        let four = match self.at.quads[a.0 as usize] {
            Four::Word(w) => Four::Word(f(self, w, 0x0101_0101)),
            Four::Bytes(all) => Four::Bytes(all.map(|v| f(self, v, 1))),
        };
        self.push_quad(four)
    }

    fn push(&mut self, v: Value) -> Wide {
        self.at.wides.push(v);
        Wide(self.at.wides.len() as u32 - 1)
    }

    /// A constant in each word.
    fn splat(&mut self, v: i32) -> Value {
        let v = self.b.int(v);
        if self.at.word.is_some() { v } else { self.b.splat(v) }
    }
}

impl Unpack for BlockView<'_> {
    fn words(&mut self, field: usize, byte: u32) -> Wide {
        let one_unit = self.unit(field) == LANE_BYTES;
        if let (Some(_), Some(&v)) = (self.at.word, self.at.vectors.get(&(field, byte))) {
            return self.push(v);
        }
        let v = match self.at.word {
            Some(word) if one_unit => {
                let (first, within) = (self.address(field, byte), self.b.imul_const(word.number, 4));
                let at = self.b.iadd(first, within);
                self.b.load(self.at.buf, at, Mem::I32)
            }
            Some(word) => {
                let places = [0, 4, 8, 12].map(|w| self.address(field, byte + w));
                let at = word.of(self.b, places);
                self.b.load(self.at.buf, at, Mem::I32)
            }
            None if self.at.lane.is_some() && !one_unit => {
                let words = [0, 4, 8, 12].map(|w| self.load(field, byte + w, Mem::I32));
                self.b.pack(words)
            }
            None => self.vector_at(field, byte),
        };
        if self.at.word.is_some() {
            self.at.vectors.insert((field, byte), v);
        }
        self.push(v)
    }

    fn wide(&mut self, words: [Value; 4]) -> Wide {
        let v = match self.at.word {
            Some(word) => word.of(self.b, words),
            None => self.b.pack(words),
        };
        self.push(v)
    }

    fn points(&mut self, table: &'static [u32], indices: [Value; 4]) -> Wide {
        match self.at.word {
            Some(word) => {
                let index = word.of(self.b, indices);
                let v = self.table(table, index);
                self.push(v)
            }
            None => {
                let words = indices.map(|index| self.table(table, index));
                self.wide(words)
            }
        }
    }

    fn spread(&mut self, a: Value, to: u32) -> Wide {
        match self.at.word {
            Some(word) => {
                let fours = [0, 4, 8, 12].map(|from| self.ishr(a, from));
                let own = word.of(self.b, fours);
                let v = self.spread_four(own, 0, to);
                self.push(v)
            }
            None => {
                let words = [0, 4, 8, 12].map(|from| self.spread_four(a, from, to));
                self.wide(words)
            }
        }
    }

    fn byte(&mut self, field: usize, byte: u32) -> Value {
        self.load(field, byte, Mem::U8)
    }

    fn short(&mut self, field: usize, byte: u32) -> Value {
        self.load(field, byte, Mem::U16)
    }

    fn word(&mut self, field: usize, byte: u32) -> Value {
        self.load(field, byte, Mem::I32)
    }

    fn table(&mut self, table: &'static [u32], index: Value) -> Value {
        let buf = self.b.constant(format!("{}_table", self.at.format.name), Mem::I32, table);
        self.b.load_constant(buf, index)
    }

    fn part(&mut self, a: Wide, from: u32, width: u32) -> (Wide, u8) {
        let mask = ((1 << width) - 1) * 0x0101_0101;
        if self.at.as_they_are {
            return (self.and(a, mask << from), from as u8);
        }
        let moved = self.shr(a, from);
        (self.and(moved, mask), 0)
    }

    fn and(&mut self, a: Wide, mask: u32) -> Wide {
        let mask = self.splat(mask as i32);
        let v = self.b.and(self.vector(a), mask);
        self.push(v)
    }

    fn or(&mut self, a: Wide, b: Wide) -> Wide {
        let v = self.b.or(self.vector(a), self.vector(b));
        self.push(v)
    }

    fn xor(&mut self, a: Wide, b: Wide) -> Wide {
        let v = self.b.xor(self.vector(a), self.vector(b));
        self.push(v)
    }

    fn shl(&mut self, a: Wide, by: u32) -> Wide {
        let by = self.b.int(by as i32);
        let v = self.b.shl(self.vector(a), by);
        self.push(v)
    }

    fn shr(&mut self, a: Wide, by: u32) -> Wide {
        let by = self.b.int(by as i32);
        let v = self.b.shr_u(self.vector(a), by);
        self.push(v)
    }

    fn sub(&mut self, a: Wide, b: Wide) -> Wide {
        let v = self.b.sub_bytes(self.vector(a), self.vector(b));
        self.push(v)
    }

    fn fill(&mut self, a: Wide) -> Wide {
        let v = self.b.fill_bytes(self.vector(a));
        self.push(v)
    }

    fn negate(&mut self, codes: Wide, mask: Wide) -> Wide {
        if self.at.layout != Layout::Rows32 {
            let flipped = self.xor(codes, mask);
            return self.sub(flipped, mask);
        }
        // 256 less each byte, which takes one from the byte above; a GPU has no instruction for bytes.
        let all = self.splat(0x0101_0100);
        let v = self.b.isub(all, self.vector(codes));
        let negative = self.push(v);
        let differ = self.xor(codes, negative);
        let v = self.b.and(self.vector(differ), self.vector(mask));
        let differ = self.push(v);
        self.xor(codes, differ)
    }

    fn look_up(&mut self, a: Wide, half: u32, table: &[i8; 16]) -> Wide {
        if self.at.word.is_some() {
            // Of the nibbles of one word.
            let v = self.b.lut_nibbles(self.vector(a), half as u8, *table);
            return self.push(v);
        }
        if self.at.as_they_are {
            let words = [0, 1].map(|i| self.b.lane(self.vector(a), (2 * half + i) as u8));
            let codes = [0, 1, 2, 3].map(|i| self.b.lut_nibbles(words[i / 2], (i % 2) as u8, *table));
            return self.wide(codes);
        }
        let codes = self.shr(a, half * 4);
        let codes = self.and(codes, 0x0f0f_0f0f);
        let v = self.b.lut16(self.vector(codes), *table);
        self.push(v)
    }

    fn quad(&mut self, field: usize, byte: u32) -> Quad {
        let four = if self.at.layout == Layout::Rows32 && self.unit(field) >= 4 {
            Four::Word(self.load(field, byte, Mem::I32))
        } else {
            Four::Bytes([0, 1, 2, 3].map(|i| self.load(field, byte + i, Mem::U8)))
        };
        self.push_quad(four)
    }

    fn nibbles(&mut self, a: Value) -> Quad {
        let four = if self.at.layout == Layout::Rows32 {
            let mut spread = a;
            for (by, mask) in [(8, 0x00ff_00ff), (4, 0x0f0f_0f0f)] {
                let moved = self.ishl(spread, by);
                spread = self.ior(spread, moved);
                spread = self.iand(spread, mask);
            }
            Four::Word(spread)
        } else {
            Four::Bytes([0, 4, 8, 12].map(|from| self.bits(a, from, 4)))
        };
        self.push_quad(four)
    }

    fn move_bits(&mut self, a: Quad, from: u32, width: u32, to: u32) -> Quad {
        let mask = ((1 << width) - 1) << to;
        self.each(a, |view, v, ones| {
            let moved = if from > to { view.ishr(v, from - to) } else { view.ishl(v, to - from) };
            view.iand(moved, mask * ones)
        })
    }

    fn merge(&mut self, a: Quad, b: Quad) -> Quad {
        let four = match (self.at.quads[a.0 as usize], self.at.quads[b.0 as usize]) {
            (Four::Word(a), Four::Word(b)) => Four::Word(self.b.or(a, b)),
            _ => Four::Bytes([0, 1, 2, 3].map(|i| {
                let (a, b) = (self.pick(a, i, false), self.pick(b, i, false));
                self.b.or(a, b)
            })),
        };
        self.push_quad(four)
    }

    fn flip(&mut self, a: Quad, mask: u8) -> Quad {
        self.each(a, |view, v, ones| {
            let mask = view.int(u32::from(mask) * ones);
            view.ixor(v, mask)
        })
    }

    fn pick(&mut self, a: Quad, number: u32, signed: bool) -> Value {
        match self.at.quads[a.0 as usize] {
            Four::Word(w) => self.b.byte(w, number as u8, signed),
            Four::Bytes(all) if signed => self.b.byte(all[number as usize], 0, true),
            Four::Bytes(all) => all[number as usize],
        }
    }

    fn int(&mut self, v: u32) -> Value {
        self.b.int(v as i32)
    }

    fn iand(&mut self, a: Value, mask: u32) -> Value {
        let mask = self.b.int(mask as i32);
        self.b.and(a, mask)
    }

    fn ior(&mut self, a: Value, b: Value) -> Value {
        self.b.or(a, b)
    }

    fn ixor(&mut self, a: Value, b: Value) -> Value {
        self.b.xor(a, b)
    }

    fn ishl(&mut self, a: Value, by: u32) -> Value {
        let by = self.b.int(by as i32);
        self.b.shl(a, by)
    }

    fn ishr(&mut self, a: Value, by: u32) -> Value {
        let by = self.b.int(by as i32);
        self.b.shr_u(a, by)
    }

    fn iadd(&mut self, a: Value, by: i32) -> Value {
        let by = self.b.int(by);
        self.b.iadd(a, by)
    }

    fn isum(&mut self, a: Value, b: Value) -> Value {
        self.b.iadd(a, b)
    }

    fn count_ones(&mut self, a: Value) -> Value {
        self.b.count_ones(a)
    }

    fn imul(&mut self, a: Value, by: u32) -> Value {
        let by = self.b.int(by as i32);
        self.b.imul(a, by)
    }

    fn to_f32(&mut self, a: Value) -> Value {
        self.b.to_float(a)
    }

    fn half_to_f32(&mut self, a: Value) -> Value {
        self.b.from_half(a)
    }

    fn bf16_to_f32(&mut self, a: Value) -> Value {
        self.b.from_bf16(a)
    }

    fn fmul(&mut self, a: Value, b: Value) -> Value {
        self.b.fmul(a, b)
    }

    fn fscale(&mut self, a: Value, by: f32) -> Value {
        let by = self.b.float(by);
        self.b.fmul(a, by)
    }
}

/// The element of a float format at `column`, as f32.
pub(crate) fn float_element(b: &mut Builder, w: Buf, m: &Matrix, kind: FloatKind, row: RowAt, column: Value) -> Value {
    let mut block = Block::new(b, w, m, row, column);
    let mut view = block.view(b);
    match kind {
        FloatKind::F32 => view.float(Mem::F32),
        FloatKind::F16 => {
            let v = view.float(Mem::U16);
            b.from_half(v)
        }
        FloatKind::Bf16 => {
            let v = view.float(Mem::U16);
            b.from_bf16(v)
        }
    }
}
