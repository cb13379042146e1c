//! Replaces the generation that is served.

mod build;
mod reloader;
mod requests;

pub use build::LoadError;
pub use reloader::{Reloader, serving};
pub use requests::ReloadHandle;
