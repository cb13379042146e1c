//! Forwards what the kernel program logs.

use std::io;

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Log, Metadata, Record as LogRecord};
use sched_exporter_ebpf::HOOK;
use tokio::io::{Interest, unix::AsyncFd};

/// Passes what the kernel program logs on to this process's logger, for as long as the future
/// is polled. To be called inside a tokio runtime, once.
pub(super) fn forward(ebpf: &mut Ebpf) -> io::Result<impl Future<Output = io::Result<()>> + use<>> {
    let logger = EbpfLogger::init_with_logger(ebpf, EbpfLog).map_err(io::Error::other)?;
    // SAFETY: the logger owns its ring buffer's descriptor for as long as it lives, and the
    // `AsyncFd` owns the logger.
    let ready = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
    let mut ready = ready.map_err(io::Error::from)?;
    Ok(async move {
        loop {
            let mut guard = ready.readable_mut().await?;
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    })
}

/// What the kernel program logs, a line each.
struct EbpfLog;

impl Log for EbpfLog {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &LogRecord<'_>) {
        tracing::info!(program = HOOK, "{}", record.args());
    }

    fn flush(&self) {}
}
