//! Weights of every kind against a repack of the whole tensor.

use super::*;
use crate::device::{CpuDevice, EmuDevice, Shared, download};
use crate::sys::cache;
use ir::gguf::{Value, Writer};
use ir::quant::{F32, Format};
use ir::target::Target;
use ir::tensor::TensorType;
use std::fs::File;
use std::ops::Range;

fn format(name: &str) -> Format {
    Format(ir::quant::ALL.iter().find(|f| f.name.eq_ignore_ascii_case(name)).unwrap())
}

/// Bytes that repeat with no period of the layout.
fn noise(seed: u64, n: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..n).map(|_| next()).collect()
}

/// Name, shape, format and layout of a weight.
type Row = (&'static str, Vec<usize>, Format, Layout);

/// Weights by shard: with bands of one tile and of four, rows that fill neither, weights of many parts and of some bytes, bands
/// that are longer than any buffer, and matrices of experts that fill bands and that do not.
fn weights() -> [Vec<Row>; 2] {
    let [q4_k, q6_k, q8_0] = ["Q4_K", "Q6_K", "Q8_0"].map(format);
    [
        vec![
            ("norm", vec![1, 4096], F32, Layout::Rows),
            ("bands", vec![5000, 2304], q6_k, Layout::Rows16),
            ("one", vec![1, 1], F32, Layout::Rows),
            ("tiles", vec![9001, 256], q4_k, Layout::Rows16),
        ],
        vec![
            ("warps", vec![3333, 1024], q8_0, Layout::Rows32),
            ("long", vec![17, (LONGEST_SLOT / 64 + 4096) / 4], F32, Layout::Rows16),
            ("few", vec![3, 2560], q6_k, Layout::Rows16),
            ("rows", vec![3000, 2560], q6_k, Layout::Rows),
            ("experts", vec![7, 40, 2304], q6_k, Layout::Rows16),
            ("whole experts", vec![5, 64, 2304], q6_k, Layout::Rows16),
            ("large experts", vec![3, 7001, 512], q8_0, Layout::Rows16),
        ],
    ]
}

/// The model in its folder.
fn model() -> (tempfile::TempDir, ModelFile) {
    let dir = tempfile::tempdir().unwrap();
    let name = |n: usize| dir.path().join(format!("m-{n:05}-of-00002.gguf"));
    for (n, weights) in weights().into_iter().enumerate() {
        let split = [("split.no", Value::U16(n as u16)), ("split.count", Value::U16(2))];
        let mut file = Writer::new(split.into_iter().collect());
        for (name, shape, format, _) in weights {
            file.tensor(name, shape, format);
        }
        let mut out = File::create(name(n + 1)).unwrap();
        file.write(&mut out, |t, i, out| out.write_all(&noise((n * 10 + i) as u64 + 77, t.bytes() as usize))).unwrap();
        out.sync_all().unwrap();
    }
    let model = ModelFile::open(name(2)).unwrap();
    (dir, model)
}

/// Parts of these tensors: name, rows, columns and layout; with bands that begin anywhere, rows that stay in the file and
/// rows that are too few for that, columns of all rows and of one.
fn parts() -> Vec<(&'static str, Range<usize>, Range<usize>, Layout)> {
    vec![
        ("bands", 7..2391, 0..2304, Layout::Rows16),
        ("bands", 2391..5000, 0..2304, Layout::Rows16),
        ("bands", 1..4999, 256..1024, Layout::Rows16),
        ("bands", 3..4001, 2048..2304, Layout::Rows),
        ("tiles", 8192..9001, 0..256, Layout::Rows32),
        ("warps", 31..3300, 32..992, Layout::Rows32),
        ("rows", 64..2000, 0..2560, Layout::Rows),
        ("rows", 1..5, 0..2560, Layout::Rows),
        ("norm", 0..1, 100..4000, Layout::Rows),
        ("few", 1..2, 512..2304, Layout::Rows16),
    ]
}

/// The weight that is a part of a tensor.
fn part((name, rows, columns, layout): (&str, Range<usize>, Range<usize>, Layout)) -> Weight {
    let tensor = weights().into_iter().flatten().find(|w| w.0 == name).unwrap();
    let shape = if tensor.1[0] == 1 { vec![columns.len()] } else { vec![rows.len(), columns.len()] };
    let ty = TensorType { elem: Elem::Ggml(tensor.2), shape, layout };
    let [rows, columns] = [rows, columns].map(|range| range.start as u32..range.end as u32);
    Weight { rows, columns, ..Weight::whole(name, &ty) }
}

fn manifest_weights() -> Vec<Weight> {
    let weight = |(name, shape, format, layout): Row| {
        Weight::whole(name, &TensorType { elem: Elem::Ggml(format), shape, layout })
    };
    // Not in the order of the file, and one tensor twice.
    let [first, second] = weights();
    let again = ("bands", vec![5000, 2304], format("Q6_K"), Layout::Rows);
    let whole = second.into_iter().chain([again]).chain(first.into_iter().rev()).map(weight);
    whole.chain(parts().into_iter().map(part)).collect()
}

/// Loads to a device, checks all weights there, and returns what progress was told.
#[track_caller]
fn check(device: Shared, model: &ModelFile) -> Vec<(u64, u64)> {
    let list = manifest_weights();
    let items: Vec<Item> = list.iter().map(|w| Item::new(w, model).unwrap()).collect();
    let (slot, count) = Loading { items }.ring();
    assert!((4..=16).contains(&count) && slot * count <= 256 << 20, "{count} of {slot}");
    let items = list.iter().map(|w| Item::new(w, model).unwrap()).collect();
    let mut told = Vec::new();
    let mut held = Held::new(device.clone());
    let regions = run(Loading { items }, &mut held, model, &mut |a, b| told.push((a, b))).unwrap();
    for (weight, region) in list.iter().zip(regions) {
        let (Elem::Ggml(format), layout) = (weight.ty.elem, weight.ty.layout) else { panic!("a GGML format") };
        let (name, shape, ..) = weights().into_iter().flatten().find(|w| w.0 == weight.name).unwrap();
        let bytes = |columns: usize| format.bytes_of(columns as u64) as usize;
        let (first, row) = (bytes(weight.columns.start as usize), bytes(weight.columns.len()));
        let rows = model.tensor_bytes(name).unwrap().chunks_exact(bytes(*shape.last().unwrap()));
        let rows = rows.skip(weight.rows.start as usize).take(weight.rows.len());
        let from = rows.map(|all| &all[first..][..row]).collect::<Vec<_>>().concat();
        let (matrices, columns) = (weight.ty.matrices(), weight.ty.columns());
        let rows = weight.ty.rows() / matrices;
        let mut want = Vec::new();
        for from in from.chunks_exact(from.len() / matrices) {
            let mut one = vec![0; repack::bytes(layout, format, rows, columns)];
            repack::repack(layout, format, from, rows, columns, &mut one);
            want.extend(one);
        }
        assert_eq!(region.bytes, want.len() as u64, "{}", weight.name);
        let mut found = vec![0; want.len()];
        download(&mut *device.get(), region, &mut found).unwrap();
        assert!(found == want, "{} {layout:?}", weight.name);
    }
    assert!(told.is_sorted() && told.first().is_some_and(|t| t.0 == 0) && told.last().is_some_and(|t| t.0 == t.1));
    told
}

/// Loads without kernels that repack.
fn run(
    loading: Loading,
    held: &mut Held,
    model: &ModelFile,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<Region>> {
    let control = held.alloc(64, "the control words").unwrap();
    loading.run(held, &[], control, model, progress)
}

fn cpu() -> Shared {
    Shared::new(CpuDevice::new(Target::by_name("x86-64").unwrap(), 2).unwrap())
}

#[test]
fn every_weight_comes_to_its_place() {
    let (_dir, model) = model();
    let told = check(cpu(), &model);
    // Dense rows of a large weight stay in the file, at addresses that the device takes.
    let bytes = |w: &Weight| {
        let Elem::Ggml(format) = w.ty.elem else { panic!("a GGML format") };
        w.ty.rows() as u64 * format.bytes_of(w.ty.columns() as u64)
    };
    let dense = |w: &Weight| bytes(w) >= IN_PLACE && w.columns.len() > 256 && w.ty.layout == Layout::Rows;
    let copied: u64 = manifest_weights().iter().filter(|w| !dense(w)).map(bytes).sum();
    assert_eq!(told[0].1, copied);
    for shard in model.shards() {
        cache::drop_cached(&File::open(shard.path()).unwrap(), 0, shard.bytes().len());
    }
    check(cpu(), &model);
    let told = check(Shared::new(EmuDevice::new(Target::by_name("sm_120").unwrap(), 0).unwrap()), &model);
    assert!(told.windows(2).all(|t| t[1].0 - t[0].0 <= 80 << 20));
}

#[test]
fn a_model_in_the_program() {
    let mut file = Writer::new([("k", Value::U32(1))].into_iter().collect());
    file.tensor("t", [40, 512], F32);
    let data = noise(3, 40 * 512 * 4);
    let model = ModelFile::from_static("demo", file.to_vec(&[&data]).unwrap().leak()).unwrap();
    let ty = TensorType { elem: Elem::Ggml(F32), shape: vec![40, 512], layout: Layout::Rows16 };
    let weight = Weight::whole("t", &ty);
    let loading = Loading { items: vec![Item::new(&weight, &model).unwrap()] };
    let device = cpu();
    let mut held = Held::new(device.clone());
    let region = run(loading, &mut held, &model, &mut |_, _| ()).unwrap()[0];
    let mut want = vec![0; repack::bytes(Layout::Rows16, F32, 40, 512)];
    repack::repack(Layout::Rows16, F32, &data, 40, 512, &mut want);
    let mut found = vec![0; want.len()];
    download(&mut *device.get(), region, &mut found).unwrap();
    assert!(found == want);
}

#[test]
fn nothing_to_load() {
    let (_dir, model) = model();
    let mut held = Held::new(cpu());
    assert!(run(Loading { items: Vec::new() }, &mut held, &model, &mut |_, _| ()).unwrap().is_empty());
}

#[test]
fn a_file_that_is_cut_short_is_named() {
    let (_dir, model) = model();
    for shard in model.shards() {
        let file = File::options().write(true).open(shard.path()).unwrap();
        file.set_len(shard.header().data_offset + 5 * 4096).unwrap();
    }
    let weights: Vec<Weight> = manifest_weights().into_iter().filter(|w| w.name == "warps").collect();
    let items = weights.iter().map(|w| Item::new(w, &model).unwrap()).collect();
    let e = run(Loading { items }, &mut Held::new(cpu()), &model, &mut |_, _| ()).unwrap_err().to_string();
    assert!(e.contains("m-00002-of-00002.gguf ends before byte ") && e.contains("cut short"), "{e}");
}

#[test]
fn parts_that_are_not_there_are_refused() {
    let (_dir, model) = model();
    for (name, rows, columns, words) in [
        ("bands", 1..5001, 0..2304, "its shape is [5000, 2304]"),
        ("bands", 0..5000, 0..2560, "its shape is [5000, 2304]"),
        ("bands", 0..5000, 0..128, "columns 0 to 128 are no whole blocks of 256"),
        ("warps", 0..8, 16..48, "columns 16 to 48 are no whole blocks of 32"),
        ("norm", 0..1, 4000..4097, "its shape is [4096]"),
    ] {
        let e = Item::new(&part((name, rows, columns, Layout::Rows)), &model).err().unwrap().to_string();
        assert!(e.contains(name) && e.contains(words), "{e}");
    }
}
