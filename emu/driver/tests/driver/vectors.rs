//! `ptx-vectors`, loaded as modules and launched. `RIGC_SHARED` says where they are.

use crate::child::{Context, clean, download, free, ok, upload};
use crate::kernels::Module;
use cudarc::driver::sys as cu;
use serde_json::Value;
use std::ffi::c_void;
use std::path::{Path, PathBuf};
use std::ptr::null_mut;

/// The folder of the vectors; none without it, unless it is required.
fn folder() -> Option<PathBuf> {
    let shared = std::env::var_os("RIGC_SHARED").map_or_else(|| "../../../shared".into(), PathBuf::from);
    let folder = shared.join("ptx-vectors");
    let required = std::env::var("RIGC_REQUIRE").is_ok_and(|r| r.split(',').any(|r| r == "shared"));
    assert!(folder.exists() || !required, "{} is missing", folder.display());
    folder.exists().then_some(folder)
}

fn size(dtype: &str) -> usize {
    let bits = dtype.trim_start_matches(|c: char| !c.is_ascii_digit());
    bits.parse::<usize>().unwrap() / 8
}

/// The value of an element.
fn number(dtype: &str, bytes: &[u8]) -> f64 {
    match dtype {
        "f32" => f64::from(f32::from_le_bytes(bytes.try_into().unwrap())),
        "f64" => f64::from_le_bytes(bytes.try_into().unwrap()),
        "f16" => half::f16::from_le_bytes(bytes.try_into().unwrap()).to_f64(),
        "bf16" => half::bf16::from_le_bytes(bytes.try_into().unwrap()).to_f64(),
        _ => panic!("{dtype}"),
    }
}

/// The bytes of a scalar.
fn scalar(param: &Value) -> Vec<u8> {
    let dtype = param["dtype"].as_str().unwrap();
    if let Some(bits) = param["bits"].as_str() {
        let bits = u64::from_str_radix(bits.trim_start_matches("0x"), 16).unwrap();
        return bits.to_le_bytes()[..size(dtype)].to_vec();
    }
    let value = &param["value"];
    match dtype {
        "f32" => (value.as_f64().unwrap() as f32).to_le_bytes().to_vec(),
        "f64" => value.as_f64().unwrap().to_le_bytes().to_vec(),
        _ => {
            let n = value.as_i64().map_or_else(|| value.as_u64().unwrap(), |n| n as u64);
            n.to_le_bytes()[..size(dtype)].to_vec()
        }
    }
}

/// Runs a vector and compares its outputs.
fn case(folder: &Path, case: &Value, ptx: &str) {
    let module = Module::of(&std::fs::read_to_string(folder.join(ptx)).unwrap());
    let f = module.function(case["entry"].as_str().unwrap());
    let params = case["params"].as_array().unwrap();
    let mut outputs = Vec::new();
    let mut values: Vec<Vec<u8>> = Vec::new();
    for param in params {
        if param["kind"] == "scalar" {
            values.push(scalar(param));
            continue;
        }
        let bytes = param["count"].as_u64().unwrap() as usize * size(param["dtype"].as_str().unwrap());
        let at = match param["file"].as_str() {
            Some(file) => upload(&std::fs::read(folder.join(file)).unwrap()),
            None => crate::child::get(|p| unsafe { cu::cuMemAlloc_v2(p, bytes) }),
        };
        values.push(at.to_le_bytes().to_vec());
        outputs.push((param, at, bytes));
    }
    let mut pointers: Vec<*mut c_void> = values.iter_mut().map(|v| v.as_mut_ptr().cast()).collect();
    let three = |name: &str| [0, 1, 2].map(|i| case[name][i].as_u64().unwrap() as u32);
    let ([x, y, z], [bx, by, bz]) = (three("grid"), three("block"));
    let shared = case["dynamic_shared_bytes"].as_u64().unwrap_or(0) as u32;
    unsafe {
        if shared > 48 << 10 {
            let most = cu::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            ok(cu::cuFuncSetAttribute(f, most, shared as i32));
        }
        ok(cu::cuLaunchKernel(f, x, y, z, bx, by, bz, shared, null_mut(), pointers.as_mut_ptr(), null_mut()));
        ok(cu::cuCtxSynchronize());
    }
    for (param, at, bytes) in outputs {
        if let Some(expected) = param["expected"].as_str() {
            let (got, want) = (download::<u8>(at, bytes), std::fs::read(folder.join(expected)).unwrap());
            compare(param, &got, &want);
        }
        free(at);
    }
}

fn compare(param: &Value, got: &[u8], want: &[u8]) {
    let name = &param["name"];
    if param["tolerance"]["mode"] != "close" {
        assert!(got == want, "{name} differs");
        return;
    }
    let dtype = param["dtype"].as_str().unwrap();
    let [rtol, atol] = ["rtol", "atol"].map(|t| param["tolerance"][t].as_f64().unwrap());
    for (i, (g, w)) in got.chunks(size(dtype)).zip(want.chunks(size(dtype))).enumerate() {
        let (g, w) = (number(dtype, g), number(dtype, w));
        assert!((g - w).abs() <= atol + rtol * w.abs(), "{name}[{i}] is {g} instead of {w}");
    }
}

/// All positive vectors for a target.
fn all(card: &str, target: &str) {
    let Some(root) = folder() else { return };
    clean(&format!("card={card}"), || {
        let _context = Context::new();
        let mut count = 0;
        for entry in std::fs::read_dir(&root).unwrap() {
            let folder = entry.unwrap().path();
            let Ok(text) = std::fs::read_to_string(folder.join("case.json")) else { continue };
            let vector: Value = serde_json::from_str(&text).unwrap();
            if let Some(ptx) = vector["ptx"][target].as_str().filter(|_| vector["expect_fault"].is_null()) {
                case(&folder, &vector, ptx);
                count += 1;
            }
        }
        assert!(count > 10, "{count} vectors");
    });
}

#[test]
fn vectors_for_ampere() {
    all("a100", "sm_80");
}

#[test]
fn vectors_for_hopper() {
    all("h200", "sm_90");
}

#[test]
fn vectors_for_blackwell() {
    all("rtx5090", "sm_120");
}
