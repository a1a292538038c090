//! Addresses as the API server stored them, which is not always as it would take them today.

use std::net::{Ipv4Addr, Ipv6Addr};

use lb_core::{Address, Prefix};

/// An IP address, leading zeros of IPv4 octets read as decimal: `172.30.0.041` is 172.30.0.41
/// (SEMANTICS §3.2; an IPv6 address may end in such octets as well). `None` if it is none.
pub fn lenient_address(text: &str) -> Option<Address> {
    if !text.contains(':') {
        return lenient_v4(text).map(Address::from);
    }
    let address = match text.rsplit_once(':') {
        Some((head, tail)) if tail.contains('.') => format!("{head}:{}", lenient_v4(tail)?).parse::<Ipv6Addr>(),
        _ => text.parse(),
    };
    address.ok().map(Address::from)
}

/// A block in CIDR notation, blanks around it dropped and leading zeros decimal, its host bits cleared:
/// `203.0.113.000/025` is 203.0.113.0/25 (SEMANTICS §3.2). `None` if it is none.
pub fn lenient_prefix(text: &str) -> Option<Prefix> {
    let (head, tail) = text.trim().split_once('/')?;
    let address = lenient_address(head)?;
    let length = decimal(tail).and_then(|length| u8::try_from(length).ok())?;
    // A mapped IPv4 address (RFC 4291 §2.5.5.2) counts the 96 bits before it.
    let length = if address.is_v4() && head.contains(':') { length.checked_sub(96)? } else { length };
    let whole = if address.is_v4() { 32 } else { 128 };
    (length <= whole).then(|| Prefix::new(address, length))
}

fn lenient_v4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = text.split('.').map(|octet| decimal(octet).and_then(|octet| u8::try_from(octet).ok()));
    let address = Ipv4Addr::new(octets.next()??, octets.next()??, octets.next()??, octets.next()??);
    octets.next().is_none().then_some(address)
}

/// Digits only: no sign, which `parse` would take.
fn decimal(digits: &str) -> Option<u32> {
    digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_but_stored_addresses_are_read() {
        for (text, expected) in [
            ("172.30.0.41", Some("172.30.0.41")),
            ("172.30.0.041", Some("172.30.0.41")),
            ("010.000.000.0001", Some("10.0.0.1")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("2001:0db8:0::0001", Some("2001:db8::1")),
            ("::ffff:010.0.0.1", Some("10.0.0.1")),
            ("64:ff9b::192.0.2.033", Some("64:ff9b::c000:221")),
            ("", None),
            ("None", None),
            ("10.0.0", None),
            ("10.0.0.0.1", None),
            ("10.0.0.256", None),
            ("10.0.0.+1", None),
            ("10.0.0.", None),
            (" 10.0.0.1", None),
            ("2001:db8::g", None),
            ("example.com", None),
        ] {
            let read = lenient_address(text).map(|address| address.to_string());
            assert_eq!(read.as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn odd_but_stored_blocks_are_read() {
        for (text, expected) in [
            ("203.0.113.0/25", Some("203.0.113.0/25")),
            ("203.0.113.000/025", Some("203.0.113.0/25")),
            (" 203.0.113.0/25\n", Some("203.0.113.0/25")),
            ("203.0.113.77/24", Some("203.0.113.0/24")),
            ("0.0.0.0/0", Some("0.0.0.0/0")),
            ("::/0", Some("::/0")),
            ("2001:db8:1::/33", Some("2001:db8::/33")),
            ("::ffff:10.0.0.0/104", Some("10.0.0.0/8")),
            ("::ffff:10.0.0.0/64", None),
            ("203.0.113.0", None),
            ("203.0.113.0/33", None),
            ("203.0.113.0/-1", None),
            ("203.0.113.0/", None),
            ("2001:db8::/129", None),
        ] {
            let read = lenient_prefix(text).map(|prefix| prefix.to_string());
            assert_eq!(read.as_deref(), expected, "{text:?}");
        }
    }
}
