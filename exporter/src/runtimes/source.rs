//! A source: a socket, or the Kubernetes API.

use std::{collections::BTreeMap, ffi::OsString, fmt, path::PathBuf, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    answer::Answered,
    cri::{self, Cri},
    docker::{self, Engine},
    endpoint::Endpoint,
    error::AskError,
    kubernetes,
};
use crate::{
    expr::cgroup::{CgroupUses, NamesFrom},
    os::{
        blocking::{BlockingSlot, JobStatus},
        kubernetes::{Access, ApiError, ApiServer},
        log,
    },
};

/// The name of the Kubernetes API among sources.
const KUBERNETES: &str = "kubernetes-pods";

/// A source, with what is remembered between two questions.
pub(super) enum Source {
    /// A socket, and the protocol that it speaks, as long as it works.
    Socket(Endpoint, Option<Protocol>),
    Kubernetes(Kubernetes),
}

/// The protocol that a socket speaks.
pub(super) enum Protocol {
    Cri(Cri),
    Docker(Engine),
}

/// The Kubernetes API, and how to find it.
pub(super) struct Kubernetes {
    pub(super) environment: Arc<BTreeMap<OsString, OsString>>,
    pub(super) service_account: PathBuf,
    /// Reads the certificate and the token.
    access: BlockingSlot<Result<Access, ApiError>>,
}

impl Kubernetes {
    pub(super) const fn new(
        environment: Arc<BTreeMap<OsString, OsString>>,
        service_account: PathBuf,
    ) -> Self {
        Self { environment, service_account, access: BlockingSlot::new("kubernetes") }
    }

    /// Lists the pods. Rereads the certificate and the token each time, since both can change; within half of
    /// `limit`, so that the error says what hangs.
    async fn ask(&mut self, uses: &Arc<CgroupUses>, limit: Duration) -> Result<Answered, AskError> {
        let api = ApiServer::find(&self.environment, &self.service_account)?;
        let reading = api.clone();
        match self.access.run(limit / 2, move || reading.access()).await {
            JobStatus::Done(access) => kubernetes::list(&api, &access?, uses).await,
            status => Err(AskError::Blocked(status.reason())),
        }
    }
}

impl Source {
    /// Whether it is a socket.
    pub(super) fn is_at(&self, endpoint: &Endpoint) -> bool {
        matches!(self, Self::Socket(known, _) if known == endpoint)
    }

    /// The source in reports.
    pub(super) fn names_from(&self) -> NamesFrom {
        match self {
            Self::Socket(endpoint, _) => NamesFrom::Runtime(endpoint.to_string().into()),
            Self::Kubernetes(_) => NamesFrom::KubernetesApi,
        }
    }

    /// The user whose runtime it is; `None` for those of the host.
    pub(super) fn user(&self) -> Option<u32> {
        match self {
            Self::Socket(endpoint, _) => endpoint.user(),
            Self::Kubernetes(_) => None,
        }
    }

    /// Asks who the containers are. Connects again each time, since a runtime may have been restarted. `limit` is
    /// the time that the caller waits.
    pub(super) async fn ask(
        &mut self,
        uses: &Arc<CgroupUses>,
        limit: Duration,
    ) -> Result<Answered, AskError> {
        match self {
            Self::Socket(endpoint, protocol) => {
                // It leaves time to take an answer without images.
                let deadline = Instant::now() + limit * 3 / 4;
                // A protocol that fails is forgotten.
                let known = protocol.take();
                let mut found = match known {
                    Some(known) => known,
                    None => Protocol::find(endpoint).await?,
                };
                let answer = match &mut found {
                    Protocol::Cri(cri) => cri.list(endpoint.path(), uses, deadline).await?,
                    Protocol::Docker(engine) => engine.list(endpoint.path(), uses).await?,
                };
                *protocol = Some(found);
                Ok(answer)
            }
            Self::Kubernetes(kubernetes) => kubernetes.ask(uses, limit).await,
        }
    }
}

impl Protocol {
    /// Finds out which protocol a socket speaks.
    async fn find(endpoint: &Endpoint) -> Result<Self, AskError> {
        let error = match cri::version(endpoint.path()).await {
            Ok(cri) => return Ok(Self::Cri(cri)),
            // Docker 29.2 serves gRPC and its API on one socket.
            // <https://github.com/moby/moby/blob/11ae01b98d8a9f59ccd1291146b37826e2b658b6/daemon/command/httphandler.go>
            Err(AskError::Grpc(error)) if error.is_unimplemented() || error.may_not_be_grpc() => {
                error
            }
            Err(error) => return Err(error),
        };
        match docker::ping(endpoint.path()).await {
            Ok(engine) => Ok(Self::Docker(engine)),
            Err(_) if error.is_unimplemented() => Err(AskError::NoCri(error)),
            Err(http) => Err(AskError::UnknownProtocol { http: log::chain(&http), source: error }),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(endpoint, _) => endpoint.fmt(f),
            Self::Kubernetes(_) => f.write_str(KUBERNETES),
        }
    }
}
