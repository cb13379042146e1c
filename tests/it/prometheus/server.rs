//! A real Prometheus, with the configuration and the rules in `deploy/prometheus`, sped up.

use std::{
    env,
    fmt::Write as _,
    fs,
    fs::File,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use sched_exporter_tests::{
    client::{Answer, Client},
    commands::block,
    dashboard::{array, text},
    process::{PATIENCE, ending_with_us},
};
use serde_json::Value;
use tempfile::TempDir;

/// Directory of the files.
const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/prometheus");

fn program() -> PathBuf {
    env::var_os("SCHED_EXPORTER_PROMETHEUS").expect("run by `cargo xtask test`").into()
}

/// A running Prometheus; killed when dropped.
pub(super) struct Prometheus {
    child: Child,
    address: String,
    directory: TempDir,
}

impl Prometheus {
    /// Starts it with the shipped files, except for these targets, a scrape and an evaluation each
    /// second, and rules that are [`sped_up`].
    pub(super) fn start(targets: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let read = |file: &str| fs::read_to_string(Path::new(DEPLOY).join(file)).unwrap();
        let write = |file: &str, text: &str| fs::write(directory.path().join(file), text).unwrap();
        let config = read("prometheus.yaml");
        let changed = config
            .replace("_interval: 15s", "_interval: 1s")
            .replace("\"127.0.0.1:10435\"", &format!("\"{}\"", targets.join("\", \"")));
        assert!(changed.contains(targets[0]) && !changed.contains("15s"), "{changed}");
        write("prometheus.yaml", &changed);
        for file in ["recording.rules.yaml", "alerts.rules.yaml"] {
            write(file, &sped_up(&read(file)));
        }
        Self::with_file(directory)
    }

    /// Starts it with this configuration.
    pub(super) fn with_config(config: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("prometheus.yaml"), config).unwrap();
        Self::with_file(directory)
    }

    /// Starts it with the configuration in a directory.
    fn with_file(directory: TempDir) -> Self {
        let mut command = ending_with_us(&program());
        command.args(["--config.file=prometheus.yaml", "--storage.tsdb.path=data"]);
        command.arg("--web.listen-address=127.0.0.1:0");
        Self::spawn(directory, &mut command)
    }

    /// Starts it by the commands in docs/deploy.md, in a directory with `deploy`.
    pub(super) fn start_as_in_the_guide() -> Self {
        let directory = tempfile::tempdir().unwrap();
        symlink(Path::new(DEPLOY).parent().unwrap(), directory.path().join("deploy")).unwrap();
        let commands = block("Prometheus", "sh", 0).replace("\nprometheus ", "\nexec prometheus ");
        let (program, path) = (program(), env::var_os("PATH").unwrap());
        let found = program.parent().unwrap().to_owned();
        let path = env::join_paths([found].into_iter().chain(env::split_paths(&path))).unwrap();
        let mut command = ending_with_us(Path::new("sh"));
        Self::spawn(directory, command.args(["-ec", &commands]).env("PATH", path))
    }

    fn spawn(directory: TempDir, command: &mut Command) -> Self {
        let log = File::create(directory.path().join("log")).unwrap();
        command.current_dir(&directory).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().unwrap();
        let mut prometheus = Self { child, address: String::new(), directory };
        prometheus.address = prometheus.wait_for("an address", || {
            let log = prometheus.log();
            let (_, rest) = log.split_once("msg=\"Listening on\" address=")?;
            Some(rest.split_once('\n')?.0.to_owned())
        });
        // Until then it rejects queries.
        prometheus.wait_for("ready", || (prometheus.get("/-/ready").status == 200).then_some(()));
        prometheus
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    /// Calls `ask` until it returns a value.
    #[track_caller]
    pub(super) fn wait_for<T>(&self, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            assert!(Instant::now() < deadline, "never {what}\n{}", self.log());
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn get(&self, path: &str) -> Answer {
        Client::connect(self.address.parse().unwrap()).get(path)
    }

    /// Calls the API and returns its data; panics if the query fails.
    #[track_caller]
    pub(super) fn ask(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let mut url = format!("/api/v1/{path}?");
        for (name, value) in parameters {
            let _ = write!(url, "{}={}&", encoded(name), encoded(value));
        }
        let answer = self.get(&url);
        let mut body: Value = serde_json::from_slice(&answer.body).unwrap();
        assert!(answer.status == 200, "{parameters:?}: {body}");
        body["data"].take()
    }

    /// The current series of an expression.
    #[track_caller]
    pub(super) fn query(&self, expr: &str) -> Vec<Value> {
        self.ask("query", &[("query", expr)])["result"].as_array().unwrap().clone()
    }

    /// The series of an expression, once one of them has a value.
    #[track_caller]
    pub(super) fn some(&self, expr: &str) -> Vec<Value> {
        self.wait_for(expr, || {
            let series = self.query(expr);
            series.iter().any(|series| !number(series).is_nan()).then_some(series)
        })
    }

    /// Waits until an expression has exactly one value and `will_do` accepts it; returns that value.
    #[track_caller]
    pub(super) fn number(&self, expr: &str, will_do: impl Fn(f64) -> bool) -> f64 {
        let mut seen = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let found = self.query(expr);
            seen = found.iter().map(number).collect();
            if let [number] = seen[..]
                && will_do(number)
            {
                return number;
            }
            thread::sleep(Duration::from_millis(200));
        }
        panic!("{expr} is {seen:?}\n{}", self.log());
    }

    /// The result of Grafana's `label_values(selector, label)`.
    #[track_caller]
    pub(super) fn label_values(&self, query: &str) -> Vec<String> {
        let inner = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
        let (selector, label) = inner.and_then(|inner| inner.rsplit_once(", ")).expect(query);
        let values = self.ask(&format!("label/{label}/values"), &[("match[]", selector)]);
        array(&values).iter().map(|value| text(value).to_owned()).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The value of a series.
fn number(series: &Value) -> f64 {
    text(&series["value"][1]).parse().unwrap()
}

/// Speeds rules up 60 times: minutes become seconds, hours minutes, and days 24 minutes, in ranges,
/// in `for` and in `interval`. Nothing else changes, not even the names of recorded series.
pub(super) fn sped_up(rules: &str) -> String {
    let mut text = rules.to_owned();
    for (open, close) in [("[", "]"), ("for: ", "\n"), ("interval: ", "\n")] {
        let mut parts = text.split(open);
        let mut changed = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            changed.push_str(open);
            let (duration, rest) = part.split_once(close).unwrap_or(("", part));
            let sixtieth = duration.len().checked_sub(1).and_then(|last| {
                let (count, unit) = duration.split_at(last);
                let count: u32 = count.parse().ok()?;
                Some(match unit {
                    "m" => format!("{count}s"),
                    "h" => format!("{count}m"),
                    "d" => format!("{}m", count * 24),
                    _ => return None,
                })
            });
            match sixtieth {
                Some(sixtieth) => changed.extend([&sixtieth, close, rest]),
                None => changed.push_str(part),
            }
        }
        text = changed;
    }
    text
}

/// Percent-encodes a text for a URL.
fn encoded(text: &str) -> String {
    let mut url = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            url.push(char::from(byte));
        } else {
            let _ = write!(url, "%{byte:02X}");
        }
    }
    url
}
