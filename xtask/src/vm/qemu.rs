//! Runs a guest and reads its console.

use std::{
    env,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{arch::Arch, tools::on_path, vm::guests::Guest, workspace::spell};

/// The time after which a guest is stopped.
const LIMIT: Duration = Duration::from_mins(15);

/// Finds QEMU for an architecture.
pub(crate) fn find(arch: Arch) -> Result<PathBuf> {
    let program = format!("qemu-system-{}", arch.name());
    on_path(&program).with_context(|| {
        format!(
            "`{program}` is not on PATH; install it (Debian's packages are qemu-system-x86 and \
             qemu-system-arm)"
        )
    })
}

/// A running QEMU, killed when dropped.
pub(crate) struct Console {
    qemu: Child,
    lines: Receiver<String>,
    deadline: Instant,
}

impl Console {
    /// Boots a kernel. `args` are the arguments of the guest's first process.
    pub(crate) fn start(
        guest: &Guest,
        kernel: &Path,
        initramfs: &Path,
        args: &[String],
    ) -> Result<Self> {
        let mut command = Command::new(find(guest.arch)?);
        let (console, thread) = match guest.arch {
            // Under emulation, kernels have panicked with `max`, with the host's CPU and with
            // `cmpxchg16b`. With one thread per CPU, a CPU can execute an instruction while another
            // patches it, which attaching to a tracepoint does.
            Arch::X86_64 => {
                command.args(["-machine", "q35", "-cpu", "qemu64,-cx16"]);
                ("ttyS0", "single")
            }
            Arch::Aarch64 => {
                command.args(["-machine", "virt", "-cpu", "cortex-a72"]);
                ("ttyAMA0", "multi")
            }
        };
        // Emulation works everywhere; KVM may be missing or broken.
        let accel = env::var("XTASK_VM_ACCEL").unwrap_or(format!("tcg,thread={thread}"));
        // The kernel passes parameters that it does not know to the first process as its environment.
        let append = format!(
            "console={console} panic=-1 loglevel=5 rdinit=/init hierarchy={} {} -- {}",
            guest.hierarchy.name(),
            guest.append,
            args.join(" ")
        );
        command
            .args(["-accel", &accel, "-m", "1024", "-smp", guest.cpus, "-no-reboot"])
            .args(["-nodefaults", "-display", "none", "-serial", "stdio"])
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(initramfs)
            .args(["-append", &append]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut qemu = command.spawn().with_context(|| spell(&command))?;
        let (sender, lines) = channel();
        let stdout = qemu.stdout.take().context("standard output is piped")?;
        let stderr = qemu.stderr.take().context("standard error is piped")?;
        let errors = sender.clone();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let _ = errors.send(line);
            }
        });
        thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line);
                let _ = sender.send(line.trim_end().to_owned());
            }
        });
        Ok(Self { qemu, lines, deadline: Instant::now() + LIMIT })
    }

    /// The next line, or `None` if QEMU has exited.
    pub(crate) fn line(&mut self) -> Result<Option<String>> {
        match self.lines.recv_timeout(self.deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => bail!("the guest took more than {LIMIT:?}"),
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// Whether the kernel reports a fault of its own in this line.
pub(crate) fn is_complaint(line: &str) -> bool {
    ["BUG: ", "WARNING: ", "Oops", "Kernel panic", "rcu: INFO", "Call Trace"]
        .iter()
        .any(|complaint| line.contains(complaint))
}
