//! Reads `.npy` files of 32-bit floats (format of NumPy, versions 1 to 3).

use std::path::Path;

/// A two-dimensional array.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    /// Elements of a row.
    pub columns: usize,
    /// The elements, row by row.
    pub values: Vec<f32>,
}

impl Matrix {
    /// Reads a file; `None` if there is none.
    ///
    /// # Panics
    /// If it is no little-endian f32 matrix in row order.
    pub fn load(path: &Path) -> Option<Matrix> {
        let bytes = std::fs::read(path).ok()?;
        Some(parse(&bytes).unwrap_or_else(|| panic!("{} is no f32 matrix in row order", path.display())))
    }

    /// A row.
    pub fn row(&self, n: usize) -> &[f32] {
        &self.values[n * self.columns..][..self.columns]
    }
}

fn parse(bytes: &[u8]) -> Option<Matrix> {
    let (version, rest) = bytes.strip_prefix(b"\x93NUMPY")?.split_first_chunk::<2>()?;
    let (header, data) = if version[0] == 1 {
        let (length, rest) = rest.split_first_chunk()?;
        rest.split_at_checked(u16::from_le_bytes(*length).into())?
    } else {
        let (length, rest) = rest.split_first_chunk()?;
        rest.split_at_checked(u32::from_le_bytes(*length) as usize)?
    };
    let header = std::str::from_utf8(header).ok()?;
    let (_, shape) = header.split_once("'shape': (")?;
    let (shape, _) = shape.split_once(')')?;
    let shape: Vec<usize> = shape.split(',').map(|n| n.trim().parse()).collect::<Result<_, _>>().ok()?;
    let &[rows, columns] = shape.as_slice() else { return None };
    let plain = header.contains("'descr': '<f4'") && header.contains("'fortran_order': False");
    let values: Vec<f32> = data.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
    (plain && data.len() == rows * columns * 4).then_some(Matrix { columns, values })
}
