//! Handles: numbers that name their kind and are never given twice, so that one of another kind, one of nobody and one of what
//! is gone can be told apart.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

/// A kind of thing that has handles.
pub(crate) trait Kind {
    /// What handles of it begin with.
    const TAG: u8;
    /// In messages.
    const NAME: &'static str;
}

/// A handle.
pub(crate) struct Handle<T>(u64, PhantomData<fn() -> T>);

/// Bits of a handle below its tag.
const SERIAL: u32 = 48;

impl<T> Handle<T> {
    /// As the caller sees it.
    pub(crate) fn number(self) -> u64 {
        self.0
    }
}

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Handle<T> {}

impl<T> PartialEq for Handle<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<T> Eq for Handle<T> {}

impl<T> PartialOrd for Handle<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Handle<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

impl<T: Kind> fmt::Debug for Handle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:#x}", T::NAME, self.0)
    }
}

/// Why a number is not the handle of something that is there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Bad {
    /// Null.
    #[error("the {0} is null")]
    Null(&'static str),
    /// It was, once.
    #[error("the {kind} {number:#x} is gone: it was destroyed before")]
    Stale { kind: &'static str, number: u64 },
    /// Nobody gave it as a handle of this kind.
    #[error("{number:#x} is not the handle of a {kind}")]
    Foreign { kind: &'static str, number: u64 },
}

/// Everything of a kind that is there, in order of creation.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    things: BTreeMap<u64, T>,
    next: u64,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Slots { things: BTreeMap::new(), next: 1 }
    }
}

impl<T: Kind> Slots<T> {
    pub(crate) fn insert(&mut self, thing: T) -> Handle<T> {
        self.insert_with(|_| thing)
    }

    /// A thing that knows its own handle.
    pub(crate) fn insert_with(&mut self, thing: impl FnOnce(Handle<T>) -> T) -> Handle<T> {
        // Multiples of 16, as the addresses are that some programs take handles for.
        let number = u64::from(T::TAG) << SERIAL | self.next << 4;
        self.next += 1;
        let handle = Handle(number, PhantomData);
        self.things.insert(number, thing(handle));
        handle
    }

    /// The handle that a number is.
    pub(crate) fn find(&self, number: u64) -> Result<Handle<T>, Bad> {
        if self.things.contains_key(&number) {
            return Ok(Handle(number, PhantomData));
        }
        let kind = T::NAME;
        let serial = (number & ((1 << SERIAL) - 1)) >> 4;
        let mine = number >> SERIAL == u64::from(T::TAG) && number.is_multiple_of(16);
        Err(match number {
            0 => Bad::Null(kind),
            _ if mine && (1..self.next).contains(&serial) => Bad::Stale { kind, number },
            _ => Bad::Foreign { kind, number },
        })
    }

    pub(crate) fn get(&self, handle: Handle<T>) -> Option<&T> {
        self.things.get(&handle.0)
    }

    pub(crate) fn get_mut(&mut self, handle: Handle<T>) -> Option<&mut T> {
        self.things.get_mut(&handle.0)
    }

    pub(crate) fn remove(&mut self, handle: Handle<T>) -> Option<T> {
        self.things.remove(&handle.0)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Handle<T>, &T)> {
        self.things.iter().map(|(&number, thing)| (Handle(number, PhantomData), thing))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (Handle<T>, &mut T)> {
        self.things.iter_mut().map(|(&number, thing)| (Handle(number, PhantomData), thing))
    }

    /// Takes out what satisfies a condition.
    pub(crate) fn extract(&mut self, mut which: impl FnMut(Handle<T>, &T) -> bool) -> Vec<(Handle<T>, T)> {
        let out = self.things.extract_if(.., |&number, thing| which(Handle(number, PhantomData), thing));
        out.map(|(number, thing)| (Handle(number, PhantomData), thing)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Thing;

    impl Kind for Thing {
        const TAG: u8 = 7;
        const NAME: &'static str = "thing";
    }

    #[test]
    fn what_a_number_is_not_is_told_apart() {
        let mut slots = Slots::default();
        let (a, b) = (slots.insert(Thing), slots.insert(Thing));
        assert!(slots.find(a.number()) == Ok(a) && a != b);
        slots.remove(a);
        let bad = |n| slots.find(n).unwrap_err();
        assert!(matches!(bad(a.number()), Bad::Stale { .. }));
        assert!(matches!(bad(0), Bad::Null("thing")));
        for n in [b.number() + 16, b.number() + 1, 42, b.number() + (1 << 48)] {
            assert!(matches!(bad(n), Bad::Foreign { .. }), "{n:#x}");
        }
    }
}
