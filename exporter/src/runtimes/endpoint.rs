//! The sockets of container runtimes.

use std::{
    ffi::OsStr,
    fmt,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use crate::expr::print;

/// Where runtimes listen by default, without the `/` at the beginning. CRI comes first: if Docker runs the
/// containers of pods, both know them, and only CRI knows the pods.
const USUAL: [&str; 8] = [
    "run/containerd/containerd.sock",
    "run/k3s/containerd/containerd.sock",
    "run/k0s/containerd.sock",
    "var/snap/microk8s/common/run/containerd.sock",
    "run/crio/crio.sock",
    "run/cri-dockerd.sock",
    "run/docker.sock",
    "run/podman/podman.sock",
];

/// The Unix socket of a container runtime, like `unix:///run/containerd/containerd.sock`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint(PathBuf);

impl Endpoint {
    /// The socket at an absolute path.
    pub(super) fn at(path: &Path) -> Self {
        Self(path.into())
    }

    /// Returns the endpoints at which runtimes listen by default, as far as they exist.
    pub(super) fn usual_below(root: &Path) -> Vec<Self> {
        let paths = USUAL.iter().map(|path| root.join(path));
        paths.filter(|path| path.exists()).map(Self).collect()
    }

    /// The place among the usual endpoints.
    pub(super) fn usual_place(&self, root: &Path) -> Option<usize> {
        USUAL.iter().position(|path| root.join(path) == self.0)
    }

    /// The user in whose directory `run/user/<uid>` it is, where rootless runtimes listen; `None` for root.
    pub(super) fn user(&self) -> Option<u32> {
        let names: Vec<_> = self.0.iter().filter_map(OsStr::to_str).collect();
        let uid = names.windows(3).find_map(|names| match names {
            ["run", "user", uid] => uid.parse().ok(),
            _ => None,
        });
        uid.filter(|uid| *uid != 0)
    }

    /// The path of the socket.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", print::visible(self.0.as_os_str().as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn names_are_urls() {
        let endpoint = Endpoint::at(Path::new("/run/a\nb.sock"));
        assert_eq!(endpoint.to_string(), r"unix:///run/a\x0ab.sock");
    }

    #[test]
    fn endpoints_of_users_are_in_their_directories() {
        let user = |path: &str| Endpoint::at(Path::new(path)).user();
        for path in ["/run/user/1000/docker.sock", "/host/run/user/1000/podman/podman.sock"] {
            assert_eq!(user(path), Some(1000), "{path}");
        }
        for path in
            ["/run/docker.sock", "/run/user/0/podman/podman.sock", "/run/user/me/docker.sock"]
        {
            assert_eq!(user(path), None, "{path}");
        }
    }

    #[test]
    fn usual_endpoints_are_those_that_exist() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Endpoint::usual_below(root.path()), []);
        for path in ["run/docker.sock", "run/crio/crio.sock"] {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let usual = Endpoint::usual_below(root.path());
        let below = usual.iter().map(|it| it.path().strip_prefix(root.path()).unwrap());
        assert_eq!(
            below.collect::<Vec<_>>(),
            ["run/crio/crio.sock", "run/docker.sock"].map(Path::new)
        );
        let places = usual.iter().map(|it| it.usual_place(root.path()));
        assert_eq!(places.collect::<Vec<_>>(), [Some(4), Some(6)]);
        assert_eq!(Endpoint::at(Path::new("/run/docker.sock")).usual_place(root.path()), None);
    }
}
