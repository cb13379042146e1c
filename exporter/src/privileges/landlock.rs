//! Forbids changes to the filesystem by Landlock, which no right of the user or of root overrides.

use std::path::PathBuf;

use landlock::{
    ABI, AccessFs, LandlockStatus, PathBeneath, PathFd, RestrictionStatus, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, RulesetError, RulesetStatus,
};

use crate::os::log;

/// The newest version whose rights to write are forbidden. Kernels with an older one forbid those that they
/// know. Version 9 adds the right to connect to Unix sockets, which are how container runtimes are asked.
/// <https://www.kernel.org/doc/html/v6.12/userspace-api/landlock.html#filesystem-flags>
const VERSION: ABI = ABI::V5;

/// Lets the calling thread, and those that it starts from now on, no longer create, change, remove and execute
/// files, except for removing files in `removable`. Files stay readable, and those that are open stay writable.
/// Returns the version of Landlock, or why it is off.
pub(super) fn restrict(removable: &[PathBuf]) -> Result<String, String> {
    let restricted = try_restrict(removable).map_err(|error| log::chain(&error))?;
    match (restricted.ruleset, restricted.landlock) {
        (
            RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced,
            LandlockStatus::Available { effective_abi, kernel_abi },
        ) => {
            let version = kernel_abi.map_or_else(|| effective_abi.to_string(), |it| it.to_string());
            Ok(format!("version {version}"))
        }
        (_, LandlockStatus::NotEnabled) => {
            Err("the kernel was booted without it; add it to the boot parameter lsm=".to_owned())
        }
        _ => Err("the kernel lacks it, or a seccomp profile forbids it".to_owned()),
    }
}

fn try_restrict(removable: &[PathBuf]) -> Result<RestrictionStatus, RulesetError> {
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_write(VERSION) | AccessFs::Execute)?
        .create()?;
    for directory in removable {
        // Without this rule, the file stays when the process ends.
        if let Ok(directory) = PathFd::new(directory) {
            ruleset = ruleset.add_rule(PathBeneath::new(directory, AccessFs::RemoveFile))?;
        }
    }
    ruleset.restrict_self()
}

#[cfg(test)]
mod tests {
    use std::{fs, io::ErrorKind, path::Path, thread};

    use super::*;

    /// Whether this kernel has it, by its own word.
    fn is_supported() -> bool {
        let flag: libc::c_uint = 1; // LANDLOCK_CREATE_RULESET_VERSION
        // SAFETY: it only asks for the version.
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, flag) > 0 }
    }

    /// Runs a test on a thread that Landlock restricts, since it cannot be undone.
    fn restricted(removable: &[PathBuf], test: impl FnOnce() + Send) {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let state = restrict(removable);
                assert_eq!(state.is_ok(), is_supported(), "{state:?}");
                if is_supported() {
                    test();
                }
            });
            thread.join().unwrap();
        });
    }

    fn check_unwritable(old: &Path, new: &Path) {
        let denied = [
            fs::write(old, ""),
            fs::write(new, ""),
            fs::create_dir(new),
            fs::remove_file(old),
            std::os::unix::net::UnixListener::bind(new).map(drop),
            std::process::Command::new("/bin/true").status().map(drop),
        ];
        for attempt in denied {
            assert_eq!(attempt.map_err(|error| error.kind()), Err(ErrorKind::PermissionDenied));
        }
    }

    #[test]
    fn files_of_this_user_can_be_read_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let (old, new) = (directory.path().join("old"), directory.path().join("new"));
        fs::write(&old, "text").unwrap();
        restricted(&[], || {
            check_unwritable(&old, &new);
            assert_eq!(fs::read_to_string(&old).unwrap(), "text");
            // Threads that are started later are restricted, too.
            thread::scope(|scope| scope.spawn(|| check_unwritable(&old, &new)).join().unwrap());
        });
        assert_eq!(fs::read_to_string(&old).unwrap(), "text");
    }

    #[test]
    fn files_can_be_removed_where_the_exporter_made_one() {
        let [here, elsewhere] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let [ours, other] = [&here, &elsewhere].map(|it| it.path().join("file"));
        fs::write(&ours, "").unwrap();
        fs::write(&other, "").unwrap();
        // A directory that is gone restricts as if it had not been named.
        let removable = [here.path().to_owned(), "/nonexistent".into()];
        restricted(&removable, || {
            assert!(fs::write(&ours, "").is_err() && fs::remove_file(&other).is_err());
            fs::remove_file(&ours).unwrap();
            assert!(fs::write(&ours, "").is_err());
        });
    }
}
