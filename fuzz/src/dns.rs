//! Any octets as a DNS query, as a datagram and in a stream: answered by a message that others can read, not longer than the
//! asker takes, or not at all.

use std::sync::LazyLock;

use hickory_proto::op::{Message, MessageType};
use lb_host::dns::server::{DATAGRAM, Server, Transport};
use lb_host::dns::stream::Stream;
use lb_host::dns::{Settings, Zone};
use lb_host::k8s::{Cluster, Manifests, Taken};

static SERVER: LazyLock<Server> = LazyLock::new(|| {
    let mut manifests = Manifests::default();
    manifests.add("zone.yaml", include_str!("../../lb-host/tests/dns/zone.yaml")).expect("manifests");
    let cluster = Cluster::new(manifests, &Taken::AsWritten).expect("a cluster");
    Server::new(Zone::of(&cluster.manifests, Settings::default()))
});

/// Tries an input. What is wrong panics.
pub fn run(input: &[u8]) {
    let Some((&pace, query)) = input.split_first() else { return };
    let mut answers = Vec::new();
    for transport in [Transport::Udp, Transport::Tcp] {
        let Some(answer) = SERVER.answer(query, transport, None) else { continue };
        assert_eq!(answer[..2], query[..2], "another's answer");
        let message = Message::from_vec(&answer).expect("an answer that is no message");
        assert_eq!(message.metadata.message_type, MessageType::Response);
        if transport == Transport::Udp {
            let most = Message::from_vec(query).map_or(DATAGRAM, |query| query.max_payload().min(DATAGRAM));
            assert!(answer.len() <= usize::from(most.max(512)), "{} octets, asked for {most}", answer.len());
        }
        answers.push(answer);
    }
    // Twice in a stream, in pieces of any length.
    let Ok(length) = u16::try_from(query.len()) else { return };
    let framed = [&length.to_be_bytes()[..], query].concat().repeat(2);
    let mut stream = Stream::default();
    let mut out = Vec::new();
    for mut piece in framed.chunks(usize::from(pace) + 1) {
        while !piece.is_empty() {
            let taken = stream.receive(piece);
            piece = &piece[taken..];
            SERVER.stream(&mut stream, None);
            let sent = stream.output().len();
            assert!(taken + sent > 0, "it neither takes nor gives");
            out.extend_from_slice(stream.output());
            stream.sent(sent);
        }
    }
    let twice = SERVER
        .answer(query, Transport::Tcp, None)
        .map_or(Vec::new(), |answer| [&(answer.len() as u16).to_be_bytes()[..], &answer].concat().repeat(2));
    assert_eq!(out, twice, "a stream answers otherwise");
}
