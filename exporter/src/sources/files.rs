//! Small files, and the pod's labels and annotations, which the downward API puts into files.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use super::SourceOrigins;
use crate::{
    expr::values::{Reading, Source, Uses},
    os::files::{self, FileError},
};

/// Size of the largest file that is read.
const MAX_FILE_BYTES: u64 = 1 << 16;

/// The same of the pod's labels or annotations. Kubernetes allows 256 KiB of annotations, and quotes
/// them. <https://github.com/kubernetes/kubernetes/blob/v1.34.0/staging/src/k8s.io/apimachinery/pkg/api/validation/objectmeta.go>
const MAX_POD_BYTES: u64 = 1 << 20;

/// Why a file gives no text.
#[derive(Debug, thiserror::Error)]
pub(super) enum TextError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("`{}` is not UTF-8 at byte {offset}", path.display())]
    NotUtf8 { path: PathBuf, offset: usize },
}

/// Reads a small file of text.
pub(super) fn read(path: &Path) -> Result<String, TextError> {
    text(path, MAX_FILE_BYTES)
}

fn text(path: &Path, max_bytes: u64) -> Result<String, TextError> {
    String::from_utf8(files::read(path, max_bytes)?).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        TextError::NotUtf8 { path: path.into(), offset }
    })
}

/// Reads the files of `file("/path")`, each without the newlines at its end.
pub(super) fn read_all(paths: &BTreeSet<String>) -> Reading {
    let mut reading = Reading::default();
    for path in paths {
        match read(Path::new(path)) {
            Ok(text) => {
                reading.values.insert(path.clone(), text.trim_end_matches(['\r', '\n']).into());
            }
            Err(error) => reading.add_fault(&error.to_string()),
        }
    }
    reading
}

/// Reads `keys` of the labels or annotations of the pod.
pub(super) fn pod(endpoints: &SourceOrigins, file: &str, keys: &BTreeSet<String>) -> Reading {
    let path = endpoints.pod_info.join(file);
    match text(&path, MAX_POD_BYTES) {
        Ok(text) => match downward(&text) {
            Ok(mut values) => {
                values.retain(|key, _| keys.contains(key));
                Reading::of(values)
            }
            Err(line) => {
                Reading::fault(format!("`{}`: line {line} is not key=\"value\"", path.display()))
            }
        },
        Err(error) => Reading::fault(error.to_string()),
    }
}

/// The files in use.
pub(super) fn paths(endpoints: &SourceOrigins, uses: &Uses) -> BTreeSet<PathBuf> {
    let mut paths: BTreeSet<PathBuf> = uses.keys(Source::File).map(PathBuf::from).collect();
    for (source, file) in [(Source::PodLabels, "labels"), (Source::PodAnnotations, "annotations")] {
        if uses.keys(source).next().is_some() {
            paths.insert(endpoints.pod_info.join(file));
        }
    }
    paths
}

/// Lines of `key="value"`, the value quoted as Go's `%q` does. Fails with the number of a line.
/// <https://github.com/kubernetes/kubernetes/blob/v1.34.0/pkg/fieldpath/fieldpath.go>
fn downward(text: &str) -> Result<BTreeMap<String, String>, usize> {
    let pair = |line: &str| {
        let (key, quoted) = line.split_once('=')?;
        let quoted = quoted.strip_prefix('"')?.strip_suffix('"')?;
        Some((key.to_owned(), unquote(quoted)?))
    };
    text.lines().zip(1..).map(|(line, number)| pair(line).ok_or(number)).collect()
}

/// Undoes the escapes of Go's `%q`: <https://pkg.go.dev/strconv#Quote>. A byte that is no part of a
/// character, `\xff`, becomes U+FFFD.
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

    fn reading(path: &Path) -> Reading {
        read_all(&[path.to_str().unwrap().to_owned()].into())
    }

    #[track_caller]
    fn check(path: &Path, expected: Result<&str, &str>) {
        let reading = reading(path);
        let value = reading.values.into_values().next();
        let found = value.ok_or(reading.fault.clone().unwrap_or_default());
        let place = path.to_str().unwrap();
        let expected = expected.map(str::to_owned);
        assert_eq!(found, expected.map_err(|error| error.replace('@', &format!("`{place}`"))));
    }

    #[test]
    fn a_file_is_its_text_without_the_newlines_at_its_end() {
        let top = TempDir::new().unwrap();
        let path = top.path().join("zone");
        for (bytes, text) in [
            ("eu-1a", "eu-1a"),
            ("eu-1a\n", "eu-1a"),
            ("a\nb\r\n\n", "a\nb"),
            ("", ""),
            (" x ", " x "),
        ] {
            fs::write(&path, bytes).unwrap();
            check(&path, Ok(text));
        }
        fs::write(&path, "x".repeat(1 << 16)).unwrap();
        check(&path, Ok(&"x".repeat(1 << 16)));
    }

    #[test]
    fn what_is_no_small_text_file_is_a_fault() {
        let top = TempDir::new().unwrap();
        let path = top.path().join("zone");
        check(&path, Err("reading @: No such file or directory (os error 2)"));
        check(top.path(), Err("@ is not a regular file"));
        check(Path::new("/dev/zero"), Err("@ is not a regular file"));
        fs::write(&path, b"ab\xff").unwrap();
        check(&path, Err("@ is not UTF-8 at byte 2"));
        fs::write(&path, "x".repeat((1 << 16) + 1)).unwrap();
        check(&path, Err("@ is larger than 65536 bytes"));
        // Nobody writes into it: a plain open would block.
        let fifo = top.path().join("fifo");
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        check(&fifo, Err("@ is not a regular file"));
    }

    #[test]
    fn one_file_that_cannot_be_read_does_not_hide_another() {
        let top = TempDir::new().unwrap();
        let (there, gone) = (top.path().join("there"), top.path().join("gone"));
        fs::write(&there, "x").unwrap();
        let paths = [&there, &gone].map(|path| path.to_str().unwrap().to_owned());
        let reading = read_all(&paths.into());
        assert_eq!(reading.values.into_values().collect::<Vec<_>>(), ["x"]);
        assert!(reading.fault.unwrap().contains("gone"));
    }

    #[test]
    fn the_downward_api_quotes_as_go_does() {
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
    fn a_pod_has_the_keys_in_use() {
        let top = TempDir::new().unwrap();
        let mut endpoints = SourceOrigins::new([]);
        endpoints.pod_info = top.path().into();
        let keys: BTreeSet<_> = ["app".to_owned(), "gone".to_owned()].into();
        let fault = pod(&endpoints, "labels", &keys).fault.unwrap();
        assert!(fault.ends_with("labels`: No such file or directory (os error 2)"), "{fault}");
        fs::write(top.path().join("labels"), "app=\"web\"\nother=\"x\"\n").unwrap();
        let expected = [("app".to_owned(), "web".to_owned())].into();
        assert_eq!(pod(&endpoints, "labels", &keys), Reading::of(expected));
        fs::write(top.path().join("labels"), "app=\"web\"\nother").unwrap();
        let fault = pod(&endpoints, "labels", &keys).fault.unwrap();
        assert!(fault.ends_with("line 2 is not key=\"value\""), "{fault}");
    }
}
