//! The ports that `lb run` answers on, and strangers who hold them, lie to them or never end: whoever asks is answered.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const SEED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/seed");

/// A data plane that waits for packets, with at most so many open files, and where it answers.
struct Plane(Child, SocketAddr);

impl Plane {
    fn new(files: u32) -> Self {
        let command = format!(
            "ulimit -n {files}; exec {} run --device pcap:/dev/stdin,/dev/null -f {SEED} --node worker-1 --metrics 127.0.0.1:0",
            env!("CARGO_BIN_EXE_lb")
        );
        let mut shell = Command::new("sh");
        let mut lb = shell.args(["-c", &command]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A capture's header; its packets never come.
        let header = [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65_535, 1].iter().flat_map(|word| word.to_le_bytes());
        lb.stdin.as_mut().unwrap().write_all(&header.collect::<Vec<u8>>()).unwrap();
        let (mut said, mut some) = (String::new(), [0; 1024]);
        while !said.contains("forwarding") {
            let count = lb.stderr.as_mut().unwrap().read(&mut some).unwrap();
            assert!(count > 0, "{said}");
            said += &String::from_utf8_lossy(&some[..count]);
        }
        let address = said.split("address=").nth(1).unwrap().split_whitespace().next().unwrap();
        let plane = Self(lb, address.parse().unwrap_or_else(|error| panic!("{address:?}: {error}")));
        assert!(plane.ask("GET /healthz HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200 OK\r\n"));
        plane
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect_timeout(&self.1, Duration::from_secs(5)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// What comes back, to its end.
    fn ask(&self, question: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(question.as_bytes()).unwrap();
        answer(stream)
    }

    fn threads(&self) -> usize {
        fs::read_dir(Path::new("/proc").join(self.0.id().to_string()).join("task")).unwrap().count()
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn answer(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn whoever_holds_connections_open_keeps_nobody_out() {
    // More than there are files for, and more than are served at a time.
    for (files, held) in [(40, 400), (1024, 400)] {
        let plane = Plane::new(files);
        let threads = plane.threads();
        let mut idle: Vec<TcpStream> = Vec::new();
        for n in 0..held {
            let mut stream = plane.connect();
            // Some have begun to ask.
            let _ = stream.write_all(&b"GET /healthz HTTP/1.1\r\nHost: "[..n % 30]);
            idle.push(stream);
            if n % 50 == 49 {
                assert!(
                    plane.ask("GET /healthz HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200 "),
                    "{files} files, beside {n}"
                );
            }
        }
        assert_eq!(plane.threads(), threads, "a stranger makes threads");
        drop(idle);
        assert!(plane.ask("GET /livez HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200 "), "{files} files, after all");
    }
}

#[test]
fn any_question_has_an_answer() {
    let plane = Plane::new(1024);
    let long = format!("GET /healthz HTTP/1.1\r\nX: {}", "x".repeat(9_000));
    let many = format!("GET /healthz HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(70));
    for (what, question, expected) in [
        ("a health check", "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", "200 OK"),
        ("of old", "GET /livez HTTP/1.0\r\n\r\n", "200 OK"),
        ("with a query", "GET /livez?verbose HTTP/1.1\r\n\r\n", "200 OK"),
        ("another path", "GET /../etc/passwd HTTP/1.1\r\n\r\n", "404 Not Found"),
        ("no HTTP", "\x16\x03\x01\x02\r\n\r\n", "400 Bad Request"),
        ("another version", "GET / HTTP/9.9\r\n\r\n", "400 Bad Request"),
        ("a line that never ends", &long, "431 Request Header Fields Too Large"),
        ("many headers", &many, "400 Bad Request"),
    ] {
        let answer = plane.ask(question);
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected}\r\n")), "{what}: {answer}");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{what}: {answer}");
    }
    let answered = plane.ask("HEAD /healthz HTTP/1.1\r\n\r\n");
    assert!(answered.ends_with("\r\n\r\n") && !answered.contains("Content-Length: 0"), "{answered}");

    // In pieces.
    let mut stream = plane.connect();
    for piece in ["GET /hea", "lthz HTTP/1.1\r\n", "\r\n"] {
        stream.write_all(piece.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(answer(stream).starts_with("HTTP/1.1 200 "));
    // Never.
    let mut stream = plane.connect();
    stream.write_all(b"GET /hea").unwrap();
    assert_eq!(answer(stream), "", "it is not waited for");
}
