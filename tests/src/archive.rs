//! The image of all containers of tests, which holds one static program.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;

/// Its name. Containers run its program with `pause`, unless they have other arguments.
pub const IMAGE: &str = "localhost/sched_exporter-test:1";

/// Path of the program, which cargo builds with the tests.
pub fn payload() -> PathBuf {
    let ours = env::current_exe().unwrap();
    let mut places = ours.ancestors().skip(1).take(2).map(|place| place.join("payload"));
    places.find(|path| path.exists()).unwrap_or_else(|| panic!("no payload at {}", ours.display()))
}

/// Writes the image as an archive of `docker save`, which every runtime loads.
/// <https://github.com/moby/docker-image-spec/blob/v1.3.1/spec.md#combined-image-json--filesystem-changeset-format>
pub fn write(directory: &Path) -> PathBuf {
    let payload = payload();
    tar(&directory.join("layer.tar"), payload.parent().unwrap(), &["payload"]);
    let digest = run(Command::new("sha256sum").arg(directory.join("layer.tar")));
    let digest = digest.split(' ').next().unwrap();
    let config = json!({
        "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" },
        "os": "linux",
        "config": {"Entrypoint": ["/payload"], "Cmd": ["pause"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]);
    for (name, json) in [("config.json", config), ("manifest.json", manifest)] {
        fs::write(directory.join(name), json.to_string()).unwrap();
    }
    let archive = directory.join("image.tar");
    tar(&archive, directory, &["manifest.json", "config.json", "layer.tar"]);
    archive
}

fn tar(archive: &Path, directory: &Path, files: &[&str]) {
    let mut tar = Command::new("tar");
    tar.args(["--create", "--owner=0", "--group=0", "--numeric-owner", "--file"]).arg(archive);
    run(tar.arg("--directory").arg(directory).args(files));
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
