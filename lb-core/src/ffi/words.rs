//! Counters, by number and by name, and the words for them.

use core::ffi::{CStr, c_char};
use core::ptr::null;

use super::balancer::lb_balancer;
use super::borrow::{Out, handle};
use super::packet::CodeByte;
use super::status::{call, lb_status};
use crate::{Counters, Verdict};

/// The word for a verdict's `code` in metrics and comments, like `forward` or `no-endpoints`; NULL if no verdict has
/// it. Codes and words are never given to other reasons.
#[unsafe(no_mangle)]
#[must_use]
pub extern "C" fn lb_code_label(code: CodeByte) -> *const c_char {
    Verdict::c_words(code).map_or(null(), |(label, _)| label.as_ptr())
}

/// The sentence that explains a code to whoever reads a capture; NULL if no verdict has it.
#[unsafe(no_mangle)]
#[must_use]
pub extern "C" fn lb_code_explanation(code: CodeByte) -> *const c_char {
    Verdict::c_words(code).map_or(null(), |(_, explanation)| explanation.as_ptr())
}

/// The counters beside those by verdict: a counter is the place in this list and its name. Only ever appended to.
const COUNTERS: &[&CStr] = &[
    c"packets",
    c"flows-created",
    c"flows-expired",
    c"flows-evicted",
    c"flows-reselected",
    c"flows-cut",
    c"ports-changed",
    c"port-tries",
    c"replies-limited",
];

/// A match and no list of functions, so that no call goes through a pointer and the stack's depth can be read off.
fn value(counters: &Counters, counter: usize) -> Option<u64> {
    Some(match counter {
        0 => counters.packets(),
        1 => counters.flows_created,
        2 => counters.flows_expired,
        3 => counters.flows_evicted,
        4 => counters.flows_reselected,
        5 => counters.flows_cut,
        6 => counters.ports_changed,
        7 => counters.port_tries,
        8 => counters.replies_limited,
        _ => return None,
    })
}

/// Packets whose verdict had this code. Packets in are the sum over all codes.
///
/// @param count receives the number since the balancer was made
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lb_verdict_count(balancer: *const lb_balancer, code: CodeByte, count: *mut u64) -> lb_status {
    call(|| {
        // SAFETY: both are NULL or valid.
        let (balancer, count) = unsafe { (handle(balancer)?, Out::plain(count)?) };
        Verdict::c_words(code).ok_or(lb_status::Nothing)?;
        count.put(balancer.inner.counters().verdict(code));
        Ok(())
    })
}

/// The name of a counter: ask for 0, 1, ... until it is NULL. A counter keeps its number and name.
#[unsafe(no_mangle)]
#[must_use]
pub extern "C" fn lb_counter_name(counter: u32) -> *const c_char {
    COUNTERS.get(counter as usize).map_or(null(), |name| name.as_ptr())
}

/// A counter by its number. `LB_STATUS_NOTHING` past the last.
///
/// @param count receives the number since the balancer was made
///
/// # Safety
/// Pointers are NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lb_counter(balancer: *const lb_balancer, counter: u32, count: *mut u64) -> lb_status {
    call(|| {
        // SAFETY: both are NULL or valid.
        let (balancer, count) = unsafe { (handle(balancer)?, Out::plain(count)?) };
        count.put(value(balancer.inner.counters(), counter as usize).ok_or(lb_status::Nothing)?);
        Ok(())
    })
}

/// A counter by its name, or by a verdict's label. `LB_STATUS_NOTHING` if there is none of that name.
///
/// @param name  like `flows-created`
/// @param count receives the number since the balancer was made
///
/// # Safety
/// Pointers are NULL or valid; the name ends with a NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lb_counter_by_name(
    balancer: *const lb_balancer,
    name: *const c_char,
    count: *mut u64,
) -> lb_status {
    call(|| {
        // SAFETY: both are NULL or valid.
        let (balancer, count) = unsafe { (handle(balancer)?, Out::plain(count)?) };
        if name.is_null() {
            return Err(lb_status::Null);
        }
        // SAFETY: not NULL, and ends with a NUL by the caller's promise.
        let name = unsafe { CStr::from_ptr(name) };
        let counters = balancer.inner.counters();
        let by_number = COUNTERS.iter().position(|known| *known == name).and_then(|at| value(counters, at));
        let by_code = || {
            let code = (0..Verdict::CODES as u8)
                .find(|code| Verdict::c_words(*code).is_some_and(|(label, _)| label == name))?;
            Some(counters.verdict(code))
        };
        count.put(by_number.or_else(by_code).ok_or(lb_status::Nothing)?);
        Ok(())
    })
}
