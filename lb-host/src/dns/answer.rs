//! From a question to its answer: which zone, which records, which code.

use std::collections::BTreeSet;

use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::upstream::{ALIASES, Reply};
use super::zone::{Node, Zone};

/// What a message carries back.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// How it went.
    pub code: ResponseCode,
    /// Whether the zone itself says so.
    pub authoritative: bool,
    /// Records that answer the question, aliases first.
    pub answers: Vec<Record>,
    /// The zone, of negative answers (RFC 2308 §3).
    pub authorities: Vec<Record>,
    /// Addresses of what the answers point to (§19.7). They may be left out.
    pub additionals: Vec<Record>,
}

/// An answer, or what it takes to get there.
#[derive(Clone, Debug)]
pub enum Step {
    /// That is it.
    Done(Answer),
    /// The upstream has the rest.
    Ask(Pending),
}

/// An answer that waits for the upstream.
#[derive(Clone, Debug)]
pub struct Pending {
    question: Query,
    aliases: Vec<Record>,
}

impl Pending {
    /// What to ask the upstream.
    pub fn question(&self) -> &Query {
        &self.question
    }

    /// The answer, with what the upstream said; `None` if it said nothing.
    pub fn finish(self, reply: Option<Reply>) -> Answer {
        let Some(reply) = reply else { return failed(ResponseCode::ServFail) };
        Answer {
            code: reply.code,
            // The zone's own say covers the first name alone (RFC 1035 §4.1.1, AA).
            authoritative: !self.aliases.is_empty(),
            answers: self.aliases.into_iter().chain(reply.answers).collect(),
            authorities: reply.authorities,
            additionals: Vec::new(),
        }
    }
}

/// Answers a question. `forwards` is whether there is an upstream; `turn` turns lists of addresses, so that
/// clients that take the first share them: 0 leaves their order.
pub fn answer(zone: &Zone, question: &Query, forwards: bool, turn: usize) -> Step {
    let asked = question.query_type();
    // Zone transfers: the objects are elsewhere to be had.
    if question.query_class() != DNSClass::IN || matches!(asked, RecordType::AXFR | RecordType::IXFR) {
        return Step::Done(failed(ResponseCode::Refused));
    }
    let mut name = question.name().clone();
    let mut answer = Answer::default();
    for _ in 0..=ALIASES {
        let Some(Node { exists, mut records, soa }) = zone.node(&name, asked) else {
            return match (forwards, answer.answers.is_empty()) {
                (true, _) => Step::Ask(Pending { question: Query::query(name, asked), aliases: answer.answers }),
                (false, true) => Step::Done(failed(ResponseCode::Refused)),
                (false, false) => Step::Done(answer),
            };
        };
        if !zone.synced() {
            return Step::Done(failed(ResponseCode::ServFail));
        }
        answer.authoritative = true;
        if records.is_empty() {
            // The code is that of the last name (RFC 6604 §3).
            answer.code = if exists { ResponseCode::NoError } else { ResponseCode::NXDomain };
            answer.authorities.push(soa);
            return Step::Done(answer);
        }
        let alias = match records.as_slice() {
            [Record { data: RData::CNAME(target), .. }] if matches!(asked, RecordType::A | RecordType::AAAA) => {
                Some(target.0.clone())
            }
            _ => None,
        };
        if matches!(asked, RecordType::A | RecordType::AAAA) {
            let start = turn % records.len();
            records.rotate_left(start);
        }
        answer.answers.append(&mut records);
        match alias {
            Some(target) => name = target,
            None => {
                answer.additionals = additionals(zone, &answer.answers);
                return Step::Done(answer);
            }
        }
    }
    // RFC 1034 §3.6.2: a loop is an error.
    Step::Done(failed(ResponseCode::ServFail))
}

/// The addresses of services' and name servers' targets, each once.
fn additionals(zone: &Zone, answers: &[Record]) -> Vec<Record> {
    let target = |record: &Record| match &record.data {
        RData::SRV(srv) => Some(srv.target.clone()),
        RData::NS(ns) => Some(ns.0.clone()),
        _ => None,
    };
    let targets: BTreeSet<Name> = answers.iter().filter_map(target).collect();
    let nodes = targets.iter().flat_map(|target| [RecordType::A, RecordType::AAAA].map(|kind| zone.node(target, kind)));
    nodes.flatten().flat_map(|node| node.records).collect()
}

fn failed(code: ResponseCode) -> Answer {
    Answer { code, ..Answer::default() }
}
