//! Devices by name: `tap:NAME`, `af_packet:INTERFACE`, `pcap:IN,OUT`.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;

use super::Device;
use super::af_packet::PacketSocket;
use super::file::CaptureFile;
use super::tap::Tap;

/// Which device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// A TAP interface.
    Tap(String),
    /// Any interface, by a packet socket.
    AfPacket(String),
    /// A capture to read and one to write.
    Pcap(PathBuf, PathBuf),
}

impl Name {
    /// Opens one of its queues, of which there are to be so many.
    ///
    /// # Errors
    /// The system's, or what is wrong with a capture, which has one queue only.
    pub fn open(&self, queues: usize) -> io::Result<Box<dyn Device>> {
        Ok(match self {
            Self::Tap(name) => Box::new(Tap::open(name, queues)?),
            Self::AfPacket(name) => Box::new(PacketSocket::open(name, queues)?),
            Self::Pcap(input, output) if queues == 1 => Box::new(CaptureFile::open(input, output)?),
            Self::Pcap(..) => return Err(io::Error::other("a capture is one queue, for one worker")),
        })
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let interface = |name: &str| match name.len() {
            1..16 if !name.contains(['/', ' ']) => Ok(name.to_owned()),
            _ => Err(format!("{name:?} is no interface: one has 1 to 15 characters, without / and blanks")),
        };
        match text.split_once(':') {
            Some(("tap", name)) => interface(name).map(Self::Tap),
            Some(("af_packet", name)) => interface(name).map(Self::AfPacket),
            Some(("pcap", files)) => match files.split_once(',') {
                Some((input, output)) if !input.is_empty() && !output.is_empty() => {
                    Ok(Self::Pcap(input.into(), output.into()))
                }
                _ => Err("a capture device is pcap:IN,OUT".to_owned()),
            },
            _ => Err("a device is tap:NAME, af_packet:INTERFACE or pcap:IN,OUT".to_owned()),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tap(name) => write!(f, "tap:{name}"),
            Self::AfPacket(name) => write!(f, "af_packet:{name}"),
            Self::Pcap(input, output) => write!(f, "pcap:{},{}", input.display(), output.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_named_by_what_it_is() {
        for (text, expected) in [
            ("tap:lb0", Some(Name::Tap("lb0".into()))),
            ("af_packet:eth0", Some(Name::AfPacket("eth0".into()))),
            ("pcap:a.pcap,b.pcapng", Some(Name::Pcap("a.pcap".into(), "b.pcapng".into()))),
            ("pcap:a.pcap", None),
            ("pcap:,b", None),
            ("tap:", None),
            ("tap:a-name-of-16-char", None),
            ("tap:a/b", None),
            ("eth0", None),
            ("xdp:eth0", None),
        ] {
            let name = text.parse::<Name>();
            assert_eq!(name.clone().ok(), expected, "{text}");
            assert!(name.is_err() || name.is_ok_and(|name| name.to_string() == text));
        }
    }
}
