//! Renders templates for one cgroup after another. Everything that does not depend on the cgroup is
//! prepared once.

use std::{borrow::Cow, collections::BTreeMap};

use minijinja::{Environment, Value};

use super::{RenderError, Template, checked, environment};
use crate::expr::{
    cgroup::{CGROUP, CgroupName, CgroupNames},
    values::Values,
};

/// Templates prepared with the values of a host.
#[derive(Debug)]
pub struct CgroupRenderer<'t> {
    environment: Environment<'t>,
    templates: Vec<Prepared<'t>>,
}

#[derive(Debug)]
enum Prepared<'t> {
    /// A text that is the same for all cgroups.
    Same(Result<Option<String>, RenderError>),
    /// A name of the cgroup, and nothing else.
    Name(CgroupName),
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
        let mut prepare = |template: &'t Template| {
            if let Some(name) = template.only {
                return Prepared::Name(name);
            }
            if template.cgroup.is_empty() {
                return Prepared::Same(template.render(values, labels));
            }
            // Compiles the text, which is its own name. If this failed, so would parsing it have.
            let _ = environment.add_template(&template.text, &template.text);
            Prepared::Other {
                template,
                variables: template.variables(values, labels),
                lacks_a_value: template.lacks_a_value(values, labels),
            }
        };
        let templates = templates.into_iter().map(&mut prepare).collect();
        Self { environment, templates }
    }

    /// Renders the template at `index`. Returns `None` if a value that it needs is unavailable, or the
    /// text is empty.
    pub fn render<'a>(
        &'a self,
        index: usize,
        cgroup: &'a CgroupNames,
    ) -> Result<Option<Cow<'a, str>>, RenderError> {
        match self.templates.get(index) {
            None => Ok(None),
            Some(Prepared::Same(rendered)) => match rendered {
                Ok(text) => Ok(text.as_deref().map(Cow::Borrowed)),
                Err(error) => Err(error.clone()),
            },
            Some(Prepared::Name(name)) => {
                let text = cgroup.get(*name);
                Ok((!text.is_empty()).then_some(Cow::Borrowed(text)))
            }
            Some(Prepared::Other { template, variables, lacks_a_value }) => {
                let value = |name: &CgroupName| (name.field(), Value::from(cgroup.get(*name)));
                let names: BTreeMap<_, _> = template.cgroup.iter().map(value).collect();
                let mut variables = variables.clone();
                variables.insert(CGROUP, Value::from(names));
                let compiled = self.environment.get_template(&template.text);
                let rendered = compiled.and_then(|it| it.render(Value::from(variables)));
                Ok(checked(rendered, || *lacks_a_value)?.map(Cow::Owned))
            }
        }
    }
}
