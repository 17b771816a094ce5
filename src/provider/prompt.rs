//! The `prompt` parameter: a list of what the provider shall ask the user, in any order (OIDC Core, section 3.1.2.1).

use std::borrow::Cow;

/// What both ask for, each value once: a request that wants a fresh login must not lose the consent that the configuration
/// asks for, without which providers ignore `offline_access` (section 11).
///
/// `none` forbids every page and so goes with no other value. One that the request itself says stands; one of the
/// configuration gives way to whatever the request wants shown.
pub(crate) fn merged<'a>(own: &'a str, configured: &str) -> Cow<'a, str> {
    if asks_nothing(own) || asks_nothing(configured) {
        return Cow::Borrowed(own);
    }
    let mut all: Vec<&str> = own.split_ascii_whitespace().collect();
    for value in configured.split_ascii_whitespace() {
        if !all.contains(&value) {
            all.push(value);
        }
    }
    Cow::Owned(all.join(" "))
}

/// Whether the provider must answer without showing anything.
pub(crate) fn asks_nothing(prompt: &str) -> bool {
    prompt.split_ascii_whitespace().any(|value| value == "none")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_add_up_but_for_none() {
        for (name, own, configured, expected) in [
            ("both are asked for", "login", "consent", "login consent"),
            ("each once", "login consent", "consent", "login consent"),
            ("the request forbids pages", "none", "consent", "none"),
            ("the configuration forbids them", "login", "none", "login"),
            ("nothing is configured", "login", "", "login"),
            ("values of a provider's own", "create", "x y", "create x y"),
        ] {
            assert_eq!(merged(own, configured), expected, "{name}");
        }
    }
}
