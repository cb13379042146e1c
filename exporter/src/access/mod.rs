//! Decides who may connect and what they may ask, by the web configuration: TLS, certificates of clients,
//! passwords and a rate limit. May name `config`, `metrics` and `os`; it knows neither HTTP paths nor sockets.
//!
//! `load` reads the web configuration and the files that it names, and builds an [`Access`] from them. A
//! [`Gate`] holds the current one; `follow` replaces it when a file changes.
//!
//! ```text
//!  watch, poll, request       follow, on the reactor          a thread for each job
//!     │                           │                                  │
//!     ├──────────────────────────>├─ read again ────────────────────>│ read, parse, build
//!     │                           │<──────────────── Access or error ┤ unless a file is being written
//!     │                           ├─ swap it, or keep the last good  │
//!     │                           ├─ log, metrics                    │
//! ```
//!
//! A connection takes what is current when its handshake begins, and a request when it arrives.

mod client_certs;
mod follow;
mod load;
mod origin;
mod passwords;
mod rate;
mod tls;

#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use hyper::header::{HeaderName, HeaderValue};
use tokio_rustls::rustls::ServerConfig;

pub use follow::{Follower, WebReload};
pub use load::{Loaded, WebConfigError, load, read, warnings};
pub use origin::Origin;
pub use passwords::Checked;
use passwords::{Passwords, Users};
use rate::Bucket;

/// What applies to new connections and requests.
#[derive(Debug, Default)]
pub struct Access {
    /// TLS, unless connections are plain.
    pub tls: Option<Arc<ServerConfig>>,
    /// The headers of every response.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    users: Users,
    bucket: Option<Bucket>,
}

/// The current [`Access`], and what outlives it.
#[derive(Debug, Default)]
pub struct Gate {
    current: ArcSwap<Access>,
    passwords: Passwords,
    /// Reloads the web configuration, if there is one.
    reload: OnceLock<WebReload>,
}

impl Gate {
    /// Starts with this.
    pub fn new(access: Access) -> Self {
        Self { current: ArcSwap::from_pointee(access), ..Self::default() }
    }

    /// What applies now.
    pub fn current(&self) -> Arc<Access> {
        self.current.load_full()
    }

    /// Whether a request may come now, by the rate limit.
    pub fn allows_now(&self) -> bool {
        self.current.load().bucket.as_ref().is_none_or(Bucket::take)
    }

    /// Checks the header `Authorization` of a request from `origin`. If its password is not known, calls
    /// `waits`, and waits for a check.
    pub async fn check(
        &self,
        authorization: Option<&HeaderValue>,
        origin: Origin,
        waits: impl FnOnce(),
    ) -> Checked {
        let access = self.current();
        if access.users.is_empty() {
            return Checked::Allowed;
        }
        self.passwords.check(&access.users, authorization, origin, waits).await
    }

    /// Reads the web configuration again, and waits until it is applied. An error says why it was rejected.
    pub async fn reload(&self) -> Result<(), Arc<str>> {
        match self.reload.get() {
            Some(reload) => reload.reload().await,
            None => Ok(()),
        }
    }

    fn replace(&self, access: Access) {
        let before = self.current();
        // A change of something else must not fill the bucket again.
        let bucket = match (&before.bucket, access.bucket) {
            (Some(old), Some(new)) if old.limit() == new.limit() => Some(old.clone()),
            (_, new) => new,
        };
        self.current.store(Arc::new(Access { bucket, ..access }));
    }
}
