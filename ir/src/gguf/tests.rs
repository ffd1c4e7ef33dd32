use super::*;
use crate::quant::{self, F16, F32, Q8_0};
use proptest::prelude::*;

/// Bytes put together field by field, right or wrong.
#[derive(Clone, Default)]
struct Raw(Vec<u8>);

impl Raw {
    fn head(tensors: u64, entries: u64) -> Raw {
        Raw(MAGIC.to_vec()).u32(3).u64(tensors).u64(entries)
    }
    fn bytes(mut self, b: &[u8]) -> Raw {
        self.0.extend_from_slice(b);
        self
    }
    fn u32(self, v: u32) -> Raw {
        self.bytes(&v.to_le_bytes())
    }
    fn u64(self, v: u64) -> Raw {
        self.bytes(&v.to_le_bytes())
    }
    fn str(self, s: &str) -> Raw {
        self.u64(s.len() as u64).bytes(s.as_bytes())
    }
    /// The head of one tensor entry named "t".
    fn tensor(self, dims: &[u64], type_id: u32, offset: u64) -> Raw {
        let raw = self.str("t").u32(dims.len() as u32);
        dims.iter().fold(raw, |r, &d| r.u64(d)).u32(type_id).u64(offset)
    }
    /// Zeros up to the next multiple of 32, then `n` more.
    fn data(mut self, n: usize) -> Raw {
        self.0.resize(self.0.len().next_multiple_of(32) + n, 0);
        self
    }
}

/// A value of every type.
fn every_value() -> Metadata {
    let arrays = [
        Array::U8(vec![1, 2, 3]),
        Array::I8(vec![-1]),
        Array::U16(vec![65535]),
        Array::I16(vec![-2, 2]),
        Array::U32(vec![u32::MAX]),
        Array::I32(vec![i32::MIN, 7]),
        Array::F32(vec![0.5, -1.0]),
        Array::Bool(vec![true, false]),
        [b"a".as_slice(), &[0xff, 0xfe], &[]].iter().collect(),
        Array::Array(vec![Array::U8(vec![]), Array::Array(vec![Array::F64(vec![2.5])])]),
        Array::U64(vec![u64::MAX]),
        Array::I64(vec![i64::MIN]),
        Array::F64(vec![1e300]),
    ];
    let values = [
        Value::U8(200),
        Value::I8(-3),
        Value::U16(40000),
        Value::I16(-300),
        Value::U32(u32::MAX),
        Value::I32(-70000),
        Value::F32(1.5),
        Value::Bool(true),
        Value::String(vec![b'x', 0xff]),
        Value::U64(1 << 40),
        Value::I64(-(1 << 40)),
        Value::F64(0.25),
    ];
    values
        .into_iter()
        .chain(arrays.into_iter().map(Value::Array))
        .enumerate()
        .map(|(i, v)| (format!("key.{i}"), v))
        .chain([("general.architecture".into(), Value::from("llama"))])
        .collect()
}

/// A small file with every value type and some tensors.
fn sample() -> (Writer, Vec<Vec<u8>>) {
    let mut w = Writer::new(every_value());
    w.tensor("a.weight", [3, 64], Q8_0).tensor("b.weight", [5], F32).tensor("c.weight", [2, 3, 8], F16);
    let data = w.tensors.iter().map(|t| (0..t.bytes()).map(|i| i as u8).collect()).collect();
    (w, data)
}

#[test]
fn reads_what_was_written() {
    for alignment in [None, Some(64u32), Some(1)] {
        let (mut w, data) = sample();
        if let Some(a) = alignment {
            w.metadata.insert("general.alignment", Value::U32(a));
        }
        let file = w.to_vec(&data).unwrap();
        let h = parse(&file).unwrap();
        assert_eq!((h.version, h.alignment), (3, alignment.unwrap_or(32).into()));
        assert_eq!(h.metadata, w.metadata);
        assert_eq!(h.data_offset % h.alignment, 0);
        assert_eq!(h.tensors.len(), 3);
        for ((t, new), data) in h.tensors.iter().zip(&w.tensors).zip(&data) {
            assert_eq!((&t.name, t.shape(), t.format().unwrap()), (&new.name, new.shape.clone(), new.format));
            assert_eq!(&file[t.offset as usize..][..t.bytes as usize], data);
            assert_eq!(t.elements(), new.shape.iter().product::<usize>() as u64);
            assert_eq!(h.tensor(&t.name), Some(t));
        }
        assert_eq!(h.tensors[2].dims, [8, 3, 2]);
    }
}

#[test]
fn a_file_may_hold_nothing_or_only_metadata() {
    assert_eq!(parse(&Raw::head(0, 0).0).unwrap().data_offset, 24);
    let file = Writer::new(every_value()).to_vec(&[] as &[&[u8]]).unwrap();
    assert!(parse(&file).unwrap().data_offset <= file.len() as u64);
}

#[test]
fn unknown_types_fail_when_used() {
    let check = |type_id: u32, dims: &[u64], message: &str| {
        let h = parse(&Raw::head(1, 0).tensor(dims, type_id, 0).data(66).0).unwrap();
        let error = h.tensors[0].format().unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }));
        assert!(error.to_string().contains(message), "{error}");
    };
    check(35, &[256], "tensor 't' of type TQ2_0 is not supported");
    check(9999, &[3, 3], "tensor 't' of type 9999 (unknown) is not supported");
}

#[test]
fn getters() {
    let m = Metadata::from_iter([
        ("u8", Value::U8(7)),
        ("negative", Value::I32(-1)),
        ("large", Value::U64(1 << 32)),
        ("float", Value::F64(0.5)),
        ("text", Value::from("hi")),
        ("bytes", Value::String(vec![0xff])),
        ("flag", Value::Bool(true)),
        ("ints", Value::Array(Array::I64(vec![1, -2]))),
        ("floats", Value::Array(Array::F32(vec![1.0]))),
        ("words", Value::Array(["a", "b"].iter().collect())),
    ]);
    assert_eq!(m.u32("u8").unwrap(), 7);
    assert_eq!(m.u64("large").unwrap(), 1 << 32);
    assert_eq!(m.f32("float").unwrap(), 0.5);
    assert_eq!(m.str("text").unwrap(), "hi");
    assert!(m.bool("flag").unwrap());
    assert_eq!(m.i32s("ints").unwrap(), [1, -2]);
    assert_eq!(m.f32s("floats").unwrap(), [1.0]);
    assert!(m.strings("words").unwrap().iter().eq([b"a", b"b"]));
    assert_eq!(m.opt_u32("absent").unwrap(), None);

    fn check<T: std::fmt::Debug>(got: Result<T>, message: &str) {
        assert_eq!(got.unwrap_err().to_string(), message);
    }
    check(m.str("absent"), "metadata key 'absent' is missing");
    check(m.u32("negative"), "metadata key 'negative' is -1 (i32), not an integer from 0 to 2^32 - 1");
    check(m.opt_u32("large"), "metadata key 'large' is 4294967296 (u64), not an integer from 0 to 2^32 - 1");
    check(m.u32("text"), "metadata key 'text' is of type string, not an integer from 0 to 2^32 - 1");
    check(m.str("bytes"), "metadata key 'bytes' is a string that is not UTF-8, not a UTF-8 string");
    check(m.f32s("words"), "metadata key 'words' is of type array of 2 strings, not an array of floats");
    check(
        m.u32s("ints"),
        "metadata key 'ints' is of type array of 2 i64s, not an array of integers from 0 to 2^32 - 1",
    );
}

#[test]
fn refuses() {
    let check = |bytes: Raw, message: &str| {
        let error = parse(&bytes.0).expect_err(message).to_string();
        assert!(error.contains(message), "\n  want {message}\n  got  {error}");
    };
    let key = |type_id: u32| Raw::head(0, 1).str("k").u32(type_id);
    let array = |type_id: u32, count: u64| key(9).u32(type_id).u64(count);
    let huge = u64::MAX;

    // Signature.
    check(Raw(vec![]), "the GGUF signature needs 4 bytes, but 0 are left");
    check(Raw(b"PK\x03\x04xxxx".to_vec()), "it starts with \"PK\\x03\\x04\" instead of \"GGUF\"");
    check(Raw(MAGIC.to_vec()).u32(1), "GGUF version 1 is not supported");
    check(Raw(MAGIC.to_vec()).u32(4), "GGUF version 4 is not supported");
    check(Raw(MAGIC.to_vec()).u32(3u32.swap_bytes()), "big-endian GGUF (version 3) is not supported");
    check(
        Raw(MAGIC.to_vec()).u32(3).u64(0),
        "the number of metadata entries needs 8 bytes, but 0 are left (at byte 16)",
    );
    // Counts.
    check(Raw::head(huge, 0), "declares 18446744073709551615 tensors, but has only 8 bytes left (at byte 8)");
    check(Raw::head(0, huge), "declares 18446744073709551615 metadata entries, but has only 0 bytes left (at byte 16)");
    check(array(4, 1 << 60).data(32), "declares 1152921504606846976 elements of metadata key 'k'");
    check(array(8, huge).data(32), "declares 18446744073709551615 elements of metadata key 'k'");
    check(array(9, huge).data(32), "declares 18446744073709551615 elements of metadata key 'k'");
    check(Raw::head(MAX_TENSORS as u64 + 1, 0).data(9 << 20), "declares 262145 tensors, where 262144 are allowed");
    check(
        Raw::head(0, MAX_ENTRIES as u64 + 1).data(9 << 20),
        "declares 65537 metadata entries, where 65536 are allowed",
    );
    check(array(0, MAX_HEADER as u64).data(MAX_HEADER), "but has only 268435407 bytes left");
    // Keys and values.
    check(Raw::head(0, 1).u64(huge).data(32), "the name of metadata key 0 needs 18446744073709551615 bytes");
    check(Raw::head(0, 1).u64(1).bytes(b"\xff").data(32), "the name of metadata key 0 is not UTF-8");
    check(Raw::head(0, 2).str("k").u32(0).bytes(&[1]).str("k").u32(0).bytes(&[1]), "'k' occurs twice (at byte 38)");
    check(key(13).data(32), "metadata key 'k' is of value type 13");
    check(key(7).bytes(&[2]), "metadata key 'k' is a bool of value 2");
    check(key(8).u64(100).data(32), "metadata key 'k' needs 100 bytes");
    check(array(99, 0).data(32), "metadata key 'k' is an array of value type 99");
    check((0..20).fold(key(9), |r, _| r.u32(9).u64(1)).u32(0).u64(0), "metadata key 'k' nests arrays more than 4 deep");
    let alignment = |a: u32| Raw::head(0, 1).str("general.alignment").u32(4).u32(a);
    check(alignment(0), "general.alignment is 0, not a power of two");
    check(alignment(48), "general.alignment is 48, not a power of two");
    check(alignment(1 << 22), "general.alignment is 4194304, not a power of two up to 2097152");
    check(Raw::head(0, 1).str("general.alignment").u32(8).str("32"), "'general.alignment' is of type string");
    // Tensors.
    let tensor = |dims: &[u64], type_id, offset| Raw::head(1, 0).tensor(dims, type_id, offset).data(64);
    check(Raw::head(1, 0).u64(1).bytes(b"\xff").data(64), "the name of tensor 0 is not UTF-8");
    check(tensor(&[], 0, 0), "tensor 't' has 0 dimensions, where 1 to 4 are allowed");
    check(tensor(&[1; 5], 0, 0), "tensor 't' has 5 dimensions, where 1 to 4 are allowed");
    check(tensor(&[4, 0], 0, 0), "tensor 't' has a dimension of 0 in [4, 0]");
    check(tensor(&[1 << 40, 1 << 40], 0, 0), "has more than 2^63 elements");
    check(tensor(&[huge], 0, 0), "has more than 2^63 elements");
    check(tensor(&[1 << 62], 28, 0), "has 4611686018427387904 elements, more than 2^64 bytes");
    check(tensor(&[1 << 61], 0, 0), "tensor 't' takes 9223372036854775808 bytes from offset 0 of the data");
    check(tensor(&[33], 8, 0), "of type Q8_0 has rows of 33 elements, not a multiple of its block of 32");
    check(tensor(&[1], 0, 4), "tensor 't' has offset 4, not a multiple of 32");
    check(tensor(&[17], 0, 0), "tensor 't' takes 68 bytes from offset 0 of the data, which starts at 64, but the file");
    check(tensor(&[1], 0, 64), "tensor 't' takes 4 bytes from offset 64");
    check(tensor(&[1], 0, huge - 31), "tensor 't' takes 4 bytes from offset 18446744073709551584");
    check(tensor(&[1], 9999, 96), "tensor 't' takes 0 bytes from offset 96");
    let two = |a: &str, b: &str, second: u64| {
        let one = |r: Raw, n: &str, at: u64| r.str(n).u32(1).u64(9).u32(0).u64(at);
        one(one(Raw::head(2, 0), a, 0), b, second).data(128)
    };
    check(two("x", "x", 64), "tensor 'x' occurs twice, as 0 and 1");
    check(two("x", "y", 32), "tensors 'x' and 'y' overlap");
    assert!(parse(&two("x", "y", 64).0).is_ok());
}

#[test]
fn messages_stay_short() {
    let name = "n\n".repeat(10_000);
    let error = parse(&Raw::head(1, 0).str(&name).u32(9).data(64).0).unwrap_err().to_string();
    assert!(error.len() < 500 && !error.contains('\n'), "{error}");
}

#[test]
fn writer_refuses() {
    let check = |w: &Writer, data: &[&[u8]], message: &str| {
        let error = w.to_vec(data).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    };
    let mut w = Writer::default();
    w.tensor("t", [2], F32);
    check(&w, &[], "tensor 't' has no data");
    check(&w, &[&[0; 7]], "tensor 't' has 8 bytes, but 7 were written");
    w.metadata.insert("general.alignment", Value::U32(3));
    check(&w, &[&[0; 8]], "general.alignment is 3");
}

#[test]
fn identity_names_the_difference() {
    let shard =
        |length, header: &str, samples: &str| ShardIdentity { length, header: header.into(), samples: samples.into() };
    let base = ModelIdentity { shards: vec![shard(1, "a", "b")] };
    let check = |shards: Vec<ShardIdentity>, want: Option<&str>| {
        assert_eq!(base.difference(&ModelIdentity { shards }).as_deref(), want);
    };
    check(base.shards.clone(), None);
    check(vec![], Some("it has 0 shards instead of 1"));
    check(vec![shard(2, "a", "b")], Some("the length is 2 bytes instead of 1"));
    check(vec![shard(1, "x", "b")], Some("the metadata or the tensor table differ"));
    check(vec![shard(1, "a", "x")], Some("the tensor data differ"));
}

/// A change to a file.
#[derive(Debug, Clone)]
enum Edit {
    Truncate(usize),
    Flip(usize, u8),
    Insert(usize, u8),
    Remove(usize),
    /// A 64-bit value over what was there: counts, lengths, dimensions and offsets.
    Word(usize, u64),
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<prop::sample::Index>().prop_map(|i| i.index(1 << 16));
    let word = prop_oneof![
        Just(u64::MAX),
        Just(1 << 63),
        Just(1 << 60),
        Just(u64::from(u32::MAX)),
        Just(0),
        0u64..4096,
        any::<u64>()
    ];
    prop_oneof![
        1 => at.clone().prop_map(Edit::Truncate),
        4 => (at.clone(), 1..=255u8).prop_map(|(i, b)| Edit::Flip(i, b)),
        1 => (at.clone(), any::<u8>()).prop_map(|(i, b)| Edit::Insert(i, b)),
        1 => at.clone().prop_map(Edit::Remove),
        4 => (at, word).prop_map(|(i, w)| Edit::Word(i, w)),
    ]
}

fn apply(file: &mut Vec<u8>, edit: Edit) {
    if file.is_empty() {
        return;
    }
    let len = file.len();
    match edit {
        Edit::Truncate(i) => file.truncate(i % len),
        Edit::Flip(i, b) => file[i % len] ^= b,
        Edit::Insert(i, b) => file.insert(i % len, b),
        Edit::Remove(i) => drop(file.remove(i % len)),
        Edit::Word(i, w) => {
            let i = i % len;
            let n = 8.min(len - i);
            file[i..i + n].copy_from_slice(&w.to_le_bytes()[..n]);
        }
    }
}

/// Whatever was accepted keeps what the module promises.
fn check_promises(file: &[u8]) {
    let Ok(h) = parse(file) else { return };
    let length = file.len() as u64;
    assert!(h.data_offset <= length && h.alignment.is_power_of_two());
    for t in &h.tensors {
        assert!(t.offset >= h.data_offset && t.offset.checked_add(t.bytes).is_some_and(|end| end <= length));
        assert!((1..=MAX_DIMS).contains(&t.dims.len()) && t.elements() > 0);
        if let Ok(f) = t.format() {
            assert_eq!(t.bytes, f.bytes_of(t.elements()));
        }
        t.shape();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_never_panic(edits in prop::collection::vec(edit(), 1..6)) {
        let (w, data) = sample();
        let mut file = w.to_vec(&data).unwrap();
        for e in edits {
            apply(&mut file, e);
        }
        check_promises(&file);
    }

    #[test]
    fn noise_never_panics(tail in prop::collection::vec(any::<u8>(), 0..400)) {
        check_promises(&Raw::head(2, 3).bytes(&tail).0);
    }
}

#[test]
fn every_truncation_of_the_header_is_an_error() {
    let (w, data) = sample();
    let file = w.to_vec(&data).unwrap();
    let end = parse(&file).unwrap().data_offset as usize;
    for n in 0..end {
        assert!(parse(&file[..n]).is_err(), "cut to {n} bytes");
    }
}

#[test]
fn every_format_is_sized_by_its_blocks() {
    for f in quant::ALL {
        let mut w = Writer::default();
        w.tensor("t", [2, 3 * f.block as usize], crate::quant::Format(f));
        let bytes = w.tensors[0].bytes();
        assert_eq!(bytes, 6 * u64::from(f.bytes));
        let file = w.to_vec(&[vec![0u8; bytes as usize]]).unwrap();
        assert_eq!(parse(&file).unwrap().tensors[0].bytes, bytes);
    }
}
