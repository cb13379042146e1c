//! Parses YAML into a tree of nodes with source positions, and collects errors. Knows nothing about
//! specific keys.
//!
//! `yaml_serde` tells either what a scalar like `0x10` means or how it is written. So the text is read
//! twice: to find such scalars, and to build a tree of numbered nodes, which plain code checks.
//!
//! `yaml_serde` reports the position of a node only in an error that is raised while it reads that
//! node. To locate an error, the text is read again up to the node with that number, where reading
//! fails on purpose.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    fmt, iter,
};

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, IgnoredAny, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};

use super::diagnostics::{Diagnostic, Diagnostics};
use crate::expr::{
    lookalike::{self, Lookalike},
    print::{MAX_CHARS, quote, shorten},
    suggest,
};

/// Maximum memory of the tree. Aliases are followed, so a small text can stand for a huge tree.
const MAX_TREE_BYTES: usize = 4 << 20;

/// Maximum number of opening brackets in the text. The time to scan nested brackets grows with the
/// square of their depth, and only their number limits the depth.
const MAX_BRACKETS: usize = 4096;

/// The beginning of libyaml's message about a character that no token starts with.
const NO_TOKEN: &str = "found character that cannot start any token";

/// Maximum number of characters of a message of `yaml_serde`, which can contain a whole value.
const MAX_MESSAGE: usize = 200;

/// The line breaks of YAML 1.1, as libyaml counts them. <https://yaml.org/spec/1.1/#id871136>
const BREAKS: [char; 5] = ['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}'];

/// A key or a value.
pub(super) struct Node {
    /// Its index in reading order.
    number: usize,
    content: Content,
}

enum Content {
    /// A scalar that YAML does not take for a string, with its text as written.
    Plain(Plain, String),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
    /// A value with a custom tag, like `!secret`.
    Tagged,
}

impl From<Plain> for Content {
    /// A scalar whose text is not known yet.
    fn from(plain: Plain) -> Self {
        Self::Plain(plain, String::new())
    }
}

impl Content {
    /// The text of a scalar, unless it is null.
    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Plain(Plain::Bool(_) | Plain::Number(_), text) => Some(text),
            _ => None,
        }
    }
}

/// What YAML takes a scalar for, if not for a string.
#[derive(Clone, Copy)]
enum Plain {
    /// `null`, `~` or nothing.
    Null,
    Bool(bool),
    /// `None` unless the number is an integer from 0 to 2^64 - 1.
    Number(Option<u64>),
}

/// A key with its value, an item of a list, or the whole file.
pub(super) struct Entry<'n> {
    /// The key; empty for an item and the whole file.
    pub(super) name: &'n str,
    path: String,
    key: &'n Node,
    value: &'n Node,
}

impl<'n> Entry<'n> {
    pub(super) const fn whole_file(root: &'n Node) -> Self {
        Self { name: "", path: String::new(), key: root, value: root }
    }

    /// Whether the value is empty, `null` or `~`.
    pub(super) const fn is_null(&self) -> bool {
        matches!(self.value.content, Content::Plain(Plain::Null, _))
    }

    /// Whether the value is a map. An empty value is an empty map.
    pub(super) const fn is_map(&self) -> bool {
        matches!(self.value.content, Content::Map(_)) || self.is_null()
    }

    /// Returns the value if it is a string. A number or boolean is a string, too: as it is written.
    pub(super) fn string(&self) -> Option<&'n str> {
        self.value.content.text()
    }
}

/// Reads `text` as one document. A syntax error ends the reading: then it is the first diagnostic,
/// and the tree contains the top-level entries before it.
pub(super) fn read(text: &str) -> (Report<'_>, Node) {
    // `yaml_serde` would treat a byte order mark as part of the first key.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut report =
        Report { text, errors: Diagnostics::default(), warnings: Diagnostics::default() };
    let mut root = Node { number: 0, content: Content::Map(Vec::new()) };
    if let Some(obstacle) = obstacle(text) {
        report.errors.add(|| obstacle);
        return (report, root);
    }
    let mut documents = serde_yaml::Deserializer::from_str(text);
    let walk = Walk { plain: plain_scalars(text).into(), ..Walk::default() };
    match documents.next().map(|document| walk.deserialize(document)) {
        Some(Ok(first)) => {
            root = first;
            match documents.next().map(|document| Walk::default().deserialize(document)) {
                Some(Ok(second)) => report.add(1, "", &second, |_| {
                    "a second document begins here; keep one document in the file".into()
                }),
                Some(Err(error)) => report.unreadable(&error),
                None => {}
            }
        }
        Some(Err(error)) => {
            report.unreadable(&error);
            root.content = Content::Map(walk.complete.take());
        }
        None => {}
    }
    (report, root)
}

/// Finds text that must not reach `yaml_serde`: characters that YAML forbids, which it cannot locate,
/// directives, and too many brackets, because scanning them takes quadratic time.
fn obstacle(text: &str) -> Option<Diagnostic> {
    let mut line = 1;
    let mut column = 1;
    let mut brackets = 0;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        brackets += usize::from(matches!(c, '[' | '{'));
        let message = match c {
            '\r' if chars.peek() == Some(&'\n') => continue,
            _ if BREAKS.contains(&c) => {
                line += 1;
                column = 1;
                continue;
            }
            '[' | '{' if brackets > MAX_BRACKETS => {
                format!("more than {MAX_BRACKETS} brackets; write lists and maps as lines")
            }
            '%' if column == 1 => "directives are not supported; remove this line".into(),
            '\u{fffe}' | '\u{ffff}' => forbidden(c),
            _ if c.is_control() && c != '\t' => forbidden(c),
            _ => {
                column += 1;
                continue;
            }
        };
        return Some(Diagnostic { line, column, key: String::new(), message });
    }
    None
}

/// Iterates over the lines of a text.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    iter::from_fn(move || {
        let text = rest?;
        let (line, after) = match text.split_once(BREAKS) {
            Some((line, after)) if text[line.len()..].starts_with("\r\n") => {
                (line, Some(&after[1..]))
            }
            Some((line, after)) => (line, Some(after)),
            None => (text, None),
        };
        rest = after;
        Some(line)
    })
}

/// Returns a line of a text, by its number from 1.
fn line(text: &str, number: usize) -> &str {
    lines(text).nth(number - 1).unwrap_or_default()
}

fn forbidden(c: char) -> String {
    let code = u32::from(c);
    format!("U+{code:04X} is not allowed in YAML; write \"\\u{code:04X}\", with the quotes")
}

/// Collects the errors and warnings of one text.
///
/// After an error its methods return a placeholder, which the caller of [`Report::finish`] drops.
pub(super) struct Report<'t> {
    text: &'t str,
    errors: Diagnostics,
    warnings: Diagnostics,
}

impl Report<'_> {
    /// Returns the entries of a map. A duplicate key is an error, and is returned twice. An empty value
    /// is an empty map: a section may have all its lines commented out.
    pub(super) fn entries<'n>(&mut self, section: &Entry<'n>) -> Vec<Entry<'n>> {
        let pairs = match &section.value.content {
            Content::Map(pairs) => pairs,
            Content::Plain(Plain::Null, _) => return Vec::new(),
            _ => {
                self.error(section, |value| {
                    format!("{value} is not a map; write lines of `key: value`")
                });
                return Vec::new();
            }
        };
        let mut names = BTreeSet::new();
        let mut entries = Vec::with_capacity(pairs.len());
        for (key, value) in pairs {
            let Some(name) = key.content.text() else {
                self.add(0, &section.path, key, |key| {
                    format!("{key} cannot be a key; write a string")
                });
                continue;
            };
            let mut path = section.path.clone();
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(&shorten(name, MAX_CHARS));
            let entry = Entry { name, path, key, value };
            if !names.insert(name) {
                self.key_error(&entry, |_| "this key is given twice; keep one".into());
            }
            entries.push(entry);
        }
        entries
    }

    /// Returns the items of a list. An empty value is an empty list.
    pub(super) fn items<'n>(&mut self, list: &Entry<'n>) -> Vec<Entry<'n>> {
        let items = match &list.value.content {
            Content::List(items) => items,
            Content::Plain(Plain::Null, _) => return Vec::new(),
            _ => {
                self.error(list, |value| {
                    format!("{value} is not a list; write lines of `- item`, or [item, item]")
                });
                return Vec::new();
            }
        };
        let entry = |(place, item)| Entry {
            name: "",
            path: format!("{}[{place}]", list.path),
            key: item,
            value: item,
        };
        items.iter().enumerate().map(entry).collect()
    }

    /// Returns a string. A number or boolean is a string, too: as it is written.
    pub(super) fn string<'n>(&mut self, entry: &Entry<'n>) -> Option<&'n str> {
        if let Some(text) = entry.string() {
            if let Some(found) = lookalike::find_at_ends(text) {
                self.lookalike(entry, &found);
            }
            return Some(text);
        }
        self.error(entry, |value| {
            if entry.is_map() && !entry.is_null() {
                format!("{value} is not a string; write one, in quotes if it starts with {{")
            } else {
                format!("{value} is not a string; write one in quotes")
            }
        });
        None
    }

    /// Returns a boolean.
    pub(super) fn boolean(&mut self, entry: &Entry<'_>) -> bool {
        if let Content::Plain(Plain::Bool(truth), _) = entry.value.content {
            return truth;
        }
        self.error(entry, |value| format!("{value} is not a boolean; write true or false"));
        false
    }

    /// Returns an integer from 0 to 2^64 - 1.
    pub(super) fn integer(&mut self, entry: &Entry<'_>) -> Option<u64> {
        if let Content::Plain(Plain::Number(Some(number)), _) = entry.value.content {
            return Some(number);
        }
        self.error(entry, |value| {
            format!("{value} is not a positive integer; write digits without quotes")
        });
        None
    }

    /// Adds an error at a key that is not in `known`, and suggests a known key.
    pub(super) fn unknown_key(&mut self, entry: &Entry<'_>, known: &[&str]) {
        self.key_error(entry, |_| format!("unknown key; {}", suggest::one_of(entry.name, known)));
    }

    /// Adds an error at a key. `message` receives the printable key.
    pub(super) fn key_error(&mut self, entry: &Entry<'_>, message: impl FnOnce(&str) -> String) {
        self.add(0, &entry.path, entry.key, message);
    }

    /// Adds an error at a value. `message` receives the printable value.
    pub(super) fn error(&mut self, entry: &Entry<'_>, message: impl FnOnce(&str) -> String) {
        self.add(0, &entry.path, entry.value, message);
    }

    /// Adds an error at a byte offset in a string: offset 3 of the value of `b: '{{ nope }}'` is the
    /// `nope` in column 8. If the file has the string in another form, with escapes or over several
    /// lines, the position is that of the whole string.
    pub(super) fn error_within(&mut self, entry: &Entry<'_>, offset: usize, message: &str) {
        self.errors.add(|| diagnostic_within(self.text, entry, offset, message));
    }

    /// Adds a warning about a character of a string.
    pub(super) fn lookalike(&mut self, entry: &Entry<'_>, found: &Lookalike) {
        let Lookalike { offset, name, advice } = found;
        self.warning_within(entry, *offset, &format!("{name}, is part of the value; {advice}"));
    }

    /// Adds a warning at a byte offset in a string.
    pub(super) fn warning_within(&mut self, entry: &Entry<'_>, offset: usize, message: &str) {
        self.warnings.add(|| diagnostic_within(self.text, entry, offset, message));
    }

    /// Adds a warning at a key.
    pub(super) fn key_warning(&mut self, entry: &Entry<'_>, message: &str) {
        let text = self.text;
        self.warnings.add(|| diagnostic(text, 0, &entry.path, entry.key, |_| message.into()));
    }

    fn add(
        &mut self,
        document: usize,
        path: &str,
        node: &Node,
        message: impl FnOnce(&str) -> String,
    ) {
        let text = self.text;
        self.errors.add(|| diagnostic(text, document, path, node, message));
    }

    /// Adds the error at which reading stopped.
    fn unreadable(&mut self, error: &serde_yaml::Error) {
        let (line, column) = position(error);
        let message = shorten(&syntax_error(self.text, error), MAX_MESSAGE);
        let message = format!("invalid YAML: {message}");
        self.errors.add(|| Diagnostic { line, column, key: String::new(), message });
    }

    /// Returns the warnings, or the errors if there are any.
    pub(super) fn finish(mut self) -> Result<Diagnostics, Diagnostics> {
        for diagnostics in [&mut self.errors, &mut self.warnings] {
            diagnostics.shown.sort_by_key(|diagnostic| (diagnostic.line, diagnostic.column));
        }
        if self.errors.count() == 0 { Ok(self.warnings) } else { Err(self.errors) }
    }
}

/// Describes a mistake at a node. `message` receives the printable value.
fn diagnostic(
    text: &str,
    document: usize,
    path: &str,
    node: &Node,
    message: impl FnOnce(&str) -> String,
) -> Diagnostic {
    let (line, column) = locate(text, document, node.number);
    let printed = match &node.content {
        Content::Text(text) => quote(text),
        Content::List(_) => "a list".into(),
        Content::Map(_) => "a map".into(),
        Content::Tagged => "a value with a tag".into(),
        Content::Plain(_, text) if text.is_empty() => "an empty value".into(),
        Content::Plain(_, text) => shorten(text, MAX_CHARS),
    };
    let mut message = message(&printed);
    if let Some(found) = node.content.text().and_then(lookalike::find) {
        message.extend(["; it contains ", &found.name, ": ", found.advice]);
    }
    Diagnostic { line, column, key: path.into(), message }
}

/// Describes a mistake at a byte offset in a string.
fn diagnostic_within(text: &str, entry: &Entry<'_>, offset: usize, message: &str) -> Diagnostic {
    let (number, mut column) = locate(text, 0, entry.value.number);
    let before = entry.string().and_then(|value| value.get(..offset)).unwrap_or_default();
    let line = line(text, number);
    let written = line.char_indices().nth(column - 1);
    let written = written.map_or("", |(start, _)| &line[start..]);
    let unquoted = written.strip_prefix(['"', '\'']).unwrap_or(written);
    if unquoted.starts_with(before) {
        column += written.len() - unquoted.len() + before.chars().count();
    }
    Diagnostic { line: number, column, key: entry.path.clone(), message: message.into() }
}

/// Describes the error at which reading stopped, and what may have caused it.
fn syntax_error(text: &str, error: &serde_yaml::Error) -> String {
    let (number, column) = position(error);
    let message = error.to_string();
    // The diagnostic has the position already.
    let reason = message.replacen(&format!(" at line {number} column {column}"), "", 1);
    let found = line(text, number).chars().nth(column - 1);
    if reason == "repetition limit exceeded" {
        return "aliases expand too much; write the values out".into();
    }
    if reason.starts_with("recursion limit exceeded") {
        return "nested more than 128 levels deep; flatten it".into();
    }
    if reason.contains(" tab ") || reason.starts_with(NO_TOKEN) && found == Some('\t') {
        return "a tab in the indentation; write spaces".into();
    }
    if let (true, Some(c @ ('%' | '@' | '`'))) = (reason.starts_with(NO_TOKEN), found) {
        return format!("a value cannot start with {c}; put it in quotes");
    }
    // Reading can stop some lines after what it names as the place, like `at line 3 column 3`.
    let first =
        reason.rsplit_once(" at line ").and_then(|(_, it)| it.split(' ').next()?.parse().ok());
    for (line, number) in
        lines(text).zip(1..=number).skip(first.unwrap_or(number).saturating_sub(1))
    {
        if let Some(found) = lookalike::find(line) {
            let (name, advice) = (found.name, found.advice);
            return format!("{reason}; line {number} contains {name}: {advice}");
        }
    }
    reason
}

/// Finds the scalars of the first document that YAML does not take for strings, by number.
fn plain_scalars(text: &str) -> BTreeMap<usize, Plain> {
    let walk = Walk::default();
    // The next reading reports the error.
    let _ = serde_yaml::Deserializer::from_str(text).next().map(|node| walk.deserialize(node));
    walk.plain.take()
}

/// Finds the line and column of a node, by its number in a document of the text.
fn locate(text: &str, document: usize, number: usize) -> (usize, usize) {
    let walk = Walk { stop: Some(number), ..Walk::default() };
    let mut documents = serde_yaml::Deserializer::from_str(text);
    match documents.nth(document).map(|node| walk.deserialize(node)) {
        Some(Err(error)) => position(&error),
        _ => (1, 1),
    }
}

fn position(error: &serde_yaml::Error) -> (usize, usize) {
    error.location().map_or((1, 1), |location| (location.line(), location.column()))
}

/// One reading of a document.
#[derive(Default)]
struct Walk {
    /// The node at which to fail, so that the error has its position.
    stop: Option<usize>,
    /// The scalars that YAML does not take for strings, by number. Those already known are read as
    /// they are written.
    plain: RefCell<BTreeMap<usize, Plain>>,
    /// Number of nodes so far.
    nodes: Cell<usize>,
    /// Size of the tree so far.
    bytes: Cell<usize>,
    /// The top-level entries before an error.
    complete: RefCell<Vec<(Node, Node)>>,
}

impl Walk {
    /// Adds to the size of the tree, up to the limit.
    fn allocate<E: Error>(&self, bytes: usize) -> Result<(), E> {
        self.bytes.set(self.bytes.get() + bytes);
        if self.bytes.get() <= MAX_TREE_BYTES {
            return Ok(());
        }
        let max = MAX_TREE_BYTES >> 20;
        Err(E::custom(format_args!(
            "the keys and values take more than {max} MiB with aliases expanded; use fewer"
        )))
    }
}

impl<'de> DeserializeSeed<'de> for &Walk {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        self.allocate(size_of::<Node>())?;
        let number = self.nodes.replace(self.nodes.get() + 1);
        if self.stop == Some(number) {
            let content = deserializer.deserialize_str(Stop)?;
            return Ok(Node { number, content });
        }
        let known = self.plain.borrow().get(&number).copied();
        let content = match known {
            Some(plain) => match deserializer.deserialize_str(self)? {
                Content::Text(text) => Content::Plain(plain, text),
                other => other,
            },
            None => deserializer.deserialize_any(self)?,
        };
        if let Content::Plain(plain, _) = content {
            self.plain.borrow_mut().insert(number, plain);
        }
        Ok(Node { number, content })
    }
}

impl<'de> Visitor<'de> for &Walk {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    /// An empty document.
    fn visit_none<E: Error>(self) -> Result<Content, E> {
        Ok(Content::Map(Vec::new()))
    }

    fn visit_unit<E: Error>(self) -> Result<Content, E> {
        Ok(Plain::Null.into())
    }

    fn visit_bool<E: Error>(self, truth: bool) -> Result<Content, E> {
        Ok(Plain::Bool(truth).into())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Content, E> {
        Ok(Plain::Number(Some(number)).into())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Content, E> {
        Ok(Plain::Number(None).into())
    }

    fn visit_u128<E: Error>(self, _: u128) -> Result<Content, E> {
        Ok(Plain::Number(None).into())
    }

    fn visit_i128<E: Error>(self, _: i128) -> Result<Content, E> {
        Ok(Plain::Number(None).into())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Content, E> {
        Ok(Plain::Number(None).into())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Content, E> {
        self.allocate(text.len())?;
        Ok(Content::Text(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Content, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element_seed(self)? {
            items.push(item);
        }
        Ok(Content::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Content, A::Error> {
        let mut entries = Vec::new();
        loop {
            match map.next_entry_seed(self, self) {
                Ok(Some(entry)) => entries.push(entry),
                Ok(None) => return Ok(Content::Map(entries)),
                Err(error) => {
                    // The outermost map fails last, and overwrites those of the maps inside.
                    self.complete.replace(entries);
                    return Err(error);
                }
            }
        }
    }

    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Content, A::Error> {
        let (IgnoredAny, value) = tagged.variant()?;
        let IgnoredAny = value.newtype_variant()?;
        Ok(Content::Tagged)
    }
}

/// Fails at a scalar. At anything else, `yaml_serde` itself fails.
struct Stop;

impl Visitor<'_> for Stop {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a scalar")
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Content, E> {
        Err(E::custom("found"))
    }
}
