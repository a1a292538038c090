//! The end: whoever is connected may finish, whoever asks is told to send nobody new.

use crate::lab::{self, Lb, Stick, text, until};
use crate::objects::{V4, V6, backend};
use crate::stream::Stream;
use crate::{echo, lab as new_lab};

#[test]
fn connections_may_end_before_it_does() {
    if !lab::possible(&["socat", "curl", "ss"]) {
        return;
    }
    let (mut lab, path) = new_lab(Stick::Tap, &[backend(0, 7000)]);
    echo(&mut lab, 0, 7000);
    let status = |lab: &lab::Lab, from: &str, url: &str| {
        let mut command = lab.command(from, "curl");
        text(command.args(["-s", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", url]).output().expect("curl"))
            .unwrap_or_else(|error| error)
    };
    let mut lb = Lb::start(&lab, &path, &["--drain", "60"]);
    let mut streams: Vec<_> = [V4[0], V4[2], V6[1]].map(|to| Stream::connect(&lab, "client", to)).into();
    streams.iter_mut().for_each(Stream::echo);
    assert_eq!(lab.metric("lb_connections"), 3.0);
    lb.signal("-TERM");
    lb.until("draining", 1);
    // Load balancers and whoever announces routes ask here.
    assert_eq!(status(&lab, "node", "http://127.0.0.1:10249/healthz"), "503");
    assert_eq!(status(&lab, "client", "http://192.0.2.1:31000/"), "503");
    assert_eq!(status(&lab, "node", "http://127.0.0.1:10249/livez"), "200");
    for _ in 0..10 {
        streams.iter_mut().for_each(Stream::echo);
    }
    // Until they have noticed they send some, who are served: a refusal would be seen.
    let mut late = Stream::connect(&lab, "client", V4[1]);
    late.echo();
    drop(late);
    streams.truncate(1);
    until("three to have ended", || lab.metric("lb_connections") == 1.0);
    streams.iter_mut().for_each(Stream::echo);
    drop(streams);
    assert_eq!(lb.ended(), Some(0), "{}", lb.said());
    assert_eq!(lb.count("drained"), 1, "{}", lb.said());
}

/// Patience ends after a while, or with a second signal.
#[test]
fn a_drain_ends_in_any_case() {
    if !lab::possible(&["socat", "curl", "ss"]) {
        return;
    }
    for (seconds, signals, drained) in [("1", 1, 1), ("600", 2, 0)] {
        let (mut lab, path) = new_lab(Stick::Veth, &[backend(0, 7000)]);
        echo(&mut lab, 0, 7000);
        let mut lb = Lb::start(&lab, &path, &["--drain", seconds]);
        let mut stream = Stream::connect(&lab, "client", V4[0]);
        stream.echo();
        for signal in 1..=signals {
            lb.signal("-TERM");
            lb.until(if signal == 1 { "draining" } else { "ending" }, 1);
        }
        assert_eq!((lb.ended(), lb.count("drained")), (Some(0), drained), "{seconds} s: {}", lb.said());
    }
}
