use super::*;

fn base() -> BaseUrl {
    BaseUrl::parse("https://app.example.com/app").unwrap()
}

fn allowlist() -> Allowlist {
    let entries = [
        "https://other.example",
        "https://ports.example:8443",
        "https://exact.example/bye?from=app",
        "https://root.example/",
        "https://xn--bcher-kva.example",
        "http://localhost:5173",
        "/anything",
    ];
    Allowlist::new(&base(), entries).unwrap()
}

#[test]
fn everything_that_leads_elsewhere_is_refused_a1() {
    let long_path = format!("/{}", "a".repeat(MAX_TARGET));
    let long_query = format!("/?{}", "a".repeat(MAX_TARGET));
    let grows = format!("/{}", "é".repeat(MAX_TARGET / 3));
    let huge = format!("/{}", "/".repeat(1_000_000));
    let rows = [
        ("empty", ""),
        ("space", " "),
        ("relative", "evil"),
        ("relative with a dot", "./evil"),
        ("relative with two dots", "../evil"),
        ("relative host", "evil.example"),
        ("relative host and port", "evil.example:443"),
        ("query only", "?next=/"),
        ("fragment only", "#mail"),
        ("two slashes", "//evil"),
        ("two slashes and a dot name", "//evil.example"),
        ("two slashes and a port", "//evil.example:443/"),
        ("two slashes and own host", "//app.example.com"),
        (
            "two slashes, own host, other port",
            "//app.example.com:8443/",
        ),
        ("two slashes and a user", "//app.example.com@evil.example/"),
        ("three slashes", "///evil"),
        ("four slashes", "////evil.example"),
        ("slashes only", "//"),
        ("slash, backslash", "/\\evil"),
        ("slash, backslash, slash", "/\\/evil"),
        ("two backslashes", "\\\\evil"),
        ("backslash", "\\evil"),
        ("backslash, slash", "\\/evil"),
        ("backslash later in the path", "/mail\\evil"),
        ("backslash and dots", "/a\\..\\\\evil"),
        (
            "backslash in a host",
            "https://evil.example\\@app.example.com/",
        ),
        ("backslashes after the scheme", "https:\\\\evil.example"),
        (
            "slash and backslash after the scheme",
            "https:/\\evil.example",
        ),
        ("tab", "/\t/evil"),
        ("tab first", "\t//evil"),
        ("tab in the scheme", "java\tscript:alert(1)"),
        ("line feed", "/\n/evil"),
        ("line feed first", "\n//evil"),
        ("carriage return", "/\r/evil"),
        ("line end and header", "/mail\r\nSet-Cookie: id=1"),
        ("line feed at the end", "/mail\n"),
        ("line end in the query", "/mail?a=\r\nb"),
        ("line end in the fragment", "/mail#\r\nb"),
        ("NUL", "/\0/evil"),
        ("NUL later", "/mail\0"),
        ("escape", "/\u{1b}[31m"),
        ("delete", "/\u{7f}/evil"),
        ("next line, a C1 control", "/\u{85}/evil"),
        ("form feed", "/\u{c}/evil"),
        ("encoded tab", "/%09/evil"),
        ("encoded tab twice", "/%2509/evil"),
        ("encoded line end", "/%0d%0aSet-Cookie:%20id=1"),
        ("encoded line feed", "/mail%0a"),
        ("encoded line end twice", "/mail%250d%250aX:1"),
        ("encoded line end in the query", "/mail?a=%0d%0aX:1"),
        (
            "encoded line end twice in the query",
            "/mail?a=%250d%250aX:1",
        ),
        ("encoded line end in the fragment", "/mail#%0D%0A"),
        ("encoded NUL", "/mail%00"),
        ("encoded NUL in the query", "/mail?a=%00"),
        ("encoded escape", "/%1b"),
        ("encoded C1 control", "/%c2%85/evil"),
        ("encoded slash", "/%2f/evil"),
        ("encoded slash, capital", "/%2Fevil.example"),
        ("encoded slash twice", "/%252fevil.example"),
        ("encoded slash three times", "/%25252fevil.example"),
        ("encoded beyond reason", "/%2525252525252fevil"),
        ("encoded backslash", "/%5cevil"),
        ("encoded backslash, slash", "/%5C/evil"),
        ("encoded backslash twice", "/%255cevil"),
        ("both slashes encoded", "%2f%2fevil.example"),
        ("encoded space between slashes", "/%20/evil"),
        ("space between slashes", "/ /evil"),
        ("no-break space between slashes", "/\u{a0}/evil"),
        ("dot between slashes", "/.//evil"),
        ("two dots", "/..//evil"),
        ("segment and two dots", "/a/..//evil"),
        ("segments and dots", "/a/b/../..//evil.example"),
        ("encoded dots", "/a/%2e%2e//evil"),
        ("half encoded dots", "/a/.%2E//evil"),
        ("encoded dot", "/%2e//evil"),
        ("encoded slash after dots", "/a/..%2f/evil"),
        ("encoded slashes and dots", "/a%2f..%2f%2fevil"),
        ("dots encoded twice", "/a/%252e%252e//evil"),
        ("encoded backslash after dots", "/a/..%5c%5cevil"),
        ("fullwidth solidus", "/\u{ff0f}evil"),
        ("fullwidth solidus twice", "\u{ff0f}\u{ff0f}evil"),
        ("fullwidth solidus, encoded", "/%ef%bc%8fevil"),
        ("fullwidth backslash", "/\u{ff3c}evil"),
        ("small backslash", "/\u{fe68}evil"),
        ("fraction slash", "/\u{2044}evil"),
        ("division slash", "/\u{2215}evil"),
        ("big solidus", "/\u{29f8}evil"),
        ("fullwidth dots", "/a/\u{ff0e}\u{ff0e}//evil"),
        ("ideographic dot in a host", "https://evil\u{3002}example/"),
        ("leading space", " /mail"),
        ("leading space and host", " //evil"),
        ("trailing space", "/mail "),
        ("leading no-break space", "\u{a0}/mail"),
        ("trailing line separator", "/mail\u{2028}"),
        ("byte order mark", "\u{feff}//evil"),
        ("scheme without slashes", "https:evil"),
        ("scheme with a name and no slashes", "https:evil.example"),
        ("scheme, own host, no slashes", "https:app.example.com/mail"),
        ("scheme with one slash", "https:/evil"),
        ("scheme with three slashes", "https:///evil.example"),
        ("scheme and own path", "https:/mail"),
        ("scheme only", "https://"),
        ("scheme and path", "https:///"),
        ("javascript", "javascript:alert(1)"),
        ("javascript, capitals", "JavaScript:alert(1)"),
        (
            "javascript with slashes",
            "javascript://app.example.com/%0aalert(1)",
        ),
        ("data", "data:text/html,<script>alert(1)</script>"),
        ("vbscript", "vbscript:x"),
        ("blob", "blob:https://app.example.com/1"),
        ("file", "file:///etc/passwd"),
        ("ftp", "ftp://app.example.com/"),
        ("web socket", "wss://app.example.com/"),
        ("mail", "mailto:a@b.example"),
        ("view-source", "view-source:https://app.example.com/"),
        ("other host", "https://evil.example/"),
        ("other host, capitals", "HTTPS://EVIL.EXAMPLE/"),
        ("other scheme", "http://app.example.com/mail"),
        ("other scheme of an allowed origin", "http://other.example/"),
        ("other port", "https://app.example.com:8443/mail"),
        (
            "other port of an allowed origin",
            "https://other.example:8443/",
        ),
        (
            "missing port of an allowed origin",
            "https://ports.example/",
        ),
        ("port out of range", "https://app.example.com:99999/"),
        ("port not a number", "https://app.example.com:evil/"),
        ("user", "https://ann@app.example.com/mail"),
        ("user and password", "https://ann:pw@app.example.com/mail"),
        (
            "user that looks like the host",
            "https://app.example.com@evil.example/",
        ),
        (
            "user, host and port",
            "https://app.example.com:443@evil.example/",
        ),
        ("empty user", "https://@app.example.com/mail"),
        ("empty user and password", "https://:@app.example.com/mail"),
        ("encoded at sign", "https://app.example.com%40evil.example/"),
        (
            "dot at the end of the host",
            "https://app.example.com./mail",
        ),
        (
            "dot at the end of an allowed host",
            "https://other.example./",
        ),
        ("longer host", "https://app.example.com.evil.example/"),
        ("longer host in front", "https://evilother.example/"),
        ("subdomain", "https://sub.other.example/"),
        ("host that only begins alike", "https://other.example.evil/"),
        (
            "fragment for a slash",
            "https://evil.example#@app.example.com/",
        ),
        (
            "query for a slash",
            "https://evil.example?@app.example.com/",
        ),
        ("Cyrillic letter", "https://\u{43e}ther.example/"),
        ("fullwidth letters", "https://\u{ff4f}ther.example/"),
        (
            "allowed name in its national letters",
            "https://b\u{fc}cher.example/",
        ),
        ("soft hyphen", "https://oth\u{ad}er.example/"),
        ("zero width space", "https://other.example\u{200b}/"),
        ("encoded host", "https://%6fther.example/"),
        ("tab in a host", "https://other\t.example/"),
        ("space in a host", "https://other .example/"),
        ("address as a number", "https://2130706433/"),
        (
            "own host and a path that begins a host",
            "https://app.example.com//evil",
        ),
        ("own host, dots, host", "https://app.example.com/a/..//evil"),
        (
            "own host and encoded slash",
            "https://app.example.com/%2fevil",
        ),
        ("exact, another path", "https://exact.example/other"),
        ("exact, no query", "https://exact.example/bye"),
        (
            "exact, longer query",
            "https://exact.example/bye?from=app&x=1",
        ),
        ("exact, fragment", "https://exact.example/bye?from=app#x"),
        ("exact, its origin", "https://exact.example"),
        ("exact root, a path", "https://root.example/x"),
        ("loopback, other port", "http://localhost:3000/"),
        ("loopback, other name", "http://127.0.0.1:5173/"),
        ("path too long", &long_path),
        ("query too long", &long_query),
        ("too long once encoded", &grows),
        ("huge", &huge),
    ];
    let allowlist = allowlist();
    for (name, candidate) in rows {
        let target = allowlist.check(candidate);
        assert!(target.is_none(), "{name}: {candidate:?} became {target:?}");
    }
    assert!(rows.len() >= 80);
}

#[test]
fn what_an_app_would_ask_for_is_accepted_and_normalised_r39() {
    let longest = format!("/{}", "a".repeat(MAX_TARGET - 1));
    let rows = [
        ("root", "/", "/"),
        ("path", "/mail", "/mail"),
        ("deep path", "/a/b/c", "/a/b/c"),
        ("slash at the end", "/mail/", "/mail/"),
        ("outside the mount prefix", "/goodbye", "/goodbye"),
        ("query", "/mail?folder=in&page=2", "/mail?folder=in&page=2"),
        (
            "URL in the query",
            "/go?to=https://evil.example//x\\y",
            "/go?to=https://evil.example//x\\y",
        ),
        ("empty query", "/mail?", "/mail?"),
        ("fragment", "/mail#latest", "/mail#latest"),
        ("route in the fragment", "/#/mail/1", "/#/mail/1"),
        ("dots", "/a/../mail", "/mail"),
        ("a dot", "/./mail", "/mail"),
        ("dots beyond the root", "/../../mail", "/mail"),
        ("file with dots", "/a..b/.well-known", "/a..b/.well-known"),
        ("double slash inside", "/a//b", "/a//b"),
        ("encoded slash inside", "/files/a%2Fb", "/files/a%2Fb"),
        ("encoded space", "/a%20b", "/a%20b"),
        ("space inside", "/a b?q=c d", "/a%20b?q=c%20d"),
        ("percent sign", "/100%", "/100%"),
        ("encoded percent sign", "/100%25", "/100%25"),
        (
            "not ASCII",
            "/gr\u{fc}\u{df}e?q=\u{e9}",
            "/gr%C3%BC%C3%9Fe?q=%C3%A9",
        ),
        ("look-alike inside", "/a\u{2044}b", "/a%E2%81%84b"),
        ("quotes and angles", "/a\"<b>", "/a%22%3Cb%3E"),
        ("colon", "/a:b", "/a:b"),
        ("at sign", "/@ann", "/@ann"),
        ("at sign and host", "/@evil.example", "/@evil.example"),
        (
            "scheme in a path",
            "/https://evil.example",
            "/https://evil.example",
        ),
        ("longest", &longest, &longest),
        ("own origin", "https://app.example.com/mail", "/mail"),
        ("own origin alone", "https://app.example.com", "/"),
        (
            "own origin, capitals",
            "HTTPS://App.Example.COM/Mail",
            "/Mail",
        ),
        (
            "own origin, default port",
            "https://app.example.com:443/mail",
            "/mail",
        ),
        (
            "own origin, query alone",
            "https://app.example.com?x=1",
            "/?x=1",
        ),
        (
            "allowed origin",
            "https://other.example",
            "https://other.example/",
        ),
        (
            "allowed origin, path",
            "https://other.example/a?b#c",
            "https://other.example/a?b#c",
        ),
        (
            "allowed origin, capitals",
            "https://OTHER.example/A",
            "https://other.example/A",
        ),
        (
            "allowed origin, port",
            "https://ports.example:8443/x",
            "https://ports.example:8443/x",
        ),
        (
            "allowed international name",
            "https://xn--bcher-kva.example/",
            "https://xn--bcher-kva.example/",
        ),
        (
            "exact",
            "https://exact.example/bye?from=app",
            "https://exact.example/bye?from=app",
        ),
        (
            "exact root",
            "https://root.example/",
            "https://root.example/",
        ),
        (
            "exact root without its slash",
            "https://root.example",
            "https://root.example/",
        ),
        (
            "loopback",
            "http://localhost:5173/x",
            "http://localhost:5173/x",
        ),
    ];
    let allowlist = allowlist();
    for (name, candidate, want) in rows {
        let target = allowlist.check(candidate);
        assert_eq!(
            target.as_ref().map(SafeTarget::as_str),
            Some(want),
            "{name}"
        );
        let target = target.unwrap();
        assert_eq!(
            allowlist.check(target.as_str()),
            Some(target),
            "{name}, once more"
        );
    }
    assert!(rows.len() >= 20);
}

/// A1.
#[test]
fn an_accepted_path_stays_on_the_origin_for_every_short_text() {
    let base = base();
    let allowlist = Allowlist::new(&base, [""; 0]).unwrap();
    let parts = [
        "/", "\\", ".", "..", "%2f", "%5C", "%2e", "%09", "\t", "e", "@", ":", "?", "#", " ",
    ];
    let mut texts = vec![String::new()];
    for _ in 0..5 {
        texts = texts
            .iter()
            .flat_map(|text| parts.iter().map(move |part| format!("{text}{part}")))
            .filter(|text| text.starts_with('/'))
            .collect();
        for text in &texts {
            if let Some(target) = allowlist.check(text) {
                let text = target.as_str();
                assert!(text.starts_with('/') && !text.starts_with("//"), "{text}");
                let url = base.root.join(text).unwrap();
                assert_eq!(url.origin(), base.root.origin(), "{text}");
                assert!(text.bytes().all(|b| b.is_ascii_graphic()), "{text}");
            }
        }
    }
}

#[test]
fn base_urls() {
    struct Row(&'static str, &'static str, &'static str, bool);
    let good = [
        Row(
            "https://app.example.com",
            "https://app.example.com",
            "",
            true,
        ),
        Row(
            "https://app.example.com/",
            "https://app.example.com",
            "",
            true,
        ),
        Row(
            "https://app.example.com:443",
            "https://app.example.com",
            "",
            true,
        ),
        Row(
            "https://App.Example.com:8443/a/b/",
            "https://app.example.com:8443",
            "/a/b",
            true,
        ),
        Row(
            "https://bücher.example",
            "https://xn--bcher-kva.example",
            "",
            true,
        ),
        Row("https://192.0.2.1", "https://192.0.2.1", "", true),
        Row("http://localhost", "http://localhost", "", false),
        Row(
            "http://localhost:3000/app",
            "http://localhost:3000",
            "/app",
            false,
        ),
        Row(
            "http://app.localhost:3000",
            "http://app.localhost:3000",
            "",
            false,
        ),
        Row("http://127.0.0.1:3000", "http://127.0.0.1:3000", "", false),
        Row("http://127.8.9.10", "http://127.8.9.10", "", false),
        Row("http://[::1]:3000", "http://[::1]:3000", "", false),
    ];
    for Row(value, origin, prefix, secure) in good {
        let base = BaseUrl::parse(value).unwrap();
        assert_eq!(base.origin(), origin, "{value}");
        assert_eq!(base.is_secure(), secure, "{value}");
        assert_eq!(
            base.join_mounted("/signin"),
            format!("{origin}{prefix}/signin"),
            "{value}"
        );
        assert_eq!(base.to_string(), format!("{origin}{prefix}"), "{value}");
    }

    let bad = [
        ("empty", ""),
        ("path", "/app"),
        ("host", "app.example.com"),
        ("no scheme", "//app.example.com"),
        ("no slashes", "https:app.example.com"),
        ("one slash", "https:/app.example.com"),
        ("no host", "https://"),
        ("no host, path", "https:///app"),
        ("other scheme", "ftp://app.example.com"),
        ("query", "https://app.example.com?x"),
        ("empty query", "https://app.example.com/?"),
        ("fragment", "https://app.example.com#x"),
        ("empty fragment", "https://app.example.com/#"),
        ("user", "https://ann@app.example.com"),
        ("empty user", "https://@app.example.com"),
        ("password", "https://ann:pw@app.example.com"),
        ("space", "https://app.example.com/ x"),
        ("space at the end", "https://app.example.com "),
        ("tab", "https://app.\texample.com"),
        ("backslash", "https:\\\\app.example.com"),
        ("dot at the end", "https://app.example.com./"),
        ("double slash in the path", "https://app.example.com//app"),
        ("parameter in the path", "https://app.example.com/{tenant}"),
        (
            "encoded slash in the path",
            "https://app.example.com/%2fapp",
        ),
    ];
    for (name, value) in bad {
        let error = BaseUrl::parse(value).unwrap_err();
        assert!(
            matches!(error, ConfigError::InvalidUrl { .. }),
            "{name}: {error}"
        );
    }

    let insecure = [
        "http://app.example.com",
        "http://localhost.example.com",
        "http://notlocalhost",
        "http://192.0.2.1",
        "http://0.0.0.0",
        "http://[::2]",
        "http://128.0.0.1",
    ];
    for value in insecure {
        let error = BaseUrl::parse(value).unwrap_err();
        assert!(
            matches!(error, ConfigError::InsecureUrl { .. }),
            "{value}: {error}"
        );
    }
}

#[test]
fn allowlist_entries() {
    let bad = [
        ("empty", ""),
        ("star", "*"),
        ("host", "other.example"),
        ("wildcard host", "https://*.example"),
        ("scheme relative", "//other.example"),
        ("app scheme", "myapp://callback"),
        ("insecure", "http://other.example"),
        ("user", "https://ann:secret@other.example"),
        ("national letters", "https://bücher.example"),
        ("path that begins a host", "https://other.example//evil"),
        ("bad path", "/\\evil"),
        ("dot at the end", "https://other.example."),
        ("space", " https://other.example"),
    ];
    for (name, entry) in bad {
        let error = Allowlist::new(&base(), [entry]).unwrap_err();
        assert!(!error.to_string().contains("secret"), "{name}: {error}");
    }
}

#[test]
fn a_configured_target_names_the_bad_value() {
    let allowlist = allowlist();
    let target = SafeTarget::from_config("after sign-out", "/goodbye", &allowlist).unwrap();
    assert_eq!(target.as_str(), "/goodbye");
    let error = SafeTarget::from_config("after sign-out", "//evil", &allowlist).unwrap_err();
    assert_eq!(
        error.to_string(),
        "after sign-out: \"//evil\" is not an allowed redirect target"
    );
}
