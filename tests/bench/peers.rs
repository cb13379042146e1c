//! Other tools that observe the scheduler, measured in the same rounds as the exporter if they are
//! installed. Installs nothing.

use std::{
    fmt::{self, Display},
    process::{Command, Stdio},
};

use anyhow::Result;
use serde_json::{Value, json};

use crate::{daemon::Daemon, programs::Program};

/// A tool to look for.
struct Candidate {
    /// Its name on the page.
    name: &'static str,
    kind: Kind,
    /// Names of its executable, which depend on the distribution.
    commands: &'static [&'static str],
    /// Command that prints its version.
    version: &'static str,
    /// Ways to run it, each with its name on the page. Each is a peer.
    runs: &'static [(&'static str, &'static [&'static str])],
}

/// How a peer works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Attaches BPF programs to scheduler hooks.
    Tool,
    /// Serves scrapes, and attaches nothing.
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

/// An installed tool that runs.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Its name on the page.
    pub(crate) name: &'static str,
    kind: Kind,
    command: &'static str,
    args: &'static [&'static str],
}

impl Peer {
    /// Its command line, with output discarded.
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
    /// Finds the installed tools, and starts each once.
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

    /// The peers that attach programs.
    pub(crate) fn tools(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().filter(|peer| peer.kind == Kind::Tool)
    }

    /// The peers that are scraped.
    pub(crate) fn exporters(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().filter(|peer| peer.kind == Kind::Exporter)
    }

    /// All candidates as a JSON array.
    pub(crate) fn json(&self) -> Value {
        let looked_for = self.looked_for.iter().map(|(name, version)| match version {
            Ok(version) => json!({ "name": name, "version": version }),
            Err(why) => json!({ "name": name, "not_measured": why }),
        });
        looked_for.collect()
    }
}

impl Display for Peers {
    /// One line of Markdown for each candidate.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.looked_for.iter().try_for_each(|(name, version)| match version {
            Ok(version) => writeln!(f, "* {name}, version {version}"),
            Err(why) => writeln!(f, "* {name}: {why}"),
        })
    }
}

impl Candidate {
    /// Ways to run it, each tried once, and its version; `None` if it is not installed.
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

/// The first number in the version printed by a command; `None` if it can't be run.
fn version(command: &str, argument: &str) -> Option<String> {
    let output = Command::new(command).arg(argument).stdin(Stdio::null()).output().ok()?;
    let said = String::from_utf8([output.stdout, output.stderr].concat()).ok()?;
    let number =
        said.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    Some(number?.to_owned())
}
