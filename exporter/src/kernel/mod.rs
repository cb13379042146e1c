//! Loads, attaches and reads the kernel program. The only room that names aya; it may also name nix,
//! `cpu`, `accounting` and the shared record, but no text, labels or HTTP.
//!
//! Start reading at [`scheduler`]: it loads the program with the offsets that [`layout`] found through
//! [`btf`], attaches it, and takes snapshots. [`preflight`] explains a failure.

pub mod births;
pub mod btf;
pub mod cgroups;
mod constants;
mod error;
mod freeze;
pub mod layout;
pub mod mapped;
pub mod preflight;
pub mod program_log;
pub mod scheduler;
pub mod seed;
pub mod slots;
mod verifier;
