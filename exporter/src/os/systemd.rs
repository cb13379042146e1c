//! Notifies systemd via `sd_notify`; a no-op when not run by systemd.
//! <https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html>

use std::io;

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};

/// Reports that start-up or a reload is complete. Call it after a failed reload too: otherwise systemd
/// keeps waiting.
pub fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Reports that a requested reload begins. Since systemd 253, both lines must be in one datagram.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => failed(&error),
    }
}

/// Sets the status that `systemctl status` shows.
pub fn status(status: &str) {
    notify(&[NotifyState::Status(status)]);
}

/// Reports that shutdown begins.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Starts feeding the watchdog from the reactor, twice per `WatchdogSec=` of the unit. Call it inside a
/// tokio runtime.
pub fn feed_watchdog() {
    // As in sd_watchdog_enabled(3), a timeout of zero disables the watchdog.
    let timeout = sd_notify::watchdog_enabled().filter(|timeout| !timeout.is_zero());
    let Some(timeout) = timeout else { return };
    let mut ticks = interval(timeout / 2);
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
    tracing::warn!(%error, "cannot notify the service manager");
}
