use std::{
    fs,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use hyper::header::HeaderMap;
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    time::{sleep, timeout},
};

use super::{answer::Answer, *};
use crate::{
    expr::values::{Keys as SourceKeys, Place},
    os::{
        fake::{Authority, HttpAnswer, answer, serve},
        http_client::Server,
    },
};

/// Maximum time to wait for anything in these tests.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Short intervals, with a timeout long enough for a busy machine.
const FAST: Schedule = Schedule {
    node: Duration::from_millis(20),
    cloud: Duration::from_millis(20),
    timeout: Duration::from_secs(1),
    first_retry: Duration::from_millis(5),
    max_retry: Duration::from_millis(20),
};

fn header<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers.get(name).map_or("", |value| value.to_str().unwrap())
}

fn keys(keys: &[&str]) -> BTreeSet<String> {
    keys.iter().map(|key| (*key).to_owned()).collect()
}

/// Every key of a source with fixed keys.
fn all_keys(source: Source) -> BTreeSet<String> {
    let SourceKeys::Fields(fields) = source.keys() else { panic!("{source:?} has no fixed keys") };
    keys(fields)
}

fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn uses(values: &[(Source, &str)]) -> Uses {
    let mut uses = Uses::default();
    for (source, key) in values {
        uses.insert(*source, key);
    }
    uses
}

fn local(port: u16) -> (String, u16) {
    ("127.0.0.1".into(), port)
}

/// The server on a loopback port.
fn server(port: u16) -> Server<'static> {
    let addresses = Box::leak(Box::new([([127, 0, 0, 1], port).into()]));
    Server { host: "127.0.0.1", port, addresses }
}

#[track_caller]
fn assert_error(answer: &Answer, expected: &str) {
    let reason = answer.as_ref().unwrap_err().chain();
    assert!(reason.contains(expected), "{reason}");
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < TIMEOUT, "{what}");
        sleep(Duration::from_millis(2)).await;
    }
}

/// EC2 with sessions: each read first gets a token, and everything else requires it.
#[tokio::test]
async fn ec2_keys_in_use_are_requested_in_a_session() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    let tokens = AtomicUsize::new(0);
    let port = serve(None, move |request| {
        let (method, path, headers) = (request.method(), request.uri().path(), request.headers());
        log.lock().unwrap().push(format!("{method} {path}"));
        assert!(header(headers, "host").starts_with("127.0.0.1:"));
        if path == "/latest/api/token" {
            let lifetime = header(headers, "x-aws-ec2-metadata-token-ttl-seconds").parse::<u32>();
            return Some(match lifetime {
                Ok(1..=21_600) if method == "PUT" => {
                    answer(200, format!("token-{}", tokens.fetch_add(1, Ordering::Relaxed) + 1))
                }
                _ => answer(400, ""),
            });
        }
        let token = format!("token-{}", tokens.load(Ordering::Relaxed));
        if method != "GET" || header(headers, "x-aws-ec2-metadata-token") != token {
            return Some(answer(401, ""));
        }
        Some(match path {
            "/latest/meta-data/placement/availability-zone" => answer(200, "eu-west-1b"),
            "/latest/meta-data/placement/region" => answer(200, "eu-west-1\n"),
            "/latest/meta-data/instance-id" => answer(200, "i-0123456789abcdef0"),
            "/latest/meta-data/instance-type" => answer(200, "m7g.large"),
            _ => answer(404, "<html>not here</html>"),
        })
    })
    .await;
    for _ in 0..2 {
        asked.lock().unwrap().clear();
        let values = cloud::aws(server(port), &keys(&["region", "availability_zone_id"])).await;
        assert_eq!(values.unwrap(), pairs(&[("region", "eu-west-1")]));
        let expected = [
            "PUT /latest/api/token",
            "GET /latest/meta-data/placement/availability-zone-id",
            "GET /latest/meta-data/placement/region",
        ];
        assert_eq!(*asked.lock().unwrap(), expected);
    }
    let values = cloud::aws(server(port), &all_keys(Source::Aws)).await;
    let expected = [
        ("availability_zone", "eu-west-1b"),
        ("instance_id", "i-0123456789abcdef0"),
        ("instance_type", "m7g.large"),
        ("region", "eu-west-1"),
    ];
    assert_eq!(values.unwrap(), pairs(&expected));
    // Another program on that address.
    let port = serve(None, |_| Some(answer(403, ""))).await;
    assert_error(&cloud::aws(server(port), &keys(&["region"])).await, "answers 403 Forbidden");
}

#[tokio::test]
async fn google_cloud_answers_need_the_metadata_flavor() {
    let port = serve(None, |request| {
        if header(request.headers(), "metadata-flavor") != "Google" {
            return Some(answer(403, ""));
        }
        let mut answer = match request.uri().path() {
            "/computeMetadata/v1/instance/zone" => answer(200, "projects/123/zones/europe-west1-b"),
            "/computeMetadata/v1/instance/id" => answer(200, "4520031799277581759"),
            "/computeMetadata/v1/instance/machine-type" => {
                answer(200, "projects/123/machineTypes/e2-standard-4")
            }
            _ => answer(404, ""),
        };
        answer.headers_mut().insert("Metadata-Flavor", "Google".try_into().unwrap());
        Some(answer)
    })
    .await;
    let expected = [
        ("instance_id", "4520031799277581759"),
        ("machine_type", "e2-standard-4"),
        ("region", "europe-west1"),
        ("zone", "europe-west1-b"),
    ];
    let all = all_keys(Source::Gcp);
    assert_eq!(cloud::gcp(server(port), &all).await.unwrap(), pairs(&expected));
    let port = serve(None, |_| Some(answer(200, "projects/123/zones/europe-west1-b"))).await;
    assert_error(&cloud::gcp(server(port), &keys(&["zone"])).await, "lacks Metadata-Flavor");
}

#[tokio::test]
async fn azure_values_come_from_json_and_empty_ones_are_left_out() {
    let port = serve(None, |request| {
        let uri = request.uri();
        let asked = header(request.headers(), "metadata") == "true"
            && uri.path() == "/metadata/instance/compute"
            && uri.query().is_some_and(|query| query.contains("api-version=2021-02-01"));
        let body =
            r#"{"location": "westeurope", "zone": "", "vmId": "02aa", "vmSize": "D4", "tags": []}"#;
        Some(if asked { answer(200, body) } else { answer(400, "") })
    })
    .await;
    let expected = [("location", "westeurope"), ("vm_id", "02aa"), ("vm_size", "D4")];
    let all = all_keys(Source::Azure);
    assert_eq!(cloud::azure(server(port), &all).await.unwrap(), pairs(&expected));
    for (body, problem) in [("<html>", "not JSON"), ("[1]", "not a JSON object"), ("", "not JSON")]
    {
        let port = serve(None, move |_| Some(answer(200, body))).await;
        assert_error(&cloud::azure(server(port), &all).await, problem);
    }
}

#[tokio::test]
async fn answers_are_bounded_and_redirects_are_not_followed() {
    let azure = async |answer: HttpAnswer| {
        let answer = Mutex::new(Some(answer));
        let port = serve(None, move |_| answer.lock().unwrap().take()).await;
        cloud::azure(server(port), &keys(&["zone"])).await
    };
    assert_error(&azure(answer(200, vec![b' '; (1 << 20) + 1])).await, "larger than 1048576 bytes");
    let mut spaces = vec![b' '; 1 << 20];
    spaces[..12].copy_from_slice(br#"{"zone":"1"}"#);
    assert_eq!(azure(answer(200, spaces)).await.unwrap(), pairs(&[("zone", "1")]));
    let mut moved = answer(302, "");
    moved.headers_mut().insert("Location", "http://127.0.0.1:1/".try_into().unwrap());
    assert_error(&azure(moved).await, "answers 302 Found");
    let mut head = answer(200, "{}");
    head.headers_mut().insert("X", "x".repeat(1 << 15).try_into().unwrap());
    assert!(azure(head).await.is_err());
    // A port on which nobody listens.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    assert_error(&cloud::azure(server(port), &keys(&["zone"])).await, "connecting to 127.0.0.1:");
}

/// A Kubernetes API with one node, which accepts one token.
struct Cluster {
    top: TempDir,
    authority: Authority,
    state: Arc<Mutex<State>>,
    origins: Arc<SourceOrigins>,
}

/// The API's response to a request with the right token.
#[derive(Clone, Debug)]
enum Behavior {
    Zone(&'static str),
    Status(u16),
    Body(Vec<u8>),
    Hang,
}

#[derive(Debug)]
struct State {
    token: &'static str,
    behavior: Behavior,
    requests: usize,
}

impl Cluster {
    async fn new() -> Self {
        let authority = Authority::new("127.0.0.1");
        let state = State { token: "one", behavior: Behavior::Zone("a"), requests: 0 };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        let port = serve(Some(authority.acceptor.clone()), move |request| {
            let mut state = shared.lock().unwrap();
            state.requests += 1;
            let headers = request.headers();
            if header(headers, "authorization") != format!("Bearer {}", state.token) {
                return Some(answer(401, r#"{"kind": "Status", "code": 401}"#));
            }
            assert!(header(headers, "accept").contains("as=PartialObjectMetadata"));
            if request.uri().path() != "/api/v1/nodes/node-1.example.com" {
                return Some(answer(404, "{}"));
            }
            match state.behavior.clone() {
                Behavior::Zone(zone) => Some(answer(
                    200,
                    format!(
                        r#"{{"kind": "PartialObjectMetadata", "metadata": {{
                            "name": "node-1.example.com",
                            "labels": {{"topology.kubernetes.io/zone": "{zone}", "other": "x"}}
                        }}}}"#
                    ),
                )),
                Behavior::Status(status) => Some(answer(status, "{}")),
                Behavior::Body(body) => Some(answer(200, body)),
                Behavior::Hang => None,
            }
        })
        .await;
        let top = TempDir::new().unwrap();
        let mut origins = SourceOrigins::new(
            [
                ("NODE_NAME", "node-1.example.com"),
                ("KUBERNETES_SERVICE_HOST", "127.0.0.1"),
                ("KUBERNETES_SERVICE_PORT", &port.to_string()),
            ]
            .map(|(name, value)| (name.into(), value.into())),
        );
        origins.service_account = top.path().into();
        let cluster = Self { top, authority, state, origins: Arc::new(origins) };
        cluster.write("token", "one\n");
        cluster.write("ca.crt", &cluster.authority.pem);
        cluster
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.top.path().join(file), text).unwrap();
    }

    fn behave(&self, behavior: Behavior) {
        self.state.lock().unwrap().behavior = behavior;
    }

    async fn ask(&self) -> Answer {
        let keys = keys(&["topology.kubernetes.io/zone", "none"]);
        kubernetes::node_labels(&self.origins, &keys, &Threads::default()).await
    }

    /// The origins with one environment variable changed.
    fn with(&self, name: &str, value: &str) -> Arc<SourceOrigins> {
        let mut origins = (*self.origins).clone();
        origins.environment.insert(name.into(), value.into());
        Arc::new(origins)
    }
}

#[tokio::test]
async fn node_labels_are_read_with_current_credentials() {
    let cluster = Cluster::new().await;
    let zone = |zone| pairs(&[("topology.kubernetes.io/zone", zone)]);
    assert_eq!(cluster.ask().await.unwrap(), zone("a"));
    cluster.state.lock().unwrap().token = "two";
    assert_error(&cluster.ask().await, "answers 401 Unauthorized");
    cluster.write("token", "two");
    assert_eq!(cluster.ask().await.unwrap(), zone("a"));
    // A bundle, while authorities change.
    cluster.write("ca.crt", &format!("{}{}", Authority::new("x").pem, cluster.authority.pem));
    assert_eq!(cluster.ask().await.unwrap(), zone("a"));
    cluster.write("ca.crt", &Authority::new("127.0.0.1").pem);
    assert_error(&cluster.ask().await, "invalid peer certificate");
}

#[tokio::test]
async fn invalid_kubernetes_answers_are_rejected() {
    let cluster = Cluster::new().await;
    for (behavior, problem) in [
        (Behavior::Status(403), "allow the service account to get nodes"),
        (Behavior::Status(500), "answers 500"),
        (Behavior::Status(302), "answers 302"),
        (Behavior::Body(b"garbage".to_vec()), "not JSON"),
        (
            Behavior::Body(b"{\"metadata\": {\"name\": \"node-2\"}}".to_vec()),
            "not about node node-1",
        ),
        (Behavior::Body(b"[]".to_vec()), "not about node"),
        (Behavior::Body(vec![b' '; (1 << 20) + 1]), "larger than"),
    ] {
        cluster.behave(behavior);
        assert_error(&cluster.ask().await, problem);
    }
    let ask =
        async |origins| kubernetes::node_labels(&origins, &keys(&["a"]), &Threads::default()).await;
    for (name, value, problem) in [
        ("NODE_NAME", "node-2", "answers 404"),
        ("NODE_NAME", "../secrets", "is not a valid node name"),
        ("NODE_NAME", "", "is not a valid node name"),
        (
            "KUBERNETES_SERVICE_PORT",
            "https",
            "KUBERNETES_SERVICE_PORT `https` is not a port: invalid digit",
        ),
        ("KUBERNETES_SERVICE_HOST", "localhost", "TLS with localhost"),
    ] {
        assert_error(&ask(cluster.with(name, value)).await, problem);
    }
    let mut origins = (*cluster.origins).clone();
    origins.environment.clear();
    assert_error(&ask(Arc::new(origins)).await, "environment variable NODE_NAME is not set");
    cluster.write("ca.crt", "no certificate");
    assert_error(&cluster.ask().await, "ca.crt`: no certificate in it");
    fs::remove_file(cluster.top.path().join("token")).unwrap();
    assert_error(&cluster.ask().await, "token`: No such file");
    // A server without TLS.
    let cluster = Cluster::new().await;
    let port = serve(None, |_| Some(answer(200, "{}"))).await;
    let origins = cluster.with("KUBERNETES_SERVICE_PORT", &port.to_string());
    assert_error(&ask(origins).await, "TLS with 127.0.0.1");
}

/// Sources, and the number of changes that they reported.
fn sources(origins: &SourceOrigins, schedule: Schedule) -> (Sources, Arc<AtomicUsize>) {
    let changes = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&changes);
    let on_change = move || {
        counted.fetch_add(1, Ordering::Relaxed);
    };
    (Sources::new(origins.clone(), schedule, on_change), changes)
}

/// A reader without watches.
fn reader(sources: &Sources) -> Reader {
    sources.reader(FileWatch::new(|| ()))
}

/// The current values, read as for the first time.
fn read(reader: &Reader, uses: &Uses) -> Values {
    reader.read(uses, &Values::default(), true)
}

const ZONE: &str = "topology.kubernetes.io/zone";

#[tokio::test]
async fn the_last_good_answer_is_kept() {
    let cluster = Cluster::new().await;
    let (mut sources, changes) = sources(&cluster.origins, FAST);
    let uses = uses(&[(Source::NodeLabels, ZONE), (Source::Arch, "")]);
    let reader = reader(&sources);
    // Reading does not wait for answers.
    sources.follow(&uses);
    let values = read(&reader, &uses);
    assert_eq!(values.get(Source::NodeLabels, ZONE), None);
    assert_eq!(values.up().collect::<Vec<_>>(), [("arch", true), ("node.labels", false)]);

    timeout(TIMEOUT, reader.first_answers(&uses)).await.unwrap();
    let good = read(&reader, &uses);
    assert_eq!(good.get(Source::NodeLabels, ZONE), Some("a"));
    assert!(good.up().all(|(_, up)| up));
    let reported = changes.load(Ordering::Relaxed);
    assert_eq!(reported, 1);

    // Equal answers are not reported as changes.
    let requests = cluster.state.lock().unwrap().requests;
    until("it asks again", || cluster.state.lock().unwrap().requests > requests + 2).await;
    assert_eq!(changes.load(Ordering::Relaxed), reported);

    for behavior in [
        Behavior::Status(403),
        Behavior::Body(b"garbage".to_vec()),
        Behavior::Body(vec![b' '; (1 << 20) + 1]),
    ] {
        cluster.behave(behavior.clone());
        until("the error shows", || read(&reader, &uses).up().any(|(_, up)| !up)).await;
        assert_eq!(read(&reader, &uses).get(Source::NodeLabels, ZONE), Some("a"), "{behavior:?}");
        cluster.behave(Behavior::Zone("a"));
        until("it recovers", || read(&reader, &uses) == good).await;
    }
    let reported = changes.load(Ordering::Relaxed);
    cluster.behave(Behavior::Zone("b"));
    until("the new zone", || read(&reader, &uses).get(Source::NodeLabels, ZONE) == Some("b")).await;
    assert_eq!(changes.load(Ordering::Relaxed), reported + 1);
}

#[tokio::test]
async fn a_server_that_hangs_delays_nothing() {
    let cluster = Cluster::new().await;
    cluster.behave(Behavior::Hang);
    let schedule = Schedule { timeout: Duration::from_millis(100), ..FAST };
    let (mut sources, _) = sources(&cluster.origins, schedule);
    let uses = uses(&[(Source::NodeLabels, ZONE)]);
    let begin = Instant::now();
    sources.follow(&uses);
    let values = read(&reader(&sources), &uses);
    assert!(begin.elapsed() < Duration::from_millis(100));
    assert_eq!(values.readings().next().unwrap().1.error.as_deref(), Some("no answer yet"));
    let reader = reader(&sources);
    timeout(TIMEOUT, reader.first_answers(&uses)).await.unwrap();
    let error = read(&reader, &uses).readings().next().unwrap().1.error.clone();
    assert_eq!(error.as_deref(), Some("no answer within 100ms"));
    cluster.behave(Behavior::Zone("a"));
    until("the zone", || read(&reader, &uses).get(Source::NodeLabels, ZONE) == Some("a")).await;

    // A server that accepts connections but never answers, not even the TLS handshake.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let origins = cluster.with("KUBERNETES_SERVICE_PORT", &port);
    let keys = keys(&["a"]);
    let threads = Threads::default();
    let ask = kubernetes::node_labels(&origins, &keys, &threads);
    assert!(timeout(Duration::from_millis(100), ask).await.is_err());
}

#[tokio::test]
async fn failures_are_retried_with_backoff_until_the_first_answer() {
    let times = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&times);
    let port = serve(None, move |_| {
        let mut times = log.lock().unwrap();
        times.push(Instant::now());
        Some(if times.len() < 6 { answer(503, "") } else { answer(200, r#"{"zone": "1"}"#) })
    })
    .await;
    let mut origins = SourceOrigins::new([]);
    origins.azure = local(port);
    let schedule = Schedule {
        cloud: Duration::from_hours(1),
        first_retry: Duration::from_millis(10),
        max_retry: Duration::from_millis(80),
        ..FAST
    };
    let (mut sources, _) = sources(&origins, schedule);
    let uses = uses(&[(Source::Azure, "zone")]);
    sources.follow(&uses);
    let reader = reader(&sources);
    until("the zone", || read(&reader, &uses).get(Source::Azure, "zone") == Some("1")).await;
    let times = times.lock().unwrap().clone();
    assert_eq!(times.len(), 6);
    for (pair, least) in times.windows(2).zip([9, 18, 36, 72, 72]) {
        let pause = pair[1] - pair[0];
        assert!(pause >= Duration::from_millis(least), "{pause:?} is not {least} ms");
    }
}

#[tokio::test]
async fn only_sources_in_use_are_polled() {
    let cluster = Cluster::new().await;
    let (mut sources, _) = sources(&cluster.origins, FAST);
    let requests = || cluster.state.lock().unwrap().requests;
    let none = Uses::default();
    sources.follow(&none);
    sleep(Duration::from_millis(60)).await;
    assert_eq!(requests(), 0);

    let zone = uses(&[(Source::NodeLabels, ZONE)]);
    sources.follow(&zone);
    let reader = reader(&sources);
    until("the zone", || read(&reader, &zone).get(Source::NodeLabels, ZONE) == Some("a")).await;
    // When a key is added, the known values stay until its value is known, too.
    cluster.behave(Behavior::Status(500));
    let both = uses(&[(Source::NodeLabels, ZONE), (Source::NodeLabels, "other")]);
    sources.follow(&both);
    assert_eq!(read(&reader, &both).get(Source::NodeLabels, ZONE), Some("a"));
    cluster.behave(Behavior::Zone("a"));
    until("both", || read(&reader, &both).get(Source::NodeLabels, "other") == Some("x")).await;

    sources.follow(&none);
    sleep(Duration::from_millis(20)).await;
    let before = requests();
    sleep(Duration::from_millis(80)).await;
    assert_eq!(requests(), before);
    // The known values are dropped.
    assert_eq!(read(&reader, &zone).get(Source::NodeLabels, ZONE), None);
    sources.follow(&zone);
    until("asked again", || requests() > before).await;
    drop(sources);
    sleep(Duration::from_millis(20)).await;
    let before = requests();
    sleep(Duration::from_millis(80)).await;
    assert_eq!(requests(), before);
}

#[test]
fn files_to_watch_are_those_in_use() {
    let mut origins = SourceOrigins::new([]);
    origins.pod_info = "/podinfo".into();
    let (sources, _) = sources(&origins, FAST);
    let uses = uses(&[
        (Source::Arch, ""),
        (Source::File, "/zone"),
        (Source::File, "/rack"),
        (Source::PodLabels, "app"),
        (Source::PodLabels, "tier"),
    ]);
    let expected = ["/zone", "/rack", "/podinfo/labels"].map(PathBuf::from);
    assert_eq!(sources.files(&uses), expected.into());
    assert_eq!(sources.files(&Uses::default()), BTreeSet::new());
}

#[test]
fn each_source_is_read_according_to_its_place() {
    for source in Source::ALL {
        let place = match access(source) {
            Access::Local(_) => Place::Local,
            Access::Files { .. } => Place::Files,
            Access::Remote(_) => Place::Remote,
        };
        assert_eq!(place, source.place(), "{source:?}");
    }
}

#[test]
fn environment_overrides_metadata_addresses() {
    let named = |aws: &str, gcp: &str| {
        let variables = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", aws), ("GCE_METADATA_HOST", gcp)];
        let origins =
            SourceOrigins::new(variables.map(|(name, value)| (name.into(), value.into())));
        [origins.aws, origins.gcp, origins.azure].map(|(host, port)| format!("{host} {port}"))
    };
    assert_eq!(
        named("http://[fd00:ec2::254]/", "metadata.google.internal"),
        ["fd00:ec2::254 80", "metadata.google.internal 80", "169.254.169.254 80"]
    );
    assert_eq!(
        named("http://127.0.0.1:1338", "localhost:8080")[..2],
        ["127.0.0.1 1338", "localhost 8080"]
    );
}

#[test]
fn a_read_that_hangs_does_not_block_other_reads() {
    let sources = Sources::new(SourceOrigins::new([]), Schedule::default(), || {});
    let reader = reader(&sources);
    let (release, hang) = mpsc::channel::<()>();
    let good = || Reading::of(pairs(&[("a", "b")]));
    let limit = Duration::from_millis(50);
    let late = reader.read_on_thread(limit, Source::File, move || {
        let _ = hang.recv();
        Reading::default()
    });
    assert_eq!(late.unwrap_err().chain(), "the files were not read within 50ms");
    let again = reader.clone().read_on_thread(limit, Source::File, good);
    assert_eq!(again.unwrap_err().chain(), "an earlier attempt to read it is still running");
    assert_eq!(reader.read_on_thread(limit, Source::PodLabels, good).unwrap(), good());

    // The last values of the files stay.
    let known = Reading::of(pairs(&[("/zone", "eu-1a"), ("/gone", "x")]));
    let known = [(Source::File, known)].into_iter().collect();
    let values = reader.read(&uses(&[(Source::File, "/zone")]), &known, true);
    assert_eq!(values.get(Source::File, "/zone"), Some("eu-1a"));
    assert_eq!(values.get(Source::File, "/gone"), None);
    assert!(values.error(Source::File).is_some());

    drop(release);
    let back = (0..100).any(|_| {
        thread::sleep(Duration::from_millis(10));
        reader.read_on_thread(limit, Source::File, good).is_ok_and(|reading| reading == good())
    });
    assert!(back);
}

#[tokio::test]
async fn names_are_looked_up_on_a_thread() {
    let port = serve(None, |_| Some(answer(200, r#"{"zone": "1"}"#))).await;
    let mut origins = SourceOrigins::new([]);
    origins.azure = ("localhost".into(), port);
    let (mut sources, _) = sources(&origins, FAST);
    let uses = uses(&[(Source::Azure, "zone")]);
    sources.follow(&uses);
    let reader = reader(&sources);
    until("the zone", || read(&reader, &uses).get(Source::Azure, "zone") == Some("1")).await;
}
