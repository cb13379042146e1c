//! Workloads whose CPU time the kernel accounts for by task. Each runs until it is dropped.

use std::{hint, io, net::UdpSocket, os::fd::AsRawFd as _, sync::Arc, thread, time::Duration};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::{
        resource::{UsageWho, getrusage},
        time::TimeValLike as _,
        wait::waitpid,
    },
    time::{ClockId, clock_getres},
    unistd::{ForkResult, Pid, fork},
};
use sched_exporter_tests::{
    kernel::{Schedstat, kthreads},
    trace::Class,
    workload::{Load, monotonic_ns, online, sleep_until, spin_until},
};

use crate::cgroups::CgroupLoad;

/// A workload, named as on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    Bursts,
    Dodge,
    Meet,
    Spinner,
    Sharing,
    Forks,
    Realtime,
    Deadline,
    Kthreads,
    Cgroups,
}

/// Offset from the tick at which bursts begin, and their length, in nanoseconds, for the usual tick
/// of 4 ms; scaled for other ticks.
const DODGE: Phase = Phase { offset: 150_000, burst: 1_600_000 };
const MEET: Phase = Phase { offset: 3_800_000, burst: 400_000 };
const USUAL_TICK_NS: u64 = 4_000_000;

#[derive(Clone, Copy)]
struct Phase {
    offset: u64,
    burst: u64,
}

impl Workload {
    /// Heading in the page.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Bursts => "Bursts below a tick",
            Self::Dodge => "Bursts that dodge the tick",
            Self::Meet => "Bursts that meet the tick",
            Self::Spinner => "One that never sleeps",
            Self::Sharing => "Two that share a CPU",
            Self::Forks => "A storm of short processes",
            Self::Realtime => "A real-time task",
            Self::Deadline => "A deadline task",
            Self::Kthreads => "Kernel threads",
            Self::Cgroups => "Cgroups that share a CPU",
        }
    }

    /// Describes the workload.
    pub(crate) const fn what(self) -> &'static str {
        match self {
            Self::Bursts => {
                "A `SCHED_FIFO` task that works for 0.4 ms and sleeps for 0.6 ms in turn."
            }
            Self::Dodge => {
                "A `SCHED_FIFO` task that works for 1.6 ms, starting 0.15 ms after each tick."
            }
            Self::Meet => {
                "A `SCHED_FIFO` task that works for 0.4 ms, starting 0.2 ms before each tick."
            }
            Self::Spinner => "A `SCHED_NORMAL` task that spins.",
            Self::Sharing => "Two `SCHED_NORMAL` tasks that spin on one CPU.",
            Self::Forks => {
                "A `SCHED_NORMAL` task that forks, waits for the child and forks again; the child \
                 works for 0.2 ms and exits."
            }
            Self::Realtime => {
                "A `SCHED_RR` task that works for 80 ms and sleeps for 20 ms in turn."
            }
            Self::Deadline => {
                "A `SCHED_DEADLINE` task, allowed 10 ms in every 20 ms, that works for 5 ms and \
                 sleeps for 15 ms in turn. The kernel accepts such a task only if it may run on \
                 every CPU, and does not move it while it stays within its budget."
            }
            Self::Kthreads => {
                "A `SCHED_NORMAL` task that replaces the packet filter of a socket 100 times in a \
                 row and sleeps for 2 ms; a kworker of its CPU frees the old filters."
            }
            Self::Cgroups => {
                "Three cgroups with `SCHED_NORMAL` tasks on one CPU: in `frugal`, one that works for \
                 2 ms in every 10 ms; in `greedy`, two that spin; in `limited`, one that spins, with \
                 a quota of 20 ms in every 100 ms."
            }
        }
    }

    /// Explains the differences between its figures.
    pub(crate) const fn why(self) -> &'static str {
        match self {
            Self::Bursts => {
                "The bursts drift past the ticks, so ticks hit about as many as they should. The \
                 task's own clock starts at its wakeup, in the timer interrupt; until the switch, \
                 that time belongs to the idle task for us and for the trace. Wall minus idle \
                 counts it too, and every other interrupt on the idle CPU."
            }
            Self::Dodge => {
                "No tick hits the task, so the modes of `/proc/stat` miss it. The kernel reads a \
                 clock when it starts and stops idling, so wall minus idle shows that the CPU was \
                 busy, but not with what."
            }
            Self::Meet => {
                "Each tick hits the task and charges it a whole tick. Idle time is measured by a \
                 clock, so the modes of `/proc/stat` add up to more than the elapsed time. The \
                 task's own clock and wall minus idle also include the path from the interrupt to \
                 the switch."
            }
            Self::Spinner => {
                "Every tick hits the task, so sampling is right. The task's own clock agrees with \
                 the trace, because both charge interrupts to the task."
            }
            Self::Sharing => {
                "Each tick hits one of the two, and both are `user`. Each task waits while the \
                 other runs, for which `/proc/stat` has no figure. Ours includes the waits of all \
                 tasks of the CPU. A wait counts when it ends, so one that spans the end of a \
                 window counts in the next."
            }
            Self::Forks => {
                "A tick charges the current task, and many children live between two ticks. Their \
                 own clock is that of the parent, and of its children until they are waited for; \
                 what a child uses after that, until its last switch, is in no clock."
            }
            Self::Realtime => {
                "The task runs for many ticks, so sampling is off by a tick at either end. It wakes \
                 only ten times a second, so its own clock includes little of the path from wakeup \
                 to switch."
            }
            Self::Deadline => {
                "Most ticks during a stretch of work hit it, but 5 ms is a tick and a quarter, so \
                 the sum of modes depends on when the stretch begins. `/proc/stat` has no mode for \
                 deadline tasks and counts them as `user`. The task's own clock starts at the \
                 wakeup."
            }
            Self::Kthreads => {
                "`/proc/stat` has no mode for kernel threads: their time is in `system`, together \
                 with everyone's system calls. Freeing a filter waits for RCU, whose grace periods \
                 end with ticks, so the work keeps a fixed phase to the tick and the sum of modes \
                 is off. These tasks are the kernel threads bound to the CPU; others also run \
                 there."
            }
            Self::Cgroups => {
                "The kernel brings a cgroup's CPU time up to date at ticks and switches, so its \
                 figure is off by up to a tick at either end. For the kernel and for us, the task of \
                 a cgroup that has used up its quota waits. A wait counts when it ends, so one that \
                 spans the end of a window counts in the next; `run_delay` is read a moment after \
                 our figure, so it can have a wait more."
            }
        }
    }

    /// Class of the measured tasks.
    pub(crate) const fn class(self) -> Class {
        match self {
            Self::Bursts | Self::Dodge | Self::Meet | Self::Realtime => Class::Realtime,
            Self::Spinner | Self::Sharing | Self::Forks | Self::Cgroups => Class::Normal,
            Self::Deadline => Class::Deadline,
            Self::Kthreads => Class::Kthread,
        }
    }

    /// Name of our mode for [`Workload::class`].
    pub(crate) const fn mode(self) -> &'static str {
        match self.class() {
            Class::Idle => "idle",
            Class::Kthread => "kthread",
            Class::Deadline => "deadline",
            Class::Realtime => "realtime",
            Class::Normal => "fair",
        }
    }

    /// Whether its waits are measured too.
    pub(crate) const fn is_about_waits(self) -> bool {
        matches!(self, Self::Sharing | Self::Cgroups)
    }

    /// Starts it on a CPU.
    pub(crate) fn start(self, cpu: usize) -> Result<Started> {
        let load = match self {
            Self::Cgroups => return Ok(Started::Cgroups(Box::new(CgroupLoad::on(cpu)))),
            Self::Bursts => Load::on(&[cpu], || {
                spin_until(monotonic_ns() + 400_000);
                thread::sleep(Duration::from_micros(600));
            }),
            Self::Dodge => bursts(cpu, DODGE)?,
            Self::Meet => bursts(cpu, MEET)?,
            Self::Spinner => Load::spinner(cpu),
            Self::Sharing => Load::on(&[cpu, cpu], hint::spin_loop),
            Self::Forks => Load::on(&[cpu], || fork_and_wait(200_000)),
            Self::Realtime => Load::on(&[cpu], || {
                spin_until(monotonic_ns() + 80_000_000);
                thread::sleep(Duration::from_millis(20));
            }),
            Self::Deadline => Load::on(&[cpu], || {
                spin_until(monotonic_ns() + 5_000_000);
                thread::sleep(Duration::from_millis(15));
            }),
            Self::Kthreads => filters(cpu)?,
        };
        for &id in load.ids() {
            match self {
                Self::Bursts | Self::Dodge | Self::Meet => realtime(id, libc::SCHED_FIFO)?,
                Self::Realtime => realtime(id, libc::SCHED_RR)?,
                Self::Deadline => deadline(id)?,
                Self::Spinner | Self::Sharing | Self::Forks | Self::Kthreads | Self::Cgroups => {}
            }
        }
        Ok(Started::Threads(load))
    }

    /// Own clocks of its tasks.
    pub(crate) fn clocks(self, cpu: usize) -> Result<Clocks> {
        let mut only_here = CpuSet::new();
        only_here.set(cpu)?;
        let is_bound =
            |task: &u32| sched_getaffinity(Pid::from_raw(task.cast_signed())) == Ok(only_here);
        Ok(match self {
            Self::Forks => Clocks::ThreadsAndChildren,
            Self::Kthreads => Clocks::Tasks(kthreads().into_iter().filter(is_bound).collect()),
            _ => Clocks::Threads,
        })
    }
}

/// A workload that runs until it is dropped.
pub(crate) enum Started {
    Threads(Load),
    Cgroups(Box<CgroupLoad>),
}

impl Started {
    fn ids(&self) -> Vec<Pid> {
        match self {
            Self::Threads(load) => load.ids().to_vec(),
            Self::Cgroups(load) => load.ids().collect(),
        }
    }

    fn cpu_ns(&self) -> Result<u64> {
        match self {
            Self::Threads(load) => Ok(load.cpu_ns()),
            Self::Cgroups(load) => load.cpu_ns(),
        }
    }

    /// Its cgroups, if it has any.
    pub(crate) const fn cgroups(&self) -> Option<&CgroupLoad> {
        match self {
            Self::Threads(_) => None,
            Self::Cgroups(load) => Some(load),
        }
    }
}

/// The tasks whose CPU time is read from the kernel.
pub(crate) enum Clocks {
    Threads,
    ThreadsAndChildren,
    Tasks(Vec<u32>),
}

impl Clocks {
    /// The tasks, if they are the same throughout.
    pub(crate) fn tasks(&self, load: &Started) -> Option<Vec<u32>> {
        match self {
            Self::Threads => {
                Some(load.ids().iter().map(|id| id.as_raw().cast_unsigned()).collect())
            }
            Self::ThreadsAndChildren => None,
            Self::Tasks(tasks) => Some(tasks.clone()),
        }
    }

    /// Their CPU time in nanoseconds.
    pub(crate) fn read_ns(&self, load: &Started) -> Result<u64> {
        Ok(match self {
            Self::Threads => load.cpu_ns()?,
            Self::ThreadsAndChildren => {
                let children = getrusage(UsageWho::RUSAGE_CHILDREN)?;
                let us = (children.user_time() + children.system_time()).num_microseconds();
                load.cpu_ns()? + u64::try_from(us)? * 1_000
            }
            Self::Tasks(tasks) => {
                let run_ns = |task: &u32| Some(Schedstat::of(*task, *task)?.run_ns);
                tasks.iter().filter_map(run_ns).sum()
            }
        })
    }
}

/// Period of the tick in nanoseconds, from the resolution of a clock that advances at ticks.
pub(crate) fn tick_ns() -> Result<u64> {
    let resolution = Duration::from(clock_getres(ClockId::CLOCK_MONOTONIC_COARSE)?);
    Ok(u64::try_from(resolution.as_nanos())?)
}

/// Works at an offset from the tick. Since Linux 6.4, without `skew_tick`, ticks are at multiples
/// of their period on `CLOCK_MONOTONIC`.
/// <https://git.kernel.org/torvalds/c/e9523a0d81899361214d118ad60ef76f0e92f71d>
fn bursts(cpu: usize, phase: Phase) -> Result<Load> {
    let tick = tick_ns()?;
    let [offset, burst] = [phase.offset, phase.burst].map(|ns| ns * tick / USUAL_TICK_NS);
    Ok(Load::on(&[cpu], move || {
        let now = monotonic_ns();
        let start = now / tick * tick + offset;
        sleep_until(if start > now { start } else { start + tick });
        spin_until(monotonic_ns() + burst);
    }))
}

/// Forks a child that works and exits.
fn fork_and_wait(ns: u64) {
    // SAFETY: the child only reads the clock and exits, which is allowed in a child of a process
    // with threads.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => {
            spin_until(monotonic_ns() + ns);
            // SAFETY: exits without running any code of this process.
            unsafe { libc::_exit(0) }
        }
        Ok(ForkResult::Parent { child }) => drop(waitpid(child, None)),
        // The measurement shows that the work is missing.
        Err(_) => thread::sleep(Duration::from_millis(1)),
    }
}

/// Makes work for a kworker, which frees the program of each replaced filter.
fn filters(cpu: usize) -> Result<Load> {
    let socket = UdpSocket::bind("127.0.0.1:0").context("opening a socket")?;
    replace_filter(&socket)?;
    let socket = Arc::new(socket);
    Ok(Load::on(&[cpu], move || {
        for _ in 0..100 {
            let _ = replace_filter(&socket);
        }
        thread::sleep(Duration::from_millis(2));
    }))
}

fn replace_filter(socket: &UdpSocket) -> Result<()> {
    let code = u16::try_from(libc::BPF_RET | libc::BPF_K)?;
    let mut accept_all = libc::sock_filter { code, jt: 0, jf: 0, k: u32::MAX };
    let program = libc::sock_fprog { len: 1, filter: &raw mut accept_all };
    let size = libc::socklen_t::try_from(size_of_val(&program))?;
    // SAFETY: the kernel copies the program, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size,
        )
    };
    ok(result).context("setsockopt(SO_ATTACH_FILTER)")
}

fn realtime(thread: Pid, policy: i32) -> Result<()> {
    let param = libc::sched_param { sched_priority: 20 };
    // SAFETY: the structure outlives the call.
    let result = unsafe { libc::sched_setscheduler(thread.as_raw(), policy, &raw const param) };
    ok(result).context("sched_setscheduler")
}

/// Makes a thread a deadline task; first lets it run on every CPU, as the kernel requires.
fn deadline(thread: Pid) -> Result<()> {
    let mut cpus = CpuSet::new();
    for cpu in online() {
        cpus.set(cpu)?;
    }
    sched_setaffinity(thread, &cpus).context("sched_setaffinity")?;
    let attributes = libc::sched_attr {
        size: u32::try_from(size_of::<libc::sched_attr>())?,
        sched_policy: libc::SCHED_DEADLINE.cast_unsigned(),
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 10_000_000,
        sched_deadline: 20_000_000,
        sched_period: 20_000_000,
    };
    // SAFETY: the structure outlives the call and contains its size.
    let result = unsafe {
        libc::syscall(libc::SYS_sched_setattr, thread.as_raw(), &raw const attributes, 0_u32)
    };
    ok(result).context("sched_setattr")
}

fn ok(result: impl Into<i64>) -> io::Result<()> {
    if result.into() == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
