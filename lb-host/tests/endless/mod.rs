//! The built `lb run`, from outside, and traffic without an end for it.

#![allow(unreachable_pub, dead_code, reason = "several programs have it, and none needs all of it")]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Longer than anything takes.
const LONG: Duration = Duration::from_secs(20);

/// A device that receives frames as long as anybody takes them, and what that needs is in this directory.
pub fn device(directory: &Path) -> String {
    let pipe = directory.join("in.pcap");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    let device = format!("pcap:{},{}", pipe.display(), directory.join("out.pcapng").display());
    std::thread::spawn(move || pour(pipe));
    device
}

/// Writes a capture until nobody reads it.
fn pour(pipe: PathBuf) -> std::io::Result<()> {
    let mut capture = std::fs::File::options().write(true).open(pipe)?;
    capture.write_all(&[0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65_535, 1].map(u32::to_le_bytes).concat())?;
    let frame = [[0, 0, 60, 60].map(u32::to_le_bytes).concat(), vec![0; 60]].concat();
    loop {
        capture.write_all(&frame.repeat(64))?;
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// `lb run`, which ends with the test.
pub struct Live {
    pub child: Child,
    heard: Receiver<String>,
    said: Vec<String>,
    address: String,
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Live {
    /// Starts it with these arguments, and metrics.
    pub fn start<I: AsRef<OsStr>>(arguments: impl IntoIterator<Item = I>) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_lb"))
            .args(["run", "--metrics", "127.0.0.1:0"])
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("lb");
        let (says, heard) = channel();
        let lines = BufReader::new(child.stderr.take().expect("its words")).lines().map_while(Result::ok);
        std::thread::spawn(move || lines.for_each(|line| drop(says.send(line))));
        let mut live = Self { child, heard, said: Vec::new(), address: String::new() };
        let answering = live.until("answering /metrics");
        let address = answering.split("address=").nth(1).and_then(|rest| rest.split_whitespace().next());
        live.address = address.expect("an address").to_owned();
        live
    }

    /// Waits until it says so.
    pub fn until(&mut self, what: &str) -> String {
        loop {
            if let Some(line) = self.said.iter().find(|line| line.contains(what)) {
                return line.clone();
            }
            let line = self.heard.recv_timeout(LONG);
            self.said.push(line.unwrap_or_else(|_| panic!("it never said {what:?}: {:#?}", self.said)));
        }
    }

    /// What it answers.
    pub fn asked(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).expect("somebody listens");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n").expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("text");
        answer
    }

    pub fn status(&self, path: &str) -> String {
        self.asked(path).split(' ').nth(1).expect("a status").to_owned()
    }

    /// Waits for a line of the metrics.
    pub fn until_metric(&self, line: &str) {
        let mut metrics = String::new();
        for _ in 0..200 {
            metrics = self.asked("/metrics");
            if metrics.lines().any(|one| one == line) {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("never {line}: {metrics}");
    }
}
