//! Translates patterns from Go's syntax into that of Rust's `regex`.
//!
//! The two differ in details that would raise no error: in Go `\d`, `\s`, `\w` and `\b` are ASCII,
//! in Rust they are Unicode; `\<` is a `<` in Go and the start of a word in Rust; brackets nest only
//! in Rust. So nothing is copied verbatim: the pattern is parsed by Go's rules, and each piece is
//! written in a form that means only one thing in Rust. `a\d<` becomes `\A(?s:a[0-9]\x{3C})\z`.
//!
//! Translated:
//!
//! | in Go | in Rust |
//! |---|---|
//! | a literal character, also `]`, `}`, and a `{` that starts no repetition | `a`, or `\x{5D}` unless it is an ASCII letter or digit |
//! | `.` `^` `$` `\|` | themselves |
//! | `*` `+` `?` `{n}` `{n,}` `{n,m}`, each also with `?` | themselves |
//! | `(…)`, `(?P<name>…)`, `(?<name>…)` (Go 1.22) | `(…)`; the names are kept apart, since Go allows digits as names, and duplicates |
//! | `(?:…)`, `(?imsU-imsU:…)`, `(?imsU-imsU)` | themselves, each flag once |
//! | `\d` `\D` `\s` `\S` `\w` `\W` | ASCII ranges in brackets |
//! | `[…]` `[^…]` with escapes, ranges, and classes like `[:alpha:]` | brackets of characters, ranges and classes |
//! | `\pL` `\p{Lu}` `\p{^Lu}` `\P{Lu}`: general categories except `C` and `Cs`, `Any`, and the scripts of Unicode 13 | `\p{Lu}` `\P{Lu}` `\p{sc=Han}` |
//! | `\b` `\B` | `(?-u:\b)` `(?-u:\B)` |
//! | `\A` `\z` | themselves |
//! | `\x7F` `\x{10FFFF}` `\123` `\0` `\a` `\f` `\n` `\r` `\t` `\v`, `\` before ASCII other than letters and digits | the character |
//! | `\Q…\E` | the characters |
//!
//! Rejected, although Go accepts it:
//!
//! * `\p{C}` and `\p{Cs}`, and categories and scripts by names that only Go 1.25 knows: their meaning
//!   depends on the version of Go;
//! * `\x{D800}` to `\x{DFFF}`, which no text contains;
//! * a repetition right after `(?i)` or `\Q\E`, which Go applies to what precedes them;
//! * parentheses that balance only with those that Prometheus adds, as in `a)|(b`;
//! * a pattern of more than 4 KiB, with groups nested more than 100 deep, or that takes more than
//!   1 MiB when compiled, or 16 MiB together with the patterns before it.
//!
//! Everything that Go rejects is rejected. Categories, scripts and the case of letters follow the
//! Unicode version of this build; a given Go may have an older one.

use std::fmt::Write as _;

use crate::expr::print::quote;

/// Maximum size of a pattern.
const MAX_PATTERN_BYTES: usize = 4096;

/// Maximum depth of nested groups.
const MAX_DEPTH: usize = 100;

/// Go's limit of a repetition, and of the product of nested repetitions.
const MAX_REPEAT: u32 = 1000;

/// A pattern in Rust's syntax.
#[derive(Debug)]
pub(in super::super) struct Translation {
    pub(super) rust: String,
    /// The names of the groups, from group 1.
    pub(super) names: Vec<Option<String>>,
}

/// Translates a pattern. The error includes the position and what to write instead.
pub(in super::super) fn translate(source: &str) -> Result<Translation, String> {
    if source.len() > MAX_PATTERN_BYTES {
        let length = source.len();
        return Err(format!("the pattern has {length} bytes; keep it to {MAX_PATTERN_BYTES}"));
    }
    let mut translator = Translator {
        source,
        rest: source,
        piece: source,
        rust: String::from("\\A(?s:"),
        names: Vec::new(),
        groups: vec![Group { opened: source, product: 1 }],
        last: Last::Nothing,
    };
    while !translator.rest.is_empty() {
        translator.piece()?;
    }
    if let [_, .., unclosed] = &*translator.groups {
        translator.piece = unclosed.opened;
        return Err(translator.error("the group is not closed", "write ) after it"));
    }
    translator.rust.push_str(")\\z");
    Ok(Translation { rust: translator.rust, names: translator.names })
}

/// The state of a translation.
struct Translator<'p> {
    source: &'p str,
    /// The part that is not translated yet.
    rest: &'p str,
    /// The source from the current piece on. Errors are reported at its start.
    piece: &'p str,
    rust: String,
    names: Vec<Option<String>>,
    /// The open groups. The first is the whole pattern.
    groups: Vec<Group<'p>>,
    last: Last,
}

/// An open group.
struct Group<'p> {
    /// The source from its parenthesis on.
    opened: &'p str,
    /// The largest product of nested repetitions in it.
    product: u32,
}

/// The preceding item, which a repetition would repeat.
#[derive(Clone, Copy)]
enum Last {
    /// The start of a group, a `|`, flags or an empty quotation.
    Nothing,
    /// A repetition, with its product.
    Repetition(u32),
    /// A character, class, assertion or group, with the product of the repetitions in it.
    Expression(u32),
}

impl<'p> Translator<'p> {
    /// Translates the next piece.
    fn piece(&mut self) -> Result<(), String> {
        self.piece = self.rest;
        let Some(c) = self.next() else { return Ok(()) };
        match c {
            '(' => self.open()?,
            ')' => {
                if self.groups.len() == 1 {
                    return Err(self.error("no group is open", "write \\) for a parenthesis"));
                }
                self.end_repeatable();
                let product = self.groups.pop().map_or(1, |group| group.product);
                self.rust.push(')');
                self.expression(product);
            }
            '|' => {
                self.rust.push('|');
                self.end_repeatable();
            }
            '^' | '$' | '.' => {
                self.rust.push(c);
                self.expression(1);
            }
            '*' | '+' | '?' => {
                self.rust.push(c);
                self.repeat(1)?;
            }
            '{' => match counts(self.rest) {
                Some((min, max, rest)) => {
                    self.rest = rest;
                    self.counted(min, max)?;
                }
                None => self.literal(c),
            },
            '[' => self.class()?,
            '\\' => self.escape()?,
            _ => self.literal(c),
        }
        Ok(())
    }

    /// Consumes the next character.
    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    /// Consumes `text` if it comes next, and returns whether it did.
    fn take(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// The part of the current piece that is consumed.
    fn taken(&self) -> &'p str {
        &self.piece[..self.piece.len() - self.rest.len()]
    }

    /// Formats an error at the current piece.
    fn error(&self, message: &str, remedy: &str) -> String {
        let before = &self.source[..self.source.len() - self.piece.len()];
        format!("at character {}, {message}; {remedy}", before.chars().count() + 1)
    }

    /// Ends the item that a repetition could repeat, and records its product in the open group.
    fn end_repeatable(&mut self) {
        let (Last::Expression(product) | Last::Repetition(product)) = self.last else { return };
        if let Some(group) = self.groups.last_mut() {
            group.product = group.product.max(product);
        }
        self.last = Last::Nothing;
    }

    /// Ends an expression, which a repetition may follow.
    fn expression(&mut self, product: u32) {
        self.end_repeatable();
        self.last = Last::Expression(product);
    }

    fn literal(&mut self, c: char) {
        push_literal(&mut self.rust, c);
        self.expression(1);
    }

    /// Opens a group, or sets flags.
    fn open(&mut self) -> Result<(), String> {
        if !self.take("?") {
            self.names.push(None);
            self.rust.push('(');
        } else if self.take("P<") || self.take("<") {
            let name = self.rest.split_once('>').filter(|(name, _)| is_group_name(name));
            let Some((name, rest)) = name else {
                return Err(self.error(
                    "invalid group name",
                    "write (?P<name> with ASCII letters, digits and _",
                ));
            };
            self.rest = rest;
            self.names.push(Some(name.into()));
            self.rust.push('(');
        } else if !self.flags()? {
            return Ok(());
        }
        self.end_repeatable();
        self.groups.push(Group { opened: self.piece, product: 1 });
        if self.groups.len() > MAX_DEPTH {
            let message = format!("groups are nested more than {MAX_DEPTH} deep");
            return Err(self.error(&message, "flatten them"));
        }
        Ok(())
    }

    /// Translates the rest of `(?i-s:` or `(?i)` after `(?`. Returns whether it opens a group.
    fn flags(&mut self) -> Result<bool, String> {
        const FLAGS: [char; 4] = ['i', 'm', 's', 'U'];
        // Whether each flag is set, cleared, or not mentioned.
        let mut states = [None; 4];
        let mut sets = true;
        // A minus must be followed by a flag.
        let mut is_complete = true;
        loop {
            let c = self.next();
            if let Some(index) = FLAGS.iter().position(|&flag| Some(flag) == c) {
                states[index] = Some(sets);
                is_complete = true;
                continue;
            }
            match c {
                Some('-') if sets => {
                    sets = false;
                    is_complete = false;
                }
                Some(end @ (':' | ')')) if is_complete => {
                    let mut on = String::new();
                    let mut off = String::new();
                    for (flag, state) in FLAGS.into_iter().zip(states) {
                        match state {
                            Some(true) => on.push(flag),
                            Some(false) => off.push(flag),
                            None => {}
                        }
                    }
                    let minus = if off.is_empty() { "" } else { "-" };
                    // Rust rejects an empty set of flags.
                    if end == ':' || !on.is_empty() || !off.is_empty() {
                        let _ = write!(self.rust, "(?{on}{minus}{off}{end}");
                    }
                    self.end_repeatable();
                    return Ok(end == ':');
                }
                _ => {
                    return Err(self.error(
                        "unknown group or flag",
                        "write (?:, (?P<name>, or flags among i, m, s and U, like (?i) or (?i:",
                    ));
                }
            }
        }
    }

    /// Translates the repetition `{min}`, `{min,}` or `{min,max}`.
    fn counted(&mut self, min: u32, max: Option<u32>) -> Result<(), String> {
        let most = max.unwrap_or(min);
        if min.max(most) > MAX_REPEAT {
            let message = format!("the repetition exceeds {MAX_REPEAT}");
            return Err(self.error(&message, "use smaller repetitions"));
        }
        if most < min {
            return Err(self.error("the bounds of the repetition are reversed", "swap them"));
        }
        let _ = match max {
            Some(max) => write!(self.rust, "{{{min},{max}}}"),
            None => write!(self.rust, "{{{min},}}"),
        };
        // In an item that is repeated zero times, nested repetitions do not count.
        if let (Last::Expression(product), Some(0)) = (&mut self.last, max) {
            *product = 1;
        }
        self.repeat(most.max(1))
    }

    /// Ends a repetition of at most `count` times, which can be followed by `?`.
    fn repeat(&mut self, count: u32) -> Result<(), String> {
        let product = match self.last {
            Last::Expression(product) => product * count,
            Last::Repetition(_) => {
                return Err(self
                    .error("a repetition is repeated", "keep one, or put the inner one in (?:…)"));
            }
            Last::Nothing => {
                return Err(self.error(
                    "there is nothing to repeat",
                    "put the repetition right after a character or a group",
                ));
            }
        };
        if product > MAX_REPEAT {
            let message = format!("nested repetitions multiply to more than {MAX_REPEAT}");
            return Err(self.error(&message, "use smaller repetitions"));
        }
        if self.take("?") {
            self.rust.push('?');
        }
        self.last = Last::Repetition(product);
        Ok(())
    }

    /// Translates an escape outside of brackets, after its `\`.
    fn escape(&mut self) -> Result<(), String> {
        let assertion = match self.rest.chars().next() {
            Some('A') => "\\A",
            Some('z') => "\\z",
            Some('b') => "(?-u:\\b)",
            Some('B') => "(?-u:\\B)",
            Some('Q') => return self.quotation(),
            _ => "",
        };
        if !assertion.is_empty() {
            self.next();
            self.rust.push_str(assertion);
        } else if !self.escaped_class()? {
            let c = self.escaped_char()?;
            push_literal(&mut self.rust, c);
        }
        self.expression(1);
        Ok(())
    }

    /// Translates `\Q…\E`. Without `\E` it would also quote what Prometheus appends to the pattern.
    fn quotation(&mut self) -> Result<(), String> {
        self.next();
        let Some((text, rest)) = self.rest.split_once("\\E") else {
            return Err(self.error("the \\Q is not closed", "write \\E after the text"));
        };
        self.rest = rest;
        self.end_repeatable();
        text.chars().for_each(|c| self.literal(c));
        Ok(())
    }

    /// Translates a class like `d` or `p{Lu}` after a `\`. Returns whether there was one.
    fn escaped_class(&mut self) -> Result<bool, String> {
        let c = self.rest.chars().next().unwrap_or_default();
        let class = match c.to_ascii_lowercase() {
            'd' => ascii_class("digit"),
            's' => Some("\\x{9}\\x{A}\\x{C}\\x{D}\\x{20}"),
            'w' => ascii_class("word"),
            'p' => {
                self.next();
                self.unicode_class(c == 'P')?;
                return Ok(true);
            }
            _ => None,
        };
        let Some(class) = class else { return Ok(false) };
        self.next();
        let negation = if c.is_ascii_uppercase() { "^" } else { "" };
        let _ = write!(self.rust, "[{negation}{class}]");
        Ok(true)
    }

    /// Translates a class such as `\pL` or `\P{Lu}`, after its `\p` or `\P`.
    fn unicode_class(&mut self, mut negated: bool) -> Result<(), String> {
        let mut name = "";
        if !self.take("{") {
            let before = self.rest;
            if let Some(c) = self.next() {
                name = &before[..c.len_utf8()];
            }
        } else if let Some((inside, rest)) = self.rest.split_once('}') {
            name = inside;
            self.rest = rest;
        }
        if let Some(after_caret) = name.strip_prefix('^') {
            name = after_caret;
            negated = !negated;
        }
        let class = if CATEGORIES.split(' ').any(|category| category == name) {
            name.into()
        } else if SCRIPTS.split_ascii_whitespace().any(|script| script == name) {
            format!("sc={name}")
        } else {
            let message = format!(
                "{} is not a class that all supported Go versions define identically",
                quote(self.taken())
            );
            return Err(
                self.error(&message, "write a category like \\p{Lu} or a script like \\p{Greek}")
            );
        };
        let _ = write!(self.rust, "\\{}{{{class}}}", if negated { 'P' } else { 'p' });
        Ok(())
    }

    /// Consumes an escaped character after its `\`.
    fn escaped_char(&mut self) -> Result<char, String> {
        let octal = |c: char| c.to_digit(8);
        let Some(c) = self.next() else {
            return Err(self.error("nothing follows the \\", "write \\\\ for a backslash"));
        };
        let code = match c {
            'a' => Some(0x07),
            'f' => Some(0x0c),
            'n' => Some(0x0a),
            'r' => Some(0x0d),
            't' => Some(0x09),
            'v' => Some(0x0b),
            'x' => self.hexadecimal(),
            '0'..='7' if c == '0' || self.rest.starts_with(|c| octal(c).is_some()) => {
                let mut code = octal(c).unwrap_or(0);
                for _ in 0..2 {
                    if let Some(digit) = self.rest.chars().next().and_then(octal) {
                        self.next();
                        code = code * 8 + digit;
                    }
                }
                Some(code)
            }
            // Control characters are included.
            _ => (c.is_ascii() && !c.is_ascii_alphanumeric()).then_some(u32::from(c)),
        };
        let Some(code) = code else {
            let message = format!("{} is not an escape", quote(self.taken()));
            return Err(self.error(&message, "write the character itself, or \\x{…} with its code"));
        };
        char::from_u32(code).ok_or_else(|| {
            self.error(
                &format!("U+{code:04X} is not a character"),
                "write one that text can contain",
            )
        })
    }

    /// Consumes the code after `\x`, which can be that of a surrogate.
    fn hexadecimal(&mut self) -> Option<u32> {
        let digits = if self.take("{") {
            let (digits, rest) = self.rest.split_once('}')?;
            self.rest = rest;
            digits
        } else {
            let end = self.rest.char_indices().nth(2).map_or(self.rest.len(), |(end, _)| end);
            let (digits, rest) = self.rest.split_at(end);
            self.rest = rest;
            if end == 2 { digits } else { "" }
        };
        let valid = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        // Any number of leading zeros is allowed.
        let code = u32::from_str_radix(digits, 16).ok().filter(|_| valid);
        code.filter(|&code| code <= u32::from(char::MAX))
    }

    /// Translates a class after its `[`.
    fn class(&mut self) -> Result<(), String> {
        self.rust.push('[');
        if self.take("^") {
            self.rust.push('^');
        }
        let opened = self.piece;
        let mut first = true;
        while first || !self.take("]") {
            first = false;
            if self.rest.is_empty() {
                self.piece = opened;
                return Err(
                    self.error("the [ is not closed", "write ] after it, or \\[ for a bracket")
                );
            }
            self.piece = self.rest;
            self.class_item()?;
        }
        self.rust.push(']');
        self.expression(1);
        Ok(())
    }

    /// Translates a character, range or class in brackets.
    fn class_item(&mut self) -> Result<(), String> {
        if let Some((name, rest)) = self.rest.strip_prefix("[:").and_then(|it| it.split_once(":]"))
        {
            let (plain, caret) = name.strip_prefix('^').map_or((name, ""), |plain| (plain, "^"));
            let Some(class) = ascii_class(plain) else {
                let message = format!("{} is not a class", quote(&format!("[:{name}:]")));
                return Err(self.error(&message, "write one like [:alpha:], or \\[: for a bracket"));
            };
            self.rest = rest;
            let _ = write!(self.rust, "[{caret}{class}]");
            return Ok(());
        }
        let item = self.rest;
        if self.take("\\") {
            if self.escaped_class()? {
                return Ok(());
            }
            self.rest = item;
        }
        let low = self.class_char()?;
        push_literal(&mut self.rust, low);
        let is_range = self.rest.starts_with('-') && !self.rest.starts_with("-]");
        if is_range && self.rest.len() > 1 {
            self.next();
            let high = self.class_char()?;
            if high < low {
                let range = quote(&item[..item.len() - self.rest.len()]);
                let message = format!("the range {range} is reversed");
                return Err(self.error(&message, "write the lower character first"));
            }
            self.rust.push('-');
            push_literal(&mut self.rust, high);
        }
        Ok(())
    }

    fn class_char(&mut self) -> Result<char, String> {
        if self.take("\\") {
            return self.escaped_char();
        }
        self.next().ok_or_else(|| self.error("the [ is not closed", "write ] after it"))
    }
}

/// Writes a literal character.
fn push_literal(rust: &mut String, c: char) {
    if c.is_ascii_alphanumeric() {
        rust.push(c);
    } else {
        let _ = write!(rust, "\\x{{{:X}}}", u32::from(c));
    }
}

/// Parses the bounds of a repetition after its `{`, and returns them with the rest of the text: 2, none
/// and `a` for `2,}a`. Numbers have no leading zeros; those too large for `u32` become `u32::MAX`.
fn counts(text: &str) -> Option<(u32, Option<u32>, &str)> {
    let (min, rest) = count(text)?;
    if let Some(rest) = rest.strip_prefix('}') {
        return Some((min, Some(min), rest));
    }
    let rest = rest.strip_prefix(',')?;
    if let Some(rest) = rest.strip_prefix('}') {
        return Some((min, None, rest));
    }
    let (max, rest) = count(rest)?;
    Some((min, Some(max), rest.strip_prefix('}')?))
}

fn count(text: &str) -> Option<(u32, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    let valid = digits == "0" || !digits.is_empty() && !digits.starts_with('0');
    valid.then(|| (digits.parse().unwrap_or(u32::MAX), rest))
}

fn is_group_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte == b'_' || byte.is_ascii_alphanumeric())
}

/// The members of a POSIX class, to be written in brackets.
fn ascii_class(name: &str) -> Option<&'static str> {
    Some(match name {
        "alnum" => "0-9A-Za-z",
        "alpha" => "A-Za-z",
        "ascii" => "\\x{0}-\\x{7F}",
        "blank" => "\\x{9}\\x{20}",
        "cntrl" => "\\x{0}-\\x{1F}\\x{7F}",
        "digit" => "0-9",
        "graph" => "\\x{21}-\\x{7E}",
        "lower" => "a-z",
        "print" => "\\x{20}-\\x{7E}",
        "punct" => "\\x{21}-\\x{2F}\\x{3A}-\\x{40}\\x{5B}-\\x{60}\\x{7B}-\\x{7E}",
        "space" => "\\x{9}-\\x{D}\\x{20}",
        "upper" => "A-Z",
        "word" => "0-9A-Z\\x{5F}a-z",
        "xdigit" => "0-9A-Fa-f",
        _ => return None,
    })
}

/// The general categories that all Go versions define identically, and `Any`.
const CATEGORIES: &str = "Any L Ll Lm Lo Lt Lu M Mc Me Mn N Nd Nl No P Pc Pd Pe Pf Pi Po Ps \
    S Sc Sk Sm So Z Zl Zp Zs Cc Cf Co";

/// The scripts of Unicode 13.
const SCRIPTS: &str = "\
    Adlam Ahom Anatolian_Hieroglyphs Arabic Armenian Avestan Balinese Bamum Bassa_Vah Batak
    Bengali Bhaiksuki Bopomofo Brahmi Braille Buginese Buhid Canadian_Aboriginal Carian
    Caucasian_Albanian Chakma Cham Cherokee Chorasmian Common Coptic Cuneiform Cypriot Cyrillic
    Deseret Devanagari Dives_Akuru Dogra Duployan Egyptian_Hieroglyphs Elbasan Elymaic Ethiopic
    Georgian Glagolitic Gothic Grantha Greek Gujarati Gunjala_Gondi Gurmukhi Han Hangul
    Hanifi_Rohingya Hanunoo Hatran Hebrew Hiragana Imperial_Aramaic Inherited
    Inscriptional_Pahlavi Inscriptional_Parthian Javanese Kaithi Kannada Katakana Kayah_Li
    Kharoshthi Khitan_Small_Script Khmer Khojki Khudawadi Lao Latin Lepcha Limbu Linear_A
    Linear_B Lisu Lycian Lydian Mahajani Makasar Malayalam Mandaic Manichaean Marchen
    Masaram_Gondi Medefaidrin Meetei_Mayek Mende_Kikakui Meroitic_Cursive Meroitic_Hieroglyphs
    Miao Modi Mongolian Mro Multani Myanmar Nabataean Nandinagari New_Tai_Lue Newa Nko Nushu
    Nyiakeng_Puachue_Hmong Ogham Ol_Chiki Old_Hungarian Old_Italic Old_North_Arabian Old_Permic
    Old_Persian Old_Sogdian Old_South_Arabian Old_Turkic Oriya Osage Osmanya Pahawh_Hmong
    Palmyrene Pau_Cin_Hau Phags_Pa Phoenician Psalter_Pahlavi Rejang Runic Samaritan Saurashtra
    Sharada Shavian Siddham SignWriting Sinhala Sogdian Sora_Sompeng Soyombo Sundanese
    Syloti_Nagri Syriac Tagalog Tagbanwa Tai_Le Tai_Tham Tai_Viet Takri Tamil Tangut Telugu
    Thaana Thai Tibetan Tifinagh Tirhuta Ugaritic Vai Wancho Warang_Citi Yezidi Yi
    Zanabazar_Square";
