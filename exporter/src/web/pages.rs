//! HTML.

use http_body_util::Full;
use hyper::{
    Response,
    header::{CONTENT_TYPE, HeaderValue},
};

use super::{Running, routes::Answer};

impl Running {
    pub(super) fn landing_page(&self) -> Answer {
        // The telemetry path has no character that means something in HTML: see `args`.
        let page = format!(
            r#"<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>sched_exporter</title></head>
<body>
<h1>sched_exporter</h1>
<p>Exact per-CPU scheduler time and run-queue latency. Version {version}.</p>
<ul>
<li><a href="{path}">Metrics</a></li>
<li><a href="/-/healthy">Healthy</a></li>
<li><a href="/-/ready">Ready</a></li>
</ul>
</body>
</html>
"#,
            version = env!("CARGO_PKG_VERSION"),
            path = self.server.telemetry_path,
        );
        let mut answer = Response::new(Full::from(page));
        let html = HeaderValue::from_static("text/html; charset=utf-8");
        answer.headers_mut().insert(CONTENT_TYPE, html);
        answer
    }
}
