//! Properties that hold for any bytes. Each function panics if its property does not hold; fuzz
//! targets and property tests call the same functions.

mod accept;
mod btf;
mod config;
mod exposition;
mod path;
mod relabel;
mod runtimes;

pub use accept::accept;
pub use btf::btf;
pub use config::config;
pub use exposition::exposition;
pub use path::path;
pub use relabel::relabel;
pub use runtimes::runtimes;
