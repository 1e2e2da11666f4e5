//! A clock that all processes of the machine share, the CPU time of this one, and pacing.

use std::{thread, time::Duration};

use rustix::time::{ClockId, Timespec, clock_gettime};

fn nanoseconds(at: Timespec) -> u64 {
    u64::try_from(at.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(at.tv_nsec).unwrap_or(0)
}

/// `CLOCK_MONOTONIC`: the same in every process, and in Python and Node.
pub fn now_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::Monotonic))
}

/// CPU time that this process has used, in user and system mode, by all its threads.
pub fn cpu_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::ProcessCPUTime))
}

/// Blocks the thread until then: a runtime's timer counts whole milliseconds.
pub fn sleep_until(ns: u64) {
    let now = now_ns();
    if ns > now {
        thread::sleep(Duration::from_nanos(ns - now));
    }
}
