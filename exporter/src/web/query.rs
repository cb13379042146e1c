//! Which families a scrape asks for in its query: `collect[]` names collectors, `name[]` families or
//! samples. Both repeat. Other parameters are ignored. Pure.

use crate::metrics::selection::{Selection, UnknownName};

/// The error for a query that cannot be answered.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum QueryError {
    /// Both parameters are there.
    #[error("collect[] and name[] exclude each other; use one of them")]
    Both,
    /// A value of one of them is unknown.
    #[error(transparent)]
    Unknown(#[from] UnknownName),
}

/// Parses the query of a URL, without its question mark.
pub(super) fn selection(query: Option<&str>) -> Result<Selection, QueryError> {
    let (mut collectors, mut names) = (Vec::new(), Vec::new());
    for (parameter, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        match &*parameter {
            "collect[]" => collectors.push(value),
            "name[]" => names.push(value),
            _ => {}
        }
    }
    match (collectors.is_empty(), names.is_empty()) {
        (true, true) => Ok(Selection::ALL),
        (false, true) => Ok(Selection::of_collectors(&collectors)?),
        (true, false) => Ok(Selection::of_names(&names)?),
        (false, false) => Err(QueryError::Both),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(query: &str, expected: &Selection) {
        assert_eq!(selection(Some(query)).as_ref(), Ok(expected), "{query}");
    }

    #[track_caller]
    fn check_error(query: &str, expected: &str) {
        let error = selection(Some(query)).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{query}: {error}");
    }

    #[test]
    fn without_a_filter_everything_is_selected() {
        assert_eq!(selection(None), Ok(Selection::ALL));
        for query in ["", "&&", "collect=cpu", "name=up", "a=b&c", "%ff=%"] {
            check(query, &Selection::ALL);
        }
    }

    #[test]
    fn parameters_repeat_and_may_be_escaped() {
        let cpu = Selection::of_collectors(&["cpu"]).unwrap();
        check("collect[]=cpu", &cpu);
        // As Prometheus writes it.
        check("collect%5B%5D=cpu", &cpu);
        check("a=b&collect[]=cpu&collect%5b]=cpu", &cpu);
        let two = Selection::of_collectors(&["cpu", "context-switches"]).unwrap();
        check("collect[]=cpu&collect[]=context%2Dswitches", &two);
        check("collect[]=context-switches&collect[]=cpu", &two);
        let names = Selection::of_names(&["target", "sched_cpu_seconds"]).unwrap();
        check("name[]=sched_cpu_seconds_total&name[]=target_info", &names);
    }

    #[test]
    fn unknown_values_are_errors() {
        check_error("collect[]=cpu&collect[]=disk", "unknown collector `disk`; known are cpu, ");
        check_error("collect[]", "unknown collector ``");
        check_error("collect[]=CPU", "unknown collector `CPU`");
        check_error("collect[]=cpu,context-switches", "unknown collector `cpu,context-switches`");
        check_error("collect[]=%ff", "unknown collector `\u{fffd}`");
        check_error("name[]=up", "unknown name `up`; known are ");
        check_error("name[]=sched_cpu*", "unknown name `sched_cpu*`");
    }

    #[test]
    fn both_parameters_at_once_are_an_error() {
        check_error("collect[]=cpu&name[]=target", "collect[] and name[] exclude each other");
        check_error("name[]=up&collect[]=disk", "collect[] and name[] exclude each other");
    }
}
