//! Messages in a TCP stream: each behind its length in two octets (RFC 1035 §4.2.2).

/// What is gathered of a stream and not yet read: one message of the largest size.
const INPUT: usize = 2 + u16::MAX as usize;
/// No message is read while more than this waits to be sent: a client that does not read is not served.
const OUTPUT: usize = u16::MAX as usize;

/// One end of a connection: octets in, messages out, and the other way. Buffers are bounded.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Stream {
    /// Takes octets that were received, in order; as many as there is room for, and says how many.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let room = INPUT - self.input.len();
        let taken = &bytes[..bytes.len().min(room)];
        self.input.extend_from_slice(taken);
        taken.len()
    }

    /// The next whole message, if one is there and what was answered before is not piling up.
    pub fn message(&mut self) -> Option<Vec<u8>> {
        let (length, rest) = self.input.split_first_chunk::<2>()?;
        let message = rest.get(..usize::from(u16::from_be_bytes(*length)))?.to_vec();
        if self.output.len() > OUTPUT {
            return None;
        }
        self.input.drain(..2 + message.len());
        Some(message)
    }

    /// Puts a message behind those that wait. It has 65535 octets at most: what is longer is no message.
    pub fn send(&mut self, message: &[u8]) {
        if let Ok(length) = u16::try_from(message.len()) {
            self.output.extend(length.to_be_bytes());
            self.output.extend(message);
        }
    }

    /// The octets to send.
    pub fn output(&self) -> &[u8] {
        &self.output
    }

    /// So many of them were sent.
    pub fn sent(&mut self, count: usize) {
        self.output.drain(..count.min(self.output.len()));
    }
}
