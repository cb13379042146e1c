//! What the host says of itself: the kernel's names, the environment, and files in `/etc`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use hmac::{Hmac, KeyInit as _, Mac as _};
use nix::sys::utsname::{UtsName, uname};
use sha2::Sha256;

use super::origins::{SourceOrigins, read_host};
use crate::expr::values::{Reading, Source};

/// Our id, with which the machine id is hashed. It must never change.
const APPLICATION: [u8; 16] = 0xedc2_83b2_088f_48cb_b6c2_0d31_4f80_5c45_u128.to_be_bytes();

/// Reads one source.
pub(super) fn read(endpoints: &SourceOrigins, source: Source, keys: &BTreeSet<String>) -> Reading {
    let value = match source {
        Source::Env => return environment(endpoints, keys),
        Source::Os => return os_release(endpoints, keys),
        Source::Arch => kernel(|names| names.machine().to_str().map(str::to_owned)),
        Source::Hostname => hostname(),
        Source::KernelRelease => kernel(|names| names.release().to_str().map(str::to_owned)),
        Source::Fqdn => fqdn(endpoints),
        Source::MachineId => machine_id(endpoints),
        _ => read_host(endpoints, "/proc/sys/kernel/random/boot_id")
            .map(|boot_id| boot_id.trim_end().to_owned()),
    };
    match value {
        Ok(value) => Reading::of([(String::new(), value)].into()),
        Err(reason) => Reading::fault(reason),
    }
}

fn kernel(name: impl FnOnce(&UtsName) -> Option<String>) -> Result<String, String> {
    let names = uname().map_err(|error| format!("uname: {error}"))?;
    name(&names).ok_or_else(|| "uname: not UTF-8".into())
}

fn hostname() -> Result<String, String> {
    kernel(|names| names.nodename().to_str().map(str::to_owned))
}

fn environment(endpoints: &SourceOrigins, names: &BTreeSet<String>) -> Reading {
    let mut reading = Reading::default();
    for name in names {
        match endpoints.variable(name) {
            Ok(value) => {
                reading.values.insert(name.clone(), value.into());
            }
            Err(reason) => reading.add_fault(&reason),
        }
    }
    reading
}

/// The host name where it has a dot; else its full name in `/etc/hosts`. No resolver is asked.
fn fqdn(endpoints: &SourceOrigins) -> Result<String, String> {
    let hostname = hostname()?;
    if hostname.contains('.') {
        return Ok(hostname);
    }
    let hosts = read_host(endpoints, "/etc/hosts")?;
    full_name(&hosts, &hostname)
        .map(str::to_owned)
        .ok_or_else(|| format!("neither the host name {hostname} nor /etc/hosts has a domain"))
}

/// The first name with a dot on a line that names the host:
/// <https://man7.org/linux/man-pages/man5/hosts.5.html>.
fn full_name<'h>(hosts: &'h str, hostname: &str) -> Option<&'h str> {
    hosts.lines().find_map(|line| {
        let line = line.split('#').next().unwrap_or_default();
        let names: Vec<_> = line.split_whitespace().skip(1).collect();
        names.contains(&hostname).then(|| names.into_iter().find(|name| name.contains('.')))?
    })
}

fn os_release(endpoints: &SourceOrigins, keys: &BTreeSet<String>) -> Reading {
    // As os-release(5) has it, the second stands in for the first.
    let text = read_host(endpoints, "/etc/os-release")
        .or_else(|reason| read_host(endpoints, "/usr/lib/os-release").or(Err(reason)));
    match text {
        Ok(text) => {
            let mut values = os_fields(&text);
            values.retain(|key, _| keys.contains(key));
            Reading::of(values)
        }
        Err(reason) => Reading::fault(reason),
    }
}

/// The assignments of os-release, by name in lowercase. A line that is none is passed over, and the
/// last of several counts: <https://www.freedesktop.org/software/systemd/man/latest/os-release.html>.
fn os_fields(text: &str) -> BTreeMap<String, String> {
    let field = |line: &str| {
        let (name, value) =
            line.trim().split_once('=').filter(|(name, _)| !name.starts_with('#'))?;
        Some((name.to_lowercase(), unquote(value)?))
    };
    text.lines().filter_map(field).collect()
}

/// A word of the shell, without expansions: none where a quote is not closed.
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

fn machine_id(endpoints: &SourceOrigins) -> Result<String, String> {
    let text = read_host(endpoints, "/etc/machine-id")?;
    let digits = text.trim_end();
    let whole = digits.len() == 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let machine = u128::from_str_radix(digits, 16).ok().filter(|id| whole && *id != 0);
    // It is empty or "uninitialized" before the first boot is complete.
    let machine = machine.ok_or("/etc/machine-id is not 32 hexadecimal digits")?;
    Ok(application_id(machine.to_be_bytes(), APPLICATION))
}

/// What `systemd-id128 machine-id --app-specific=` prints: an id from which the machine id cannot
/// be found. <https://www.freedesktop.org/software/systemd/man/latest/sd_id128_get_machine.html>
fn application_id(machine: [u8; 16], application: [u8; 16]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(&machine).expect("HMAC takes keys of any length");
    mac.update(&application);
    let mut id = [0; 16];
    id.copy_from_slice(&mac.finalize().into_bytes()[..16]);
    // Version 4 and variant 1 of a UUID.
    id[6] = id[6] & 0x0f | 0x40;
    id[8] = id[8] & 0x3f | 0x80;
    id.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all that is written to it");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsString, fs, os::unix::ffi::OsStringExt as _};

    use tempfile::TempDir;

    use super::*;

    fn endpoints(files: &[(&str, &str)]) -> (TempDir, SourceOrigins) {
        let top = TempDir::new().unwrap();
        for (path, text) in files {
            let path = top.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let mut endpoints = SourceOrigins::new([]);
        endpoints.root = top.path().into();
        (top, endpoints)
    }

    fn one(endpoints: &SourceOrigins, source: Source) -> Result<String, String> {
        let mut reading = read(endpoints, source, &[String::new()].into());
        reading.values.remove("").ok_or_else(|| reading.fault.unwrap())
    }

    #[test]
    fn the_kernel_names_itself() {
        let (_top, endpoints) = endpoints(&[("proc/sys/kernel/random/boot_id", "b-o-o-t\n")]);
        let proc = |name| fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap();
        assert_eq!(one(&endpoints, Source::Hostname).unwrap(), proc("hostname").trim_end());
        assert_eq!(one(&endpoints, Source::KernelRelease).unwrap(), proc("osrelease").trim_end());
        assert_eq!(one(&endpoints, Source::Arch).unwrap(), std::env::consts::ARCH);
        assert_eq!(one(&endpoints, Source::BootId).unwrap(), "b-o-o-t");
    }

    #[test]
    fn the_environment_has_what_it_has() {
        let pair = |(name, value): (&str, &[u8])| (name.into(), OsString::from_vec(value.into()));
        let variables: [(&str, &[u8]); 3] = [("A", b"a"), ("EMPTY", b""), ("BYTES", b"\xff")];
        let endpoints = SourceOrigins::new(variables.map(pair));
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let reading = read(&endpoints, Source::Env, &names(&["A", "EMPTY"]));
        let expected = [("A".into(), "a".into()), ("EMPTY".into(), String::new())];
        assert_eq!(reading, Reading::of(expected.into()));
        let reading = read(&endpoints, Source::Env, &names(&["A", "BYTES"]));
        assert_eq!(reading.fault.unwrap(), "BYTES in the environment is not UTF-8");
        let reading = read(&endpoints, Source::Env, &names(&["A", "NONE", "NOR"]));
        let faults = "the environment has no NONE; the environment has no NOR";
        assert_eq!(reading.fault.unwrap(), faults);
        assert_eq!(reading.values["A"], "a");
    }

    #[test]
    fn the_full_name_is_beside_the_host_name() {
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
            let (_top, endpoints) =
                endpoints(&[("etc/hosts", &format!("::1 {hostname}.example.com {hostname}\n"))]);
            assert_eq!(one(&endpoints, Source::Fqdn), Ok(format!("{hostname}.example.com")));
        }
    }

    #[test]
    fn os_release_is_quoted_as_in_the_shell() {
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
    fn os_release_has_two_places() {
        let keys = ["id".to_owned()].into();
        let (_top, nowhere) = endpoints(&[]);
        let reason = read(&nowhere, Source::Os, &keys).fault.unwrap();
        assert!(reason.contains("/etc/os-release`: No such file"), "{reason}");
        let (_top, endpoints) = endpoints(&[("usr/lib/os-release", "ID=b\nNAME=x\n")]);
        let expected = |id: &str| Reading::of([("id".to_owned(), id.to_owned())].into());
        assert_eq!(read(&endpoints, Source::Os, &keys), expected("b"));
        fs::create_dir(endpoints.root.join("etc")).unwrap();
        fs::write(endpoints.root.join("etc/os-release"), "ID=a\n").unwrap();
        assert_eq!(read(&endpoints, Source::Os, &keys), expected("a"));
    }

    /// The vector of systemd's own test:
    /// <https://github.com/systemd/systemd/blob/v255/src/test/test-id128.c>.
    #[test]
    fn the_machine_id_is_hashed_as_systemd_does() {
        let id = application_id(
            0x51df_0b4b_c3b0_4c97_80e2_99b9_8ca3_73b8_u128.to_be_bytes(),
            0xf03d_aaeb_1c33_4b43_a732_1729_44bf_772e_u128.to_be_bytes(),
        );
        assert_eq!(id, "1dee5954e75c4d6fb96cc6c04ca18a86");
    }

    #[test]
    fn the_machine_id_itself_stays_here() {
        let raw = "51df0b4bc3b04c9780e299b98ca373b8";
        let (_top, endpoints) = endpoints(&[("etc/machine-id", &format!("{raw}\n"))]);
        let id = one(&endpoints, Source::MachineId).unwrap();
        assert_eq!(id.len(), 32);
        assert_ne!(id, raw);
        for bad in [
            "",
            "uninitialized\n",
            &raw[1..],
            "00000000000000000000000000000000\n",
            "+1df0b4bc3b04c9780e299b98ca373b8",
        ] {
            fs::write(endpoints.root.join("etc/machine-id"), bad).unwrap();
            let reason = one(&endpoints, Source::MachineId).unwrap_err();
            assert_eq!(reason, "/etc/machine-id is not 32 hexadecimal digits", "{bad}");
        }
    }
}
