//! The modes that read the configuration, step by step. The order of the steps matters.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use tokio::runtime::Handle;

use super::{
    args::Args,
    cgroups::Cgroups,
    check::{self, CheckFormat},
    start::{self, Attached, CANNOT_CONTINUE, Setup},
};
use crate::{
    access::{self, Follower, Gate},
    exposition::Format,
    kernel::{pins, program_log::LOG_TARGET, scheduler::Scheduler},
    metrics::{scrape::Exporter, selection::Selection, telemetry::Telemetry},
    os::{
        log::{self, LogCounts, LogWriter},
        signals,
        systemd::Notifier,
        text,
    },
    reload::{self, Reloader},
    web::{
        Server,
        listener::{self, Listener},
    },
};

/// Serves until a signal ends the process.
pub async fn serve(args: &Args, log: &LogWriter) -> anyhow::Result<()> {
    // First, since a signal without a handler ends the process, or is ignored if this is a container's first.
    let (reload_signals, mut shutdown_signals) =
        signals::install().context("cannot install signal handlers")?;
    let web_reload_signals = signals::reload().context("cannot install signal handlers")?;
    let log_counts = init_log(args, log)?;
    let notifier = Notifier::from_env();
    let stopping = |signal| {
        notifier.stopping();
        tracing::info!(signal, "shutting down");
    };
    let runtime = Handle::current();
    let started = start::on_thread(args, move |args, step| {
        let setup = Setup::for_reloads(args, step)?;
        step.doing("binding the addresses to listen on");
        let listeners = {
            let _runtime = runtime.enter();
            if args.web_systemd_socket {
                listener::passed()?
            } else {
                listener::bind(&args.web_listen_address)?
            }
        };
        Ok((listeners, start::attach(args, step)?, setup))
    });
    let (listeners, attached, mut setup) = tokio::select! {
        started = started => started?,
        signal = shutdown_signals.next() => {
            stopping(signal);
            return Ok(());
        }
    };
    let status = reload::serving(setup.file.path());
    let loaded = args.web_config_file().zip(setup.access.take());
    let removable: Vec<_> = listeners.iter().filter_map(Listener::directory).collect();
    let Running { scheduler, mut reloader, exporter, telemetry, cgroups } =
        run(args, attached, setup, &removable, log, log_counts)?;
    reloader.continue_last(&scheduler).await.context(CANNOT_CONTINUE)?;
    let tracked = match cgroups {
        Some(cgroups) => Some(cgroups.follow().await?),
        None => None,
    };
    let gate = match loaded {
        Some((path, loaded)) => {
            let follower = Follower::new(path.to_owned(), loaded, telemetry.clone());
            let gate = follower.gate();
            follower.start(args.config_auto_reload_interval, web_reload_signals);
            gate
        }
        None => Arc::new(Gate::default()),
    };
    let tls = gate.current().tls.is_some();
    for listener in &listeners {
        let address = listener.address();
        tracing::info!(address, path = args.web_telemetry_path, tls, "listening");
    }
    let server = Server {
        exporter,
        telemetry,
        gate,
        reload: reloader.start(
            reload_signals,
            args.config_auto_reload_interval,
            scheduler,
            notifier.clone(),
            tracked,
        ),
        telemetry_path: args.web_telemetry_path.clone(),
        lifecycle: args.web_enable_lifecycle,
        max_requests: args.web_max_requests.into(),
        max_connections: args.web_max_connections.into(),
    };
    text::give_up();
    notifier.ready(&status);
    notifier.feed_watchdog();
    let shutdown = async { stopping(shutdown_signals.next().await) };
    server.run(listeners, shutdown).await;
    Ok(())
}

/// Prints one exposition. Signals keep their default behavior.
pub async fn once(args: &Args, format: Format, log: &LogWriter) -> anyhow::Result<()> {
    let log_counts = init_log(args, log)?;
    let (attached, setup) = start::on_thread(args, |args, step| {
        let setup = Setup::new(args, step)?;
        Ok((start::attach(args, step)?, setup))
    })
    .await?;
    let Running { mut reloader, exporter, cgroups, .. } =
        run(args, attached, setup, &[], log, log_counts)?;
    reloader.wait_for_sources().await?;
    if let Some(mut cgroups) = cgroups {
        cgroups.name_all().await?;
    }
    print(&exporter.scrape(format, &Selection::without_process())?)
}

/// Prints the labels that the configuration gives this machine. Signals keep their default behavior.
pub async fn check(args: &Args, format: CheckFormat, log: &LogWriter) -> anyhow::Result<()> {
    init_log(args, log)?;
    let (setup, cgroups) = start::on_thread(args, |args, step| {
        let setup = Setup::new(args, step)?;
        Ok((setup, start::cgroups(args, step)))
    })
    .await?;
    start_log(log)?;
    if let Some((path, loaded)) = args.web_config_file().zip(setup.access.as_ref()) {
        access::warnings(path, &loaded.warnings);
    }
    let mut reloader = setup.reloader()?;
    reloader.wait_for_sources().await?;
    let config = Arc::clone(&reloader.inputs().config);
    let cgroups = start::ask_for_containers(args, config, cgroups).await?;
    print(&check::report(&args.config_file, reloader.inputs(), cgroups.as_ref(), format))
}

/// Removes what an exporter has pinned.
pub fn unpin(path: &Path) -> anyhow::Result<()> {
    let found = if pins::unpin(path)? { "removed the pins in" } else { "nothing is pinned at" };
    print(&format!("{found} `{}`\n", path.display()))
}

/// Accounting, ready to be scraped.
struct Running {
    scheduler: Arc<Scheduler>,
    reloader: Reloader,
    exporter: Exporter,
    telemetry: Telemetry,
    /// `None` if cgroups are not accounted for.
    cgroups: Option<Cgroups>,
}

/// Drops privileges, except for removing files in `removable`, and builds the first generation.
fn run(
    args: &Args,
    attached: Attached,
    setup: Setup,
    removable: &[PathBuf],
    log: &LogWriter,
    log_counts: LogCounts,
) -> anyhow::Result<Running> {
    let Attached { mut scheduler, cgroups: selection } = attached;
    let telemetry = setup.telemetry.clone();
    // Start no thread before this: capabilities, Landlock and seccomp are per thread.
    start::drop_privileges(args, &scheduler, &telemetry, removable)?;
    start_log(log)?;
    if let Some(log) = scheduler.take_log() {
        tokio::spawn(log.forward().context("cannot read the BPF program's log")?);
    }
    let (events, births) = (scheduler.take_cgroup_events(), scheduler.take_cgroup_births());
    let scheduler = Arc::new(scheduler);
    scheduler.seed()?;
    reload::warnings(setup.file.path(), &setup.config);
    let reloader = setup.reloader()?;
    let cgroups = selection.zip(events).map(|(selection, events)| {
        let (current, origins) = (reloader.current(), start::container_origins());
        Cgroups::new(&scheduler, current, &telemetry, selection, events, births, origins)
    });
    let cgroups = cgroups.transpose()?;
    let exporter = Exporter::new(
        Arc::clone(&scheduler),
        reloader.current(),
        telemetry.clone(),
        log_counts,
        cgroups.as_ref().map(Cgroups::source),
        args.web_created_samples,
    );
    Ok(Running { scheduler, reloader, exporter, telemetry, cgroups })
}

fn init_log(args: &Args, log: &LogWriter) -> anyhow::Result<LogCounts> {
    log::init(args.log_level, args.log_format, log, LOG_TARGET).context("cannot start the log")
}

/// Starts writing the log. Until then, its lines wait.
fn start_log(log: &LogWriter) -> anyhow::Result<()> {
    log.start().context("cannot start the thread that writes the log")
}

/// Writes to standard output. A closed pipe is an error like any other.
fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")
}
