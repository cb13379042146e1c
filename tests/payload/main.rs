//! The only program in the containers of tests, and the first process of their namespaces. It does nothing, or uses
//! a share of a CPU.
//!
//! ```text
//! payload pause
//! payload spin BUSY_MS IDLE_MS SECONDS
//! ```

#![expect(clippy::print_stdout, reason = "the test waits for a line")]

use std::{env, error::Error, hint, thread, time::Duration};

use nix::{
    sys::wait::{WaitPidFlag, WaitStatus, waitpid},
    time::{ClockId, clock_gettime},
};
use signal_hook::{
    consts::{SIGCHLD, SIGINT, SIGTERM},
    iterator::Signals,
    low_level,
};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<_> = env::args().skip(1).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["pause"] => pause(),
        ["spin", busy, idle, seconds] => {
            let [busy, idle] = [busy.parse()?, idle.parse()?].map(Duration::from_millis);
            spin(busy, idle, Duration::from_secs(seconds.parse()?))
        }
        _ => Err("`pause`, or `spin` with three numbers".into()),
    }
}

/// Waits for a signal to end, and reaps orphans meanwhile.
fn pause() -> Result<(), Box<dyn Error>> {
    let mut signals = Signals::new([SIGCHLD, SIGINT, SIGTERM])?;
    println!("ready");
    for signal in signals.forever() {
        if signal != SIGCHLD {
            break;
        }
        while waitpid(None, Some(WaitPidFlag::WNOHANG)).is_ok_and(|it| it != WaitStatus::StillAlive)
        {
        }
    }
    Ok(())
}

/// Uses a CPU for `busy`, sleeps for `idle`, and so on.
fn spin(busy: Duration, idle: Duration, total: Duration) -> Result<(), Box<dyn Error>> {
    let now = |clock| clock_gettime(clock).map(Duration::from);
    // The first process of a PID namespace ignores signals that it does not handle.
    // SAFETY: the handler makes one system call, which a handler may.
    unsafe { low_level::register(SIGTERM, || low_level::exit(0)) }?;
    let end = now(ClockId::CLOCK_MONOTONIC)? + total;
    while now(ClockId::CLOCK_MONOTONIC)? < end {
        let until = now(ClockId::CLOCK_PROCESS_CPUTIME_ID)? + busy;
        while now(ClockId::CLOCK_PROCESS_CPUTIME_ID)? < until {
            hint::spin_loop();
        }
        thread::sleep(idle);
    }
    Ok(())
}
