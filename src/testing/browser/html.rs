//! As much of HTML as forms, links, frames and refreshes need.

/// A start tag with what follows it up to the next tag.
struct Tag {
    name: String,
    closing: bool,
    attributes: Vec<(String, String)>,
    text: String,
}

impl Tag {
    fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes
            .iter()
            .find(|(candidate, _)| candidate == name)
            .map(|(_, value)| value.as_str())
    }

    fn owned(&self, name: &str) -> Option<String> {
        self.attribute(name).map(str::to_owned)
    }
}

/// A link of a page.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) id: Option<String>,
    pub(super) href: String,
    pub(super) text: String,
}

/// A button of a form.
#[derive(Clone, Debug)]
pub(super) struct Button {
    pub(super) id: Option<String>,
    pub(super) name: Option<String>,
    pub(super) value: String,
    pub(super) text: String,
}

/// A form of a page, with the fields as they stand.
#[derive(Clone, Debug)]
pub(super) struct Form {
    pub(super) id: Option<String>,
    pub(super) name: Option<String>,
    pub(super) action: String,
    pub(super) post: bool,
    pub(super) fields: Vec<(String, String)>,
    pub(super) buttons: Vec<Button>,
}

/// What a page lets its reader do.
#[derive(Clone, Debug, Default)]
pub(super) struct Document {
    pub(super) ids: Vec<String>,
    pub(super) links: Vec<Link>,
    pub(super) forms: Vec<Form>,
    pub(super) frames: Vec<String>,
    pub(super) refresh: Option<String>,
    pub(super) submits_itself: bool,
}

impl Document {
    pub(super) fn parse(html: &str) -> Self {
        let mut document = Self::default();
        let mut form: Option<Form> = None;
        let tags = tags(html);
        for (index, tag) in tags.iter().enumerate() {
            document.ids.extend(tag.owned("id"));
            match (tag.name.as_str(), tag.closing) {
                ("form", false) => {
                    document.forms.extend(form.take());
                    form = Some(new_form(tag));
                }
                ("form", true) => document.forms.extend(form.take()),
                ("input" | "button" | "textarea" | "select", false) => {
                    let text = text_within(&tags[index..]);
                    let owner = tag.attribute("form");
                    let form = match owner {
                        Some(id) => document
                            .forms
                            .iter_mut()
                            .chain(form.as_mut())
                            .find(|form| form.id.as_deref() == Some(id)),
                        None => form.as_mut(),
                    };
                    if let Some(form) = form {
                        add_control(form, tag, text, &tags[index + 1..]);
                    }
                }
                ("a", false) => {
                    if let Some(href) = tag.owned("href") {
                        document.links.push(Link {
                            id: tag.owned("id"),
                            href,
                            text: text_within(&tags[index..]),
                        });
                    }
                }
                ("iframe", false) => document.frames.extend(tag.owned("src")),
                ("meta", false) => {
                    let refresh = tag
                        .attribute("http-equiv")
                        .is_some_and(|value| value.eq_ignore_ascii_case("refresh"));
                    if refresh {
                        document.refresh = tag.attribute("content").and_then(refresh_target);
                    }
                }
                ("script", false) if submits(&tag.text) => {
                    document.submits_itself = true;
                }
                ("body", false) if tag.attribute("onload").is_some_and(submits) => {
                    document.submits_itself = true;
                }
                _ => {}
            }
        }
        document.forms.extend(form);
        document
    }
}

/// `form.submit()`, or the same by the prototype, which a field named `submit` cannot hide.
fn submits(script: &str) -> bool {
    script.contains("submit()") || script.contains("submit.call(")
}

fn new_form(tag: &Tag) -> Form {
    Form {
        id: tag.owned("id"),
        name: tag.owned("name"),
        action: tag.owned("action").unwrap_or_default(),
        post: tag
            .attribute("method")
            .is_some_and(|method| method.eq_ignore_ascii_case("post")),
        fields: Vec::new(),
        buttons: Vec::new(),
    }
}

fn add_control(form: &mut Form, tag: &Tag, text: String, following: &[Tag]) {
    if tag.attribute("disabled").is_some() {
        return;
    }
    let name = tag.owned("name");
    let value = tag.owned("value");
    let kind = tag
        .attribute("type")
        .unwrap_or_default()
        .to_ascii_lowercase();
    let button = match (tag.name.as_str(), kind.as_str()) {
        ("button", "button" | "reset") | ("input", "button" | "reset" | "file") => return,
        ("button", _) | ("input", "submit" | "image") => true,
        _ => false,
    };
    if button {
        form.buttons.push(Button {
            id: tag.owned("id"),
            name,
            text: if text.is_empty() {
                value.clone().unwrap_or_default()
            } else {
                text
            },
            value: value.unwrap_or_default(),
        });
        return;
    }
    let Some(name) = name else { return };
    let value = match (tag.name.as_str(), kind.as_str()) {
        ("input", "checkbox" | "radio") => {
            if tag.attribute("checked").is_none() {
                return;
            }
            value.unwrap_or_else(|| "on".to_owned())
        }
        ("textarea", _) => text,
        ("select", _) => match chosen_option(following) {
            Some(value) => value,
            None => return,
        },
        _ => value.unwrap_or_default(),
    };
    form.fields.push((name, value));
}

fn chosen_option(following: &[Tag]) -> Option<String> {
    let options: Vec<_> = following
        .iter()
        .take_while(|tag| !(tag.name == "select" && tag.closing))
        .filter(|tag| tag.name == "option" && !tag.closing)
        .collect();
    let chosen = options
        .iter()
        .find(|tag| tag.attribute("selected").is_some())
        .or(options.first())?;
    Some(
        chosen
            .owned("value")
            .unwrap_or_else(|| chosen.text.trim().to_owned()),
    )
}

/// The text up to the tag that closes the first one.
fn text_within(tags: &[Tag]) -> String {
    let Some(first) = tags.first() else {
        return String::new();
    };
    if matches!(first.name.as_str(), "input" | "meta") {
        return String::new();
    }
    let mut text = first.text.clone();
    for tag in &tags[1..] {
        if tag.name == first.name {
            break;
        }
        text.push(' ');
        text.push_str(&tag.text);
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `2; url='/next'`.
fn refresh_target(content: &str) -> Option<String> {
    let (_, rest) = content.split_once([';', ','])?;
    let rest = rest.trim();
    let target = match rest.get(..3) {
        Some(word) if word.eq_ignore_ascii_case("url") => {
            rest[3..].trim_start().strip_prefix('=')?.trim()
        }
        _ => rest,
    };
    Some(target.trim_matches(['"', '\'']).to_owned())
}

fn tags(html: &str) -> Vec<Tag> {
    let mut tags = Vec::new();
    let mut rest = html;
    while let Some(start) = rest.find('<') {
        rest = &rest[start + 1..];
        if let Some(comment) = rest.strip_prefix("!--") {
            rest = comment.split_once("-->").map_or("", |(_, after)| after);
            continue;
        }
        let (closing, after) = match rest.strip_prefix('/') {
            Some(after) => (true, after),
            None => (false, rest),
        };
        if !after.starts_with(|c: char| c.is_ascii_alphabetic()) {
            continue;
        }
        let end = after
            .find(|c: char| c.is_ascii_whitespace() || matches!(c, '/' | '>'))
            .unwrap_or(after.len());
        let name = after[..end].to_ascii_lowercase();
        let (attributes, after) = attributes(&after[end..]);
        // What is in these is not markup.
        let text_end =
            if !closing && matches!(name.as_str(), "script" | "style" | "textarea" | "title") {
                find_closing(after, &name)
            } else {
                after.find('<').unwrap_or(after.len())
            };
        let raw = matches!(name.as_str(), "script" | "style");
        let text = &after[..text_end];
        tags.push(Tag {
            text: if raw { text.to_owned() } else { decode(text) },
            name,
            closing,
            attributes,
        });
        rest = &after[text_end..];
    }
    tags
}

fn find_closing(text: &str, name: &str) -> usize {
    text.match_indices("</")
        .find(|(at, _)| {
            text[at + 2..]
                .get(..name.len())
                .is_some_and(|word| word.eq_ignore_ascii_case(name))
        })
        .map_or(text.len(), |(at, _)| at)
}

/// The attributes of a tag, and what follows its `>`.
fn attributes(mut rest: &str) -> (Vec<(String, String)>, &str) {
    let mut attributes = Vec::new();
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '/');
        if rest.is_empty() {
            return (attributes, "");
        }
        if let Some(after) = rest.strip_prefix('>') {
            return (attributes, after);
        }
        let end = rest
            .find(|c: char| c.is_ascii_whitespace() || matches!(c, '=' | '>' | '/'))
            .unwrap_or(rest.len())
            // A stray `=` is taken as a name, so that each turn moves on.
            .max(rest.chars().next().map_or(0, char::len_utf8));
        let name = rest[..end].to_ascii_lowercase();
        rest = rest[end..].trim_start();
        let mut value = String::new();
        if let Some(after) = rest.strip_prefix('=') {
            let after = after.trim_start();
            (value, rest) = attribute_value(after);
        }
        attributes.push((name, value));
    }
}

fn attribute_value(text: &str) -> (String, &str) {
    for quote in ['"', '\''] {
        if let Some(quoted) = text.strip_prefix(quote) {
            let (value, after) = quoted.split_once(quote).unwrap_or((quoted, ""));
            return (decode(value), after);
        }
    }
    let end = text
        .find(|c: char| c.is_ascii_whitespace() || c == '>')
        .unwrap_or(text.len());
    (decode(&text[..end]), &text[end..])
}

fn decode(text: &str) -> String {
    let mut decoded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('&') {
        decoded.push_str(&rest[..start]);
        rest = &rest[start..];
        let reference = rest[1..]
            .split_once(';')
            .filter(|(name, _)| name.len() <= 8)
            .and_then(|(name, after)| Some((character(name)?, after)));
        match reference {
            Some((c, after)) => {
                decoded.push(c);
                rest = after;
            }
            None => {
                decoded.push('&');
                rest = &rest[1..];
            }
        }
    }
    decoded.push_str(rest);
    decoded
}

fn character(name: &str) -> Option<char> {
    match name {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        "nbsp" => Some('\u{a0}'),
        _ => {
            let number = name.strip_prefix('#')?;
            let code = match number.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => number.parse().ok()?,
            };
            char::from_u32(code)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_with_everything() {
        let document = Document::parse(
            "<!doctype html><!-- <form id=no> --><script>if (a<b) document.forms[0].submit()</script>
             <form autocomplete=\"off\" action='/i?a=1&amp;b=2' method=POST id=f>
             <input type=hidden name=xsrf value=\"a&quot;b\"/><input required name=login type=text>
             <input type=checkbox name=no value=1><input type=checkbox checked name=yes>
             <textarea name=t> <b> </textarea>
             <select name=s><option>x</option><option selected value=y>Y</option></select>
             <button id=ok name=logout value=yes autofocus>Yes, <b>sign</b> out</button>
             </form><button form=f id=outside>Out</button>
             <a class=x href=\"/next\">Go <em>on</em></a>
             <meta http-equiv=refresh content=\"0; URL='/x?y=1&amp;z'\"><iframe src=/fc></iframe>",
        );
        let form = &document.forms[0];
        assert_eq!(form.action, "/i?a=1&b=2");
        assert!(form.post && document.submits_itself);
        let fields: Vec<_> = form
            .fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            fields,
            [
                ("xsrf", "a\"b"),
                ("login", ""),
                ("yes", "on"),
                ("t", "<b>"),
                ("s", "y")
            ]
        );
        assert_eq!(form.buttons[0].text, "Yes, sign out");
        assert_eq!(form.buttons[1].id.as_deref(), Some("outside"));
        assert_eq!(document.links[0].text, "Go on");
        assert_eq!(document.refresh.as_deref(), Some("/x?y=1&z"));
        assert_eq!(document.frames, ["/fc"]);
        assert_eq!(document.forms.len(), 1);
    }

    #[test]
    fn broken_markup_ends() {
        for html in [
            "<",
            "<a",
            "<a href",
            "<a href=",
            "<a ='",
            "<a ====>",
            "<form><input",
            "&#xffffffff;",
            "<!--",
            "<script>",
            "</",
            "é<é é=é",
        ] {
            Document::parse(html);
        }
    }
}
