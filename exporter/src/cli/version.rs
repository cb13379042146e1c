//! Prints which protections the exporter has on this machine.

use std::{fmt::Write as _, thread};

use super::args::LONG_VERSION;
use crate::{
    os::log,
    privileges::{self, Protection, isolation},
};

/// The version, and the protections of a thread that is confined as the serving exporter is.
pub(super) fn verbose() -> String {
    let confined = thread::Builder::new().name("confined".into()).spawn(|| {
        // If it fails, the state says so.
        let _ = isolation::isolate();
        privileges::confine(&[])
    });
    let mut text = format!("{LONG_VERSION}\n  protections of the serving exporter:");
    match confined.map(thread::JoinHandle::join) {
        Ok(Ok(protections)) => protections.iter().for_each(|it| add(&mut text, it)),
        Ok(Err(_)) => text.push_str(" unknown: the thread that tried them panicked"),
        Err(error) => {
            let _ =
                write!(text, " unknown: cannot start a thread to try them: {}", log::chain(&error));
        }
    }
    text
}

fn add(text: &mut String, Protection { name, state }: &Protection) {
    let (state, detail) = match state {
        Ok(detail) => ("on", detail),
        Err(reason) => ("off", reason),
    };
    let _ = write!(text, "\n    {name}: {state}");
    if !detail.is_empty() {
        let _ = write!(text, " ({detail})");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_protection_has_a_line_with_what_there_is_to_say() {
        let mut text = String::new();
        let protection = |name, state: Result<&str, &str>| Protection {
            name,
            state: state.map(str::to_owned).map_err(str::to_owned),
        };
        add(&mut text, &protection("landlock", Ok("version 7")));
        add(&mut text, &protection("no_new_privs", Ok("")));
        add(&mut text, &protection("seccomp", Err("the kernel lacks it")));
        let expected = "\n    landlock: on (version 7)\n    no_new_privs: on\n    \
                        seccomp: off (the kernel lacks it)";
        assert_eq!(text, expected);
    }
}
