//! Tests that need root and the kernel's BTF.

mod accounting;
mod connections;
mod http;
mod labels;
mod log;
mod notify;
mod privileges;
mod reload;
mod scrapes;
mod shortage;
mod sockets;
mod start;
mod writers;
