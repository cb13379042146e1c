//! The Grafana dashboard: its panels, its variables and the queries that Grafana would send.

use serde_json::Value;

/// A dashboard in Grafana's JSON model.
#[derive(Clone, Debug)]
pub struct Dashboard(Value);

/// A query of a panel.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// Title of the panel.
    pub panel: &'a str,
    /// Its `PromQL`, with Grafana variables.
    pub expr: &'a str,
    /// Format of series names, with labels in `{{}}`.
    pub legend: &'a str,
}

impl Dashboard {
    /// Reads the dashboard in `deploy/grafana`.
    pub fn shipped() -> Self {
        let text = include_str!("../../deploy/grafana/sched_exporter.json");
        Self(serde_json::from_str(text).unwrap())
    }

    /// The whole JSON document.
    pub fn json(&self) -> &Value {
        &self.0
    }

    /// All rows and panels, in rows or not.
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

    /// The variables, in the order in which Grafana resolves them.
    pub fn variables(&self) -> &[Value] {
        array(&self.0["templating"]["list"])
    }
}

/// A JSON string; empty if the value is anything else.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The items of a JSON array; empty if the value is anything else.
pub fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Names of the variables in an expression, written `$name` or `${name}`.
pub fn variables_in(expr: &str) -> Vec<&str> {
    let is_other = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    let behind = expr.split('$').skip(1).map(|rest| rest.trim_start_matches('{'));
    behind.filter_map(|rest| rest.split(is_other).next()).collect()
}

/// Replaces the variables in an expression by their values.
pub fn interpolate(expr: &str, values: &[(&str, &str)]) -> String {
    let mut names: Vec<_> = variables_in(expr);
    // Longest first: one name can be a prefix of another.
    names.sort_unstable_by_key(|name| std::cmp::Reverse(name.len()));
    let mut text = expr.to_owned();
    for name in names {
        let value = values.iter().find(|(found, _)| *found == name);
        let value = value.unwrap_or_else(|| panic!("no value of ${name} in {expr}")).1;
        text = text.replace(&format!("${{{name}}}"), value).replace(&format!("${name}"), value);
    }
    text
}
