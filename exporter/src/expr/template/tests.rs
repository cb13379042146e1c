use std::borrow::Cow;

use super::*;
use crate::expr::cgroup::{CgroupNames, PodMetadata};

/// The values of a host. Some sources fail or lack values.
fn values() -> Values {
    let reading = |pairs: &[(&str, &str)]| {
        Reading::of(pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect())
    };
    [
        (Source::Hostname, reading(&[("", "Web-17.example.com")])),
        (Source::Arch, reading(&[("", "x86_64")])),
        (Source::KernelRelease, reading(&[("", "6.12.1-arm64")])),
        (Source::Os, reading(&[("id", "debian"), ("version_id", "13")])),
        (Source::Env, reading(&[("RACK", "r12"), ("EMPTY", ""), ("SENTENCE", "one two three")])),
        (Source::File, reading(&[("/etc/zone", "eu-1a"), ("/etc/long", &"é".repeat(512))])),
        (Source::NodeLabels, reading(&[("topology.kubernetes.io/zone", "eu-west-1b")])),
        (Source::PodLabels, Reading::failed("reading `/etc/podinfo/labels`: not found")),
    ]
    .into_iter()
    .collect()
}

fn parse(text: &str) -> Result<Template, TemplateError> {
    Template::parse(text, &BTreeSet::new())
}

#[track_caller]
fn check(template: &str, expected: Option<&str>) {
    let rendered = parse(template).unwrap().render(&values(), &BTreeMap::new());
    assert_eq!(rendered, Ok(expected.map(str::to_owned)), "{template}");
}

#[track_caller]
fn check_error(template: &str, expected: &str) {
    let error = parse(template).unwrap_err();
    assert_eq!(format!("{}: {error}", error.offset), expected, "{template}");
}

#[test]
fn text_without_expressions_is_the_result() {
    for text in ["web-17", "a } b }} %}", "100%", "{ }", "a line\n", " é ", "{"] {
        check(text, Some(text));
    }
    check("", None);
    check("a line\n{{ arch }}\n", Some("a line\nx86_64\n"));
}

#[test]
fn values_are_named_by_source() {
    check("{{ hostname }}", Some("Web-17.example.com"));
    check("{{ kernel.release }}/{{arch}}", Some("6.12.1-arm64/x86_64"));
    check("{{ os.id }}-{{ os[\"version_id\"] }}", Some("debian-13"));
    check("{{ env.RACK }}", Some("r12"));
    check("{{ file(\"/etc/zone\") }}", Some("eu-1a"));
    check("{{ node.labels[\"topology.kubernetes.io/zone\"] }}", Some("eu-west-1b"));
    check("{{ node['labels']['topology.kubernetes.io/zone'] }}", Some("eu-west-1b"));
    // Nothing is escaped for HTML.
    check("{{ '<a&b>' }}", Some("<a&b>"));
}

#[test]
fn uses_are_known_before_rendering() {
    let template = parse(
        "{{ env.A if hostname == 'x' else file('/a') }} {{ node.labels['z'] | default(env.B) }}",
    );
    let mut expected = Uses::default();
    expected.insert(Source::Env, "A");
    expected.insert(Source::Env, "B");
    expected.insert(Source::File, "/a");
    expected.insert(Source::Hostname, "");
    expected.insert(Source::NodeLabels, "z");
    assert_eq!(template.unwrap().uses(), &expected);
    assert_eq!(parse("{ hostname }").unwrap().uses(), &Uses::default());
}

#[test]
fn unavailable_values_give_the_default_or_nothing() {
    for template in [
        "{{ env.NONE }}",
        "zone-{{ env.NONE }}",
        "{{ env.NONE | lower }}",
        "{{ env.NONE | upper }}",
        "{{ env.NONE | replace('a', 'b') }}",
        "{{ env.NONE | regex_replace('a', 'b') }}",
        "{{ env.NONE | truncate(3) }}",
        "{{ env.NONE | split('-') | join('_') }}",
        "{{ (env.NONE | split('-'))[0] }}",
        "{{ env.NONE ~ 'x' }}",
        "{{ 'x' + env.NONE }}",
        "{{ [hostname, env.NONE] | join('-') }}",
        "{{ 'abc' | replace('a', env.NONE) }}",
        "{{ env.NONE[0] }}",
        "{{ env.NONE[:2] }}",
        "{{ pod.labels['app'] }}",
        "{{ file('/etc/none') }}",
        "{{ azure.zone }}",
        "{{ fqdn }}",
        "{{ os.variant_id }}",
        "{{ (hostname | split('.'))[7] }}",
        "{{ env.EMPTY }}",
        "{{ 'x' if hostname == 'y' }}",
        "{{ none }}",
    ] {
        check(template, None);
    }
    check("{{ env.NONE | default('x') }}", Some("x"));
    check("{{ env.NONE | upper | default('x') }}", None);
    check("{{ pod.labels['app'] | default('none') }}", Some("none"));
    check("{{ azure.zone | default(env.RACK) | upper }}", Some("R12"));
    check("{{ env.EMPTY | default('x') }}", None);
    check("{{ env.EMPTY | default('x', true) }}", Some("x"));
    check("{{ env.NONE or env.RACK }}", Some("r12"));
    check("{{ env.RACK if env.RACK is defined else 'x' }}", Some("r12"));
    check("{{ env.NONE if env.NONE is defined else 'x' }}", Some("x"));
}

#[test]
fn filters_work_as_in_jinja() {
    check("{{ hostname | lower }}", Some("web-17.example.com"));
    check("{{ 'straße' | upper }}", Some("STRASSE"));
    check("{{ hostname | replace('.example.com', '') }}", Some("Web-17"));
    check("{{ (hostname | split('.'))[0] | lower }}", Some("web-17"));
    check("{{ (hostname | split('.'))[-1] }}", Some("com"));
    check("{{ hostname | split('.') | join('_') }}", Some("Web-17_example_com"));
    check("{{ [os.id, os.version_id] | join('-') }}", Some("debian-13"));
    check("{{ hostname[:3] }}", Some("Web"));
    check("{{ env.SENTENCE | split | join('+') }}", Some("one+two+three"));
    check("{{ hostname | regex_replace('^Web-(\\\\d+).*', 'n$1') }}", Some("n17"));
    check(
        "{{ hostname | regex_replace('(?P<first>[a-z])', '<${first}>') | truncate(8, true, '') }}",
        Some("W<e><b>-<1"[..8].into()),
    );
    check("{{ 'aaa' | regex_replace('b*', '-') }}", Some("-a-a-a-"));
    check("{{ 'a.b' | regex_replace('.', 'x') }}", Some("xxx"));
}

/// The cases of Jinja's documentation and code.
#[test]
fn truncate_cuts_as_jinja_does() {
    check("{{ 'foo bar baz qux' | truncate(9) }}", Some("foo..."));
    check("{{ 'foo bar baz qux' | truncate(9, true) }}", Some("foo ba..."));
    check("{{ 'foo bar baz qux' | truncate(11) }}", Some("foo bar baz qux"));
    check("{{ 'foo bar baz qux' | truncate(11, false, '...', leeway=0) }}", Some("foo bar..."));
    check(
        "{{ 'foo bar baz qux' | truncate(length=9, killwords=true, end='') }}",
        Some("foo bar b"),
    );
    check("{{ 'éèêëüöä' | truncate(1, true, '', leeway=0) }}", Some("é"));
    // Even if the text would not be cut.
    for text in ["foo bar baz", "x"] {
        let message = "invalid operation: truncate: length 2 is less than that of `...`, its end";
        check_error(
            &format!("{{{{ '{text}' | truncate(2) }}}}"),
            &format!("{}: {message}", text.len() + 8),
        );
    }
}

#[test]
fn unknown_names_are_rejected_with_the_nearest_known_name() {
    check_error("a {{ hostnam }}", "5: unknown name hostnam; did you mean hostname?");
    check_error(
        "{{ kernel.relase }}",
        "3: unknown name kernel.relase; did you mean kernel.release?",
    );
    check_error("{{ os.ID }}", "3: unknown name os.ID; did you mean os.id?");
    check_error(
        "{{ aws.zone }}",
        "3: unknown name aws.zone; write one of aws.availability_zone, \
         aws.availability_zone_id, aws.instance_id, aws.instance_type, aws.region",
    );
    check_error(
        "{{ node.label['topology.kubernetes.io/zone'] }}",
        "3: unknown name node.label.topology.kubernetes.io/zone; did you mean node.labels?",
    );
    check_error("{{ envs.RACK }}", "3: unknown name envs.RACK; did you mean env?");
    check_error(
        "{{ datacenter }}",
        "3: unknown name datacenter; write one of arch, aws, azure, boot_id, env, file, fqdn, gcp, \
         hostname, kernel.release, machine_id, node.labels, os, pod.annotations, pod.labels",
    );
    check_error("{{ hostname | uper }}", "14: unknown filter uper; did you mean upper?");
    check_error(
        "{{ hostname | tojson }}",
        "14: unknown filter tojson; write one of default, join, lower, regex_replace, replace, \
         split, truncate, upper",
    );
    check_error(
        "{{ hostname | default(env.A | lowr) }}",
        "30: unknown filter lowr; did you mean lower?",
    );
    check_error("{{ 1 if arch is define }}", "16: unknown test define; did you mean defined?");
    check_error("{{ flie('/a') }}", "3: unknown function flie; did you mean file?");
    // In every kind of expression.
    for template in [
        "{{ [arch, nope] | join }}",
        "{{ {'a': nope}['a'] }}",
        "{{ arch if nope else arch }}",
        "{{ arch if arch else nope }}",
        "{{ arch[nope:] }}",
        "{{ arch | replace('a', nope) }}",
        "{{ arch ~ nope }}",
        "{{ not nope }}",
        "{{ arch == nope }}",
        "{{ 'a' < arch < nope }}",
        "{{ (arch | split)[nope] }}",
        "{{ nope is defined }}",
        "{{ arch | truncate(length=nope) }}",
        "{{ (nope, 1)[0] }}",
        "{{ nope | default('x') }}",
        "{{ loop.index }}",
        "{{ self }}",
    ] {
        let error = parse(template).unwrap_err();
        let name = error.message.strip_prefix("unknown name ").expect(&error.message);
        assert!(template[error.offset..].starts_with(&name[..4]), "{template}: {error}");
    }
}

#[test]
fn rejects_names_that_are_not_values() {
    check_error("{{ env }}", "3: env needs a name, as env.NAME");
    check_error("{{ env[arch] }}", "3: env needs a name, as env.NAME");
    check_error("{{ node.labels }}", "3: node.labels needs a name, as node.labels[\"example\"]");
    check_error("{{ hostname.short }}", "3: hostname is a string and has no field short");
    check_error("{{ env.A.b }}", "3: env[\"A\"] is a string and has no field b");
    check_error("{{ (arch | lower).x }}", "18: a string has no fields; remove .x");
    check_error("{{ hostname.upper() }}", "12: there are no methods; use a filter for upper");
    check_error("{{ file }}", "3: file needs a path, as file(\"/path\")");
    check_error("{{ file(env.A) }}", "3: file needs one path in quotes, as file(\"/path\")");
    check_error("{{ file('a') }}", "3: file needs an absolute path, as file(\"/path\")");
    check_error("{{ arch('a') }}", "3: unknown function arch; write one of file");
}

#[test]
fn rejects_statements_and_comments() {
    let statements = "has no statements, only {{ … }}; for the text {% write {{ \"{%\" }}";
    let comments = "has no comments, only {{ … }}; for the text {# write {{ \"{#\" }}";
    for (template, offset, message) in [
        ("{% if arch %}a{% endif %}", 0, statements),
        ("{{ arch }} {% for a in arch %}{% endfor %}", 11, statements),
        ("é{% include 'a' %}", 2, statements),
        ("{% raw %}{{ arch }}{% endraw %}", 0, statements),
        ("x{%- set a = 1 -%}", 1, statements),
        ("{# remark #}{{ arch }}", 0, comments),
        ("{{ arch }}{# remark #}", 10, comments),
        ("{{ arch }} {#- remark -#} x", 11, comments),
        ("a {# not closed", 2, comments),
        ("a {% not closed", 2, statements),
    ] {
        check_error(template, &format!("{offset}: {message}"));
    }
    check("{{ '{%' }}{{ \"{#\" }}{{ '{{' }}", Some("{%{#{{"));
    check("{{ arch -}}  x", Some("x86_64x"));
}

#[test]
fn the_syntax_of_other_templates_is_answered_with_advice() {
    let go = "write names without . or $ before them, like hostname and env.NAME";
    check_error("{{ .Values.host }}", &format!("3: syntax error: unexpected `.`; {go}"));
    check_error("{{ $labels.host }}", &format!("3: syntax error: unexpected character; {go}"));
    check_error("{{ env('A') }}", "3: env is not a function; write env.NAME");
    check_error(
        "{{ NODE_NAME }}",
        "3: unknown name NODE_NAME; for the environment variable, write env.NODE_NAME",
    );
}

#[test]
fn literals_are_the_text_between_expressions() {
    let template = parse("é{{ arch }}b {{ 'c' }}").unwrap();
    assert_eq!(template.literals(), [(0, "é"), (12, "b ")]);
    assert_eq!(parse("a").unwrap().literals(), [(0, "a")]);
}

#[test]
fn syntax_errors_have_a_position() {
    for (template, offset) in
        [("{{ arch", 3), ("{{ }}", 3), ("ab {{ arch | }}", 13), ("{{ 'a }}", 8), ("{{ a b }}", 5)]
    {
        let error = parse(template).unwrap_err();
        assert!(error.message.starts_with("syntax error: "), "{template}: {error}");
        assert_eq!(error.offset, offset, "{template}: {error}");
    }
}

/// Errors that occur with any value are errors of the template.
#[test]
fn wrong_filter_arguments_are_rejected_when_parsing() {
    for (template, expected) in [
        ("{{ arch | replace('a') }}", "10: missing argument"),
        ("{{ arch | lower('a') }}", "10: too many arguments"),
        (
            "{{ arch | truncate(5, lenght=3) }}",
            "10: too many arguments: unknown keyword argument 'lenght'",
        ),
        (
            "{{ arch | split('-') }}",
            "3: invalid operation: cannot print a sequence; select one item or use join",
        ),
        ("{{ arch | regex_replace(arch, 'a') }}", "10: regex_replace needs a pattern in quotes"),
        (
            "{{ arch | regex_replace('a(', '') }}",
            "10: regex_replace: `a(` is not a regular expression: unclosed group",
        ),
    ] {
        check_error(template, expected);
    }
    let error = parse("{{ arch | regex_replace('\\\\w{999}{99}', '') }}").unwrap_err();
    assert!(error.message.contains("size limit"), "{error}");
}

#[test]
fn text_and_work_are_bounded() {
    let long = "{{ file('/etc/long') }}".repeat(64);
    let rendered = parse(&long).unwrap().render(&values(), &BTreeMap::new());
    assert_eq!(rendered.unwrap().unwrap().len(), 65_536);
    let longer = parse(&format!("{long}x")).unwrap();
    assert_eq!(longer.render(&values(), &BTreeMap::new()), Err(RenderError::TooLong(65_537)));

    let error = parse(&"x".repeat(4_097)).unwrap_err();
    assert_eq!(error.message, "has 4097 bytes, 4096 at most");
    check_error(
        "{{ 'x' * 100000000 }}",
        "3: rendering takes more than 20000 steps; simplify the template",
    );
    let ever_longer =
        "{{ arch".to_owned() + &" | replace('', 'xxxxxxxxxxxxxxxx')".repeat(6) + " }}";
    let error = parse(&ever_longer).unwrap_err();
    assert_eq!(error.message, RenderError::TooManySteps.to_string());
    let file = Reading::of([("/f".to_owned(), "x".repeat(1 << 16))].into());
    let values: Values = [(Source::File, file)].into_iter().collect();
    let longer_file = parse("{{ file('/f') | regex_replace('x', 'yyyyyyyyyyyyyyyyyyyy') }}");
    let error = longer_file.unwrap().render(&values, &BTreeMap::new()).unwrap_err();
    assert!(error.to_string().contains("more than 65536 bytes"), "{error}");
    let works = "{{ file('/f')".to_owned() + &" | lower | upper".repeat(6) + " | truncate(3) }}";
    let error = parse(&works).unwrap().render(&values, &BTreeMap::new()).unwrap_err();
    assert_eq!(error, RenderError::TooManySteps);
    let deep = "{{ ".to_owned() + &"(".repeat(2_000) + "arch" + &")".repeat(2_000) + " }}";
    assert!(parse(&deep).is_err());
}

#[test]
fn labels_are_used_by_bare_name_and_shadow_sources() {
    let labels = [("zone", "eu-1"), ("os", "plan9"), ("hostname", "h")];
    let names = labels.iter().map(|(name, _)| *name).chain(["gone"]).collect();
    let set = labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    let render = |text: &str| Template::parse(text, &names).unwrap().render(&values(), &set);
    assert_eq!(render("{{ zone }}-{{ env.RACK }}").unwrap().unwrap(), "eu-1-r12");
    assert_eq!(render("{{ os | upper }} {{ hostname }}").unwrap().unwrap(), "PLAN9 h");
    assert_eq!(render("{{ os.id }}").unwrap().unwrap(), "debian");
    assert_eq!(render("{{ gone }}").unwrap(), None);
    assert_eq!(render("{{ gone | default(zone) }}").unwrap().unwrap(), "eu-1");
    let message = |text| Template::parse(text, &names).unwrap_err().message;
    assert_eq!(message("{{ zoen }}"), "unknown name zoen; did you mean zone?");
    assert_eq!(
        message("{{ os }} {{ os.id }}"),
        "the label os hides the source os here; rename the label"
    );
}

fn cgroup() -> CgroupNames {
    CgroupNames {
        path: "/system.slice/ssh.service".into(),
        id: "42".into(),
        unit: "ssh.service".into(),
        slice: "system.slice".into(),
        ..CgroupNames::default()
    }
}

fn in_pod() -> CgroupNames {
    let map = |items: &[(&str, &str)]| {
        items.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let labels = map(&[("app", "shop"), ("example.com/team", "a"), ("empty", "")]);
    let pod = PodMetadata { labels, annotations: map(&[("app", "x")]) };
    CgroupNames { pod_name: "shop-0".into(), pod: Some(pod.into()), ..cgroup() }
}

/// Renders templates for a cgroup.
fn rendered(templates: &[&str], cgroup: &CgroupNames) -> Vec<String> {
    let parse = |text: &&str| Template::parse_for_cgroups(text, &["zone"].into()).unwrap();
    let templates: Vec<_> = templates.iter().map(parse).collect();
    let renderer = CgroupRenderer::new(&templates, &values(), &BTreeMap::new());
    let texts = renderer.render(cgroup).map(|text| text.unwrap().unwrap_or_default().into_owned());
    texts.collect()
}

/// Renders a template for a cgroup on a host with the label `zone`.
#[track_caller]
fn check_for_cgroup(template: &str, expected: Option<&str>) {
    let labels = [("zone".to_owned(), "eu-1a".to_owned())].into();
    let template = Template::parse_for_cgroups(template, &["zone", "gone"].into()).unwrap();
    let renderer = CgroupRenderer::new([&template], &values(), &labels);
    let cgroup = cgroup();
    let texts: Vec<_> =
        renderer.render(&cgroup).map(|text| text.map(|text| text.map(Cow::into_owned))).collect();
    assert_eq!(texts, [Ok(expected.map(str::to_owned))], "{template:?}");
}

#[test]
fn cgroups_have_names_besides_sources_and_labels() {
    check_for_cgroup("{{ cgroup.unit }}", Some("ssh.service"));
    check_for_cgroup("{{cgroup['unit']}}", Some("ssh.service"));
    check_for_cgroup("{{ cgroup.path }} {{ cgroup.id }}", Some("/system.slice/ssh.service 42"));
    check_for_cgroup("{{ cgroup.unit | replace('.service', '') }}-{{ zone }}", Some("ssh-eu-1a"));
    check_for_cgroup("{{ arch }}", Some("x86_64"));
    check_for_cgroup("{{ hostname | lower }}", Some("web-17.example.com"));
    check_for_cgroup("eu", Some("eu"));
    check_for_cgroup("<{{ cgroup.unit }}>.html", Some("<ssh.service>.html"));
    let many = ["{{ cgroup.unit }}!", "{{ zone }}", "{{ cgroup.slice }}!"];
    assert_eq!(rendered(&many, &cgroup()), ["ssh.service!", "", "system.slice!"]);
}

#[test]
fn cgroups_have_the_labels_and_annotations_of_their_pods() {
    let templates = [
        "{{ cgroup.pod.labels['app'] }}",
        "{{ cgroup.pod.labels.app }}-{{ cgroup.pod_name }}",
        "{{ cgroup.pod.annotations['app'] | upper }}",
        "{{ cgroup.pod.labels['example.com/team'] | default('none') }}",
        "{{ cgroup.pod.labels['gone'] }}",
        "<{{ cgroup.pod.labels['gone'] }}>",
        "{{ cgroup.pod.labels['gone'] | default('none') }}",
        "{{ cgroup.pod.labels['empty'] | default(cgroup.pod.annotations['app']) }}",
        "{{ cgroup.pod.labels['gone'] or cgroup.unit }}",
        "{{ 'in' if cgroup.pod.labels['app'] == 'shop' else 'out' }}",
    ];
    assert_eq!(
        rendered(&templates, &in_pod()),
        ["shop", "shop-shop-0", "X", "a", "", "<>", "none", "x", "ssh.service", "in"]
    );
    assert_eq!(
        rendered(&templates, &cgroup()),
        ["", "-", "", "none", "", "<>", "none", "", "ssh.service", "out"]
    );
}

#[test]
fn a_name_that_a_cgroup_lacks_is_empty() {
    check_for_cgroup("{{ cgroup.pod_uid }}", None);
    check_for_cgroup("pod-{{ cgroup.pod_uid }}", Some("pod-"));
    check_for_cgroup("{{ cgroup.pod_uid | default('none') }}", Some("none"));
    check_for_cgroup("{{ cgroup.unit | default('none') }}", Some("ssh.service"));
    check_for_cgroup("{{ env.NONE | default(cgroup.pod_uid) | default(zone) }}", Some("eu-1a"));
    check_for_cgroup("{{ env.NONE | default(gone) }}{{ cgroup.unit }}", None);
    check_for_cgroup("{{ cgroup.pod_uid or cgroup.unit }}", Some("ssh.service"));
    check_for_cgroup("{{ cgroup.unit if not cgroup.container_id }}", Some("ssh.service"));
    check_for_cgroup("{{ cgroup.unit }}-{{ gone }}", None);
    check_for_cgroup("{{ cgroup.unit }}-{{ env.NONE }}", None);
    check_for_cgroup("{{ (cgroup.unit | split('.'))[7] }}", None);
}

#[test]
fn renderer_reports_what_cannot_be_texts() {
    let text = "{{ cgroup.unit | truncate(id_length) }}".replace("id_length", "cgroup.id");
    let error = Template::parse_for_cgroups(&text, &BTreeSet::new()).unwrap_err();
    assert_eq!(error.offset, 17);
    let long = "{{ file('/etc/long') }}".repeat(100) + "{{ cgroup.unit }}";
    let long = Template::parse_for_cgroups(&long, &BTreeSet::new()).unwrap();
    let renderer = CgroupRenderer::new([&long], &values(), &BTreeMap::new());
    let cgroup = cgroup();
    let texts: Vec<_> = renderer.render(&cgroup).collect();
    assert_eq!(texts, [Err(RenderError::TooLong(102_411))]);
}

#[track_caller]
fn check_cgroup_error(template: &str, expected: &str) {
    let labels = ["cgroup", "zone"].into();
    let error = Template::parse_for_cgroups(template, &labels).unwrap_err();
    assert_eq!(format!("{}: {error}", error.offset), expected, "{template}");
}

#[test]
fn errors_in_names_of_cgroups_list_the_known_ones() {
    let all = "cgroup.path, cgroup.id, cgroup.unit, cgroup.unit_unescaped, cgroup.slice, \
               cgroup.user, cgroup.container_id, cgroup.container_name, cgroup.image, \
               cgroup.runtime, cgroup.namespace, cgroup.pod_name, cgroup.pod_uid, cgroup.pod_qos, \
               cgroup.pod.labels, cgroup.pod.annotations";
    check_cgroup_error(
        "{{ cgroup.unti }}",
        "3: unknown name cgroup.unti; did you mean cgroup.unit?",
    );
    check_cgroup_error(
        "{{ cgroup.workload }}",
        &format!("3: unknown name cgroup.workload; write one of {all}"),
    );
    check_cgroup_error(
        "x {{ cgroup.unit.name }}",
        "5: cgroup.unit is a string and has no field name",
    );
    check_cgroup_error(
        "{{ cgroup }}{{ cgroup.unit }}",
        "0: the label cgroup hides the names of the cgroup here; rename the label",
    );
    check_cgroup_error(
        "{{ cgroup.pod.label['app'] }}",
        "3: unknown name cgroup.pod.label.app; did you mean cgroup.pod.labels?",
    );
    check_cgroup_error(
        "{{ cgroup.pod.labels }}",
        "3: cgroup.pod.labels needs a name, as cgroup.pod.labels[\"example\"]",
    );
    check_cgroup_error(
        "{{ cgroup.pod.annotations[zone] }}",
        "3: cgroup.pod.annotations needs a name, as cgroup.pod.annotations[\"example\"]",
    );
    check_cgroup_error(
        "{{ cgroup.pod.labels.a.b }}",
        "3: cgroup.pod.labels[\"a\"] is a string and has no field b",
    );
    let error = Template::parse_for_cgroups("{{ cgroup }}", &BTreeSet::new()).unwrap_err();
    assert_eq!(error.message, "cgroup needs a name, as cgroup.unit");
    let error = Template::parse_for_cgroups("{{ unit_of_it }}", &BTreeSet::new()).unwrap_err();
    assert!(error.message.ends_with(&format!("pod.labels, {all}")), "{error}");
    check_error("{{ cgroup.unit }}", "3: cgroup.unit has a value only in cgroups.labels");
    check_error("{{ cgroup.unti }}", "3: cgroup.unti has a value only in cgroups.labels");
}
