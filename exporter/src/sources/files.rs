//! Reads small files, such as those with the pod's labels and annotations from the downward API.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use super::{SourceError, SourceOrigins};
use crate::{
    expr::values::Reading,
    os::{
        files,
        watch::{Contents, FileWatch},
    },
};

/// Maximum size of a file.
const MAX_FILE_BYTES: u64 = 1 << 16;

/// Maximum size of the pod's labels or annotations. Kubernetes allows 256 KiB of annotations; quoting
/// makes them longer. <https://github.com/kubernetes/kubernetes/blob/v1.34.0/staging/src/k8s.io/apimachinery/pkg/api/validation/objectmeta.go>
const MAX_POD_BYTES: u64 = 1 << 20;

/// How to read files that can change while they are read.
pub(super) struct Rereading {
    pub(super) watch: FileWatch,
    /// The last reading of the source. Its values stay while their file is being written.
    pub(super) known: Reading,
    /// Whether someone requested a reload.
    pub(super) is_requested: bool,
}

impl Rereading {
    /// Reads a text file. Also returns whether it is complete.
    fn text(&self, path: &Path, max_bytes: u64) -> Result<(String, bool), SourceError> {
        let Contents { bytes, is_complete, .. } =
            self.watch.read(path, max_bytes, self.is_requested)?;
        Ok((text(path, bytes)?, is_complete))
    }
}

/// Reads a small text file.
pub(super) fn read(path: &Path) -> Result<String, SourceError> {
    text(path, files::read(path, MAX_FILE_BYTES)?)
}

fn text(path: &Path, bytes: Vec<u8>) -> Result<String, SourceError> {
    String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        SourceError::FileNotUtf8 { path: path.into(), offset }
    })
}

/// The value in a file: its text without a byte order mark and trailing blanks. Strings in the device
/// tree, like `/proc/device-tree/model`, end with a NUL.
fn value(text: &str) -> &str {
    text.trim_start_matches('\u{feff}').trim_end_matches([' ', '\t', '\r', '\n', '\0'])
}

/// Reads the files that `file("/path")` names. The last value stays while a file is being written, or
/// cannot be read while resources are short.
pub(super) fn read_all(paths: &BTreeSet<String>, rereading: &Rereading) -> Reading {
    let mut reading = Reading::default();
    for path in paths {
        let known = rereading.known.values.get(path);
        let value = match rereading.text(Path::new(path), MAX_FILE_BYTES) {
            Ok((_, false)) if known.is_some() => known.cloned(),
            Ok((text, _)) => Some(value(&text).to_owned()),
            Err(error) => {
                reading.add_error(&error.chain());
                known.filter(|_| error.is_shortage()).cloned()
            }
        };
        reading.values.extend(value.map(|value| (path.clone(), value)));
    }
    reading
}

/// Returns the paths that `file("/path")` names.
pub(super) fn paths(_: &SourceOrigins, keys: &BTreeSet<String>) -> BTreeSet<PathBuf> {
    keys.iter().map(PathBuf::from).collect()
}

/// Reads the labels or annotations `keys` of the pod. The last values stay while the file is being
/// written, or cannot be read while resources are short.
pub(super) fn pod(path: &Path, keys: &BTreeSet<String>, rereading: &Rereading) -> Reading {
    let known = rereading.known.restricted_to(keys);
    let read = rereading.text(path, MAX_POD_BYTES).and_then(|(text, is_complete)| {
        if !is_complete && !known.values.is_empty() {
            return Ok(known.values.clone());
        }
        downward(&text).map_err(|line| SourceError::PodInfo { path: path.into(), line })
    });
    match read {
        Ok(values) => Reading::of(values).restricted_to(keys),
        Err(error) if error.is_shortage() => Reading { error: Some(error.chain()), ..known },
        Err(error) => Reading::failed(error.chain()),
    }
}

/// Parses lines of `key="value"`, with the value quoted as by Go's `%q`. The error is the number of
/// the invalid line. <https://github.com/kubernetes/kubernetes/blob/v1.34.0/pkg/fieldpath/fieldpath.go>
fn downward(text: &str) -> Result<BTreeMap<String, String>, usize> {
    text.lines().zip(1..).map(|(line, number)| pair(line).ok_or(number)).collect()
}

fn pair(line: &str) -> Option<(String, String)> {
    let (key, quoted) = line.split_once('=')?;
    let quoted = quoted.strip_prefix('"')?.strip_suffix('"')?;
    Some((key.to_owned(), unquote(quoted)?))
}

/// Undoes the escapes of Go's `%q`: <https://pkg.go.dev/strconv#Quote>. A byte that is not part of a
/// character, such as `\xff`, becomes U+FFFD.
fn unquote(quoted: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = quoted;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        bytes.extend_from_slice(plain.as_bytes());
        let escape = escaped.chars().next()?;
        rest = &escaped[escape.len_utf8()..];
        let digits = match escape {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => {
                bytes.push(match escape {
                    'a' => 0x07,
                    'b' => 0x08,
                    'f' => 0x0c,
                    'n' => b'\n',
                    'r' => b'\r',
                    't' => b'\t',
                    'v' => 0x0b,
                    '\\' | '"' => escape as u8,
                    _ => return None,
                });
                continue;
            }
        };
        let code = u32::from_str_radix(rest.get(..digits)?, 16).ok()?;
        rest = &rest[digits..];
        if escape == 'x' {
            bytes.push(u8::try_from(code).ok()?);
        } else {
            bytes.extend_from_slice(char::from_u32(code)?.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use tempfile::TempDir;

    use super::*;
    use crate::os::files::FileError;

    /// Reads for the first time, if `known` is empty.
    fn rereading(known: &[(&str, &str)]) -> Rereading {
        let known = known.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        Rereading { watch: FileWatch::new(|| ()), known: Reading::of(known), is_requested: false }
    }

    fn reading(path: &Path) -> Reading {
        read_all(&[path.to_str().unwrap().to_owned()].into(), &rereading(&[]))
    }

    #[track_caller]
    fn check(path: &Path, expected: Result<&str, &str>) {
        let reading = reading(path);
        let value = reading.values.into_values().next();
        let found = value.ok_or(reading.error.clone().unwrap_or_default());
        let place = path.to_str().unwrap();
        let expected = expected.map(str::to_owned);
        assert_eq!(found, expected.map_err(|error| error.replace('@', &format!("`{place}`"))));
    }

    #[test]
    fn byte_order_marks_and_trailing_blanks_are_removed() {
        let top = TempDir::new().unwrap();
        let path = top.path().join("zone");
        for (bytes, text) in [
            ("eu-1a", "eu-1a"),
            ("eu-1a\n", "eu-1a"),
            ("a\nb\r\n\n", "a\nb"),
            ("", ""),
            (" x \t\r\n \n", " x"),
            ("\u{feff}eu-1a\r\n", "eu-1a"),
            ("\u{feff}\n", ""),
            ("a\u{feff}\u{a0}", "a\u{feff}\u{a0}"),
            ("Raspberry Pi 4\0", "Raspberry Pi 4"),
        ] {
            fs::write(&path, bytes).unwrap();
            check(&path, Ok(text));
        }
        fs::write(&path, "x".repeat(1 << 16)).unwrap();
        check(&path, Ok(&"x".repeat(1 << 16)));
    }

    #[test]
    fn rejects_non_regular_large_and_non_utf8_files() {
        let top = TempDir::new().unwrap();
        let path = top.path().join("zone");
        check(&path, Err("reading @: No such file or directory (os error 2)"));
        check(top.path(), Err("@ is not a regular file"));
        check(Path::new("/dev/zero"), Err("@ is not a regular file"));
        fs::write(&path, b"ab\xff").unwrap();
        check(&path, Err("@ is not UTF-8 at byte 2"));
        fs::write(&path, "x".repeat((1 << 16) + 1)).unwrap();
        check(&path, Err("@ is larger than 65536 bytes"));
        // The FIFO has no writer: a plain open would block.
        let fifo = top.path().join("fifo");
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        check(&fifo, Err("@ is not a regular file"));
    }

    #[test]
    fn an_unreadable_file_does_not_hide_another() {
        let top = TempDir::new().unwrap();
        let (there, gone) = (top.path().join("there"), top.path().join("gone"));
        fs::write(&there, "x").unwrap();
        let paths = [&there, &gone].map(|path| path.to_str().unwrap().to_owned());
        let reading = read_all(&paths.into(), &rereading(&[]));
        assert_eq!(reading.values.into_values().collect::<Vec<_>>(), ["x"]);
        assert!(reading.error.unwrap().contains("gone"));
    }

    /// Without events, a file that was written just now is not complete.
    #[test]
    fn the_last_values_stay_while_a_file_is_being_written() {
        let top = TempDir::new().unwrap();
        let (old, new) = (top.path().join("old"), top.path().join("new"));
        for file in [&old, &new] {
            fs::write(file, "").unwrap();
        }
        let [old, new] = [&old, &new].map(|path| path.to_str().unwrap());
        let known = rereading(&[(old, "eu-1a"), ("other", "x")]);
        let keys = [old, new].map(str::to_owned).into();
        let expected = [(old.to_owned(), "eu-1a".to_owned()), (new.to_owned(), String::new())];
        assert_eq!(read_all(&keys, &known), Reading::of(expected.into()));
        assert!(known.watch.take_due().is_some());
        fs::remove_file(old).unwrap();
        assert_eq!(read_all(&keys, &known).values.get(old), None);

        let known = rereading(&[("app", "web"), ("other", "x")]);
        let expected = Reading::of([("app".to_owned(), "web".to_owned())].into());
        assert_eq!(pod(Path::new(new), &["app".to_owned()].into(), &known), expected);
    }

    #[test]
    fn only_a_shortage_says_nothing_about_the_file() {
        let unreadable = |errno| {
            let (path, source) = ("zone".into(), std::io::Error::from_raw_os_error(errno));
            SourceError::from(FileError::Unreadable { path, source }).is_shortage()
        };
        assert!([24, 23, 12, 5, 116].into_iter().all(unreadable));
        assert!(![2, 13, 20].into_iter().any(unreadable));
    }

    #[test]
    fn downward_api_files_are_unquoted_as_in_go() {
        let text = concat!(
            "app=\"web\"\n",
            "empty=\"\"\n",
            "kubernetes.io/config.seen=\"2026-01-01T00:00:00Z\"\n",
            "note=\"a=\\\"b\\\"\\n\\tc\\\\d\\u00a0\\x7f\\U0001f600é\\xff\"\n",
            "topology.kubernetes.io/zone=\"eu-west-1b\"",
        );
        let pairs = downward(text).unwrap();
        let expected = [
            ("app", "web"),
            ("empty", ""),
            ("kubernetes.io/config.seen", "2026-01-01T00:00:00Z"),
            ("note", "a=\"b\"\n\tc\\d\u{a0}\u{7f}😀é\u{fffd}"),
            ("topology.kubernetes.io/zone", "eu-west-1b"),
        ];
        assert_eq!(pairs, expected.map(|(key, value)| (key.into(), value.into())).into());
        for (text, line) in [
            ("app=web", 1),
            ("a=\"b\"\n\nc=\"d\"", 2),
            ("a=\"b", 1),
            ("a=\"", 1),
            ("a=\"\\q\"", 1),
            ("a=\"\\x1\"", 1),
            ("a=\"\\ud800\"", 1),
            ("a=\"\\u12é\"", 1),
            ("a=\"\\", 1),
        ] {
            assert_eq!(downward(text), Err(line), "{text}");
        }
    }

    #[test]
    fn only_the_pod_labels_in_use_are_returned() {
        let top = TempDir::new().unwrap();
        let path = top.path().join("labels");
        let keys: BTreeSet<_> = ["app".to_owned(), "gone".to_owned()].into();
        let error = pod(&path, &keys, &rereading(&[])).error.unwrap();
        assert!(error.ends_with("labels`: No such file or directory (os error 2)"), "{error}");
        fs::write(&path, "app=\"web\"\nother=\"x\"\n").unwrap();
        let expected = [("app".to_owned(), "web".to_owned())].into();
        assert_eq!(pod(&path, &keys, &rereading(&[])), Reading::of(expected));
        fs::write(&path, "app=\"web\"\nother").unwrap();
        let error = pod(&path, &keys, &rereading(&[])).error.unwrap();
        assert!(error.ends_with("line 2 is not key=\"value\""), "{error}");
    }
}
