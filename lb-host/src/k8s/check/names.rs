//! What names are made of.

/// How to write a DNS label.
pub(super) const LABEL: &str = "use at most 63 of a-z, 0-9 and -, no - at either end";
/// How to write a DNS subdomain.
pub(super) const QUALIFIED: &str =
    "use at most 63 of A-Z, a-z, 0-9, -, _ and ., behind a domain and a slash if you like";
pub(super) const SUBDOMAIN: &str = "use DNS labels of a-z, 0-9 and - with dots between, at most 253 characters";
/// How to name a port of a container.
pub(super) const PORT_NAME: &str =
    "use at most 15 of a-z, 0-9 and -, a letter among them, no - at either end or next to another";

/// RFC 1123 §2.1, lower case: what Service and port names are made of (SEMANTICS §16.1, §16.2).
pub(in crate::k8s) fn is_label(name: &str) -> bool {
    let inside = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    inside && (1..=63).contains(&name.len()) && !name.starts_with('-') && !name.ends_with('-')
}

/// Labels with dots between (RFC 1123 §2.1), none longer than all of it may be.
pub(in crate::k8s) fn is_subdomain(name: &str) -> bool {
    let label = |label: &str| {
        let inside = label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        inside && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// What label keys, classes and application protocols are called: a word, or a domain's word behind a slash.
pub(super) fn is_qualified(name: &str) -> bool {
    match name.split_once('/') {
        Some((domain, word)) => is_subdomain(domain) && is_word(word),
        None => is_word(name),
    }
}

/// What a label may be worth: nothing, or a word.
pub(super) fn is_label_value(value: &str) -> bool {
    value.is_empty() || is_word(value)
}

fn is_word(word: &str) -> bool {
    let ends = |end: Option<&u8>| end.is_some_and(u8::is_ascii_alphanumeric);
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    word.len() <= 63 && word.bytes().all(inside) && ends(word.as_bytes().first()) && ends(word.as_bytes().last())
}

/// RFC 6335 §5.1: what container ports, and target ports, are called.
pub(super) fn is_port_name(name: &str) -> bool {
    is_label(name) && name.len() <= 15 && !name.contains("--") && name.bytes().any(|byte| byte.is_ascii_lowercase())
}
