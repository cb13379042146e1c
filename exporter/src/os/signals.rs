//! The signals that the daemon handles.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Reload: SIGHUP, and SIGUSR1 as another name for it.
#[derive(Debug)]
pub struct ReloadSignals {
    hangup: Signal,
    user: Signal,
}

/// Shut down: SIGTERM and SIGINT.
#[derive(Debug)]
pub struct ShutdownSignals {
    terminate: Signal,
    interrupt: Signal,
}

/// Installs all handlers. Without a handler each of these signals ends the process, so call it before
/// anything slow, and inside a tokio runtime. Signals received before the first wait are not lost.
pub fn install() -> io::Result<(ReloadSignals, ShutdownSignals)> {
    let reload = reload()?;
    let shutdown = ShutdownSignals {
        terminate: signal(SignalKind::terminate())?,
        interrupt: signal(SignalKind::interrupt())?,
    };
    Ok((reload, shutdown))
}

/// Installs the handlers of reloads. If it is called more than once, each caller sees every signal.
pub fn reload() -> io::Result<ReloadSignals> {
    let hangup = signal(SignalKind::hangup())?;
    Ok(ReloadSignals { hangup, user: signal(SignalKind::user_defined1())? })
}

impl ReloadSignals {
    /// Waits for the next signal and returns its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.hangup.recv() => "SIGHUP",
            _ = self.user.recv() => "SIGUSR1",
        }
    }
}

impl ShutdownSignals {
    /// Waits for the next signal and returns its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
