//! [`Verified`]: the only thing that passes, emitters and devices accept.

/// A form that its verifier has accepted; later stages may rely on its rules and never panic over them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    /// For verifiers only: states that `form` has been checked.
    pub(crate) fn assert(form: T) -> Self {
        Verified(form)
    }

    /// The form, to change it; it has to be verified again.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> std::ops::Deref for Verified<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}
