//! Any octets as a capture: pcap, pcapng, compressed or not. Read to the end or refused, and the same however the octets come.

use std::io::{self, Read};

use lb_host::device::capture::Reader;

/// What a reader says of a capture: length and first octets of each record, and how it ended.
type Told = (Vec<(Option<u64>, u16, usize, Vec<u8>)>, String);

/// A small input may be compressed from much: as many records as are looked at.
const RECORDS: usize = 2_000;

/// Tries an input. What is wrong panics.
pub fn run(input: &[u8]) {
    let at_once = tell(input);
    assert_eq!(at_once, tell(Drops(input)), "octet by octet it says otherwise");
}

fn tell(source: impl Read) -> Told {
    let mut told = Vec::new();
    let mut reader = match Reader::new(source) {
        Ok(reader) => reader,
        Err(error) => return (told, error.to_string()),
    };
    while told.len() < RECORDS {
        match reader.next_record() {
            Ok(Some(record)) => {
                // Snap lengths are 256 KiB everywhere (libpcap's MAXIMUM_SNAPLEN).
                assert!(record.data.len() <= 1 << 18, "a record of {} octets", record.data.len());
                let head = record.data.get(..16).unwrap_or(record.data).to_vec();
                told.push((record.time, record.link_type, record.data.len(), head));
            }
            Ok(None) => return (told, String::new()),
            Err(error) => return (told, error.to_string()),
        }
    }
    (told, "and so on".to_owned())
}

/// Gives an octet at a time.
struct Drops<'d>(&'d [u8]);

impl Read for Drops<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let length = out.len().min(1);
        self.0.read(&mut out[..length])
    }
}
