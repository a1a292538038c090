//! Blessed output: what a replay wrote once and should write again.

use std::fmt::Write as _;
use std::io::Read;
use std::time::Duration;

use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::pcapng::blocks::opt_common::CommonOption;
use pcap_file::pcapng::{Block, PcapNgReadError, PcapNgReader};

use super::diff;

/// Differing packets that are described; the rest are counted.
const DESCRIBED: usize = 8;

/// A packet of either capture, with everything that is compared.
#[derive(Debug, PartialEq)]
struct Told {
    interface: String,
    link_type: u32,
    time: Duration,
    original_length: u32,
    data: Vec<u8>,
    comments: Vec<String>,
}

/// Compares two pcapng captures packet by packet: interface, link type, time, length, bytes and comments; not how
/// their blocks are laid out. Returns what differs, in words, `None` if nothing does.
///
/// # Errors
/// One of them is no pcapng, or is damaged.
pub fn compare(golden: impl Read, produced: impl Read) -> Result<Option<String>, PcapNgReadError> {
    let (mut golden, mut produced) = (PcapNgReader::new(golden)?, PcapNgReader::new(produced)?);
    let (mut text, mut different, mut compared) = (String::new(), 0, [0u64; 2]);
    loop {
        let pair = (next(&mut golden)?, next(&mut produced)?);
        compared[0] += u64::from(pair.0.is_some());
        compared[1] += u64::from(pair.1.is_some());
        match pair {
            (None, None) => break,
            (expected, got) if expected == got => {}
            (Some(expected), Some(got)) => {
                different += 1;
                if different <= DESCRIBED {
                    describe(&mut text, compared[0], &expected, &got);
                }
            }
            _ => different += 1,
        }
    }
    if different == 0 {
        return Ok(None);
    }
    let [expected, got] = compared;
    // Writing to a string can't fail.
    let _ = writeln!(text, "{different} packets differ; expected {expected} packets, got {got}");
    Ok(Some(text))
}

fn describe(text: &mut String, number: u64, expected: &Told, got: &Told) {
    let mut field = |name: &str, expected: &dyn std::fmt::Debug, got: &dyn std::fmt::Debug| {
        let (expected, got) = (format!("{expected:?}"), format!("{got:?}"));
        if expected != got {
            let _ = writeln!(text, "packet {number}: {name}\n  expected {expected}\n  got      {got}");
        }
    };
    field("interface", &expected.interface, &got.interface);
    field("link type", &expected.link_type, &got.link_type);
    field("time", &expected.time, &got.time);
    field("original length", &expected.original_length, &got.original_length);
    field("comments", &expected.comments, &got.comments);
    if expected.data != got.data {
        let diff = diff::packets(&expected.data, &got.data, got.link_type as u16);
        let _ = write!(text, "packet {number}: bytes\n{diff}");
    }
}

/// The next packet of a capture.
fn next<R: Read>(reader: &mut PcapNgReader<R>) -> Result<Option<Told>, PcapNgReadError> {
    while let Some(block) = reader.next_block() {
        let (Block::EnhancedPacket(packet), state) = block? else { continue };
        let comments = packet.options.into_iter().filter_map(|option| match option {
            EnhancedPacketOption::Common(CommonOption::Comment(comment)) => Some(comment.into_owned()),
            _ => None,
        });
        let interface = state.interfaces().get(packet.interface_id as usize);
        let name = interface.into_iter().flat_map(|interface| &interface.options).find_map(|option| match option {
            InterfaceDescriptionOption::IfName(name) => Some(name.to_string()),
            _ => None,
        });
        return Ok(Some(Told {
            interface: name.unwrap_or_default(),
            link_type: interface.map_or(0, |interface| interface.linktype.into()),
            time: packet.timestamp,
            original_length: packet.original_len,
            comments: comments.collect(),
            data: packet.data.into_owned(),
        }));
    }
    Ok(None)
}
