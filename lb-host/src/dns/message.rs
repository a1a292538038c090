//! Messages as octets (RFC 1035 §4, RFC 6891). What cannot be read is refused or passed over, never trusted.

use hickory_proto::ProtoError;
use hickory_proto::op::{Edns, Header, HeaderCounts, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, Record};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};

use super::answer::Answer;

/// The largest datagram to those who do not say how much they take (RFC 1035 §2.3.4).
pub const PLAIN: u16 = 512;
/// The largest datagram we ask for: no link cuts it up (the size that came of DNS Flag Day 2020).
pub const UNCUT: u16 = 1232;
/// The root's name, type, class, times and length of an OPT record without options.
const OPT: u16 = 11;
/// Where the question's name is in every message, as a compression pointer (RFC 1035 §4.1.4).
const QUESTION: u16 = 0xc000 | 12;

/// What octets turned out to be.
#[derive(Clone, Debug)]
pub enum Read {
    /// Nothing that is to be answered: no header, or itself an answer.
    Silence,
    /// Nothing that can be answered but by this.
    Refusal(Vec<u8>),
    /// A question.
    Request(Box<Request>),
}

/// A question, and how its answer is wanted.
#[derive(Clone, Debug)]
pub struct Request {
    metadata: Metadata,
    edns: Option<Edns>,
    /// What is asked.
    pub question: Query,
}

/// Reads a query.
pub fn read(bytes: &[u8]) -> Read {
    let Some(&[id_high, id_low, flags, _, count_high, count_low, ..]) = bytes.first_chunk::<12>() else {
        return Read::Silence;
    };
    if flags & 0x80 != 0 {
        return Read::Silence;
    }
    let op_code = OpCode::from_u8((flags >> 3) & 0xf);
    let refusal = |code| {
        let mut metadata = Metadata::new(u16::from_be_bytes([id_high, id_low]), MessageType::Query, op_code);
        metadata.recursion_desired = flags & 1 != 0;
        let answer = Answer { code, ..Answer::default() };
        Read::Refusal(write(&metadata, None, None, &answer, false, PLAIN).unwrap_or_default())
    };
    if op_code != OpCode::Query {
        return refusal(ResponseCode::NotImp);
    }
    // RFC 9619: one question.
    if u16::from_be_bytes([count_high, count_low]) != 1 {
        return refusal(ResponseCode::FormErr);
    }
    let Ok(Message { metadata, mut queries, edns, .. }) = Message::from_vec(bytes) else {
        return refusal(ResponseCode::FormErr);
    };
    let Some(question) = queries.pop() else { return refusal(ResponseCode::FormErr) };
    let request = Request { metadata, edns, question };
    // RFC 6891 §6.1.3.
    if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        let answer = Answer { code: ResponseCode::BADVERS, ..Answer::default() };
        return Read::Refusal(request.reply(&answer, false, PLAIN));
    }
    Read::Request(Box::new(request))
}

impl Request {
    /// The largest datagram that may answer, at most `limit`.
    pub fn datagram(&self, limit: u16) -> u16 {
        self.edns.as_ref().map_or(PLAIN, Edns::max_payload).clamp(PLAIN, limit.max(PLAIN))
    }

    /// The id that the answer must carry.
    pub fn id(&self) -> u16 {
        self.metadata.id
    }

    /// The answer as octets, `limit` at most. What does not fit is left out from the end, and TC tells so; but what
    /// may be left out goes without notice (RFC 2181 §9). `forwards` is whether we ask others for it.
    pub fn reply(&self, answer: &Answer, forwards: bool, limit: u16) -> Vec<u8> {
        let edns = self.edns.as_ref().map(|theirs| {
            let mut edns = Edns::new();
            edns.set_max_payload(UNCUT);
            edns.set_dnssec_ok(theirs.flags().dnssec_ok);
            edns
        });
        let written = write(&self.metadata, Some(&self.question), edns, answer, forwards, limit);
        // Only records of an upstream could be unwritable; without them everything fits.
        let bare = || Answer { code: ResponseCode::ServFail, ..Answer::default() };
        written
            .or_else(|_| write(&self.metadata, Some(&self.question), None, &bare(), forwards, limit))
            .unwrap_or_default()
    }
}

fn write(
    query: &Metadata,
    question: Option<&Query>,
    edns: Option<Edns>,
    answer: &Answer,
    forwards: bool,
    limit: u16,
) -> Result<Vec<u8>, ProtoError> {
    let mut metadata = Metadata::response_from_request(query);
    metadata.response_code = answer.code;
    metadata.authoritative = answer.authoritative;
    metadata.recursion_available = forwards;
    let mut bytes = Vec::new();
    let mut encoder = BinEncoder::new(&mut bytes);
    let room = usize::from(limit - edns.as_ref().map_or(0, |_| OPT));
    let header = encoder.place::<Header>()?;
    let mut counts = HeaderCounts { queries: 0, answers: 0, authorities: 0, additionals: 0 };
    if let Some(question) = question {
        question.emit(&mut encoder)?;
        counts.queries = 1;
    }
    let name = question.map(Query::name);
    let (answers, cut) = section(&mut encoder, room, name, &answer.answers)?;
    counts.answers = answers;
    if !cut {
        let (authorities, cut) = section(&mut encoder, room, name, &answer.authorities)?;
        counts.authorities = authorities;
        metadata.truncation = cut;
    }
    metadata.truncation |= cut;
    if !metadata.truncation {
        counts.additionals = section(&mut encoder, room, name, &answer.additionals)?.0;
    }
    if let Some(mut edns) = edns {
        edns.set_rcode_high(answer.code.high());
        edns.emit(&mut encoder)?;
        counts.additionals += 1;
    }
    header.replace(&mut encoder, Header { metadata, counts })?;
    Ok(bytes)
}

/// Writes records until one would end beyond `room`: how many there are, and whether there was such a one.
fn section(
    encoder: &mut BinEncoder<'_>,
    room: usize,
    question: Option<&Name>,
    records: &[Record],
) -> Result<(u16, bool), ProtoError> {
    let mut count = 0;
    for record in records {
        let start = encoder.offset();
        // The codec's own bound is that of a name before it is compressed.
        match emit(encoder, question, record) {
            Ok(()) if encoder.offset() <= room => count += 1,
            Ok(()) | Err(ProtoError::MaxBufferSizeExceeded(_)) => {
                encoder.set_offset(start);
                encoder.trim();
                return Ok((count, true));
            }
            Err(error) => return Err(error),
        }
    }
    Ok((count, false))
}

/// The codec stops compressing names after some; that of the question, which most records have, costs two octets
/// however many there are.
fn emit(encoder: &mut BinEncoder<'_>, question: Option<&Name>, record: &Record) -> Result<(), ProtoError> {
    if !question.is_some_and(|name| name.eq_case(&record.name)) || record.name.is_root() {
        return record.emit(encoder);
    }
    encoder.emit_u16(QUESTION)?;
    record.record_type().emit(encoder)?;
    record.dns_class.emit(encoder)?;
    encoder.emit_u32(record.ttl)?;
    let place = encoder.place::<u16>()?;
    record.data.emit(encoder)?;
    let length = u16::try_from(encoder.len_since_place(&place)).unwrap_or_default();
    place.replace(encoder, length)
}
