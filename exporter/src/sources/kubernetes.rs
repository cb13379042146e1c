//! The labels of the node that the pod runs on, from the Kubernetes API.

use std::{collections::BTreeSet, sync::Arc};

use http_body_util::Empty;
use hyper::{
    Request, StatusCode,
    header::{ACCEPT, AUTHORIZATION, HeaderValue},
};
use serde_json::Value;

use super::{
    SourceError, SourceOrigins,
    answer::{Answer, body},
    files,
    remote::addresses,
    threads::Threads,
};
use crate::{
    expr::values::Source,
    os::http_client::{self, Server},
};

/// Requests only an object's metadata, which is much smaller than a node with its list of images:
/// <https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-representations>.
const METADATA_ONLY: &str =
    "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";

/// Reads the labels `keys` of the node. Rereads the certificate and the token each time, since both can
/// change.
pub(super) async fn node_labels(
    origins: &Arc<SourceOrigins>,
    keys: &BTreeSet<String>,
    threads: &Threads,
) -> Answer {
    let node = origins.variable("NODE_NAME")?;
    // A node name is a DNS name; this one becomes part of a path.
    if node.is_empty() || !node.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b)) {
        return Err(SourceError::NodeName(node.into()));
    }
    let host = origins.variable("KUBERNETES_SERVICE_HOST")?;
    let port = origins.variable("KUBERNETES_SERVICE_PORT")?;
    let port: u16 =
        port.parse().map_err(|source| SourceError::Port { port: port.into(), source })?;
    let certificate = origins.service_account.join("ca.crt");
    let token = origins.service_account.join("token");
    let read = {
        let (certificate, host) = (certificate.clone(), host.to_owned());
        move || {
            let credentials = (files::read(&certificate)?, files::read(&token)?);
            Ok::<_, SourceError>((credentials, addresses(&host, port)?))
        }
    };
    let ((authority, token), addresses) = threads.run(Source::NodeLabels, read).await??;
    let server = Server { host, port, addresses: &addresses };
    let tls = http_client::trust(authority.as_bytes())
        .map_err(|source| SourceError::Trust { path: certificate, source })?;
    let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.trim_end()))
        .map_err(SourceError::Token)?;
    bearer.set_sensitive(true);

    let request = Request::get(format!("/api/v1/nodes/{node}"))
        .header(ACCEPT, METADATA_ONLY)
        .header(AUTHORIZATION, bearer)
        .body(Empty::new())
        .map_err(|source| SourceError::Request { server: server.to_string(), source })?;
    let answer = server.send(request, Some(tls)).await?;
    let status = answer.status();
    if status == StatusCode::FORBIDDEN {
        return Err(SourceError::Forbidden { server: server.to_string(), status });
    }
    let object: Value = serde_json::from_slice(&body(server, answer)?)
        .map_err(|source| SourceError::NotJson { server: server.to_string(), source })?;
    let metadata = &object["metadata"];
    if metadata["name"].as_str() != Some(node) {
        return Err(SourceError::OtherNode { server: server.to_string(), node: node.into() });
    }
    let label = |key: &String| Some((key.clone(), metadata["labels"][key].as_str()?.to_owned()));
    Ok(keys.iter().filter_map(label).collect())
}
