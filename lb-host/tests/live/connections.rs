//! Many connections at a time that stay: a server that sends back what it gets, and a client that knows which of its
//! connections are answered.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use crate::lab::Lab;

const SERVER: &str = "
import asyncio, sys
async def serve(reader, writer):
    while line := await reader.readline():
        writer.write(line); await writer.drain()
    writer.close()
async def main():
    server = await asyncio.start_server(serve, ['0.0.0.0', '::'], int(sys.argv[1]), backlog=2048)
    await server.serve_forever()
asyncio.run(main())";

/// Arguments: connections to each address, the client's own addresses, what is dialled. At each line of its input it has all
/// connections say something, and tells how many were answered, by what was dialled.
const CLIENT: &str = "
import asyncio, itertools, sys
async def ask(reader, writer, said):
    try:
        writer.write(said)
        return await asyncio.wait_for(reader.readline(), 20) == said
    except (OSError, asyncio.TimeoutError):
        return False
async def main():
    each, sources, targets = int(sys.argv[1]), sys.argv[2].split(','), [to.rsplit(':', 1) for to in sys.argv[3:]]
    # By ports of their own: of two by the same port to the same Pod one would have to change it.
    own = zip(itertools.cycle(sources), range(20000, 30000))
    ends = [[await asyncio.open_connection(to.strip('[]'), int(port), local_addr=next(own)) for _ in range(each)] for to, port in targets]
    for count in itertools.count():
        said = [asyncio.gather(*(ask(*end, b'%d %d\\n' % (count, number)) for number, end in enumerate(all))) for all in ends]
        print(*[sum(await answered) for answered in said], flush=True)
        if not await asyncio.to_thread(sys.stdin.readline):
            break
asyncio.run(main())";

/// Starts a server on a port of a machine.
pub(crate) fn serve(lab: &mut Lab, machine: &str, port: u16) {
    let script = lab.path("server.py");
    std::fs::write(&script, SERVER).expect("written");
    lab.start(machine, "sh", &["-c", &format!("ulimit -n 4096; exec python3 {} {port}", script.display())]);
    lab.await_port(machine, port);
}

/// The client.
pub(crate) struct Connections {
    child: Child,
    input: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
}

impl Connections {
    /// Opens so many connections to each of some addresses, by turns from each of the client's own.
    pub(crate) fn open(lab: &Lab, each: usize, from: &[String], to: &[&str]) -> Self {
        let script = lab.path("client.py");
        std::fs::write(&script, CLIENT).expect("written");
        let command =
            format!("ulimit -n 8192; exec python3 {} {each} {} {}", script.display(), from.join(","), to.join(" "));
        let mut command_line = lab.command("client", "sh");
        command_line.args(["-c", &command]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command_line.spawn().expect("python");
        let (input, output) = (child.stdin.take().expect("its input"), child.stdout.take().expect("its output"));
        Self { child, input, said: BufReader::new(output).lines() }
    }

    /// How many connections to each address are answered; the first time after they were opened.
    pub(crate) fn answered(&mut self) -> Vec<usize> {
        let line = self.said.next().expect("a line").expect("text");
        line.split(' ').map(|count| count.parse().expect("a number")).collect()
    }

    /// The same once more.
    pub(crate) fn ask(&mut self) -> Vec<usize> {
        writeln!(self.input).expect("it takes lines");
        self.answered()
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
