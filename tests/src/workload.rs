//! Workloads of bounded duration whose CPU time is known, on a chosen CPU.

use std::{
    env, fs, hint,
    os::unix::thread::JoinHandleExt as _,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    time::{ClockId, clock_gettime},
    unistd::{Pid, gettid},
};
use sched_exporter::cpu::list::Online;

/// Pins the calling thread to a CPU.
pub fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu).unwrap();
    sched_setaffinity(Pid::from_raw(0), &set).unwrap();
}

/// Makes the calling thread real-time (`SCHED_FIFO`).
pub fn realtime() {
    set_policy(libc::SCHED_FIFO, 20);
}

/// Sets the scheduling policy of the calling thread.
pub fn set_policy(policy: i32, priority: i32) {
    let param = libc::sched_param { sched_priority: priority };
    // SAFETY: the structure outlives the call.
    let result = unsafe { libc::sched_setscheduler(0, policy, &raw const param) };
    assert_eq!(result, 0, "sched_setscheduler: {}", std::io::Error::last_os_error());
}

/// `CLOCK_MONOTONIC` in nanoseconds.
pub fn monotonic_ns() -> u64 {
    sched_exporter::kernel::scheduler::monotonic_ns().unwrap()
}

/// CPU time of the calling thread in nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    clock_ns(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

fn clock_ns(clock: ClockId) -> u64 {
    u64::try_from(Duration::from(clock_gettime(clock).unwrap()).as_nanos()).unwrap()
}

/// Spins until [`monotonic_ns`] reaches `deadline`.
pub fn spin_until(deadline: u64) {
    while monotonic_ns() < deadline {
        hint::spin_loop();
    }
}

/// Sleeps until [`monotonic_ns`] reaches `deadline`.
pub fn sleep_until(deadline: u64) {
    thread::sleep(Duration::from_nanos(deadline.saturating_sub(monotonic_ns())));
}

/// Gives the calling thread, and its session as a group, the lowest nice value until dropped, so
/// that other tasks hardly delay the thread.
#[derive(Debug)]
pub struct Favored(());

impl Favored {
    /// Changes the nice values.
    pub fn thread() -> Self {
        set_nice(gettid(), -20);
        set_autogroup_nice("-20");
        Self(())
    }
}

impl Drop for Favored {
    fn drop(&mut self) {
        set_nice(gettid(), 0);
        set_autogroup_nice("0");
    }
}

/// Sets the nice value of the session, if this kernel makes sessions compete as groups.
/// <https://man7.org/linux/man-pages/man7/sched.7.html>
fn set_autogroup_nice(nice: &str) {
    let _ = fs::write("/proc/self/autogroup", nice);
}

fn set_nice(thread: Pid, nice: i32) {
    let id = thread.as_raw().cast_unsigned();
    // SAFETY: a system call without pointers.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, id, nice) };
    assert_eq!(result, 0, "setpriority: {}", std::io::Error::last_os_error());
}

/// Threads that work until this is dropped.
pub struct Load {
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    ids: Vec<Pid>,
}

/// Sets a flag when dropped, so that threads that run until then stop even if the test fails.
#[derive(Debug)]
pub struct Ending<'a>(pub &'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Lets threads spin while it is open, and makes them sleep while it is closed.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// Opens or closes it.
    pub fn open(&self, open: bool) {
        *self.0.0.lock().unwrap() = open;
        self.0.1.notify_all();
    }

    /// Spins for a millisecond if it is open; otherwise waits up to half a second for it to open.
    pub fn pass(&self) {
        let open = self.0.0.lock().unwrap();
        if *open {
            drop(open);
            spin_until(monotonic_ns() + 1_000_000);
        } else {
            drop(self.0.1.wait_timeout(open, Duration::from_millis(500)));
        }
    }
}

impl Load {
    /// Starts a thread on each of `cpus` that runs `step` repeatedly.
    pub fn on(cpus: &[usize], step: impl Fn() + Clone + Send + 'static) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let (started, ids) = mpsc::channel();
        let spawn = |&cpu: &usize| {
            let (end, started, step) = (Arc::clone(&end), started.clone(), step.clone());
            thread::spawn(move || {
                pin(cpu);
                started.send(gettid()).unwrap();
                while !end.load(Ordering::Relaxed) {
                    step();
                }
            })
        };
        let threads: Vec<_> = cpus.iter().map(spawn).collect();
        let ids = ids.iter().take(threads.len()).collect();
        Self { end, threads, ids }
    }

    /// Spins on a CPU without ever sleeping or yielding.
    pub fn spinner(cpu: usize) -> Self {
        Self::on(&[cpu], || {
            for _ in 0..1_000 {
                hint::spin_loop();
            }
        })
    }

    /// Switches as often as possible: pairs of threads that yield to each other and sleep briefly.
    pub fn storm(cpus: &[usize]) -> Self {
        let twice: Vec<_> = cpus.iter().chain(cpus).copied().collect();
        Self::on(&twice, || {
            for _ in 0..64 {
                thread::yield_now();
            }
            thread::sleep(Duration::from_micros(20));
        })
    }

    /// Gives its threads the lowest nice value. While the test's thread is [`Favored`] too, they
    /// get nearly all of the CPU time, and the kernel moves other tasks to other CPUs.
    #[must_use]
    pub fn favored(self) -> Self {
        for id in &self.ids {
            set_nice(*id, -20);
        }
        self
    }

    /// TIDs of its threads.
    pub fn ids(&self) -> &[Pid] {
        &self.ids
    }

    /// CPU time of all its threads in nanoseconds.
    pub fn cpu_ns(&self) -> u64 {
        let clock = |thread: &JoinHandle<()>| {
            let mut clock = 0;
            // SAFETY: the thread has not been joined, and the result outlives the call.
            let result =
                unsafe { libc::pthread_getcpuclockid(thread.as_pthread_t(), &raw mut clock) };
            assert_eq!(result, 0, "pthread_getcpuclockid");
            ClockId::from_raw(clock)
        };
        self.threads.iter().map(|thread| clock_ns(clock(thread))).sum()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Whether this machine is a guest of `cargo xtask vm`, where instructions are emulated.
pub fn is_emulated() -> bool {
    env::var_os("SCHED_EXPORTER_EMULATED").is_some()
}

/// Numbers of the CPUs that are online.
pub fn online() -> Vec<usize> {
    let cpus = Online::open().unwrap().read().unwrap();
    cpus.into_iter().map(|cpu| cpu as usize).collect()
}
