//! An answer as `dig` prints it, or as JSON.

use std::io::{self, Write};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use serde::Serialize;

/// Where dig's columns of times, classes, types and data begin, as far as what is before them leaves room.
const COLUMNS: [usize; 4] = [24, 32, 40, 48];
const TAB: usize = 8;

/// All sections.
pub(super) fn write(out: &mut dyn Write, message: &Message) -> io::Result<()> {
    let header = &message.metadata;
    writeln!(out, ";; ->>HEADER<<- opcode: QUERY, status: {}, id: {}", status(header.response_code), header.id)?;
    let counts = [
        ("QUERY", message.queries.len()),
        ("ANSWER", message.answers.len()),
        ("AUTHORITY", message.authorities.len()),
        ("ADDITIONAL", message.additionals.len()),
    ];
    let counts = counts.map(|(name, count)| format!("{name}: {count}")).join(", ");
    let flags: String = flags(message).iter().map(|flag| format!(" {flag}")).collect();
    writeln!(out, ";; flags:{flags}; {counts}")?;
    writeln!(out, "\n;; QUESTION SECTION:")?;
    for question in &message.queries {
        let (class, kind) = (question.query_class().to_string(), type_name(question.query_type()));
        writeln!(out, ";{}", columns(&[(0, question.name().to_ascii()), (COLUMNS[1], class), (COLUMNS[2], kind)]))?;
    }
    for (name, records) in
        [("ANSWER", &message.answers), ("AUTHORITY", &message.authorities), ("ADDITIONAL", &message.additionals)]
    {
        if !records.is_empty() {
            writeln!(out, "\n;; {name} SECTION:")?;
            records.iter().try_for_each(|record| writeln!(out, "{}", line(record)))?;
        }
    }
    Ok(())
}

/// The data of the answers alone, a line each.
pub(super) fn write_short(out: &mut dyn Write, message: &Message) -> io::Result<()> {
    message.answers.iter().try_for_each(|record| writeln!(out, "{}", data(&record.data)))
}

/// All sections, as JSON has them.
pub(super) fn json(message: &Message) -> impl Serialize {
    let rows = |records: &[Record]| records.iter().map(Row::of).collect();
    Answered {
        status: status(message.metadata.response_code),
        flags: flags(message),
        question: message.queries.first().map(|question| Asked {
            name: question.name().to_ascii(),
            class: question.query_class().to_string(),
            kind: type_name(question.query_type()),
        }),
        answer: rows(&message.answers),
        authority: rows(&message.authorities),
        additional: rows(&message.additionals),
    }
}

#[derive(Serialize)]
struct Answered {
    status: String,
    flags: Vec<&'static str>,
    question: Option<Asked>,
    answer: Vec<Row>,
    authority: Vec<Row>,
    additional: Vec<Row>,
}

#[derive(Serialize)]
struct Asked {
    name: String,
    class: String,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Serialize)]
struct Row {
    name: String,
    ttl: u32,
    class: String,
    #[serde(rename = "type")]
    kind: String,
    data: String,
}

impl Row {
    fn of(record: &Record) -> Self {
        Self {
            name: record.name.to_ascii(),
            ttl: record.ttl,
            class: record.dns_class.to_string(),
            kind: type_name(record.record_type()),
            data: data(&record.data),
        }
    }
}

fn flags(message: &Message) -> Vec<&'static str> {
    let header = &message.metadata;
    let all = [
        (true, "qr"),
        (header.authoritative, "aa"),
        (header.truncation, "tc"),
        (header.recursion_desired, "rd"),
        (header.recursion_available, "ra"),
        (header.authentic_data, "ad"),
        (header.checking_disabled, "cd"),
    ];
    all.into_iter().filter_map(|(set, name)| set.then_some(name)).collect()
}

fn line(record: &Record) -> String {
    let Row { name, ttl, class, kind, data } = Row::of(record);
    columns(&[(0, name), (COLUMNS[0], ttl.to_string()), (COLUMNS[1], class), (COLUMNS[2], kind), (COLUMNS[3], data)])
}

/// Texts, each in its column or one blank behind the last; tabs up to the last stop before, then blanks.
fn columns(texts: &[(usize, String)]) -> String {
    let (mut line, mut at) = (String::new(), 0);
    for (index, (column, text)) in texts.iter().enumerate() {
        let to = if index == 0 { 0 } else { (*column).max(at + 1) };
        let tabs = to / TAB - at / TAB;
        let blanks = if tabs == 0 { to - at } else { to % TAB };
        line.extend(std::iter::repeat_n('\t', tabs).chain(std::iter::repeat_n(' ', blanks)));
        line.push_str(text);
        at = to + text.len();
    }
    line
}

fn status(code: ResponseCode) -> String {
    let name = match code {
        ResponseCode::NoError => "NOERROR",
        ResponseCode::FormErr => "FORMERR",
        ResponseCode::ServFail => "SERVFAIL",
        ResponseCode::NXDomain => "NXDOMAIN",
        ResponseCode::NotImp => "NOTIMP",
        ResponseCode::Refused => "REFUSED",
        other => return format!("RESERVED{}", u16::from(other)),
    };
    name.to_owned()
}

/// A type by name, or by number where it has none (RFC 3597 §5).
pub(super) fn type_name(kind: RecordType) -> String {
    match kind {
        RecordType::Unknown(number) => format!("TYPE{number}"),
        known => known.to_string(),
    }
}

/// The type of a name, in any case.
pub(super) fn record_type(text: &str) -> Result<RecordType, String> {
    let text = text.to_ascii_uppercase();
    let number = text.strip_prefix("TYPE").and_then(|number| number.parse::<u16>().ok()).map(RecordType::from);
    let known =
        || text.parse().map_err(|_| "not a record type like A, AAAA, SRV, PTR, TXT, CNAME, ANY or TYPE65".into());
    number.map_or_else(known, Ok)
}

fn data(data: &RData) -> String {
    match data {
        RData::TXT(text) => text.txt_data.iter().map(|part| quoted(part)).collect::<Vec<_>>().join(" "),
        RData::CNAME(name) => name.0.to_ascii(),
        RData::NS(name) => name.0.to_ascii(),
        RData::PTR(name) => name.0.to_ascii(),
        RData::SRV(srv) => format!("{} {} {} {}", srv.priority, srv.weight, srv.port, srv.target.to_ascii()),
        RData::Unknown { rdata, .. } => {
            let bytes = &rdata.anything;
            let digits: String = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
            format!("\\# {} {digits}", bytes.len())
        }
        other => other.to_string(),
    }
}

/// A character string in a master file (RFC 1035 §5.1).
fn quoted(bytes: &[u8]) -> String {
    let escaped = bytes.iter().map(|byte| match byte {
        b'"' | b'\\' => format!("\\{}", char::from(*byte)),
        b' '..=b'~' => char::from(*byte).to_string(),
        other => format!("\\{other:03}"),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

/// The name that an address is asked by.
pub(super) fn reverse_name(address: std::net::IpAddr) -> String {
    let mut name = Name::from(address);
    name.set_fqdn(true);
    name.to_ascii()
}
