"""Checks of deploy/kubernetes and deploy/helm: each test of manifests.rs runs the function of its name.

The manifests are rendered by kustomize and by Helm's own library, with the values below. `cargo xtask
test` passes the paths of tools in the environment.
"""

import copy
import difflib
import functools
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import tempfile

import kubernetes_validate.utils
import yaml
from helm_python import HelmError
from helm_python.chart import Chart, lint
from kubernetes_validate import SchemaNotFoundError, ValidationError, validate

ROOT = pathlib.Path(__file__).parents[3]
KUSTOMIZE = ROOT / "deploy/kubernetes"
CHART = ROOT / "deploy/helm/sched_exporter"
RULES = [ROOT / f"deploy/prometheus/{name}.rules.yaml" for name in ("recording", "alerts")]
EXPORTER = os.environ["SCHED_EXPORTER_BIN"]

NAME = "sched-exporter"
# The oldest that the chart allows, one in between, and the newest with available schemas.
KUBERNETES = ["1.25", "1.31", "1.37"]
OPERATOR_GROUP = "monitoring.coreos.com/"
PROBES = {
    "startupProbe": "/-/healthy",
    "livenessProbe": "/-/healthy",
    "readinessProbe": "/-/ready",
}

# The chart's values that correspond to kustomize's components.
COMPONENTS = {
    "privileged": {"privileged": True},
    "monitoring": {"podMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}},
    "node-labels": {
        "nodeLabels": {"enabled": True},
        "config": {
            "labels": {"zone": "{{ node.labels['topology.kubernetes.io/zone'] | default('none') }}"}
        },
    },
    "hybrid-cgroups": {"cgroups": {"hostPath": "/sys/fs/cgroup/unified"}},
    "names-cri": {"names": {"cri": {"enabled": True}}},
    "names-crio": {"names": {"cri": {"enabled": True, "socket": "/run/crio/crio.sock"}}},
    "names-api": {"names": {"api": {"enabled": True}}},
    "pins": {"pins": {"enabled": True}},
    "no-cgroups": {"cgroups": {"enabled": False}},
    "web-config": {"web": {"secret": "sched-exporter-web"}},
}
# Those that can be combined, with a configuration that has the keys of each.
COMBINED = [name for name in COMPONENTS if name not in ("names-crio", "no-cgroups", "pins")]
ALL_COMPONENTS = {key: value for name in COMBINED for key, value in COMPONENTS[name].items()} | {
    "names": {"cri": {"enabled": True}, "api": {"enabled": True}}
}
COMBINED_CONFIG = {
    "labels": {
        "host": "{{ env.NODE_NAME }}",
        "zone": "{{ node.labels['topology.kubernetes.io/zone'] | default('none') }}",
    },
    "cgroups": {
        "runtimes": ["unix:///run/containerd/containerd.sock"],
        "kubernetes_pods": True,
    },
}

# The node's cgroups: directories that may be mounted, and where.
CGROUPS = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/cpu"]
CGROUPS_MOUNT = "/host/sys/fs/cgroup"
# The directories of the runtimes' sockets, which are mounted at the same path.
RUNTIMES = ["/run/containerd", "/run/crio", "/run/k3s/containerd"]
# The directory of the node's BPF filesystem that outlives the pod, and where it is mounted: /sys is read-only.
PINS = {"path": "/sys/fs/bpf/sched_exporter", "type": "DirectoryOrCreate"}
PINS_MOUNT = "/run/sched_exporter/pins"

# The rights that the exporter may have in a cluster, by the end of the role's name. Never nodes/proxy: with
# `get` alone, kubelet runs commands in every pod.
RIGHTS = {
    "": {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]},
    "-pods": {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
}

# Every value of a PodMonitor and a ServiceMonitor.
MONITOR = {
    "enabled": True,
    "labels": {"release": "prometheus"},
    "interval": "1m30s",
    "scrapeTimeout": "10s",
    "scheme": "https",
    "tlsConfig": {
        "ca": {"secret": {"name": "exporters-ca", "key": "ca.crt"}},
        "cert": {"secret": {"name": "prometheus", "key": "tls.crt"}},
        "keySecret": {"name": "prometheus", "key": "tls.key"},
        "serverName": "sched-exporter",
    },
    "basicAuth": {
        "username": {"name": "prometheus", "key": "user"},
        "password": {"name": "prometheus", "key": "password"},
    },
    "honorLabels": False,
    "relabelings": [
        {"sourceLabels": ["__meta_kubernetes_node_label_pool"], "targetLabel": "pool"},
        {
            "sourceLabels": ["pool", "instance"],
            "separator": "/",
            "regex": "(.*)",
            "targetLabel": "pool",
            "replacement": "$1",
            "action": "replace",
        },
        {"sourceLabels": ["instance"], "targetLabel": "s", "modulus": 8, "action": "hashmod"},
    ],
    "metricRelabelings": [{"regex": "reason", "action": "labeldrop"}],
    "attachMetadata": {"node": True},
}

# Other features of the chart.
VALUES = {
    "little": {
        "service": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "serviceAccount": {"create": False},
        "resources": {"requests": None, "limits": None},
        "nodeSelector": {"kubernetes.io/os": None},
        "tolerations": [],
        "priorityClassName": "",
    },
    # Its first line is indented more than the next, and its comment names a source that is disabled.
    "text": {"config": "  # node.labels\nlabels: {host: '{{ env.NODE_NAME }}', zone: a}\n"},
    "shipped": {"config": (ROOT / "config/exporter.yaml").read_text()},
    "map": {"config": {"labels": {"zone": None, "team": "sre"}, "without": ["cpu"]}},
    "much": {
        "global": {"imageRegistry": "ignored"},
        "nameOverride": "sched",
        "fullnameOverride": "cpu-time",
        "image": {
            "repository": "registry.example:5000/team/sched_exporter",
            "tag": "0.2.0",
            "digest": "sha256:" + "0a" * 32,
            "pullPolicy": "Always",
        },
        "imagePullSecrets": [{"name": "registry"}],
        "extraArgs": ["--log.format=json", "--no-collector.context-switches"],
        "seccompProfile": {"type": "Localhost", "localhostProfile": "profiles/bpf.json"},
        "nodeLabels": {"enabled": True},
        "names": {
            "cri": {"enabled": True, "socket": "/run/k3s/containerd/containerd.sock"},
            "api": {"enabled": True},
        },
        "config": {"cgroups": {"keep": "1h"}},
        "cgroups": {"hostPath": "/sys/fs/cgroup/cpu"},
        "pins": {"enabled": True},
        "serviceAccount": {"name": "bpf", "annotations": {"example.org/a": "b"}},
        "resources": {"limits": {"cpu": 1, "memory": "128Mi"}},
        "priorityClassName": "high",
        "updateStrategy": {"type": "OnDelete", "rollingUpdate": None},
        "terminationGracePeriodSeconds": 30,
        "port": 9435,
        "web": {"secret": "tls", "file": "web.yml"},
        "startupProbe": {"failureThreshold": 120},
        "livenessProbe": None,
        "readinessProbe": {
            "initialDelaySeconds": 0,
            "periodSeconds": 5,
            "successThreshold": 2,
            "failureThreshold": 1,
        },
        "nodeSelector": {"pool": "a"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [
                        {"matchExpressions": [{"key": "virtual", "operator": "DoesNotExist"}]}
                    ]
                }
            }
        },
        "podAnnotations": {"example.org/a": "true"},
        "podLabels": {"team": "sre"},
        "service": {"annotations": {"example.org/a": "b"}},
        "networkPolicy": {
            "from": [
                {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
            ]
        },
        "podMonitor": MONITOR,
        "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
    },
    "service monitor": {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}},
    "much of a service monitor": {
        "port": 10436,
        "livenessProbe": {"terminationGracePeriodSeconds": 5},
        "serviceMonitor": MONITOR,
    },
}

# Invalid values, and a part of the expected error.
REFUSED = [
    ({"imagee": {}}, "imagee"),
    ({"image": {"tag": 1.0}}, "/image/tag"),
    ({"image": {"digest": "sha256:abc"}}, "/image/digest"),
    ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
    ({"image": {"registry": "registry.example"}}, "registry"),
    ({"imagePullSecrets": ["registry"]}, "/imagePullSecrets/0"),
    ({"config": ["labels"]}, "/config"),
    ({"config": {"labels": {"zone": "{{ node.labels['a'] }}"}}}, "nodeLabels.enabled"),
    ({"extraArgs": "--log.level=debug"}, "/extraArgs"),
    ({"extraArgs": ["log.level=debug"]}, "/extraArgs/0"),
    ({"extraEnv": {"RACK": "r1"}}, "/extraEnv"),
    ({"extraVolumes": [{"hostPath": {"path": "/etc"}}]}, "/extraVolumes/0"),
    ({"port": "9100"}, "/port"),
    ({"port": 65536}, "/port"),
    ({"hostNetwork": "true"}, "/hostNetwork"),
    ({"web": {"secret": True}}, "/web/secret"),
    ({"web": {"file": "etc/web.yml"}}, "/web/file"),
    ({"web": {"config": {}}}, "config"),
    ({"privileged": "yes"}, "/privileged"),
    ({"seccompProfile": {"type": "Docker"}}, "/seccompProfile/type"),
    ({"seccompProfile": {"type": "Localhost"}}, "localhostProfile"),
    ({"nodeLabels": {"enable": True}}, "enable"),
    ({"names": {"cri": True}}, "/names/cri"),
    ({"names": {"cri": {"enabled": "yes"}}}, "/names/cri/enabled"),
    ({"names": {"cri": {"socket": "unix:///run/crio/crio.sock"}}}, "/names/cri/socket"),
    # Its directory would be the root directory of the node.
    ({"names": {"cri": {"socket": "/docker.sock"}}}, "/names/cri/socket"),
    ({"names": {"cri": {"enabled": True}}, "config": "labels: {}"}, "cgroups.runtimes"),
    ({"names": {"api": {"enabled": True}}, "config": "labels: {}"}, "kubernetes_pods"),
    ({"names": {"api": {"enabled": True}}, "cgroups": {"enabled": False}}, "cgroups.enabled"),
    ({"config": {"cgroups": {"kubernetes_pods": True}}}, "names.api.enabled"),
    ({"config": "cgroups:\n  kubernetes_pods: true\n"}, "names.api.enabled"),
    ({"cgroups": {"enabled": "no"}}, "/cgroups/enabled"),
    ({"cgroups": {"hostPath": "sys/fs/cgroup"}}, "/cgroups/hostPath"),
    ({"cgroups": {"recursiveReadOnly": True}}, "/cgroups/recursiveReadOnly"),
    ({"pins": {"enabled": "yes"}}, "/pins/enabled"),
    ({"pins": {"hostPath": "/"}}, "/pins/hostPath"),
    ({"serviceAccount": {"create": "false"}}, "/serviceAccount/create"),
    ({"resources": {"limit": {"memory": "1Gi"}}}, "limit"),
    ({"priorityClassName": 1}, "/priorityClassName"),
    ({"updateStrategy": {"type": "Recreate"}}, "/updateStrategy/type"),
    ({"updateStrategy": {"rollingUpdate": {"maxUnavailable": "ten"}}}, "maxUnavailable"),
    ({"terminationGracePeriodSeconds": -1}, "/terminationGracePeriodSeconds"),
    ({"startupProbe": {"httpGet": {"path": "/"}}}, "httpGet"),
    ({"livenessProbe": False}, "/livenessProbe"),
    ({"readinessProbe": {"periodSeconds": 0}}, "/readinessProbe/periodSeconds"),
    ({"nodeSelector": {"pool": True}}, "/nodeSelector/pool"),
    ({"tolerations": {"operator": "Exists"}}, "/tolerations"),
    ({"podLabels": ["team"]}, "/podLabels"),
    ({"service": {"port": 9100}}, "port"),
    ({"networkPolicy": {"from": {}}}, "/networkPolicy/from"),
    ({"podMonitor": {"interval": "5 minutes"}}, "/podMonitor/interval"),
    ({"podMonitor": {"scheme": "HTTPS"}}, "/podMonitor/scheme"),
    ({"podMonitor": {"honorLabels": "true"}}, "/podMonitor/honorLabels"),
    ({"podMonitor": {"relabelings": [{"source_labels": ["a"]}]}}, "source_labels"),
    ({"podMonitor": {"metricRelabelings": {"regex": "a"}}}, "/podMonitor/metricRelabelings"),
    ({"serviceMonitor": {"attachMetadata": {"nodes": True}}}, "nodes"),
    ({"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}}, "enable one"),
    ({"serviceMonitor": {"enabled": True}, "service": {"enabled": False}}, "service.enabled"),
    ({"prometheusRule": {"rules": []}}, "rules"),
]


def documents(text):
    return [document for document in yaml.safe_load_all(text) if document]


def kustomize(directory):
    """The objects of a directory of deploy/kubernetes or elsewhere, by kustomize."""
    command = [os.environ["SCHED_EXPORTER_KUSTOMIZE"], "build", str(KUSTOMIZE / directory)]
    return documents(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def kustomize_ours(kustomization, config={"labels": {"host": "a", "zone": "b"}}):
    """The objects of a user's own kustomization, outside this repository."""
    with tempfile.TemporaryDirectory() as directory:
        below = os.path.relpath(KUSTOMIZE, os.path.realpath(directory))
        kustomization = json.dumps(kustomization).replace("BELOW", below)
        pathlib.Path(directory, "kustomization.yaml").write_text(kustomization)
        pathlib.Path(directory, "exporter.yaml").write_text(yaml.safe_dump(config))
        return kustomize(directory)


def kustomization_of_the_guide():
    """The kustomization in docs/deploy.md, which is next to a clone of this repository."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/deploy.md").read_text(), re.S)
    (block,) = [it for it in blocks if it.startswith("resources:")]
    return yaml.safe_load(block.replace("sched_exporter/deploy/kubernetes", "BELOW"))


def values_of_the_readme():
    """The values in the chart's README that extend the pod, and other values that it lists."""
    text = (CHART / "README.md").read_text()
    (block,) = re.findall(r"```yaml\n(config:.*?)```", text, re.S)
    values = yaml.safe_load(block)
    values["config"]["labels"]["rack"] = "{{ env.RACK }}"
    return values | {"extraEnv": [{"name": "RACK", "value": "r1"}], "hostNetwork": True}


def helm(values, name=NAME, namespace=NAME):
    """The objects of the chart with values, without its notes."""
    with Chart.load(CHART) as chart:
        rendered = chart.render(values, name=name, namespace=namespace)
    texts = [text for path, text in sorted(rendered.items()) if path.endswith(".yaml")]
    return [document for text in texts for document in documents(text)]


@functools.cache
def renderings():
    """All renderings to check, by name."""
    found = {f"overlay {path.name}": kustomize(path) for path in (KUSTOMIZE / "overlays").iterdir()}
    every = {
        "resources": ["BELOW/base"],
        "components": [f"BELOW/components/{c}" for c in COMBINED],
        "configMapGenerator": [
            {
                "name": NAME,
                "namespace": NAME,
                "behavior": "replace",
                "files": ["exporter.yaml"],
                "options": {"disableNameSuffixHash": True},
            }
        ],
    }
    found["every component"] = kustomize_ours(every, COMBINED_CONFIG)
    found["our own"] = kustomize_ours(
        every
        | {
            "components": ["BELOW/components/monitoring"],
            "images": [{"name": "sched_exporter", "newName": "registry.example/sched_exporter"}],
        }
    )
    found["of the guide"] = kustomize_ours(kustomization_of_the_guide())
    found["our namespace"] = kustomize_ours(every | {"namespace": "observability"}, COMBINED_CONFIG)
    found["chart by default"] = helm({})
    for name, values in (COMPONENTS | {"every component": ALL_COMPONENTS} | VALUES).items():
        found[f"chart: {name}"] = helm(values)
    found["chart: of its README"] = helm(values_of_the_readme())
    # Names that YAML would read as numbers.
    found["chart: numbers"] = helm({"nameOverride": "7"}, name="1", namespace="2")
    return found


def one(rendering, kind):
    """The only object of a kind, or None."""
    found = [document for document in rendering if document["kind"] == kind]
    assert len(found) <= 1, f"{len(found)} objects of kind {kind}"
    return found[0] if found else None


def named(rendering, kind):
    """The objects of a kind, by name."""
    return {it["metadata"]["name"]: it for it in rendering if it["kind"] == kind}


def pod_of(rendering):
    return one(rendering, "DaemonSet")["spec"]["template"]


def config_of(rendering):
    ((_, text),) = one(rendering, "ConfigMap")["data"].items()
    return yaml.safe_load(text)


def endpoints(rendering):
    """What Prometheus scrapes: the endpoint of a PodMonitor or a ServiceMonitor, if there is one."""
    kinds = {"PodMonitor": "podMetricsEndpoints", "ServiceMonitor": "endpoints"}
    found = [it["spec"][kinds[it["kind"]]] for it in rendering if it["kind"] in kinds]
    assert len(found) <= 1, "the exporter is scraped twice"
    return found[0] if found else []


# The definitions of Kubernetes and of the operator.

# Read each schema once, not once per object.
kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)


@functools.cache
def fault_of(text, version):
    document = json.loads(text)
    try:
        validate(document, version, strict=True)
    except ValidationError as error:
        return f"{document['kind']}, Kubernetes {version}: {error.json_path}: {error.message}"
    except SchemaNotFoundError as error:
        return error.message


def fits_kubernetes(rendering):
    for document in rendering:
        if not document["apiVersion"].startswith(OPERATOR_GROUP):
            for version in KUBERNETES:
                fault = fault_of(json.dumps(document, sort_keys=True), version)
                assert fault is None, fault


def fits_the_operator(rendering):
    script = pathlib.Path(__file__).with_name("operator.mjs")
    objects = [it for it in rendering if it["apiVersion"].startswith(OPERATOR_GROUP)]
    command = ["node", script, os.environ["SCHED_EXPORTER_OPERATOR"]]
    done = subprocess.run(command, input=json.dumps(objects), text=True, stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr
    return len(objects)


# How the objects fit together and fit the exporter, which schemas do not cover.


def exporter(*args, environment=None):
    command = [EXPORTER, *args]
    done = subprocess.run(command, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@functools.cache
def help_of_the_exporter():
    """The help text without line breaks, which can fall inside of a default value."""
    return " ".join(exporter("--help").split())


def fits_together(rendering):
    pod, daemonset = pod_of(rendering), one(rendering, "DaemonSet")
    (container,) = pod["spec"]["containers"]
    labels, namespace = pod["metadata"]["labels"], daemonset["metadata"]["namespace"]

    # Selectors.
    selectors = {"DaemonSet": daemonset["spec"]["selector"]["matchLabels"]}
    if service := one(rendering, "Service"):
        selectors["Service"] = service["spec"]["selector"]
    if policy := one(rendering, "NetworkPolicy"):
        selectors["NetworkPolicy"] = policy["spec"]["podSelector"]["matchLabels"]
    if pod_monitor := one(rendering, "PodMonitor"):
        selectors["PodMonitor"] = pod_monitor["spec"]["selector"]["matchLabels"]
    for kind, selector in selectors.items():
        assert selector and selector.items() <= labels.items(), f"{kind}: {selector} of {labels}"
    if service_monitor := one(rendering, "ServiceMonitor"):
        selector = service_monitor["spec"]["selector"]["matchLabels"]
        assert selector and selector.items() <= service["metadata"]["labels"].items(), selector

    # The port that the exporter listens on, and its references.
    (port,) = container["ports"]
    listening = [it for it in container.get("args", []) if it.startswith("--web.listen-address")]
    if listening:
        assert listening == [f"--web.listen-address=:{port['containerPort']}"], listening
    else:
        assert f"[default: :{port['containerPort']}]" in help_of_the_exporter(), port
    web = [it for it in container.get("args", []) if it.startswith("--web.config.file=")]
    for probe, path in PROBES.items():
        if probe in container and web:
            command = ["/bin/sched_exporter", "healthcheck", *listening, *web]
            assert container[probe].get("exec") == {"command": command}, probe
            assert "httpGet" not in container[probe], probe
        elif probe in container:
            assert container[probe].get("httpGet") == {"path": path, "port": port["name"]}, probe
    if service:
        (of_service,) = service["spec"]["ports"]
        assert of_service["targetPort"] == port["name"], of_service
        assert of_service["port"] == port["containerPort"], of_service
        assert of_service["name"] == port["name"], of_service
        assert service["spec"]["clusterIP"] == "None", service["spec"]["clusterIP"]
    if policy:
        (ingress,) = policy["spec"]["ingress"]
        assert ingress["ports"] == [{"port": port["name"], "protocol": "TCP"}], ingress
    for endpoint in endpoints(rendering):
        assert endpoint["port"] == port["name"], endpoint

    # The configuration is at the exporter's default path.
    volume, *more_volumes = pod["spec"]["volumes"]
    mount, *more_mounts = container["volumeMounts"]
    assert [it["name"] for it in more_volumes] == [it["name"] for it in more_mounts]
    config = one(rendering, "ConfigMap")
    assert volume["configMap"] == {"name": config["metadata"]["name"]}, volume
    assert mount.keys() == {"name", "mountPath", "readOnly"} and mount["name"] == volume["name"]
    (file,) = config["data"]
    assert f"[default: {mount['mountPath']}/{file}]" in help_of_the_exporter(), mount
    # The exporter reloads it. Nothing of it may be in the pod, or a change would restart all pods.
    assert not any("checksum" in key for key in pod["metadata"].get("annotations", {}))

    # The node's cgroups are mounted where they do not hide the container's own, or else are not needed.
    mounts = [it["mountPath"] for it in more_mounts if it["name"] == "cgroup"]
    off = "--no-collector.cgroups" in container.get("args", [])
    assert mounts == ([] if off else [CGROUPS_MOUNT]), mounts

    # The web configuration is where the Secret is mounted.
    mounts = [it["mountPath"] for it in more_mounts if it["name"] == "web-config"]
    assert mounts == [os.path.dirname(it.removeprefix("--web.config.file=")) for it in web], mounts

    # The runtimes that it asks are those whose sockets' directories are mounted: at the same path.
    cgroups = config_of(rendering).get("cgroups") or {}
    sockets = [it.removeprefix("unix://") for it in cgroups.get("runtimes") or []]
    mounts = [it["mountPath"] for it in more_mounts if it["name"] == "runtime"]
    assert mounts == [os.path.dirname(it) for it in sockets], f"{mounts} for {sockets}"

    # The exporter pins what is to outlive it where a directory of the node is mounted.
    pins = [it for it in container.get("args", []) if it.startswith("--ebpf.pin-path")]
    mounts = [it["mountPath"] for it in more_mounts if it["name"] == "pins"]
    assert pins == [f"--ebpf.pin-path={it}" for it in mounts], f"{pins} for {mounts}"
    assert mounts in ([], [PINS_MOUNT]), mounts

    # The service account and its permissions.
    account, roles = one(rendering, "ServiceAccount"), named(rendering, "ClusterRole")
    name = pod["spec"]["serviceAccountName"]
    assert name == (account["metadata"]["name"] if account else "default"), name
    assert account is None or account["automountServiceAccountToken"] is False
    assert pod["spec"]["automountServiceAccountToken"] is bool(roles)
    for role, of_role in roles.items():
        assert of_role["rules"] == [RIGHTS[role.removeprefix(daemonset["metadata"]["name"])]], of_role
    bindings = named(rendering, "ClusterRoleBinding")
    assert bindings.keys() == roles.keys()
    for role, binding in bindings.items():
        assert binding["roleRef"]["name"] == role
        subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
        assert binding["subjects"] == [subject], binding
    lists_pods = any(role.endswith("-pods") for role in roles)
    assert cgroups.get("kubernetes_pods", False) is lists_pods, cgroups
    assert "NODE_NAME" in [it["name"] for it in container["env"]]
    for document in rendering:
        if document["kind"] not in ("Namespace", "ClusterRole", "ClusterRoleBinding"):
            assert document["metadata"]["namespace"] == namespace, document["kind"]


def takes_no_more_than_it_needs(rendering):
    spec = pod_of(rendering)["spec"]
    (container,) = spec["containers"]
    for key in ("hostNetwork", "hostPID", "hostIPC", "securityContext", "initContainers"):
        assert key not in spec, key
    for volume in spec["volumes"]:
        if host_path := volume.get("hostPath"):
            if volume["name"] == "pins":
                assert host_path == PINS, host_path
                continue
            paths = {"cgroup": CGROUPS, "runtime": RUNTIMES}[volume["name"]]
            assert host_path["path"] in paths and host_path["type"] == "Directory", host_path
            (mount,) = [it for it in container["volumeMounts"] if it["name"] == volume["name"]]
            assert mount["readOnly"] is True, mount
            assert mount["mountPath"] in [host_path["path"], CGROUPS_MOUNT], mount
    context = dict(container["securityContext"])
    assert context.pop("readOnlyRootFilesystem") is True, "readOnlyRootFilesystem"
    assert (context.pop("runAsUser"), context.pop("runAsGroup")) == (0, 0), "not root"
    if context.pop("privileged", False):
        assert context == {}, context
    else:
        capabilities = context.pop("capabilities")
        assert capabilities == {"drop": ["ALL"], "add": ["BPF", "PERFMON"]}, capabilities
        assert context.pop("allowPrivilegeEscalation") is False, "allowPrivilegeEscalation"
        assert context.pop("seccompProfile")["type"] in ("RuntimeDefault", "Localhost")
        assert context == {}, context


def os_id():
    """The distribution of this machine."""
    return platform.freedesktop_os_release()["ID"]


def check_of_configuration(rendering, zone):
    """The exporter's labels in a pod on node `node-1` in this zone."""
    pod = pod_of(rendering)
    (container,) = pod["spec"]["containers"]
    fields = {"spec.nodeName": "node-1", "metadata.labels['topology.kubernetes.io/zone']": zone}
    environment = {
        variable["name"]: variable["value"]
        if "value" in variable
        else fields[variable["valueFrom"]["fieldRef"]["fieldPath"]]
        for variable in container["env"]
    }
    # The Secret with the web configuration is not among the objects.
    args = [it for it in container.get("args", []) if not it.startswith("--web.config.file=")]
    ((_, text),) = one(rendering, "ConfigMap")["data"].items()
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        check = ["--config.check", "--format=json", f"--config.file={file.name}"]
        report = json.loads(
            exporter(*args, *check, environment=os.environ | environment)
        )
    return {name: label["value"] for name, label in report["host"].items()}


# The tests.


def every_object_is_valid_in_kubernetes():
    for name, rendering in renderings().items():
        assert len(rendering) >= 2, name
        within(name, fits_kubernetes, rendering)
    # Kubernetes 1.25 lacks this field.
    daemonset = one(helm({"cgroups": {"recursiveReadOnly": "IfPossible"}}), "DaemonSet")
    faults = [fault_of(json.dumps(daemonset, sort_keys=True), version) for version in KUBERNETES]
    assert "recursiveReadOnly" in faults[0] and faults[1:] == [None, None], faults


def every_object_is_valid_for_the_operator():
    objects = [document for rendering in renderings().values() for document in rendering]
    assert fits_the_operator(objects) >= 10


def objects_fit_together():
    for name, rendering in renderings().items():
        within(name, fits_together, rendering)
        (container,) = pod_of(rendering)["spec"]["containers"]
        disabled = {"livenessProbe"} if name == "chart: much" else set()
        assert PROBES.keys() - container.keys() == disabled, name
        for endpoint in endpoints(rendering):
            honors = endpoint.get("honorLabels", False)
            assert honors is ("much" not in name), f"{name}: the exporter's pod gets all CPU time"


def pods_have_no_more_privileges_than_needed():
    for name, rendering in renderings().items():
        if name == "chart: of its README":
            continue
        within(name, takes_no_more_than_it_needs, rendering)
        (container,) = pod_of(rendering)["spec"]["containers"]
        privileged = name.split()[-1] == "privileged" or "every" in name or name == "our namespace"
        assert container["securityContext"].get("privileged", False) is privileged, name
        namespace = one(rendering, "Namespace")
        level = "pod-security.kubernetes.io/enforce"
        assert namespace is None or namespace["metadata"]["labels"][level] == "privileged"
    for path in KUSTOMIZE.glob("*/names-*/kustomization.yaml"):
        takes = "list the pods of the whole cluster" if "api" in str(path) else "root on the node"
        assert takes in path.read_text().splitlines()[0], path


def labels_are_host_and_zone():
    by_environment = ["overlay capabilities", "overlay privileged", "overlay monitoring"]
    for name in by_environment + ["chart by default", "chart: little", "chart: much"]:
        rendering = renderings()[name]
        for zone, expected in [("eu-1a", "eu-1a"), ("", "none")]:
            labels = within(name, lambda it: check_of_configuration(it, zone), rendering)
            assert labels == {"host": "node-1", "zone": expected}, f"{name}: {labels}"
    for name, expected in [
        ("overlay names-cri", {"host": "node-1", "zone": "eu-1a"}),
        ("overlay names-crio", {"host": "node-1", "zone": "eu-1a"}),
        ("overlay names-api", {"host": "node-1", "zone": "eu-1a"}),
        # There is no API to read them from.
        ("overlay node-labels", {"host": "node-1", "zone": "none"}),
        ("chart: node-labels", {"host": "node-1", "zone": "none"}),
        ("our own", {"host": "a", "zone": "b"}),
        ("chart: text", {"host": "node-1", "zone": "a"}),
        ("chart: shipped", {"host": "example-host", "zone": "example-zone"}),
        (
            "chart: of its README",
            {"host": "node-1", "zone": "eu-1a", "rack": "r1", "team": "none", "os": os_id()},
        ),
        ("chart: map", {"host": "node-1", "team": "sre"}),
    ]:
        labels = check_of_configuration(renderings()[name], "eu-1a")
        assert labels == expected, f"{name}: {labels}"


def the_chart_matches_kustomize():
    pairs = {"capabilities": {}} | COMPONENTS
    for name, values in pairs.items():
        same(f"overlay {name}", normal(renderings()[f"overlay {name}"]), normal(helm(values)))
    ours = normal(renderings()["every component"])
    same("every component", ours, normal(helm(ALL_COMPONENTS)))
    # The comparison detects a change of one field.
    assert ours != normal(helm(ALL_COMPONENTS | {"terminationGracePeriodSeconds": 16}))


def rules_match_those_of_prometheus():
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    assert groups
    for name in ["overlay monitoring", "chart: monitoring", "chart: much", "chart: service monitor"]:
        rule = one(renderings()[name], "PrometheusRule")
        assert rule["spec"] == {"groups": groups}, name
        # The job in the alerts.
        (endpoint,) = endpoints(renderings()[name])
        jobs = set(re.findall(r'job="([^"]*)"', json.dumps(groups).replace('\\"', '"')))
        assert jobs <= {"sched_exporter"}, jobs
        assert {"targetLabel": "job", "replacement": "sched_exporter"} in endpoint["relabelings"]


def the_chart_rejects_invalid_values():
    for values, named in REFUSED:
        try:
            helm(values)
        except HelmError as error:
            assert named in str(error), f"{values}: {error}"
        else:
            raise AssertionError(f"{values} is not rejected")


def the_chart_passes_lint_and_names_its_version():
    for values in [{}, ALL_COMPONENTS, *VALUES.values()]:
        report = lint(CHART, values, strict=True, namespace=NAME)
        # Severity 1 is information: an icon is recommended.
        assert not report["errors"], report
        assert all(message["severity"] == 1 for message in report["messages"]), report
    version = exporter("--version").split()[1]
    with Chart.load(CHART) as chart:
        assert chart.metadata["appVersion"] == chart.version == version, chart.metadata
        assert chart.metadata["kubeVersion"] == f">={KUBERNETES[0]}.0-0"
        notes = chart.render({}, name=NAME, namespace=NAME)["sched_exporter/templates/NOTES.txt"]
    assert f"--namespace {NAME} rollout status daemonset/{NAME}" in notes, notes
    for name in ["overlay capabilities", "chart by default"]:
        (container,) = pod_of(renderings()[name])["spec"]["containers"]
        assert container["image"] == f"sched_exporter:{version}", name
    for name in ["our own", "of the guide"]:
        (container,) = pod_of(renderings()[name])["spec"]["containers"]
        assert container["image"] == f"registry.example/sched_exporter:{version}", name
    (container,) = pod_of(renderings()["chart: much"])["spec"]["containers"]
    digest = VALUES["much"]["image"]["digest"]
    assert container["image"] == f"registry.example:5000/team/sched_exporter:0.2.0@{digest}"


def the_readme_lists_every_value():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    table = re.findall(r"^\| `([\w.]+)` \| `(.*?)` \|", (CHART / "README.md").read_text(), re.M)
    rows = {path: json.loads(default.replace("\\|", "|")) for path, default in table}
    assert len(rows) == len(table), "a value has two rows"

    def of(path):
        return functools.reduce(lambda value, key: value[key], path.split("."), values)

    for path, default in rows.items():
        assert of(path) == default, f"README.md: {path} is {of(path)}"

    def described(path):
        return any(path == row or path.startswith(row + ".") for row in rows)

    def values_below(value, path):
        if described(path) or not isinstance(value, dict):
            assert described(path), f"README.md has no {path}"
        else:
            for key, below in value.items():
                values_below(below, f"{path}.{key}".strip("."))

    def properties_below(schema, path):
        for key, below in schema.get("properties", {}).items():
            of_key = f"{path}.{key}".strip(".")
            within = any(row.startswith(of_key + ".") for row in rows)
            assert described(of_key) or within or key == "global", f"README.md has no {of_key}"
            assert "properties" not in below or below["additionalProperties"] is False, of_key
            properties_below(below, of_key)

    values_below(values, "")
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert schema["additionalProperties"] is False
    properties_below(schema, "")


def the_checks_detect_mistakes():
    """The checks above detect mistakes, each made by one change to a correct rendering."""

    def container(rendering):
        return pod_of(rendering)["spec"]["containers"][0]

    def rename(mapping, old, new):
        mapping[new] = mapping.pop(old)

    def endpoint(rendering):
        return endpoints(rendering)[0]

    def put(mapping, **values):
        mapping.update(values)

    def spec(kind):
        return lambda rendering: one(rendering, kind)["spec"]

    def role(rendering, name):
        return named(rendering, "ClusterRole")[name]

    mistakes = [
        (fits_kubernetes, lambda it: rename(pod_of(it)["spec"], "tolerations", "toleration")),
        (fits_kubernetes, lambda it: rename(container(it), "livenessProbe", "livelinessProbe")),
        (fits_kubernetes, lambda it: put(container(it)["livenessProbe"], periodSeconds="30s")),
        (fits_kubernetes, lambda it: put(spec("DaemonSet")(it), replicas=3)),
        (fits_kubernetes, lambda it: put(one(it, "DaemonSet"), apiVersion="apps/v2")),
        (fits_kubernetes, lambda it: put(spec("NetworkPolicy")(it), ingress={})),
        (fits_the_operator, lambda it: rename(endpoint(it), "port", "prt")),
        (fits_the_operator, lambda it: put(endpoint(it), interval="5 minutes")),
        (fits_the_operator, lambda it: put(endpoint(it)["relabelings"][0], source_labels=["a"])),
        (fits_the_operator, lambda it: put(spec("PrometheusRule")(it)["groups"][0], rule=[])),
        (fits_together, lambda it: put(container(it)["livenessProbe"]["httpGet"], port=10436)),
        (fits_together, lambda it: put(container(it)["readinessProbe"]["httpGet"], path="/ready")),
        (fits_together, lambda it: put(container(it)["ports"][0], containerPort=9100)),
        (fits_together, lambda it: put(container(it), args=["--web.listen-address=:9100"])),
        (fits_together, lambda it: put(spec("Service")(it)["ports"][0], targetPort="metrics")),
        (fits_together, lambda it: put(spec("Service")(it), selector={"app": NAME})),
        (fits_together, lambda it: put(spec("NetworkPolicy")(it), podSelector={"matchLabels": {}})),
        (fits_together, lambda it: put(endpoint(it), port="metrics")),
        (fits_together, lambda it: put(container(it)["volumeMounts"][0], mountPath="/etc")),
        (fits_together, lambda it: put(container(it)["volumeMounts"][0], subPath="exporter.yaml")),
        (fits_together, lambda it: put(one(it, "ConfigMap")["metadata"], name="other")),
        (fits_together, lambda it: put(pod_of(it)["spec"], serviceAccountName="other")),
        (fits_together, lambda it: put(pod_of(it)["spec"], automountServiceAccountToken=False)),
        (fits_together, lambda it: role(it, NAME)["rules"][0]["verbs"].append("list")),
        (fits_together, lambda it: role(it, NAME)["rules"][0]["resources"].append("nodes/proxy")),
        (fits_together, lambda it: role(it, f"{NAME}-pods")["rules"][0]["verbs"].append("get")),
        (fits_together, lambda it: it.remove(role(it, f"{NAME}-pods"))),
        (fits_together, lambda it: put(container(it)["env"][0], name="NODE")),
        (fits_together, lambda it: put(container(it)["volumeMounts"][2], mountPath="/run/crio")),
        (fits_together, lambda it: put(one(it, "ConfigMap"), data={"exporter.yaml": "labels: {}"})),
        (fits_together, lambda it: put(one(it, "Service")["metadata"], namespace="other")),
        (fits_together, lambda it: put(container(it)["volumeMounts"][1], mountPath="/sys/fs/cgroup")),
        (fits_together, lambda it: put(container(it), args=["--no-collector.cgroups"])),
        (takes_no_more_than_it_needs, lambda it: put(pod_of(it)["spec"], hostPID=True)),
        (
            takes_no_more_than_it_needs,
            lambda it: put(pod_of(it)["spec"]["volumes"][1]["hostPath"], path="/sys"),
        ),
        (
            takes_no_more_than_it_needs,
            lambda it: put(container(it)["volumeMounts"][1], readOnly=False),
        ),
        (
            takes_no_more_than_it_needs,
            lambda it: put(pod_of(it)["spec"]["volumes"][2]["hostPath"], path="/run"),
        ),
        (
            takes_no_more_than_it_needs,
            lambda it: put(
                pod_of(it)["spec"]["volumes"][2]["hostPath"],
                path="/run/containerd/containerd.sock",
                type="Socket",
            ),
        ),
        (
            takes_no_more_than_it_needs,
            lambda it: container(it)["securityContext"]["capabilities"]["add"].append("SYS_ADMIN"),
        ),
    ]
    of_service_monitors = [
        (fits_the_operator, lambda it: put(endpoint(it), honorLabels="true")),
        (fits_the_operator, lambda it: put(spec("ServiceMonitor")(it), attachMetadata=["node"])),
        (fits_together, lambda it: put(endpoint(it), port=10435)),
        (fits_together, lambda it: put(one(it, "Service")["metadata"], labels={"app": NAME})),
        (fits_together, lambda it: put(spec("ServiceMonitor")(it)["selector"], matchLabels={})),
        (fits_together, lambda it: it.append(one(helm(ALL_COMPONENTS), "PodMonitor"))),
    ]
    def volume(rendering):
        return pod_of(rendering)["spec"]["volumes"][2]

    of_web_configurations = [
        (fits_together, lambda it: container(it)["livenessProbe"]["exec"]["command"].pop()),
        (fits_together, lambda it: put(container(it)["readinessProbe"], httpGet={"path": "/"})),
        (fits_together, lambda it: put(container(it)["volumeMounts"][2], mountPath="/etc/web")),
        (fits_together, lambda it: container(it)["args"].pop()),
        (fits_kubernetes, lambda it: put(volume(it)["secret"], name="sched-exporter-web")),
    ]
    apart = ("privileged", "web")
    values = {name: it for name, it in ALL_COMPONENTS.items() if name not in apart}
    detect(mistakes, helm(values))
    detect(of_web_configurations, helm(COMPONENTS["web-config"]))
    detect(of_service_monitors, helm(VALUES["service monitor"]))


# Helpers of the tests.


def detect(mistakes, good):
    """Checks that each check accepts a rendering, and rejects it with the mistake."""
    for check in {check for check, _ in mistakes}:
        check(good)
    for number, (check, make) in enumerate(mistakes):
        bad = copy.deepcopy(good)
        make(bad)
        assert bad != good, number
        try:
            check(bad)
        except AssertionError:
            continue
        raise AssertionError(f"{check.__name__} does not detect mistake {number}")


def within(name, check, rendering):
    """Runs a check, and adds the name of the rendering to its error."""
    try:
        return check(rendering)
    except AssertionError as error:
        raise AssertionError(f"{name}: {error}") from error


OF_HELM = {
    "app.kubernetes.io/instance",
    "app.kubernetes.io/version",
    "app.kubernetes.io/managed-by",
    "helm.sh/chart",
}


def normal(rendering):
    """The objects, without labels set only by Helm and objects that Helm does not create."""

    def without_helm(value):
        if isinstance(value, dict):
            return {key: without_helm(it) for key, it in value.items() if key not in OF_HELM}
        return [without_helm(it) for it in value] if isinstance(value, list) else value

    objects = {f"{it['kind']} {it['metadata']['name']}": without_helm(it) for it in rendering}
    assert len(objects) == len(rendering), "two objects of a kind and name"
    objects.pop(f"Namespace {NAME}", None)
    config = objects[f"ConfigMap {NAME}"]
    config["data"] = {file: yaml.safe_load(text) for file, text in config["data"].items()}
    return objects


def same(name, ours, theirs):
    lines = [yaml.safe_dump(objects).splitlines() for objects in (ours, theirs)]
    difference = "\n".join(difflib.unified_diff(*lines, "kustomize", "chart", lineterm=""))
    assert not difference, f"{name}:\n{difference}"


if __name__ == "__main__":
    globals()[sys.argv[1]]()
