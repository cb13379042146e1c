//! Patterns in the syntax of Go's regular expressions, <https://pkg.go.dev/regexp/syntax>, which are
//! RE2's. A pattern matches a whole text or not at all, as if it stood in `^(?s:…)$`.

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

/// How deep the translation may be for `regex`, which counts every node: a group is four at most.
const NEST_LIMIT: u32 = 1000;

/// Memory of one compiled pattern.
const MAX_COMPILED_BYTES: usize = 1 << 20;

/// Memory of all compiled patterns. One that is too large counts in full, so that this also bounds
/// the time.
const MAX_ALL_COMPILED_BYTES: usize = 16 << 20;

/// Compiles patterns.
pub(super) struct Compiler {
    thompson: thompson::Compiler,
    /// Memory that is left for patterns.
    left: usize,
}

impl Default for Compiler {
    fn default() -> Self {
        let mut thompson = thompson::Compiler::new();
        // Bytes of UTF-8 are told apart from characters only by `(?-u:\B)`, and no piece of a
        // translation ends within a character.
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
    /// Translates and compiles a pattern. The error says where it is wrong and what to write.
    pub(super) fn compile(&mut self, source: &str) -> Result<Pattern, String> {
        let Translation { rust, names } = translate(source)?;
        if self.left == 0 {
            let max = MAX_ALL_COMPILED_BYTES >> 20;
            return Err(format!(
                "the patterns take more than {max} MiB; write fewer or simpler ones"
            ));
        }
        let compiled = self.thompson.build(&rust);
        let bytes = compiled.as_ref().map_or(MAX_COMPILED_BYTES, NFA::memory_usage);
        self.left = self.left.saturating_sub(bytes);
        let compiled = compiled.and_then(PikeVM::new_from_nfa).map_err(|error| {
            if error.size_limit().is_some() {
                let max = MAX_COMPILED_BYTES >> 20;
                format!("the pattern takes more than {max} MiB; repeat less in it")
            } else {
                format!("the pattern can't be compiled: {}", quote(&error.to_string()))
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

/// What matching needs in between; to make it anew each time takes longer than most matches.
#[derive(Default)]
pub(super) struct Scratch(Option<Cache>);

impl Scratch {
    /// Room for matches of this one.
    fn for_pattern(&mut self, compiled: &PikeVM) -> &mut Cache {
        match &mut self.0 {
            Some(cache) => compiled.reset_cache(cache),
            none => *none = Some(compiled.create_cache()),
        }
        self.0.get_or_insert_with(|| compiled.create_cache())
    }
}

impl Pattern {
    /// Whether it matches the whole of a text.
    pub(super) fn is_match(&self, text: &str, scratch: &mut Scratch) -> bool {
        self.compiled.is_match(scratch.for_pattern(&self.compiled), anchored(text))
    }

    /// What its groups hold, if it matches the whole of a text.
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

/// What the groups of a pattern hold.
pub(super) struct Match<'m> {
    text: &'m str,
    groups: Captures,
    names: &'m [Option<String>],
}

impl Match<'_> {
    /// The text of a group, 0 being the whole; empty if there is no such group, or it took no part.
    pub(super) fn group(&self, number: usize) -> &str {
        let span = self.groups.get_group(number);
        span.and_then(|span| self.text.get(span.range())).unwrap_or_default()
    }

    /// The text of the first group of that name that took part.
    pub(super) fn named(&self, name: &str) -> &str {
        let groups = self.names.iter().zip(1..);
        let mut groups = groups.filter(|(other, _)| other.as_deref() == Some(name));
        let found = groups.find(|&(_, number)| self.groups.get_group(number).is_some());
        found.map_or("", |(_, number)| self.group(number))
    }
}
