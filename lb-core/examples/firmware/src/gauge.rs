//! How many instructions a call takes, and how much stack.

use core::hint::black_box;

use cortex_m::peripheral::{SYST, syst::SystClkSource};

/// SysTick at 25 MHz, under a QEMU whose virtual clock goes on by 64 ns an instruction (.cargo/config.toml).
pub struct Clock(SYST);

const FULL: u32 = 0x00ff_ffff;

impl Clock {
    pub fn new(mut timer: SYST) -> Self {
        timer.set_clock_source(SystClkSource::Core);
        timer.set_reload(FULL);
        timer.clear_current();
        timer.enable_counter();
        Self(timer)
    }

    /// Instructions that a call takes; it must be shorter than ten million.
    pub fn instructions(&mut self, call: impl FnOnce()) -> u32 {
        let before = SYST::get_current();
        call();
        let ticks = before.wrapping_sub(SYST::get_current()) & FULL;
        ticks * 40 / 64
    }
}

/// Stack that is looked at below the caller's.
const DEPTH: usize = 16 * 1024;
const PAINT: u32 = 0xa5a5_5a5a;

/// How many bytes of stack a call takes, by the paint it leaves untouched.
#[inline(never)]
pub fn stack_of(call: impl FnOnce()) -> usize {
    let top = cortex_m::register::msp::read() as usize & !3;
    let below = || (top - DEPTH..top - 64).step_by(4);
    for address in below() {
        // SAFETY: below the stack pointer there are megabytes of RAM that nobody uses; 64 bytes are left for this loop.
        unsafe { (address as *mut u32).write_volatile(PAINT) };
    }
    black_box(call)();
    // SAFETY: as above.
    let touched = below().find(|address| unsafe { (*address as *const u32).read_volatile() } != PAINT);
    touched.map_or(0, |address| top - address)
}
