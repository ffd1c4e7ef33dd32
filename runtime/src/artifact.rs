//! Artifact directories: `NAME.rig/` with `manifest.ron` and one file for each module.
//!
//! Invariant: a directory appears under its name complete and on disk, or not at all; what [`read`] returns is what
//! [`write()`] was given: the manifest ends with the hash of its text, and has the hash of every module. Next hop:
//! [`crate::executor`] loads it.

use crate::{Error, ModelFile, Result};
use ir::artifact::{Artifact, Manifest, ModuleEntry, SIGNATURE};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

/// The manifest's file name.
pub const MANIFEST: &str = "manifest.ron";
/// Largest manifest that is read, bytes; one of a 70B model has less than 1 MB.
const MAX_MANIFEST: u64 = 64 << 20;
/// Largest module that is read, bytes.
const MAX_MODULE: u64 = 1 << 30;

/// What every version of the manifest begins with.
#[derive(Deserialize)]
struct Head {
    signature: String,
    rigc: String,
    #[serde(default)]
    abi: u32,
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
/// [`Error::Input`] if something else is at `path`, [`Error::Io`] if the disk is full or refuses, [`Error::Ir`] if the
/// artifact contradicts itself. Nothing is left behind and what was there stays.
pub fn write(artifact: &Artifact, path: &Path) -> Result<()> {
    let manifest = artifact.manifest.clone().verify()?;
    if manifest.modules.len() != artifact.modules.len() {
        return Err(Error::input("the artifact's manifest and its modules disagree in number"));
    }
    for (entry, module) in manifest.modules.iter().zip(&artifact.modules) {
        check_module(entry, module).map_err(|what| Error::input(format!("module {} {what}", entry.file)))?;
    }
    let old = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        Err(e) => return Err(Error::io(path, e)),
        Ok(_) => Some(fs::canonicalize(path).map_err(|e| Error::io(path, e))?),
    };
    if let Some(old) = &old {
        let empty = || fs::read_dir(old).is_ok_and(|mut entries| entries.next().is_none());
        if !old.is_dir() || !(is_artifact(old) || empty()) {
            return Err(Error::input(format!(
                "{} exists and is no artifact; remove it or choose another name",
                path.display()
            )));
        }
    }
    // Through a link, the directory that it names is replaced.
    let target = old.as_deref().unwrap_or(path);
    let parent = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let text = ron::ser::to_string_pretty(&*manifest, ron::ser::PrettyConfig::new().depth_limit(4))
        .map_err(|e| Error::input(format!("the manifest cannot be written as RON: {e}")))?;
    let temporary = Temporary::new(target, parent)?;
    let files = manifest.modules.iter().zip(&artifact.modules).map(|(entry, module)| (&*entry.file, &**module));
    for (name, bytes) in files.chain([(MANIFEST, sealed(&text).as_bytes())]) {
        let file = temporary.0.join(name);
        write_file(&file, bytes).map_err(|e| unwritten(path, &file, e))?;
    }
    sync_dir(&temporary.0)?;
    let io = |e| Error::io(target, e);
    if old.is_some() {
        // Afterwards the old directory has the temporary name, and goes with it.
        match crate::sys::fs::exchange(&temporary.0, target) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => {
                replace_in_steps(&temporary.0, target)?;
            }
            result => result.map_err(io)?,
        }
    } else {
        fs::rename(&temporary.0, target).map_err(io)?;
    }
    sync_dir(parent)
}

/// Reads the artifact directory `path` and checks all of it.
///
/// # Errors
/// [`Error::Input`] for a directory that is no artifact, was written by another version, or is damaged; [`Error::Io`].
pub fn read(path: &Path) -> Result<Artifact> {
    let manifest_path = path.join(MANIFEST);
    if !path.exists() {
        return Err(Error::input(format!("{} does not exist; check the path", path.display())));
    }
    if !manifest_path.is_file() {
        return Err(Error::input(format!("{} is no artifact: it has no {MANIFEST}", path.display())));
    }
    let damaged = |file: &Path, what: &str| Error::input(format!("{} {what}; compile the model again", file.display()));
    let text = read_file(&manifest_path, MAX_MANIFEST)?;
    let manifest = parse(&text).map_err(|what| damaged(&manifest_path, &what))?;
    let mut modules = Vec::with_capacity(manifest.modules.len());
    for entry in &manifest.modules {
        check_name(&entry.file).map_err(|what| damaged(&manifest_path, &format!("is damaged: a module {what}")))?;
        let file = path.join(&entry.file);
        let bytes = match read_file(&file, entry.bytes.min(MAX_MODULE)) {
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                return Err(damaged(&file, "is missing"));
            }
            bytes => bytes?,
        };
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

/// The first `most + 1` bytes of a file: more than that shows that it is too long.
fn read_file(path: &Path, most: u64) -> Result<Vec<u8>> {
    let io = |e| Error::io(path, e);
    // A pipe would be waited for.
    if !fs::metadata(path).map_err(io)?.is_file() {
        return Err(Error::input(format!("{} is not a regular file; compile the model again", path.display())));
    }
    let mut bytes = Vec::new();
    File::open(path).map_err(io)?.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(io)?;
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
fn replace_in_steps(new: &Path, target: &Path) -> Result<()> {
    let aside = new.with_extension("old");
    let io = |e| Error::io(target, e);
    fs::rename(target, &aside).map_err(io)?;
    if let Err(e) = fs::rename(new, target) {
        fs::rename(&aside, target).map_err(io)?;
        return Err(io(e));
    }
    fs::remove_dir_all(&aside).map_err(|e| Error::io(aside, e))
}

/// A directory that is removed when dropped, if it still has its name.
struct Temporary(PathBuf);

impl Temporary {
    /// A new directory beside `target`, in `parent`.
    fn new(target: &Path, parent: &Path) -> Result<Temporary> {
        let Some(name) = target.file_name() else {
            return Err(Error::input(format!("{} is no name for an artifact; give NAME.rig", target.display())));
        };
        for attempt in 0..100 {
            let mut hidden = std::ffi::OsString::from(".");
            hidden.push(name);
            hidden.push(format!(".{}-{attempt}.tmp", std::process::id()));
            let path = parent.join(hidden);
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Temporary(path)),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Error::io(parent, e)),
            }
        }
        Err(Error::input(format!("{} is full of temporary directories; remove them", parent.display())))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Nothing can be done about a failure here, and the artifact itself is in order.
        let _ = fs::remove_dir_all(&self.0);
    }
}
