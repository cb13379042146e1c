//! Compiles and matches patterns in the syntax of Go's regular expressions (RE2),
//! <https://pkg.go.dev/regexp/syntax>. A pattern must match a whole text, as if it were written
//! `^(?s:…)$`.
//!
//! `translate` turns a pattern into the syntax of Rust's `regex`, whose engine compiles it.

use std::fmt;

use regex_automata::{
    Anchored, Input,
    nfa::thompson::{
        self, NFA,
        pikevm::{Cache, PikeVM},
    },
    util::{captures::Captures, syntax},
};

use crate::expr::print::quote;

mod translate;

use translate::Translation;
pub(super) use translate::translate;

/// Maximum depth of a translation. `regex` counts every node, and a group has at most four.
const NEST_LIMIT: u32 = 1000;

/// Maximum memory of one compiled pattern.
const MAX_COMPILED_BYTES: usize = 1 << 20;

/// Maximum memory of all patterns of a [`Compiler`]. A pattern that is too large counts as
/// [`MAX_COMPILED_BYTES`], so that this also bounds the time.
const MAX_ALL_COMPILED_BYTES: usize = 16 << 20;

/// Compiles patterns.
pub(super) struct Compiler {
    thompson: thompson::Compiler,
    /// Remaining memory for patterns.
    left: usize,
}

impl Default for Compiler {
    fn default() -> Self {
        let mut thompson = thompson::Compiler::new();
        // Turns off the engine's UTF-8 checks, which would reject `(?-u:\B)`. They are unnecessary:
        // everything else in a translation matches whole characters.
        thompson.syntax(syntax::Config::new().utf8(false).nest_limit(NEST_LIMIT));
        thompson.configure(
            thompson::Config::new().utf8(false).nfa_size_limit(Some(MAX_COMPILED_BYTES)),
        );
        Self { thompson, left: MAX_ALL_COMPILED_BYTES }
    }
}

impl fmt::Debug for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compiler").field("left", &self.left).finish_non_exhaustive()
    }
}

impl Compiler {
    /// Translates and compiles a pattern. The error includes the position and what to write instead.
    pub(super) fn compile(&mut self, source: &str) -> Result<Pattern, String> {
        let Translation { rust, names } = translate(source)?;
        if self.left == 0 {
            let max = MAX_ALL_COMPILED_BYTES >> 20;
            return Err(format!(
                "the patterns take more than {max} MiB of memory; write fewer or simpler ones"
            ));
        }
        let compiled = self.thompson.build(&rust);
        let bytes = compiled.as_ref().map_or(MAX_COMPILED_BYTES, NFA::memory_usage);
        self.left = self.left.saturating_sub(bytes);
        let compiled = compiled.and_then(PikeVM::new_from_nfa).map_err(|error| {
            if error.size_limit().is_some() {
                let max = MAX_COMPILED_BYTES >> 20;
                format!("the pattern takes more than {max} MiB of memory; use smaller repetitions")
            } else {
                format!("cannot compile the pattern: {}", quote(&error.to_string()))
            }
        })?;
        Ok(Pattern { source: source.into(), names, compiled })
    }
}

/// A compiled pattern.
#[derive(Clone)]
pub(super) struct Pattern {
    source: String,
    names: Vec<Option<String>>,
    compiled: PikeVM,
}

/// Scratch memory for matching. Reallocating it would cost more than most matches.
#[derive(Debug, Default)]
pub struct Scratch(Option<Cache>);

impl Scratch {
    /// Returns the memory, prepared for this pattern.
    fn for_pattern(&mut self, compiled: &PikeVM) -> &mut Cache {
        match &mut self.0 {
            Some(cache) => compiled.reset_cache(cache),
            none => *none = Some(compiled.create_cache()),
        }
        self.0.get_or_insert_with(|| compiled.create_cache())
    }
}

impl Pattern {
    /// Whether a group has this name.
    pub(super) fn has_group(&self, name: &str) -> bool {
        self.names.iter().any(|group| group.as_deref() == Some(name))
    }

    /// Whether the pattern matches the whole text.
    pub(super) fn is_match(&self, text: &str, scratch: &mut Scratch) -> bool {
        self.compiled.is_match(scratch.for_pattern(&self.compiled), anchored(text))
    }

    /// Returns the groups if the pattern matches the whole text.
    pub(super) fn find<'m>(&'m self, text: &'m str, scratch: &mut Scratch) -> Option<Match<'m>> {
        let mut groups = self.compiled.create_captures();
        let cache = scratch.for_pattern(&self.compiled);
        self.compiled.captures(cache, anchored(text), &mut groups);
        groups.is_match().then_some(Match { text, groups, names: &self.names })
    }
}

fn anchored(text: &str) -> Input<'_> {
    Input::new(text).anchored(Anchored::Yes)
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pattern").field(&self.source).finish()
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

/// The groups of a match.
pub(super) struct Match<'m> {
    text: &'m str,
    groups: Captures,
    names: &'m [Option<String>],
}

impl Match<'_> {
    /// The text of a group; group 0 is the whole text. Empty if the group does not exist or did not
    /// take part in the match.
    pub(super) fn group(&self, number: usize) -> &str {
        let span = self.groups.get_group(number);
        span.and_then(|span| self.text.get(span.range())).unwrap_or_default()
    }

    /// The text of the first group with this name that took part in the match.
    pub(super) fn named(&self, name: &str) -> &str {
        for (group_name, number) in self.names.iter().zip(1..) {
            if group_name.as_deref() == Some(name) && self.groups.get_group(number).is_some() {
                return self.group(number);
            }
        }
        ""
    }
}
