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

    /// That of this machine.
    pub(crate) fn host() -> Result<Self> {
        let host = std::env::consts::ARCH;
        let found = Self::ALL.into_iter().find(|arch| arch.name() == host);
        found.with_context(|| format!("this is for x86_64 and aarch64, and this machine is {host}"))
    }

    /// Whether it is another than that of this machine.
    pub(crate) fn is_foreign(self) -> bool {
        self.name() != std::env::consts::ARCH
    }

    /// As the kernel, Rust and QEMU name it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// As Debian, Go and container images name it.
    pub(crate) const fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// What Rust builds for.
    pub(crate) const fn target(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-unknown-linux-gnu",
            Self::Aarch64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// The C library that static programs are linked with.
    pub(crate) fn libc(self) -> Result<PathBuf> {
        let gcc = self.gcc();
        let found = probe(command(&gcc).arg("-print-file-name=libc.a"));
        let found = PathBuf::from(found.with_context(|| format!("`{gcc}` is not on PATH"))?);
        let debian = if self.is_foreign() {
            format!("libc6-dev-{}-cross", self.debian())
        } else {
            "libc6-dev".into()
        };
        // A name alone is one that it didn't find.
        ensure!(
            found.is_absolute(),
            "`{gcc}` has no static C library; install it (Debian's package is {debian}, Fedora's \
             glibc-static)"
        );
        Ok(found)
    }

    /// The C compiler and linker.
    pub(crate) fn gcc(self) -> String {
        if self.is_foreign() { format!("{}-linux-gnu-gcc", self.name()) } else { "gcc".into() }
    }
}
