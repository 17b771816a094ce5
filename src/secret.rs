//! Text that must not be printed, and is wiped when dropped.

use std::fmt;

/// A token, key or password: `Debug` is redacted, there is no `Display`, `Deref` or `PartialEq`, and the memory is
/// wiped on drop. Read it through [`secret`](Self::secret).
#[derive(Clone)]
pub struct Secret(Box<str>);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into().into_boxed_str())
    }

    /// The text itself. Whoever calls this answers for where it goes.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        wipe(&mut std::mem::take(&mut self.0).into_string().into_bytes());
    }
}

/// Zeros that the compiler keeps. `zeroize` writes them byte by byte, which for the tokens of one request's read takes microseconds;
/// this leaves the size of the steps to the compiler, and has it believe that they are read.
pub(crate) fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    zeroize::optimization_barrier(bytes);
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret([redacted])")
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_wiped_wherever_they_begin() {
        for from in 0..9 {
            for length in 0..40 {
                let mut bytes = vec![7_u8; from + length + 3];
                wipe(&mut bytes[from..from + length]);
                let wiped: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] == 0).collect();
                assert_eq!(wiped, Vec::from_iter(from..from + length));
            }
        }
    }
}
