//! Templates in label values: text with expressions, `rack-{{ env.RACK | default("none") }}`.
//! Parsing finds every error that does not depend on a value; rendering turns [`Values`] into text.
//!
//! The language is Jinja, as implemented by minijinja, with expressions alone: no statements, loops,
//! includes, comments or methods. A template can use the values of every [`Source`], and labels that
//! are defined before its own.

use std::collections::{BTreeMap, BTreeSet};

use minijinja::{
    Environment, Error, ErrorKind, State, UndefinedBehavior, Value, escape_formatter, filters,
    machinery::{self, Span, Token, ast},
    syntax::SyntaxConfig,
    tests as jinja_tests,
    value::{Kwargs, StringInput, ValueKind},
};
use regex::{Regex, RegexBuilder};

use super::{
    cgroup::{CGROUP, CgroupKey, CgroupName, PodMap},
    lookalike, suggest,
    values::{Keys, Reading, Source, Uses, Values},
};

mod cgroup;

pub use cgroup::CgroupRenderer;

/// Maximum size of a template.
const MAX_TEMPLATE_BYTES: usize = 4_096;

/// Maximum size of a rendered text. It exceeds the limit of label values, since rules can still
/// shorten the text.
const MAX_TEXT_BYTES: usize = 1 << 16;

/// Maximum number of steps of rendering. A step is an operation, or 64 bytes of its result: a file of
/// the maximum size takes 1,024 steps in each filter.
const MAX_STEPS: u64 = 20_000;

/// Maximum size of the result of `regex_replace`: that of the largest file.
const MAX_FILTERED_BYTES: usize = 1 << 16;

/// Maximum size of a compiled regular expression.
const MAX_REGEX_BYTES: usize = 1 << 20;

/// The filters, which follow `|`.
const FILTERS: [&str; 8] =
    ["default", "join", "lower", "regex_replace", "replace", "split", "truncate", "upper"];

/// The tests, which follow `is`.
const TESTS: [&str; 2] = ["defined", "undefined"];

/// A valid template: its syntax is correct, and it uses only known names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    text: String,
    /// Whether it has no expressions; then its text is the result.
    literal: bool,
    uses: Uses,
    /// The labels that it uses.
    labels: BTreeSet<String>,
    /// The values of the cgroup that it uses.
    cgroup: BTreeSet<CgroupKey>,
    /// The value, if the template is nothing but this value of the cgroup.
    only: Option<CgroupKey>,
}

/// An error in a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TemplateError {
    /// Its position in the template, in bytes.
    pub offset: usize,
    /// What is wrong, and what to write instead.
    pub message: String,
}

/// Why a template cannot be rendered with certain values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// The text is too long.
    #[error(
        "the text has {0} bytes, {MAX_TEXT_BYTES} at most; shorten it, for example with truncate"
    )]
    TooLong(usize),
    /// Rendering takes too many steps.
    #[error("rendering takes more than {MAX_STEPS} steps; simplify the template")]
    TooManySteps,
    /// An operation fails with these values.
    #[error("{0}")]
    Operation(String),
}

impl Template {
    /// Parses and checks a template. Besides the sources it can use `labels`, by their bare names.
    /// Fails at the first error.
    pub fn parse(text: &str, labels: &BTreeSet<&str>) -> Result<Self, TemplateError> {
        Self::parse_in(text, labels, false)
    }

    /// Parses and checks a template that can also use the values of a cgroup. A [`CgroupRenderer`] renders
    /// it.
    pub fn parse_for_cgroups(text: &str, labels: &BTreeSet<&str>) -> Result<Self, TemplateError> {
        Self::parse_in(text, labels, true)
    }

    fn parse_in(
        text: &str,
        labels: &BTreeSet<&str>,
        has_cgroup: bool,
    ) -> Result<Self, TemplateError> {
        if text.len() > MAX_TEMPLATE_BYTES {
            let length = text.len();
            return Err(error_at(0, format!("has {length} bytes, {MAX_TEMPLATE_BYTES} at most")));
        }
        reject_statements(text)?;
        let mut template = Self { text: text.into(), literal: true, ..Self::default() };
        if !text.contains("{{") {
            return Ok(template);
        }
        template.literal = false;
        let tree =
            machinery::parse(text, "", syntax()).map_err(|error| syntax_error(text, &error))?;
        let mut check = Check { text, known: labels, has_cgroup, found: &mut template };
        check.statement(&tree)?;
        template.only = only_key(&tree).filter(|key| template.cgroup.contains(key));
        template.reject_shadowed_sources()?;
        template.try_rendering()?;
        Ok(template)
    }

    /// The text of the template.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it has no expressions; then its text is the result.
    pub const fn is_literal(&self) -> bool {
        self.literal
    }

    /// The parts of the text that are not expressions, with their offsets in bytes.
    pub fn literals(&self) -> Vec<(usize, &str)> {
        if self.literal {
            return vec![(0, &self.text)];
        }
        let mut literals = Vec::new();
        for token in machinery::tokenize(&self.text, false, syntax()) {
            if let Ok((Token::TemplateData(text), span)) = token {
                literals.push((span.start_offset as usize, text));
            }
        }
        literals
    }

    /// The values that it uses.
    pub const fn uses(&self) -> &Uses {
        &self.uses
    }

    /// The labels that it uses.
    pub const fn labels(&self) -> &BTreeSet<String> {
        &self.labels
    }

    /// The values of the cgroup that it uses.
    pub const fn cgroup(&self) -> &BTreeSet<CgroupKey> {
        &self.cgroup
    }

    /// Renders the text. Returns `None` if a value that it needs is unavailable, or the text is empty.
    pub fn render(
        &self,
        values: &Values,
        labels: &BTreeMap<String, String>,
    ) -> Result<Option<String>, RenderError> {
        if self.literal {
            return check_length(self.text.clone());
        }
        let variables = Value::from(self.variables(values, labels));
        let rendered = environment(values).render_named_str("", &self.text, variables);
        checked(rendered, || self.lacks_a_value(values, labels))
    }

    /// Whether a value that it uses is unavailable.
    fn lacks_a_value(&self, values: &Values, labels: &BTreeMap<String, String>) -> bool {
        for (source, keys) in self.uses.iter() {
            if keys.iter().any(|key| values.get(source, key).is_none()) {
                return true;
            }
        }
        self.labels.iter().any(|name| !labels.contains_key(name))
    }

    /// Rejects the use of a label `os` next to `os.id`: the label would shadow the source.
    fn reject_shadowed_sources(&self) -> Result<(), TemplateError> {
        for (source, _) in self.uses.iter() {
            let name = source.name();
            let first_segment = name.split('.').next().unwrap_or_default();
            if self.labels.contains(first_segment) {
                let message = format!(
                    "the label {first_segment} hides the source {name} here; rename the label"
                );
                return Err(error_at(0, message));
            }
        }
        if !self.cgroup.is_empty() && self.labels.contains(CGROUP) {
            let message = "the label cgroup hides the names of the cgroup here; rename the label";
            return Err(error_at(0, message));
        }
        Ok(())
    }

    /// Returns the variables of the template, except `cgroup`: `env.RACK` is the key `RACK` of a map
    /// `env`, and `node.labels["zone"]` the key `zone` of a map `labels` in a map `node`.
    fn variables(
        &self,
        values: &Values,
        labels: &BTreeMap<String, String>,
    ) -> BTreeMap<&str, Value> {
        let mut root: BTreeMap<&str, Value> = BTreeMap::new();
        // Maps of the sources that share the first segment of their names, like `pod`.
        let mut groups: BTreeMap<&str, BTreeMap<&str, Value>> = BTreeMap::new();
        for (source, keys) in self.uses.iter() {
            let value = match source.keys() {
                Keys::Path => continue,
                Keys::One => values.get(source, "").map_or(Value::UNDEFINED, Value::from),
                Keys::Any | Keys::Fields(_) => {
                    let mut available = BTreeMap::new();
                    for key in keys {
                        if let Some(value) = values.get(source, key) {
                            available.insert(key.as_str(), Value::from(value));
                        }
                    }
                    Value::from(available)
                }
            };
            match source.name().split_once('.') {
                Some((group, name)) => {
                    groups.entry(group).or_default().insert(name, value);
                }
                None => {
                    root.insert(source.name(), value);
                }
            }
        }
        root.extend(groups.into_iter().map(|(group, values)| (group, Value::from(values))));
        for name in &self.labels {
            root.insert(name, labels.get(name).map_or(Value::UNDEFINED, Value::from));
        }
        root
    }

    /// Renders the template once with an invented value for each name. All values are strings, so this
    /// reveals wrong arguments of filters whatever the real values are.
    fn try_rendering(&self) -> Result<(), TemplateError> {
        let invented = |name: &String| (name.clone(), "x".to_owned());
        let values = self
            .uses
            .iter()
            .map(|(source, keys)| (source, Reading::of(keys.iter().map(invented).collect())))
            .collect();
        let labels = self.labels.iter().map(invented).collect();
        let mut variables = self.variables(&values, &labels);
        if !self.cgroup.is_empty() {
            variables.insert(CGROUP, cgroup::variable(&self.cgroup, |_| "x"));
        }
        match environment(&values).render_named_str("", &self.text, Value::from(variables)) {
            Err(error) if error.kind() != ErrorKind::UndefinedError => {
                let offset = error.range().map_or(0, |range| range.start);
                Err(error_at(offset, describe(&error)))
            }
            _ => Ok(()),
        }
    }
}

/// Checks what the engine returned. Not every operation reports an undefined value as such, so
/// `lacks_a_value` says whether there is one.
fn checked(
    rendered: Result<String, Error>,
    lacks_a_value: impl FnOnce() -> bool,
) -> Result<Option<String>, RenderError> {
    match rendered {
        Ok(text) => check_length(text),
        Err(error) => match error.kind() {
            ErrorKind::UndefinedError => Ok(None),
            ErrorKind::OutOfFuel => Err(RenderError::TooManySteps),
            _ if lacks_a_value() => Ok(None),
            _ => Err(RenderError::Operation(describe(&error))),
        },
    }
}

/// Rejects a text that is too long. An empty text is `None`.
fn check_length(text: String) -> Result<Option<String>, RenderError> {
    match text.len() {
        0 => Ok(None),
        1..=MAX_TEXT_BYTES => Ok(Some(text)),
        length => Err(RenderError::TooLong(length)),
    }
}

/// Returns the value of the cgroup that is all of a template, as in `{{ cgroup.unit }}`.
fn only_key(tree: &ast::Stmt<'_>) -> Option<CgroupKey> {
    let ast::Stmt::Template(template) = tree else { return None };
    let [ast::Stmt::EmitExpr(emit)] = template.children.as_slice() else { return None };
    match path(&emit.expr)?.0.as_slice() {
        [CGROUP, rest @ ..] => CgroupKey::from_path(rest),
        _ => None,
    }
}

fn error_at(offset: usize, message: impl Into<String>) -> TemplateError {
    TemplateError { offset, message: message.into() }
}

/// Describes a syntax error, and what may have caused it.
fn syntax_error(text: &str, error: &Error) -> TemplateError {
    let offset = error.range().map_or(0, |range| range.start);
    let rest = text.get(offset..).unwrap_or_default();
    let mut message = describe(error);
    if rest.starts_with(['.', '$']) {
        message.push_str("; write names without . or $ before them, like hostname and env.NAME");
    } else if let Some(found) = lookalike::find(rest).filter(|found| found.offset == 0) {
        message.extend([": ", &found.name, "; ", found.advice]);
    }
    error_at(offset, message)
}

/// Formats an error of minijinja on one line.
fn describe(error: &Error) -> String {
    match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => RenderError::TooManySteps.to_string(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    }
}

/// Rejects statements and comments. The syntax tree lacks comments and raw blocks, so this scans the
/// tokens and the text between them.
fn reject_statements(text: &str) -> Result<(), TemplateError> {
    let reject = |offset: usize| {
        let opening = &text[offset..offset + 2];
        let what = if opening == "{%" { "statements" } else { "comments" };
        Err(error_at(
            offset,
            format!(
                "has no {what}, only {{{{ … }}}}; for the text {opening} write {{{{ \"{opening}\" }}}}"
            ),
        ))
    };
    // Finds a comment or raw block in a range that no token covers.
    let find_opening = |from: usize, to: usize| {
        let gap = text.get(from..to).unwrap_or_default();
        let offset = ["{%", "{#"].iter().filter_map(|opening| gap.find(opening)).min()?;
        Some(from + offset)
    };
    let mut end = 0;
    let mut in_expression = false;
    for token in machinery::tokenize(text, false, syntax()) {
        let Ok((token, span)) = token else { break };
        let start = span.start_offset as usize;
        if !in_expression && let Some(offset) = find_opening(end, start) {
            return reject(offset);
        }
        match token {
            Token::BlockStart => return reject(start),
            Token::VariableStart => in_expression = true,
            Token::VariableEnd => in_expression = false,
            _ => {}
        }
        end = span.end_offset as usize;
    }
    if !in_expression && let Some(offset) = find_opening(end, text.len()) {
        return reject(offset);
    }
    Ok(())
}

/// Walks the syntax tree: rejects unknown names, and records the names that are used.
struct Check<'t> {
    text: &'t str,
    /// The labels that the template can use.
    known: &'t BTreeSet<&'t str>,
    /// Whether it can use the names of a cgroup.
    has_cgroup: bool,
    /// Receives the names that are used.
    found: &'t mut Template,
}

impl Check<'_> {
    fn statement(&mut self, statement: &ast::Stmt<'_>) -> Result<(), TemplateError> {
        match statement {
            ast::Stmt::Template(template) => {
                template.children.iter().try_for_each(|child| self.statement(child))
            }
            ast::Stmt::EmitRaw(_) => Ok(()),
            ast::Stmt::EmitExpr(emit) => self.expression(&emit.expr),
            // `reject_statements` has rejected statements already.
            _ => Err(error_at(0, "has a statement; write only {{ … }}")),
        }
    }

    fn expressions<'e, 's: 'e>(
        &mut self,
        expressions: impl IntoIterator<Item = &'e ast::Expr<'s>>,
    ) -> Result<(), TemplateError> {
        expressions.into_iter().try_for_each(|expression| self.expression(expression))
    }

    fn expression(&mut self, expression: &ast::Expr<'_>) -> Result<(), TemplateError> {
        if let Some((path, offset)) = path(expression) {
            return self.name(&path, offset);
        }
        match expression {
            ast::Expr::Var(_) | ast::Expr::Const(_) => Ok(()),
            ast::Expr::Slice(slice) => {
                self.expression(&slice.expr)?;
                self.expressions([&slice.start, &slice.stop, &slice.step].into_iter().flatten())
            }
            ast::Expr::UnaryOp(operation) => self.expression(&operation.expr),
            ast::Expr::BinOp(operation) => self.expressions([&operation.left, &operation.right]),
            ast::Expr::Compare(compare) => {
                self.expression(&compare.expr)?;
                self.expressions(compare.ops.iter().map(|operand| &operand.expr))
            }
            ast::Expr::IfExpr(choice) => {
                self.expressions([&choice.test_expr, &choice.true_expr])?;
                self.expressions(&choice.false_expr)
            }
            ast::Expr::Filter(filter) => {
                self.expressions(&filter.expr)?;
                self.filter(filter, expression.span())
            }
            ast::Expr::Test(test) => {
                self.expression(&test.expr)?;
                known("test", test.name, &TESTS, self.offset_of(test.name, expression.span()))?;
                self.arguments(&test.args)
            }
            ast::Expr::GetItem(item) => self.expressions([&item.expr, &item.subscript_expr]),
            ast::Expr::GetAttr(attribute) => {
                let message = format!("a string has no fields; remove .{}", attribute.name);
                Err(error_at(self.offset_of(attribute.name, expression.span()), message))
            }
            ast::Expr::Call(call) => self.call(call, expression.span()),
            ast::Expr::List(list) => self.expressions(&list.items),
            ast::Expr::Tuple(tuple) => self.expressions(&tuple.items),
            ast::Expr::Map(map) => self.expressions(map.keys.iter().chain(&map.values)),
        }
    }

    fn arguments(&mut self, arguments: &[ast::CallArg<'_>]) -> Result<(), TemplateError> {
        self.expressions(arguments.iter().map(|argument| match argument {
            ast::CallArg::Pos(value)
            | ast::CallArg::Kwarg(_, value)
            | ast::CallArg::PosSplat(value)
            | ast::CallArg::KwargSplat(value) => value,
        }))
    }

    fn filter(&mut self, filter: &ast::Filter<'_>, span: Span) -> Result<(), TemplateError> {
        let offset = self.offset_of(filter.name, span);
        known("filter", filter.name, &FILTERS, offset)?;
        if filter.name == "regex_replace" {
            let Some(ast::CallArg::Pos(ast::Expr::Const(pattern))) = filter.args.first() else {
                return Err(error_at(offset, "regex_replace needs a pattern in quotes"));
            };
            let pattern = pattern.value.as_str().unwrap_or_default();
            regex(pattern).map_err(|message| error_at(offset, message))?;
        }
        self.arguments(&filter.args)
    }

    fn call(&mut self, call: &ast::Call<'_>, span: Span) -> Result<(), TemplateError> {
        let offset = span.start_offset as usize;
        match call.identify_call() {
            ast::CallType::Function("env") => {
                return Err(error_at(offset, "env is not a function; write env.NAME"));
            }
            ast::CallType::Function(name) => known("function", name, &["file"], offset)?,
            ast::CallType::Method(_, name) => {
                let message = format!("there are no methods; use a filter for {name}");
                return Err(error_at(self.offset_of(name, span), message));
            }
            ast::CallType::Object(_) => {
                return Err(error_at(offset, "only file(\"/path\") can be called"));
            }
        }
        match call.args.as_slice() {
            [ast::CallArg::Pos(ast::Expr::Const(path))] => match path.value.as_str() {
                Some(path) if path.starts_with('/') => {
                    self.found.uses.insert(Source::File, path);
                    Ok(())
                }
                _ => Err(error_at(offset, "file needs an absolute path, as file(\"/path\")")),
            },
            _ => Err(error_at(offset, "file needs one path in quotes, as file(\"/path\")")),
        }
    }

    /// Checks a name, which must be that of a label or of a source's value, and records its use.
    fn name(&mut self, path: &[&str], offset: usize) -> Result<(), TemplateError> {
        if let [name] = path
            && self.known.contains(name)
        {
            self.found.labels.insert((*name).into());
            return Ok(());
        }
        if let [CGROUP, rest @ ..] = path {
            return self.cgroup_key(path, rest, offset);
        }
        let Some((source, rest)) = split_source(path) else {
            return Err(error_at(offset, self.unknown_name(path)));
        };
        let name = source.name();
        let key = match (source.keys(), rest) {
            (Keys::One, []) => "",
            (Keys::One, [field, ..]) => {
                return Err(error_at(
                    offset,
                    format!("{name} is a string and has no field {field}"),
                ));
            }
            (Keys::Any, [key]) => key,
            (Keys::Any, []) if source == Source::Env => {
                return Err(error_at(offset, "env needs a name, as env.NAME"));
            }
            (Keys::Any, []) => {
                return Err(error_at(
                    offset,
                    format!("{name} needs a name, as {name}[\"example\"]"),
                ));
            }
            (Keys::Any, [key, field, ..]) => {
                let message = format!("{name}[\"{key}\"] is a string and has no field {field}");
                return Err(error_at(offset, message));
            }
            (Keys::Fields(fields), [field]) if fields.contains(field) => field,
            (Keys::Fields(_), _) => return Err(error_at(offset, self.unknown_name(path))),
            (Keys::Path, _) => {
                return Err(error_at(offset, "file needs a path, as file(\"/path\")"));
            }
        };
        self.found.uses.insert(source, key);
        Ok(())
    }

    /// Checks what follows `cgroup.`, and records its use.
    fn cgroup_key(
        &mut self,
        path: &[&str],
        rest: &[&str],
        offset: usize,
    ) -> Result<(), TemplateError> {
        if !self.has_cgroup {
            let message = format!("{} has a value only in cgroups.labels", path.join("."));
            return Err(error_at(offset, message));
        }
        if let Some(key) = CgroupKey::from_path(rest) {
            self.found.cgroup.insert(key);
            return Ok(());
        }
        let map = |field: &str| PodMap::ALL.into_iter().find(|map| map.field() == field);
        let message = match rest {
            [] => format!("cgroup needs a name, as {}", CgroupName::Unit.in_templates()),
            ["pod", field, more @ ..] if let Some(map) = map(field) => {
                let map = map.in_templates();
                match more {
                    [key, field, ..] => {
                        format!("{map}[\"{key}\"] is a string and has no field {field}")
                    }
                    _ => format!("{map} needs a name, as {map}[\"example\"]"),
                }
            }
            [name, field, ..] if let Some(name) = CgroupName::from_field(name) => {
                format!("{} is a string and has no field {field}", name.in_templates())
            }
            _ => self.unknown_name(path),
        };
        Err(error_at(offset, message))
    }

    /// Writes the message for an unknown name: it suggests the nearest known name, or lists all.
    fn unknown_name(&self, path: &[&str]) -> String {
        let written = path.join(".");
        // Any key may follow the name of a map: compare the name alone.
        let stem = path.split_last().map_or_else(String::new, |(_, stem)| stem.join("."));
        let mut candidates = Vec::new();
        for source in Source::ALL {
            match source.keys() {
                Keys::One => candidates.push((written.as_str(), source.name().to_owned())),
                Keys::Fields(_) => {
                    candidates.extend(fields(source).into_iter().map(|it| (written.as_str(), it)));
                }
                Keys::Any => candidates.push((stem.as_str(), source.name().to_owned())),
                Keys::Path => {}
            }
        }
        candidates.extend(self.known.iter().map(|name| (written.as_str(), (*name).to_owned())));
        let mut of_cgroup = Vec::new();
        if self.has_cgroup {
            of_cgroup.extend(CgroupName::ALL.map(CgroupName::in_templates));
            candidates.extend(of_cgroup.iter().map(|name| (written.as_str(), name.clone())));
            let maps = PodMap::ALL.map(PodMap::in_templates);
            candidates.extend(maps.iter().map(|name| (stem.as_str(), name.clone())));
            of_cgroup.extend(maps);
        }
        let is_variable = written.chars().all(|c| c == '_' || c.is_ascii_uppercase());
        let advice = suggest::nearest(candidates).unwrap_or_else(|| {
            if is_variable {
                return format!("for the environment variable, write env.{written}");
            }
            let source = Source::ALL.into_iter().find(|source| source.name() == path[0]);
            let mut names = source.map(fields).unwrap_or_default();
            if path[0] == CGROUP {
                names.extend(of_cgroup);
            } else if names.is_empty() {
                names.extend(Source::ALL.map(|source| source.name().to_owned()));
                names.extend(self.known.iter().map(|name| (*name).to_owned()));
                names.extend(of_cgroup);
            }
            format!("write one of {}", names.join(", "))
        });
        format!("unknown name {written}; {advice}")
    }

    /// Returns the offset of `part` in the template, or that of `span` if `part` is not a slice of it.
    fn offset_of(&self, part: &str, span: Span) -> usize {
        let offset = (part.as_ptr() as usize).wrapping_sub(self.text.as_ptr() as usize);
        if offset < self.text.len() { offset } else { span.start_offset as usize }
    }
}

/// Splits a path into a source and the rest: `node.labels["zone"]` into `node.labels` and `zone`.
fn split_source<'p, 'e>(path: &'p [&'e str]) -> Option<(Source, &'p [&'e str])> {
    for source in Source::ALL {
        let name: Vec<_> = source.name().split('.').collect();
        if let Some(rest) = path.strip_prefix(name.as_slice()) {
            return Some((source, rest));
        }
    }
    None
}

/// Returns the segments of a name and its position: `a`, `b` and `c` for `a.b["c"]`. Returns `None`
/// for any other expression.
fn path<'e>(expression: &'e ast::Expr<'_>) -> Option<(Vec<&'e str>, usize)> {
    let (inner, last) = match expression {
        ast::Expr::Var(variable) => {
            return Some((vec![variable.id], variable.span().start_offset as usize));
        }
        ast::Expr::GetAttr(attribute) => (&attribute.expr, attribute.name),
        ast::Expr::GetItem(item) => match &item.subscript_expr {
            ast::Expr::Const(key) => (&item.expr, key.value.as_str()?),
            _ => return None,
        },
        _ => return None,
    };
    let (mut path, offset) = path(inner)?;
    path.push(last);
    Some((path, offset))
}

/// Rejects a name that is not in `known`.
fn known(kind: &str, name: &str, known: &[&str], offset: usize) -> Result<(), TemplateError> {
    if known.contains(&name) {
        return Ok(());
    }
    let advice = suggest::one_of(name, known);
    Err(error_at(offset, format!("unknown {kind} {name}; {advice}")))
}

/// Returns the full names of a source's fields; empty for a source without fixed fields.
fn fields(source: Source) -> Vec<String> {
    match source.keys() {
        Keys::Fields(fields) => {
            fields.iter().map(|field| format!("{}.{field}", source.name())).collect()
        }
        Keys::One | Keys::Any | Keys::Path => Vec::new(),
    }
}

/// Jinja's syntax, but a newline at the end of a template is kept.
fn syntax() -> SyntaxConfig {
    let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
    syntax.expect("the delimiters are Jinja's own")
}

/// Builds the environment: filters, tests, and the function `file` with the files of `values`.
fn environment<'s>(values: &Values) -> Environment<'s> {
    let mut environment = Environment::empty();
    environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
    environment.set_syntax(syntax());
    environment.set_fuel(Some(MAX_STEPS));
    environment.set_formatter(|output, state, value| match value.kind() {
        ValueKind::Undefined | ValueKind::None => Ok(()),
        ValueKind::Bool | ValueKind::Number | ValueKind::String => {
            escape_formatter(output, state, value)
        }
        kind => Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("cannot print a {kind}; select one item or use join"),
        )),
    });
    environment.add_filter("default", filters::default);
    environment.add_filter("join", join);
    environment.add_filter("lower", filters::lower);
    environment.add_filter("regex_replace", regex_replace);
    environment.add_filter("replace", filters::replace);
    environment.add_filter("split", filters::split);
    environment.add_filter("truncate", truncate);
    environment.add_filter("upper", filters::upper);
    environment.add_test("defined", jinja_tests::is_defined);
    environment.add_test("undefined", jinja_tests::is_undefined);
    let files = values.readings().find(|(source, _)| *source == Source::File);
    let files = files.map(|(_, reading)| reading.values.clone()).unwrap_or_default();
    environment.add_function("file", move |path: &str| {
        files.get(path).map_or(Value::UNDEFINED, Value::from)
    });
    environment
}

/// Jinja's `join`, except that an unavailable item makes the result unavailable.
fn join(
    state: &mut State<'_, '_>,
    items: &Value,
    joiner: Option<StringInput<'_>>,
    named: Kwargs,
) -> Result<Value, Error> {
    if items.try_iter().is_ok_and(|mut items| items.any(|item| item.is_undefined())) {
        return Err(ErrorKind::UndefinedError.into());
    }
    filters::join(state, items, joiner, None, named)
}

fn regex(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(pattern).size_limit(MAX_REGEX_BYTES).build().map_err(|error| {
        // The last line is the reason; those above show the position.
        let error = error.to_string();
        let reason = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
        format!("regex_replace: `{pattern}` is not a regular expression: {reason}")
    })
}

/// Replaces every match of a regular expression. `$1` and `${name}` are groups.
fn regex_replace(text: &str, pattern: &str, replacement: &str) -> Result<String, Error> {
    let invalid = |message| Error::new(ErrorKind::InvalidOperation, message);
    let regex = regex(pattern).map_err(invalid)?;
    let mut replaced = String::new();
    let mut end = 0;
    for captures in regex.captures_iter(text) {
        let matched = captures.get_match();
        replaced.push_str(&text[end..matched.start()]);
        captures.expand(replacement, &mut replaced);
        end = matched.end();
        if replaced.len() > MAX_FILTERED_BYTES {
            let message = format!("regex_replace returns more than {MAX_FILTERED_BYTES} bytes");
            return Err(invalid(message));
        }
    }
    replaced.push_str(&text[end..]);
    Ok(replaced)
}

/// Jinja's `truncate`. Text that exceeds `length` characters by at most `leeway` stays; other text is
/// cut at a word, or anywhere with `killwords`, and `end` is appended.
/// <https://jinja.palletsprojects.com/en/stable/templates/#jinja-filters.truncate>
#[expect(clippy::needless_pass_by_value, reason = "the engine passes it by value")]
fn truncate(
    text: &str,
    length: Option<usize>,
    killwords: Option<bool>,
    end: Option<&str>,
    named: Kwargs,
) -> Result<String, Error> {
    let length = length.or(named.get("length")?).unwrap_or(255);
    let killwords = killwords.or(named.get("killwords")?).unwrap_or(false);
    let end = end.or(named.get("end")?).unwrap_or("...");
    let leeway = named.get::<Option<usize>>("leeway")?.unwrap_or(5);
    named.assert_all_used()?;
    let Some(kept) = length.checked_sub(end.chars().count()) else {
        let message = format!("truncate: length {length} is less than that of `{end}`, its end");
        return Err(Error::new(ErrorKind::InvalidOperation, message));
    };
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(text.into());
    }
    let kept = text.char_indices().nth(kept).map_or(text, |(offset, _)| &text[..offset]);
    let kept =
        if killwords { kept } else { kept.rsplit_once(' ').map_or(kept, |(words, _)| words) };
    Ok(format!("{kept}{end}"))
}

#[cfg(test)]
mod tests;
