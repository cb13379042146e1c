//! The HTML pages, each a file next to this one.

use super::{
    App,
    response::{Response, content},
};
use crate::metrics::selection::COLLECTORS;

const HTML: &str = "text/html; charset=utf-8";

impl App {
    /// A page with links to the other paths.
    pub(super) fn landing_page(&self) -> Response {
        let page = format!(
            include_str!("landing.html"),
            version = env!("CARGO_PKG_VERSION"),
            path = self.server.telemetry_path,
            collectors = COLLECTORS.join(", "),
        );
        content(HTML, page)
    }
}
