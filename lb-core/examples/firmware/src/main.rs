//! A service proxy in a microcontroller: rules in flash, flows in a static array, no allocator anywhere.
//!
//! It replays a capture that lies in flash too and logs a line a packet, which `tests/firmware` of the workspace decodes and
//! compares with what the same packets came to on the host. Then it tells what a packet costs.
#![no_std]
#![no_main]

mod gauge;

use cortex_m_rt::entry;
use cortex_m_semihosting::debug;
use defmt_semihosting as _;
use gauge::{Clock, stack_of};
use lb_core::{Balancer, Block, Config, Instant, Meta, Packet, RuleTable, Sizes, Verdict, blocks};
use static_cell::ConstStaticCell;

/// Compiled by `lb compile`, read where it lies.
static RULES: &[u8] = include_bytes!("../../../tests/golden/rules.image");
static CAPTURE: &[u8] = include_bytes!("../../../tests/golden/traffic.pcap");

const SIZES: Sizes = Sizes { v4_flows: 256, v6_flows: 256, services: 32, affinity: 16, backends: 16, fragments: 16 };
static MEMORY: ConstStaticCell<[Block; blocks(SIZES)]> = ConstStaticCell::new([Block::ZERO; blocks(SIZES)]);

/// Where a packet is worked on: a driver's receive buffer.
static BUFFER: ConstStaticCell<[u8; 2048]> = ConstStaticCell::new([0; 2048]);
static REPLY: ConstStaticCell<[u8; 2048]> = ConstStaticCell::new([0; 2048]);

#[entry]
fn main() -> ! {
    let Some(peripherals) = cortex_m::Peripherals::take() else { leave(false) };
    let mut clock = Clock::new(peripherals.SYST);
    let (memory, buffer, reply) = (MEMORY.take(), BUFFER.take(), REPLY.take());

    let mut made = None;
    let stack = stack_of(|| {
        let rules = RuleTable::load(RULES).ok();
        made = rules.and_then(|rules| Balancer::new(Config::new([0; 16], 0), SIZES, memory, rules).ok());
    });
    let Some(balancer) = &mut made else { leave(false) };
    defmt::println!("init-stack {=usize}", stack);

    let (mut deepest, mut most, mut sum, mut packets) = (0, 0, 0u64, 0u32);
    for (now, bytes) in captured(CAPTURE) {
        let Some(frame) = buffer.get_mut(..bytes.len()) else { leave(false) };
        frame.copy_from_slice(bytes);
        let mut packet = Packet::new(frame, Meta::default());
        let (mut verdict, mut cost) = (Verdict::Pass, 0);
        let stack = stack_of(|| cost = clock.instructions(|| verdict = balancer.process(now, &mut packet)));
        (deepest, most, sum, packets) = (deepest.max(stack), most.max(cost), sum + u64::from(cost), packets + 1);
        let out = match verdict {
            Verdict::Reject(reason) => {
                let length = balancer.write_reply(now, &packet, reason, reply).unwrap_or(0);
                reply.get(..length).unwrap_or(&[])
            }
            _ => &*packet.data,
        };
        let label = Verdict::label(verdict.code()).unwrap_or("?");
        defmt::println!("packet {=str} {=usize} {=u64:016x}", label, out.len(), hash(out));
    }
    defmt::println!("instructions-mean {=u64}", sum / u64::from(packets.max(1)));
    defmt::println!("instructions-most {=u32}", most);
    defmt::println!("packet-stack {=usize}", deepest);
    let flows = |v4_flows, v6_flows| blocks(Sizes { v4_flows, v6_flows, ..SIZES }) * size_of::<Block>();
    defmt::println!("bytes-per-v4-flow {=usize}", (flows(4096, 0) - flows(0, 0)).div_ceil(4096));
    defmt::println!("bytes-per-v6-flow {=usize}", (flows(0, 4096) - flows(0, 0)).div_ceil(4096));
    leave(true)
}

/// The packets of a little-endian pcap with microseconds, each with its time after the first.
fn captured(capture: &'static [u8]) -> impl Iterator<Item = (Instant, &'static [u8])> {
    let word = |bytes: &[u8], at: usize| bytes.get(at..)?.first_chunk().map(|word| u32::from_le_bytes(*word));
    let mut rest = capture.get(24..).unwrap_or(&[]);
    let started = word(rest, 0).unwrap_or(0);
    core::iter::from_fn(move || {
        let (header, data) = rest.split_at_checked(16)?;
        let (bytes, next) = data.split_at_checked(word(header, 8)? as usize)?;
        rest = next;
        let seconds = u64::from(word(header, 0)?.wrapping_sub(started));
        Some((Instant::from_nanos(seconds * 1_000_000_000 + u64::from(word(header, 4)?) * 1000), bytes))
    })
}

/// FNV-1a, as in lb-core/tests/golden.rs.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

fn leave(well: bool) -> ! {
    loop {
        debug::exit(if well { debug::EXIT_SUCCESS } else { debug::EXIT_FAILURE });
    }
}

/// The engine reaches no panic; the logger and the runtime might.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    leave(false)
}
