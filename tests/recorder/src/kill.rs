//! Death of the process at a chosen moment, as by `kill -9`.

use std::{
    env,
    ffi::c_int,
    fs, process, thread,
    time::{Duration, Instant},
};

const SIGKILL: c_int = 9;

unsafe extern "C" {
    /// Of the C library, which std links.
    fn kill(pid: c_int, signal: c_int) -> c_int;
}

/// What the file named by `KASBAH_RECORDER_KILL` orders for this call: dies here, or later, or says
/// how long after the call. The file is read at each call, so that a running process can be told.
/// Fails loudly at an order it does not understand: a process that lives on would prove nothing.
pub(crate) fn order(function: &str) -> Option<Duration> {
    let order = fs::read_to_string(env::var_os("KASBAH_RECORDER_KILL")?).ok()?;
    let mut fields = order.split(':');
    if fields.next() != Some(function) {
        return None;
    }
    let (moment, micros) = (fields.next(), fields.next());
    let delay = micros.map(|micros| micros.parse().map(Duration::from_micros));
    match (moment, delay) {
        (Some("before"), None) => die(),
        (Some("during"), Some(Ok(delay))) => {
            die_in(delay);
            None
        }
        (Some("after"), Some(Ok(delay))) => Some(delay),
        _ => panic!("recorder: no order to kill: {order}"),
    }
}

/// Dies after a delay, on a thread of its own; without a delay, at once.
pub(crate) fn die_in(delay: Duration) {
    if delay.is_zero() {
        die();
    }
    let end = Instant::now() + delay;
    let wait = move || {
        thread::sleep(end.saturating_duration_since(Instant::now()));
        die()
    };
    let spawned = thread::Builder::new().name("recorder-kill".into()).spawn(wait);
    spawned.unwrap_or_else(|error| panic!("recorder: {error}"));
}

fn die() -> ! {
    let pid = c_int::try_from(process::id()).unwrap_or_else(|error| panic!("recorder: {error}"));
    // SAFETY: takes two numbers; the signal is to this process, which wants to end.
    unsafe { kill(pid, SIGKILL) };
    process::abort()
}
