#![cfg(test)]
//! Checks the source against the table of rooms in `src/lib.rs`, which lists the rooms that each room may
//! name, and against the table of crates below. Code under `#[cfg(test)]` is exempt.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens as _;
use syn::{Attribute, File, Item, UseTree};

/// Crates that a room may name besides std, `thiserror`, `tracing` and `serde`.
const CRATES: [(&str, &[&str]); 19] = [
    ("exposition", &["itoa"]),
    ("accounting", &["sched_exporter_ebpf"]),
    ("expr", &["md5", "minijinja", "regex", "regex_automata", "strsim"]),
    ("cpu", &[]),
    ("cgroup", &["nix"]),
    (
        "os",
        &[
            "bytes",
            "clap",
            "http_body_util",
            "hyper",
            "hyper_util",
            "libc",
            "nix",
            "notify",
            "sd_notify",
            "tokio",
            "tokio_rustls",
            "tracing_logfmt",
            "tracing_subscriber",
        ],
    ),
    ("privileges", &["caps", "landlock", "libc", "nix", "seccompiler"]),
    (
        "kernel",
        &[
            "aya",
            "aya_log",
            "caps",
            "flate2",
            "libc",
            "log",
            "nix",
            "sched_exporter_ebpf",
            "serde_json",
            "sha2",
            "tokio",
        ],
    ),
    ("runtimes", &["bytes", "http_body_util", "hyper", "hyper_util", "serde_json", "tokio"]),
    ("config", &["bcrypt", "humantime", "serde_yaml", "sha2", "strsim"]),
    (
        "sources",
        &[
            "bytes",
            "hmac",
            "http_body_util",
            "hyper",
            "nix",
            "serde_json",
            "sha2",
            "tokio",
            "tokio_rustls",
        ],
    ),
    ("labels", &[]),
    ("generation", &["arc_swap"]),
    ("tracker", &["tokio"]),
    ("metrics", &["itoa", "procfs", "prometheus", "sched_exporter_ebpf"]),
    ("reload", &["arc_swap", "tokio"]),
    (
        "access",
        &[
            "arc_swap",
            "base64",
            "bcrypt",
            "hmac",
            "hyper",
            "sha2",
            "tokio",
            "tokio_rustls",
            "x509_parser",
        ],
    ),
    (
        "web",
        &[
            "bytes",
            "flate2",
            "form_urlencoded",
            "http_body_util",
            "hyper",
            "hyper_util",
            "nix",
            "prometheus",
            "socket2",
            "tokio",
            "tokio_rustls",
        ],
    ),
    (
        "cli",
        &[
            "anyhow",
            "bytes",
            "clap",
            "http_body_util",
            "humantime",
            "hyper",
            "sched_exporter_ebpf",
            "serde_json",
            "tokio",
        ],
    ),
];

/// Crates that any room may name.
const COMMON: [&str; 3] = ["serde", "thiserror", "tracing"];

/// Modules of std that a pure room must not name.
const IO: [&str; 6] = ["env", "fs", "net", "os", "process", "thread"];

/// A row of the table in `src/lib.rs`.
#[derive(Debug, Default)]
struct Room {
    is_pure: bool,
    any: bool,
    rooms: BTreeSet<String>,
    /// Rooms that only one file may name, by its path below `src`.
    in_file: BTreeMap<String, BTreeSet<String>>,
}

#[test]
fn rooms_name_only_what_their_rows_list() {
    let rooms = table();
    let mut wrong = Vec::new();
    for (name, room) in &rooms {
        let crates = CRATES.iter().find(|(room, _)| room == name).map(|(_, crates)| *crates);
        let crates = crates.unwrap_or_else(|| panic!("CRATES lacks {name}"));
        let mut unused = room.rooms.clone();
        for path in files(&source().join(name)) {
            let file = path.strip_prefix(source()).unwrap().display().to_string();
            let names = Names::of(&path);
            let may_name = |other: &String| {
                let in_file = room.in_file.get(&file).is_some_and(|rooms| rooms.contains(other));
                other == name || room.any || room.rooms.contains(other) || in_file
            };
            unused.retain(|other| !names.rooms.contains(other));
            let others = names.rooms.iter().filter(|other| !may_name(other));
            wrong.extend(others.map(|other| format!("{file} names the room {other}")));
            let is_listed = |it: &str| crates.contains(&it) || COMMON.contains(&it);
            let foreign = names.crates.iter().filter(|it| !is_listed(it));
            wrong.extend(foreign.map(|it| format!("{file} names the crate {it}")));
            let io =
                names.std.iter().filter(|module| room.is_pure && IO.contains(&module.as_str()));
            wrong.extend(io.map(|module| format!("{file} is pure and names std::{module}")));
        }
        wrong.extend(
            unused.iter().map(|other| format!("{name} lists {other} and names it nowhere")),
        );
    }
    assert!(wrong.is_empty(), "not in the tables of rooms and crates:\n{}", wrong.join("\n"));
}

#[test]
fn rooms_have_no_cyclic_dependencies() {
    let mut before = BTreeSet::new();
    for (name, room) in rows() {
        let mut named = room.rooms.iter().chain(room.in_file.values().flatten());
        let later = named.find(|other| !before.contains(*other));
        assert_eq!(later, None, "{name} names a room that is not above it in the table");
        before.insert(name);
    }
}

#[test]
fn source_contains_only_rooms() {
    let mut entries = BTreeSet::new();
    for entry in fs::read_dir(source()).unwrap() {
        entries.insert(entry.unwrap().file_name().into_string().unwrap());
    }
    let rooms = table().into_keys();
    let expected: BTreeSet<_> = rooms.chain(["lib.rs".to_owned(), "main.rs".to_owned()]).collect();
    assert_eq!(entries, expected);
}

#[test]
fn each_room_states_its_purpose_first() {
    for room in table().keys() {
        let text = fs::read_to_string(source().join(room).join("mod.rs")).unwrap();
        assert!(text.starts_with("//! "), "{room}/mod.rs does not start with its purpose");
    }
}

#[test]
fn only_main_names_cli() {
    for (name, room) in rows() {
        assert!(!room.rooms.contains("cli"), "{name}");
    }
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn table() -> BTreeMap<String, Room> {
    rows().into_iter().collect()
}

/// The rows of the table in `src/lib.rs`, in their order.
fn rows() -> Vec<(String, Room)> {
    let text = fs::read_to_string(source().join("lib.rs")).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("//! | [`"));
    let rows: Vec<_> = rows.map(row).collect();
    assert!(rows.len() > 10, "src/lib.rs has no table of rooms");
    rows
}

/// Reads `` room`] | purpose | yes | `other`, `third` and `fourth` in `room/file.rs` | ``.
fn row(line: &str) -> (String, Room) {
    let (name, cells) = line.split_once("`]").unwrap();
    let cells: Vec<_> = cells.split('|').map(str::trim).collect();
    let [_, _, pure, names, _] = cells[..] else { panic!("not a row of four cells: {line}") };
    let mut room = Room { is_pure: pure == "yes", any: names == "any room", ..Room::default() };
    for part in names.split(", ") {
        let quoted = |text: &str| {
            text.split('`').skip(1).step_by(2).map(str::to_owned).collect::<BTreeSet<_>>()
        };
        match part.split_once(" in ") {
            Some((rooms, file)) => {
                let file = quoted(file).pop_first().unwrap();
                room.in_file.entry(file).or_default().extend(quoted(rooms));
            }
            None => room.rooms.extend(quoted(part)),
        }
    }
    (name.to_owned(), room)
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else if path.extension().is_some_and(|it| it == "rs") && !path.ends_with("tests.rs") {
            files.push(path);
        }
    }
    files
}

/// The names in the code of a file, outside tests.
#[derive(Default)]
struct Names {
    rooms: BTreeSet<String>,
    crates: BTreeSet<String>,
    /// Modules of std.
    std: BTreeSet<String>,
    /// Items imported from rooms, which can share their names with crates.
    imported: BTreeSet<String>,
}

impl Names {
    fn of(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let mut file: File = syn::parse_file(&text).unwrap_or_else(|error| {
            panic!("{}: {error}", path.display());
        });
        file.items.retain(|item| !is_test(item));
        let mut names = Self::default();
        names.read(file.into_token_stream());
        names.crates.retain(|name| !names.imported.contains(name));
        names
    }

    /// Reads paths from tokens, so that those within macros count too.
    fn read(&mut self, tokens: TokenStream) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            match token {
                TokenTree::Group(group) => self.read(group.stream()),
                TokenTree::Ident(ident) if ident == "use" => {
                    let end = (at..tokens.len()).find(|at| is_punct(&tokens[*at], ';'));
                    let end = end.unwrap_or(tokens.len());
                    let tree: TokenStream = tokens[at + 1..end].iter().cloned().collect();
                    // `use<…>` in a return type has no tree.
                    if let Ok(tree) = syn::parse2::<UseTree>(tree) {
                        self.read_use(&mut Vec::new(), &tree);
                        at = end;
                    }
                }
                TokenTree::Ident(ident) if !follows_path(&tokens, at) => {
                    if let Some(next) = next_in_path(&tokens, at) {
                        self.add(&ident.to_string(), &next);
                    }
                }
                _ => {}
            }
            at += 1;
        }
    }

    fn read_use(&mut self, path: &mut Vec<String>, tree: &UseTree) {
        let mut leaf = |name: String| {
            let first = path.first().cloned().unwrap_or_else(|| name.clone());
            self.add(&first, path.get(1).unwrap_or(&name));
            if first == "crate" {
                let module = path.last().filter(|_| name == "self").cloned();
                self.imported.insert(module.unwrap_or(name));
            }
        };
        match tree {
            UseTree::Path(part) => {
                path.push(part.ident.to_string());
                self.read_use(path, &part.tree);
                path.pop();
            }
            UseTree::Group(group) => {
                group.items.iter().for_each(|item| self.read_use(path, item));
            }
            UseTree::Name(name) => leaf(name.ident.to_string()),
            UseTree::Rename(rename) => leaf(rename.rename.to_string()),
            UseTree::Glob(_) => leaf("*".to_owned()),
        }
    }

    /// Adds a path by its first two parts.
    fn add(&mut self, first: &str, second: &str) {
        match first {
            "crate" => self.rooms.insert(second.to_owned()),
            "std" => self.std.insert(second.to_owned()),
            _ if DEPENDENCIES.contains(first) => self.crates.insert(first.to_owned()),
            _ => false,
        };
    }
}

/// The names under which the exporter's dependencies are used.
static DEPENDENCIES: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let manifest = include_str!("../Cargo.toml");
    let (_, rest) = manifest.split_once("\n[dependencies]\n").unwrap();
    let section = rest.split("\n[").next().unwrap();
    let lines = section.lines().filter(|line| !line.starts_with('#'));
    let names = lines.filter_map(|line| line.split([' ', '.', '=']).next());
    // md-5 is the crate `md5`.
    names
        .map(|name| if name == "md-5" { "md5".to_owned() } else { name.replace('-', "_") })
        .collect()
});

fn is_test(item: &Item) -> bool {
    let attributes: &[Attribute] = match item {
        Item::Mod(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        _ => return false,
    };
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.to_token_stream().to_string().replace(' ', "").contains("cfg(test)")
    })
}

fn is_punct(token: &TokenTree, char: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == char)
}

/// Whether `::` precedes the token, so that it does not begin a path.
fn follows_path(tokens: &[TokenTree], at: usize) -> bool {
    at >= 2 && is_punct(&tokens[at - 1], ':') && is_punct(&tokens[at - 2], ':')
}

/// The part of the path after the one at `at`.
fn next_in_path(tokens: &[TokenTree], at: usize) -> Option<String> {
    let colons = tokens.get(at + 1..at + 3)?;
    let Some(TokenTree::Ident(next)) = tokens.get(at + 3) else { return None };
    colons.iter().all(|token| is_punct(token, ':')).then(|| next.to_string())
}
