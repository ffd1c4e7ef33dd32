//! Cases in child processes.

use cudarc::driver::sys::{self as cu, CUresult};
use std::path::PathBuf;
use std::process::{Command, Output};

/// The variable that tells a child which case it is.
const CASE: &str = "STANDIN_CASE";

/// How a child ended.
pub struct Ended {
    pub status: Option<i32>,
    pub stderr: String,
    pub stdout: String,
}

impl Ended {
    /// The findings that it printed.
    pub fn findings(&self) -> Vec<&str> {
        self.stderr.lines().filter(|l| l.starts_with("libcuda stand-in:")).collect()
    }

    /// It ended well and nothing was found.
    pub fn clean(&self) {
        assert!(
            self.status == Some(0) && self.findings().is_empty(),
            "{:?}\n{}\n{}",
            self.status,
            self.stdout,
            self.stderr
        );
    }

    /// One thing was found, which has these words, and the process ended by it.
    pub fn found(&self, words: &[&str]) {
        let findings = self.findings();
        let [finding] = findings[..] else { panic!("{} findings\n{}\n{}", findings.len(), self.stdout, self.stderr) };
        for word in words {
            assert!(finding.contains(word), "'{word}' is not in: {finding}");
        }
        assert_eq!(self.status, Some(70), "{}", self.stderr);
    }
}

/// The folder with the library, under both its names.
pub fn library() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let deps = exe.parent().unwrap();
    let built = [deps.join("libcuda.so"), deps.parent().unwrap().join("libcuda.so")];
    let built = built.iter().find(|p| p.exists()).unwrap_or_else(|| panic!("cargo built no libcuda.so in {built:?}"));
    let folder = deps.join("standin");
    std::fs::create_dir_all(&folder).unwrap();
    for name in ["libcuda.so", "libcuda.so.1"] {
        let link = folder.join(name);
        if std::fs::read_link(&link).ok().as_deref() != Some(built.as_path()) {
            _ = std::fs::remove_file(&link);
            // Another test may have been faster.
            _ = std::os::unix::fs::symlink(built, &link);
        }
    }
    folder
}

/// The name of the test that runs.
fn name() -> String {
    std::thread::current().name().unwrap().to_owned()
}

/// Runs the body in a child with these settings; none in the child.
pub fn run(settings: Option<&str>, body: impl FnOnce()) -> Option<Ended> {
    run_with(settings, &[], body)
}

/// As [`run`], with more variables of the environment.
pub fn run_with(settings: Option<&str>, variables: &[(&str, &str)], body: impl FnOnce()) -> Option<Ended> {
    let name = name();
    if std::env::var(CASE).as_deref() == Ok(&name) {
        body();
        return None;
    }
    Some(spawn(settings, variables, &name))
}

/// A child for a case.
fn spawn(settings: Option<&str>, variables: &[(&str, &str)], name: &str) -> Ended {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([name, "--exact", "--nocapture", "--test-threads", "1"])
        .env(CASE, name)
        .envs(variables.iter().copied())
        .env("LD_LIBRARY_PATH", library());
    match settings {
        Some(settings) => command.env("CUDA_STANDIN", settings),
        None => command.env_remove("CUDA_STANDIN"),
    };
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ended { status: status.code(), stderr: text(stderr), stdout: text(stdout) }
}

/// A case in which nothing is found, under some seeds.
pub fn clean(settings: &str, body: impl Fn()) {
    for seed in 0..4 {
        let Some(ended) = run(Some(&format!("{settings},leaks=1,seed={seed}")), &body) else { return };
        ended.clean();
    }
}

/// A case in which one thing is found, under some seeds.
pub fn found(settings: &str, words: &[&str], body: impl Fn()) {
    for seed in 0..3 {
        let Some(ended) = run(Some(&format!("{settings},seed={seed}")), &body) else { return };
        ended.found(words);
    }
}

/// Checks the answer of a call.
#[track_caller]
pub fn ok(result: CUresult) {
    assert_eq!(result, CUresult::CUDA_SUCCESS);
}

/// A value that a call writes.
#[track_caller]
pub fn get<T>(call: impl FnOnce(*mut T) -> CUresult) -> T {
    let mut value = std::mem::MaybeUninit::zeroed();
    ok(call(value.as_mut_ptr()));
    // SAFETY: the call has written it, and all that tests ask for may be zero.
    unsafe { value.assume_init() }
}

/// A context of its own that is current, destroyed at the end.
pub struct Context(pub cu::CUcontext);

impl Context {
    pub fn new() -> Context {
        unsafe {
            ok(cu::cuInit(0));
            Context(get(|c| cu::cuCtxCreate_v4(c, std::ptr::null_mut(), 0, 0)))
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            unsafe { ok(cu::cuCtxDestroy_v2(self.0)) };
        }
    }
}

/// Device memory with contents.
pub fn upload<T: Copy>(values: &[T]) -> cu::CUdeviceptr {
    unsafe {
        let bytes = size_of_val(values);
        let at = get(|p| cu::cuMemAlloc_v2(p, bytes));
        ok(cu::cuMemcpyHtoD_v2(at, values.as_ptr().cast(), bytes));
        at
    }
}

/// What is in device memory.
pub fn download<T: Copy + Default>(at: cu::CUdeviceptr, count: usize) -> Vec<T> {
    let mut values = vec![T::default(); count];
    unsafe { ok(cu::cuMemcpyDtoH_v2(values.as_mut_ptr().cast(), at, count * size_of::<T>())) };
    values
}

/// Frees device memory.
pub fn free(at: cu::CUdeviceptr) {
    unsafe { ok(cu::cuMemFree_v2(at)) };
}
