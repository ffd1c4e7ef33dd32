//! Programs that we did not write the libraries of: NVIDIA's `cuda-bindings` and numba-cuda, run on the stand-in by the
//! scripts of `tests/clients/`. `$RIGC_CLIENTS` is a Python that has the packages of `tests/clients/requirements.txt`; without it the
//! tests skip, saying so, or fail if `$RIGC_REQUIRE` lists `clients`.

use crate::child::library;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Whether `$RIGC_REQUIRE` lists `kind`.
fn required(kind: &str) -> bool {
    std::env::var("RIGC_REQUIRE").is_ok_and(|list| list.split(',').any(|item| item.trim() == kind))
}

/// The Python of the clients.
fn python() -> Option<PathBuf> {
    let python = std::env::var_os("RIGC_CLIENTS").map(PathBuf::from);
    if python.is_none() {
        assert!(!required("clients"), "RIGC_CLIENTS is required and not set");
        eprintln!("skipped: RIGC_CLIENTS names no Python that has clients/requirements.txt");
    }
    python
}

/// The PTX vectors of the shared test data.
fn vectors() -> Option<PathBuf> {
    let root = std::env::var_os("RIGC_SHARED");
    let root = root.map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let dir = root.join("ptx-vectors");
    if dir.is_dir() {
        return Some(dir);
    }
    assert!(!required("shared"), "{} is required and missing", dir.display());
    eprintln!("skipped: {} is missing", dir.display());
    None
}

/// Runs a script of `clients/` on a stand-in with these settings.
fn client(python: &Path, settings: &str, script: &str, args: &[&str]) -> Output {
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script)).args(args);
    command.env("LD_LIBRARY_PATH", library()).env("CUDA_STANDIN", settings);
    // Compiled scripts would be written into the source.
    command.env("PYTHONDONTWRITEBYTECODE", "1").output().unwrap()
}

/// Asserts that a client ended well, with nothing found.
fn well(output: &Output, what: &str) {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{what}: {}\n{out}\n{err}", output.status);
    assert!(!err.contains("libcuda stand-in:"), "{what}:\n{err}");
    print!("{what}\n{out}");
}

#[test]
fn bindings_run_every_vector_on_every_card() {
    let (Some(python), Some(vectors)) = (python(), vectors()) else { return };
    for (card, seed) in [("rtx5090", 0), ("a100", 1), ("h200", 2)] {
        let settings = format!("card={card},seed={seed},leaks=1");
        let output = client(&python, &settings, "vectors.py", &[vectors.to_str().unwrap()]);
        well(&output, &format!("vectors on {settings}"));
    }
}

/// What each vector with a planted fault ends with: a finding, or the error that a driver answers.
const FAULTS: &[(&str, &str)] = &[
    ("neg_misaligned", "CUDA_ERROR_MISALIGNED_ADDRESS"),
    ("neg_oob_global", "oob_global in neg_oob_global"),
    ("neg_race_shared", "libcuda stand-in:"),
];

#[test]
fn bindings_see_planted_faults() {
    let (Some(python), Some(vectors)) = (python(), vectors()) else { return };
    for (vector, words) in FAULTS {
        let output = client(&python, "", "vectors.py", &[vectors.to_str().unwrap(), vector]);
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && err.contains(words), "{vector}: {}\n{err}", output.status);
    }
}

#[test]
fn bindings_use_streams_events_and_shared_memory() {
    let Some(python) = python() else { return };
    for seed in 0..4 {
        let settings = format!("seed={seed},leaks=1");
        well(&client(&python, &settings, "streams.py", &[]), &format!("streams on {settings}"));
    }
}

#[test]
fn bindings_build_and_capture_graphs() {
    let Some(python) = python() else { return };
    for seed in 0..4 {
        let settings = format!("seed={seed},leaks=1");
        well(&client(&python, &settings, "graphs.py", &[]), &format!("graphs on {settings}"));
    }
}

#[test]
fn kernels_of_cpp_run_through_cuda_core() {
    let Some(python) = python() else { return };
    for (card, seed) in [("rtx5090", 0), ("h200", 1)] {
        let settings = format!("card={card},seed={seed}");
        well(&client(&python, &settings, "core.py", &[]), &format!("cuda.core on {settings}"));
    }
}

#[test]
fn numba_runs_what_its_users_write() {
    let Some(python) = python() else { return };
    for (card, seed) in [("rtx5090", 0), ("a100", 3)] {
        // numba keeps what it has loaded until the process ends.
        let settings = format!("card={card},seed={seed}");
        well(&client(&python, &settings, "numba_kernels.py", &[]), &format!("numba on {settings}"));
    }
}
