//! Random Go patterns with texts that they almost match, templates, rules and labels.

use proptest::{prelude::Rng as _, test_runner::TestRng};

use super::{Labels, Rule, yaml};

/// Pieces of a pattern, each with a text that it matches, at least on its own.
const PIECES: [(&str, &str); 62] = [
    ("a", "a"),
    ("b", "b"),
    ("Ab", "Ab"),
    ("1", "1"),
    ("_", "_"),
    ("-", "-"),
    ("é", "é"),
    ("k", "k"),
    ("K", "\u{212a}"),
    ("s", "\u{17f}"),
    ("]", "]"),
    ("}", "}"),
    ("{", "{"),
    ("{,2}", "{,2}"),
    ("a{1", "a{1"),
    (".", "é"),
    ("..", "a-"),
    ("^", ""),
    ("$", ""),
    ("\\b", ""),
    ("\\B", ""),
    ("\\A", ""),
    ("\\z", ""),
    ("\\d", "1"),
    ("\\D", "é"),
    ("\\s", " "),
    ("\\S", "a"),
    ("\\w", "_"),
    ("\\W", "é"),
    ("\\w", "b"),
    ("\\pL", "é"),
    ("\\p{Lu}", "É"),
    ("\\p{^Lu}", "a"),
    ("\\P{Ll}", "1"),
    ("\\p{Greek}", "α"),
    ("\\p{Any}", "-"),
    ("\\x61", "a"),
    ("\\x{e9}", "é"),
    ("\\141", "a"),
    ("\\<", "<"),
    ("\\.", "."),
    ("\\_", "_"),
    ("\\Qa.\\E", "a."),
    ("\\Q-\\E", "-"),
    ("[ab]", "b"),
    ("[^ab]", "é"),
    ("[a-c1]", "c"),
    ("[]a]", "]"),
    ("[^]a]", "b"),
    ("[a[]", "["),
    ("[a&&b]", "&"),
    ("[a-]", "-"),
    ("[--/]", "."),
    ("[\\d_]", "1"),
    ("[^\\W1]", "a"),
    ("[[:alpha:]é]", "é"),
    ("[[:^alpha:]]", "1"),
    ("[^[:punct:]]", "a"),
    ("[\\pL-]", "-"),
    ("[\\x{e0}-\\x{ff}]", "é"),
    ("[à-ü#]", "É"),
    ("[A-Z]", "K"),
];

/// Pieces that are invalid or almost invalid.
const EDGES: [&str; 58] = [
    "(",
    ")",
    "(?",
    "(?:",
    "(?i)",
    "(?i",
    "(?-s:",
    "(?i-i:",
    "(?)",
    "(?-)",
    "(?x)",
    "(?u:",
    "(?=",
    "(?P<n>",
    "(?P<1>",
    "(?P<>",
    "(?P<é>",
    "[",
    "]",
    "[^",
    "[]",
    "[[:alpha:]",
    "[[:foo:]]",
    "[[:",
    "[b-a]",
    "[a-\\d]",
    "[\\d-z]",
    "*",
    "+",
    "?",
    "{2}",
    "{2,1}",
    "{1001}",
    "{40}",
    "{0}",
    "{01}",
    "{,1}",
    "{1,",
    "|",
    "\\",
    "\\C",
    "\\Z",
    "\\8",
    "\\1",
    "\\07",
    "\\x",
    "\\x4",
    "\\x{110000}",
    "\\x{D800}",
    "\\Q",
    "\\E",
    "\\p",
    "\\p{C}",
    "\\p{L",
    "\\p{greek}",
    "\\pé",
    "\\é",
    "-",
];

const REPETITIONS: [(&str, usize); 15] = [
    ("*", 0),
    ("*", 2),
    ("+", 1),
    ("+", 3),
    ("?", 0),
    ("?", 1),
    ("*?", 2),
    ("+?", 2),
    ("??", 1),
    ("{2}", 2),
    ("{1,3}", 3),
    ("{2,}", 3),
    ("{0,2}?", 1),
    ("{0}", 0),
    ("{0,1}", 1),
];

const OPENINGS: [&str; 9] =
    ["(", "(", "(?:", "(?i:", "(?P<n>", "(?P<m>", "(?U:", "(?i-s:", "(?-i:"];

const NAMES: [&str; 10] = ["a", "b", "c", "ab", "a_b", "_t", "__t", "job", "B1", "é"];

/// A pattern with a text that it probably matches.
pub(super) struct Pattern {
    pub(super) source: String,
    sample: String,
}

pub(super) struct Generator {
    rng: TestRng,
}

impl Generator {
    pub(super) fn new(rng: TestRng) -> Self {
        Self { rng }
    }

    /// A number below `bound`.
    pub(super) fn up_to(&mut self, bound: usize) -> usize {
        self.rng.next_u32() as usize % bound
    }

    pub(super) fn one_in(&mut self, count: usize) -> bool {
        self.up_to(count) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.up_to(from.len())]
    }

    pub(super) fn pattern(&mut self) -> Pattern {
        self.alternatives(3)
    }

    fn alternatives(&mut self, depth: usize) -> Pattern {
        let mut pattern = self.sequence(depth);
        while self.one_in(4) {
            let other = self.sequence(depth);
            pattern.source = format!("{}|{}", pattern.source, other.source);
            if self.one_in(2) {
                pattern.sample = other.sample;
            }
        }
        pattern
    }

    fn sequence(&mut self, depth: usize) -> Pattern {
        let mut sequence = Pattern { source: String::new(), sample: String::new() };
        for _ in 0..self.up_to(5) {
            let mut piece = if depth > 0 && self.one_in(3) {
                let opening = self.pick(&OPENINGS);
                let inner = self.alternatives(depth - 1);
                Pattern { source: format!("{opening}{})", inner.source), sample: inner.sample }
            } else if self.one_in(20) {
                Pattern {
                    source: self.pick(&["(?i)", "(?U)", "(?-i)", "(?)"]).into(),
                    sample: String::new(),
                }
            } else {
                let (source, sample) = self.pick(&PIECES);
                Pattern { source: source.into(), sample: sample.into() }
            };
            if self.one_in(3) {
                let (repetition, times) = self.pick(&REPETITIONS);
                piece.source.push_str(repetition);
                piece.sample = piece.sample.repeat(times);
            }
            sequence.source.push_str(&piece.source);
            sequence.sample.push_str(&piece.sample);
        }
        sequence
    }

    /// A text that the pattern matches or almost matches.
    pub(super) fn nearly(&mut self, pattern: &Pattern) -> String {
        let mut text: Vec<char> = pattern.sample.chars().collect();
        if self.one_in(2) {
            return text.into_iter().collect();
        }
        let place = self.up_to(text.len() + 1);
        let c =
            self.pick(&['a', 'b', 'A', '1', '_', '-', ' ', 'é', 'É', 'K', '\u{212a}', '{', '.']);
        match self.up_to(3) {
            0 if place < text.len() => drop(text.remove(place)),
            1 if place < text.len() => text[place] = c,
            _ => text.insert(place, c),
        }
        text.into_iter().collect()
    }

    /// A text that may or may not be a valid pattern.
    pub(super) fn edge(&mut self) -> String {
        let mut source = String::new();
        for _ in 0..=self.up_to(5) {
            if self.one_in(2) {
                source.push_str(self.pick(&EDGES));
            } else {
                source.push_str(&self.sequence(1).source);
            }
        }
        source
    }

    pub(super) fn variable(&mut self) -> &'static str {
        self.pick(&[
            "$1", "$2", "${1}", "${2}", "$n", "${n}", "${m}x", "$0", "$1x", "$01", "${9}", "$n$1",
        ])
    }

    pub(super) fn template(&mut self) -> String {
        let mut template = String::new();
        for _ in 0..self.up_to(4) {
            let piece =
                self.pick(&["x", "-", "é", "$$", "$", "${", "}", "${}", "{", "$-", "$$1", ""]);
            template.push_str(if self.one_in(2) { piece } else { self.variable() });
            // A variable ends here.
            if self.one_in(2) {
                template.push('-');
            }
        }
        template
    }

    fn name(&mut self) -> &'static str {
        self.pick(&NAMES[..NAMES.len() - 1])
    }

    fn names(&mut self) -> String {
        let names: Vec<_> = (0..self.up_to(4)).map(|_| self.name()).collect();
        format!("[{}]", names.join(", "))
    }

    /// A rule that mostly makes sense.
    pub(super) fn rule(&mut self) -> Rule {
        let action = self.pick(&[
            "replace",
            "replace",
            "Replace",
            "keep",
            "drop",
            "keepequal",
            "dropequal",
            "hashmod",
            "HASHMOD",
            "labelmap",
            "labelmap",
            "labeldrop",
            "labelkeep",
            "lowercase",
            "uppercase",
        ]);
        let mut rule = vec![("action", action.to_owned())];
        if !action.starts_with("label") {
            rule.push(("source_labels", self.names()));
        }
        let on_names = [
            "a.*",
            "(.)(.*)",
            "[^_].+",
            "__?(.*)",
            "(?i)b.*",
            "a|b|job",
            "(_*)(?P<n>\\w)\\w*",
            "(.*)",
        ];
        let on_values =
            ["(.*)", "", "([^;]*);?(.*)", ".+", "(a*)(.*)", "(?P<n>\\w+).*", "x|a|1", "[^a].*"];
        match action.to_lowercase().as_str() {
            "replace" => {
                let templated = self.one_in(3);
                let target =
                    if templated { format!("t{}", self.variable()) } else { self.name().into() };
                rule.push(("target_label", yaml(&target)));
                if templated || self.one_in(2) {
                    let start = if templated { "x" } else { "" };
                    rule.push(("replacement", yaml(&format!("{start}{}", self.template()))));
                }
                self.regex(&mut rule, &on_values);
            }
            "keep" => self.regex(&mut rule, &[".*", ".*a.*", "[^b]*", "(?:.|;)*"]),
            "drop" => self.regex(&mut rule, &["b", ".*\\d\\d.*", "[^\\w]+", "é.*"]),
            "labelmap" => {
                let replacement =
                    self.pick(&["$1", "x_$2", "${1}${2}", "a$n", "${n}_t", "c", "_$0"]);
                rule.push(("replacement", yaml(replacement)));
                self.regex(&mut rule, &on_names);
            }
            "labeldrop" => self.regex(&mut rule, &on_names[..7]),
            "labelkeep" => {
                self.regex(&mut rule, &["[^a]+", ".*[a-z]", "(?i)[AJ].*|__.*|n", "\\w\\w*"]);
            }
            "hashmod" => {
                let modulus =
                    self.pick(&["1", "2", "10", "1000", "18446744073709551615", "4294967296"]);
                rule.push(("modulus", modulus.into()));
                rule.push(("target_label", self.name().into()));
            }
            _ => rule.push(("target_label", self.name().into())),
        }
        if self.one_in(4) && !action.starts_with("label") && !action.ends_with("equal") {
            rule.push(("separator", yaml(self.pick(&["", "-", ";;", "é"]))));
        }
        rule
    }

    fn regex(&mut self, rule: &mut Rule, usual: &[&str]) {
        match self.up_to(4) {
            0 => {}
            1 => {
                let pattern = self.pattern().source;
                rule.push(("regex", yaml(&pattern)));
            }
            _ => rule.push(("regex", yaml(self.pick(usual)))),
        }
    }

    pub(super) fn labels(&mut self) -> Labels {
        let mut labels = Labels::new();
        for _ in 0..self.up_to(7) {
            let value = match self.up_to(3) {
                0 => self.pick(&["a", "b", "1", "aa", "x", "é", "ß", "İ", "A1;b", ""]).to_owned(),
                1 => self.pick(&["a-b", "AbC", "Σας", "_1", "$1", "b;", "\u{1f600}"]).to_owned(),
                _ => self.alternatives(1).sample,
            };
            labels.insert(self.name().into(), value);
        }
        labels
    }
}
