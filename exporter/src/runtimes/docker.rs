//! Asks Docker by its API, and podman by its own, which knows pods too.
//! <https://docs.docker.com/reference/api/engine/>, <https://docs.podman.io/en/latest/_static/api.html>

use std::{borrow::Cow, path::Path, sync::Arc};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{HeaderMap, Request, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    answer::{Answered, Room},
    error::AskError,
    inventory::{Answer, Container, ContainerId, Pod},
    json::{self, Objects},
};
use crate::{
    expr::cgroup::CgroupUses,
    os::http_client::{self, Exchange},
};

/// Maximum size of an answer.
const MAX_BYTES: usize = 16 << 20;

/// Maximum size of a container in it.
const MAX_ITEM_BYTES: usize = 1 << 20;

/// Number of the newest containers to list, besides those that run: some have just been created, or have ended
/// already.
const NEWEST: u32 = 100;

/// An engine, and the path below which its API has containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Engine {
    runtime: &'static str,
    api: String,
}

/// Asks which engine listens at a socket.
pub(super) async fn ping(path: &Path) -> Result<Engine, AskError> {
    let mut answer = get(path, "/_ping").await?;
    let headers = &answer.head().headers;
    // podman has both versions.
    let podman = version(headers, "libpod-api-version")
        .map(|version| Engine { runtime: "podman", api: format!("/v{version}/libpod") });
    let docker = || {
        version(headers, "api-version")
            .map(|version| Engine { runtime: "docker", api: format!("/v{version}") })
    };
    let engine = podman.or_else(docker).ok_or(AskError::NoVersion);
    // Read to the end, so that the engine does not see a broken connection.
    answer.chunk().await?;
    engine
}

/// A version in a header, like `1.47`, if it can be part of a path.
fn version<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    const MAX_BYTES: usize = 16;
    let version = headers.get(name)?.to_str().ok()?;
    let version = version.split(['-', '+']).next()?;
    let is_version = |byte: u8| byte.is_ascii_digit() || byte == b'.';
    let is_valid = (1..=MAX_BYTES).contains(&version.len()) && version.bytes().all(is_version);
    is_valid.then_some(version)
}

impl Engine {
    /// Lists the containers.
    pub(super) async fn list(
        &self,
        path: &Path,
        uses: &Arc<CgroupUses>,
    ) -> Result<Answered, AskError> {
        let runtime = self.runtime.into();
        let mut found = Listed { room: Room::new(uses), answer: Answer::default(), runtime };
        for query in [String::new(), format!("?limit={NEWEST}")] {
            let mut answer = get(path, &format!("{}/containers/json{query}", self.api)).await?;
            let objects = Objects::of_array(MAX_ITEM_BYTES);
            objects.receive(&mut answer, MAX_BYTES, |object| found.container(object)).await?;
        }
        Ok((found.answer, found.room.shortfall()))
    }
}

/// Reads a list that arrives in pieces of this size.
pub(super) fn read(list: &[u8], uses: &Arc<CgroupUses>, size: usize) -> Result<Answer, AskError> {
    let (room, answer, runtime) = (Room::new(uses), Answer::default(), "fake".into());
    let mut found = Listed { room, answer, runtime };
    let mut objects = Objects::of_array(MAX_ITEM_BYTES);
    for piece in list.chunks(size) {
        objects.push(piece, &mut |object| found.container(object))?;
    }
    objects.end()?;
    Ok(found.answer)
}

async fn get(path: &Path, uri: &str) -> Result<Exchange, AskError> {
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = uri.parse().expect("versions and queries are parts of paths");
    let answer = http_client::open_socket(path, request).await?;
    match answer.head().status {
        StatusCode::OK => Ok(answer),
        status => Err(AskError::Status(status)),
    }
}

struct Listed {
    room: Room,
    answer: Answer,
    runtime: Arc<str>,
}

/// A container of either API.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListedContainer<'j> {
    #[serde(borrow)]
    id: Cow<'j, str>,
    #[serde(borrow, default)]
    names: Option<&'j RawValue>,
    #[serde(borrow, default)]
    image: Option<Cow<'j, str>>,
    /// Only in podman's API, like the next field.
    #[serde(borrow, default)]
    pod_name: Option<Cow<'j, str>>,
    #[serde(default)]
    is_infra: Option<bool>,
}

impl Listed {
    /// Reads a container. It is left out if its id is not one that cgroups have, or if it has no name.
    fn container(&mut self, object: &[u8]) -> Result<(), AskError> {
        let listed: ListedContainer<'_> = serde_json::from_slice(object)?;
        let Some(id) = ContainerId::parse(listed.id.as_bytes()) else { return Ok(()) };
        if self.answer.containers.contains_key(&id) {
            return Ok(());
        }
        let mut name = None;
        json::elements(listed.names, |candidate: String| {
            // Docker's names begin with a slash. A name with a second one is that which another container uses
            // for this one.
            let candidate = candidate.strip_prefix('/').unwrap_or(&candidate);
            if !candidate.contains('/') && name.as_deref().is_none_or(|it| candidate < it) {
                name = Some(candidate.to_owned());
            }
        })?;
        let name = name.and_then(|name| self.room.name(name.as_bytes()));
        let pod = listed.pod_name.and_then(|name| self.room.name(name.as_bytes()));
        let is_infra = listed.is_infra == Some(true) && pod.is_some();
        let name = if is_infra { Some(Box::default()) } else { name };
        if let Some(name) = name
            && self.room.item()
        {
            let pod = pod.map(|name| Arc::new(Pod { name, ..Pod::default() }));
            let image = self.room.image(listed.image.unwrap_or_default().as_bytes());
            let runtime = Arc::clone(&self.runtime);
            self.answer.add(id, Container { name, image, runtime, pod });
        }
        Ok(())
    }
}
