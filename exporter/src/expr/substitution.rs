//! Finds substitutions in the syntax of other tools, which templates leave as they are.

use super::values::{Keys, Source};

/// Opening and closing delimiters of substitutions, of any text.
const DELIMITERS: [(&str, &str); 4] = [
    // Shells, Compose, Vector, the OpenTelemetry collector.
    ("${", "}"),
    // Kubernetes, in commands and the environment of a container.
    ("$(", ")"),
    // VictoriaMetrics, Puppet.
    ("%{", "}"),
    // ERB.
    ("<%", "%>"),
];

/// Delimiters of substitutions only around a name in capitals: those of Windows and autoconf.
const SYMMETRIC: [char; 2] = ['%', '@'];

/// Minimum length of a variable without delimiters, like `$ZONE`: `$A` and `$USD` may be meant.
const MIN_VARIABLE: usize = 4;

/// A substitution in the syntax of another tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Substitution<'t> {
    /// Its position in bytes.
    pub offset: usize,
    /// The substitution as written, with its delimiters.
    pub written: &'t str,
    /// The expression of a template to write instead.
    pub instead: String,
}

/// Finds the first substitution in a text.
pub fn find(text: &str) -> Option<Substitution<'_>> {
    let delimited = DELIMITERS.iter().filter_map(|(open, close)| delimited(text, open, close));
    let symmetric = SYMMETRIC.iter().filter_map(|delimiter| symmetric(text, *delimiter));
    let found = delimited.chain(symmetric).chain(variable(text));
    let (offset, written, inside) = found.min_by_key(|(offset, ..)| *offset)?;
    Some(Substitution { offset, written, instead: expression(inside) })
}

/// A place in a text: the offset, the whole substitution, and its inside.
type Place<'t> = (usize, &'t str, &'t str);

fn delimited<'t>(text: &'t str, open: &str, close: &str) -> Option<Place<'t>> {
    let offset = text.find(open)?;
    let inside = &text[offset + open.len()..];
    let inside = &inside[..inside.find(close)?];
    let length = open.len() + inside.len() + close.len();
    let is_named = inside.contains(|c: char| c.is_ascii_alphabetic());
    is_named.then_some((offset, &text[offset..offset + length], inside))
}

fn symmetric(text: &str, delimiter: char) -> Option<Place<'_>> {
    let mut offset = 0;
    // The text before the first delimiter and after the last is not between two.
    let parts: Vec<_> = text.split(delimiter).collect();
    for (index, part) in parts.iter().enumerate() {
        if index > 0 && index + 1 < parts.len() && is_in_capitals(part) {
            return Some((offset - 1, &text[offset - 1..=offset + part.len()], part));
        }
        offset += part.len() + delimiter.len_utf8();
    }
    None
}

/// Finds `$NAME`, or `$hostname` and the like.
fn variable(text: &str) -> Option<Place<'_>> {
    text.match_indices('$').find_map(|(offset, _)| {
        let rest = &text[offset + 1..];
        let name = &rest[..rest.find(|c| !is_word(c)).unwrap_or(rest.len())];
        let is_variable = is_in_capitals(name) && name.len() >= MIN_VARIABLE;
        (is_variable || is_source(name))
            .then(|| (offset, &text[offset..=offset + name.len()], name))
    })
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_ascii_alphanumeric()
}

/// Whether this is a name in capitals, like `NODE_2`.
fn is_in_capitals(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.chars().all(|c| is_word(c) && !c.is_ascii_lowercase())
}

/// Whether this is the name of a source with a single value.
fn is_source(name: &str) -> bool {
    Source::ALL.iter().any(|source| source.keys() == Keys::One && source.name() == name)
}

/// Translates the inside of a substitution: a name, perhaps with a default.
fn expression(inside: &str) -> String {
    let inside = inside.trim();
    let prefixes = ["env:", "env.", "ENV:"];
    let inside = prefixes.iter().find_map(|it| inside.strip_prefix(it)).unwrap_or(inside);
    let (name, rest) = inside.split_at(inside.find(|c| !is_word(c)).unwrap_or(inside.len()));
    let default = default(rest);
    let is_name = !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit());
    let Some(default) = default.filter(|_| is_name) else {
        return "{{ … }} with a name like env.NAME or hostname".into();
    };
    let lower = name.to_ascii_lowercase();
    if is_source(name) {
        format!("{{{{ {name}{default} }}}}")
    } else if is_source(&lower) {
        format!("{{{{ env.{name}{default} }}}} or {{{{ {lower} }}}}")
    } else {
        format!("{{{{ env.{name}{default} }}}}")
    }
}

/// Translates the default of a shell: `${A:-b}` is `b` if A is unset or empty, `${A-b}` only if it is
/// unset.
fn default(rest: &str) -> Option<String> {
    if rest.is_empty() {
        return Some(String::new());
    }
    let (default, also_if_empty) = match rest.strip_prefix(":-") {
        Some(default) => (default, ", true"),
        None => (rest.strip_prefix(['-', ':'])?, ""),
    };
    let is_plain = !default.contains(['\'', '"', '\\', '$', '{']);
    is_plain.then(|| format!(" | default('{default}'{also_if_empty})"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::expr::template::Template;

    #[track_caller]
    fn check(text: &str, offset: usize, written: &str, instead: &str) {
        let expected = Substitution { offset, written, instead: instead.into() };
        assert_eq!(find(text), Some(expected), "{text}");
        for expression in instead.split(" or ").filter(|it| !it.contains('…')) {
            Template::parse(expression, &BTreeSet::new()).unwrap();
        }
    }

    #[test]
    fn finds_the_syntaxes_of_other_tools() {
        check("${NODE_NAME}", 0, "${NODE_NAME}", "{{ env.NODE_NAME }}");
        check("$(NODE_NAME)", 0, "$(NODE_NAME)", "{{ env.NODE_NAME }}");
        check("rack-$RACK/1", 5, "$RACK", "{{ env.RACK }}");
        check("é-%COMPUTERNAME%", 3, "%COMPUTERNAME%", "{{ env.COMPUTERNAME }}");
        check("@RACK@", 0, "@RACK@", "{{ env.RACK }}");
        check("%{RACK}", 0, "%{RACK}", "{{ env.RACK }}");
        check("${env:RACK}", 0, "${env:RACK}", "{{ env.RACK }}");
        check("$X${a}", 2, "${a}", "{{ env.a }}");
        check("100% %A% $RACK", 5, "%A%", "{{ env.A }}");
    }

    #[test]
    fn names_of_sources_are_suggested() {
        let both = "{{ env.HOSTNAME }} or {{ hostname }}";
        check("${HOSTNAME}", 0, "${HOSTNAME}", both);
        check("%HOSTNAME%", 0, "%HOSTNAME%", both);
        for text in ["$(hostname)", "%{hostname}", "<% hostname %>", "$hostname", "${hostname}"] {
            check(text, 0, text, "{{ hostname }}");
        }
    }

    #[test]
    fn defaults_are_translated() {
        check("${ZONE:-a}", 0, "${ZONE:-a}", "{{ env.ZONE | default('a', true) }}");
        check("${ZONE-a b}", 0, "${ZONE-a b}", "{{ env.ZONE | default('a b') }}");
        check("${ZONE:a}", 0, "${ZONE:a}", "{{ env.ZONE | default('a') }}");
        let any = "{{ … }} with a name like env.NAME or hostname";
        for text in ["$(hostname -f)", "$(cat /etc/rack)", "${ZONE:-'a'}", "<%= @name %>", "${a.b}"]
        {
            check(text, 0, text, any);
        }
    }

    #[test]
    fn other_text_is_left_alone() {
        let texts = [
            "",
            "$",
            "$$",
            "US$",
            "$5",
            "$1",
            "$A",
            "$USD",
            "$usd",
            "a$b",
            "${",
            "${}",
            "${1}",
            "$(",
            "$()",
            "100%",
            "5%-10%",
            "%a%",
            "%H",
            "a@b.example",
            "@a@",
            "%%",
            "@@",
            "<%",
            "%>",
            "{a}",
            "{A}",
            "C:\\a",
            "#{A}",
            "a|b",
            "[A]",
        ];
        for text in texts {
            assert_eq!(find(text), None, "{text}");
        }
    }
}
