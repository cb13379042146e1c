//! A server on a Unix socket that answers as a container runtime does, by the Container Runtime Interface, about
//! containers that need not exist.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::{
    Request, Response, body::Incoming, header::CONTENT_TYPE, server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::TempDir;
use tokio::{
    net::{UnixListener, UnixStream},
    runtime::{Builder, Runtime},
};

use crate::{
    grpc::{framed, success},
    protobuf::Message,
};

/// The body of a response.
pub type Body = BoxBody<Bytes, Infallible>;

/// What a runtime says of a container and its pod.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The namespace, the pod and the container.
    pub names: [Vec<u8>; 3],
    /// The uid of the pod.
    pub uid: String,
    /// The id of the container.
    pub id: String,
    /// The id of the pod's sandbox.
    pub sandbox: String,
}

impl Listed {
    /// A container with this number, which ids are made of, in a pod of its own.
    pub fn numbered(number: u32, names: [&[u8]; 3]) -> Self {
        Self {
            names: names.map(<[u8]>::to_vec),
            uid: format!("{number:08x}-0000-4000-8000-000000000000"),
            id: format!("{number:064x}"),
            sandbox: format!("f{number:063x}"),
        }
    }

    /// The path of its cgroup, without a slash at the start.
    pub fn cgroup(&self) -> String {
        format!("kubepods/burstable/pod{}/{}", self.uid, self.id)
    }

    /// The labels that kubelet gives pods.
    fn labels(&self) -> [(&str, &[u8]); 3] {
        let [namespace, pod, _] = &self.names;
        [
            ("io.kubernetes.pod.namespace", namespace),
            ("io.kubernetes.pod.name", pod),
            ("io.kubernetes.pod.uid", self.uid.as_bytes()),
        ]
    }

    fn sandbox(&self) -> Message {
        let [namespace, pod, _] = &self.names;
        let metadata = Message::new().text(1, pod).text(2, &self.uid).text(3, namespace);
        Message::new().text(1, &self.sandbox).message(2, &metadata).map(5, &self.labels())
    }

    fn container(&self) -> Message {
        const RUNNING: u64 = 1;
        let name = &self.names[2];
        let labels = self.labels().into_iter().chain([("io.kubernetes.container.name", &name[..])]);
        Message::new()
            .text(1, &self.id)
            .text(2, &self.sandbox)
            .message(3, &Message::new().text(1, name))
            .message(4, &Message::new().text(1, "localhost/image:1"))
            .number(6, RUNNING)
            .map(8, &labels.collect::<Vec<_>>())
    }
}

/// A server on a socket; it ends when dropped.
pub struct Server {
    directory: TempDir,
    /// Ends the tasks of the server when dropped.
    runtime: Runtime,
}

impl Server {
    /// Serves each connection by `serve`.
    pub fn start<F>(serve: impl Fn(UnixStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let directory = tempfile::tempdir().unwrap();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let server = Self { directory, runtime };
        let _context = server.runtime.enter();
        let listener = UnixListener::bind(server.socket()).unwrap();
        server.runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream));
            }
        });
        server
    }

    /// Lists these containers and their pods.
    pub fn listing(listed: Arc<Mutex<Vec<Listed>>>) -> Self {
        Self::start(move |stream| {
            let listed = Arc::clone(&listed);
            serve(stream, move |method| match method {
                "ListPodSandbox" => message(&sandboxes(&listed.lock().unwrap())),
                "ListContainers" => message(&containers(&listed.lock().unwrap())),
                _ => message(&Message::new()),
            })
        })
    }

    /// The path of its socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("runtime.sock")
    }

    /// The URL of its socket.
    pub fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }
}

/// Serves a connection: names the runtime, and answers other methods by `answer`. Errors are expected: some clients
/// give up.
pub async fn serve(stream: UnixStream, answer: impl Fn(&str) -> Body) {
    let service = service_fn(|request: Request<Incoming>| {
        let body = match request.uri().path().rsplit('/').next().unwrap_or_default() {
            "Version" => message(&version()),
            method => answer(method),
        };
        let response = Response::builder().header(CONTENT_TYPE, "application/grpc").body(body);
        async { Ok::<_, Infallible>(response.unwrap()) }
    });
    let http = http2::Builder::new(TokioExecutor::new());
    let _ = http.serve_connection(TokioIo::new(stream), service).await;
}

/// A response with a message.
pub fn message(message: &Message) -> Body {
    Full::new(framed(message)).with_trailers(async { Some(Ok(success())) }).boxed()
}

fn version() -> Message {
    Message::new().text(1, "0.1.0").text(2, "fake").text(3, "1").text(4, "v1")
}

fn sandboxes(listed: &[Listed]) -> Message {
    let pods: BTreeMap<_, _> = listed.iter().map(|it| (&it.sandbox, it)).collect();
    pods.values().fold(Message::new(), |list, it| list.message(1, &it.sandbox()))
}

fn containers(listed: &[Listed]) -> Message {
    listed.iter().fold(Message::new(), |list, it| list.message(1, &it.container()))
}
