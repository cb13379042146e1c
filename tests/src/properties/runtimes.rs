//! The answers of container runtimes and of the Kubernetes API.

use std::sync::Arc;

use sched_exporter::{
    expr::{
        cgroup::{CgroupKey, CgroupName, CgroupNames, CgroupUses, PodMap},
        relabel::{Compiler, RuleSpec},
    },
    runtimes::Received,
};

/// The ids whose names are looked up.
pub(super) const IDS: [&str; 2] = [
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
];

/// The uids whose names are looked up.
const UIDS: [&str; 2] =
    ["11111111-1111-1111-1111-111111111111", "cccccccccccccccccccccccccccccccc"];

/// Reads the bytes as an answer. The first two choose the kind and the size of the pieces in which it arrives,
/// which must not matter. What is found has no control characters, and is not longer than the escaped bytes.
pub fn runtimes(bytes: &[u8]) {
    let [kind, size, rest @ ..] = bytes else { return };
    let received = match kind % 3 {
        0 => {
            let (containers, rest) = part(rest);
            let (sandboxes, images) = part(rest);
            Received::Cri([containers, sandboxes, images])
        }
        1 => Received::Docker(rest),
        _ => Received::Kubernetes(rest),
    };
    let all = RuleSpec {
        action: Some("labelmap"),
        regex: Some("__meta_cgroup_pod_.+"),
        ..RuleSpec::default()
    };
    let rule = Compiler::default().rule(&all).expect("the rule is valid");
    let label = CgroupKey::OfPod(PodMap::Labels, "a".into());
    for uses in [
        CgroupUses::new(&[CgroupKey::Name(CgroupName::Image)], &[]),
        CgroupUses::new(&[label], &[]),
        CgroupUses::new([], &[rule]),
    ] {
        let uses = Arc::new(uses);
        let whole = received.read(&uses, rest.len().max(1));
        assert_eq!(received.read(&uses, usize::from(*size).max(1)), whole);
        let Ok(inventory) = whole else { continue };
        for container_id in IDS.into_iter().chain([""]) {
            for pod_uid in UIDS.into_iter().chain([""]) {
                let mut names = CgroupNames {
                    container_id: container_id.into(),
                    pod_uid: pod_uid.into(),
                    ..CgroupNames::default()
                };
                let _ = inventory.lacks(&names);
                if let Some(known) = inventory.find(&names) {
                    known.add_to(&mut names);
                }
                check(&names, rest.len());
            }
        }
    }
}

fn check(names: &CgroupNames, len: usize) {
    // `fake` is the runtime of all but Kubernetes.
    let max = 4 * len + "fake".len();
    let texts = [&names.container_name, &names.image, &names.namespace, &names.pod_name];
    let texts = texts.into_iter().map(String::as_str);
    let values = names.pod_metadata().map(|(_, _, value)| value);
    let mut sum = 0;
    for text in texts.chain([names.runtime.as_str()]).chain(values) {
        assert!(!text.chars().any(char::is_control), "{text:?}");
        sum += text.len();
    }
    assert!(sum <= max, "{sum} {max}");
}

/// Splits off a part, whose length is in two bytes before it.
fn part(bytes: &[u8]) -> (&[u8], &[u8]) {
    let [high, low, rest @ ..] = bytes else { return (&[], bytes) };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    rest.split_at(length.min(rest.len()))
}
