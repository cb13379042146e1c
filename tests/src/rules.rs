//! Configurations with a thousand relabel rules of the kinds that fleets use.

use std::fmt::Write as _;

/// Rules in a configuration: half of them for the host, half for each CPU.
pub const RULES: usize = 1_000;

/// A configuration whose rules produce the labels of the shipped one, so that only the rules
/// differ. A different `number` gives a different file.
pub fn config(number: usize) -> String {
    let mut text = format!(
        r#"labels:
  __fqdn: Example-Host.example-zone.example.com
  __release: "2026.{number}"
  __hostname: "{{{{ hostname | lower }}}}"
  __kernel: '{{{{ kernel.release | split(".") | join("-") }}}}'
  __system: "{{{{ os.id }}}}/{{{{ arch }}}}"
  __rack: '{{{{ env.RACK | default("r12-u7") | upper }}}}'
"#
    );
    let host = [
        "{action: lowercase, source_labels: [__fqdn], target_label: __fqdn}",
        r"{source_labels: [__fqdn], regex: '([^.]+)\..*', target_label: host}",
        r"{source_labels: [__fqdn], regex: '[^.]+\.([^.]+)\..*', target_label: zone}",
    ];
    let cpus = [
        r"{source_labels: [__cpu__], regex: '(\d+)', target_label: cpu}",
        "{action: labelkeep, regex: 'host|zone|cpu|__.*'}",
    ];
    list(&mut text, "relabel_configs", "__fqdn", &host);
    list(&mut text, "cpu_relabel_configs", "__cpu__", &cpus);
    text
}

/// Writes half of the rules. Those in `last` set visible labels; the others read `source` and set
/// only hidden ones.
fn list(text: &mut String, name: &str, source: &str, last: &[&str]) {
    let _ = writeln!(text, "{name}:");
    for place in 0..RULES / 2 - last.len() {
        let _ = writeln!(text, "  - {}", rule(place, source));
    }
    for rule in last {
        let _ = writeln!(text, "  - {rule}");
    }
}

/// A rule of one of ten kinds with a text of its own; none drops the labels it is applied to.
fn rule(place: usize, source: &str) -> String {
    let n = place / 10;
    let (action, of_values, keys) = match place % 10 {
        0 => {
            let regex = format!(r"(?i)(web|db|cache{n})-([a-z]+)\.(.+)");
            let target = "__role, replacement: '$1/${2}'";
            ("replace", true, format!("regex: '{regex}', target_label: {target}"))
        }
        1 => {
            let regex = r"(?P<first>\w+)(?:[-.](?P<rest>.*))?";
            let target = format!("__part_{}, replacement: '${{first}}_{n}'", n % 5);
            ("replace", true, format!("regex: '{regex}', target_label: {target}"))
        }
        2 => {
            let regex = format!("(?:{n}|{}|[0-9]+-{n})", n + 64);
            let target = format!("__pool, replacement: pool-{n}");
            ("replace", true, format!("regex: '{regex}', target_label: {target}"))
        }
        3 => ("replace", true, format!("target_label: __team, replacement: team-{n}")),
        4 => ("keep", true, "regex: '[-.0-9A-Za-z]+'".into()),
        5 => ("drop", true, format!("regex: 'lab{n}-.*|retired\\.(?:[a-z]+\\.){{1,3}}com'")),
        6 => {
            let target = format!("__label_{}_$1", n % 3);
            ("labelmap", false, format!("regex: '__part_([0-9])', replacement: '{target}'"))
        }
        7 => ("hashmod", true, format!("modulus: {}, target_label: __shard", n + 2)),
        8 => ("lowercase", true, "target_label: __lower".into()),
        _ => ("labeldrop", false, format!("regex: '__label_[0-9]_{n}|__temporary_.*'")),
    };
    let sources = if of_values { format!("source_labels: [{source}], ") } else { String::new() };
    format!("{{action: {action}, {sources}{keys}}}")
}
