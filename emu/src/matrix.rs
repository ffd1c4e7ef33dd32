//! Matrices that a warp multiplies together: types of elements, shapes, and which element of a matrix each part of a lane's
//! registers holds. A product of new shape or type is a row of [`MMA`] or [`WMMA`].

use crate::alu::WARP;
use crate::alu::soft::{BF16, E4M3, E5M2, F16};

/// Type of an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Elem {
    F16,
    Bf16,
    Tf32,
    F32,
    F64,
    E4m3,
    E5m2,
    U8,
    S8,
    U4,
    S4,
    B1,
    S32,
}

/// What holds of a type.
struct Properties {
    name: &'static str,
    bits: usize,
    /// What its bits stand for; those above are ignored.
    value: fn(u64) -> f64,
    /// Types that sums of its products have.
    sums: &'static [Elem],
}

impl Elem {
    fn properties(self) -> Properties {
        let of = |name, bits, value, sums| Properties { name, bits, value, sums };
        match self {
            Elem::F16 => of("f16", 16, |b| F16.value(b & 0xffff), &[Elem::F16, Elem::F32]),
            Elem::Bf16 => of("bf16", 16, |b| BF16.value(b & 0xffff), &[Elem::F32]),
            // The low bits of a tf32 are ignored.
            Elem::Tf32 => of("tf32", 32, |b| f64::from(f32::from_bits(b as u32 & !0x1fff)), &[Elem::F32]),
            Elem::F32 => of("f32", 32, |b| f64::from(f32::from_bits(b as u32)), &[]),
            Elem::F64 => of("f64", 64, f64::from_bits, &[Elem::F64]),
            Elem::E4m3 => of("e4m3", 8, |b| E4M3.value(b & 0xff), &[Elem::F32, Elem::F16]),
            Elem::E5m2 => of("e5m2", 8, |b| E5M2.value(b & 0xff), &[Elem::F32, Elem::F16]),
            Elem::U8 => of("u8", 8, |b| f64::from(b as u8), &[Elem::S32]),
            Elem::S8 => of("s8", 8, |b| f64::from(b as i8), &[Elem::S32]),
            Elem::U4 => of("u4", 4, |b| f64::from(b as u8 & 15), &[Elem::S32]),
            Elem::S4 => of("s4", 4, |b| f64::from((b as i8) << 4 >> 4), &[Elem::S32]),
            Elem::B1 => of("b1", 1, |b| f64::from(b as u8 & 1), &[Elem::S32]),
            Elem::S32 => of("s32", 32, |b| f64::from(b as i32), &[]),
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Elem> {
        use Elem::{B1, Bf16, E4m3, E5m2, F16, F32, F64, S4, S8, S32, Tf32, U4, U8};
        [F16, Bf16, Tf32, F32, F64, E4m3, E5m2, U8, S8, U4, S4, B1, S32]
            .into_iter()
            .find(|e| e.properties().name == name)
    }

    pub(crate) fn bits(self) -> usize {
        self.properties().bits
    }

    /// Bits of the registers that hold it.
    pub(crate) fn register_bits(self) -> usize {
        self.bits().max(32)
    }

    /// Elements in a register.
    pub(crate) fn per_register(self) -> usize {
        self.register_bits() / self.bits()
    }

    /// What the bits stand for; those above an element's are ignored.
    pub(crate) fn value(self) -> fn(u64) -> f64 {
        self.properties().value
    }

    /// Types that sums of products have.
    pub(crate) fn sums(self) -> &'static [Elem] {
        self.properties().sums
    }
}

/// An element of a lane's fragment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    lane: usize,
    /// Its number among those of the lane.
    i: usize,
    /// Elements of a lane, and of a register.
    all: usize,
    per: usize,
    rows: usize,
    columns: usize,
    /// The matrix was declared `.col`.
    by_columns: bool,
}

/// Where an element is: its matrix among those that are multiplied at once, row, column.
type Position = fn(Part) -> [usize; 3];

/// The factors and the sums of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    A,
    B,
    C,
}

/// Where the elements of a kind of product are.
#[derive(Debug)]
pub(crate) struct Layout {
    positions: [Position; 3],
    /// Elements of a lane at least, of 16-bit factors.
    wide: usize,
    /// Matrices that are multiplied at once.
    pub(crate) matrices: usize,
    /// Factors may be declared `.row` or `.col` alike.
    pub(crate) any_order: bool,
}

/// Registers of 8 rows: lane l has neighbours of row l / 4.
static TILES: Layout = Layout {
    positions: [
        |p| {
            let (tiles, register) = (p.rows / 8, p.i / p.per);
            [0, p.lane / 4 + 8 * (register % tiles), p.per * (p.lane % 4 + 4 * (register / tiles)) + p.i % p.per]
        },
        |p| [0, p.per * (p.lane % 4 + 4 * (p.i / p.per)) + p.i % p.per, p.lane / 4],
        |p| [0, p.lane / 4 + 8 * (p.i / 2), 2 * (p.lane % 4) + p.i % 2],
    ],
    wide: 0,
    matrices: 1,
    any_order: false,
};

/// Four products at once: four lanes and those 16 further have one.
static QUADS: Layout = Layout {
    positions: [
        |p| {
            let (quad, half) = (p.lane / 4 % 4, 4 * (p.lane / 16));
            if p.by_columns { [quad, p.i + half, p.lane % 4] } else { [quad, p.lane % 4 + half, p.i] }
        },
        |p| {
            let (quad, half) = (p.lane / 4 % 4, 4 * (p.lane / 16));
            if p.by_columns { [quad, p.i, p.lane % 4 + half] } else { [quad, p.lane % 4, p.i + half] }
        },
        |p| {
            let (quad, half) = (p.lane / 4 % 4, 4 * (p.lane / 16));
            match p.per {
                2 => [quad, p.lane % 4 + half, p.i],
                _ => [quad, (p.lane & 1) + (p.i & 2) + half, (p.i & 4) + (p.lane & 2) + (p.i & 1)],
            }
        },
    ],
    wide: 0,
    matrices: 4,
    any_order: true,
};

/// The ISA leaves open where the elements of `wmma` are: here they go from lane to lane in the order of memory. Some are in
/// two lanes.
static IN_ORDER: Layout = Layout {
    positions: [in_order, in_order, |p| in_order(Part { by_columns: false, ..p })],
    wide: 16,
    matrices: 1,
    any_order: true,
};

fn in_order(p: Part) -> [usize; 3] {
    let at = (p.lane * p.all + p.i) % (p.rows * p.columns);
    if p.by_columns { [0, at % p.rows, at / p.rows] } else { [0, at / p.columns, at % p.columns] }
}

/// A product that exists.
#[derive(Debug)]
pub(crate) struct Form {
    /// As PTX spells it.
    shape: &'static str,
    /// Rows, columns, and the depth that is summed over.
    pub(crate) size: [usize; 3],
    factors: &'static [Elem],
    pub(crate) layout: &'static Layout,
}

const fn form(shape: &'static str, size: [usize; 3], factors: &'static [Elem], layout: &'static Layout) -> Form {
    Form { shape, size, factors, layout }
}

const HALVES: &[Elem] = &[Elem::F16, Elem::Bf16];
const BYTES: &[Elem] = &[Elem::U8, Elem::S8];
const NIBBLES: &[Elem] = &[Elem::U4, Elem::S4];
const SMALL_FLOATS: &[Elem] = &[Elem::E4m3, Elem::E5m2];
const WMMA_FACTORS: &[Elem] = &[Elem::F16, Elem::Bf16, Elem::U8, Elem::S8];

/// Products of `mma`.
pub(crate) static MMA: &[Form] = &[
    form("m8n8k4", [8, 8, 4], &[Elem::F16], &QUADS),
    form("m16n8k8", [16, 8, 8], HALVES, &TILES),
    form("m16n8k16", [16, 8, 16], HALVES, &TILES),
    form("m16n8k4", [16, 8, 4], &[Elem::Tf32], &TILES),
    form("m16n8k8", [16, 8, 8], &[Elem::Tf32], &TILES),
    form("m8n8k4", [8, 8, 4], &[Elem::F64], &TILES),
    form("m16n8k4", [16, 8, 4], &[Elem::F64], &TILES),
    form("m16n8k8", [16, 8, 8], &[Elem::F64], &TILES),
    form("m16n8k16", [16, 8, 16], &[Elem::F64], &TILES),
    form("m16n8k16", [16, 8, 16], SMALL_FLOATS, &TILES),
    form("m16n8k32", [16, 8, 32], SMALL_FLOATS, &TILES),
    form("m8n8k16", [8, 8, 16], BYTES, &TILES),
    form("m16n8k16", [16, 8, 16], BYTES, &TILES),
    form("m16n8k32", [16, 8, 32], BYTES, &TILES),
    form("m8n8k32", [8, 8, 32], NIBBLES, &TILES),
    form("m16n8k32", [16, 8, 32], NIBBLES, &TILES),
    form("m16n8k64", [16, 8, 64], NIBBLES, &TILES),
    form("m8n8k128", [8, 8, 128], &[Elem::B1], &TILES),
    form("m16n8k128", [16, 8, 128], &[Elem::B1], &TILES),
    form("m16n8k256", [16, 8, 256], &[Elem::B1], &TILES),
];

/// Products of `wmma`.
pub(crate) static WMMA: &[Form] = &[
    form("m16n16k16", [16, 16, 16], WMMA_FACTORS, &IN_ORDER),
    form("m8n32k16", [8, 32, 16], WMMA_FACTORS, &IN_ORDER),
    form("m32n8k16", [32, 8, 16], WMMA_FACTORS, &IN_ORDER),
    form("m16n16k8", [16, 16, 8], &[Elem::Tf32], &IN_ORDER),
    form("m8n8k4", [8, 8, 4], &[Elem::F64], &IN_ORDER),
    form("m8n8k32", [8, 8, 32], NIBBLES, &IN_ORDER),
    form("m8n8k128", [8, 8, 128], &[Elem::B1], &IN_ORDER),
];

impl Form {
    /// The product of that shape and those factors.
    pub(crate) fn find(table: &'static [Form], shape: &str, a: Elem, b: Elem) -> Option<&'static Form> {
        let alike = |f: &&Form| f.factors.contains(&a) && f.factors.contains(&b);
        // Floats of one register width do not mix.
        let mixes = a == b || a.bits() < 16;
        table.iter().filter(|f| f.shape == shape).find(alike).filter(|_| mixes)
    }

    /// Whether a product has that shape.
    pub(crate) fn has_shape(table: &[Form], shape: &str) -> bool {
        table.iter().any(|f| f.shape == shape)
    }

    /// The product in which an element may have that role.
    pub(crate) fn with(table: &'static [Form], shape: &str, role: Role, elem: Elem) -> Option<&'static Form> {
        let has = |f: &&Form| match role {
            Role::C => f.factors.iter().any(|e| e.sums().contains(&elem)),
            Role::A | Role::B => f.factors.contains(&elem),
        };
        table.iter().filter(|f| f.shape == shape).find(has)
    }

    /// Rows and columns of a matrix of the product.
    pub(crate) fn extent(&self, role: Role) -> (usize, usize) {
        let [m, n, k] = self.size;
        match role {
            Role::A => (m, k),
            Role::B => (k, n),
            Role::C => (m, n),
        }
    }

    /// Elements of a lane.
    fn elements(&self, role: Role, elem: Elem) -> usize {
        let (rows, columns) = self.extent(role);
        let least = if role != Role::C && elem == Elem::F16 { self.layout.wide } else { 0 };
        (rows * columns * self.layout.matrices / WARP).max(least)
    }

    /// Registers of a lane.
    pub(crate) fn registers(&self, role: Role, elem: Elem) -> usize {
        self.elements(role, elem) / elem.per_register()
    }

    /// Where an element is.
    pub(crate) fn position(&self, role: Role, elem: Elem, by_columns: bool, lane: usize, i: usize) -> [usize; 3] {
        let (rows, columns) = self.extent(role);
        let (all, per) = (self.elements(role, elem), elem.per_register());
        let part = Part { lane, i, all, per, rows, columns, by_columns };
        self.layout.positions[role as usize](part)
    }

    /// Where the elements of a number of registers are in the matrices, row by row: for each element, for each lane.
    pub(crate) fn places(&self, role: Role, elem: Elem, by_columns: bool, registers: usize) -> Vec<u16> {
        let (rows, columns) = self.extent(role);
        let place = |i: usize, lane: usize| {
            let [matrix, row, column] = self.position(role, elem, by_columns, lane, i);
            ((matrix * rows + row) * columns + column) as u16
        };
        let elements = registers * elem.per_register();
        (0..elements).flat_map(|i| (0..WARP).map(move |lane| (i, lane))).map(|(i, lane)| place(i, lane)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every element of every matrix is in a lane, and what a lane has fits its registers.
    #[test]
    fn fragments_cover_their_matrices() {
        for (name, table) in [("mma", MMA), ("wmma", WMMA)] {
            for f in table {
                for &elem in f.factors {
                    for (role, elem) in
                        [(Role::A, elem), (Role::B, elem)].into_iter().chain(elem.sums().iter().map(|&s| (Role::C, s)))
                    {
                        for by_columns in [false, true] {
                            let places = f.places(role, elem, by_columns, f.registers(role, elem));
                            let (rows, columns) = f.extent(role);
                            let mut seen = vec![0; rows * columns * f.layout.matrices];
                            places.iter().for_each(|&at| seen[usize::from(at)] += 1);
                            let often = places.len() / seen.len();
                            assert!(
                                often > 0 && seen.iter().all(|&n| n == often),
                                "{name} {} {elem:?} {role:?}",
                                f.shape
                            );
                        }
                    }
                }
            }
        }
    }
}
