//! What a static library needs besides its functions: a panic handler. Nothing reaches it; `.ci/no_panic` links programs
//! that could not be linked if anything did.

#[cfg(lb_no_panic)]
unsafe extern "C" {
    /// Defined nowhere.
    safe fn lb_core_may_panic() -> !;
}

#[cfg(lb_no_panic)]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    lb_core_may_panic()
}

#[cfg(not(lb_no_panic))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
