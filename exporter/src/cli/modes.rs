//! The modes that read the configuration, step by step. The order of the steps matters.

use std::{env, fs, io::Write as _, sync::Arc};

use anyhow::Context as _;
use sched_exporter_ebpf::HOOK;

use super::{args::Args, check};
use crate::{
    config::{self, Config, ConfigFile},
    exposition::Format,
    kernel::{
        btf::Btf,
        capabilities,
        layout::Layout,
        preflight::{BTF_PATH, Facts},
        program_log::LOG_TARGET,
        scheduler::{LoadError, Scheduler},
    },
    metrics::{scrape::Exporter, telemetry::Telemetry},
    os::{
        log::{self, LogCounts, LogWriter},
        signals,
        systemd::Notifier,
    },
    reload::{self, Reloader},
    sources::SourceOrigins,
    web::{Server, address},
};

/// Serves until a signal ends the process.
pub async fn serve(args: &Args, log: &LogWriter) -> anyhow::Result<()> {
    // First, since a signal without a handler ends the process.
    let (reload_signals, shutdown_signals) =
        signals::install().context("cannot install signal handlers")?;
    let setup = Setup::new(args, log)?;
    let status = reload::serving(setup.file.path());
    let listeners = address::bind(&args.web_listen_address)?;
    let Running { scheduler, reloader, exporter, telemetry } = setup.start_accounting(args, log)?;
    for listener in &listeners {
        tracing::info!(address = %listener.local_addr()?, path = args.web_telemetry_path, "listening");
    }
    let notifier = Notifier::from_env();
    let server = Server {
        exporter,
        telemetry,
        reload: reloader.start(
            reload_signals,
            args.config_auto_reload_interval,
            scheduler,
            notifier.clone(),
        ),
        telemetry_path: args.web_telemetry_path.clone(),
        lifecycle: args.web_enable_lifecycle,
        max_requests: args.web_max_requests.into(),
        max_connections: args.web_max_connections.into(),
    };
    notifier.ready(&status);
    notifier.feed_watchdog();
    let shutdown = async {
        let signal = shutdown_signals.first().await;
        notifier.stopping();
        tracing::info!(signal, "shutting down");
    };
    server.run(listeners, shutdown).await;
    Ok(())
}

/// Prints one exposition. Signals keep their default behavior.
pub async fn once(args: &Args, log: &LogWriter) -> anyhow::Result<()> {
    let setup = Setup::new(args, log)?;
    let Running { mut reloader, exporter, .. } = setup.start_accounting(args, log)?;
    reloader.wait_for_sources().await?;
    print(&exporter.scrape(Format::OpenMetrics)?)
}

/// Prints the labels that the configuration gives this machine. Signals keep their default behavior.
pub async fn check(args: &Args, log: &LogWriter) -> anyhow::Result<()> {
    let setup = Setup::new(args, log)?;
    start(log)?;
    let mut reloader = setup.reloader()?;
    reloader.wait_for_sources().await?;
    print(&check::report(&args.config_file, reloader.inputs(), args.format))
}

/// The state that every mode starts from, before any thread is started.
struct Setup {
    log_counts: LogCounts,
    telemetry: Telemetry,
    file: ConfigFile,
    config: Config,
}

/// Accounting, ready to be scraped.
struct Running {
    scheduler: Arc<Scheduler>,
    reloader: Reloader,
    exporter: Exporter,
    telemetry: Telemetry,
}

impl Setup {
    fn new(args: &Args, log: &LogWriter) -> anyhow::Result<Self> {
        let log_counts = log::init(args.log_level, args.log_format, log, LOG_TARGET)
            .context("cannot start the log")?;
        let telemetry = Telemetry::new()?;
        let file = config::read(&args.config_file)?;
        let config = file.parse()?;
        Ok(Self { log_counts, telemetry, file, config })
    }

    /// Attaches the kernel program, drops privileges, and builds the first generation.
    fn start_accounting(self, args: &Args, log: &LogWriter) -> anyhow::Result<Running> {
        // Start no thread before privileges are dropped: capabilities are per thread.
        let scheduler = Arc::new(attach(args, &self.telemetry)?);
        start(log)?;
        scheduler.seed()?;
        reload::warnings(self.file.path(), &self.config);
        let telemetry = self.telemetry.clone();
        let log_counts = self.log_counts.clone();
        let reloader = self.reloader()?;
        let exporter = Exporter::new(
            Arc::clone(&scheduler),
            reloader.current(),
            telemetry.clone(),
            log_counts,
            args.web_created_samples,
        );
        Ok(Running { scheduler, reloader, exporter, telemetry })
    }

    /// Builds the first generation. This may start threads that read files.
    fn reloader(self) -> Result<Reloader, reload::LoadError> {
        let origins = SourceOrigins::new(env::vars_os());
        Reloader::new(&self.file, self.config, origins, self.telemetry)
    }
}

/// Starts writing the log. Until then, its lines wait.
fn start(log: &LogWriter) -> anyhow::Result<()> {
    log.start().context("cannot start the thread that writes the log")
}

/// Attaches the kernel program, or explains what this host lacks; then drops privileges.
fn attach(args: &Args, telemetry: &Telemetry) -> anyhow::Result<Scheduler> {
    let layout = || -> anyhow::Result<Layout> {
        let bytes = fs::read(BTF_PATH).with_context(|| format!("cannot read `{BTF_PATH}`"))?;
        Ok(Layout::from_btf(&Btf::parse(&bytes)?, args.disabled_features())?)
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
    if let Some(log) = scheduler.take_log() {
        tokio::spawn(log.forward().context("cannot read the BPF program's log")?);
    }
    if !args.privileges_keep
        && let Some(capability) = capabilities::drop(|| scheduler.snapshot().map(drop))?
    {
        tracing::warn!(
            %capability,
            "capability kept: before Linux 5.19, reading a BPF map may need it"
        );
    }
    telemetry.capabilities(capabilities::kept()?);
    Ok(scheduler)
}

/// Writes to standard output. A closed pipe is an error like any other.
fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")
}
