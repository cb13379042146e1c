//! Prints the manual page, `sched_exporter(8)`, for `cargo xtask dist`.

use std::io::{Write as _, stdout};

use clap::CommandFactory as _;
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};
use sched_exporter::cli::args::Args;

/// Sections besides those that clap generates: the title, and each term with its meaning.
const SECTIONS: [(&str, &[(&str, &str)]); 4] = [
    (
        "SIGNALS",
        &[
            ("SIGHUP, SIGUSR1", "Reload the configuration. An invalid file changes nothing."),
            ("SIGTERM, SIGINT", "Finish the responses in progress, then exit with 0."),
        ],
    ),
    (
        "FILES",
        &[
            ("/etc/sched_exporter/exporter.yaml", "The configuration."),
            (
                "/usr/share/doc/sched-exporter/examples/exporter.yaml",
                "A configuration that describes every key.",
            ),
            ("/etc/default/sched_exporter", "ARGS, the flags of the systemd unit."),
            (
                "/sys/kernel/btf/vmlinux",
                "The kernel's type information, from which the exporter takes offsets.",
            ),
        ],
    ),
    (
        "ENVIRONMENT",
        &[
            (
                "NOTIFY_SOCKET, WATCHDOG_USEC",
                "Set by systemd: the socket for notifications of start, \
              reloads and stop, and the interval of the watchdog.",
            ),
            (
                "NODE_NAME, POD_INFO_DIR",
                "Kubernetes: the node, and the directory of the downward \
              API's labels and annotations, for templates that name them.",
            ),
        ],
    ),
    (
        "EXIT STATUS",
        &[
            ("0", "A signal stopped the exporter, or the requested command succeeded."),
            ("1", "The exporter could not start, or a check failed; standard error says why."),
            ("2", "The command line is invalid."),
        ],
    ),
];

fn main() -> std::io::Result<()> {
    let man = Man::new(Args::command()).section("8").date("").manual("System Administration");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_options_section(&mut page)?;
    let mut roff = Roff::new();
    roff.control("SH", ["COMMANDS"]);
    for command in Args::command().get_subcommands() {
        roff.control("TP", []);
        roff.text([bold(command.get_name())]);
        roff.text([roman(command.get_about().map(ToString::to_string).unwrap_or_default())]);
        for argument in command.get_arguments() {
            let Some(flag) = argument.get_long() else { continue };
            roff.control("TP", []);
            roff.text([bold(format!("{} --{flag}", command.get_name()))]);
            roff.text([roman(argument.get_help().map(ToString::to_string).unwrap_or_default())]);
        }
    }
    for (title, terms) in SECTIONS {
        roff.control("SH", [title]);
        for (term, meaning) in terms {
            roff.control("TP", []);
            roff.text([bold(*term)]);
            roff.text([roman(*meaning)]);
        }
    }
    roff.to_writer(&mut page)?;
    stdout().write_all(&page)
}
