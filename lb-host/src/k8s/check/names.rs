//! What names are made of.

/// How to write a DNS label.
pub(super) const LABEL: &str = "use at most 63 of a-z, 0-9 and -, no - at either end";
/// How to write a DNS subdomain.
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

/// RFC 6335 §5.1: what container ports, and target ports, are called.
pub(super) fn is_port_name(name: &str) -> bool {
    is_label(name) && name.len() <= 15 && !name.contains("--") && name.bytes().any(|byte| byte.is_ascii_lowercase())
}
