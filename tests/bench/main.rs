//! Measures the cost of the exporter, for `cargo xtask bench`. Each module measures a group of
//! figures.
//!
//! Leaves nothing behind: programs are attached by this process or by children that end with it.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a terminal program: results on standard output, progress on standard error"
)]

use anyhow::Result;
use clap::{Parser, ValueEnum};
use serde_json::json;

mod allocations;
mod body;
mod cgroup_scrapes;
mod cgroups;
mod children;
mod daemon;
mod idle;
mod memory;
mod names;
mod page;
mod peers;
mod programs;
mod reload;
mod render;
mod report;
mod restart;
mod rounds;
mod scrape;
mod switching;
mod web;

use peers::Peers;
use report::Group;
use sched_exporter_tests::{machine::machine, summary};

#[derive(Parser)]
#[expect(clippy::struct_excessive_bools, reason = "one per flag")]
#[command(bin_name = "cargo xtask bench", about = "Measures the cost of the exporter")]
struct Args {
    /// Groups to measure; all by default
    only: Vec<Subject>,
    /// Measure less, for a rough result
    #[arg(long)]
    quick: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Also write docs/performance.md
    #[arg(long, conflicts_with_all = ["only", "quick"])]
    write: bool,
    /// Passed by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// How much to measure.
#[derive(Clone, Copy, Debug)]
enum Effort {
    Full,
    Quick,
}

impl Effort {
    /// Chooses between two amounts.
    fn choose<T>(self, full: T, quick: T) -> T {
        match self {
            Self::Full => full,
            Self::Quick => quick,
        }
    }
}

/// A group of figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Subject {
    Body,
    Pipe,
    Messaging,
    Cgroups,
    Scrape,
    CgroupScrapes,
    Names,
    Web,
    Render,
    Reload,
    Memory,
    Adopt,
    Idle,
}

impl Subject {
    const fn doing(self) -> &'static str {
        match self {
            Self::Body => "measuring the body of the kernel program",
            Self::Pipe => "measuring switches of two tasks",
            Self::Messaging => "measuring switches of many tasks",
            Self::Cgroups => "measuring switches between cgroups",
            Self::Scrape => "measuring scrapes",
            Self::CgroupScrapes => "measuring scrapes of many cgroups",
            Self::Names => "measuring names from a container runtime",
            Self::Web => "measuring TLS and passwords",
            Self::Render => "measuring rendering",
            Self::Reload => "measuring reloads",
            Self::Memory => "measuring start and memory",
            Self::Adopt => "measuring starts that continue counts",
            Self::Idle => "measuring the idle exporter",
        }
    }

    fn measure(self, effort: Effort, peers: &Peers) -> Result<Group> {
        match self {
            Self::Body => body::measure(effort, peers),
            Self::Pipe => switching::measure_pipe(effort, peers),
            Self::Messaging => switching::measure_messaging(effort, peers),
            Self::Cgroups => cgroups::measure(effort, peers),
            Self::Scrape => scrape::measure(effort, peers),
            Self::CgroupScrapes => cgroup_scrapes::measure(effort, peers),
            Self::Names => names::measure(effort),
            Self::Web => web::measure(effort),
            Self::Render => render::measure(effort),
            Self::Reload => reload::measure(effort),
            Self::Memory => memory::measure(effort, peers),
            Self::Adopt => restart::measure(effort),
            Self::Idle => idle::measure(effort),
        }
    }
}

fn main() -> Result<()> {
    let args = Args::parse();
    let effort = if args.quick { Effort::Quick } else { Effort::Full };
    if programs::is_attached_elsewhere()? {
        eprintln!("another exporter is attached: the figures will include its cost");
    }
    eprintln!("looking for peers");
    let peers = Peers::find();
    let machine = machine();
    if !args.json {
        print!("{machine}\n\n{peers}");
    }
    let mut groups = Vec::new();
    for subject in Subject::value_variants() {
        if args.only.is_empty() || args.only.contains(subject) {
            eprintln!("{}", subject.doing());
            let group = subject.measure(effort, &peers)?;
            if !args.json {
                print!("\n{group}");
            }
            groups.push(group);
        }
    }
    if args.json {
        let groups: Vec<_> = groups.iter().map(Group::json).collect();
        println!("{:#}", json!({ "machine": machine, "peers": peers.json(), "groups": groups }));
    }
    if args.write {
        page::write(&peers, &groups)?;
    }
    Ok(())
}
