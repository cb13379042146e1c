//! Loads, attaches and reads the kernel program. The only room that names aya; it may also name nix,
//! `cpu`, `accounting` and the shared record, but no text, labels or HTTP.
//!
//! Start reading at [`scheduler`]: it has the program attached by [`attach`], with the offsets that [`layout`]
//! found through [`btf`], and takes snapshots. [`preflight`] explains a failure. [`pins`] and [`state`] let counts
//! outlive this process.

pub mod attach;
pub mod births;
mod bpf;
pub mod btf;
pub mod cgroups;
mod constants;
mod error;
pub mod layout;
pub mod mapped;
pub mod pins;
pub mod preflight;
pub mod program_log;
pub mod scheduler;
pub mod seed;
pub mod slots;
pub mod state;
mod verifier;
