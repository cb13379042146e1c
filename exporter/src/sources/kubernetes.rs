//! The labels of the node that the pod runs on, from the Kubernetes API.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use http_body_util::Empty;
use hyper::{
    Request, StatusCode,
    header::{ACCEPT, AUTHORIZATION, HeaderValue},
};
use serde_json::Value;
use tokio::task::spawn_blocking;

use super::{SourceOrigins, files};
use crate::os::http_client::{self as client, Server};

/// The metadata of an object is enough, and much smaller than a node with its images:
/// <https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-representations>.
const METADATA_ONLY: &str =
    "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";

/// Asks for `keys` of the labels. Certificate and token are read each time, since both change.
pub(super) async fn node_labels(
    endpoints: &Arc<SourceOrigins>,
    keys: &BTreeSet<String>,
) -> Result<BTreeMap<String, String>, String> {
    let node = endpoints.variable("NODE_NAME")?;
    // Names of nodes are DNS names, and this one becomes part of a path.
    if node.is_empty() || !node.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b)) {
        return Err(format!("NODE_NAME `{node}` is not the name of a node"));
    }
    let host = endpoints.variable("KUBERNETES_SERVICE_HOST")?;
    let port = endpoints.variable("KUBERNETES_SERVICE_PORT")?;
    let port =
        port.parse().map_err(|error| format!("KUBERNETES_SERVICE_PORT `{port}`: {error}"))?;
    let server = Server { host, port };

    let account = endpoints.service_account.clone();
    let read = move || {
        let authority = files::read(&account.join("ca.crt"))?;
        Ok((authority, files::read(&account.join("token"))?))
    };
    let (authority, token) = spawn_blocking(read)
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error: files::TextError| error.to_string())?;
    let tls = client::trust(authority.as_bytes()).map_err(|error| {
        format!("`{}`: {error}", endpoints.service_account.join("ca.crt").display())
    })?;
    let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.trim_end()))
        .map_err(|error| format!("the service account's token: {error}"))?;
    bearer.set_sensitive(true);

    let request = Request::get(format!("/api/v1/nodes/{node}"))
        .header(ACCEPT, METADATA_ONLY)
        .header(AUTHORIZATION, bearer)
        .body(Empty::new())
        .map_err(|error| error.to_string())?;
    let answer = server.send(request, Some(tls)).await.map_err(|error| error.to_string())?;
    if answer.status() == StatusCode::FORBIDDEN {
        return Err(format!(
            "{server} answers {}; allow the service account to get nodes",
            answer.status()
        ));
    }
    let object: Value = serde_json::from_slice(&client::good(server, answer)?)
        .map_err(|error| format!("{server}: the answer is not JSON: {error}"))?;
    let metadata = &object["metadata"];
    if metadata["name"].as_str() != Some(node) {
        return Err(format!("{server}: the answer is not the node {node}"));
    }
    let value = |key: &String| Some((key.clone(), metadata["labels"][key].as_str()?.to_owned()));
    Ok(keys.iter().filter_map(value).collect())
}
