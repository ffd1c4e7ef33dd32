//! Matrix instructions: `ldmatrix`, `stmatrix`, `movmatrix`, `mma`, `wmma`.

use super::body::Body;
use super::mods::Mods;
use crate::ast::{Arg, Instr};
use crate::counters::Class;
use crate::matrix::{Elem, Form, MMA, Role, WMMA};
use crate::parse::ParseError;
use crate::program::{Access, Fragment, Matrices, Op, Product, Term, Tile};
use crate::types::{Order, Scope, Space, Ty};

type Result<T> = std::result::Result<T, ParseError>;

impl Elem {
    /// The type of a register that holds elements.
    fn register(self) -> Ty {
        match self {
            Elem::F32 => Ty::F32,
            Elem::F64 => Ty::F64,
            _ => Ty::B(32),
        }
    }
}

impl Body<'_, '_> {
    /// Decodes an instruction if it is one of these.
    pub(super) fn matrix(&mut self, instr: &Instr, m: &mut Mods) -> Result<bool> {
        let a = instr.args.as_slice();
        match instr.op.as_str() {
            "ldmatrix" => self.matrices(a, m, false),
            "stmatrix" => self.matrices(a, m, true),
            "movmatrix" => {
                let named = ["sync", "aligned", "m8n8", "trans", "b16"].iter().all(|n| m.take(n));
                let ([d, s], true) = (a, named) else { return Err(m.unknown()) };
                let (d, s) = (self.dst(d, Ty::B(32))?, self.src(s, Ty::B(32))?);
                self.emit(Op::MoveMatrix { d, s }, Class::Mma);
                Ok(true)
            }
            "mma" => self.product(a, m, MMA),
            "wmma" if m.take("mma") => self.product(a, m, WMMA),
            "wmma" if m.take("load") => self.tile(a, m, false),
            "wmma" if m.take("store") => self.tile(a, m, true),
            _ => Ok(false),
        }
    }

    fn matrices(&mut self, a: &[Arg], m: &mut Mods, store: bool) -> Result<bool> {
        let named = ["sync", "aligned", "m8n8"].iter().all(|n| m.take(n));
        let count = match m.one_of(&["x1", "x2", "x4"]) {
            Some("x1") => 1,
            Some("x2") => 2,
            Some(_) if named => 4,
            _ => return Err(m.unknown()),
        };
        let transposed = m.take("trans");
        let space = m.space();
        let (Ty::B(16), [first, second]) = (m.ty()?, a) else { return Err(m.unknown()) };
        let (operand, address) = if store { (second, first) } else { (first, second) };
        let (address, space) = self.address_in(address, space)?;
        let regs = self.regs(operand, Ty::B(32), !store)?;
        if regs.len() != count || !matches!(space, Space::Shared | Space::Generic) {
            return Err(m.unknown());
        }
        let class = if store { Class::SharedStore } else { Class::SharedLoad };
        self.emit(Op::Matrices(Box::new(Matrices { store, transposed, space, address, regs })), class);
        Ok(true)
    }

    /// `.row` or `.col`, as whether it is `.col`.
    fn by_columns(m: &mut Mods) -> Result<bool> {
        Ok(m.one_of(&["row", "col"]).ok_or_else(|| m.unknown())? == "col")
    }

    /// `mma` and `wmma.mma`.
    fn product(&mut self, a: &[Arg], m: &mut Mods, table: &'static [Form]) -> Result<bool> {
        let term = match (m.one_of(&["xor", "and"]), m.take("popc")) {
            (Some("xor"), true) => Term::Xor,
            (Some(_), true) => Term::And,
            (None, false) => Term::Product,
            _ => return Err(m.unknown()),
        };
        if !m.take("sync") || !m.take("aligned") {
            return Err(m.unknown());
        }
        let (a_columns, b_columns) = (Self::by_columns(m)?, Self::by_columns(m)?);
        let shape = m.find_str(|n| Form::has_shape(table, n)).ok_or_else(|| m.unknown())?;
        let saturate = m.take("satfinite");
        let small_floats = m.take("kind::f8f6f4");
        let round = m.mode().round;
        let mut types = Vec::new();
        while let Some(elem) = m.find(Elem::parse) {
            types.push(elem);
        }
        let (sum, x, y, start) = match types[..] {
            // Factors in f16 are not named by wmma.
            [d, c] if std::ptr::eq(table, WMMA) => (d, Elem::F16, Elem::F16, c),
            [d, x, y, c] => (d, x, y, c),
            _ => return Err(m.unknown()),
        };
        let form = Form::find(table, shape, x, y).ok_or_else(|| m.unknown())?;
        let known = x.sums().contains(&sum) && x.sums().contains(&start);
        // Only the oldest products start from a sum of another type.
        let mixed = sum == start || (form.layout.any_order && x == Elem::F16);
        let ordered = (a_columns, b_columns) == (false, true) || (form.layout.any_order && x.bits() >= 8);
        let saturates = !saturate || sum == Elem::S32;
        let terms = (term != Term::Product) == (x == Elem::B1);
        let floats = !small_floats || matches!(x, Elem::E4m3 | Elem::E5m2);
        let rounds = round == crate::types::Round::Near || sum == Elem::F64;
        if ![known, mixed, ordered, saturates, terms, floats, rounds].iter().all(|&holds| holds) {
            return Err(m.unknown());
        }
        let [d, a, b, c] = a else { return Err(m.error(format!("{} operands", a.len()))) };
        let product = Product {
            size: form.size,
            matrices: form.layout.matrices,
            d: self.fragment(m, form, (Role::C, sum, false), d, true)?,
            a: self.fragment(m, form, (Role::A, x, a_columns), a, false)?,
            b: self.fragment(m, form, (Role::B, y, b_columns), b, false)?,
            c: self.fragment(m, form, (Role::C, start, false), c, false)?,
            term,
            saturate,
            round,
        };
        self.emit(Op::Product(Box::new(product)), Class::Mma);
        Ok(true)
    }

    /// The registers of a matrix.
    fn fragment(
        &mut self,
        m: &Mods,
        form: &Form,
        (role, elem, by_columns): (Role, Elem, bool),
        arg: &Arg,
        result: bool,
    ) -> Result<Fragment> {
        let regs = self.regs(arg, elem.register(), result)?;
        let want = form.registers(role, elem);
        if regs.len() != want {
            return Err(m.error(format!("a fragment has {} registers instead of {want}", regs.len())));
        }
        Ok(Fragment { elem, places: form.places(role, elem, by_columns, regs.len()), regs })
    }

    /// `wmma.load` and `wmma.store`.
    fn tile(&mut self, args: &[Arg], m: &mut Mods, store: bool) -> Result<bool> {
        let role = match m.one_of(&["a", "b", "c", "d"]) {
            Some("a") if !store => Role::A,
            Some("b") if !store => Role::B,
            Some("c") if !store => Role::C,
            Some("d") if store => Role::C,
            _ => return Err(m.unknown()),
        };
        if !m.take("sync") || !m.take("aligned") {
            return Err(m.unknown());
        }
        let by_columns = Self::by_columns(m)?;
        let shape = m.find_str(|n| Form::has_shape(WMMA, n)).ok_or_else(|| m.unknown())?;
        let space = m.space();
        let elem = m.find(Elem::parse).ok_or_else(|| m.error("a type is missing"))?;
        let form = Form::with(WMMA, shape, role, elem).ok_or_else(|| m.unknown())?;
        // Elements of less than a byte are together in words only along the depth.
        if elem.bits() < 8 && by_columns != (role == Role::B) {
            return Err(m.unknown());
        }
        let (operand, address, stride) = match (args, store) {
            ([d, address], false) | ([address, d], true) => (d, address, None),
            ([d, address, stride], false) | ([address, d, stride], true) => (d, address, Some(stride)),
            _ => return Err(m.error(format!("{} operands", args.len()))),
        };
        let (address, space) = self.address_in(address, space)?;
        if !matches!(space, Space::Generic | Space::Global | Space::Shared) {
            return Err(m.unknown());
        }
        let (rows, columns) = form.extent(role);
        let stride = match stride {
            Some(s) => self.src(s, Ty::B(32))?,
            None => self.bits(if by_columns { rows } else { columns } as u64),
        };
        let order = by_columns && role != Role::C;
        let fragment = self.fragment(m, form, (role, elem, order), operand, !store)?;
        // What is loaded or stored at once by a lane: an element, or a word of elements.
        let step = if elem.bits() < 8 { elem.per_register() } else { 1 };
        let elements = fragment.regs.len() * elem.per_register();
        let place = |i: usize, lane: usize| {
            let [_, row, column] = form.position(role, elem, order, lane, i);
            if by_columns { [column as u32, row as u32] } else { [row as u32, column as u32] }
        };
        let places = (0..elements).step_by(step).flat_map(|i| (0..crate::alu::WARP).map(move |lane| (i, lane)));
        let places = places.map(|(i, lane)| place(i, lane)).collect();
        let access = Access {
            store,
            space,
            address,
            bytes: (step * elem.bits() / 8) as u32,
            extend: 0,
            width: elem.register_bits() as u32,
            regs: vec![self.temporary()],
            order: Order::Weak,
            scope: Scope::Gpu,
            strong: false,
        };
        let class = super::memory::class(space, store);
        self.emit(
            Op::Tile(Box::new(Tile { access, bits: elem.bits() as u32, stride, regs: fragment.regs, places })),
            class,
        );
        Ok(true)
    }
}
