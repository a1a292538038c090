//! A connection that stays: lines go to a Service and come back, as in a remote shell.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::lab::Lab;

pub(crate) struct Stream {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    count: usize,
}

impl Stream {
    /// Connects from a namespace; the other end is to send back what it gets.
    pub(crate) fn connect(lab: &Lab, from: &str, to: &str) -> Self {
        let mut command = lab.command(from, "socat");
        let mut child = command
            .args(["-", &format!("TCP:{to}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("socat");
        let (input, output) = (child.stdin.take().expect("its input"), child.stdout.take().expect("its output"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let mut lines = BufReader::new(output).lines().map_while(Result::ok);
            lines.try_for_each(|line| sender.send(line)).ok();
        });
        Self { child, input, lines, count: 0 }
    }

    /// Sends a line and waits for it to come back.
    pub(crate) fn echo(&mut self) {
        self.count += 1;
        let line = format!("line {}", self.count);
        writeln!(self.input, "{line}").expect("the stream takes lines");
        let back = self.lines.recv_timeout(Duration::from_secs(20));
        assert_eq!(back.as_deref(), Ok(line.as_str()), "the stream broke");
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
