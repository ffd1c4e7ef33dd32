//! The type ids of GGML's tensor tables, including those that rigc does not compute with: enough to size a tensor of any
//! of them and to name it in a message. Source: ggml.h and ggml-common.h (MIT licence).

/// A tensor type of GGML.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GgmlType {
    /// Type id in GGUF tensor tables.
    pub id: u32,
    /// GGML's name, upper case.
    pub name: &'static str,
    /// Elements of a block.
    pub block: u32,
    /// Bytes of a block.
    pub bytes: u32,
}

const fn ty(id: u32, name: &'static str, block: u32, bytes: u32) -> GgmlType {
    GgmlType { id, name, block, bytes }
}

/// Every type with an id in use, by id.
pub static GGML_TYPES: &[GgmlType] = &[
    ty(0, "F32", 1, 4),
    ty(1, "F16", 1, 2),
    ty(2, "Q4_0", 32, 18),
    ty(3, "Q4_1", 32, 20),
    ty(6, "Q5_0", 32, 22),
    ty(7, "Q5_1", 32, 24),
    ty(8, "Q8_0", 32, 34),
    ty(9, "Q8_1", 32, 36),
    ty(10, "Q2_K", 256, 84),
    ty(11, "Q3_K", 256, 110),
    ty(12, "Q4_K", 256, 144),
    ty(13, "Q5_K", 256, 176),
    ty(14, "Q6_K", 256, 210),
    ty(15, "Q8_K", 256, 292),
    ty(16, "IQ2_XXS", 256, 66),
    ty(17, "IQ2_XS", 256, 74),
    ty(18, "IQ3_XXS", 256, 98),
    ty(19, "IQ1_S", 256, 50),
    ty(20, "IQ4_NL", 32, 18),
    ty(21, "IQ3_S", 256, 110),
    ty(22, "IQ2_S", 256, 82),
    ty(23, "IQ4_XS", 256, 136),
    ty(24, "I8", 1, 1),
    ty(25, "I16", 1, 2),
    ty(26, "I32", 1, 4),
    ty(27, "I64", 1, 8),
    ty(28, "F64", 1, 8),
    ty(29, "IQ1_M", 256, 56),
    ty(30, "BF16", 1, 2),
    ty(34, "TQ1_0", 256, 54),
    ty(35, "TQ2_0", 256, 66),
    ty(39, "MXFP4", 32, 17),
    ty(40, "NVFP4", 64, 36),
    ty(41, "Q1_0", 128, 18),
];

/// The type with this id, if GGML has one.
pub fn ggml_type(id: u32) -> Option<&'static GgmlType> {
    GGML_TYPES.binary_search_by_key(&id, |t| t.id).ok().map(|i| &GGML_TYPES[i])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_formats() {
        assert!(GGML_TYPES.is_sorted_by_key(|t| t.id));
        for f in super::super::ALL {
            let t = ggml_type(f.id).expect("every format is a GGML type");
            assert_eq!((t.name.to_lowercase().as_str(), t.block, t.bytes), (f.name, f.block, f.bytes));
        }
    }
}
