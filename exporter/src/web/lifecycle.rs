//! Reloads on request.

use hyper::StatusCode;

use super::{
    Running,
    routes::{Answer, plain},
};

impl Running {
    pub(super) async fn reload(&self) -> Answer {
        if !self.server.lifecycle {
            let reason = "Lifecycle API is not enabled; start with --web.enable-lifecycle.\n";
            return plain(StatusCode::FORBIDDEN, reason);
        }
        match self.server.reload.reload().await {
            Ok(outcome) => plain(StatusCode::OK, format!("{}\n", outcome.name())),
            Err(reason) => {
                let reason = format!("failed to reload config: {reason}\n");
                plain(StatusCode::INTERNAL_SERVER_ERROR, reason)
            }
        }
    }
}
