//! What else tells of a host's scheduler, where it is installed: it is measured beside the exporter,
//! in the same rounds. Nothing is installed.

use std::{
    fmt::{self, Display},
    process::{Command, Stdio},
};

use anyhow::Result;
use serde_json::{Value, json};

use crate::{daemon::Daemon, programs::Program};

/// What is looked for.
struct Candidate {
    /// Its name on the page.
    name: &'static str,
    kind: Kind,
    /// Its executable, which some distributions name otherwise.
    commands: &'static [&'static str],
    /// What is asked for its version.
    version: &'static str,
    /// The ways to run it, each with its name on the page. Each is a peer.
    runs: &'static [(&'static str, &'static [&'static str])],
}

/// What a peer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Attaches BPF programs to scheduler hooks.
    Tool,
    /// Answers scrapes, and attaches nothing.
    Exporter,
}

const CANDIDATES: [Candidate; 3] = [
    Candidate {
        name: "bcc's cpudist",
        kind: Kind::Tool,
        commands: &["cpudist"],
        version: "--version",
        runs: &[("`cpudist`", &[])],
    },
    Candidate {
        name: "bcc's runqlat",
        kind: Kind::Tool,
        commands: &["runqlat"],
        version: "--version",
        runs: &[("`runqlat`", &[])],
    },
    Candidate {
        name: "node_exporter",
        kind: Kind::Exporter,
        commands: &["node_exporter", "prometheus-node-exporter"],
        version: "--version",
        runs: &[
            (
                "`node_exporter`, `cpu` and `stat` alone",
                &["--collector.disable-defaults", "--collector.cpu", "--collector.stat"],
            ),
            ("`node_exporter`, its defaults", &[]),
        ],
    },
];

/// One that is installed and can be run.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Its name on the page.
    pub(crate) name: &'static str,
    kind: Kind,
    command: &'static str,
    args: &'static [&'static str],
}

impl Peer {
    /// Its command line, writing nowhere.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(self.command);
        command.args(self.args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }
}

/// The peers of this machine.
pub(crate) struct Peers {
    peers: Vec<Peer>,
    /// Each candidate's name with its version, or why it is not measured.
    looked_for: Vec<(&'static str, Result<String, &'static str>)>,
}

impl Peers {
    /// Looks for them, and starts each once.
    pub(crate) fn find() -> Self {
        let mut found = Self { peers: Vec::new(), looked_for: Vec::new() };
        for candidate in &CANDIDATES {
            let version = match candidate.find() {
                Ok(Some((peers, version))) => {
                    found.peers.extend(peers);
                    Ok(version)
                }
                Ok(None) => Err("not installed"),
                Err(error) => {
                    eprintln!("{}: {error:#}", candidate.name);
                    Err("installed, but did not start")
                }
            };
            found.looked_for.push((candidate.name, version));
        }
        found
    }

    /// Those that attach programs.
    pub(crate) fn tools(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().filter(|peer| peer.kind == Kind::Tool)
    }

    /// Those that are scraped.
    pub(crate) fn exporters(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().filter(|peer| peer.kind == Kind::Exporter)
    }

    /// What was looked for, as an array.
    pub(crate) fn json(&self) -> Value {
        let looked_for = self.looked_for.iter().map(|(name, version)| match version {
            Ok(version) => json!({ "name": name, "version": version }),
            Err(why) => json!({ "name": name, "not_measured": why }),
        });
        looked_for.collect()
    }
}

impl Display for Peers {
    /// A line of Markdown for each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.looked_for.iter().try_for_each(|(name, version)| match version {
            Ok(version) => writeln!(f, "* {name}, version {version}"),
            Err(why) => writeln!(f, "* {name}: {why}"),
        })
    }
}

impl Candidate {
    /// The ways to run it, each of which was tried, and its version; none where it is not installed.
    fn find(&self) -> Result<Option<(Vec<Peer>, String)>> {
        let version = |command| Some((command, version(command, self.version)?));
        let Some((command, version)) = self.commands.iter().copied().find_map(version) else {
            return Ok(None);
        };
        let mut peers = Vec::new();
        for &(name, args) in self.runs {
            let peer = Peer { name, kind: self.kind, command, args };
            match self.kind {
                Kind::Tool => drop(Program::Peer(&peer).attach()?),
                Kind::Exporter => drop(Daemon::start_peer(&peer)?),
            }
            peers.push(peer);
        }
        Ok(Some((peers, version)))
    }
}

/// The first number of what a command says of its version; none where it can't be run.
fn version(command: &str, argument: &str) -> Option<String> {
    let output = Command::new(command).arg(argument).stdin(Stdio::null()).output().ok()?;
    let said = String::from_utf8([output.stdout, output.stderr].concat()).ok()?;
    let number =
        said.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    Some(number?.to_owned())
}
