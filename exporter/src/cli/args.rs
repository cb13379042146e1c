//! The command line, with flags named as in `node_exporter` and Prometheus.

use std::{
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{
    ArgAction, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum,
    builder::{OsStringValueParser, TypedValueParser as _},
    error::{ContextKind, ContextValue, Error, ErrorKind},
};

use crate::{
    cgroup::hierarchy::Hierarchy,
    cli::{check::CheckFormat, version},
    exposition::Format,
    kernel::{layout::DisabledFeatures, pins},
    os::log::{LogFormat, LogLevel},
    web::address::ListenAddress,
};

/// Exact per-CPU scheduler time and run-queue latency of this host, as OpenMetrics.
#[derive(Clone, Debug, Parser)]
#[expect(clippy::struct_excessive_bools, reason = "one per flag")]
#[command(
    name = "sched_exporter",
    version = VERSION,
    long_version = LONG_VERSION,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
pub struct Args {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Configuration file. SIGHUP, SIGUSR1 or a change of the file reloads it.
    #[arg(
        long = "config.file",
        value_name = "PATH",
        default_value = "/etc/sched_exporter/exporter.yaml"
    )]
    pub config_file: PathBuf,

    /// Check the configuration file, print the labels it gives this machine, and exit: 0 if it is
    /// valid, 1 with all its errors if not. Checks the web configuration and its certificates, too.
    #[arg(long = "config.check")]
    pub config_check: bool,

    /// Output format: `table` (the default) or `json` of `--config.check`; `text` (the default), which
    /// is Prometheus text 0.0.4, or `openmetrics` of `--once`.
    #[arg(long = "format", value_name = "FORMAT", value_enum, hide_possible_values = true)]
    pub format: Option<OutputFormat>,

    /// How often to poll the file and the local label sources for changes that raised no event; 0s
    /// disables polling.
    #[arg(
        long = "config.auto-reload-interval",
        value_name = "DURATION",
        default_value = "60s",
        value_parser = humantime::parse_duration
    )]
    pub config_auto_reload_interval: Duration,

    /// Address to listen on: `:PORT`, `HOST:PORT`, `[IPV6]:PORT` or `unix:/PATH`. Repeatable.
    #[arg(long = "web.listen-address", value_name = "ADDRESS", default_value = LISTEN_ADDRESS)]
    pub web_listen_address: Vec<ListenAddress>,

    /// Listen on the sockets that systemd passes, instead of binding addresses.
    #[arg(long = "web.systemd-socket", conflicts_with = "web_listen_address")]
    pub web_systemd_socket: bool,

    /// Web configuration file, in the format of Prometheus's exporters: TLS, certificates of clients, users with
    /// passwords, a rate limit. A change of the file or of a certificate applies at once. Without it, anyone
    /// can scrape.
    #[arg(
        long = "web.config.file",
        value_name = "PATH",
        default_value = "",
        hide_default_value = true,
        value_parser = OsStringValueParser::new().map(PathBuf::from)
    )]
    pub web_config_file: PathBuf,

    /// Path that serves the metrics.
    #[arg(
        long = "web.telemetry-path",
        value_name = "PATH",
        default_value = "/metrics",
        value_parser = telemetry_path
    )]
    pub web_telemetry_path: String,

    /// Enable reloads by POST or PUT to /-/reload.
    #[arg(long = "web.enable-lifecycle")]
    pub web_enable_lifecycle: bool,

    /// Maximum number of concurrent scrapes; further ones get 503. 0 disables the limit.
    #[arg(long = "web.max-requests", value_name = "N", default_value_t = 40)]
    pub web_max_requests: u16,

    /// Maximum number of concurrent connections; at the limit, a new one displaces the one that has been
    /// idle longest.
    #[arg(
        long = "web.max-connections",
        value_name = "N",
        default_value = "512",
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    pub web_max_connections: u16,

    /// Add `_created` samples to OpenMetrics; Prometheus stores each as a separate series.
    #[arg(long = "web.created-samples")]
    pub web_created_samples: bool,

    /// Do not count context switches.
    #[arg(long = "no-collector.context-switches", action = ArgAction::SetTrue)]
    pub no_context_switches: bool,

    /// Do not measure run-queue latency.
    #[arg(long = "no-collector.runqueue-latency", action = ArgAction::SetTrue)]
    pub no_runqueue_latency: bool,

    /// Do not account for cgroups.
    #[arg(long = "no-collector.cgroups", action = ArgAction::SetTrue)]
    pub no_cgroups: bool,

    /// Hierarchy of cgroups to account for. `auto` is v2 if it is mounted, and otherwise v1 with the
    /// controller `cpu`.
    #[arg(
        long = "cgroup.hierarchy",
        value_name = "VERSION",
        value_enum,
        default_value_t = CgroupHierarchy::Auto
    )]
    pub cgroup_hierarchy: CgroupHierarchy,

    /// Maximum kernel memory for cgroups, such as 16MiB or 64MB. It limits how many are accounted for at the
    /// same time, to at most 4,093.
    #[arg(
        long = "ebpf.cgroup-memory",
        value_name = "SIZE",
        default_value = "16MiB",
        value_parser = size
    )]
    pub ebpf_cgroup_memory: u64,

    /// Directory on a BPF filesystem, such as `/sys/fs/bpf/sched_exporter`, in which the kernel program and its
    /// counts outlive the exporter: the next start continues them. Until `sched_exporter unpin`, the program runs
    /// at each context switch, even while no exporter does. Empty: nothing outlives it.
    #[arg(
        long = "ebpf.pin-path",
        value_name = "PATH",
        default_value = "",
        hide_default_value = true,
        value_parser = OsStringValueParser::new().map(PathBuf::from),
        conflicts_with = "once"
    )]
    pub ebpf_pin_path: PathBuf,

    /// Keep the capabilities that the exporter was started with, and leave off seccomp, Landlock and
    /// all other protections, for debugging.
    #[arg(long = "privileges.keep")]
    pub privileges_keep: bool,

    /// Least severe level to log.
    #[arg(long = "log.level", value_name = "LEVEL", value_enum, default_value_t = LogLevel::Info)]
    pub log_level: LogLevel,

    /// Format of the log, which goes to standard error.
    #[arg(long = "log.format", value_name = "FORMAT", value_enum, default_value_t = LogFormat::Logfmt)]
    pub log_format: LogFormat,

    /// Also log rare events in the BPF program: a CPU starts to be accounted, was offline, or had a
    /// switch that the kernel did not report.
    #[arg(long = "log.ebpf")]
    pub log_ebpf: bool,

    /// Print one exposition to standard output and exit. It leaves out the metrics of the process.
    #[arg(long)]
    pub once: bool,

    /// With `--version`, also print which protections the exporter has on this machine once it serves.
    #[arg(long)]
    pub verbose: bool,
}

/// A value of `--format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// The report of `--config.check`, for people.
    Table,
    /// The report of `--config.check`, for programs.
    Json,
    /// The exposition of `--once`, in Prometheus text 0.0.4.
    Text,
    /// The exposition of `--once`, in OpenMetrics 1.0.
    #[value(name = "openmetrics")]
    OpenMetrics,
}

/// What to do instead of serving.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Check whether the exporter running on this machine is healthy; exit 0 if it is, 1 if not.
    Healthcheck {
        /// Address the exporter was told to listen on.
        #[arg(long = "web.listen-address", value_name = "ADDRESS", default_value = LISTEN_ADDRESS)]
        web_listen_address: ListenAddress,

        /// Web configuration file of that exporter. With TLS, no certificate is verified, and where the
        /// exporter asks for one, its asking is a sign of health.
        #[arg(
            long = "web.config.file",
            value_name = "PATH",
            default_value = "",
            hide_default_value = true,
            value_parser = OsStringValueParser::new().map(PathBuf::from)
        )]
        web_config_file: PathBuf,
    },
    /// Remove what an exporter with --ebpf.pin-path has left in the kernel, and end its accounting. Fails if one
    /// is running.
    Unpin {
        /// Directory that the exporter was told to use.
        #[arg(long = "ebpf.pin-path", value_name = "PATH", default_value = pins::DEFAULT_PATH)]
        ebpf_pin_path: PathBuf,
    },
}

const LISTEN_ADDRESS: &str = ":10435";
const VERSION: &str = env!("CARGO_PKG_VERSION");
pub(super) const LONG_VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (revision: ",
    env!("REVISION"),
    ")\n  target: ",
    env!("TARGET")
);

/// The mode that the command line selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode<'a> {
    /// Serve metrics until a signal ends the process.
    Serve,
    /// Print the labels that the configuration gives this machine.
    Check(CheckFormat),
    /// Print one exposition.
    Once(Format),
    /// Check the health of the exporter that listens on this address, and has this web configuration, if any.
    Healthcheck(&'a ListenAddress, Option<&'a Path>),
    /// Remove the pins in this directory.
    Unpin(&'a Path),
}

/// Flags of comparable exporters, by their beginning, and what to do instead.
const FLAGS_OF_OTHERS: [(&str, &str); 5] = [
    (
        "--web.disable-exporter-metrics",
        "to drop the exporter's own metrics, use metric_relabel_configs in Prometheus",
    ),
    ("--collector.", COLLECTORS),
    ("--no-collector.", COLLECTORS),
    ("--path.", "no path is needed: /proc and /sys of any container show the CPUs of the host"),
    ("--web.external-url", "to change the path of the metrics, use --web.telemetry-path"),
];

const COLLECTORS: &str = "every measurement is on; \
                          --no-collector.context-switches, --no-collector.runqueue-latency and \
                          --no-collector.cgroups turn one off";

/// Adds advice to the error about a flag of another exporter, in place of a flag that looks alike.
fn advise(mut error: Error) -> Error {
    if error.kind() == ErrorKind::UnknownArgument
        && let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg)
        && let Some((_, advice)) = FLAGS_OF_OTHERS.iter().find(|(other, _)| flag.starts_with(other))
    {
        error.remove(ContextKind::SuggestedArg);
        error.remove(ContextKind::Usage);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![(*advice).into()]));
    }
    error
}

impl Args {
    /// Parses the command line of this process. The error may also be the answer to `--help` or
    /// `--version`.
    pub fn of_process() -> Result<Self, Error> {
        let mut command = Self::command();
        if env::args_os().any(|argument| argument == "--verbose") {
            command = command.long_version(version::verbose().leak() as &str);
        }
        let mut matches = command.try_get_matches().map_err(advise)?;
        let args = Self::from_arg_matches_mut(&mut matches)?;
        args.mode()?;
        Ok(args)
    }

    /// The selected mode. `--config.check` takes precedence over `--once`. Fails if the mode does not
    /// have the selected format.
    pub fn mode(&self) -> Result<Mode<'_>, Error> {
        match &self.command {
            Some(Command::Healthcheck { web_listen_address, web_config_file }) => {
                return Ok(Mode::Healthcheck(web_listen_address, given(web_config_file)));
            }
            Some(Command::Unpin { ebpf_pin_path }) => return Ok(Mode::Unpin(ebpf_pin_path)),
            None => {}
        }
        if self.verbose {
            return Err(conflict("`--verbose` does not apply: add --version"));
        }
        let reason = if self.config_check {
            match self.format {
                None | Some(OutputFormat::Table) => return Ok(Mode::Check(CheckFormat::Table)),
                Some(OutputFormat::Json) => return Ok(Mode::Check(CheckFormat::Json)),
                Some(_) => "--config.check prints `table` or `json`",
            }
        } else if self.once {
            match self.format {
                None | Some(OutputFormat::Text) => return Ok(Mode::Once(Format::Text)),
                Some(OutputFormat::OpenMetrics) => return Ok(Mode::Once(Format::OpenMetrics)),
                Some(_) => "--once prints `text` or `openmetrics`",
            }
        } else if self.format.is_none() {
            return Ok(Mode::Serve);
        } else {
            "add --config.check or --once; a server follows the `Accept` header of each request"
        };
        let given = self.format.and_then(|format| format.to_possible_value());
        let given = given.as_ref().map_or_else(String::new, |value| value.get_name().to_owned());
        Err(conflict(&format!("`--format={given}` does not apply: {reason}")))
    }

    /// The web configuration file, if there is one.
    pub fn web_config_file(&self) -> Option<&Path> {
        given(&self.web_config_file)
    }

    /// Where to pin the kernel program; `None` if it ends with the exporter.
    pub fn pin_path(&self) -> Option<&Path> {
        given(&self.ebpf_pin_path)
    }

    /// The optional measurements that the flags disable.
    pub const fn disabled_features(&self) -> DisabledFeatures {
        DisabledFeatures {
            context_switches: self.no_context_switches,
            runqueue_latency: self.no_runqueue_latency,
            cgroups: self.no_cgroups,
        }
    }
}

fn conflict(message: &str) -> Error {
    let error = Error::raw(ErrorKind::ArgumentConflict, format!("{message}\n"));
    error.with_cmd(&Args::command())
}

/// Which hierarchy of cgroups to account for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CgroupHierarchy {
    /// The one that this host uses.
    Auto,
    /// Version 1.
    V1,
    /// Version 2.
    V2,
}

impl CgroupHierarchy {
    /// The hierarchy, unless it depends on the host.
    pub const fn requested(self) -> Option<Hierarchy> {
        match self {
            Self::Auto => None,
            Self::V1 => Some(Hierarchy::Legacy),
            Self::V2 => Some(Hierarchy::Unified),
        }
    }
}

/// A path, unless it is empty.
fn given(path: &Path) -> Option<&Path> {
    (!path.as_os_str().is_empty()).then_some(path)
}

/// Parses a number of bytes with an optional unit: decimal `kB`, `MB` and `GB`, or binary `KiB`, `MiB` and
/// `GiB`.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "" | "B" => 1,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err("units are kB, MB, GB, KiB, MiB and GiB".to_owned()),
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    bytes.ok_or_else(|| "a size is a whole number with a unit, such as 16MiB".to_owned())
}

/// Accepts a path that needs no escaping in a URL or in HTML.
fn telemetry_path(path: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-._~".contains(c);
    if !path.starts_with('/') || !path.chars().all(plain) {
        return Err("a path starts with / and contains only letters, digits and /-._~".to_owned());
    }
    if path.starts_with("/-/") {
        return Err("paths below /-/ are reserved".to_owned());
    }
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::selection::COLLECTORS;

    #[test]
    fn flags_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn mode_follows_the_flags() {
        let check = |args: &[&str], expected: Mode<'_>| {
            let args = Args::try_parse_from([&["sched_exporter"], args].concat()).unwrap();
            assert_eq!(args.mode().unwrap(), expected);
        };
        check(&[], Mode::Serve);
        check(&["--once"], Mode::Once(Format::Text));
        check(&["--once", "--format=text"], Mode::Once(Format::Text));
        check(&["--once", "--format=openmetrics"], Mode::Once(Format::OpenMetrics));
        check(&["--config.check"], Mode::Check(CheckFormat::Table));
        check(&["--config.check", "--format=table"], Mode::Check(CheckFormat::Table));
        check(&["--config.check", "--format=json"], Mode::Check(CheckFormat::Json));
        check(&["--once", "--config.check"], Mode::Check(CheckFormat::Table));
        let address = ":1".parse().unwrap();
        let healthcheck = ["healthcheck", "--web.listen-address=:1"];
        check(&healthcheck, Mode::Healthcheck(&address, None));
        check(
            &[&healthcheck[..], &["--web.config.file=/etc/web.yml"]].concat(),
            Mode::Healthcheck(&address, Some(Path::new("/etc/web.yml"))),
        );
        check(
            &[&healthcheck[..], &["--web.config.file="]].concat(),
            Mode::Healthcheck(&address, None),
        );
        check(&["unpin"], Mode::Unpin(Path::new("/sys/fs/bpf/sched_exporter")));
        check(&["unpin", "--ebpf.pin-path=/run/bpf/a"], Mode::Unpin(Path::new("/run/bpf/a")));
    }

    #[test]
    fn pins_are_optional_and_only_for_servers() {
        let parse = |args: &[&str]| Args::try_parse_from([&["sched_exporter"], args].concat());
        assert_eq!(parse(&[]).unwrap().pin_path(), None);
        assert_eq!(parse(&["--ebpf.pin-path="]).unwrap().pin_path(), None);
        let pinned = parse(&["--ebpf.pin-path=/sys/fs/bpf/a"]).unwrap();
        assert_eq!(pinned.pin_path(), Some(Path::new("/sys/fs/bpf/a")));
        let both = parse(&["--ebpf.pin-path=/sys/fs/bpf/a", "--once"]).unwrap_err();
        assert!(both.to_string().contains("cannot be used with"), "{both}");
    }

    #[test]
    fn rejects_flags_that_the_mode_does_not_have() {
        for (args, expected) in [
            (&["--config.check", "--format=text"][..], "--config.check prints `table` or `json`"),
            (&["--config.check", "--format=openmetrics"], "`--format=openmetrics` does not apply"),
            (&["--once", "--format=json"], "--once prints `text` or `openmetrics`"),
            (&["--once", "--format=table"], "`--format=table` does not apply"),
            (&["--format=text"], "add --config.check or --once"),
            (&["--verbose"], "`--verbose` does not apply: add --version"),
        ] {
            let args = Args::try_parse_from([&["sched_exporter"], args].concat()).unwrap();
            let error = args.mode().unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(expected), "{error}");
        }
        let error = Args::try_parse_from(["sched_exporter", "--once", "--format=xml"]).unwrap_err();
        assert!(error.to_string().contains("table, json, text, openmetrics"), "{error}");
    }

    #[test]
    fn scrapes_can_ask_for_each_collector_that_a_flag_turns_off() {
        let command = Args::command();
        let flags = command.get_arguments().filter_map(|argument| {
            argument.get_long()?.strip_prefix("no-collector.").map(str::to_owned)
        });
        let flags: Vec<_> = ["cpu".to_owned()].into_iter().chain(flags).collect();
        assert_eq!(flags, COLLECTORS);
    }

    #[test]
    fn sizes_have_decimal_or_binary_units() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("7B", 7),
            ("2kB", 2000),
            ("2KiB", 2048),
            ("3MB", 3_000_000),
            ("16MiB", 16 << 20),
            ("1GB", 1_000_000_000),
            ("1GiB", 1 << 30),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "MiB", "1.5MiB", "-1", "16mib", "16 MiB", "18446744073709551615kB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rejects_out_of_range_limits() {
        let parsed = |flag: &str| Args::try_parse_from(["sched_exporter", flag]);
        assert_eq!(parsed("--web.max-requests=0").unwrap().web_max_requests, 0);
        for flag in ["--web.max-requests=4611686018427387904", "--web.max-connections=0"] {
            assert!(parsed(flag).is_err(), "{flag}");
        }
    }

    #[test]
    fn flags_of_other_exporters_are_answered_with_advice() {
        for (flag, advice) in [
            ("--collector.cpu", "every measurement is on"),
            ("--no-collector.arp", "every measurement is on"),
            ("--path.procfs=/host/proc", "no path is needed"),
            ("--web.disable-exporter-metrics", "metric_relabel_configs"),
            ("--web.external-url=/a", "--web.telemetry-path"),
        ] {
            let parsed = Args::try_parse_from(["sched_exporter", flag]);
            let text = advise(parsed.unwrap_err()).to_string();
            assert!(text.contains("unexpected argument '") && text.contains("tip: "), "{text}");
            assert!(text.contains(advice) && !text.contains("similar argument"), "{text}");
            assert!(!text.contains("--config.file <PATH>"), "{text}");
        }
        let parsed = Args::try_parse_from(["sched_exporter", "--web.listen-adress=:1"]);
        let text = advise(parsed.unwrap_err()).to_string();
        assert!(text.contains("similar argument exists: '--web.listen-address'"), "{text}");
    }

    #[test]
    fn sockets_come_from_systemd_or_from_addresses() {
        let parse = |args: &[&str]| Args::try_parse_from([&["sched_exporter"], args].concat());
        assert!(parse(&["--web.systemd-socket"]).unwrap().web_systemd_socket);
        let both = parse(&["--web.systemd-socket", "--web.listen-address=:1"]).unwrap_err();
        assert!(both.to_string().contains("cannot be used with"), "{both}");
    }

    #[test]
    fn rejects_telemetry_paths_that_are_reserved_or_need_escaping() {
        assert!(telemetry_path("/metrics").is_ok());
        assert!(telemetry_path("/").is_ok());
        for bad in ["metrics", "", "/a b", "/<script>", "/-/ready"] {
            assert!(telemetry_path(bad).is_err(), "{bad}");
        }
    }
}
