//! Notifies systemd via `sd_notify`, a no-op when not run by systemd, and takes the sockets it passes.
//! <https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html>

use std::{
    env,
    ffi::{OsStr, OsString},
    io::{self, ErrorKind},
    mem,
    os::{
        fd::{FromRawFd as _, OwnedFd},
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval, sleep};

/// Try again after this long if the service manager does not read its socket.
const RETRY: Duration = Duration::from_millis(100);

/// Sends notifications to the service manager, and never waits for it. Clones share what is pending. Use
/// it inside a tokio runtime.
#[derive(Clone, Debug, Default)]
pub struct Notifier(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    /// The value of `NOTIFY_SOCKET`.
    socket: OsString,
    pending: Mutex<Pending>,
}

/// Notifications that the service manager had no room for.
#[derive(Debug, Default)]
struct Pending {
    /// In the order of sending; at most one of each kind.
    messages: Vec<(Kind, String)>,
    /// Whether a task tries again.
    is_retrying: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ready,
    Reloading,
    Status,
    Stopping,
    Watchdog,
}

impl Notifier {
    /// Notifies the service manager that started this process, if any.
    pub fn from_env() -> Self {
        let socket = env::var_os("NOTIFY_SOCKET");
        Self(socket.map(|socket| Arc::new(Shared { socket, pending: Mutex::default() })))
    }

    /// Reports that start-up or a reload is complete. Call it after a failed reload too: otherwise
    /// systemd keeps waiting.
    pub fn ready(&self, status: &str) {
        self.notify(Kind::Ready, &[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// Reports that a requested reload begins. Since systemd 253, both lines must be in one datagram.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.notify(Kind::Reloading, &[NotifyState::Reloading, now]),
            Err(error) => failed(&error),
        }
    }

    /// Sets the status that `systemctl status` shows.
    pub fn status(&self, status: &str) {
        self.notify(Kind::Status, &[NotifyState::Status(status)]);
    }

    /// Reports that shutdown begins.
    pub fn stopping(&self) {
        self.notify(Kind::Stopping, &[NotifyState::Stopping]);
    }

    /// Starts feeding the watchdog from the reactor, twice per `WatchdogSec=` of the unit.
    pub fn feed_watchdog(&self) {
        // As in sd_watchdog_enabled(3), a timeout of zero disables the watchdog.
        let timeout = sd_notify::watchdog_enabled().filter(|timeout| !timeout.is_zero());
        let Some(timeout) = timeout else { return };
        let mut ticks = interval(timeout / 2);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let notifier = self.clone();
        tokio::spawn(async move {
            loop {
                ticks.tick().await;
                notifier.notify(Kind::Watchdog, &[NotifyState::Watchdog]);
            }
        });
    }

    fn notify(&self, kind: Kind, states: &[NotifyState<'_>]) {
        let Some(shared) = &self.0 else { return };
        let message = states.iter().flat_map(|state| [state.to_string(), "\n".into()]).collect();
        let mut pending = shared.lock();
        pending.add(kind, message);
        pending.send(&shared.socket);
        if !pending.messages.is_empty() && !mem::replace(&mut pending.is_retrying, true) {
            tokio::spawn(Arc::clone(shared).retry());
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries again until nothing is pending.
    async fn retry(self: Arc<Self>) {
        loop {
            sleep(RETRY).await;
            let mut pending = self.lock();
            pending.send(&self.socket);
            if pending.messages.is_empty() {
                pending.is_retrying = false;
                return;
            }
        }
    }
}

impl Pending {
    /// Adds a message. A pending one of its kind is out of date.
    fn add(&mut self, kind: Kind, message: String) {
        self.messages.retain(|(other, _)| *other != kind);
        self.messages.push((kind, message));
    }

    /// Sends what the service manager has room for.
    fn send(&mut self, socket: &OsStr) {
        while let Some((_, message)) = self.messages.first() {
            match send(socket, message) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => failed(&error),
                Ok(()) => {}
            }
            self.messages.remove(0);
        }
    }
}

/// Sends a datagram without waiting for room in the receiver's queue.
fn send(socket: &OsStr, message: &str) -> io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let sender = UnixDatagram::unbound()?;
    sender.set_nonblocking(true)?;
    sender.connect_addr(&address)?;
    sender.send(message.as_bytes()).map(drop)
}

fn failed(error: &io::Error) {
    tracing::warn!(%error, "cannot notify the service manager");
}

/// Takes the file descriptors that systemd passes to this process; none if it passes none. Call it once.
/// <https://www.freedesktop.org/software/systemd/man/latest/sd_listen_fds.html>
pub(crate) fn sockets() -> io::Result<Vec<OwnedFd>> {
    let passed = sd_notify::listen_fds()?;
    // SAFETY: the descriptors are open, which the crate has checked. They are this process's since its
    // start, and nothing else in it knows them.
    Ok(passed.map(|number| unsafe { OwnedFd::from_raw_fd(number) }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pending_messages_are_bounded_and_keep_their_order() {
        let mut pending = Pending::default();
        for round in 0..3 {
            pending.add(Kind::Reloading, format!("reloading {round}"));
            pending.add(Kind::Watchdog, "watchdog".to_owned());
            pending.add(Kind::Ready, format!("ready {round}"));
        }
        pending.add(Kind::Reloading, "reloading 3".to_owned());
        let messages: Vec<_> =
            pending.messages.iter().map(|(_, message)| message.as_str()).collect();
        assert_eq!(messages, ["watchdog", "ready 2", "reloading 3"]);
    }
}
