//! Captures: what is read from real and made ones, what is written, and what is left behind when it fails.

use std::borrow::Cow;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use lb_host::device::capture::{Output, ReadError, Reader, Record, Side, Writer, open};
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapTsResolution, PcapWriter};
use pcap_file::pcapng::blocks::custom::CustomBlock;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption, InterfaceTsResolution,
};
use pcap_file::pcapng::blocks::opt_common::CommonOption;
use pcap_file::pcapng::blocks::packet::PacketBlock;
use pcap_file::pcapng::blocks::section_header::SectionHeaderBlock;
use pcap_file::pcapng::blocks::simple_packet::SimplePacketBlock;
use pcap_file::pcapng::{Block, PcapNgReader, PcapNgWriter};
use pcap_file::{DataLink, Endianness};

mod real;

/// A packet as a test states it: nanoseconds, link type, original length, bytes.
type Packet = (Option<u64>, u16, u32, Vec<u8>);

fn packets(source: impl Read) -> Result<Vec<Packet>, ReadError> {
    let mut reader = Reader::new(source)?;
    let mut packets = Vec::new();
    while let Some(record) = reader.next_record()? {
        packets.push((record.time, record.link_type, record.original_length, record.data.to_vec()));
    }
    Ok(packets)
}

/// A packet's bytes, told apart by their number.
fn bytes(number: u8, length: usize) -> Vec<u8> {
    (0..length).map(|at| number.wrapping_add(at as u8)).collect()
}

#[test]
fn real_captures_are_read_to_their_last_packet() {
    let Some(directory) = real::directory() else { return };
    for (name, count) in real::CAPTURES {
        let mut reader = open(&directory.join(name)).unwrap();
        let mut read = 0;
        while let Some(record) = reader.next_record().unwrap_or_else(|error| panic!("{name}: {error}")) {
            assert!(record.data.len() < 1 << 18, "{name}");
            read += 1;
        }
        assert_eq!(read, *count, "{name}");
    }
}

/// Time, captured and original length of every packet are what tshark says. It numbers custom blocks too, which
/// it gives neither a time nor an encapsulation; so it does with simple packets' times.
#[test]
fn tshark_reads_the_same() {
    let Some(directory) = real::directory() else { return };
    if !real::tshark() {
        return;
    }
    for (name, _) in real::CAPTURES {
        let path = directory.join(name);
        let ours: Vec<_> = packets(fs::File::open(&path).unwrap())
            .unwrap()
            .iter()
            .map(|(time, _, original, data)| (*time, data.len() as u64, u64::from(*original)))
            .collect();
        let fields = ["frame.encap_type", "frame.time_epoch", "frame.cap_len", "frame.len"];
        let mut arguments = vec!["-r", path.to_str().unwrap(), "-T", "fields"];
        arguments.extend(fields.iter().flat_map(|field| ["-e", field]));
        let output = Command::new("tshark").args(&arguments).output().unwrap();
        let theirs: Vec<_> = String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(|line| line.split('\t').collect::<Vec<_>>())
            .filter(|line| !line[0].is_empty())
            .map(|line| {
                let time = line[1].split_once('.').map(|(seconds, fraction)| {
                    seconds.parse::<u64>().unwrap() * 1_000_000_000 + fraction.parse::<u64>().unwrap()
                });
                (time, line[2].parse().unwrap(), line[3].parse().unwrap())
            })
            .collect();
        assert_eq!(ours, theirs, "{name}");
    }
}

#[test]
fn every_kind_of_pcap_is_read() {
    for endianness in [Endianness::Big, Endianness::Little] {
        for (ts_resolution, nanoseconds) in
            [(PcapTsResolution::MicroSecond, 123_456_000), (PcapTsResolution::NanoSecond, 123_456_789)]
        {
            for link_type in [0, 1, 101, 113, 276] {
                let datalink = u32::from(link_type).into();
                let header = PcapHeader { endianness, ts_resolution, datalink, ..Default::default() };
                let mut writer = PcapWriter::with_header(Vec::new(), header).unwrap();
                let mut expected = Vec::new();
                for number in 0..5u8 {
                    let data = bytes(number, usize::from(number) * 333);
                    let original = data.len() as u32 + u32::from(number);
                    let time = Duration::new(1_700_000_000 + u64::from(number), nanoseconds);
                    writer.write_packet(&PcapPacket::new(time, original, data.clone()).unwrap()).unwrap();
                    expected.push((Some(time.as_nanos() as u64), link_type, original, data));
                }
                assert_eq!(packets(&*writer.into_inner()).unwrap(), expected, "{endianness:?} {ts_resolution:?}");
            }
        }
    }
}

/// Two sections of different byte order and interfaces of different clocks, every block that holds a packet, and some
/// that don't.
fn pcapng_of_everything() -> (Vec<u8>, Vec<Packet>) {
    let mut file = Vec::new();
    let mut expected = Vec::new();
    for endianness in [Endianness::Big, Endianness::Little] {
        let section = SectionHeaderBlock { endianness, ..Default::default() };
        let mut writer = PcapNgWriter::with_section_header(&mut file, section).unwrap();
        let mut interface = InterfaceDescriptionBlock::new(DataLink::ETHERNET, 60);
        interface.options = vec![
            InterfaceDescriptionOption::IfTsResol(InterfaceTsResolution::NANO),
            InterfaceDescriptionOption::IfTsOffset(-3),
            InterfaceDescriptionOption::IfName("eth0".into()),
        ];
        writer.write_pcapng_block(interface).unwrap();
        writer.write_pcapng_block(InterfaceDescriptionBlock::new(DataLink::from(276), 0)).unwrap();
        let mut unknown = Block::Unknown(pcap_file::pcapng::blocks::unknown::UnknownBlock::new(0x4242, 20, &[7; 8]));
        writer.write_block(&unknown).unwrap();
        for (number, interface_id, link_type, time) in
            [(1, 0, 1, Duration::new(17, 123_456_789)), (2, 1, 276, Duration::new(18, 4000))]
        {
            let data = bytes(number, 40 + usize::from(number));
            let comment = EnhancedPacketOption::Common(CommonOption::Comment("from before".into()));
            let (timestamp, original_len) = (time, 2000);
            let options = vec![comment];
            let enhanced =
                EnhancedPacketBlock { interface_id, timestamp, original_len, data: Cow::Borrowed(&data), options };
            writer.write_pcapng_block(enhanced).unwrap();
            expected.push((Some(time.as_nanos() as u64), link_type, 2000, data.clone()));
            let interface_id = interface_id as u16;
            let obsolete = PacketBlock {
                interface_id,
                drop_count: 9,
                timestamp,
                original_len,
                data: Cow::Borrowed(&data),
                options: vec![],
            };
            writer.write_pcapng_block(obsolete).unwrap();
            expected.push((Some(time.as_nanos() as u64), link_type, 2000, data));
        }
        let custom = CustomBlock::<true> { pen: 4242, payload: Cow::Borrowed(&[1, 2, 3]) };
        unknown = Block::CustomCopiable(custom);
        writer.write_block(&unknown).unwrap();
        for (original_len, captured) in [(60, 60), (1500, 60), (33, 33)] {
            let data = bytes(3, captured);
            writer.write_pcapng_block(SimplePacketBlock { original_len, data: Cow::Borrowed(&data) }).unwrap();
            expected.push((None, 1, original_len, data));
        }
    }
    (file, expected)
}

#[test]
fn every_kind_of_pcapng_block_is_read() {
    let (file, expected) = pcapng_of_everything();
    assert_eq!(packets(&*file).unwrap(), expected);
}

#[test]
fn compressed_captures_are_read() {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};
    let (file, expected) = pcapng_of_everything();
    let (front, back) = file.split_at(file.len() / 2);
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = |bytes: &[u8]| compress_to_vec(bytes, CompressionLevel::Fastest);
    let skippable = [0x5f, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
    for (what, compressed) in [
        ("gzip", gzip(&file)),
        ("gzip, two members", [gzip(front), gzip(back)].concat()),
        ("zstd", zstd(&file)),
        ("zstd, two frames", [zstd(front), zstd(back)].concat()),
        ("zstd, skippable frames", [&skippable[..], &zstd(front), &skippable, &zstd(back), &skippable].concat()),
    ] {
        assert_eq!(packets(&*compressed).unwrap(), expected, "{what}");
        let cut = packets(&compressed[..compressed.len() - 20]).map(|packets| packets.len());
        assert!(cut.is_err(), "{what}, cut: {cut:?}");
    }
}

/// Gives so many octets at a time.
struct Trickle<'b>(&'b [u8], usize);

impl Read for Trickle<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.0.len().min(out.len()).min(self.1);
        let (now, later) = self.0.split_at(count);
        out[..count].copy_from_slice(now);
        self.0 = later;
        Ok(count)
    }
}

/// Whatever pieces the system hands out a file in, it is the same file.
#[test]
fn a_slow_source_is_read_like_a_fast_one() {
    let (file, expected) = pcapng_of_everything();
    assert_eq!(packets(Trickle(&file, 7)).unwrap(), expected);
}

/// What fuzzers start from and have found, `torn-gzip-that-came-in-pieces` among it.
#[test]
fn a_damaged_file_is_the_same_however_it_comes() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/pcap");
    let mut seen = 0;
    for seed in fs::read_dir(&seeds).expect("seeds") {
        let path = seed.expect("a seed").path();
        let file = fs::read(&path).expect("a file");
        let told = |size| packets(Trickle(&file, size)).map_err(|error| error.to_string());
        assert_eq!(told(1), told(usize::MAX), "{}", path.display());
        seen += 1;
    }
    assert!(seen >= 9, "{seen} seeds");
}

#[test]
fn damage_is_reported_with_its_offset() {
    let mut pcap = PcapWriter::new(Vec::new()).unwrap();
    for number in 0..2 {
        pcap.write_packet(&PcapPacket::new(Duration::ZERO, 100, bytes(number, 100)).unwrap()).unwrap();
    }
    let pcap = pcap.into_inner();
    let pcapng = pcapng_of_everything().0;
    let first_packet = pcapng.windows(4).position(|word| word == 6u32.to_be_bytes()).unwrap();
    let with = |file: &[u8], at: usize, bytes: &[u8]| {
        let mut file = file.to_vec();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let in_ng = |at: usize| format!("offset {at}: ");
    for (what, file, packets_before, message) in [
        ("nothing", vec![], 0, "offset 0: the file is empty".to_string()),
        ("three bytes", vec![0xd4, 0xc3, 0xb2], 0, "offset 0: the capture ends inside".into()),
        ("text", b"apiVersion: v1\n".to_vec(), 0, "offset 0: not a capture".into()),
        ("half a header", pcap[..20].to_vec(), 0, "offset 0: the capture ends inside the file header".into()),
        ("pcap of version 3", with(&pcap, 4, &[3, 0]), 0, "offset 0: pcap of version 3".into()),
        (
            "half a record header",
            pcap[..24 + 116 + 9].to_vec(),
            1,
            "offset 140: the capture ends inside a record".into(),
        ),
        (
            "half a record",
            pcap[..pcap.len() - 1].to_vec(),
            1,
            "offset 140: the capture ends inside a record that begins here, 115 bytes of at least 116".into(),
        ),
        ("absurd length", with(&pcap, 140 + 8, &[0, 0, 0, 0x7f]), 1, "offset 140: a record of 2130706448 bytes".into()),
        ("no byte-order magic", with(&pcapng, 8, &[0; 4]), 0, "offset 0: a section header without".into()),
        ("pcapng 2.0", with(&pcapng, 12, &[0, 2]), 0, "offset 0: pcapng of version 2.0".into()),
        (
            "unknown interface",
            with(&pcapng, first_packet + 8, &[0, 0, 0, 9]),
            0,
            in_ng(first_packet) + "a packet of interface 9",
        ),
        (
            "packet past its block",
            with(&pcapng, first_packet + 20, &[0, 0, 1, 0]),
            0,
            in_ng(first_packet) + "a packet of 256 bytes",
        ),
        (
            "tail of a block",
            with(&pcapng, pcapng.len() - 4, &[1, 1, 1, 1]),
            13,
            "bytes by its head and 16843009 by its tail".into(),
        ),
        ("odd block length", with(&pcapng, first_packet + 7, &[33]), 0, in_ng(first_packet) + "a block of 33 bytes"),
        (
            "tiny block length",
            with(&pcapng, first_packet + 4, &[0, 0, 0, 8]),
            0,
            in_ng(first_packet) + "a block of 8 bytes",
        ),
        ("half a block", pcapng[..pcapng.len() - 8].to_vec(), 13, "the capture ends inside a block".into()),
        ("gzip of nothing much", vec![0x1f, 0x8b, 8, 0, 0, 0], 0, "offset 0: ".into()),
        ("zstd of nothing much", vec![0x28, 0xb5, 0x2f, 0xfd, 0x77], 0, "offset 0: ".into()),
    ] {
        let mut read = 0;
        let error = match Reader::new(&*file) {
            Err(error) => error,
            Ok(mut reader) => loop {
                match reader.next_record() {
                    Ok(Some(_)) => read += 1,
                    Ok(None) => panic!("{what}: no error"),
                    Err(error) => {
                        assert!(matches!(reader.next_record(), Ok(None)), "{what}: over after an error");
                        break error;
                    }
                }
            },
        };
        assert_eq!(read, packets_before, "{what}");
        assert!(error.to_string().contains(&message), "{what}: {error}");
    }
}

/// Side, nanoseconds, link type, original length, bytes, comment.
type Written = (Side, u64, u16, u32, Vec<u8>, &'static str);

/// What is written.
fn story() -> Vec<Written> {
    vec![
        (Side::Ingress, 1_700_000_000_123_456_789, 1, 61, bytes(1, 61), ""),
        (Side::Egress, 1_700_000_000_123_456_789, 1, 61, bytes(2, 61), "forward: tcp 10.0.0.1:1 -> 10.0.0.2:2"),
        (Side::Egress, 5, 101, 1500, bytes(3, 64), "Ω is two bytes"),
        (Side::Ingress, u64::MAX, 276, 40, bytes(4, 0), ""),
    ]
}

fn written() -> Vec<u8> {
    let mut writer = Writer::new(Vec::new()).unwrap();
    for (side, time, link_type, original_length, data, comment) in story() {
        writer.write(side, &Record { time: Some(time), link_type, original_length, data: &data }, comment).unwrap();
    }
    writer.finish().unwrap()
}

#[test]
fn what_is_written_is_read_back() {
    let file = written();
    let ours = packets(&*file).unwrap();
    let expected: Vec<Packet> = story()
        .into_iter()
        .map(|(_, time, link_type, original, data, _)| (Some(time), link_type, original, data))
        .collect();
    assert_eq!(ours, expected);

    let mut theirs = PcapNgReader::new(&*file).unwrap();
    let mut story = story().into_iter();
    while let Some(block) = theirs.next_block() {
        let (block, state) = block.unwrap();
        let Block::EnhancedPacket(packet) = block else { continue };
        let (side, time, link_type, original, data, comment) = story.next().unwrap();
        let interface = &state.interfaces()[packet.interface_id as usize];
        assert!(interface.options.contains(&InterfaceDescriptionOption::IfName(side.name().into())));
        assert_eq!(u32::from(interface.linktype), u32::from(link_type));
        assert_eq!(packet.timestamp, Duration::from_nanos(time));
        assert_eq!((packet.original_len, &*packet.data), (original, &*data));
        let comments: Vec<_> = packet.options;
        let expected =
            (!comment.is_empty()).then(|| EnhancedPacketOption::Common(CommonOption::Comment(comment.into())));
        assert_eq!(comments, Vec::from_iter(expected));
    }
    assert!(story.next().is_none());
}

#[test]
fn tshark_reads_what_is_written() {
    if !real::tshark() {
        return;
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&written()).unwrap();
    let fields = ["frame.interface_name", "frame.time_epoch", "frame.len", "frame.cap_len", "frame.comment"];
    let mut arguments = vec!["-r", file.path().to_str().unwrap(), "-T", "fields"];
    arguments.extend(fields.iter().flat_map(|field| ["-e", field]));
    let output = Command::new("tshark").args(&arguments).output().unwrap();
    let theirs = String::from_utf8(output.stdout).unwrap();
    let expected: String = story()
        .iter()
        .map(|(side, time, _, original, data, comment)| {
            let (seconds, nanoseconds) = (time / 1_000_000_000, time % 1_000_000_000);
            format!("{}\t{seconds}.{nanoseconds:09}\t{original}\t{}\t{comment}\n", side.name(), data.len())
        })
        .collect();
    assert_eq!(theirs, expected);
}

#[test]
fn a_comment_is_cut_between_characters() {
    let mut writer = Writer::new(Vec::new()).unwrap();
    let comment = "Ω".repeat(40_000);
    writer.write(Side::Egress, &Record { time: None, link_type: 1, original_length: 1, data: &[0] }, &comment).unwrap();
    let file = writer.finish().unwrap();
    let mut theirs = PcapNgReader::new(&*file).unwrap();
    let lengths: Vec<_> = std::iter::from_fn(|| {
        let length = match theirs.next_block()?.unwrap().0 {
            Block::EnhancedPacket(packet) => match &packet.options[..] {
                [EnhancedPacketOption::Common(CommonOption::Comment(comment))] => comment.len(),
                other => panic!("{other:?}"),
            },
            _ => 0,
        };
        Some(length)
    })
    .collect();
    assert_eq!(lengths.into_iter().max(), Some(65_534));
}

#[test]
fn a_capture_of_nothing_still_has_its_interfaces() {
    let file = Writer::new(Vec::new()).unwrap().finish().unwrap();
    assert!(packets(&*file).unwrap().is_empty());
    let mut theirs = PcapNgReader::new(&*file).unwrap();
    while theirs.next_block().is_some() {}
    assert_eq!(theirs.interfaces().len(), 2);
}

/// The names in a directory.
fn listing(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into()).collect()
}

#[test]
fn an_output_appears_when_it_is_finished() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out");

    let mut output = Output::create(&path).unwrap();
    output.write_all(b"half").unwrap();
    // Nor would there be anything if the process were killed here.
    assert_eq!(listing(directory.path()), Vec::<PathBuf>::new());
    drop(output);
    assert_eq!(listing(directory.path()), Vec::<PathBuf>::new(), "an output given up leaves nothing");

    let mut output = Output::create(&path).unwrap();
    output.write_all(b"whole").unwrap();
    output.publish().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"whole");
    assert_eq!(listing(directory.path()), [PathBuf::from("out")]);

    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let link = directory.path().join("link");
    symlink(&path, &link).unwrap();
    let mut output = Output::create(&link).unwrap();
    output.write_all(b"again").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"whole", "the old one stays until the new one is finished");
    output.publish().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"again");
    assert!(link.is_symlink());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
}

#[test]
fn an_output_that_cannot_be_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    assert!(Output::create(directory.path()).is_err(), "a directory");
    assert!(Output::create(&directory.path().join("missing/out")).is_err(), "in a directory that is not there");
    // Full before it is finished.
    let mut output = Output::create(Path::new("/dev/full")).unwrap();
    assert!(output.write_all(&[0; 8 << 20]).is_err());
    // Full only when the last buffer is written.
    let mut output = Output::create(Path::new("/dev/full")).unwrap();
    output.write_all(b"little").unwrap();
    assert!(output.publish().is_err());
    assert!(!fs::metadata("/dev/full").unwrap().is_file(), "a device is written to, not replaced");
}
