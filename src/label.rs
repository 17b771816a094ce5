//! What an app calls a sign-in, so that its user can tell it from others.

/// Longest label: room for a browser, a system and an address, and an upper bound to what a request can make the store keep.
const MAX_BYTES: usize = 256;

/// Whether a character could make a page or a log show something other than the label, or nothing.
fn misleads(c: char) -> bool {
    // Line and paragraph separators, and what changes the direction of the text around it (Unicode annex 9).
    let separates = matches!(c, '\u{2028}' | '\u{2029}');
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || separates || turns
}

/// A label as it is kept: on one line, of bounded length, `None` if nothing is left of it.
pub(crate) fn bounded(label: &str) -> Option<Box<str>> {
    let mut kept = String::new();
    for c in label.chars().filter(|c| !misleads(*c)) {
        if kept.len() + c.len_utf8() > MAX_BYTES {
            break;
        }
        kept.push(c);
    }
    let kept = kept.trim();
    (!kept.is_empty()).then(|| kept.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_one_bounded_line_r43() {
        let rows = [
            ("as it is", "Firefox on Linux", Some("Firefox on Linux")),
            ("any script", "Пётр’s 📱", Some("Пётр’s 📱")),
            ("nothing", "", None),
            ("blanks", " \t ", None),
            ("control characters", "a\r\nb\0c\u{1b}[31m", Some("abc[31m")),
            (
                "directions",
                "\u{202e}txt.\u{2066}exe\u{200f}",
                Some("txt.exe"),
            ),
            ("other lines", "a\u{2028}b\u{85}c", Some("abc")),
            ("only such", "\u{202e}\n", None),
        ];
        for (name, label, expected) in rows {
            assert_eq!(bounded(label).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn a_long_label_is_cut_between_characters_r43() {
        assert_eq!(bounded(&"a".repeat(300)).unwrap().len(), 256);
        assert_eq!(*bounded(&"a".repeat(256)).unwrap(), *"a".repeat(256));
        // Three bytes each.
        assert_eq!(bounded(&"€".repeat(300)).unwrap().chars().count(), 85);
    }
}
