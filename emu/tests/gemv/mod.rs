//! The GEMV that hand-written kernels compute: inputs, their layout, the result.

/// A GEMV of 4-bit weights in blocks of 32 and int8 activations, as the `q4_tma` kernels read them.
pub struct Gemv {
    rows: usize,
    k: usize,
    /// Tiles of 32 rows by 256 columns: for each block 16 bytes of each row, then eight f16 scales of each row.
    tiles: Vec<u8>,
    /// int8 activations.
    xq: Vec<i8>,
    /// For each block: scale, and -8 times the sum of its activations.
    xs: Vec<(f32, i32)>,
}

/// A scale, as f16 bits and value.
fn scale(row: usize, block: usize) -> (u16, f64) {
    let step = (row * 7 + block * 3) % 5;
    // 2^-10 and the four numbers above it in steps of a quarter.
    (0x1400 + ((step as u16) << 8), (1.0 + step as f64 / 4.0) / 1024.0)
}

fn nibble(row: usize, column: usize) -> u8 {
    ((row * 31 + column * 17 + (row * column) % 13) % 16) as u8
}

impl Gemv {
    /// Of `rows` times `k`, with made-up numbers.
    pub fn new(rows: usize, k: usize) -> Gemv {
        let mut tiles = Vec::with_capacity(rows * k * 9 / 16);
        for group in 0..rows / 32 {
            for tile in 0..k / 256 {
                for block in 0..8 {
                    for row in 0..32 {
                        let (r, c) = (group * 32 + row, tile * 256 + block * 32);
                        tiles.extend((0..16).map(|i| nibble(r, c + i) | nibble(r, c + 16 + i) << 4));
                    }
                }
                for row in 0..32 {
                    for block in 0..8 {
                        tiles.extend(scale(group * 32 + row, tile * 8 + block).0.to_le_bytes());
                    }
                }
            }
        }
        let xq: Vec<i8> = (0..k).map(|i| ((i * 37 + i / 11) % 255) as i8).collect();
        let sum = |b: &[i8]| b.iter().map(|&x| i32::from(x)).sum::<i32>();
        let xs = xq.chunks(32).enumerate().map(|(i, b)| (0.5 + (i % 3) as f32 * 0.25, -8 * sum(b))).collect();
        Gemv { rows, k, tiles, xq, xs }
    }

    /// Puts everything into memory: the parameters of the kernel, and the address of the result.
    pub fn upload(&self, memory: &mut emu::Memory) -> (Vec<u8>, u64) {
        let xs = self.xs.iter().flat_map(|(d, s)| [d.to_bits().to_le_bytes(), s.to_le_bytes()].concat()).collect();
        let mut addresses = Vec::new();
        for bytes in [self.tiles.clone(), self.xq.iter().map(|&x| x as u8).collect(), xs] {
            let address = memory.alloc_with(bytes, 256).expect("memory is enough");
            memory.protect(address).expect("it is an allocation");
            addresses.push(address);
        }
        let y = memory.alloc_with(vec![0; self.rows * 4], 256).expect("memory is enough");
        addresses.push(y);
        (addresses.iter().flat_map(|a| a.to_le_bytes()).collect(), y)
    }

    /// Compares a result with the sum in f64.
    ///
    /// # Panics
    /// If they differ.
    pub fn check(&self, y: &[u8]) {
        for (row, got) in y.chunks_exact(4).enumerate().step_by(self.rows / 32) {
            let got = f64::from(f32::from_le_bytes(got.try_into().expect("four bytes")));
            let mut want = 0.0;
            let mut size = 0.0;
            for column in 0..self.k {
                let (d, x) = (f64::from(self.xs[column / 32].0), f64::from(self.xq[column]));
                let term = (f64::from(nibble(row, column)) - 8.0) * scale(row, column / 32).1 * d * x;
                want += term;
                size += term.abs();
            }
            assert!((got - want).abs() <= 1e-5 * size, "row {row}: {got}, expected {want}");
        }
    }
}
