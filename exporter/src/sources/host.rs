//! Facts about the host: names from the kernel, the environment, and files in `/etc`.

use std::collections::{BTreeMap, BTreeSet};

use hmac::{Hmac, KeyInit as _, Mac as _};
use nix::sys::utsname::{UtsName, uname};
use sha2::Sha256;

use super::{SourceError, SourceOrigins};
use crate::expr::values::Reading;

/// The application id with which the machine id is hashed. It must never change.
const APPLICATION: [u8; 16] = 0xedc2_83b2_088f_48cb_b6c2_0d31_4f80_5c45_u128.to_be_bytes();

pub(super) fn arch() -> Result<String, SourceError> {
    kernel(|names| names.machine().to_str())
}

pub(super) fn kernel_release() -> Result<String, SourceError> {
    kernel(|names| names.release().to_str())
}

pub(super) fn hostname() -> Result<String, SourceError> {
    kernel(|names| names.nodename().to_str())
}

/// Returns a name from uname(2).
fn kernel(name: impl FnOnce(&UtsName) -> Option<&str>) -> Result<String, SourceError> {
    let names = uname().map_err(SourceError::Uname)?;
    name(&names).map(str::to_owned).ok_or(SourceError::UnameNotUtf8)
}

pub(super) fn boot_id(origins: &SourceOrigins) -> Result<String, SourceError> {
    let boot_id = origins.read_host("/proc/sys/kernel/random/boot_id")?;
    Ok(boot_id.trim_end().to_owned())
}

/// Reads environment variables.
pub(super) fn environment(origins: &SourceOrigins, names: &BTreeSet<String>) -> Reading {
    let mut reading = Reading::default();
    for name in names {
        match origins.variable(name) {
            Ok(value) => {
                reading.values.insert(name.clone(), value.into());
            }
            Err(error) => reading.add_error(&error.chain()),
        }
    }
    reading
}

/// Returns the host name if it has a dot, else the full name from `/etc/hosts`. Uses no resolver.
pub(super) fn fqdn(origins: &SourceOrigins) -> Result<String, SourceError> {
    let hostname = hostname()?;
    if hostname.contains('.') {
        return Ok(hostname);
    }
    let hosts = origins.read_host("/etc/hosts")?;
    full_name(&hosts, &hostname).map(str::to_owned).ok_or(SourceError::NoDomain(hostname))
}

/// Finds the first name with a dot on a line that names the host: `web-1.example.com` for `web-1` on the
/// line `10.0.0.2 web-1.example.com web-1`.
/// <https://man7.org/linux/man-pages/man5/hosts.5.html>
fn full_name<'h>(hosts: &'h str, hostname: &str) -> Option<&'h str> {
    for line in hosts.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let names: Vec<_> = line.split_whitespace().skip(1).collect();
        if names.contains(&hostname)
            && let Some(full_name) = names.into_iter().find(|name| name.contains('.'))
        {
            return Some(full_name);
        }
    }
    None
}

/// Reads fields of os-release. `/usr/lib` is the fallback for `/etc`, as in os-release(5).
pub(super) fn os_release(origins: &SourceOrigins, keys: &BTreeSet<String>) -> Reading {
    let text = origins
        .read_host("/etc/os-release")
        .or_else(|error| origins.read_host("/usr/lib/os-release").or(Err(error)));
    match text {
        Ok(text) => {
            let mut values = os_fields(&text);
            values.retain(|key, _| keys.contains(key));
            Reading::of(values)
        }
        Err(error) => Reading::failed(error.chain()),
    }
}

/// Parses the assignments of os-release, by name in lowercase. Other lines are skipped, and the last
/// of several assignments wins: <https://www.freedesktop.org/software/systemd/man/latest/os-release.html>.
fn os_fields(text: &str) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        if let Some((name, value)) = line.split_once('=')
            && let Some(value) = unquote(value)
        {
            fields.insert(name.to_lowercase(), value);
        }
    }
    fields
}

/// Unquotes a word as a shell does, without expansions: `a\ b"c d"'e'` is `a bc de`. Returns `None`
/// if a quote is not closed.
fn unquote(word: &str) -> Option<String> {
    let mut text = String::new();
    let mut quote = None;
    let mut characters = word.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(open), close) if open == close => quote = None,
            (None, '\'' | '"') => quote = Some(character),
            (None, '\\') => text.push(characters.next()?),
            (Some('"'), '\\') => match characters.next()? {
                escaped @ ('"' | '\\' | '$' | '`') => text.push(escaped),
                other => text.extend(['\\', other]),
            },
            _ => text.push(character),
        }
    }
    quote.is_none().then_some(text)
}

/// Returns an application-specific hash of `/etc/machine-id`.
pub(super) fn machine_id(origins: &SourceOrigins) -> Result<String, SourceError> {
    let text = origins.read_host("/etc/machine-id")?;
    let digits = text.trim_end();
    // `from_str_radix` would accept a sign.
    let is_hex = digits.len() == 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    match u128::from_str_radix(digits, 16) {
        Ok(machine) if is_hex && machine != 0 => {
            Ok(application_id(machine.to_be_bytes(), APPLICATION))
        }
        // It is empty or "uninitialized" until the first boot is complete.
        _ => Err(SourceError::MachineId),
    }
}

/// Returns the id that `systemd-id128 machine-id --app-specific=` prints. The machine id cannot be
/// recovered from it. <https://www.freedesktop.org/software/systemd/man/latest/sd_id128_get_machine.html>
fn application_id(machine: [u8; 16], application: [u8; 16]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(&machine).expect("HMAC takes keys of any length");
    mac.update(&application);
    let mut id = [0; 16];
    id.copy_from_slice(&mac.finalize().into_bytes()[..16]);
    // Version 4 and variant 1 of a UUID.
    id[6] = id[6] & 0x0f | 0x40;
    id[8] = id[8] & 0x3f | 0x80;
    format!("{:032x}", u128::from_be_bytes(id))
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsString, fs, os::unix::ffi::OsStringExt as _};

    use tempfile::TempDir;

    use super::*;

    fn origins(files: &[(&str, &str)]) -> (TempDir, SourceOrigins) {
        let top = TempDir::new().unwrap();
        for (path, text) in files {
            let path = top.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let mut origins = SourceOrigins::new([]);
        origins.root = top.path().into();
        (top, origins)
    }

    #[test]
    fn names_come_from_the_kernel() {
        let (_top, origins) = origins(&[("proc/sys/kernel/random/boot_id", "b-o-o-t\n")]);
        let proc = |name| fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap();
        assert_eq!(hostname().unwrap(), proc("hostname").trim_end());
        assert_eq!(kernel_release().unwrap(), proc("osrelease").trim_end());
        assert_eq!(arch().unwrap(), std::env::consts::ARCH);
        assert_eq!(boot_id(&origins).unwrap(), "b-o-o-t");
    }

    #[test]
    fn environment_variables_are_read_one_by_one() {
        let pair = |(name, value): (&str, &[u8])| (name.into(), OsString::from_vec(value.into()));
        let variables: [(&str, &[u8]); 3] = [("A", b"a"), ("EMPTY", b""), ("BYTES", b"\xff")];
        let origins = SourceOrigins::new(variables.map(pair));
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let reading = environment(&origins, &names(&["A", "EMPTY"]));
        let expected = [("A".into(), "a".into()), ("EMPTY".into(), String::new())];
        assert_eq!(reading, Reading::of(expected.into()));
        let reading = environment(&origins, &names(&["A", "BYTES"]));
        assert_eq!(reading.error.unwrap(), "environment variable BYTES is not UTF-8");
        let reading = environment(&origins, &names(&["A", "NONE", "NOR"]));
        let errors = "environment variable NONE is not set; environment variable NOR is not set";
        assert_eq!(reading.error.unwrap(), errors);
        assert_eq!(reading.values["A"], "a");
    }

    #[test]
    fn full_name_shares_a_line_with_the_host_name() {
        let hosts = "127.0.0.1 localhost localhost.localdomain\n\
                     # 10.0.0.1 web-17.old.example web-17\n\
                     10.0.0.2\tweb-1.example.com web-1\n\
                     10.0.0.3 web-17 alias web-17.example.com # the one\n\
                     10.0.0.4 db.example.com\n";
        assert_eq!(full_name(hosts, "web-17"), Some("web-17.example.com"));
        assert_eq!(full_name(hosts, "web-1"), Some("web-1.example.com"));
        assert_eq!(full_name(hosts, "db"), None);
        assert_eq!(full_name(hosts, "web"), None);
        assert_eq!(full_name("127.0.0.1 web-17 other", "web-17"), None);
        let hostname = hostname().unwrap();
        if !hostname.contains('.') {
            let (_top, origins) =
                origins(&[("etc/hosts", &format!("::1 {hostname}.example.com {hostname}\n"))]);
            assert_eq!(fqdn(&origins).unwrap(), format!("{hostname}.example.com"));
        }
    }

    #[test]
    fn os_release_is_unquoted_as_in_a_shell() {
        let text = "PRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\nID=debian\nVERSION_ID='13'\n\
                    # NAME=remark\n\nnot an assignment\nNAME=\"a \\\"b\\\" \\$c \\`d\\` \\\\ \\e\"\n\
                    VARIANT='a\\b \"c\"'\nBUILD_ID=a\\ b\"c d\"'e'\nIMAGE_ID=\"open\nID=trixie\n";
        let fields = os_fields(text);
        let expected = [
            ("build_id", "a bc de"),
            ("id", "trixie"),
            ("name", "a \"b\" $c `d` \\ \\e"),
            ("pretty_name", "Debian GNU/Linux 13 (trixie)"),
            ("variant", "a\\b \"c\""),
            ("version_id", "13"),
        ];
        assert_eq!(fields, expected.map(|(key, value)| (key.into(), value.into())).into());
    }

    #[test]
    fn os_release_falls_back_to_usr_lib() {
        let keys = ["id".to_owned()].into();
        let (_top, nowhere) = origins(&[]);
        let reason = os_release(&nowhere, &keys).error.unwrap();
        assert!(reason.contains("/etc/os-release`: No such file"), "{reason}");
        let (_top, origins) = origins(&[("usr/lib/os-release", "ID=b\nNAME=x\n")]);
        let expected = |id: &str| Reading::of([("id".to_owned(), id.to_owned())].into());
        assert_eq!(os_release(&origins, &keys), expected("b"));
        fs::create_dir(origins.root.join("etc")).unwrap();
        fs::write(origins.root.join("etc/os-release"), "ID=a\n").unwrap();
        assert_eq!(os_release(&origins, &keys), expected("a"));
    }

    /// The vector of systemd's test:
    /// <https://github.com/systemd/systemd/blob/v255/src/test/test-id128.c>.
    #[test]
    fn machine_id_is_hashed_as_by_systemd() {
        let id = application_id(
            0x51df_0b4b_c3b0_4c97_80e2_99b9_8ca3_73b8_u128.to_be_bytes(),
            0xf03d_aaeb_1c33_4b43_a732_1729_44bf_772e_u128.to_be_bytes(),
        );
        assert_eq!(id, "1dee5954e75c4d6fb96cc6c04ca18a86");
    }

    #[test]
    fn machine_id_itself_is_never_returned() {
        let raw = "51df0b4bc3b04c9780e299b98ca373b8";
        let (_top, origins) = origins(&[("etc/machine-id", &format!("{raw}\n"))]);
        let id = machine_id(&origins).unwrap();
        assert_eq!(id.len(), 32);
        assert_ne!(id, raw);
        for bad in [
            "",
            "uninitialized\n",
            &raw[1..],
            "00000000000000000000000000000000\n",
            "+1df0b4bc3b04c9780e299b98ca373b8",
        ] {
            fs::write(origins.root.join("etc/machine-id"), bad).unwrap();
            let error = machine_id(&origins).unwrap_err();
            assert_eq!(error.to_string(), "/etc/machine-id is not 32 hexadecimal digits", "{bad}");
        }
    }
}
