//! A life of a balancer through the C ABI: sizes, numbers and octets of any sort, pointers that are valid for what they are said
//! to be, NULL, or misaligned. Whatever is refused changes nothing; nothing is read or written out of bounds, which the
//! address sanitizer sees.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::null_mut;
use std::sync::LazyLock;

use lb_core::control::Mode;
use lb_core::ffi::*;
use lb_core::pick::Scheduler;

use super::cluster::cluster;

static IMAGES: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
    [(Mode::IPTABLES, Scheduler::Random), (Mode::NFTABLES, Scheduler::Maglev)]
        .map(|(mode, scheduler)| cluster(mode, scheduler).image().expect("a small cluster compiles"))
});

/// Memory as C's allocator gives it.
struct Memory(*mut u8, Layout);

impl Memory {
    fn new(length: usize) -> Self {
        let layout = Layout::from_size_align(length.max(1), 64).expect("a small length");
        // SAFETY: not of length 0.
        Self(unsafe { alloc_zeroed(layout) }, layout)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: as it was allocated.
        unsafe { dealloc(self.0, self.1) }
    }
}

fn size<T>() -> u32 {
    size_of::<T>() as u32
}

/// Tries an input. What is wrong panics.
pub fn run(input: &[u8]) {
    let Some((&[a, b, c, d], mut rest)) = input.split_first_chunk() else { return };
    let sizes = lb_sizes {
        struct_size: size::<lb_sizes>(),
        v4_flows: (a % 16).into(),
        v6_flows: (a / 16).into(),
        services: (b % 64).into(),
        affinity: (b / 64).into(),
        backends: (c % 16).into(),
        fragments: (c / 16).into(),
    };
    let room = lb_room {
        struct_size: size::<lb_room>(),
        services: 8 << (d % 4),
        vips: 8 << (d / 4 % 8),
        segments: 1 << (8 + d / 32 % 8),
    };
    let layout = || lb_layout { struct_size: size::<lb_layout>(), alignment: 0, size: 0 };
    let (mut balancer_layout, mut in_place, mut roomy) = (layout(), layout(), layout());
    let mut config = std::mem::MaybeUninit::<lb_config>::zeroed();
    // SAFETY: every pointer is valid for what the function asks, and memory outlives its use.
    unsafe {
        (&raw mut (*config.as_mut_ptr()).struct_size).write(size::<lb_config>());
        assert_eq!(lb_config_linux(config.as_mut_ptr()), lb_status::Ok);
        assert_eq!(lb_balancer_layout(&sizes, &mut balancer_layout), lb_status::Ok);
        assert_eq!(lb_rules_layout(std::ptr::null(), &mut in_place), lb_status::Ok);
        assert_eq!(lb_rules_layout(&room, &mut roomy), lb_status::Ok);
    }
    let memories = [balancer_layout.size, in_place.size, in_place.size, roomy.size].map(Memory::new);
    let [balancer_memory, one, other, third] = &memories;
    let mut tables = [null_mut::<lb_rules>(); 3];
    let mut balancer = null_mut::<lb_balancer>();
    let mut fault = lb_fault { struct_size: size::<lb_fault>(), ..zeroed() };
    // SAFETY: as above.
    unsafe {
        for ((table, memory), image) in tables.iter_mut().zip([one, other]).zip(IMAGES.iter()) {
            let loaded =
                lb_rules_load(memory.0.cast(), memory.1.size(), image.as_ptr(), image.len(), table, &mut fault);
            assert_eq!(loaded, lb_status::Ok);
        }
        assert_eq!(lb_rules_with_room(third.0.cast(), third.1.size(), &room, &mut tables[2]), lb_status::Ok);
        let memory = balancer_memory;
        let init =
            lb_balancer_init(memory.0.cast(), memory.1.size(), config.as_ptr(), &sizes, tables[0], &mut balancer);
        assert_eq!(init, lb_status::Ok);
    }
    let mut saved: Vec<lb_flow> = Vec::new();
    let mut now = 0u64;
    while let Some((&[what, n, meta, length], octets)) = rest.split_first_chunk() {
        let (octets, next) = octets.split_at(usize::from(length).min(octets.len()));
        rest = next;
        now = now.saturating_add((1 << (n % 48)) - 1);
        // SAFETY: as above; what is misaligned or NULL is checked for, and never said to be longer than it is.
        unsafe {
            match what % 10 {
                0..=3 => process(balancer, now, octets, [n, meta]),
                4 => {
                    let mut previous = null_mut();
                    let status = lb_swap_rules(balancer, tables[usize::from(n) % 3], &mut previous);
                    assert!(matches!(status, lb_status::Ok | lb_status::InUse), "{status:?}");
                }
                5 => {
                    let (image, table) = (&IMAGES[usize::from(n) % 2], tables[2]);
                    let _ = lb_rules_apply(table, image.as_ptr(), image.len(), &mut fault);
                    let _ = lb_rules_apply(table, octets.as_ptr(), octets.len(), &mut fault);
                }
                6 => {
                    let mut flows = [lb_flow { struct_size: size::<lb_flow>(), ..zeroed() }; 4];
                    let (mut position, mut count) = (n.into(), 0);
                    assert_eq!(lb_flows(balancer, &mut position, flows.as_mut_ptr(), 4, &mut count), lb_status::Ok);
                    saved.extend(&flows[..count]);
                    saved.truncate(8);
                }
                7 => {
                    let mut flow = lb_flow { struct_size: size::<lb_flow>(), ..zeroed() };
                    if let Some(known) = saved.get(usize::from(n) % 8) {
                        flow = *known;
                    }
                    // Anything at all in the place of some of it, but for its size.
                    let raw = (&raw mut flow).cast::<u8>();
                    for (at, octet) in
                        octets.iter().enumerate().take(size_of::<lb_flow>() - 4).filter(|(_, octet)| **octet != 0)
                    {
                        *raw.add(4 + at) ^= octet;
                    }
                    let mut id = 0;
                    if lb_restore(balancer, &flow, &mut id) == lb_status::Ok {
                        let mut found = lb_flow { struct_size: size::<lb_flow>(), ..zeroed() };
                        assert_eq!(lb_flow_by_id(balancer, id, &mut found), lb_status::Ok);
                    }
                }
                8 => {
                    let mut forgotten = 0;
                    assert_eq!(lb_expire(balancer, now, meta.into(), &mut forgotten), lb_status::Ok);
                    let mut deadline = 0;
                    let _ = lb_next_deadline(balancer, &mut deadline);
                }
                _ => {
                    let mut count = 0;
                    let _ = (lb_verdict_count(balancer, n, &mut count), lb_counter(balancer, meta.into(), &mut count));
                    let _ = (lb_code_label(n), lb_code_explanation(n), lb_status_text(i32::from(n) - 64));
                    let _ = (
                        lb_expire(null_mut(), now, 1, null_mut()),
                        lb_apply(balancer, std::ptr::null(), 7, null_mut()),
                    );
                }
            }
        }
    }
}

/// A structure of numbers and pointers, all zero.
fn zeroed<T>() -> T {
    // SAFETY: only used for the ABI's structures, which are valid so.
    unsafe { std::mem::zeroed() }
}

/// Some packets of these octets, the same frame or parts of it.
///
/// # Safety
/// `balancer` is valid.
unsafe fn process(balancer: *mut lb_balancer, now: u64, octets: &[u8], [n, meta]: [u8; 2]) {
    let mut frames: Vec<Vec<u8>> = (0..1 + n % 3).map(|_| octets.to_vec()).collect();
    let before = frames.clone();
    let packet = |frame: &mut Vec<u8>| lb_packet {
        // Now and then of a size that no caller has.
        struct_size: if meta == 0xff { 3 } else { size::<lb_packet>() },
        meta: lb_meta {
            link: meta & 3,
            checksum: meta >> 2 & 3,
            origin: meta >> 4 & 3,
            zone: u16::from(meta >> 6),
            ..lb_meta::default()
        },
        data: frame.as_mut_ptr(),
        length: frame.len(),
        verdict: lb_verdict::default(),
    };
    let mut packets: Vec<lb_packet> = frames.iter_mut().map(packet).collect();
    // SAFETY: frames outlive it.
    let status = unsafe { lb_process_batch(balancer, now, packets.as_mut_ptr(), packets.len()) };
    for packet in &packets {
        if status == lb_status::Ok && packet.verdict.action == lb_action::Reject as u8 {
            let (mut reply, mut written) = ([0u8; 1302], 0);
            // SAFETY: the same.
            let _ = unsafe { lb_write_reply(balancer, now, packet, reply.as_mut_ptr(), reply.len(), &mut written) };
            assert!(written <= reply.len());
        }
    }
    let changed = frames.iter().zip(&before).any(|(after, before)| after != before);
    assert!(status == lb_status::Ok || !changed, "refused, and touched");
}
