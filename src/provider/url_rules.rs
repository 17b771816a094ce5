//! Which URLs a provider may have.

use url::{Host, Url};

use crate::error::ConfigError;

/// What is wrong with a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum UrlProblem {
    Invalid(String),
    Insecure,
}

impl UrlProblem {
    pub(super) fn into_config_error(self, what: &'static str, value: &str) -> ConfigError {
        let value = value.to_owned();
        match self {
            Self::Invalid(reason) => ConfigError::InvalidUrl {
                what,
                value,
                reason,
            },
            Self::Insecure => ConfigError::InsecureUrl { what, value },
        }
    }
}

impl std::fmt::Display for UrlProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Invalid(reason) => f.write_str(reason),
            Self::Insecure => f.write_str("must be https (http where the issuer is on loopback)"),
        }
    }
}

/// `localhost` and what is below it (RFC 6761, section 6.3), 127.0.0.0/8, and `::1`.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => {
            let name = name.strip_suffix('.').unwrap_or(name);
            name == "localhost" || name.ends_with(".localhost")
        }
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// `https`, or `http` on loopback.
pub(super) fn is_secure(url: &Url) -> bool {
    match url.scheme() {
        "https" => url.host().is_some(),
        "http" => is_loopback(url),
        _ => false,
    }
}

fn parse(text: &str) -> Result<Url, UrlProblem> {
    let invalid = |reason: &str| Err(UrlProblem::Invalid(reason.to_owned()));
    // The parser forgives these, and a text that is compared must be what it looks like.
    if text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '\\') {
        return invalid("it has a space, a control character or a backslash");
    }
    let url = Url::parse(text).map_err(|error| UrlProblem::Invalid(error.to_string()))?;
    if !url.username().is_empty() || url.password().is_some() {
        return invalid("it has a user name or a password");
    }
    if url.fragment().is_some() {
        return invalid("it has a fragment");
    }
    if !is_secure(&url) {
        return Err(UrlProblem::Insecure);
    }
    Ok(url)
}

/// OIDC Discovery, section 3: an issuer has no query and no fragment.
pub(super) fn issuer(text: &str) -> Result<Url, UrlProblem> {
    let url = parse(text)?;
    if url.query().is_some() {
        return Err(UrlProblem::Invalid("it has a query".to_owned()));
    }
    Ok(url)
}

/// An endpoint may have a query. Plain `http` only where the issuer itself is: what a provider on the network
/// publishes does not get to pick ports of this machine.
pub(super) fn endpoint(text: &str, issuer: &Url) -> Result<Url, UrlProblem> {
    let url = parse(text)?;
    if url.scheme() != "https" && issuer.scheme() == "https" {
        return Err(UrlProblem::Insecure);
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issuers() {
        for good in [
            "https://login.example.com",
            "https://login.example.com/",
            "https://login.example.com:8443/realms/a",
            "http://localhost:3000",
            "http://op.localhost/x",
            "http://127.0.0.1:1",
            "http://127.9.9.9",
            "http://[::1]:8080",
        ] {
            assert!(issuer(good).is_ok(), "{good}");
        }
        for (bad, insecure) in [
            ("", false),
            ("login.example.com", false),
            ("https://", false),
            ("http://login.example.com", true),
            ("http://localhost.example.com", true),
            ("http://notlocalhost", true),
            ("http://128.0.0.1", true),
            ("http://[::2]", true),
            ("ftp://localhost", true),
            ("file:///etc/passwd", true),
            ("https://a?b", false),
            ("https://a#b", false),
            ("https://u@a", false),
            ("https://u:p@a", false),
            ("https://a b", false),
            (" https://a", false),
            ("https:\\\\a", false),
            ("https://a\n", false),
        ] {
            let problem = issuer(bad).err();
            assert!(problem.is_some(), "{bad}");
            assert_eq!(problem == Some(UrlProblem::Insecure), insecure, "{bad}");
        }
    }

    #[test]
    fn a_provider_on_the_network_has_no_endpoint_on_this_machine() {
        let network = Url::parse("https://op.example.com").unwrap();
        let local = Url::parse("http://127.0.0.1:1").unwrap();
        let plain = "http://127.0.0.1:9/token";
        assert_eq!(endpoint(plain, &network), Err(UrlProblem::Insecure));
        assert!(endpoint(plain, &local).is_ok());
        assert!(endpoint("https://other.example.com/t?p=1", &network).is_ok());
        assert!(endpoint("http://other.example.com/t", &local).is_err());
    }
}
