//! Forwards the log of the kernel program, written with `--log.ebpf`, to this process's log.

use std::io;

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Log, Metadata, Record as LogRecord};
use sched_exporter_ebpf::HOOK;
use tokio::io::{Interest, unix::AsyncFd};

/// The target of the messages.
pub const LOG_TARGET: &str = "bpf";

/// The kernel program's log: a ring buffer. Reading it writes to it, so its descriptor is writable.
pub struct ProgramLog(EbpfLogger<EbpfLog>);

impl ProgramLog {
    /// Takes the ring buffer from the loaded object.
    pub(super) fn open(ebpf: &mut Ebpf) -> io::Result<Self> {
        EbpfLogger::init_with_logger(ebpf, EbpfLog).map(Self).map_err(io::Error::other)
    }

    /// Forwards the messages to this process's log for as long as the returned future is polled. Call it
    /// in a tokio runtime.
    pub fn forward(self) -> io::Result<impl Future<Output = ()>> {
        // SAFETY: the `AsyncFd` owns the logger, which owns its ring buffer's descriptor while it lives.
        let ready = unsafe { AsyncFd::register_with_interest(self.0, Interest::READABLE) };
        let mut ready = ready.map_err(io::Error::from)?;
        Ok(async move {
            loop {
                match ready.readable_mut().await {
                    Ok(mut guard) => {
                        guard.get_inner_mut().flush();
                        guard.clear_ready();
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot read the BPF program's log");
                        return;
                    }
                }
            }
        })
    }
}

/// Logs each message of the kernel program as a line.
struct EbpfLog;

impl Log for EbpfLog {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &LogRecord<'_>) {
        tracing::info!(target: LOG_TARGET, program = HOOK, "{}", record.args());
    }

    fn flush(&self) {}
}
