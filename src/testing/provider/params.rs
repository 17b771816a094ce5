//! Request parameters, with their repetitions.

use std::collections::BTreeMap;

use url::form_urlencoded;

#[derive(Clone, Default)]
pub(super) struct Params(Vec<(String, String)>);

impl Params {
    pub(super) fn parse(encoded: &[u8]) -> Self {
        // An empty value counts as an absent one (RFC 6749, section 3.1).
        Self(
            form_urlencoded::parse(encoded)
                .filter(|(_, value)| !value.is_empty())
                .map(|(name, value)| (name.into_owned(), value.into_owned()))
                .collect(),
        )
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    pub(super) fn owned(&self, name: &str) -> Option<String> {
        self.get(name).map(str::to_owned)
    }

    pub(super) fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(candidate, _)| candidate == name)
            .map(|(_, value)| value.as_str())
    }

    pub(super) fn words(&self, name: &str) -> Vec<String> {
        self.get(name)
            .unwrap_or_default()
            .split(' ')
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect()
    }

    /// The name of a parameter that is there twice though it may not be.
    /// `resource` and `audience` may (RFC 8707, RFC 8693).
    pub(super) fn doubled(&self) -> Option<&str> {
        self.0.iter().enumerate().find_map(|(index, (name, _))| {
            let again = self.0[..index].iter().any(|(earlier, _)| earlier == name);
            (again && name != "resource" && name != "audience").then_some(name.as_str())
        })
    }

    pub(super) fn without(&self, hidden: &[&str]) -> BTreeMap<String, String> {
        self.0
            .iter()
            .filter(|(name, _)| !hidden.contains(&name.as_str()))
            .cloned()
            .collect()
    }
}
