//! Runtimes that misbehave, and the cgroups of containers.

use std::{future::pending, time::Duration};

use http_body_util::{BodyExt as _, channel::Channel};
use sched_exporter_tests::{
    cgroups::{Process, Tree, bursts},
    fake_runtime::{Body, Listed, Server, message, serve},
    kubelet::pairs,
    protobuf::Message,
};
use tokio::{io::AsyncWriteExt as _, net::UnixStream, time::sleep};

/// A cgroup as a runtime makes it for a container of a pod, with a process that uses a share of a CPU.
pub(super) struct Running {
    /// What a runtime says of it.
    pub(super) listed: Listed,
    _process: Process,
}

impl Running {
    /// Starts a container. Its ids are made of a number.
    pub(super) fn start(tree: &Tree, number: u32, names: [&[u8]; 3]) -> Self {
        Self::of(tree, Listed::numbered(number, names))
    }

    /// Starts a container with these ids.
    pub(super) fn of(tree: &Tree, listed: Listed) -> Self {
        let cgroup = tree.create_all(&listed.cgroup());
        let spin =
            || bursts(Duration::from_mins(2), Duration::from_millis(5), Duration::from_millis(45));
        let process = cgroup.start(spin);
        Self { listed, _process: process }
    }

    /// The label pairs of its series.
    pub(super) fn pairs(&self) -> [String; 3] {
        let names = self.listed.names.each_ref();
        let [namespace, pod, container] = names.map(|it| str::from_utf8(it).unwrap());
        pairs(namespace, pod, container)
    }
}

/// How a server misbehaves.
#[derive(Clone, Copy)]
pub(super) enum Conduct {
    /// Accepts connections, and never sends a byte.
    Silent,
    /// Closes connections.
    Closing,
    /// Sends bytes that are not HTTP.
    Garbage,
    /// Sends messages that are not protobuf.
    Malformed,
    /// Begins a message, and never ends it.
    Unfinished,
    /// Sends a message byte by byte.
    Dripping,
    /// Never ends a message, at full speed.
    Flooding,
    /// Lists a hundred thousand pods.
    Crowded,
}

/// Starts a server that misbehaves.
pub(super) fn misbehaving(conduct: Conduct) -> Server {
    Server::start(move |stream| misbehave(stream, conduct))
}

async fn misbehave(mut stream: UnixStream, conduct: Conduct) {
    match conduct {
        Conduct::Silent => pending().await,
        Conduct::Closing => {}
        Conduct::Garbage => {
            let _ = stream.write_all(&vec![0xa5; 100_000]).await;
        }
        // The others look like CRI at first.
        Conduct::Malformed => {
            serve(stream, |_| message(&Message::new().text(1, [0xff; 1_000]))).await;
        }
        // The rest does not arrive while a test runs.
        Conduct::Unfinished => serve(stream, |_| endless(1, Duration::from_hours(1))).await,
        Conduct::Dripping => serve(stream, |_| endless(1, Duration::from_millis(100))).await,
        Conduct::Flooding => serve(stream, |_| endless(1 << 16, Duration::ZERO)).await,
        Conduct::Crowded => serve(stream, |_| message(&crowd())).await,
    }
}

/// A message of 4 GiB, of which some bytes are sent at a time.
fn endless(bytes: usize, pause: Duration) -> Body {
    let (mut sender, body) = Channel::new(1);
    tokio::spawn(async move {
        // Not compressed, the length, and one field that is nearly as long.
        let mut part = vec![0, 0xff, 0xff, 0xff, 0xff, 0x0a, 0xf0, 0xff, 0xff, 0xff, 0x0f];
        while sender.send_data(part.into()).await.is_ok() {
            sleep(pause).await;
            part = vec![b'x'; bytes];
        }
    });
    body.boxed()
}

/// A list of a hundred thousand pods.
fn crowd() -> Message {
    (0..100_000).fold(Message::new(), |message, number| {
        let (name, uid) = (format!("pod-{number}"), format!("uid-{number}"));
        let metadata = Message::new().text(1, name).text(2, uid).text(3, "crowd");
        // No container of a test has such an id.
        let id = format!("e{number:063x}");
        message.message(1, &Message::new().text(1, id).message(2, &metadata))
    })
}
