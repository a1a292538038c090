//! What firmware logged, a line a message: `decode ELF < frames`.

use std::error::Error;
use std::io::{self, Read};

use defmt_decoder::{DecodeError, Table};

fn main() -> Result<(), Box<dyn Error>> {
    let elf = std::env::args_os().nth(1).ok_or("usage: decode ELF < frames")?;
    let table = Table::parse(&std::fs::read(elf)?)?.ok_or("no table of log messages in it")?;
    let mut frames = Vec::new();
    io::stdin().read_to_end(&mut frames)?;
    let mut decoder = table.new_stream_decoder();
    decoder.received(&frames);
    loop {
        match decoder.decode() {
            Ok(frame) => println!("{}", frame.display_message()),
            Err(DecodeError::UnexpectedEof) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
