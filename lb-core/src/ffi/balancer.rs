//! A balancer: made in the caller's memory, given other rules, left to forget.

use core::ffi::c_void;
use core::mem::{offset_of, size_of};
use core::time::Duration;

use super::borrow::{ALIGNMENT, Out, Place, Versioned, handle, handle_mut, read, slice};
use super::layout::lb_layout;
use super::rules::{Bytes, Teller, lb_fault, lb_rules, of_delta};
use super::status::{call, lb_status};
use crate::{Balancer, Block, Config, ConfigError, Instant, Share, Sizes, Timeouts, blocks};

/// The packet path of one core: flows, rules in force, counters. One thread at a time may use it; there are no locks.
pub struct lb_balancer {
    pub(super) inner: Balancer<'static, Bytes>,
    /// The handle of the rules in force, to which they return.
    rules: *mut lb_rules,
}

/// How much a balancer may remember.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct lb_sizes {
    /// `sizeof (lb_sizes)`.
    pub struct_size: u32,
    /// IPv4 flows, at most 2^28.
    pub v4_flows: u32,
    /// IPv6 flows, at most 2^28.
    pub v6_flows: u32,
    /// Service ports, both families counted: as many as the rules may hold.
    pub services: u32,
    /// Clients remembered for session affinity; 0 turns it off.
    pub affinity: u32,
    /// Backends whose live flows are counted, for the schedulers lc, sed and nq; 0 makes them take all for idle.
    pub backends: u32,
    /// Fragmented datagrams under way.
    pub fragments: u32,
}

// SAFETY: repr(C), a u32 first, numbers only.
unsafe impl Versioned for lb_sizes {
    const FIRST: usize = size_of::<Self>();
    const ABSENT: Self =
        Self { struct_size: 0, v4_flows: 0, v6_flows: 0, services: 0, affinity: 0, backends: 0, fragments: 0 };
}

impl lb_sizes {
    /// The sizes in the engine's words, and the bytes that they take; refuses what no address space holds.
    fn sizes(self) -> Result<(Sizes, usize), lb_status> {
        let Self { v4_flows, v6_flows, services, affinity, backends, fragments, .. } = self;
        if v4_flows.max(v6_flows) > 1 << 28 {
            return Err(lb_status::TooManyFlows);
        }
        // None of them takes as much as 512 bytes apiece, so that nothing overflows below.
        let sum: u64 = [v4_flows, v6_flows, services, affinity, backends, fragments].map(u64::from).iter().sum();
        if sum > (usize::MAX / 512) as u64 {
            return Err(lb_status::Value);
        }
        let sizes = Sizes { v4_flows, v6_flows, services, affinity, backends, fragments };
        Ok((sizes, blocks(sizes) * size_of::<Block>()))
    }
}

/// Idle times in nanoseconds after which a flow is forgotten, by its state. Resolution is 1/16 s, at most a year.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct lb_timeouts {
    pub tcp_syn_sent: u64,
    pub tcp_syn_received: u64,
    /// Picked up in mid-stream, the backend not heard yet.
    pub tcp_picked_up: u64,
    pub tcp_established: u64,
    pub tcp_fin_wait: u64,
    pub tcp_close_wait: u64,
    pub tcp_last_ack: u64,
    pub tcp_time_wait: u64,
    pub tcp_close: u64,
    pub udp_unreplied: u64,
    pub udp_stream: u64,
    pub sctp_opening: u64,
    pub sctp_established: u64,
    pub sctp_closing: u64,
    /// For the fragments of one datagram to arrive.
    pub fragments: u64,
}

/// The fields of both, which have the same names.
macro_rules! each_timeout {
    ($from:expr, $to:ident, $convert:path) => {{
        let from = $from;
        $to {
            tcp_syn_sent: $convert(from.tcp_syn_sent),
            tcp_syn_received: $convert(from.tcp_syn_received),
            tcp_picked_up: $convert(from.tcp_picked_up),
            tcp_established: $convert(from.tcp_established),
            tcp_fin_wait: $convert(from.tcp_fin_wait),
            tcp_close_wait: $convert(from.tcp_close_wait),
            tcp_last_ack: $convert(from.tcp_last_ack),
            tcp_time_wait: $convert(from.tcp_time_wait),
            tcp_close: $convert(from.tcp_close),
            udp_unreplied: $convert(from.udp_unreplied),
            udp_stream: $convert(from.udp_stream),
            sctp_opening: $convert(from.sctp_opening),
            sctp_established: $convert(from.sctp_established),
            sctp_closing: $convert(from.sctp_closing),
            fragments: $convert(from.fragments),
        }
    }};
}

/// What a balancer is told once, when it is made. Start from `lb_config_linux`; the key and the seed have no default.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct lb_config {
    /// `sizeof (lb_config)`; may end before `timeouts`, which are then Linux', or before `core`.
    pub struct_size: u32,
    /// ICMP errors that `lb_write_reply` may write in a second, and at once after a quiet one.
    pub replies_per_second: u32,
    /// The key of every hash that an outsider could aim at: random, and secret; fixed for a replay that repeats.
    pub hash_key: [u8; 16],
    /// The seed of the generator behind random choices of backends and ports.
    pub seed: u64,
    /// How long flows live without traffic.
    pub timeouts: lb_timeouts,
    /// Which core the balancer is, from 0, where several share the traffic: see `lb_steer`.
    pub core: u16,
    /// How many cores share it, the same at each; 0 and 1 mean that there is one.
    pub cores: u16,
    /// Zero.
    pub reserved: u32,
    /// The key under which clients are shared out, the same at each core. Whoever knows it can aim at one core.
    pub steer_key: [u8; 16],
}

const LINUX: lb_timeouts = {
    const fn nanos(time: Duration) -> u64 {
        time.as_nanos() as u64
    }
    each_timeout!(Timeouts::LINUX, lb_timeouts, nanos)
};

// SAFETY: repr(C), a u32 first, numbers only.
unsafe impl Versioned for lb_config {
    const FIRST: usize = offset_of!(Self, timeouts);
    const ABSENT: Self = Self {
        struct_size: 0,
        replies_per_second: 0,
        hash_key: [0; 16],
        seed: 0,
        timeouts: LINUX,
        core: 0,
        cores: 0,
        reserved: 0,
        steer_key: [0; 16],
    };
}

impl lb_config {
    fn config(&self) -> Result<Config, lb_status> {
        let Self { hash_key, seed, replies_per_second, core, cores, reserved: 0, steer_key, .. } = *self else {
            return Err(lb_status::Value);
        };
        let timeouts = each_timeout!(&self.timeouts, Timeouts, Duration::from_nanos);
        let share = Share { core, cores: cores.max(1), key: steer_key };
        Ok(Config { hash_key, seed, timeouts, replies_per_second, share })
    }
}

/// Fills in the defaults of Linux and kube-proxy: timeouts, and 1000 replies a second. The key and the seed become
/// zeros, to be replaced by numbers of the caller's choice.
///
/// @param config its `struct_size` must be set
///
/// # Safety
/// The pointer is NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lb_config_linux(config: *mut lb_config) -> lb_status {
    call(|| {
        // SAFETY: NULL or valid.
        let out = unsafe { Out::versioned(config) }?;
        let struct_size = out.size();
        let replies_per_second = Config::new([0; 16], 0).replies_per_second;
        out.put(lb_config { struct_size, replies_per_second, ..lb_config::ABSENT });
        Ok(())
    })
}

/// How much memory a balancer of these sizes takes. An IPv4 flow comes to less than 100 bytes, an IPv6 flow to less
/// than 160, both directions and the index included.
///
/// @param sizes  how much it may remember
/// @param layout receives size and alignment
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lb_balancer_layout(sizes: *const lb_sizes, layout: *mut lb_layout) -> lb_status {
    call(|| {
        // SAFETY: both are NULL or valid.
        let (layout, sizes) = unsafe { (Out::versioned(layout)?, read(sizes)?) };
        let size = Place::<lb_balancer>::bytes(sizes.sizes()?.1).ok_or(lb_status::Value)?;
        let struct_size = layout.size();
        layout.put(lb_layout { struct_size, alignment: ALIGNMENT as u32, size });
        Ok(())
    })
}

/// Makes a balancer with no flows.
///
/// @param memory   at least `lb_balancer_layout(sizes, ...)`, whatever is in it; the library's until the balancer is
///                 no longer used. There is nothing to be torn down: the memory may then simply be used again.
/// @param length   its bytes
/// @param config   key, seed, timeouts
/// @param sizes    how much it may remember
/// @param rules    the rules to begin with; they are in force from now on, until they are swapped
/// @param balancer receives the handle
///
/// # Safety
/// Pointers are NULL or valid for their lengths.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lb_balancer_init(
    memory: *mut c_void,
    length: usize,
    config: *const lb_config,
    sizes: *const lb_sizes,
    rules: *mut lb_rules,
    balancer: *mut *mut lb_balancer,
) -> lb_status {
    call(|| {
        // SAFETY: all are NULL or valid.
        let (balancer, config, sizes) = unsafe { (Out::plain(balancer)?, read(config)?, read(sizes)?) };
        // SAFETY: the same.
        let held = unsafe { handle_mut(rules) }?;
        let (config, (sizes, bytes)) = (config.config()?, sizes.sizes()?);
        if config.share.core >= config.share.cores {
            return Err(lb_status::Value);
        }
        if held.table.is_none() {
            return Err(lb_status::InUse);
        }
        // SAFETY: NULL or valid, and ours from now on.
        let place = unsafe { Place::take(memory.cast(), length, bytes) }?;
        // SAFETY: called once; any bytes are a block.
        let behind: &mut [Block] = unsafe { place.behind() };
        let table = held.table.take().ok_or(lb_status::InUse)?;
        match Balancer::new(config, sizes, behind, table) {
            // In one expression, as each move of a balancer is a kilobyte of stack.
            Ok(inner) => balancer.put(place.put(lb_balancer { inner, rules })),
            Err(ConfigError::Memory { .. }) => return Err(lb_status::Memory),
            Err(ConfigError::TooManyFlows) => return Err(lb_status::TooManyFlows),
            Err(ConfigError::Core) => return Err(lb_status::Value),
        }
        Ok(())
    })
}

/// Applies a delta to the rules in force: all of it or nothing, at the cost of the change. Flows of services that
/// changed are compared with them at their next packet.
///
/// @param fault told what is wrong with the delta; may be NULL
///
/// # Safety
/// Pointers are NULL or valid for their lengths.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lb_apply(
    balancer: *mut lb_balancer,
    delta: *const u8,
    delta_length: usize,
    fault: *mut lb_fault,
) -> lb_status {
    call(|| {
        // SAFETY: all are NULL or valid.
        let (balancer, delta, teller) =
            unsafe { (handle_mut(balancer)?, slice(delta, delta_length)?, Teller::new(fault)?) };
        balancer.inner.apply_rules(delta).map_err(|error| teller.tell(of_delta(error, delta_length)))
    })
}

/// Puts other rules in force, in constant time. Every flow is compared with them at its next packet.
///
/// @param next     the rules from now on
/// @param previous receives the handle of those until now, whose memory is the caller's again; may be NULL
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lb_swap_rules(
    balancer: *mut lb_balancer,
    next: *mut lb_rules,
    previous: *mut *mut lb_rules,
) -> lb_status {
    call(|| {
        // SAFETY: all are NULL or valid.
        let (balancer, previous) = unsafe { (handle_mut(balancer)?, Out::optional(previous)?) };
        // SAFETY: NULL or valid.
        let table = unsafe { handle_mut(next) }?.table.take().ok_or(lb_status::InUse)?;
        let before = balancer.inner.swap_rules(table);
        let home = core::mem::replace(&mut balancer.rules, next);
        // SAFETY: the handle was valid when its rules came in force, and its memory is the library's while they are.
        unsafe { handle_mut(home) }?.table = Some(before);
        if let Some(previous) = previous {
            previous.put(home);
        }
        Ok(())
    })
}

/// Forgets flows whose deadline has passed. When it is called changes no verdict (a packet never finds a flow past
/// its deadline), but for a full table's and those of the schedulers that count live flows. All entries must be looked at
/// once in four years: deadlines are compared modulo 8.5.
///
/// @param now       nanoseconds since an origin of the caller's choice
/// @param budget    how many entries to look at: the bound of the work
/// @param forgotten receives how many flows those were; may be NULL
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lb_expire(
    balancer: *mut lb_balancer,
    now: u64,
    budget: usize,
    forgotten: *mut usize,
) -> lb_status {
    call(|| {
        // SAFETY: both are NULL or valid.
        let (balancer, forgotten) = unsafe { (handle_mut(balancer)?, Out::optional(forgotten)?) };
        let count = balancer.inner.expire(Instant::from_nanos(now), budget);
        if let Some(forgotten) = forgotten {
            forgotten.put(count);
        }
        Ok(())
    })
}

/// A time before which nothing can expire. `LB_STATUS_NOTHING` if there is no flow.
///
/// @param deadline receives it, in nanoseconds since the caller's origin
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lb_next_deadline(balancer: *const lb_balancer, deadline: *mut u64) -> lb_status {
    call(|| {
        // SAFETY: both are NULL or valid.
        let (balancer, deadline) = unsafe { (handle(balancer)?, Out::plain(deadline)?) };
        deadline.put(balancer.inner.next_deadline().ok_or(lb_status::Nothing)?.as_nanos());
        Ok(())
    })
}
