//! Artifact directories: `NAME.rig/` with `manifest.ron` and one file for each module.
//!
//! Invariant: a directory appears under its name complete and on disk, or not at all; what [`read`] returns is what one
//! [`write()`] was given, whatever others write meanwhile: the manifest ends with the hash of its text, and has the hash
//! of every module. Nothing but files of an artifact is ever removed. Next hop: [`crate::executor`] loads it.

use crate::sys::fs::{exchange, open_in, rename_to_new};
use crate::{Error, ModelFile, Result};
use ir::artifact::{Artifact, Manifest, ModuleEntry, SIGNATURE};
use ir::quote::quoted;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The manifest's file name.
pub const MANIFEST: &str = "manifest.ron";
/// Largest manifest that is read, bytes; one of a 70B model has less than 1 MB.
const MAX_MANIFEST: u64 = 64 << 20;
/// Largest module that is read, bytes.
const MAX_MODULE: u64 = 1 << 30;
/// Modules of every target.
const MODULES: [&str; 2] = ["cpu.bin", "gpu.ptx"];
/// How often a directory that others replace meanwhile is tried again.
const ATTEMPTS: u32 = 100;

/// What every version of the manifest begins with.
#[derive(Deserialize)]
struct Head {
    signature: String,
    rigc: String,
    #[serde(default)]
    abi: u32,
}

/// What every version of the manifest says of its modules.
#[derive(Deserialize)]
struct Named {
    modules: Vec<NamedModule>,
}

#[derive(Deserialize)]
struct NamedModule {
    file: String,
}

/// What comes before the hash in the last line of a manifest.
const SEAL: &str = "\n// sha256 ";

/// Hex SHA-256 of a module, as the manifest records it.
pub fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// The text of a manifest with a last line that holds its hash, which shows damage; such a line is replaced.
pub fn sealed(text: &str) -> String {
    let text = text.rsplit_once(SEAL).map_or(text, |(text, _)| text);
    format!("{text}{SEAL}{}\n", sha256(text.as_bytes()))
}

/// The text before the seal, if that is intact.
fn unsealed(sealed: &str) -> Option<&str> {
    let (text, hash) = sealed.rsplit_once(SEAL)?;
    (hash.trim_end() == sha256(text.as_bytes())).then_some(text)
}

/// Whether `path` is a directory with a manifest.
pub fn is_artifact(path: &Path) -> bool {
    path.join(MANIFEST).is_file()
}

/// Writes `artifact` as the directory `path`; an artifact that is there already is replaced in one step.
///
/// # Errors
/// [`Error::Input`] if something else is at `path`, or more than an artifact; [`Error::Io`] if the disk is full or
/// refuses, [`Error::Ir`] if the artifact contradicts itself. Nothing is left behind and what was there stays.
pub fn write(artifact: &Artifact, path: &Path) -> Result<()> {
    let manifest = artifact.manifest.clone().verify()?;
    if manifest.modules.len() != artifact.modules.len() {
        return Err(Error::input("the artifact's manifest and its modules disagree in number"));
    }
    for (entry, module) in manifest.modules.iter().zip(&artifact.modules) {
        check_module(entry, module).map_err(|what| Error::input(format!("module {} {what}", entry.file)))?;
    }
    let text = ron::ser::to_string_pretty(&*manifest, ron::ser::PrettyConfig::new().depth_limit(4))
        .map_err(|e| Error::input(format!("the manifest cannot be written as RON: {e}")))?;
    let old = replaceable(path)?;
    // Through a link, the directory that it names is replaced.
    let target = old.as_deref().unwrap_or(path);
    let parent = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if target.file_name().is_none() {
        return Err(Error::input(format!("{} is no name for an artifact; give NAME.rig", target.display())));
    }
    let names = manifest.modules.iter().map(|m| m.file.clone()).chain([MANIFEST.to_owned()]).collect();
    let temporary = Temporary::new(path, parent, names)?;
    let files = manifest.modules.iter().zip(&artifact.modules).map(|(entry, module)| (&*entry.file, &**module));
    for (name, bytes) in files.chain([(MANIFEST, sealed(&text).as_bytes())]) {
        let file = temporary.path.join(name);
        write_file(&file, bytes).map_err(|e| unwritten(path, &file, e))?;
    }
    sync_dir(&temporary.path)?;
    take_place(&temporary.path, path)?;
    // An artifact that was replaced has the temporary name now.
    remove_artifact(&temporary.path).map_err(|e| Error::io(&temporary.path, e))?;
    sync_dir(parent)
}

/// Gives the directory `new` the name `path`. What was there before, which is looked at again each time, gets its name.
fn take_place(new: &Path, path: &Path) -> Result<()> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let (target, done) = match replaceable(path)? {
            None => (path.to_owned(), rename_to_new(new, path)),
            Some(target) => {
                let done = exchange(new, &target).or_else(|e| match e.raw_os_error() {
                    Some(libc::EINVAL | libc::ENOSYS) => replace_in_steps(new, &target),
                    _ => Err(e),
                });
                (target, done)
            }
        };
        match done {
            // Another process made or replaced it in the meantime.
            Err(e)
                if attempt < ATTEMPTS
                    && matches!(e.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound)
                    && new.exists() => {}
            done => return done.map_err(|e| Error::io(target, e)),
        }
    }
}

/// The directory at `path`, which a new artifact may replace: it is empty or an artifact, and holds nothing else. `None`
/// if nothing is there.
fn replaceable(path: &Path) -> Result<Option<PathBuf>> {
    let refuse = |what: String| Err(Error::input(format!("{} {what}", path.display())));
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(path, e)),
        Ok(_) => {}
    }
    let target = match fs::canonicalize(path) {
        // Removed meanwhile, unless it is a link to nothing.
        Err(e) if e.kind() == ErrorKind::NotFound && !path.is_symlink() => return Ok(None),
        target => target.map_err(|e| Error::io(path, e))?,
    };
    if !target.is_dir() {
        return refuse("exists and is no artifact; remove it or choose another name".into());
    }
    let own = own_files(&target);
    for entry in fs::read_dir(&target).map_err(|e| Error::io(path, e))? {
        let entry = entry.map_err(|e| Error::io(path, e))?;
        let name = entry.file_name();
        let is_own = own.iter().any(|own| **own == *name) && entry.file_type().is_ok_and(|t| t.is_file());
        if !own.iter().any(|own| own == MANIFEST) {
            return refuse("exists and is no artifact; remove it or choose another name".into());
        }
        // A writer that was faster removes what it replaced.
        if !is_own && entry.path().symlink_metadata().is_ok() {
            return refuse(format!(
                "holds {}, which is no part of an artifact and would be lost; move it away or choose another name",
                quoted(&name.to_string_lossy())
            ));
        }
    }
    Ok(Some(target))
}

/// Names of the files that make up the artifact in a directory: none if there is no manifest.
fn own_files(dir: &Path) -> Vec<OsString> {
    if !is_artifact(dir) {
        return Vec::new();
    }
    let named = read_file(&dir.join(MANIFEST), MAX_MANIFEST).ok().and_then(|text| {
        let named: Named = ron::from_str(std::str::from_utf8(&text).ok()?).ok()?;
        Some(named.modules.into_iter().map(|m| m.file).filter(|name| check_name(name).is_ok()))
    });
    // Another process may put an artifact for another target in this one's place at any moment.
    let modules = named.into_iter().flatten().chain(MODULES.map(String::from));
    modules.chain([MANIFEST.to_owned()]).map(OsString::from).collect()
}

/// Removes an artifact's directory with the artifact's files, the manifest last.
fn remove_artifact(dir: &Path) -> std::io::Result<()> {
    for name in own_files(dir) {
        match fs::remove_file(dir.join(name)) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    match fs::remove_dir(dir) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Reads the artifact directory `path` and checks all of it.
///
/// # Errors
/// [`Error::Input`] for a directory that is no artifact, was written by another version, or is damaged; [`Error::Io`].
pub fn read(path: &Path) -> Result<Artifact> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let dir = File::open(path).map_err(|e| match e.kind() {
            ErrorKind::NotFound => Error::input(format!("{} does not exist; check the path", path.display())),
            _ => Error::io(path, e),
        })?;
        match read_opened(&dir, path) {
            // Another process has replaced the directory, and removed the files of this one.
            Err(_) if attempt < ATTEMPTS && is_replaced(&dir, path) => {}
            artifact => return artifact,
        }
    }
}

/// Whether `path` names another directory than when `dir` was opened.
fn is_replaced(dir: &File, path: &Path) -> bool {
    let number = |m: fs::Metadata| (m.dev(), m.ino());
    let (then, now) = (dir.metadata().map(number), fs::metadata(path).map(number));
    then.is_ok() && now.is_ok() && then.ok() != now.ok()
}

/// The artifact in the directory `dir`, which was opened as `path`.
fn read_opened(dir: &File, path: &Path) -> Result<Artifact> {
    let no_artifact = || Error::input(format!("{} is no artifact: it has no {MANIFEST}", path.display()));
    if !dir.metadata().map_err(|e| Error::io(path, e))?.is_dir() {
        return Err(no_artifact());
    }
    let manifest_path = path.join(MANIFEST);
    let damaged = |file: &Path, what: &str| Error::input(format!("{} {what}; compile the model again", file.display()));
    let read = |name: &str, most: u64| match open_in(dir, name).and_then(|file| first_bytes(file, most)) {
        Err(e) if e.kind() == ErrorKind::NotFound && name == MANIFEST => Err(no_artifact()),
        Err(e) if e.kind() == ErrorKind::NotFound => Err(damaged(&path.join(name), "is missing")),
        Err(e) if e.kind() == ErrorKind::InvalidInput && name == MANIFEST => Err(no_artifact()),
        Err(e) if e.kind() == ErrorKind::InvalidInput => Err(damaged(&path.join(name), "is not a regular file")),
        bytes => bytes.map_err(|e| Error::io(path.join(name), e)),
    };
    let text = read(MANIFEST, MAX_MANIFEST)?;
    let manifest = parse(&text).map_err(|what| damaged(&manifest_path, &what))?;
    let mut modules = Vec::with_capacity(manifest.modules.len());
    for entry in &manifest.modules {
        check_name(&entry.file).map_err(|what| damaged(&manifest_path, &format!("is damaged: a module {what}")))?;
        let bytes = read(&entry.file, entry.bytes.min(MAX_MODULE))?;
        let file = path.join(&entry.file);
        check_module(entry, &bytes).map_err(|what| damaged(&file, &format!("is damaged: it {what}")))?;
        modules.push(bytes);
    }
    Ok(Artifact { manifest, modules })
}

/// The manifest that `sealed` is the text of, checked; or what is wrong with it.
///
/// # Errors
/// In words that follow the name of the file.
pub fn parse(sealed: &[u8]) -> Result<Manifest, String> {
    if sealed.len() as u64 > MAX_MANIFEST {
        return Err(format!("is damaged: it has more than {MAX_MANIFEST} bytes"));
    }
    let sealed = std::str::from_utf8(sealed).map_err(|_| "is damaged: it is not text")?;
    let not_ron = |e: ron::error::SpannedError| format!("cannot be understood: {e}");
    let head: Head = ron::from_str(sealed).map_err(not_ron)?;
    if head.signature != SIGNATURE {
        return Err(format!("is of format {} (rigc {}), not {SIGNATURE}", head.signature, head.rigc));
    }
    if head.rigc != env!("CARGO_PKG_VERSION") {
        return Err(format!("was written by rigc {}, this is rigc {}", head.rigc, env!("CARGO_PKG_VERSION")));
    }
    if head.abi != ir::abi::VERSION {
        return Err(format!("is for kernel ABI {}, this rigc has {}", head.abi, ir::abi::VERSION));
    }
    let text = unsealed(sealed).ok_or("is damaged: its text is not the one whose hash is in its last line")?;
    let manifest: Manifest = ron::from_str(text).map_err(not_ron)?;
    let manifest = manifest.verify().map_err(|e| format!("is damaged: {e}"))?;
    Ok(manifest.into_inner())
}

/// Checks that `model` is the file that the artifact was compiled for.
///
/// # Errors
/// [`Error::Input`] that names the first difference, or says that the file is being changed.
pub fn check_model(manifest: &Manifest, model: &ModelFile) -> Result<()> {
    let Some(difference) = manifest.model.difference(&model.identity()) else { return Ok(()) };
    model.check_unchanged()?;
    Err(Error::input(format!(
        "{} is not the file that the artifact was compiled for: {difference}; compile the model again",
        model.path().display()
    )))
}

/// Whether `name` is a file name and nothing more.
fn check_name(name: &str) -> Result<(), String> {
    let plain = Path::new(name).file_name().is_some_and(|n| n == name) && !name.contains(['/', '\\', '\0']);
    if plain && name != MANIFEST { Ok(()) } else { Err(format!("has the file name '{}'", name.escape_debug())) }
}

fn check_module(entry: &ModuleEntry, bytes: &[u8]) -> Result<(), String> {
    check_name(&entry.file)?;
    if bytes.len() as u64 != entry.bytes {
        return Err(format!("has {} bytes instead of {}", bytes.len(), entry.bytes));
    }
    let hash = sha256(bytes);
    if hash != entry.sha256 {
        return Err(format!("has SHA-256 {hash} instead of {}", entry.sha256));
    }
    Ok(())
}

/// As [`first_bytes`], of the file at `path`.
fn read_file(path: &Path, most: u64) -> std::io::Result<Vec<u8>> {
    first_bytes(File::open(path)?, most)
}

/// The first `most + 1` bytes of a file: more than that shows that it is too long.
fn first_bytes(file: File, most: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes a file and waits until it is on disk.
fn write_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// The error of the artifact `path` whose `file` could not be written.
fn unwritten(path: &Path, file: &Path, e: std::io::Error) -> Error {
    let hint = match e.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "make room there, or choose another place",
        ErrorKind::FileTooLarge => "raise the limit on file sizes, or choose another place",
        _ => return Error::io(file, e),
    };
    Error::input(format!("{} cannot be written: {e}; {hint}", path.display()))
}

/// Waits until a directory's entries are on disk.
fn sync_dir(path: &Path) -> Result<()> {
    File::open(path).and_then(|d| d.sync_all()).map_err(|e| Error::io(path, e))
}

/// For file systems that cannot exchange: moves the old directory aside, and back if the new one cannot take its place.
/// Then the old one gets the name that the new one had.
fn replace_in_steps(new: &Path, target: &Path) -> std::io::Result<()> {
    let aside = new.with_extension("old");
    fs::rename(target, &aside)?;
    if let Err(e) = fs::rename(new, target) {
        fs::rename(&aside, target)?;
        return Err(e);
    }
    fs::rename(&aside, new)
}

/// A directory whose artifact is removed when dropped, if it still has its name.
struct Temporary {
    path: PathBuf,
    /// What is written in it.
    files: Vec<String>,
}

impl Temporary {
    /// A new directory in `parent`, for `files` of the artifact `path`.
    fn new(path: &Path, parent: &Path, files: Vec<String>) -> Result<Temporary> {
        // Names of other processes, which may have written it in other containers, are passed over.
        for attempt in 0..ATTEMPTS {
            let temporary = parent.join(format!(".rigc-{}-{attempt}.tmp", std::process::id()));
            match fs::create_dir(&temporary) {
                Ok(()) => return Ok(Temporary { path: temporary, files }),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(unwritten(path, parent, e)),
            }
        }
        Err(Error::input(format!("{} is full of temporary directories; remove them", parent.display())))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Nothing can be done about a failure here, and the artifact itself is in order.
        for name in &self.files {
            let _ = fs::remove_file(self.path.join(name));
        }
        let _ = fs::remove_dir(&self.path);
    }
}
