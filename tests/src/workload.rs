//! Work whose CPU time is known, bounded in time, on a CPU of choice.

use std::{
    fs, hint,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    time::{ClockId, clock_gettime},
    unistd::Pid,
};

/// Binds the calling thread to a CPU.
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
    sched_exporter::ebpf::monotonic_ns().unwrap()
}

/// CPU time of the calling thread in nanoseconds.
pub fn thread_cpu_ns() -> u64 {
    let time = Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap());
    u64::try_from(time.as_nanos()).unwrap()
}

/// Burns CPU until the clock reads `deadline`.
pub fn spin_until(deadline: u64) {
    while monotonic_ns() < deadline {
        hint::spin_loop();
    }
}

/// Sleeps until the clock reads `deadline`.
pub fn sleep_until(deadline: u64) {
    thread::sleep(Duration::from_nanos(deadline.saturating_sub(monotonic_ns())));
}

/// Threads that work until dropped.
pub struct Load {
    stop: Arc<AtomicBool>,
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// Threads that no longer work, but have not ended; they end when this is dropped.
pub struct Parked(#[expect(dead_code, reason = "held for its drop")] Load);

impl Load {
    /// Runs `step` over and over on each of `cpus`.
    pub fn on(cpus: &[usize], step: impl Fn() + Clone + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let end = Arc::new(AtomicBool::new(false));
        let threads = cpus.iter().map(|&cpu| {
            let (stop, end, step) = (Arc::clone(&stop), Arc::clone(&end), step.clone());
            thread::spawn(move || {
                pin(cpu);
                while !stop.load(Ordering::Relaxed) {
                    step();
                }
                while !end.load(Ordering::Relaxed) {
                    thread::park();
                }
            })
        });
        Self { threads: threads.collect(), stop, end }
    }

    /// Never gives the CPU up of its own will.
    pub fn spinner(cpu: usize) -> Self {
        Self::on(&[cpu], || {
            for _ in 0..1_000 {
                hint::spin_loop();
            }
        })
    }

    /// Switches as often as it can: pairs of threads that yield to each other, and short sleeps.
    pub fn storm(cpus: &[usize]) -> Self {
        let twice: Vec<_> = cpus.iter().chain(cpus).copied().collect();
        Self::on(&twice, || {
            for _ in 0..64 {
                thread::yield_now();
            }
            thread::sleep(Duration::from_micros(20));
        })
    }
}

impl Load {
    /// Stops the work, and keeps the threads.
    pub fn park(self) -> Parked {
        self.stop.store(true, Ordering::Relaxed);
        Parked(self)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.end.store(true, Ordering::Relaxed);
        for thread in &self.threads {
            thread.thread().unpark();
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// CPUs that are online.
pub fn online() -> Vec<usize> {
    let list = fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    list.trim()
        .split(',')
        .flat_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            first.parse::<usize>().unwrap()..=last.parse().unwrap()
        })
        .collect()
}
