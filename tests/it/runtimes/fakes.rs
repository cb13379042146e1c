//! Servers that imitate container runtimes, faithfully or not, and the cgroups of their containers.

use std::{
    convert::Infallible,
    future::pending,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, channel::Channel, combinators::BoxBody};
use hyper::{
    Request, Response, body::Incoming, header::CONTENT_TYPE, server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sched_exporter_tests::{
    cgroups::{Process, Tree, bursts},
    grpc::{framed, success},
    kubelet::pairs,
    protobuf::Message,
};
use tempfile::TempDir;
use tokio::{
    io::AsyncWriteExt as _,
    net::{UnixListener, UnixStream},
    runtime::{Builder, Runtime},
    time::sleep,
};

/// A cgroup as a runtime makes it for a container of a pod, with a process that uses a share of a CPU.
pub(super) struct Running {
    /// The namespace, the pod and the container.
    names: [Vec<u8>; 3],
    uid: String,
    /// The id of the container.
    pub(super) id: String,
    _process: Process,
}

impl Running {
    /// Starts a container. Its ids are made of a number.
    pub(super) fn start(tree: &Tree, number: u32, names: [&[u8]; 3]) -> Self {
        let uid = format!("{number:08x}-0000-4000-8000-000000000000");
        Self::with_uid(tree, number, names, uid)
    }

    /// As [`Running::start`], in a pod with this uid.
    pub(super) fn with_uid(tree: &Tree, number: u32, names: [&[u8]; 3], uid: String) -> Self {
        let id = format!("{number:064x}");
        let path = format!("kubepods/burstable/pod{uid}");
        for part in ["kubepods", "kubepods/burstable"] {
            let _ = std::fs::create_dir(tree.at(&format!("{}/{part}", tree.path())).directory());
        }
        let cgroup = tree.create(&path).create(&id, false);
        let spin =
            || bursts(Duration::from_mins(2), Duration::from_millis(5), Duration::from_millis(45));
        let process = cgroup.start(spin);
        Self { names: names.map(<[u8]>::to_vec), uid, id, _process: process }
    }

    /// The label pairs of its series.
    pub(super) fn pairs(&self) -> [String; 3] {
        let [namespace, pod, container] =
            self.names.each_ref().map(|it| str::from_utf8(it).unwrap());
        pairs(namespace, pod, container)
    }

    /// What a runtime knows of a container.
    pub(super) fn listed(&self) -> Listed {
        Listed { names: self.names.clone(), uid: self.uid.clone(), id: self.id.clone() }
    }
}

/// What a runtime says of a container and its pod.
#[derive(Clone)]
pub(super) struct Listed {
    /// The namespace, the pod and the container.
    pub(super) names: [Vec<u8>; 3],
    pub(super) uid: String,
    pub(super) id: String,
}

impl Listed {
    fn sandbox_id(&self) -> String {
        self.id.replace('0', "f")
    }

    fn sandbox(&self) -> Message {
        let [namespace, pod, _] = &self.names;
        let metadata = Message::new().text(1, pod).text(2, &self.uid).text(3, namespace);
        Message::new().text(1, self.sandbox_id()).message(2, &metadata)
    }

    fn container(&self) -> Message {
        const RUNNING: u64 = 1;
        Message::new()
            .text(1, &self.id)
            .text(2, self.sandbox_id())
            .message(3, &Message::new().text(1, &self.names[2]))
            .message(4, &Message::new().text(1, "localhost/image:1"))
            .number(6, RUNNING)
    }
}

/// How a server answers.
#[derive(Clone)]
pub(super) enum Conduct {
    /// As CRI says: these are the containers.
    Honest(Arc<Mutex<Vec<Listed>>>),
    /// Accepts connections, and never sends a byte.
    Silent,
    /// Closes connections.
    Closing,
    /// Sends bytes that are no HTTP.
    Garbage,
    /// Sends messages that are no protobuf.
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

/// A server on a socket; it ends when dropped.
pub(super) struct Server {
    directory: TempDir,
    /// Ends the tasks of the server when dropped.
    runtime: Runtime,
}

impl Server {
    pub(super) fn start(conduct: Conduct) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let server = Self { directory, runtime };
        let _context = server.runtime.enter();
        let listener = UnixListener::bind(server.socket()).unwrap();
        server.runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, conduct.clone()));
            }
        });
        server
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("runtime.sock")
    }

    /// The URL of its socket.
    pub(super) fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }
}

/// Serves a connection. Errors are expected: some clients give up.
async fn serve(mut stream: UnixStream, conduct: Conduct) {
    match conduct {
        Conduct::Silent => pending().await,
        Conduct::Closing => {}
        Conduct::Garbage => {
            let _ = stream.write_all(&vec![0xa5; 100_000]).await;
        }
        _ => {
            let service = service_fn(|request| {
                let answer = answer(&request, &conduct);
                async { Ok::<_, Infallible>(answer) }
            });
            let http = http2::Builder::new(TokioExecutor::new());
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        }
    }
}

type Body = BoxBody<Bytes, Infallible>;

fn answer(request: &Request<Incoming>, conduct: &Conduct) -> Response<Body> {
    let method = request.uri().path().rsplit('/').next().unwrap_or_default();
    // All but the honest are CRI at first sight.
    let version = Message::new().text(1, "0.1.0").text(2, "fake").text(3, "1").text(4, "v1");
    let body = match conduct {
        _ if method == "Version" => message(&version),
        Conduct::Honest(listed) => match method {
            "ListPodSandbox" => message(&list(&listed.lock().unwrap(), Listed::sandbox)),
            "ListContainers" => message(&list(&listed.lock().unwrap(), Listed::container)),
            _ => message(&Message::new()),
        },
        Conduct::Malformed => message(&Message::new().text(1, [0xff; 1_000])),
        Conduct::Crowded => message(&crowd()),
        Conduct::Dripping => endless(1, Duration::from_millis(100)),
        Conduct::Flooding => endless(1 << 16, Duration::ZERO),
        // The rest does not come in the time of a test.
        _ => endless(1, Duration::from_hours(1)),
    };
    Response::builder().header(CONTENT_TYPE, "application/grpc").body(body).unwrap()
}

fn list(listed: &[Listed], item: impl Fn(&Listed) -> Message) -> Message {
    listed.iter().fold(Message::new(), |message, listed| message.message(1, &item(listed)))
}

fn message(message: &Message) -> Body {
    Full::new(framed(message)).with_trailers(async { Some(Ok(success())) }).boxed()
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

/// A list of a hundred thousand pods or containers.
fn crowd() -> Message {
    (0..100_000).fold(Message::new(), |message, number| {
        let metadata = Message::new().text(1, format!("pod-{number}")).text(3, "crowd");
        message.message(1, &Message::new().text(1, format!("{number:064x}")).message(2, &metadata))
    })
}
