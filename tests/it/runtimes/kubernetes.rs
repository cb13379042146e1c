//! Names from the Kubernetes API, without the runtime's socket.

use std::{
    convert::Infallible,
    fs,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header::{AUTHORIZATION, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use sched_exporter_tests::{
    cgroups::Tree, fake_runtime::Listed, namespaces::Namespaces, process::Exporter,
};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, pki_types::PrivateKeyDer},
};

use super::{fakes::Running, find, wait_for};

/// Where every pod finds its service account.
const ACCOUNT: &str = "/run/secrets/kubernetes.io/serviceaccount";

const NODE: &str = "node-1";

/// The pods that the API has.
type Pods = Arc<Mutex<Vec<Value>>>;

/// An API server that lists pods to authorized clients; it ends when dropped.
struct Api {
    port: u16,
    authority: String,
    pods: Pods,
    _runtime: Runtime,
}

impl Api {
    fn start() -> Self {
        let pods = Pods::default();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (tls, authority) = tls();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = Arc::clone(&pods);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, pods) = (tls.clone(), Arc::clone(&served));
                tokio::spawn(async move {
                    let Ok(stream) = tls.accept(stream).await else { return };
                    let service = service_fn(|request| {
                        let answer = answer(&request, &pods.lock().unwrap());
                        async { Ok::<_, Infallible>(answer) }
                    });
                    let _ =
                        http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { port, authority, pods, _runtime: runtime }
    }
}

/// A certificate for the loopback, and its authority.
fn tls() -> (TlsAcceptor, String) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let server = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let server = server.signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let config = ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![server.der().clone()], key).unwrap();
    (TlsAcceptor::from(Arc::new(config)), authority.pem())
}

/// Lists the pods of the node, and allows nothing else.
fn answer(request: &Request<Incoming>, pods: &[Value]) -> Response<Full<Bytes>> {
    let query = request.uri().query().unwrap_or_default();
    let selector = format!("fieldSelector=spec.nodeName%3D{NODE}");
    let token = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
    let status = if token != Some(b"Bearer secret") {
        StatusCode::UNAUTHORIZED
    } else if request.uri().path() != "/api/v1/pods" || !query.split('&').any(|it| it == selector) {
        StatusCode::FORBIDDEN
    } else {
        StatusCode::OK
    };
    let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods});
    let body = if status == StatusCode::OK { list } else { json!({"kind": "Status"}) };
    Response::builder().status(status).body(Full::new(body.to_string().into())).unwrap()
}

/// A pod with one container, as the API has it.
fn pod(name: &str, uid: &str, annotations: &Value, container: &Running) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "shop", "uid": uid, "annotations": annotations},
        "spec": {"nodeName": NODE, "containers": [{"name": "main", "image": "localhost/image:1"}]},
        "status": {"containerStatuses": [{
            "name": "main",
            "image": "localhost/image:1",
            "containerID": format!("containerd://{}", container.listed.id),
        }]},
    })
}

/// Starts an exporter as in a pod.
fn exporter(namespaces: &Namespaces, api: &Api) -> Exporter {
    fs::create_dir_all(namespaces.path(ACCOUNT)).unwrap();
    for (file, text) in [("ca.crt", api.authority.as_str()), ("token", "secret\n")] {
        fs::write(namespaces.path(ACCOUNT).join(file), text).unwrap();
    }
    let config = "cgroups: {runtimes: [], kubernetes_pods: true}\n";
    Exporter::start_with_prepared(config, &[], |command| {
        namespaces.share_mounts(command);
        command.env("NODE_NAME", NODE).env("KUBERNETES_SERVICE_HOST", "127.0.0.1");
        command.env("KUBERNETES_SERVICE_PORT", api.port.to_string());
    })
}

#[test]
fn pods_of_the_node_have_their_names() {
    let (api, namespaces, tree) = (Api::start(), Namespaces::new(), Tree::new());
    let web = Running::start(&tree, 1, [b"shop", b"web", b"main"]);
    api.pods.lock().unwrap().push(pod("web", &web.listed.uid, &json!({}), &web));
    let exporter = exporter(&namespaces, &api);
    find(&exporter, &web.pairs());

    // A static pod has another uid in the API than in paths.
    let static_uid = "0009af54012f5ba19c526ddb4a89e1a5";
    let mut proxy = Listed::numbered(2, [b"shop", b"proxy-node-1", b"main"]);
    proxy.uid = static_uid.to_owned();
    let proxy = Running::of(&tree, proxy);
    let mirror = json!({"kubernetes.io/config.mirror": static_uid});
    let other_uid = "6d04794c-0000-4000-8000-000000000000";
    api.pods.lock().unwrap().push(pod("proxy-node-1", other_uid, &mirror, &proxy));
    wait_for(&exporter, &proxy.pairs());

    // The API does not know a new container yet. Until it does, the labels have ids.
    let late = Running::start(&tree, 3, [b"shop", b"late", b"main"]);
    let id = format!("container=\"{}\"", late.listed.id);
    wait_for(&exporter, &[&id]);
    api.pods.lock().unwrap().push(pod("late", &late.listed.uid, &json!({}), &late));
    wait_for(&exporter, &late.pairs());
}
