//! The architectures that the exporter is shipped for.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::workspace::{command, probe};

/// A processor's architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Arch {
    #[value(name = "x86_64")]
    X86_64,
    #[value(name = "aarch64")]
    Aarch64,
}

impl Arch {
    pub(crate) const ALL: [Self; 2] = [Self::X86_64, Self::Aarch64];

    /// This machine's architecture.
    pub(crate) fn host() -> Result<Self> {
        let host = std::env::consts::ARCH;
        let found = Self::ALL.into_iter().find(|arch| arch.name() == host);
        found.with_context(|| {
            format!("supported architectures are x86_64 and aarch64; this machine is {host}")
        })
    }

    /// Whether it is not this machine's architecture.
    pub(crate) fn is_foreign(self) -> bool {
        self.name() != std::env::consts::ARCH
    }

    /// Its name in the kernel, Rust and QEMU.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// Its name in Debian, Go and container images.
    pub(crate) const fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// Rust's target.
    pub(crate) const fn target(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-unknown-linux-gnu",
            Self::Aarch64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// The C library that static programs are linked with, `libc.a`.
    pub(crate) fn libc(self) -> Result<PathBuf> {
        let gcc = self.gcc();
        let found = probe(command(&gcc).arg("-print-file-name=libc.a"));
        let found = PathBuf::from(found.with_context(|| format!("`{gcc}` is not on PATH"))?);
        let debian = if self.is_foreign() {
            format!("libc6-dev-{}-cross", self.debian())
        } else {
            "libc6-dev".into()
        };
        // If gcc does not find the file, it prints only the name.
        ensure!(
            found.is_absolute(),
            "`{gcc}` lacks a static C library; install it (on Debian {debian}, on Fedora \
             glibc-static)"
        );
        Ok(found)
    }

    /// The C compiler, which also links.
    pub(crate) fn gcc(self) -> String {
        if self.is_foreign() { format!("{}-linux-gnu-gcc", self.name()) } else { "gcc".into() }
    }
}
