//! What crosses the boundary to C: pointers of the caller, wrapped so that nothing else dereferences one, and structures with
//! plain integers where C has enumerations. The caller vouches for its pointers, as with any driver; null is refused.

use crate::error::{Answer, Error};
use serde_json::{Value, json};
use std::ffi::{CStr, c_char};

/// A value for which all bits are valid.
///
/// # Safety
/// Any bytes of its size have to be a value of it.
pub(crate) unsafe trait Plain: Copy + 'static {}

macro_rules! plain {
    ($($ty:ty),*) => { $(
        // SAFETY: a number.
        unsafe impl Plain for $ty {}
    )* };
}

plain!(u8, u16, u32, u64, usize, i32, i64, f32);

// SAFETY: nothing but values of which that holds.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// Declares structures as C has them, of plain fields.
macro_rules! structures {
    ($(
        $(#[$doc:meta])*
        $vis:vis struct $name:ident { $($(#[$field_doc:meta])* $field_vis:vis $field:ident: $ty:ty),* $(,)? }
    )*) => { $(
        $(#[$doc])*
        #[repr(C)]
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        $vis struct $name { $($(#[$field_doc])* $field_vis $field: $ty),* }

        // SAFETY: all fields are plain, which is checked here; what lies between them is never looked at.
        unsafe impl $crate::abi::Plain for $name {}

        const _: () = {
            const fn plain<T: $crate::abi::Plain>() {}
            $(plain::<$ty>();)*
        };
    )* };
}
pub(crate) use structures;

/// An argument in a trace. What a call writes is shown if it succeeds.
pub(crate) trait Show {
    fn show(&self, success: bool) -> Value;
}

macro_rules! show_numbers {
    ($($ty:ty),*) => { $(impl Show for $ty {
        fn show(&self, _: bool) -> Value {
            json!(*self)
        }
    })* };
}

show_numbers!(u8, u16, u32, i32, i64, usize, f32);

/// Addresses and handles are 64-bit numbers.
impl Show for u64 {
    fn show(&self, _: bool) -> Value {
        Value::String(format!("{self:#x}"))
    }
}

/// A pointer to what the call writes.
#[repr(transparent)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Out<T>(*mut T);

// SAFETY: an address; whoever follows it has the promise of the program that something is there.
unsafe impl<T> Send for Out<T> {}

impl<T: Plain> Out<T> {
    pub(crate) fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// Writes a value.
    pub(crate) fn set(self, value: T) -> Answer {
        self.at(0, value)
    }

    /// Writes a value, unless the pointer is null.
    pub(crate) fn set_if(self, value: T) {
        _ = self.set(value);
    }

    /// Writes an element of an array.
    pub(crate) fn at(self, index: usize, value: T) -> Answer {
        if self.0.is_null() {
            return Err(Error::INVALID_VALUE);
        }
        // SAFETY: the caller vouches for the pointer.
        unsafe { self.0.add(index).write_unaligned(value) };
        Ok(())
    }

    /// What is there, for what a call both reads and writes.
    pub(crate) fn get(self) -> Answer<T> {
        In(self.0.cast_const()).get()
    }
}

impl<T: Plain + Show> Show for Out<T> {
    fn show(&self, success: bool) -> Value {
        if success { self.get().map_or(Value::Null, |value| value.show(true)) } else { Value::Null }
    }
}

/// A pointer to what the call reads.
#[repr(transparent)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct In<T>(*const T);

impl<T: Plain> In<T> {
    pub(crate) fn new(address: usize) -> In<T> {
        In(std::ptr::with_exposed_provenance(address))
    }

    pub(crate) fn is_null(self) -> bool {
        self.0.is_null()
    }

    pub(crate) fn raw(self) -> Raw {
        Raw(self.0.cast_mut().cast())
    }

    pub(crate) fn get(self) -> Answer<T> {
        self.at(0)
    }

    /// An element of an array.
    pub(crate) fn at(self, index: usize) -> Answer<T> {
        if self.0.is_null() {
            return Err(Error::INVALID_VALUE);
        }
        // SAFETY: the caller vouches for the pointer, and any bytes are a `T`.
        Ok(unsafe { self.0.add(index).read_unaligned() })
    }

    /// So many elements.
    pub(crate) fn all(self, count: usize) -> Answer<Vec<T>> {
        (0..count).map(|i| self.at(i)).collect()
    }
}

/// Structures are shown as bytes.
impl<const N: usize> Show for [u8; N] {
    fn show(&self, _: bool) -> Value {
        Value::String(self.iter().map(|b| format!("{b:02x}")).collect())
    }
}

impl<const N: usize> Show for [i32; N] {
    fn show(&self, _: bool) -> Value {
        json!(self.as_slice())
    }
}

impl<T> Show for In<T> {
    fn show(&self, _: bool) -> Value {
        (self.0.expose_provenance() as u64).show(true)
    }
}

/// A pointer that the driver hands on, or whose size depends.
#[repr(transparent)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Raw(*mut u8);

impl Raw {
    pub(crate) fn null() -> Raw {
        Raw(std::ptr::null_mut())
    }

    pub(crate) fn is_null(self) -> bool {
        self.0.is_null()
    }

    pub(crate) fn address(self) -> usize {
        self.0.expose_provenance()
    }

    pub(crate) fn input<T: Plain>(self) -> In<T> {
        In(self.0.cast())
    }

    pub(crate) fn output<T: Plain>(self) -> Out<T> {
        Out(self.0.cast())
    }

    /// The bytes there.
    pub(crate) fn bytes(self, count: usize) -> Answer<Vec<u8>> {
        if self.0.is_null() && count > 0 {
            return Err(Error::INVALID_VALUE);
        }
        let mut bytes = vec![0; count];
        // SAFETY: the caller vouches for the pointer.
        unsafe { std::ptr::copy_nonoverlapping(self.0, bytes.as_mut_ptr(), count) };
        Ok(bytes)
    }

    /// The bytes up to the first zero.
    pub(crate) fn until_zero(self) -> Answer<Vec<u8>> {
        Text(self.0.cast()).get().map(CStr::to_bytes).map(<[u8]>::to_vec)
    }
}

impl Show for Raw {
    fn show(&self, _: bool) -> Value {
        (self.address() as u64).show(true)
    }
}

/// A zero-terminated text.
#[repr(transparent)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text(*const c_char);

impl Text {
    pub(crate) fn get<'a>(self) -> Answer<&'a CStr> {
        if self.0.is_null() {
            return Err(Error::INVALID_VALUE);
        }
        // SAFETY: the caller vouches for the pointer, for as long as the call takes.
        Ok(unsafe { CStr::from_ptr(self.0) })
    }

    pub(crate) fn string(self) -> Answer<String> {
        self.get().map(|text| text.to_string_lossy().into_owned())
    }
}

impl Show for Text {
    fn show(&self, _: bool) -> Value {
        self.string().map_or(Value::Null, Value::String)
    }
}

/// A pointer to where the call writes the address of something that lives as long as the driver or what it belongs to.
#[repr(transparent)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct OutAddress(Out<usize>);

impl OutAddress {
    pub(crate) fn set(self, address: usize) -> Answer {
        self.0.set(address)
    }
}

impl Show for OutAddress {
    fn show(&self, success: bool) -> Value {
        if success { self.0.get().map_or(Value::Null, |a| (a as u64).show(true)) } else { Value::Null }
    }
}

/// Writes a zero-terminated text into a buffer of `length` bytes, as much of it as fits.
pub(crate) fn write_text(to: Out<u8>, length: usize, text: &str) -> Answer {
    let last = length.checked_sub(1).ok_or(Error::INVALID_VALUE)?;
    let bytes = text.bytes().take(last).chain([0]);
    bytes.enumerate().try_for_each(|(i, byte)| to.at(i, byte))
}
