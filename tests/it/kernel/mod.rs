//! Tests that need root and the kernel's BTF.

pub(crate) mod accounting;
mod http;
mod reload;
mod start;
