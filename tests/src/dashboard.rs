//! Grafana's dashboard: its panels, variables and queries, as far as Grafana would send them.

use serde_json::Value;

/// A dashboard, by Grafana's JSON model.
#[derive(Clone, Debug)]
pub struct Dashboard(Value);

/// A query of a panel.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// The title of its panel.
    pub panel: &'a str,
    /// The expression, with variables.
    pub expr: &'a str,
    /// How its series are named, with labels in `{{}}`.
    pub legend: &'a str,
}

impl Dashboard {
    /// The one in `deploy/grafana`.
    pub fn shipped() -> Self {
        let text = include_str!("../../deploy/grafana/sched_exporter.json");
        Self(serde_json::from_str(text).unwrap())
    }

    /// All of it.
    pub fn json(&self) -> &Value {
        &self.0
    }

    /// Rows, their panels, and panels that are in none.
    pub fn panels(&self) -> Vec<&Value> {
        let outer = array(&self.0["panels"]);
        outer.iter().flat_map(|panel| [panel].into_iter().chain(array(&panel["panels"]))).collect()
    }

    /// The queries of all panels.
    pub fn queries(&self) -> Vec<Query<'_>> {
        let mut queries = Vec::new();
        for panel in self.panels() {
            for target in array(&panel["targets"]) {
                queries.push(Query {
                    panel: text(&panel["title"]),
                    expr: text(&target["expr"]),
                    legend: text(&target["legendFormat"]),
                });
            }
        }
        queries
    }

    /// The variables, in the order in which Grafana gives them values.
    pub fn variables(&self) -> &[Value] {
        array(&self.0["templating"]["list"])
    }
}

/// A text; empty where there is none.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The items of a list; none where it is none.
pub fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The names of the variables in an expression, in `$name` or `${name}`.
pub fn variables_in(expr: &str) -> Vec<&str> {
    let is_other = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    let behind = expr.split('$').skip(1).map(|rest| rest.trim_start_matches('{'));
    behind.filter_map(|rest| rest.split(is_other).next()).collect()
}

/// An expression with the values of variables in their places.
pub fn interpolate(expr: &str, values: &[(&str, &str)]) -> String {
    let mut names: Vec<_> = variables_in(expr);
    // A name can begin with another.
    names.sort_unstable_by_key(|name| std::cmp::Reverse(name.len()));
    let mut text = expr.to_owned();
    for name in names {
        let value = values.iter().find(|(found, _)| *found == name);
        let value = value.unwrap_or_else(|| panic!("no value of ${name} in {expr}")).1;
        text = text.replace(&format!("${{{name}}}"), value).replace(&format!("${name}"), value);
    }
    text
}
