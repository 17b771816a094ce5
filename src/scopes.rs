//! How scopes are named in a call.

/// Scopes of a request for a token: `"Mail.Read"`, `"Mail.Read Mail.Send"`, an array, a slice, a `Vec`, or `()` for none.
pub trait Scopes {
    /// One by one. A text is split at spaces (RFC 6749 section 3.3).
    fn list(&self) -> Vec<&str>;
}

impl Scopes for () {
    fn list(&self) -> Vec<&str> {
        Vec::new()
    }
}

impl Scopes for str {
    fn list(&self) -> Vec<&str> {
        self.split_ascii_whitespace().collect()
    }
}

impl Scopes for String {
    fn list(&self) -> Vec<&str> {
        self.as_str().list()
    }
}

impl<T: Scopes> Scopes for [T] {
    fn list(&self) -> Vec<&str> {
        self.iter().flat_map(Scopes::list).collect()
    }
}

impl<T: Scopes, const N: usize> Scopes for [T; N] {
    fn list(&self) -> Vec<&str> {
        self.as_slice().list()
    }
}

impl<T: Scopes> Scopes for Vec<T> {
    fn list(&self) -> Vec<&str> {
        self.as_slice().list()
    }
}

impl<T: Scopes + ?Sized> Scopes for &T {
    fn list(&self) -> Vec<&str> {
        (**self).list()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(scopes: impl Scopes) -> Vec<String> {
        scopes.list().into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn scopes_can_be_named_in_many_ways() {
        assert_eq!(list("a  b"), ["a", "b"]);
        assert_eq!(list(["a", "b"]), ["a", "b"]);
        assert_eq!(list(vec!["a b".to_owned()]), ["a", "b"]);
        assert_eq!(list(&["a"][..]), ["a"]);
        assert!(list(()).is_empty());
        assert!(list("").is_empty());
    }
}
