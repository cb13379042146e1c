//! Tests that need root and the kernel's BTF.

mod accounting;
mod http;
mod labels;
mod reload;
mod start;
