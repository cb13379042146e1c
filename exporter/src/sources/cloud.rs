//! Instance metadata from EC2, Google Cloud and Azure.
//!
//! A key without a value is left out: on Azure, for example, a machine outside of availability zones has
//! no zone.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::Value;

use super::{
    SourceError,
    answer::{Answer, body},
};
use crate::os::http_client::Server;

/// Lifetime of a session in seconds: long enough for the requests of one poll.
const AWS_TOKEN_SECONDS: &str = "60";

/// Reads values from the Instance Metadata Service of EC2, version 2:
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html>.
pub(super) async fn aws(server: Server<'_>, keys: &BTreeSet<String>) -> Answer {
    let lifetime = ("x-aws-ec2-metadata-token-ttl-seconds", AWS_TOKEN_SECONDS);
    let token = send(server, Method::PUT, "/latest/api/token", lifetime).await?;
    let token = text(server, &body(server, token)?)?;
    let mut values = BTreeMap::new();
    for key in keys {
        let path = match key.as_str() {
            "availability_zone" => "placement/availability-zone",
            "availability_zone_id" => "placement/availability-zone-id",
            "instance_id" => "instance-id",
            "instance_type" => "instance-type",
            "region" => "placement/region",
            _ => return Err(SourceError::UnknownKey(key.clone())),
        };
        let path = format!("/latest/meta-data/{path}");
        let answer = send(server, Method::GET, &path, ("x-aws-ec2-metadata-token", &token)).await?;
        if answer.status() != StatusCode::NOT_FOUND {
            insert(&mut values, key, &text(server, &body(server, answer)?)?);
        }
    }
    Ok(values)
}

/// Reads values from the metadata server of Google Compute Engine:
/// <https://cloud.google.com/compute/docs/metadata/querying-metadata>.
pub(super) async fn gcp(server: Server<'_>, keys: &BTreeSet<String>) -> Answer {
    let flavor = ("metadata-flavor", "Google");
    let mut values = BTreeMap::new();
    for key in keys {
        let path = match key.as_str() {
            "instance_id" => "id",
            "machine_type" => "machine-type",
            "region" | "zone" => "zone",
            _ => return Err(SourceError::UnknownKey(key.clone())),
        };
        let path = format!("/computeMetadata/v1/instance/{path}");
        let answer = send(server, Method::GET, &path, flavor).await?;
        if answer.headers().get(flavor.0).is_none_or(|value| value != flavor.1) {
            return Err(SourceError::NoFlavor { server: server.to_string() });
        }
        let answer = text(server, &body(server, answer)?)?;
        // `projects/123/zones/europe-west1-b`, whose region is `europe-west1`.
        let last = answer.rsplit('/').next().unwrap_or_default();
        let value = match key.as_str() {
            "region" => last.rsplit_once('-').map_or(last, |(region, _)| region),
            _ => last,
        };
        insert(&mut values, key, value);
    }
    Ok(values)
}

/// Reads values from the Instance Metadata Service of Azure:
/// <https://learn.microsoft.com/en-us/azure/virtual-machines/instance-metadata-service>.
pub(super) async fn azure(server: Server<'_>, keys: &BTreeSet<String>) -> Answer {
    let path = "/metadata/instance/compute?api-version=2021-02-01&format=json";
    let answer = send(server, Method::GET, path, ("metadata", "true")).await?;
    let compute: Value = serde_json::from_slice(&body(server, answer)?)
        .map_err(|source| SourceError::NotJson { server: server.to_string(), source })?;
    if !compute.is_object() {
        return Err(SourceError::NotAnObject { server: server.to_string() });
    }
    let mut values = BTreeMap::new();
    for key in keys {
        let field = match key.as_str() {
            "location" => "location",
            "vm_id" => "vmId",
            "vm_size" => "vmSize",
            "zone" => "zone",
            _ => return Err(SourceError::UnknownKey(key.clone())),
        };
        insert(&mut values, key, compute[field].as_str().unwrap_or_default());
    }
    Ok(values)
}

async fn send(
    server: Server<'_>,
    method: Method,
    path: &str,
    (name, value): (&str, &str),
) -> Result<Response<Bytes>, SourceError> {
    let request = Request::builder().method(method).uri(path).header(name, value);
    let request = request
        .body(Empty::new())
        .map_err(|source| SourceError::Request { server: server.to_string(), source })?;
    Ok(server.send(request, None).await?)
}

fn text(server: Server<'_>, body: &[u8]) -> Result<String, SourceError> {
    let text = str::from_utf8(body)
        .map_err(|source| SourceError::AnswerNotUtf8 { server: server.to_string(), source })?;
    Ok(text.trim().to_owned())
}

/// Inserts a value, unless it is empty.
fn insert(values: &mut BTreeMap<String, String>, key: &str, value: &str) {
    if !value.is_empty() {
        values.insert(key.into(), value.into());
    }
}
