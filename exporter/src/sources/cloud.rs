//! What the metadata services of clouds know of a virtual machine.
//!
//! A key that the service does not have, as Azure has no zone outside of zones, is left out.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::Value;

use crate::os::http_client::{self as client, Server};

type Answer = Result<BTreeMap<String, String>, String>;

/// Lifetime of a session in seconds: long enough for the requests of one reading.
const AWS_TOKEN_SECONDS: &str = "60";

/// Asks the Instance Metadata Service of EC2, version 2:
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html>.
pub(super) async fn aws(endpoint: &(String, u16), keys: &BTreeSet<String>) -> Answer {
    let server = server(endpoint);
    let lifetime = ("x-aws-ec2-metadata-token-ttl-seconds", AWS_TOKEN_SECONDS);
    let token = ask(server, Method::PUT, "/latest/api/token", lifetime).await?;
    let token = text(server, &client::good(server, token)?)?;
    let mut values = BTreeMap::new();
    for key in keys {
        let path = match key.as_str() {
            "availability_zone" => "placement/availability-zone",
            "availability_zone_id" => "placement/availability-zone-id",
            "instance_id" => "instance-id",
            "instance_type" => "instance-type",
            _ => "placement/region",
        };
        let path = format!("/latest/meta-data/{path}");
        let answer = ask(server, Method::GET, &path, ("x-aws-ec2-metadata-token", &token)).await?;
        if answer.status() != StatusCode::NOT_FOUND {
            insert(&mut values, key, &text(server, &client::good(server, answer)?)?);
        }
    }
    Ok(values)
}

/// Asks the metadata server of Google Compute Engine:
/// <https://cloud.google.com/compute/docs/metadata/querying-metadata>.
pub(super) async fn gcp(endpoint: &(String, u16), keys: &BTreeSet<String>) -> Answer {
    let server = server(endpoint);
    let flavor = ("metadata-flavor", "Google");
    let mut values = BTreeMap::new();
    for key in keys {
        let path = match key.as_str() {
            "instance_id" => "id",
            "machine_type" => "machine-type",
            _ => "zone",
        };
        let path = format!("/computeMetadata/v1/instance/{path}");
        let answer = ask(server, Method::GET, &path, flavor).await?;
        if answer.headers().get(flavor.0).is_none_or(|value| value != flavor.1) {
            return Err(format!("{server} is not the metadata server: no Metadata-Flavor"));
        }
        let answer = text(server, &client::good(server, answer)?)?;
        // `projects/123/zones/europe-west1-b`.
        let last = answer.rsplit('/').next().unwrap_or_default();
        let value = match key.as_str() {
            "region" => last.rsplit_once('-').map_or(last, |(region, _)| region),
            _ => last,
        };
        insert(&mut values, key, value);
    }
    Ok(values)
}

/// Asks the Instance Metadata Service of Azure:
/// <https://learn.microsoft.com/en-us/azure/virtual-machines/instance-metadata-service>.
pub(super) async fn azure(endpoint: &(String, u16), keys: &BTreeSet<String>) -> Answer {
    let server = server(endpoint);
    let path = "/metadata/instance/compute?api-version=2021-02-01&format=json";
    let answer = ask(server, Method::GET, path, ("metadata", "true")).await?;
    let compute: Value = serde_json::from_slice(&client::good(server, answer)?)
        .map_err(|error| format!("{server}: the answer is not JSON: {error}"))?;
    if !compute.is_object() {
        return Err(format!("{server}: the answer is not an object"));
    }
    let mut values = BTreeMap::new();
    for key in keys {
        let field = match key.as_str() {
            "vm_id" => "vmId",
            "vm_size" => "vmSize",
            key => key,
        };
        insert(&mut values, key, compute[field].as_str().unwrap_or_default());
    }
    Ok(values)
}

fn server((host, port): &(String, u16)) -> Server<'_> {
    Server { host, port: *port }
}

async fn ask(
    server: Server<'_>,
    method: Method,
    path: &str,
    (name, value): (&str, &str),
) -> Result<Response<Bytes>, String> {
    let request = Request::builder().method(method).uri(path).header(name, value);
    let request = request.body(Empty::new()).map_err(|error| format!("{server}: {error}"))?;
    server.send(request, None).await.map_err(|error| error.to_string())
}

fn text(server: Server<'_>, body: &[u8]) -> Result<String, String> {
    let text = str::from_utf8(body).map_err(|error| format!("{server}: the answer: {error}"))?;
    Ok(text.trim().to_owned())
}

fn insert(values: &mut BTreeMap<String, String>, key: &str, value: &str) {
    if !value.is_empty() {
        values.insert(key.into(), value.into());
    }
}
