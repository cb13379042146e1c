//! What the service manager is told, where there is one: by `sd_notify`, which does nothing elsewhere.
//! <https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html>

use std::io;

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};

/// The exporter serves, or a reload is over, however it ended: without this, systemd would wait for
/// its end.
pub fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// A reload that was asked for begins. Since systemd 253, both lines have to come in one datagram.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => failed(&error),
    }
}

/// What `systemctl status` shows.
pub fn status(status: &str) {
    notify(&[NotifyState::Status(status)]);
}

/// The shutdown begins.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Starts to tell the watchdog that the reactor runs, twice in the time that the unit's
/// `WatchdogSec=` allows. To be called inside a tokio runtime.
pub fn feed_watchdog() {
    // As for sd_watchdog_enabled(3), a watchdog without patience is none.
    let patience = sd_notify::watchdog_enabled().filter(|patience| !patience.is_zero());
    let Some(patience) = patience else { return };
    let mut ticks = interval(patience / 2);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tokio::spawn(async move {
        loop {
            ticks.tick().await;
            notify(&[NotifyState::Watchdog]);
        }
    });
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        failed(&error);
    }
}

fn failed(error: &io::Error) {
    tracing::warn!(%error, "the service manager was not reached");
}
