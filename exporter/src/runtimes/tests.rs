//! Asks fake runtimes over Unix sockets, and a fake Kubernetes API.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    ffi::OsString,
    fs,
    future::pending,
    io::Write as _,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, mpsc},
    task::{Context, Poll},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper::{
    HeaderMap, Request, Response,
    body::{Body, Frame, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::sys::socket::{MsgFlags, recv};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{io::Interest, net::UnixListener, runtime, sync::oneshot};

use super::{
    ask::Pace,
    protobuf::encode::{bytes, number},
    *,
};
use crate::{
    expr::{
        cgroup::{CgroupKey, CgroupName, CgroupNames, CgroupUses, NamesFrom, PodMap},
        relabel::{Compiler, RuleSpec},
    },
    os::fake::{self, Authority, HttpAnswer, answer},
};

/// Allows each question again at once; the limit is long enough for a busy machine.
const AT_ONCE: Pace = Pace {
    limit: Duration::from_secs(10),
    refresh: Duration::ZERO,
    api_refresh: Duration::ZERO,
    retry: Duration::ZERO,
    api_retry: Duration::ZERO,
    max_retry: Duration::ZERO,
};

const IMPATIENT: Pace = Pace { limit: Duration::from_millis(200), ..AT_ONCE };

/// The id of a container: 64 hexadecimal digits that end with these.
fn id(end: &str) -> String {
    format!("{end:0>64}")
}

fn uid(end: &str) -> String {
    format!("11111111-2222-3333-4444-{end:0>12}")
}

// ---- Servers ----

/// A server on a Unix socket. Dropping it is like killing the runtime: the file of the socket stays.
struct Fake {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    /// Serves each connection by `serve`.
    fn start<F>(path: &Path, serve: impl Fn(tokio::net::UnixStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + 'static,
    {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = fs::remove_file(path);
        let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            let reactor = runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let local = tokio::task::LocalSet::new();
            local.block_on(&reactor, async {
                let listener = UnixListener::from_std(listener).unwrap();
                let accept = async {
                    loop {
                        let (stream, _) = listener.accept().await.unwrap();
                        tokio::task::spawn_local(serve(stream));
                    }
                };
                tokio::select! {
                    () = accept => {}
                    _ = stopped => {}
                }
            });
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }

    /// A gRPC server. Requests for methods without a reply hang.
    fn grpc(path: &Path, reply: impl Fn(&str) -> Option<Reply> + Clone + Send + 'static) -> Self {
        Self::start(path, move |stream| serve_grpc(stream, reply.clone()))
    }

    /// A server of HTTP/1.1. Requests without an answer hang.
    fn http(
        path: &Path,
        respond: impl Fn(&str) -> Option<HttpAnswer> + Clone + Send + 'static,
    ) -> Self {
        Self::start(path, move |stream| serve_http(stream, respond.clone()))
    }
}

async fn serve_grpc(
    stream: tokio::net::UnixStream,
    reply: impl Fn(&str) -> Option<Reply> + 'static,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        assert_eq!(request.uri().authority().unwrap(), "localhost");
        assert_eq!(request.headers()["content-type"], "application/grpc");
        assert_eq!(request.headers()["te"], "trailers");
        let reply = reply(request.uri().path());
        async move {
            match reply {
                Some(reply) => Ok::<_, Infallible>(reply.response()),
                None => pending().await,
            }
        }
    });
    let http = http2::Builder::new(TokioExecutor::new());
    // Errors are expected: clients give up.
    let _ = http.serve_connection(TokioIo::new(stream), service).await;
}

async fn serve_http(
    stream: tokio::net::UnixStream,
    respond: impl Fn(&str) -> Option<HttpAnswer> + 'static,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = respond(&request.uri().to_string());
        async move {
            match answer {
                Some(answer) => Ok::<_, Infallible>(answer),
                None => pending().await,
            }
        }
    });
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
        let _ = self.thread.take().unwrap().join();
    }
}

/// How a fake answers a call.
#[derive(Clone, Debug)]
struct Reply {
    head: Vec<(&'static str, String)>,
    status: u16,
    data: VecDeque<Bytes>,
    /// Repeats the last piece of data forever.
    is_endless: bool,
    has_yielded: bool,
    trailers: Option<Vec<(&'static str, String)>>,
}

impl Reply {
    /// These bytes, without a prefix.
    fn raw(data: impl Into<Vec<u8>>) -> Self {
        Self {
            head: vec![("content-type", "application/grpc".into())],
            status: 200,
            data: [Bytes::from(data.into())].into(),
            is_endless: false,
            has_yielded: false,
            trailers: Some(vec![("grpc-status", "0".into())]),
        }
    }

    /// A message, sent in pieces.
    fn message(message: &[u8]) -> Self {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let whole = [&[0], &length[..], message].concat();
        let pieces = whole.chunks(5000).map(Bytes::copy_from_slice);
        Self { data: pieces.collect(), ..Self::raw([]) }
    }

    fn failed(code: u32, message: &str) -> Self {
        let status = vec![("grpc-status", code.to_string()), ("grpc-message", message.into())];
        Self { data: VecDeque::new(), trailers: Some(status), ..Self::raw([]) }
    }

    fn response(self) -> Response<Self> {
        let mut response = Response::builder().status(self.status);
        for (name, value) in &self.head {
            response = response.header(*name, value);
        }
        response.body(self).unwrap()
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.is_endless && self.data.len() == 1 {
            // Let other tasks run: the server would never stop by itself.
            self.has_yielded = !self.has_yielded;
            if self.has_yielded {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            return Poll::Ready(Some(Ok(Frame::data(self.data[0].clone()))));
        }
        if let Some(data) = self.data.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let Some(trailers) = self.trailers.take() else { return Poll::Ready(None) };
        let mut headers = HeaderMap::new();
        for (name, value) in trailers {
            headers.insert(name, value.parse().unwrap());
        }
        Poll::Ready(Some(Ok(Frame::trailers(headers))))
    }
}

const VERSION: &str = "/runtime.v1.RuntimeService/Version";
const CONTAINERS: &str = "/runtime.v1.RuntimeService/ListContainers";
const SANDBOXES: &str = "/runtime.v1.RuntimeService/ListPodSandbox";
const IMAGES: &str = "/runtime.v1.ImageService/ListImages";

fn container(id: &str, sandbox: &str, name: &str, image: &str) -> Vec<u8> {
    let message = [
        bytes(1, id),
        bytes(2, sandbox),
        bytes(3, [bytes(1, name), number(2, 1)].concat()),
        bytes(4, bytes(1, image)),
        bytes(5, "sha256:f00d"),
        number(6, 1),
        bytes(8, [bytes(1, "io.kubernetes.pod.namespace"), bytes(2, "forged")].concat()),
    ];
    bytes(1, message.concat())
}

fn sandbox(id: &str, namespace: &str, name: &str, uid: &str, labels: &[(&str, &str)]) -> Vec<u8> {
    let metadata = [bytes(1, name), bytes(2, uid), bytes(3, namespace), number(4, 0)];
    let entry = |key: &str, value: &str| [bytes(1, key), bytes(2, value)].concat();
    let labels = labels.iter().map(|(key, value)| bytes(5, entry(key, value)));
    let message = [bytes(1, id), bytes(2, metadata.concat()), number(4, 1_700_000_000)];
    let annotation = bytes(6, entry("example.com/note", "chosen\n"));
    bytes(1, [message.concat(), labels.collect::<Vec<_>>().concat(), annotation].concat())
}

fn image(id: &str, tags: &[&str], digests: &[&str]) -> Vec<u8> {
    let tags = tags.iter().map(|tag| bytes(2, tag));
    let digests = digests.iter().map(|digest| bytes(3, digest));
    let names: Vec<_> = tags.chain(digests).collect();
    bytes(1, [bytes(1, id), names.concat(), number(4, 1000)].concat())
}

/// What a fake runtime lists. Tests change it while it runs.
#[derive(Debug, Default)]
struct Lists {
    containers: Vec<u8>,
    sandboxes: Vec<u8>,
    images: Vec<u8>,
    /// The methods that have been called.
    calls: Vec<String>,
}

/// A containerd with these lists.
fn containerd(path: &Path, lists: &Arc<Mutex<Lists>>) -> Fake {
    let lists = Arc::clone(lists);
    Fake::grpc(path, move |method| {
        let mut lists = lists.lock().unwrap();
        lists.calls.push(method.to_owned());
        Some(Reply::message(match method {
            VERSION => return Some(Reply::message(&bytes(2, "containerd"))),
            CONTAINERS => &lists.containers,
            SANDBOXES => &lists.sandboxes,
            IMAGES => &lists.images,
            _ => return Some(Reply::failed(12, "unknown")),
        }))
    })
}

/// One pod with one container.
fn one_pod() -> Lists {
    Lists {
        containers: container(&id("c1"), &id("5a"), "cart", "docker.io/library/cart:1"),
        sandboxes: sandbox(&id("5a"), "shop", "cart-0", &uid("1"), &[("app", "cart")]),
        ..Lists::default()
    }
}

fn shared(lists: Lists) -> Arc<Mutex<Lists>> {
    Arc::new(Mutex::new(lists))
}

// ---- Questions ----

/// A directory with sockets, and whom to ask.
struct Host {
    top: TempDir,
}

impl Host {
    fn new() -> Self {
        Self { top: TempDir::new().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.top.path().join(name)
    }

    fn url(&self, name: &str) -> String {
        format!("unix://{}", self.path(name).display())
    }

    fn settings(&self, sockets: &[&str]) -> Settings {
        let sockets = Some(sockets.iter().map(|name| self.path(name)).collect());
        Settings { sockets, kubernetes_pods: false, uses: uses(&[]) }
    }

    fn origins(&self) -> Origins {
        Origins {
            root: self.top.path().into(),
            environment: Arc::default(),
            service_account: self.path("serviceaccount"),
        }
    }

    fn runtimes(&self, sockets: &[&str], pace: Pace) -> Runtimes {
        Runtimes::with_pace(self.settings(sockets), self.origins(), pace)
    }
}

/// Uses of names, and of these labels of pods.
fn uses(labels: &[&str]) -> Arc<CgroupUses> {
    let labels = labels.iter().map(|key| CgroupKey::OfPod(PodMap::Labels, (*key).into()));
    let names = [CgroupName::PodName, CgroupName::Image].map(CgroupKey::Name);
    let keys: Vec<_> = labels.chain(names).collect();
    Arc::new(CgroupUses::new(&keys, &[]))
}

/// A use of all labels and annotations of pods, and of the label `team` in a template.
fn uses_of_all() -> Arc<CgroupUses> {
    let all = RuleSpec {
        action: Some("labelmap"),
        regex: Some("__meta_cgroup_pod_(?:label|annotation)_(.+)"),
        ..RuleSpec::default()
    };
    let rule = Compiler::default().rule(&all).unwrap();
    Arc::new(CgroupUses::new(&[CgroupKey::OfPod(PodMap::Labels, "team".into())], &[rule]))
}

/// Asks, and returns whether the inventory changed.
fn is_news(runtimes: &mut Runtimes, is_missing: bool) -> bool {
    let before = runtimes.inventory();
    runtimes.ask(is_missing);
    runtimes.inventory() != before
}

/// The labels and annotations of a pod.
fn metadata_of(names: &CgroupNames) -> Vec<String> {
    names.pod_metadata().map(|(_, key, value)| format!("{key}={value}")).collect()
}

/// The names of the container with this id, in a pod: namespace, pod, container, image, runtime.
#[track_caller]
fn names_of(runtimes: &Runtimes, container_id: &str, pod_uid: &str) -> [String; 5] {
    let (names, _) = look_up(runtimes, container_id, pod_uid);
    [names.namespace, names.pod_name, names.container_name, names.image, names.runtime]
}

fn look_up(runtimes: &Runtimes, container_id: &str, pod_uid: &str) -> (CgroupNames, NamesFrom) {
    let mut names = CgroupNames {
        container_id: container_id.into(),
        pod_uid: pod_uid.into(),
        ..CgroupNames::default()
    };
    let inventory = runtimes.inventory();
    let lacks = inventory.lacks(&names);
    let from = match inventory.find(&names) {
        Some(known) => {
            known.add_to(&mut names);
            known.from().clone()
        }
        None => NamesFrom::Path,
    };
    let is_container = !container_id.is_empty() && names.runtime.is_empty();
    assert_eq!(lacks, is_container || from == NamesFrom::Path, "{container_id} {pod_uid}");
    (names, from)
}

const CART: [&str; 5] = ["shop", "cart-0", "cart", "docker.io/library/cart:1", "containerd"];

const NOTHING: [&str; 5] = [""; 5];

const EXCEEDED: &str = "too many containers, pods, labels or long names; some are left out";

fn errors(runtimes: &Runtimes) -> Vec<String> {
    runtimes.states().into_iter().map(|state| state.error.unwrap_or_default()).collect()
}

#[track_caller]
fn assert_error(runtimes: &Runtimes, expected: &str) {
    let errors = errors(runtimes);
    let [error] = &errors[..] else { panic!("{errors:?}") };
    assert!(error.contains(expected) && !error.is_empty(), "{error}");
}

/// Any user can give a cgroup the name of another's container.
#[test]
fn cgroups_of_users_have_names_only_from_the_runtimes_of_these() {
    let host = Host::new();
    let (of_host, of_user) = ("run/s", "run/user/1000/podman/podman.sock");
    let _host = containerd(&host.path(of_host), &shared(one_pod()));
    let own = Lists {
        containers: container(&id("c2"), &id("5a"), "own", "image"),
        sandboxes: sandbox(&id("5a"), "of-user", "own-0", &uid("1"), &[]),
        ..Lists::default()
    };
    let _user = containerd(&host.path(of_user), &shared(own));
    let mut runtimes = host.runtimes(&[of_host, of_user], AT_ONCE);
    runtimes.ask(true);
    let inventory = runtimes.inventory();
    let found = |user: &str, container_id: &str| {
        let mut names = CgroupNames {
            user: user.into(),
            container_id: id(container_id),
            pod_uid: uid("1"),
            ..CgroupNames::default()
        };
        let lacks = inventory.lacks(&names);
        if let Some(known) = inventory.find(&names) {
            known.add_to(&mut names);
        }
        (names.namespace, names.container_name, lacks)
    };
    let expected = |namespace: &str, name: &str| (namespace.into(), name.into(), name.is_empty());
    for of_host in ["", "0"] {
        assert_eq!(found(of_host, "c1"), expected("shop", "cart"));
        assert_eq!(found(of_host, "c2"), expected("shop", ""));
    }
    assert_eq!(found("1000", "c1"), expected("of-user", ""));
    assert_eq!(found("1000", "c2"), expected("of-user", "own"));
    assert_eq!(found("1001", "c1"), expected("", ""));
    assert_eq!(found("1001", "c2"), expected("", ""));
}

// ---- CRI ----

#[test]
fn cri_names_containers_pods_and_pause_containers() {
    let host = Host::new();
    let _runtime = containerd(&host.path("s"), &shared(one_pod()));
    let mut runtimes = host.runtimes(&["s"], AT_ONCE);
    assert_eq!(runtimes.inventory(), Inventory::default());
    assert!(is_news(&mut runtimes, true));
    assert_eq!(runtimes.states(), [SourceState { name: host.url("s"), error: None }]);
    assert_eq!(names_of(&runtimes, &id("c1"), &uid("1")), CART);
    // Labels do not count.
    assert_eq!(names_of(&runtimes, &id("c1"), ""), CART);
    let pause = ["shop", "cart-0", "", "", "containerd"];
    assert_eq!(names_of(&runtimes, &id("5a"), &uid("1")), pause);
    let pod = ["shop", "cart-0", "", "", ""];
    assert_eq!(names_of(&runtimes, "", &uid("1")), pod);
    // A container that is not listed yet.
    assert_eq!(names_of(&runtimes, &id("c2"), &uid("1")), pod);
    assert_eq!(names_of(&runtimes, &id("c2"), &uid("2")), NOTHING);
    let (names, from) = look_up(&runtimes, &id("c1"), "");
    assert_eq!((names.pod_uid, from), (uid("1"), NamesFrom::Runtime(host.url("s").into())));
    // Neither a container of a runtime, nor a pod.
    let lxc = CgroupNames { container_id: "first".into(), ..CgroupNames::default() };
    assert!(!runtimes.inventory().lacks(&lxc));
    assert!(!runtimes.inventory().lacks(&CgroupNames::default()));
    // The same answer again is no news.
    assert!(!is_news(&mut runtimes, true));
}

#[test]
fn images_have_their_names_and_are_listed_only_if_needed() {
    let host = Host::new();
    let image_id = format!("sha256:{}", id("1"));
    let by_user = bytes(18, "cart:by-user");
    let lists = shared(Lists {
        containers: [
            container(&id("c1"), &id("5a"), "a", &image_id),
            container(&id("c2"), &id("5a"), "b", "nginx:1.27"),
            bytes(
                1,
                [
                    bytes(1, id("c3")),
                    bytes(2, id("5a")),
                    bytes(3, bytes(1, "c")),
                    bytes(4, [bytes(1, &image_id), by_user].concat()),
                ]
                .concat(),
            ),
        ]
        .concat(),
        images: [
            image("sha256:other", &["other:1"], &[]),
            image(&image_id, &["<none>:<none>", "z:1", "cart:2"], &["a@sha256:1"]),
        ]
        .concat(),
        ..one_pod()
    });
    let _runtime = containerd(&host.path("s"), &lists);
    let mut runtimes = host.runtimes(&["s"], AT_ONCE);
    let images = |runtimes: &Runtimes| {
        ["c1", "c2", "c3", "c4", "c5"].map(|it| names_of(runtimes, &id(it), "")[3].clone())
    };
    runtimes.ask(true);
    assert_eq!(images(&runtimes), ["cart:2", "nginx:1.27", "cart:by-user", "", ""]);
    let calls = |lists: &Arc<Mutex<Lists>>| std::mem::take(&mut lists.lock().unwrap().calls);
    assert_eq!(calls(&lists), [VERSION, CONTAINERS, SANDBOXES, IMAGES]);
    // The protocol and the images are known.
    runtimes.ask(true);
    assert_eq!(calls(&lists), [CONTAINERS, SANDBOXES]);
    // An image that has only a digest, and one that is not listed.
    let digest = format!("sha256:{}", id("2"));
    let unknown = id("3");
    {
        let mut lists = lists.lock().unwrap();
        lists.containers.extend(container(&id("c4"), &id("5a"), "d", &digest));
        lists.containers.extend(container(&id("c5"), &id("5a"), "e", &unknown));
        lists.images.extend(image(&digest, &[], &["b@sha256:2", "a@sha256:2"]));
    }
    runtimes.ask(true);
    assert_eq!(images(&runtimes), ["cart:2", "nginx:1.27", "cart:by-user", "a@sha256:2", &unknown]);
    runtimes.ask(true);
    assert_eq!(calls(&lists), [CONTAINERS, SANDBOXES, IMAGES, CONTAINERS, SANDBOXES]);
}

#[test]
fn without_images_containers_and_pods_have_their_names() {
    let [known, new] = ["1", "2"].map(|end| format!("sha256:{}", id(end)));
    let first = container(&id("c1"), &id("5a"), "a", &known);
    let second = container(&id("c2"), &id("5a"), "b", &new);
    for (no_images, reason) in [
        (Some(Reply::failed(14, "busy")), "the call failed with gRPC status UNAVAILABLE: busy"),
        (Some(Reply::message(&bytes(1, "a"))), "the answer is malformed"),
        (None, "no answer in time"),
    ] {
        let host = Host::new();
        let images = Reply::message(&image(&known, &["cart:1"], &[]));
        let state = Arc::new(Mutex::new((first.clone(), Some(images))));
        let served = Arc::clone(&state);
        let _runtime = Fake::grpc(&host.path("s"), move |method| {
            let (containers, images) = &*served.lock().unwrap();
            match method {
                VERSION => Some(Reply::message(&bytes(2, "containerd"))),
                CONTAINERS => Some(Reply::message(containers)),
                SANDBOXES => Some(Reply::message(&one_pod().sandboxes)),
                _ => images.clone(),
            }
        });
        let mut runtimes = host.runtimes(&["s"], Pace { limit: Duration::from_secs(1), ..AT_ONCE });
        runtimes.ask(true);
        assert_eq!(errors(&runtimes), [""]);
        *state.lock().unwrap() = ([&first[..], &second].concat(), no_images);
        runtimes.ask(true);
        assert_error(&runtimes, &format!("the names of some images are unknown: {reason}"));
        assert!(runtimes.may_answer());
        // Images that were known stay.
        assert_eq!(names_of(&runtimes, &id("c1"), "")[2..4], ["a", "cart:1"]);
        assert_eq!(names_of(&runtimes, &id("c2"), ""), ["shop", "cart-0", "b", &new, "containerd"]);
    }
}

#[test]
fn images_are_listed_only_if_their_names_are_used() {
    let host = Host::new();
    let image_id = format!("sha256:{}", id("1"));
    let containers = container(&id("c1"), &id("5a"), "a", &image_id);
    let lists = shared(Lists { containers, ..one_pod() });
    let _runtime = containerd(&host.path("s"), &lists);
    let uses = Arc::new(CgroupUses::new(&[CgroupKey::Name(CgroupName::PodName)], &[]));
    let settings = Settings { uses, ..host.settings(&["s"]) };
    let mut runtimes = Runtimes::with_pace(settings, host.origins(), AT_ONCE);
    runtimes.ask(true);
    assert_eq!(names_of(&runtimes, &id("c1"), "")[2], "a");
    assert_eq!(lists.lock().unwrap().calls, [VERSION, CONTAINERS, SANDBOXES]);
}

#[test]
fn only_labels_and_annotations_in_use_are_kept() {
    let host = Host::new();
    let lists = shared(Lists {
        sandboxes: sandbox(
            &id("5a"),
            "shop",
            "cart-0",
            &uid("1"),
            &[("app", "cart"), ("team", "x"), ("team", "red"), ("long", &"a".repeat(5000))],
        ),
        ..one_pod()
    });
    let _runtime = containerd(&host.path("s"), &lists);
    let mut runtimes = host.runtimes(&["s"], AT_ONCE);
    let kept = |runtimes: &mut Runtimes, uses: Arc<CgroupUses>| {
        runtimes.configure(Settings { uses, ..host.settings(&["s"]) });
        runtimes.ask(false);
        let (names, _) = look_up(runtimes, &id("c1"), "");
        metadata_of(&names)
    };
    assert_eq!(kept(&mut runtimes, uses(&[])), [""; 0]);
    assert_eq!(kept(&mut runtimes, uses(&["team", "absent", "long"])), ["team=red"]);
    assert_eq!(
        kept(&mut runtimes, uses_of_all()),
        ["app=cart", "team=red", r"example.com/note=chosen\x0a"]
    );
}

#[test]
fn many_labels_do_not_hide_those_in_templates() {
    let host = Host::new();
    let keys: Vec<_> = (0..5000).map(|n| format!("k{n}")).collect();
    let many: Vec<_> = keys.iter().map(|key| (key.as_str(), "")).collect();
    let of_many = |(n, labels): (usize, &[(&str, &str)])| {
        sandbox(&id(&format!("e{n}")), "evil", "evil", &uid(&format!("e{n}")), labels)
    };
    let lists = Lists {
        sandboxes: [
            many.chunks(200).enumerate().flat_map(of_many).collect(),
            sandbox(&id("5a"), "shop", "cart-0", &uid("1"), &[("team", "red"), ("app", "cart")]),
        ]
        .concat(),
        ..one_pod()
    };
    let _runtime = containerd(&host.path("s"), &shared(lists));
    let mut runtimes = host.runtimes(&["s"], AT_ONCE);
    for (uses, error) in [(uses(&["team"]), ""), (uses_of_all(), EXCEEDED)] {
        runtimes.configure(Settings { uses, ..host.settings(&["s"]) });
        runtimes.ask(false);
        let (names, _) = look_up(&runtimes, &id("c1"), "");
        assert!(metadata_of(&names).contains(&"team=red".to_owned()));
        assert_eq!(errors(&runtimes), [error]);
    }
}

#[test]
fn pods_with_huge_labels_take_no_room_from_others() {
    let host = Host::new();
    // Large values, and then small ones that fill the rest.
    let sizes = [(100, 4000), (500, 10), (100, 1)];
    let values = sizes.into_iter().flat_map(|(count, size)| vec!["a".repeat(size); count]);
    let pairs: Vec<_> = values.enumerate().map(|(n, value)| (format!("k{n:03}"), value)).collect();
    let huge: Vec<_> = pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let evil = |n: u32| {
        sandbox(&id(&format!("e{n}")), "evil", &format!("evil-{n}"), &uid(&format!("e{n}")), &huge)
    };
    let lists = Lists { sandboxes: (0..16).flat_map(evil).collect(), ..one_pod() };
    let lists = Lists { sandboxes: [lists.sandboxes, one_pod().sandboxes].concat(), ..lists };
    let _runtime = containerd(&host.path("s"), &shared(lists));
    let mut runtimes = host.runtimes(&["s"], AT_ONCE);
    runtimes.configure(Settings { uses: uses_of_all(), ..host.settings(&["s"]) });
    runtimes.ask(false);
    assert_eq!(names_of(&runtimes, &id("c1"), ""), CART);
    let (names, _) = look_up(&runtimes, &id("c1"), "");
    assert_eq!(metadata_of(&names), ["app=cart", r"example.com/note=chosen\x0a"]);
    let (names, _) = look_up(&runtimes, &id("e15"), "");
    assert_eq!(names.pod_name, "evil-15");
    let kept = metadata_of(&names).concat().len();
    assert!((15_000..=16 << 10).contains(&kept), "{kept}");
    assert_error(&runtimes, EXCEEDED);
}

#[test]
fn nobody_is_asked_if_nothing_is_used_that_runtimes_know() {
    let host = Host::new();
    let lists = shared(one_pod());
    let _runtime = containerd(&host.path("s"), &lists);
    let uses = Arc::new(CgroupUses::new(&[CgroupKey::Name(CgroupName::Unit)], &[]));
    let settings = Settings { uses, kubernetes_pods: true, ..host.settings(&["s"]) };
    let mut runtimes = Runtimes::with_pace(settings, host.origins(), AT_ONCE);
    assert_eq!(runtimes.ask_at(true), None);
    assert!(!is_news(&mut runtimes, true) && !runtimes.may_answer());
    assert_eq!(lists.lock().unwrap().calls, [""; 0]);
    runtimes.configure(host.settings(&["s"]));
    assert!(runtimes.may_answer());
    assert!(is_news(&mut runtimes, false));
    // Nor if the settings say so.
    runtimes.configure(host.settings(&[]));
    assert_eq!(runtimes.inventory(), Inventory::default());
    assert_eq!((runtimes.ask_at(true), runtimes.states()), (None, Vec::new()));
}

#[test]
fn the_last_good_answer_stays_while_a_runtime_is_restarted() {
    let host = Host::new();
    let lists = shared(one_pod());
    let runtime = containerd(&host.path("s"), &lists);
    let mut runtimes = host.runtimes(&["s"], AT_ONCE);
    runtimes.ask(true);
    drop(runtime);
    assert!(!is_news(&mut runtimes, true));
    assert_error(&runtimes, "cannot connect: Connection refused");
    assert_eq!(names_of(&runtimes, &id("c1"), ""), CART);
    assert!(!runtimes.may_answer());
    fs::remove_file(host.path("s")).unwrap();
    assert!(!is_news(&mut runtimes, true));
    assert_error(&runtimes, "cannot connect: No such file");
    // Another file has the path now.
    lists.lock().unwrap().containers.extend(container(&id("c2"), &id("5a"), "db", "db:1"));
    let _runtime = containerd(&host.path("s"), &lists);
    assert!(is_news(&mut runtimes, true));
    assert_eq!(errors(&runtimes), [""]);
    assert_eq!(names_of(&runtimes, &id("c2"), "")[2], "db");
    // A container that has been removed is not kept.
    *lists.lock().unwrap() = one_pod();
    assert!(is_news(&mut runtimes, true));
    assert_eq!(names_of(&runtimes, &id("c2"), ""), NOTHING);
}

#[test]
fn a_runtime_that_hangs_delays_no_other() {
    let host = Host::new();
    let _hanging = Fake::start(&host.path("accepts"), |stream| async move {
        let _stream = stream;
        pending::<()>().await;
    });
    let _silent = Fake::grpc(&host.path("silent"), |_| None);
    let _halfway = Fake::grpc(&host.path("halfway"), |method| {
        (method != SANDBOXES).then(|| Reply::message(&[]))
    });
    let _good = containerd(&host.path("good"), &shared(one_pod()));
    let sockets = ["accepts", "silent", "halfway", "good"];
    let mut runtimes =
        host.runtimes(&sockets, Pace { limit: Duration::from_millis(500), ..AT_ONCE });
    let begin = Instant::now();
    assert!(is_news(&mut runtimes, true));
    assert!(begin.elapsed() < Duration::from_millis(1500), "{:?}", begin.elapsed());
    let late = "no answer in time";
    assert_eq!(errors(&runtimes), [late, late, late, ""]);
    assert_eq!(names_of(&runtimes, &id("c1"), ""), CART);
}

#[test]
fn a_runtime_that_hangs_hardly_delays_new_containers_of_others() {
    let host = Host::new();
    let _hanging = Fake::grpc(&host.path("hanging"), |_| None);
    let lists = shared(one_pod());
    let _good = containerd(&host.path("good"), &lists);
    let pace = Pace { limit: Duration::from_secs(2), refresh: Duration::from_mins(1), ..AT_ONCE };
    let mut runtimes = host.runtimes(&["hanging", "good"], pace);
    runtimes.ask(false);
    assert_eq!(errors(&runtimes), ["no answer in time", ""]);
    lists.lock().unwrap().containers.extend(container(&id("c2"), &id("5a"), "db", "db:1"));
    let begin = Instant::now();
    runtimes.ask(true);
    assert!(begin.elapsed() < Duration::from_millis(1500), "{:?}", begin.elapsed());
    assert_eq!(names_of(&runtimes, &id("c2"), "")[2], "db");
}

#[test]
fn answers_that_are_not_grpc_messages_are_errors() {
    let prefix = |flag: u8, length: u32| [&[flag][..], &length.to_be_bytes()].concat();
    let no_status = || Reply { trailers: Some(vec![("a", "b".into())]), ..Reply::message(&[]) };
    let html = || Reply { head: vec![("content-type", "text/html".into())], ..Reply::message(&[]) };
    let at_once = || Reply {
        head: [&Reply::raw([]).head[..], &[("grpc-status", "13".into())]].concat(),
        trailers: None,
        ..Reply::raw([])
    };
    for (reply, expected) in [
        (
            Reply::failed(14, "server is not%20initialized"),
            "gRPC status UNAVAILABLE: server is not initialized",
        ),
        (Reply::failed(7, ""), "gRPC status PERMISSION_DENIED"),
        (Reply::failed(99, "\t"), "gRPC status 99"),
        (at_once(), "gRPC status INTERNAL"),
        (no_status(), "no gRPC status"),
        (Reply { trailers: None, ..Reply::message(&[]) }, "no gRPC status"),
        (
            Reply { trailers: Some(vec![("grpc-status", "x".into())]), ..Reply::message(&[]) },
            "no gRPC status",
        ),
        (html(), "not gRPC but HTTP status 200 OK"),
        (Reply { status: 503, ..Reply::message(&[]) }, "not gRPC but HTTP status 503"),
        (Reply::raw([]), "not one uncompressed message"),
        (Reply::raw(prefix(0, 0)[..4].to_vec()), "not one uncompressed message"),
        (Reply::raw(prefix(1, 0)), "not one uncompressed message"),
        (Reply::raw(prefix(0, 1)), "not one uncompressed message"),
        (Reply::raw([&prefix(0, 0)[..], &[0]].concat()), "not one uncompressed message"),
        (
            Reply::raw([&prefix(0, u32::MAX)[..], &bytes(1, "a")].concat()),
            "malformed: a protobuf message that is cut off",
        ),
        (Reply::message(&bytes(1, "a")), "malformed: a protobuf message that is cut off"),
        (Reply::message(&bytes(1, [0x0b])), "malformed: a protobuf field of an unknown type"),
        (
            Reply::message(&bytes(1, bytes(1, "a"))[..3]),
            "malformed: a protobuf message that is cut off",
        ),
        (
            Reply::message(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0x7f]),
            "malformed: a protobuf message that is cut off",
        ),
    ] {
        let host = Host::new();
        let shown = format!("{reply:?}");
        let _runtime = Fake::grpc(&host.path("s"), move |method| {
            Some(match method {
                VERSION => Reply::message(&bytes(2, "containerd")),
                CONTAINERS => reply.clone(),
                _ => Reply::message(&[]),
            })
        });
        let mut runtimes = host.runtimes(&["s"], AT_ONCE);
        assert!(!is_news(&mut runtimes, true), "{shown}");
        assert_error(&runtimes, expected);
    }
}

#[test]
fn endless_answers_end() {
    let host = Host::new();
    let stream = |head: &[u8], piece: Vec<u8>| Reply {
        data: [Bytes::copy_from_slice(head), piece.into()].into(),
        is_endless: true,
        ..Reply::raw([])
    };
    let large = [0, 0xff, 0xff, 0xff, 0xff];
    for (reply, expected) in [
        // A message of containers without names.
        (stream(&large, bytes(1, bytes(1, "a")).repeat(1000)), "larger than 16777216 bytes"),
        // One container that is too large.
        (
            stream(&[&large[..], &[0x0a, 0x80, 0x80, 0x80, 0x80, 0x08]].concat(), vec![0; 5000]),
            "larger than 16777216 bytes",
        ),
    ] {
        let _runtime = Fake::grpc(&host.path("s"), move |method| {
            Some(if method == VERSION { Reply::message(&[]) } else { reply.clone() })
        });
        let mut runtimes = host.runtimes(&["s"], AT_ONCE);
        runtimes.ask(true);
        assert_error(&runtimes, expected);
    }
    // Nothing but empty frames.
    let _runtime = Fake::grpc(&host.path("s"), move |method| {
        Some(if method == VERSION { Reply::message(&[]) } else { stream(&[], Vec::new()) })
    });
    let mut runtimes = host.runtimes(&["s"], IMPATIENT);
    let begin = Instant::now();
    runtimes.ask(true);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert_eq!(errors(&runtimes).len(), 1);
    assert_ne!(errors(&runtimes), [""]);
}

#[test]
fn items_that_are_too_large_or_too_many_are_left_out() {
    let host = Host::new();
    let large = "a".repeat(2 << 20);
    let lists = shared(Lists {
        containers: [
            container(&id("c1"), &id("5a"), "cart", "docker.io/library/cart:1"),
            container(&id("c2"), &id("5a"), &large, "a"),
            container(&id("c3"), &id("5a"), &"a".repeat(254), "a"),
            container(&id("c4"), &id("5a"), "d", &"a".repeat(513)),
            container(&id("c5"), &id("5a"), "", "a"),
            container(&id("c6"), &id("99"), "of-no-sandbox", "a"),
            container("c7", &id("5a"), "short-id", "a"),
            container(&id("c8").to_uppercase(), &id("5a"), "upper-id", "a"),
        ]
        .concat(),
        ..one_pod()
    });
    let _runtime = containerd(&host.path("s"), &lists);
    let mut runtimes = host.runtimes(&["s"], AT_ONCE);
    runtimes.ask(true);
    assert_eq!(errors(&runtimes), [""]);
    assert_eq!(names_of(&runtimes, &id("c1"), ""), CART);
    for left_out in ["c2", "c3", "c5", "c6", "c7", "c8"] {
        assert_eq!(names_of(&runtimes, &id(left_out), ""), NOTHING, "{left_out}");
    }
    assert_eq!(names_of(&runtimes, &id("c4"), ""), ["shop", "cart-0", "d", "", "containerd"]);
    let many = (0..20_000).flat_map(|n| container(&id(&format!("{n:x}")), &id("5a"), "many", "a"));
    lists.lock().unwrap().containers = many.collect();
    let pods = sandbox(&id("5a"), "shop", "cart-0", &uid("1"), &[]);
    lists.lock().unwrap().sandboxes = pods;
    runtimes.ask(true);
    assert_error(&runtimes, EXCEEDED);
    assert!(runtimes.may_answer());
}

#[test]
fn control_characters_are_escaped() {
    let host = Host::new();
    let lists = Lists {
        containers: container(&id("c1"), &id("5a"), "a\nb\u{1b}[0m", "i\u{85}"),
        sandboxes: sandbox(&id("5a"), "n\0", "p\"é", &uid("1"), &[]),
        ..Lists::default()
    };
    let _runtime = containerd(&host.path("s"), &shared(lists));
    let mut runtimes = host.runtimes(&["s"], AT_ONCE);
    runtimes.ask(true);
    let expected = [r"n\x00", "p\"é", r"a\x0ab\x1b[0m", r"i\xc2\x85", "containerd"];
    assert_eq!(names_of(&runtimes, &id("c1"), ""), expected);
}

#[test]
fn duplicates_do_not_depend_on_their_order() {
    let host = Host::new();
    let mut containers = [
        container(&id("c1"), &id("5a"), "b", "x"),
        container(&id("c1"), &id("5a"), "a", "y"),
        container(&id("c1"), &id("5a"), "a", "x"),
        container(&id("5a"), &id("5a"), "claims-to-be-pause", "x"),
    ];
    let lists = shared(one_pod());
    let _runtime = containerd(&host.path("s"), &lists);
    let mut runtimes = host.runtimes(&["s"], AT_ONCE);
    for _ in 0..containers.len() {
        containers.rotate_left(1);
        lists.lock().unwrap().containers = containers.concat();
        runtimes.ask(true);
        assert_eq!(names_of(&runtimes, &id("c1"), "")[2..4], ["a", "x"]);
        assert_eq!(names_of(&runtimes, &id("5a"), "")[2], "");
    }
}

#[test]
fn of_several_sandboxes_of_a_pod_the_one_that_is_ready_counts() {
    let host = Host::new();
    let at = |end: &str, name: &str, created_at: u64, state: u64| {
        let metadata = [bytes(1, name), bytes(2, uid("1")), bytes(3, "shop")].concat();
        let message =
            [bytes(1, id(end)), bytes(2, metadata), number(3, state), number(4, created_at)];
        bytes(1, message.concat())
    };
    let mut sandboxes = [at("1", "old", 1, 1), at("2", "ready", 2, 0), at("3", "dead", 3, 1)];
    let lists = shared(Lists::default());
    let _runtime = containerd(&host.path("s"), &lists);
    let mut runtimes = host.runtimes(&["s"], AT_ONCE);
    for _ in 0..sandboxes.len() {
        sandboxes.rotate_left(1);
        lists.lock().unwrap().sandboxes = sandboxes.concat();
        runtimes.ask(true);
        assert_eq!(names_of(&runtimes, "", &uid("1"))[1], "ready");
        assert_eq!(names_of(&runtimes, &id("3"), "")[1], "dead");
    }
}

#[test]
fn the_first_source_that_knows_a_container_counts() {
    let host = Host::new();
    let _first = containerd(&host.path("first"), &shared(one_pod()));
    let liar = Lists {
        containers: [
            container(&id("c1"), &id("5b"), "stolen", "x"),
            container(&id("5a"), &id("5b"), "stolen", "x"),
            container(&id("c2"), &id("5b"), "own", "x"),
        ]
        .concat(),
        sandboxes: [
            sandbox(&id("5b"), "evil", "evil", &uid("1"), &[]),
            sandbox(&id("c1"), "evil", "evil", &uid("2"), &[]),
        ]
        .concat(),
        ..Lists::default()
    };
    let _second = containerd(&host.path("second"), &shared(liar));
    let mut runtimes = host.runtimes(&["first", "second"], AT_ONCE);
    runtimes.ask(true);
    assert_eq!(names_of(&runtimes, &id("c1"), &uid("1")), CART);
    assert_eq!(names_of(&runtimes, &id("5a"), "")[..3], ["shop", "cart-0", ""]);
    assert_eq!(names_of(&runtimes, "", &uid("1"))[..2], ["shop", "cart-0"]);
    assert_eq!(names_of(&runtimes, &id("c2"), "")[..3], ["evil", "evil", "own"]);
    // The order is that of the settings, and not of the answers.
    runtimes.configure(host.settings(&["second", "first"]));
    runtimes.ask(true);
    assert_eq!(names_of(&runtimes, "", &uid("1"))[..2], ["evil", "evil"]);
}

#[test]
fn runtimes_without_cri_v1_are_errors_that_say_what_to_do() {
    let host = Host::new();
    let old = |method: &str| {
        Some(if method.contains("v1alpha2") {
            Reply::message(&[])
        } else {
            Reply::failed(12, "unknown service runtime.v1.RuntimeService")
        })
    };
    let _old = Fake::grpc(&host.path("s"), old);
    let mut runtimes = host.runtimes(&["s"], AT_ONCE);
    runtimes.ask(true);
    assert_error(
        &runtimes,
        "does not serve CRI v1: its CRI plugin is disabled, or it is older than containerd 1.6 or CRI-O \
         1.23: the call failed with gRPC status UNIMPLEMENTED: unknown service runtime.v1.RuntimeService",
    );
}

/// As on a node that has as many pods as kubelet allows by default, with labels and annotations as Kubernetes
/// makes them.
#[test]
fn every_container_of_a_full_node_has_its_names() {
    let labels: Vec<_> =
        (0..8).map(|n| (format!("app.kubernetes.io/label-{n}"), "x".repeat(20))).collect();
    let labels: Vec<_> = labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    let sandboxes = (0..110).flat_map(|n| {
        let [id, uid] = [id(&format!("5{n:03}")), uid(&n.to_string())];
        sandbox(&id, "default", &format!("deployment-7d9f4b6c5d-{n:05}"), &uid, &labels)
    });
    let containers = (0..250).flat_map(|n| {
        let [id, sandbox] = [id(&format!("c{n:03}")), id(&format!("5{:03}", n % 110))];
        let image = format!("registry.example.com/team/image-{}:1.2.3", n % 20);
        let padding = bytes(
            9,
            [bytes(1, "io.kubernetes.container.hash"), bytes(2, "x".repeat(300))].concat(),
        );
        let mut container = container(&id, &sandbox, &format!("container-{}", n % 3), &image);
        container.extend(bytes(2, padding));
        container
    });
    let lists = Lists {
        containers: containers.collect(),
        sandboxes: sandboxes.collect(),
        ..Lists::default()
    };
    let host = Host::new();
    let _runtime = containerd(&host.path("s"), &shared(lists));
    let mut runtimes = host.runtimes(&["s"], AT_ONCE);
    runtimes.ask(true);
    assert_eq!(names_of(&runtimes, &id("c249"), "")[2], "container-0");
}

// ---- Docker and podman ----

/// An engine that has these headers and containers.
fn engine(
    path: &Path,
    headers: &'static [(&'static str, &'static str)],
    lists: &'static [(&'static str, &'static str)],
) -> Fake {
    Fake::http(path, move |uri| Some(answer_of_engine(uri, headers, lists)))
}

fn answer_of_engine(
    uri: &str,
    headers: &[(&'static str, &str)],
    lists: &[(&str, &str)],
) -> HttpAnswer {
    if uri == "/_ping" {
        let mut answer = answer(200, "OK");
        for (name, value) in headers {
            answer.headers_mut().insert(*name, value.parse().unwrap());
        }
        return answer;
    }
    let list = lists.iter().find(|(path, _)| *path == uri);
    let (_, list) = list.unwrap_or_else(|| panic!("{uri}"));
    // `c1` stands for an id.
    let list = ["c1", "c2", "c3", "c4"].iter().fold((*list).to_owned(), |text, short| {
        text.replace(&format!("\"{short}\""), &format!("\"{}\"", id(short)))
    });
    answer(200, list)
}

#[test]
fn docker_names_containers_that_run_and_new_ones() {
    let host = Host::new();
    let running = r#"[
        {"Id": "c1", "Names": ["/db/alias", "/web", "/zoo"], "Image": "nginx:1.27", "State": "running",
         "Labels": {"io.kubernetes.pod.namespace": "forged", "io.kubernetes.pod.name": "forged"}},
        {"Id": "c2", "Names": ["/db"], "Image": "sha256:1"}
    ]"#;
    let newest = r#"[
        {"Id": "c3", "Names": ["/created"], "Image": "busybox", "State": "created"},
        {"Id": "c2", "Names": ["/db"], "Image": "sha256:1"},
        {"Id": "c4", "Names": null, "Image": null},
        {"Id": "short", "Names": ["/a"], "Image": "a"}
    ]"#;
    let _docker = Fake::http(&host.path("s"), |_| Some(answer(404, "page not found")));
    let lists = Box::leak(Box::new([
        ("/v1.47/containers/json", running),
        ("/v1.47/containers/json?limit=100", newest),
    ]));
    let _docker =
        engine(&host.path("s"), &[("api-version", "1.47"), ("server", "Docker/27")], lists);
    let mut runtimes = host.runtimes(&["s"], AT_ONCE);
    assert!(is_news(&mut runtimes, true));
    assert_eq!(errors(&runtimes), [""]);
    assert_eq!(names_of(&runtimes, &id("c1"), ""), ["", "", "web", "nginx:1.27", "docker"]);
    assert_eq!(names_of(&runtimes, &id("c2"), ""), ["", "", "db", "sha256:1", "docker"]);
    assert_eq!(names_of(&runtimes, &id("c3"), ""), ["", "", "created", "busybox", "docker"]);
    assert_eq!(names_of(&runtimes, &id("c4"), ""), NOTHING);
}

#[test]
fn docker_is_recognized_if_its_socket_serves_grpc_too() {
    let host = Host::new();
    let lists = &[
        ("/v1.53/containers/json", r#"[{"Id": "c1", "Names": ["/web"], "Image": "x"}]"#),
        ("/v1.53/containers/json?limit=100", "[]"),
    ];
    let _docker = Fake::start(&host.path("s"), move |stream| async move {
        let mut first = [0];
        let peek = || Ok(recv(stream.as_raw_fd(), &mut first, MsgFlags::MSG_PEEK)?);
        stream.async_io(Interest::READABLE, peek).await.unwrap();
        // HTTP/2 begins with `PRI`.
        if first == *b"P" {
            let unknown = "unknown service runtime.v1.RuntimeService";
            serve_grpc(stream, move |_| Some(Reply::failed(12, unknown))).await;
        } else {
            let headers = &[("api-version", "1.53")];
            serve_http(stream, move |uri| Some(answer_of_engine(uri, headers, lists))).await;
        }
    });
    let mut runtimes = host.runtimes(&["s"], AT_ONCE);
    runtimes.ask(true);
    assert_eq!(errors(&runtimes), [""]);
    assert_eq!(names_of(&runtimes, &id("c1"), ""), ["", "", "web", "x", "docker"]);
}

#[test]
fn podman_names_containers_and_their_pods() {
    let host = Host::new();
    let running = r#"[
        {"Id": "c1", "Names": ["web"], "Image": "localhost/web:1", "Pod": "", "PodName": "", "IsInfra": false},
        {"Id": "c2", "Names": ["cart"], "Image": "cart:1", "Pod": "c9", "PodName": "shop", "IsInfra": false},
        {"Id": "c3", "Names": ["c9-infra"], "Image": "pause:3", "Pod": "c9", "PodName": "shop", "IsInfra": true}
    ]"#;
    let lists = Box::leak(Box::new([
        ("/v4.3.1/libpod/containers/json", running),
        ("/v4.3.1/libpod/containers/json?limit=100", "[]"),
    ]));
    let headers = &[("api-version", "1.41"), ("libpod-api-version", "4.3.1-dev")];
    let _podman = engine(&host.path("s"), headers, lists);
    let mut runtimes = host.runtimes(&["s"], AT_ONCE);
    assert!(is_news(&mut runtimes, true));
    assert_eq!(errors(&runtimes), [""]);
    assert_eq!(names_of(&runtimes, &id("c1"), ""), ["", "", "web", "localhost/web:1", "podman"]);
    assert_eq!(names_of(&runtimes, &id("c2"), ""), ["", "shop", "cart", "cart:1", "podman"]);
    assert_eq!(names_of(&runtimes, &id("c3"), ""), ["", "shop", "", "pause:3", "podman"]);
}

#[test]
fn answers_that_are_not_those_of_an_engine_are_errors() {
    const LIST: &str = "/v1.47/containers/json";
    for (list, expected) in [
        (r#"{"message": "no"}"#, "the JSON is not as expected at byte 1"),
        ("[{}]", "an object in the answer is malformed: missing field `Id`"),
        (r#"[{"Id": 1}]"#, "an object in the answer is malformed: invalid type"),
        (
            r#"[{"Id": "c1", "Names": {"a": 1}}]"#,
            "an object in the answer is malformed: invalid type",
        ),
        (r#"[{"Id": "c1", "Names": [1]}]"#, "an object in the answer is malformed: invalid type"),
        ("[", "the JSON is cut off at byte 1"),
        ("<html>", "the JSON is not as expected at byte 1"),
    ] {
        let host = Host::new();
        let lists = Box::leak(Box::new([(LIST, list), ("/v1.47/containers/json?limit=100", "[]")]));
        let _docker = engine(&host.path("s"), &[("api-version", "1.47")], lists);
        let mut runtimes = host.runtimes(&["s"], AT_ONCE);
        runtimes.ask(true);
        assert_error(&runtimes, expected);
    }
    let host = Host::new();
    let name = "\u{1b}a".repeat(10_000);
    let quoted = json!([{"Id": "c1", "Names": name}]).to_string();
    let lists = Box::leak(Box::new([(LIST, &*quoted.leak())]));
    let _docker = engine(&host.path("s"), &[("api-version", "1.47")], lists);
    let mut runtimes = host.runtimes(&["s"], AT_ONCE);
    runtimes.ask(true);
    assert_error(
        &runtimes,
        r#"an object in the answer is malformed: invalid type: string "\u{1b}a"#,
    );
    assert!(errors(&runtimes)[0].len() < 10_000);
    for (headers, expected) in [
        (&[][..], "no version of the API"),
        (&[("api-version", "")], "no version of the API"),
        (&[("api-version", "1/../x")], "no version of the API"),
        (&[("api-version", "1.234567890123456789")], "no version of the API"),
    ] {
        let _docker = engine(&host.path("s"), headers, &[]);
        let mut runtimes = host.runtimes(&["s"], AT_ONCE);
        runtimes.ask(true);
        assert_error(&runtimes, expected);
    }
    let _other = Fake::http(&host.path("s"), |_| Some(answer(404, "page not found")));
    let mut runtimes = host.runtimes(&["s"], AT_ONCE);
    runtimes.ask(true);
    assert_error(
        &runtimes,
        "it speaks neither CRI nor Docker's API (the answer is HTTP status 404 Not Found)",
    );
    let _other = Fake::start(&host.path("s"), |stream| async move {
        let mut stream = stream.into_std().unwrap();
        stream.set_nonblocking(false).unwrap();
        let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.9\r\n");
    });
    let mut runtimes = host.runtimes(&["s"], AT_ONCE);
    runtimes.ask(true);
    assert_error(&runtimes, "it speaks neither CRI nor Docker's API");
    fs::remove_file(host.path("s")).unwrap();
    fs::write(host.path("s"), "").unwrap();
    runtimes.ask(true);
    assert_error(&runtimes, "cannot connect: Connection refused");
}

#[test]
fn an_engine_that_replaces_another_is_recognized() {
    let host = Host::new();
    let runtime = containerd(&host.path("s"), &shared(one_pod()));
    let mut runtimes = host.runtimes(&["s"], AT_ONCE);
    runtimes.ask(true);
    drop(runtime);
    let lists = Box::leak(Box::new([
        ("/v1.47/containers/json", r#"[{"Id": "c1", "Names": ["/web"], "Image": "x"}]"#),
        ("/v1.47/containers/json?limit=100", "[]"),
    ]));
    let _docker = engine(&host.path("s"), &[("api-version", "1.47")], lists);
    runtimes.ask(true);
    assert_eq!(names_of(&runtimes, &id("c1"), ""), CART);
    assert!(is_news(&mut runtimes, true));
    assert_eq!(names_of(&runtimes, &id("c1"), ""), ["", "", "web", "x", "docker"]);
}

// ---- Usual paths ----

#[test]
fn sockets_at_usual_paths_are_found_as_they_appear() {
    const CONTAINERD: &str = "run/containerd/containerd.sock";
    const DOCKER: &str = "run/docker.sock";
    let host = Host::new();
    let settings = Settings { sockets: None, ..host.settings(&[]) };
    let mut runtimes = Runtimes::with_pace(settings, host.origins(), AT_ONCE);
    // A change of settings does not wait for the filesystem.
    assert!(runtimes.may_answer() && runtimes.ask_at(false).is_some());
    assert!(!is_news(&mut runtimes, true) && !runtimes.may_answer());
    assert!(runtimes.ask_at(true).is_some());
    let lists = Box::leak(Box::new([
        ("/v1.47/containers/json", r#"[{"Id": "c1", "Names": ["/k8s_cart"], "Image": "x"}]"#),
        ("/v1.47/containers/json?limit=100", "[]"),
    ]));
    let _docker = engine(&host.path(DOCKER), &[("api-version", "1.47")], lists);
    // Docker's containerd serves no CRI: it is not a source, and not an error.
    let no_cri = Fake::grpc(&host.path(CONTAINERD), |_| Some(Reply::failed(12, "unknown service")));
    assert!(is_news(&mut runtimes, true));
    assert_eq!(runtimes.states(), [SourceState { name: host.url(DOCKER), error: None }]);
    assert_eq!(names_of(&runtimes, &id("c1"), "")[2], "k8s_cart");
    drop(no_cri);
    // CRI comes before Docker.
    let containerd = containerd(&host.path(CONTAINERD), &shared(one_pod()));
    assert!(is_news(&mut runtimes, true));
    assert_eq!(names_of(&runtimes, &id("c1"), ""), CART);
    // One that has answered stays, also without a socket.
    drop(containerd);
    fs::remove_file(host.path(CONTAINERD)).unwrap();
    assert!(!is_news(&mut runtimes, true));
    assert_eq!(names_of(&runtimes, &id("c1"), ""), CART);
    let states: Vec<_> = runtimes.states().into_iter().map(|it| (it.name, it.error)).collect();
    assert_eq!(states[0].0, host.url(CONTAINERD));
    assert!(states[0].1.as_ref().unwrap().contains("No such file"));
    assert_eq!(states[1..], [(host.url(DOCKER), None)]);
}

#[test]
fn sockets_that_appear_late_are_found_without_a_missing_container() {
    let host = Host::new();
    let settings = Settings { sockets: None, ..host.settings(&[]) };
    let pace = Pace { refresh: Duration::from_mins(1), retry: Duration::from_secs(1), ..AT_ONCE };
    let mut runtimes = Runtimes::with_pace(settings.clone(), host.origins(), pace);
    runtimes.ask(true);
    let pause = |is_missing| runtimes.ask_at(is_missing).unwrap() - Instant::now();
    assert!(pause(true) <= Duration::from_secs(1));
    assert!((Duration::from_secs(50)..=Duration::from_secs(61)).contains(&pause(false)));
    let mut runtimes = Runtimes::with_pace(settings, host.origins(), AT_ONCE);
    runtimes.ask(false);
    let _runtime = containerd(&host.path("run/containerd/containerd.sock"), &shared(one_pod()));
    runtimes.ask(false);
    assert_eq!(names_of(&runtimes, &id("c1"), ""), CART);
}

#[test]
fn changed_settings_take_effect_before_the_next_look() {
    let host = Host::new();
    let settings = Settings { sockets: None, ..host.settings(&[]) };
    let mut runtimes = Runtimes::with_pace(settings.clone(), host.origins(), AT_ONCE);
    let _runtime = containerd(&host.path("run/containerd/containerd.sock"), &shared(one_pod()));
    runtimes.ask(true);
    assert_eq!(names_of(&runtimes, &id("c1"), ""), CART);
    runtimes.configure(Settings { uses: uses(&["app"]), ..settings.clone() });
    assert_eq!(names_of(&runtimes, &id("c1"), ""), CART);
    runtimes.configure(Settings { uses: Arc::default(), ..settings });
    assert_eq!(runtimes.inventory(), Inventory::default());
    assert!(!runtimes.may_answer());
    assert_eq!(runtimes.ask_at(true), None);
}

// ---- Kubernetes ----

/// A Kubernetes API whose pods tests change, and a service account for it.
struct Cluster {
    host: Host,
    pods: Arc<Mutex<(u16, String)>>,
    environment: BTreeMap<OsString, OsString>,
    _stop: oneshot::Sender<()>,
}

impl Cluster {
    fn new() -> Self {
        let host = Host::new();
        let authority = Authority::new("127.0.0.1");
        let account = host.path("serviceaccount");
        fs::create_dir(&account).unwrap();
        fs::write(account.join("ca.crt"), &authority.pem).unwrap();
        fs::write(account.join("token"), "secret\n").unwrap();
        let pods = Arc::new(Mutex::new((200, String::new())));
        let shared = Arc::clone(&pods);
        let (stop, stopped) = oneshot::channel::<()>();
        let (port_sender, port) = mpsc::channel();
        thread::spawn(move || {
            let reactor = runtime::Builder::new_current_thread().enable_all().build().unwrap();
            reactor.block_on(async {
                let port = fake::serve(Some(authority.acceptor), move |request| {
                    assert_eq!(
                        request.uri(),
                        "/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-1&resourceVersion=0"
                    );
                    assert_eq!(request.headers()["authorization"], "Bearer secret");
                    let (status, pods) = shared.lock().unwrap().clone();
                    (!pods.is_empty()).then(|| answer(status, pods))
                });
                port_sender.send(port.await).unwrap();
                let _ = stopped.await;
            });
        });
        let port = port.recv().unwrap().to_string();
        let environment = [
            ("NODE_NAME", "node-1"),
            ("KUBERNETES_SERVICE_HOST", "127.0.0.1"),
            ("KUBERNETES_SERVICE_PORT", &port),
        ];
        let environment =
            environment.iter().map(|(name, value)| (name.into(), value.into())).collect();
        Self { host, pods, environment, _stop: stop }
    }

    fn runtimes(&self, sockets: &[&str], pace: Pace) -> Runtimes {
        let settings = Settings { kubernetes_pods: true, ..self.host.settings(sockets) };
        let environment = Arc::new(self.environment.clone());
        Runtimes::with_pace(settings, Origins { environment, ..self.host.origins() }, pace)
    }

    fn serve(&self, items: &[Value]) {
        let list = json!({"kind": "PodList", "metadata": {"resourceVersion": "1"}, "items": items});
        *self.pods.lock().unwrap() = (200, format!("{list:#}"));
    }
}

fn status(name: &str, container_id: &str) -> Value {
    json!({"name": name, "image": format!("{name}:1"), "containerID": container_id, "state": {}})
}

fn pod(namespace: &str, name: &str, uid: &str, annotations: &Value, containers: &[Value]) -> Value {
    json!({
        "metadata": {
            "name": name, "namespace": namespace, "uid": uid, "annotations": annotations,
            "labels": {"app": name, "team": "red"},
        },
        "spec": {"containers": [{"name": name, "env": [{"name": "A", "value": "}]"}]}]},
        "status": {"phase": "Running", "containerStatuses": containers, "initContainerStatuses": null},
    })
}

#[test]
fn the_kubernetes_api_names_containers_by_their_ids() {
    let cluster = Cluster::new();
    let static_uid = "0009af54012f5ba19c526ddb4a89e1a5";
    let containerd = |end: &str| format!("containerd://{}", id(end));
    let mut restarted = status("cart", &containerd("c1"));
    restarted["lastState"] =
        json!({"terminated": {"containerID": containerd("c0"), "exitCode": 1}});
    let mut cart = pod("shop", "cart-0", &uid("1"), &json!({"note": "é\n"}), &[restarted]);
    cart["status"]["initContainerStatuses"] =
        json!([status("init", &format!("cri-o://{}", id("c2")))]);
    cart["status"]["ephemeralContainerStatuses"] = json!([status("debug", &containerd("c3"))]);
    let mirror = json!({"kubernetes.io/config.mirror": static_uid});
    let scheduler = pod(
        "kube-system",
        "scheduler-node-1",
        &uid("2"),
        &mirror,
        &[status("scheduler", &containerd("c4"))],
    );
    let mut pending = pod("shop", "pending", &uid("3"), &Value::Null, &[]);
    pending["status"] = json!({"phase": "Pending"});
    let waiting =
        pod("shop", "waiting", &uid("4"), &json!({}), &[json!({"name": "a", "image": "a"})]);
    cluster.serve(&[cart, scheduler, pending, waiting]);
    let mut runtimes = cluster.runtimes(&[], AT_ONCE);
    assert!(is_news(&mut runtimes, true));
    assert_eq!(runtimes.states(), [SourceState { name: "kubernetes-pods".into(), error: None }]);
    let cart = ["shop", "cart-0", "cart", "cart:1", "containerd"];
    assert_eq!(names_of(&runtimes, &id("c1"), &uid("1")), cart);
    assert_eq!(names_of(&runtimes, &id("c0"), &uid("1")), cart);
    assert_eq!(names_of(&runtimes, &id("c2"), ""), ["shop", "cart-0", "init", "init:1", "cri-o"]);
    assert_eq!(names_of(&runtimes, &id("c3"), "")[2], "debug");
    // A pause container, and one that is not listed yet.
    assert_eq!(names_of(&runtimes, &id("5a"), &uid("1")), ["shop", "cart-0", "", "", ""]);
    assert_eq!(names_of(&runtimes, "", &uid("3"))[1], "pending");
    assert_eq!(names_of(&runtimes, "", &uid("4"))[1], "waiting");
    // The path of a static pod has another uid than the API.
    let (names, from) = look_up(&runtimes, &id("c4"), static_uid);
    assert_eq!((names.pod_uid.as_str(), from), (static_uid, NamesFrom::KubernetesApi));
    assert_eq!(names.container_name, "scheduler");
    assert_eq!(names_of(&runtimes, &id("5b"), static_uid)[1], "scheduler-node-1");
}

#[test]
fn a_pod_cannot_claim_the_uid_of_another() {
    let cluster = Cluster::new();
    let (victim, hash) = (uid("1"), "0009af54012f5ba19c526ddb4a89e1a5");
    let claims = |name: &str, end: &str, claimed: &str| {
        pod("evil", name, &uid(end), &json!({"kubernetes.io/config.mirror": claimed}), &[])
    };
    cluster.serve(&[
        claims("a", "a", &victim),
        pod("shop", "cart-0", &victim, &json!({}), &[]),
        claims("b", "b", &victim),
        claims("c", "c", "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF"),
        pod("kube-system", "static", &uid("5"), &json!({"kubernetes.io/config.mirror": hash}), &[]),
        claims("d", "d", hash),
    ]);
    let mut runtimes = cluster.runtimes(&[], AT_ONCE);
    runtimes.ask(true);
    assert_eq!(names_of(&runtimes, "", &victim)[..2], ["shop", "cart-0"]);
    assert_eq!(names_of(&runtimes, "", "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF"), NOTHING);
    // It is unknown which of them is the static pod.
    assert_eq!(names_of(&runtimes, "", hash), NOTHING);
}

#[test]
fn sockets_come_before_the_api() {
    let cluster = Cluster::new();
    let _runtime = containerd(&cluster.host.path("s"), &shared(one_pod()));
    let other = status("other", &format!("containerd://{}", id("c1")));
    let new = status("new", &format!("containerd://{}", id("c2")));
    cluster.serve(&[pod("api", "api", &uid("1"), &json!({}), &[other, new])]);
    let mut runtimes = cluster.runtimes(&["s"], AT_ONCE);
    runtimes.ask(true);
    assert_eq!(names_of(&runtimes, &id("c1"), ""), CART);
    assert_eq!(names_of(&runtimes, &id("c2"), "")[2], "new");
    assert_eq!(names_of(&runtimes, "", &uid("1"))[0], "shop");
}

#[test]
fn invalid_answers_of_the_api_are_errors() {
    let cluster = Cluster::new();
    for (status, body, expected) in [
        (403, "{}", "HTTP status 403 Forbidden; allow the service account to list pods"),
        (401, "{}", "HTTP status 401 Unauthorized"),
        (200, "garbage", "the JSON is not as expected at byte 1"),
        (200, "{\"items\": [{", "the JSON is cut off at byte 12"),
        (
            200,
            "{\"items\": [{}]}",
            "an object in the answer is malformed: missing field `metadata`",
        ),
        (
            200,
            "{\"items\": [{\"metadata\": 1}]}",
            "an object in the answer is malformed: invalid type",
        ),
    ] {
        *cluster.pods.lock().unwrap() = (status, body.into());
        let mut runtimes = cluster.runtimes(&[], AT_ONCE);
        runtimes.ask(true);
        assert_error(&runtimes, expected);
    }
    let mut runtimes = cluster.runtimes(&[], IMPATIENT);
    *cluster.pods.lock().unwrap() = (200, String::new());
    runtimes.ask(true);
    assert_error(&runtimes, "no answer in time");
    fs::remove_file(cluster.host.path("serviceaccount/token")).unwrap();
    runtimes.ask(true);
    assert_error(&runtimes, "token`: No such file");
    let mut outside = Cluster::new();
    outside.environment.clear();
    let mut runtimes = outside.runtimes(&[], AT_ONCE);
    runtimes.ask(true);
    assert_error(&runtimes, "environment variable NODE_NAME is not set");
}

#[test]
fn pods_that_are_too_large_are_left_out() {
    let cluster = Cluster::new();
    let huge = json!({"note": "a".repeat(4 << 20)});
    let containers = [status("cart", &format!("containerd://{}", id("c1")))];
    cluster.serve(&[
        pod("shop", "huge", &uid("1"), &huge, &[]),
        pod("shop", "cart-0", &uid("2"), &json!({}), &containers),
    ]);
    let mut runtimes = cluster.runtimes(&[], AT_ONCE);
    runtimes.ask(true);
    assert_eq!(errors(&runtimes), [""]);
    assert_eq!(names_of(&runtimes, "", &uid("1")), NOTHING);
    assert_eq!(names_of(&runtimes, &id("c1"), "")[1], "cart-0");
}
