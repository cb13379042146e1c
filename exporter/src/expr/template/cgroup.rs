//! Renders templates for one cgroup after another. Everything that does not depend on the cgroup is
//! prepared once.

use std::{
    borrow::Cow,
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
};

use minijinja::{Environment, Error, State, Value, filters, value::Rest};

use super::{RenderError, Template, checked, environment};
use crate::expr::{
    cgroup::{CGROUP, CgroupKey, CgroupNames, PodMap},
    values::Values,
};

/// Templates prepared with the values of a host.
#[derive(Debug)]
pub struct CgroupRenderer<'t> {
    environment: Environment<'t>,
    templates: Vec<Prepared<'t>>,
    /// The values of a cgroup that templates of the last kind use.
    keys: BTreeSet<CgroupKey>,
}

#[derive(Debug)]
enum Prepared<'t> {
    /// A text that is the same for all cgroups.
    Same(Result<Option<String>, RenderError>),
    /// A value of the cgroup, and nothing else.
    Only(&'t CgroupKey),
    /// Any other template.
    Other {
        template: &'t Template,
        /// The variables, except `cgroup`.
        variables: BTreeMap<&'t str, Value>,
        lacks_a_value: bool,
    },
}

impl<'t> CgroupRenderer<'t> {
    /// Prepares templates with the values and labels of a host.
    pub fn new(
        templates: impl IntoIterator<Item = &'t Template>,
        values: &Values,
        labels: &BTreeMap<String, String>,
    ) -> Self {
        let mut environment = environment(values);
        environment.add_filter("default", default);
        let mut keys = BTreeSet::new();
        let mut prepare = |template: &'t Template| {
            if let Some(key) = &template.only {
                return Prepared::Only(key);
            }
            if template.cgroup.is_empty() {
                return Prepared::Same(template.render(values, labels));
            }
            keys.extend(template.cgroup.iter().cloned());
            // Compiles the text, which is its own name. If this failed, so would parsing it have.
            let _ = environment.add_template(&template.text, &template.text);
            Prepared::Other {
                template,
                variables: template.variables(values, labels),
                lacks_a_value: template.lacks_a_value(values, labels),
            }
        };
        let templates = templates.into_iter().map(&mut prepare).collect();
        Self { environment, templates, keys }
    }

    /// Renders the templates for a cgroup, in order. A text is `None` if a value that it needs is
    /// unavailable, or if it is empty.
    pub fn render<'a>(
        &'a self,
        cgroup: &'a CgroupNames,
    ) -> impl Iterator<Item = Result<Option<Cow<'a, str>>, RenderError>> {
        let of_cgroup = OnceCell::new();
        self.templates.iter().map(move |prepared| match prepared {
            Prepared::Same(rendered) => match rendered {
                Ok(text) => Ok(text.as_deref().map(Cow::Borrowed)),
                Err(error) => Err(error.clone()),
            },
            Prepared::Only(key) => {
                let text = cgroup.value(key);
                Ok((!text.is_empty()).then_some(Cow::Borrowed(text)))
            }
            Prepared::Other { template, variables, lacks_a_value } => {
                let of_cgroup =
                    of_cgroup.get_or_init(|| variable(&self.keys, |key| cgroup.value(key)));
                let mut variables = variables.clone();
                variables.insert(CGROUP, of_cgroup.clone());
                let compiled = self.environment.get_template(&template.text);
                let rendered = compiled.and_then(|it| it.render(Value::from(variables)));
                Ok(checked(rendered, || *lacks_a_value)?.map(Cow::Owned))
            }
        })
    }
}

/// Returns the variable `cgroup` with these values.
pub(super) fn variable<'a>(
    keys: &BTreeSet<CgroupKey>,
    value: impl Fn(&CgroupKey) -> &'a str,
) -> Value {
    let mut names = BTreeMap::new();
    let mut of_pod = PodMap::ALL.map(|map| (map.field(), BTreeMap::new()));
    for key in keys {
        let text = Value::from(value(key));
        match key {
            CgroupKey::Name(name) => drop(names.insert(name.field(), text)),
            CgroupKey::OfPod(map, key) => drop(of_pod[*map as usize].1.insert(key.clone(), text)),
        }
    }
    names.insert("pod", Value::from(BTreeMap::from(of_pod)));
    Value::from(names)
}

/// Jinja's `default`, which also replaces an empty text: that is what a cgroup has instead of an unavailable
/// value.
fn default(state: &State<'_, '_>, value: &Value, arguments: Rest<Value>) -> Result<Value, Error> {
    let is_empty = value.as_str().is_some_and(str::is_empty);
    filters::default(state, if is_empty { &Value::UNDEFINED } else { value }, arguments)
}
