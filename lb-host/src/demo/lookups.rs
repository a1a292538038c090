//! What was asked of DNS, read from the packets.

use hickory_proto::op::{Message, ResponseCode};
use lb_core::wire::{self, Content};
use lb_core::{Address, Link};

use super::journey::{destination, source};
use crate::cluster::Passage;
use crate::dns::RecordType;
use crate::host::Socket;

const PORT: u16 = 53;

/// One question and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// The name, with all its dots.
    pub(super) name: String,
    /// The type of record.
    pub(super) kind: RecordType,
    /// What there is; `None` if there is no such name.
    pub(super) found: Option<Vec<Found>>,
    /// Who was asked.
    pub(super) server: Socket,
}

/// A record of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Whose it is: an alias's target has another name than was asked for.
    pub(super) owner: String,
    pub(super) kind: RecordType,
    /// What it says, as zone files have it.
    pub(super) data: String,
}

/// What `client` asked, and was told, in order.
pub(super) fn asked(passages: &[Passage], client: Address) -> Vec<Asked> {
    let mut all: Vec<Asked> = Vec::new();
    for passage in passages {
        let Some(left) = &passage.left else { continue };
        let Ok(Some(headers)) = wire::parse(left, Link::Ip) else { continue };
        let (from, to) = (source(&headers.tuple), destination(&headers.tuple));
        if headers.content != Content::Udp || from.1 != PORT || to.0 != client {
            continue;
        }
        let Some(payload) = left.get(usize::from(headers.transport) + 8..) else { continue };
        let Ok(message) = Message::from_vec(payload) else { continue };
        let Some(question) = message.queries.first() else { continue };
        let records = message.answers.iter().map(|record| Found {
            owner: record.name.to_string(),
            kind: record.record_type(),
            data: record.data.to_string(),
        });
        let found = (message.metadata.response_code != ResponseCode::NXDomain).then(|| records.collect());
        let asked = Asked { name: question.name().to_string(), kind: question.query_type(), found, server: from };
        // On its way to the client an answer comes through several routers.
        if passage.path.is_some() && all.last() != Some(&asked) {
            all.push(asked);
        }
    }
    all
}
