//! The labels of the node that the pod runs on, from the Kubernetes API.

use std::{collections::BTreeSet, sync::Arc};

use hyper::StatusCode;
use serde_json::Value;

use super::{SourceError, SourceOrigins, answer::Answer, threads::Threads};
use crate::{expr::values::Source, os::kubernetes::ApiServer};

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
    let api = ApiServer::find(&origins.environment, &origins.service_account)?;
    let access = {
        let api = api.clone();
        threads.run(Source::NodeLabels, move || api.access()).await??
    };
    let node = api.node();
    let answer = api.get(&access, &format!("/api/v1/nodes/{node}"), METADATA_ONLY).await?;
    let answer = answer.finish().await?;
    let (status, server) = (answer.status(), api.to_string());
    match status {
        StatusCode::OK => {}
        StatusCode::FORBIDDEN => return Err(SourceError::Forbidden { server, status }),
        _ => return Err(SourceError::Status { server, status }),
    }
    let object: Value = serde_json::from_slice(answer.body())
        .map_err(|source| SourceError::NotJson { server: server.clone(), source })?;
    let metadata = &object["metadata"];
    if metadata["name"].as_str() != Some(node) {
        return Err(SourceError::OtherNode { server, node: node.into() });
    }
    let label = |key: &String| Some((key.clone(), metadata["labels"][key].as_str()?.to_owned()));
    Ok(keys.iter().filter_map(label).collect())
}
