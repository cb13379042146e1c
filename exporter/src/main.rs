//! The daemon: flags, log, configuration, kernel program, labels, server, in this order.

use std::{env, fs, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use clap::Parser as _;
use sched_exporter::{
    cli::{
        args::{Args, Command},
        check,
        healthcheck::healthcheck,
    },
    config,
    exposition::Format,
    kernel::{
        btf::Btf,
        capabilities as privileges,
        layout::Layout,
        preflight::{BTF_PATH, Facts},
        scheduler::{LoadError, Scheduler},
    },
    metrics::{scrape::Exporter, telemetry::Telemetry},
    os::{log, nss as names, signals, systemd},
    reload::{self, Reloader},
    sources::SourceOrigins,
    web::{Server, address},
};
use sched_exporter_ebpf::HOOK;
use tokio::runtime::Builder;

fn main() -> ExitCode {
    names::use_built_in_resolvers();
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        #[expect(clippy::print_stderr, reason = "the last word goes to whoever started us")]
        Err(error) => {
            eprintln!("sched_exporter: {}", log::chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build().context("starting tokio")?;
    let ended = runtime.block_on(serve(args));
    // A thread that reads a file of a filesystem that hangs is not waited for.
    runtime.shutdown_background();
    ended
}

async fn serve(args: &Args) -> anyhow::Result<()> {
    if let Some(Command::Healthcheck { web_listen_address }) = &args.command {
        return Ok(healthcheck(web_listen_address).await?);
    }
    // Who only looks is ended by a signal as any other process is.
    let stays = !args.config_check && !args.once;
    let signals = stays.then(signals::install).transpose().context("installing signals")?;
    let log_counts = log::init(args.log_level, args.log_format).context("starting the log")?;
    let telemetry = Telemetry::new()?;
    let source = config::read(&args.config_file)?;
    let config = source.parse()?;
    let endpoints = SourceOrigins::new(env::vars_os());
    let reloader = || Reloader::new(&source, config, endpoints, telemetry.clone());
    if args.config_check {
        let mut reloader = reloader()?;
        reloader.wait_for_sources().await?;
        return print(&check::report(&args.config_file, reloader.inputs(), args.format));
    }
    let listeners = if args.once { vec![] } else { address::bind(&args.web_listen_address)? };

    // Whatever starts threads comes after this: privileges are a thread's.
    let scheduler = Arc::new(attach(args, &telemetry)?);
    scheduler.seed()?;
    let mut reloader = reloader()?;
    let (kept, live, created) =
        (Arc::clone(&scheduler), reloader.current(), args.web_created_samples);
    let exporter = Exporter::new(kept, live, telemetry.clone(), log_counts, created);
    let Some((reload_signals, shutdown_signals)) = signals else {
        reloader.wait_for_sources().await?;
        return print(&exporter.scrape(Format::OpenMetrics)?);
    };
    for listener in &listeners {
        tracing::info!(address = %listener.local_addr()?, path = args.web_telemetry_path, "listening");
    }
    let server = Server {
        exporter,
        telemetry,
        reload: reloader.start(reload_signals, args.config_auto_reload_interval, scheduler),
        telemetry_path: args.web_telemetry_path.clone(),
        lifecycle: args.web_enable_lifecycle,
        max_requests: args.web_max_requests.into(),
        max_connections: args.web_max_connections.into(),
    };
    systemd::ready(&reload::serving(source.path()));
    systemd::feed_watchdog();
    let shutdown = async {
        let signal = shutdown_signals.first().await;
        systemd::stopping();
        tracing::info!(signal, "shutting down");
    };
    server.run(listeners, shutdown).await;
    Ok(())
}

/// Attaches the kernel program as this kernel allows, or says what is missing here; then gives up
/// the privileges for it.
fn attach(args: &Args, telemetry: &Telemetry) -> anyhow::Result<Scheduler> {
    let layout = || -> anyhow::Result<Layout> {
        let bytes = fs::read(BTF_PATH).with_context(|| format!("reading `{BTF_PATH}`"))?;
        Ok(Layout::from_btf(&Btf::parse(&bytes)?, args.unwanted())?)
    };
    let scheduler = layout().and_then(|layout| Ok(Scheduler::attach(layout, args.log_ebpf)?));
    let mut scheduler = scheduler.map_err(|error| {
        let permission = error.downcast_ref().is_some_and(LoadError::is_permission);
        anyhow::anyhow!("{}{}", log::chain(error.as_ref()), Facts::gather().advice(permission))
    })?;
    for feature in scheduler.features() {
        if let Some(reason) = &feature.off {
            tracing::warn!(feature = feature.name, reason, "feature is off");
        }
    }
    tracing::info!(hook = HOOK, "attached");
    if args.log_ebpf {
        tokio::spawn(scheduler.forward_log().context("opening the BPF program's log")?);
    }
    if !args.privileges_keep
        && let Some(capability) = privileges::drop(|| scheduler.snapshot().map(drop))?
    {
        tracing::warn!(%capability, "kept: before Linux 5.19, reading a BPF map can take it");
    }
    telemetry.capabilities(privileges::kept()?);
    Ok(scheduler)
}

/// Writes to standard output; a closed pipe is an error like any other.
fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    std::io::stdout().write_all(text.as_bytes()).context("writing to standard output")
}
