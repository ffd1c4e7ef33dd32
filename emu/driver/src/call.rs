//! The one way from an exported function to what it does: counts the call, lets it fail where the settings say so, checks that
//! there is a device and a context, takes the lock, answers errors that stick, and writes the trace. Nothing that goes wrong
//! inside unwinds into the caller. [`exports`] declares functions; what they do gets a [`Call`].

use crate::capture;
use crate::error::{Answer, Error};
use crate::slots::{Bad, Handle, Kind, Slots};
use crate::state::{Context, Driver};
use crate::thread;
use crate::trace::Line;
use serde_json::{Map, Value};
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::MutexGuard;
use std::time::Duration;

/// What a function needs before it can do anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Nothing, and it may be called from callbacks.
    Nothing,
    /// `cuInit`.
    Device,
    /// A context that is current, in which nothing has failed.
    Context,
    /// A context that is current. It releases something, which it also does where something has failed.
    Release,
}

/// An exported function.
#[derive(Debug)]
pub(crate) struct Export {
    pub(crate) name: &'static str,
    pub(crate) needs: Needs,
    /// The version of CUDA that has it first.
    pub(crate) since: u32,
    /// Its address, as `cuGetProcAddress` gives it.
    pub(crate) address: Address,
    /// Stream 0 is the thread's own.
    pub(crate) per_thread: bool,
}

/// An address of code.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Address(pub(crate) *const ());

// SAFETY: code does not change.
unsafe impl Sync for Address {}

/// A call that holds the lock.
pub(crate) struct Call {
    pub(crate) export: &'static Export,
    /// None only inside of `give_way`.
    driver: Option<MutexGuard<'static, Driver>>,
}

impl Deref for Call {
    type Target = Driver;

    fn deref(&self) -> &Driver {
        self.driver.as_deref().unwrap_or_else(|| unreachable!("a call has the lock"))
    }
}

impl DerefMut for Call {
    fn deref_mut(&mut self) -> &mut Driver {
        self.driver.as_deref_mut().unwrap_or_else(|| unreachable!("a call has the lock"))
    }
}

impl Call {
    /// The context that is current.
    pub(crate) fn context(&self) -> Answer<Handle<Context>> {
        let number = thread::current_context().ok_or(Error::INVALID_CONTEXT)?;
        self.contexts.find(number).map_err(|_| Error::CONTEXT_IS_DESTROYED)
    }

    /// The handle that a number is; what it is instead, if that is more than null, is a finding.
    pub(crate) fn handle<T: Kind>(&mut self, slots: fn(&Driver) -> &Slots<T>, number: u64) -> Answer<Handle<T>> {
        match slots(self).find(number) {
            Ok(handle) => Ok(handle),
            Err(Bad::Null(_)) => Err(Error::INVALID_HANDLE),
            Err(bad) => Err(self.finding(&bad.to_string(), Error::INVALID_HANDLE)),
        }
    }

    /// Reports a finding of this call; what the call answers if the process goes on.
    pub(crate) fn finding(&mut self, what: &str, answer: Error) -> Error {
        let text = format!("{}: {what}", self.export.name);
        self.deref_mut().finding(&text);
        answer
    }

    /// Gives the lock up and takes it again, after those who wait for it.
    pub(crate) fn give_way(&mut self) {
        self.driver = None;
        self.driver = Some(Driver::enter());
    }

    /// As [`Call::give_way`], and not before some time.
    pub(crate) fn give_way_for(&mut self, time: Duration) {
        self.driver = None;
        std::thread::sleep(time);
        self.driver = Some(Driver::enter());
    }

    /// Passes on why something is refused, with a finding if it has words.
    pub(crate) fn refuse<T>(&mut self, why: Result<T, (Error, Option<String>)>) -> Answer<T> {
        why.map_err(|(error, words)| match words {
            Some(words) => self.finding(&words, error),
            None => error,
        })
    }
}

/// Calls a function. The arguments are only wanted for a trace, once the call has returned: whether it succeeded.
pub(crate) fn enter(
    export: &'static Export,
    args: impl Fn(bool) -> Map<String, Value>,
    body: impl FnOnce(&mut Call) -> Answer,
) -> u32 {
    let result = catch_unwind(AssertUnwindSafe(|| run(export, args, body)));
    result.unwrap_or(Error::UNKNOWN.0)
}

fn run(
    export: &'static Export,
    args: impl Fn(bool) -> Map<String, Value>,
    body: impl FnOnce(&mut Call) -> Answer,
) -> u32 {
    let mut call = Call { export, driver: Some(Driver::enter()) };
    let n = call.count();
    let result = match call.injected(n, export.name) {
        Some(error) => Err(error),
        None => checked(&mut call, body),
    };
    let result = result.err().map_or(0, |e| e.0);
    call.made_call();
    if let Some(trace) = &mut call.trace {
        let args = args(result == 0);
        trace.write(Line { n, call: export.name, args, result, thread: thread::number() });
    }
    result
}

fn checked(call: &mut Call, body: impl FnOnce(&mut Call) -> Answer) -> Answer {
    let needs = call.export.needs;
    if needs == Needs::Nothing {
        return body(call);
    }
    if thread::in_callback() {
        return Err(Error::NOT_PERMITTED);
    }
    call.usable()?;
    if matches!(needs, Needs::Context | Needs::Release) {
        call.context()?;
        if let Some(error) = call.sticky() {
            if needs == Needs::Release {
                _ = body(call);
            }
            return Err(error);
        }
    }
    if !call.graphs.captures.none() && capture::may_synchronise(base(call.export.name)) {
        call.graphs.captures.forbid_unsafe()?;
    }
    body(call)
}

/// A name without its version and without what says whose the default stream is.
pub(crate) fn base(name: &str) -> &str {
    let name = name.strip_suffix("_ptsz").or_else(|| name.strip_suffix("_ptds")).unwrap_or(name);
    match name.rsplit_once("_v") {
        Some((base, version)) if version.bytes().all(|b| b.is_ascii_digit()) => base,
        _ => name,
    }
}

/// Declares exported functions and the table of them: what they need; name, the version of CUDA that has it first and arguments
/// as in C; what does it, and the name of the variant for which stream 0 is the thread's own.
macro_rules! exports {
    ($($needs:ident { $($name:ident @$since:literal $args:tt = $body:path $(, $own:ident)?;)* })*) => {
        $($(
            $crate::call::exports!(@one $needs false $name $since $args $body);
            $($crate::call::exports!(@one $needs true $own $since $args $body);)?
        )*)*
        /// The functions of this family.
        pub(crate) static TABLE: &[&$crate::call::Export] = &[$($(&$name::EXPORT, $(&$own::EXPORT,)?)*)*];
    };
    (@one $needs:ident $own:literal $name:ident $since:literal ($($arg:ident: $ty:ty),*) $body:path) => {
        #[allow(non_snake_case, reason = "names of C")]
        mod $name {
            #[allow(unused_imports, reason = "not every function has arguments that need them")]
            use super::*;
            pub(super) static EXPORT: $crate::call::Export = $crate::call::Export {
                name: stringify!($name),
                needs: $crate::call::Needs::$needs,
                since: $since,
                address: $crate::call::Address($name as *const ()),
                per_thread: $own,
            };
            /// Arguments may have its name.
            const BODY: fn(&mut $crate::call::Call, $($ty),*) -> $crate::error::Answer = $body;
            #[unsafe(no_mangle)]
            #[allow(clippy::too_many_arguments, reason = "as many as in C")]
            extern "C" fn $name($($arg: $ty),*) -> u32 {
                let args = |_success: bool| {
                    #[allow(unused_mut, reason = "not every function has arguments")]
                    let mut map = serde_json::Map::new();
                    $(map.insert(stringify!($arg).to_owned(), $crate::abi::Show::show(&$arg, _success));)*
                    map
                };
                $crate::call::enter(&EXPORT, args, |call| BODY(call, $($arg),*))
            }
        }
    };
}
pub(crate) use exports;
