//! Saves the groups of CPUs for the next process, and continues those of the last one.

use std::sync::Arc;

use crate::{
    generation::{Generation, SavedByLabels},
    kernel::{
        scheduler::{ReadError, Scheduler},
        state::{Section, State, StateError},
    },
    os::log,
};

/// The series of the last process cannot be continued.
#[derive(Debug, thiserror::Error)]
pub enum ContinueError {
    /// What it saved cannot be read.
    #[error("reading the labels that the last process had")]
    State(#[from] StateError),
    /// What it saved is not what this version saves.
    #[error("the labels that the last process had are not what this version saves")]
    Unknown,
    /// No snapshot can be taken.
    #[error(transparent)]
    Snapshot(#[from] ReadError),
}

/// Lets a first generation continue the series of the last process, if counts continue.
pub(super) fn continue_last(
    generation: &mut Generation,
    scheduler: &Scheduler,
) -> Result<(), ContinueError> {
    let Some(state) = scheduler.state().filter(|_| scheduler.start().continues()) else {
        return Ok(());
    };
    let Some(saved) = state.load::<SavedByLabels>(Section::Groups)? else { return Ok(()) };
    let last = saved.restore().ok_or(ContinueError::Unknown)?;
    generation.continue_from(&last, &scheduler.snapshot()?);
    Ok(())
}

/// Saves the series of a generation, before it is served.
pub(super) fn save(generation: &Generation, state: Option<&Arc<State>>) {
    let Some(state) = state else { return };
    let saved = state.save(Section::Groups, &generation.saved(true));
    let saved = saved.or_else(|_| state.save(Section::Groups, &generation.saved(false)));
    if let Err(error) = saved {
        let error = log::chain(&error);
        tracing::warn!(error, "the next start begins at zero: labels of CPUs cannot be saved");
    }
}
