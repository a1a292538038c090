//! Who is asked for names that are not the cluster's.

use std::collections::BTreeMap;

use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// How many aliases lead on from one name at most; a loop is more than that.
pub(super) const ALIASES: usize = 8;

/// Answers for names outside of the zone.
pub trait Upstream {
    /// What is known; `None` if nobody answered.
    fn ask(&self, question: &Query) -> Option<Reply>;
}

/// What an upstream said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// How it went.
    pub code: ResponseCode,
    /// Records that answer the question, aliases first.
    pub answers: Vec<Record>,
    /// The zone that says so, of negative answers.
    pub authorities: Vec<Record>,
}

/// The world outside as a table: names that are known, and nothing else exists.
#[derive(Clone, Debug, Default)]
pub struct Outside {
    names: BTreeMap<Name, Vec<Record>>,
}

impl Outside {
    /// Adds a record for `name`, which is absolute whether or not it ends in a dot; the answer holds `ttl` seconds.
    pub fn put(&mut self, mut name: Name, ttl: u32, data: RData) {
        name.set_fqdn(true);
        self.names.entry(name.clone()).or_default().push(Record::from_rdata(name, ttl, data));
    }
}

impl Upstream for Outside {
    fn ask(&self, question: &Query) -> Option<Reply> {
        let asked = question.query_type();
        let mut reply = Reply::default();
        let mut name = question.name().clone();
        for _ in 0..=ALIASES {
            // RFC 8020: a name exists if one below it does.
            if !self.names.keys().any(|known| name.zone_of(known)) {
                reply.code = ResponseCode::NXDomain;
                return Some(reply);
            }
            let own = self.names.get(&name).map_or(&[][..], Vec::as_slice);
            let fits = |record: &&Record| asked == RecordType::ANY || record.record_type() == asked;
            let alias = own.iter().find(|record| record.record_type() == RecordType::CNAME && !fits(record));
            let asked_as = |record: &Record| Record::from_rdata(name.clone(), record.ttl, record.data.clone());
            reply.answers.extend(own.iter().filter(fits).chain(alias).map(asked_as));
            match alias.map(|record| &record.data) {
                Some(RData::CNAME(target)) => name = target.0.clone(),
                _ => return Some(reply),
            }
        }
        Some(Reply { code: ResponseCode::ServFail, ..Reply::default() })
    }
}
