//! Templates in label values: text with expressions, `rack-{{ env.RACK | default("none") }}`.
//! Parsing finds every mistake that does not depend on a value; rendering makes text of [`Values`].
//! Pure.
//!
//! The language is Jinja's, as minijinja speaks it, with expressions alone: no statements, loops,
//! includes or comments, and no methods. What it can name is listed by [`Source`], and the labels
//! that are made before its own.

use std::collections::{BTreeMap, BTreeSet};

use minijinja::{
    Environment, Error, ErrorKind, State, UndefinedBehavior, Value, escape_formatter, filters,
    machinery::{self, Span, Token, ast},
    syntax::SyntaxConfig,
    tests as jinja_tests,
    value::{Kwargs, StringInput, ValueKind},
};
use regex::{Regex, RegexBuilder};

use super::values::{Keys, Reading, Source, Uses, Values};

/// Size of the longest template.
const MAX_TEMPLATE_BYTES: usize = 4_096;

/// Size of the longest text that a template may give. What is too long for a label is shortened by
/// rules, or by the limits of the configuration.
const MAX_TEXT_BYTES: usize = 1 << 16;

/// Steps that rendering may take, where a step is an operation or 64 bytes made by one. A file of
/// the largest size takes 1,024 through each filter.
const MAX_STEPS: u64 = 20_000;

/// Size of the largest text between filters: that of the largest file.
const MAX_FILTERED_BYTES: usize = 1 << 16;

/// Size of the largest compiled regular expression.
const MAX_REGEX_BYTES: usize = 1 << 20;

/// What may stand behind `|`.
const FILTERS: [&str; 8] =
    ["default", "join", "lower", "regex_replace", "replace", "split", "truncate", "upper"];

/// What may stand behind `is`.
const TESTS: [&str; 2] = ["defined", "undefined"];

/// A template without syntax errors that names only what is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    text: String,
    /// It has no expression: it stands for itself.
    literal: bool,
    uses: Uses,
    /// The labels that it names.
    labels: BTreeSet<String>,
}

/// A mistake in a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TemplateError {
    /// Where in the template it begins, in bytes.
    pub offset: usize,
    /// What it is, and what to do.
    pub message: String,
}

/// Why a template gives no text with certain values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// The text would be too long.
    #[error(
        "the text has {0} bytes, {MAX_TEXT_BYTES} at most; shorten it, for example by truncate"
    )]
    TooLong(usize),
    /// Rendering does not end soon.
    #[error("rendering takes more than {MAX_STEPS} steps; make it simpler")]
    TooManySteps,
    /// An operation can't be done with these values.
    #[error("{0}")]
    Operation(String),
}

impl Template {
    /// Checks a template that can name these labels, by their bare names, beside the sources. Fails
    /// at its first mistake.
    pub fn parse(text: &str, labels: &BTreeSet<&str>) -> Result<Self, TemplateError> {
        if text.len() > MAX_TEMPLATE_BYTES {
            let length = text.len();
            return Err(error_at(0, format!("has {length} bytes, {MAX_TEMPLATE_BYTES} at most")));
        }
        refuse_statements(text)?;
        let mut template = Self {
            text: text.into(),
            literal: true,
            uses: Uses::default(),
            labels: BTreeSet::new(),
        };
        if !text.contains("{{") {
            return Ok(template);
        }
        template.literal = false;
        let tree = machinery::parse(text, "", syntax()).map_err(|error| {
            let offset = error.range().map_or(0, |range| range.start);
            error_at(offset, describe(&error))
        })?;
        let (uses, named) = (&mut template.uses, &mut template.labels);
        Check { text, known: labels, uses, named }.statement(&tree)?;
        template.refuse_confusion()?;
        template.try_out()?;
        Ok(template)
    }

    /// What it is written as.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it has no expression, and so stands for itself.
    pub const fn is_literal(&self) -> bool {
        self.literal
    }

    /// The values it names.
    pub const fn uses(&self) -> &Uses {
        &self.uses
    }

    /// The labels it names.
    pub const fn labels(&self) -> &BTreeSet<String> {
        &self.labels
    }

    /// The text, or none where a value that it needs can't be had, or nothing is left to print.
    pub fn render(
        &self,
        values: &Values,
        labels: &BTreeMap<String, String>,
    ) -> Result<Option<String>, RenderError> {
        let text = if self.literal {
            self.text.clone()
        } else {
            let context = self.context(values, labels);
            match environment(values).render_named_str("", &self.text, context) {
                Ok(text) => text,
                Err(error) => match error.kind() {
                    ErrorKind::UndefinedError => return Ok(None),
                    ErrorKind::OutOfFuel => return Err(RenderError::TooManySteps),
                    // Not every operation says that it was given nothing.
                    _ if self.lacks(values, labels) => return Ok(None),
                    _ => return Err(RenderError::Operation(describe(&error))),
                },
            }
        };
        match text.len() {
            0 => Ok(None),
            1..=MAX_TEXT_BYTES => Ok(Some(text)),
            length => Err(RenderError::TooLong(length)),
        }
    }

    /// Whether a value that it names can't be had.
    fn lacks(&self, values: &Values, labels: &BTreeMap<String, String>) -> bool {
        let missing = |(source, keys): (_, &BTreeSet<String>)| {
            keys.iter().any(|key| values.get(source, key).is_none())
        };
        self.uses.iter().any(missing) || self.labels.iter().any(|name| !labels.contains_key(name))
    }

    /// `os` as a label and `os.id` can't stand side by side.
    fn refuse_confusion(&self) -> Result<(), TemplateError> {
        let first = |source: Source| source.name().split('.').next().unwrap_or_default();
        let confused = self.uses.iter().find(|(source, _)| self.labels.contains(first(*source)));
        let Some((source, _)) = confused else { return Ok(()) };
        let (label, name) = (first(source), source.name());
        let message = format!("{label} is a label here, which {name} can't be beside; rename it");
        Err(error_at(0, message))
    }

    /// The values in the form in which templates name them.
    fn context(&self, values: &Values, labels: &BTreeMap<String, String>) -> Value {
        let mut root: BTreeMap<&str, Value> = BTreeMap::new();
        // Two sources may share the first segment of their names.
        let mut groups: BTreeMap<&str, BTreeMap<&str, Value>> = BTreeMap::new();
        for (source, keys) in self.uses.iter() {
            let value = match source.keys() {
                Keys::Path => continue,
                Keys::One => values.get(source, "").map_or(Value::UNDEFINED, Value::from),
                Keys::Any | Keys::Fields(_) => {
                    let had =
                        |key: &String| Some((key.clone(), values.get(source, key)?.to_owned()));
                    Value::from(keys.iter().filter_map(had).collect::<BTreeMap<_, _>>())
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
        Value::from(root)
    }

    /// Renders it with every value at hand. That a filter is given too much or the wrong thing does
    /// not depend on the value, since all of them are texts.
    fn try_out(&self) -> Result<(), TemplateError> {
        let readings = self.uses.iter().map(|(source, keys)| {
            (source, Reading::of(keys.iter().map(|key| (key.clone(), "x".into())).collect()))
        });
        let values = readings.collect();
        let labels = self.labels.iter().map(|name| (name.clone(), "x".into())).collect();
        let context = self.context(&values, &labels);
        match environment(&values).render_named_str("", &self.text, context) {
            Err(error) if error.kind() != ErrorKind::UndefinedError => {
                let offset = error.range().map_or(0, |range| range.start);
                Err(error_at(offset, describe(&error)))
            }
            _ => Ok(()),
        }
    }
}

fn error_at(offset: usize, message: impl Into<String>) -> TemplateError {
    TemplateError { offset, message: message.into() }
}

/// What minijinja has to say, in one sentence.
fn describe(error: &Error) -> String {
    match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => RenderError::TooManySteps.to_string(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    }
}

/// Statements and comments, which the syntax tree no longer shows as they are written.
fn refuse_statements(text: &str) -> Result<(), TemplateError> {
    let refuse = |offset: usize| {
        let opening = &text[offset..offset + 2];
        let what = if opening == "{%" { "statements" } else { "comments" };
        Err(error_at(
            offset,
            format!(
                "has no {what}, only {{{{ … }}}}; for the text {opening} write {{{{ \"{opening}\" }}}}"
            ),
        ))
    };
    let outside = |from: usize, to: usize| {
        let gap = text.get(from..to).unwrap_or_default();
        ["{%", "{#"].iter().filter_map(|opening| gap.find(opening)).min().map(|at| from + at)
    };
    // A piece that the tokens leave out is a comment, a raw block or white space.
    let (mut end, mut in_expression) = (0, false);
    for token in machinery::tokenize(text, false, syntax()) {
        let Ok((token, span)) = token else { break };
        let start = span.start_offset as usize;
        if !in_expression && let Some(offset) = outside(end, start) {
            return refuse(offset);
        }
        match token {
            Token::BlockStart => return refuse(start),
            Token::VariableStart => in_expression = true,
            Token::VariableEnd => in_expression = false,
            _ => {}
        }
        end = span.end_offset as usize;
    }
    if !in_expression && let Some(offset) = outside(end, text.len()) {
        return refuse(offset);
    }
    Ok(())
}

/// Walks the syntax tree, refuses what is not known and notes what is used.
struct Check<'t> {
    text: &'t str,
    /// The labels that can be named.
    known: &'t BTreeSet<&'t str>,
    uses: &'t mut Uses,
    /// Those that are.
    named: &'t mut BTreeSet<String>,
}

impl Check<'_> {
    fn statement(&mut self, statement: &ast::Stmt<'_>) -> Result<(), TemplateError> {
        match statement {
            ast::Stmt::Template(template) => {
                template.children.iter().try_for_each(|child| self.statement(child))
            }
            ast::Stmt::EmitRaw(_) => Ok(()),
            ast::Stmt::EmitExpr(emit) => self.expression(&emit.expr),
            // Refused before.
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
                let message = format!("a text has no fields; .{} can't be had", attribute.name);
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
                    self.uses.insert(Source::File, path);
                    Ok(())
                }
                _ => Err(error_at(offset, "file needs an absolute path, as file(\"/path\")")),
            },
            _ => Err(error_at(offset, "file needs one path in quotes, as file(\"/path\")")),
        }
    }

    /// A name must be a label, or one of a source's values.
    fn name(&mut self, path: &[&str], offset: usize) -> Result<(), TemplateError> {
        if let [name] = path
            && self.known.contains(name)
        {
            self.named.insert((*name).into());
            return Ok(());
        }
        let of = |source: &Source| {
            let name: Vec<_> = source.name().split('.').collect();
            path.starts_with(&name).then_some(name.len())
        };
        let found = Source::ALL.into_iter().find_map(|source| Some((source, of(&source)?)));
        let Some((source, length)) = found else {
            return Err(error_at(offset, self.unknown_name(path)));
        };
        let name = source.name();
        let key = match (source.keys(), &path[length..]) {
            (Keys::One, []) => "",
            (Keys::One, [field, ..]) => {
                return Err(error_at(offset, format!("{name} is a text and has no {field}")));
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
                let message = format!("{name}[\"{key}\"] is a text and has no {field}");
                return Err(error_at(offset, message));
            }
            (Keys::Fields(fields), [field]) if fields.contains(field) => field,
            (Keys::Fields(_), _) => return Err(error_at(offset, self.unknown_name(path))),
            (Keys::Path, _) => {
                return Err(error_at(offset, "file needs a path, as file(\"/path\")"));
            }
        };
        self.uses.insert(source, key);
        Ok(())
    }

    /// The message for a name that is no label and no source has.
    fn unknown_name(&self, path: &[&str]) -> String {
        let written = path.join(".");
        // The key of a map is free.
        let stem = path.split_last().map_or_else(String::new, |(_, stem)| stem.join("."));
        let candidates = Source::ALL.into_iter().flat_map(|source| match source.keys() {
            Keys::One => vec![(written.as_str(), source.name().to_owned())],
            Keys::Fields(_) => {
                fields(source).into_iter().map(|name| (written.as_str(), name)).collect()
            }
            Keys::Any => vec![(stem.as_str(), source.name().to_owned())],
            Keys::Path => Vec::new(),
        });
        let labels = self.known.iter().map(|name| (written.as_str(), (*name).to_owned()));
        let advice = nearest(candidates.chain(labels)).unwrap_or_else(|| {
            let source = Source::ALL.into_iter().find(|source| source.name() == path[0]);
            let fields = source.map(fields).unwrap_or_default();
            let names = Source::ALL.iter().map(|source| -> &str { source.name() });
            let names: Vec<_> = names.chain(self.known.iter().copied()).collect();
            let names = if fields.is_empty() { names.join(", ") } else { fields.join(", ") };
            format!("write one of {names}")
        });
        format!("unknown name {written}; {advice}")
    }

    /// Where a part of the template stands, if it is one.
    fn offset_of(&self, part: &str, span: Span) -> usize {
        let offset = (part.as_ptr() as usize).wrapping_sub(self.text.as_ptr() as usize);
        if offset < self.text.len() { offset } else { span.start_offset as usize }
    }
}

/// The segments of `a.b["c"]`, and where it begins; none for another expression.
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

fn known(kind: &str, name: &str, known: &[&str], offset: usize) -> Result<(), TemplateError> {
    if known.contains(&name) {
        return Ok(());
    }
    let advice = nearest(known.iter().map(|known| (name, (*known).to_owned())))
        .unwrap_or_else(|| format!("write one of {}", known.join(", ")));
    Err(error_at(offset, format!("unknown {kind} {name}; {advice}")))
}

/// The full names of a source's fields.
fn fields(source: Source) -> Vec<String> {
    match source.keys() {
        Keys::Fields(fields) => {
            fields.iter().map(|field| format!("{}.{field}", source.name())).collect()
        }
        _ => Vec::new(),
    }
}

/// Asks for the name that is a slip of the pen away from what is written beside it.
fn nearest<'w>(names: impl Iterator<Item = (&'w str, String)>) -> Option<String> {
    /// Letters that a slip changes.
    const SLIP: usize = 2;
    let distances = names.map(|(written, name)| (strsim::osa_distance(written, &name), name));
    let (_, name) = distances.min().filter(|(distance, _)| *distance <= SLIP)?;
    Some(format!("did you mean {name}?"))
}

/// Jinja drops a newline at the end; a template stands for exactly what is written.
fn syntax() -> SyntaxConfig {
    let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
    syntax.expect("the delimiters are Jinja's own")
}

/// The language, with the files of `values`.
fn environment(values: &Values) -> Environment<'static> {
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
            format!("a {kind} is no text; pick one of it, or join it"),
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

/// Jinja's, but for an item that can't be had: then there is no text either.
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
        // The last line says what is wrong; those above show where.
        let error = error.to_string();
        let reason = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
        format!("regex_replace: `{pattern}` is not a regular expression: {reason}")
    })
}

/// Replaces every match of a regular expression; `$1` and `${name}` are its groups.
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
            let message = format!("regex_replace makes more than {MAX_FILTERED_BYTES} bytes");
            return Err(invalid(message));
        }
    }
    replaced.push_str(&text[end..]);
    Ok(replaced)
}

/// Jinja's own, in characters: text that is not more than `leeway` too long stays; other text is cut
/// at a word, or anywhere with `killwords`, and `end` added.
/// <https://jinja.palletsprojects.com/en/stable/templates/#jinja-filters.truncate>
#[expect(clippy::needless_pass_by_value, reason = "the engine hands it over")]
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
        let message = format!("truncate: length {length} is less than that of the end `{end}`");
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
