{{/* Names are DNS labels, which cannot contain underscores. */}}
{{- define "sched_exporter.name" -}}
{{ .Values.nameOverride | default .Chart.Name | replace "_" "-" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "sched_exporter.fullname" -}}
{{- $name := include "sched_exporter.name" . }}
{{- $both := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) }}
{{- .Values.fullnameOverride | default $both | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "sched_exporter.serviceAccountName" -}}
{{ .Values.serviceAccount.name | default (.Values.serviceAccount.create | ternary (include "sched_exporter.fullname" .) "default") }}
{{- end }}

{{- define "sched_exporter.selector" -}}
app.kubernetes.io/name: {{ include "sched_exporter.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "sched_exporter.metadata" -}}
name: {{ include "sched_exporter.fullname" . | quote }}
namespace: {{ .Release.Namespace | quote }}
labels:
  {{- include "sched_exporter.labels" . | nindent 2 }}
{{- end }}

{{- define "sched_exporter.labels" -}}
{{ include "sched_exporter.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* The exporter's configuration, as text. A map also gets the sources of names. */}}
{{- define "sched_exporter.config" -}}
{{- $names := .Values.names }}
{{- $config := .Values.config }}
{{- if kindIs "map" $config }}
{{- $sockets := $names.cri.enabled | ternary (list (printf "unix://%s" $names.cri.socket)) list }}
{{- $cgroups := dict "runtimes" $sockets }}
{{- if $names.api.enabled }}
{{- $cgroups = set $cgroups "kubernetes_pods" true }}
{{- end }}
{{- $config = merge (deepCopy $config) (dict "cgroups" $cgroups) | toYaml }}
{{- end }}
{{- /* Ignores comments. */}}
{{- if and (regexMatch "(?m)^[^#\n]*node\\.labels" $config) (not .Values.nodeLabels.enabled) }}
{{- fail "config uses node.labels, which requires nodeLabels.enabled: true" }}
{{- end }}
{{- $pods := regexMatch "(?m)^[^#\n]*\\bkubernetes_pods: *true\\b" $config }}
{{- if and $pods (not $names.api.enabled) }}
{{- fail "config sets kubernetes_pods, which requires names.api.enabled: true" }}
{{- end }}
{{- if and $names.api.enabled (not $pods) }}
{{- fail "names.api.enabled requires kubernetes_pods: true in cgroups of config" }}
{{- end }}
{{- if and $names.cri.enabled (not (contains $names.cri.socket $config)) }}
{{- fail (printf "names.cri.enabled requires unix://%s in cgroups.runtimes of config" $names.cri.socket) }}
{{- end }}
{{- if and (or $names.cri.enabled $names.api.enabled) (not .Values.cgroups.enabled) }}
{{- fail "names requires cgroups.enabled: true" }}
{{- end }}
{{- $config }}
{{- end }}

{{/* Whether the exporter queries the Kubernetes API: "true" or "false". */}}
{{- define "sched_exporter.queriesApi" -}}
{{ or .Values.nodeLabels.enabled .Values.names.api.enabled }}
{{- end }}

{{/* What a PodMonitor and a ServiceMonitor scrape, from the values of either. */}}
{{- define "sched_exporter.endpoint" -}}
port: http-metrics
{{- with .interval }}
interval: {{ . }}
{{- end }}
{{- with .scrapeTimeout }}
scrapeTimeout: {{ . }}
{{- end }}
{{- with .scheme }}
scheme: {{ . }}
{{- end }}
{{- with .tlsConfig }}
tlsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .basicAuth }}
basicAuth:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .honorLabels }}
# So that the labels `namespace`, `pod` and `container` name who used the CPU. Otherwise Prometheus would
# replace them with those of the exporter's pod. Every series of a cgroup has them, even if empty, and empty
# ones are honored, too: the time of a unit is never added to the exporter's pod.
honorLabels: true
{{- end }}
relabelings:
# The alerts expect this job, as in deploy/prometheus.
- {targetLabel: job, replacement: sched_exporter}
# A pod's address changes at each restart; its node does not.
- {sourceLabels: [__meta_kubernetes_pod_node_name], targetLabel: instance}
{{- with .relabelings }}
{{ toYaml . }}
{{- end }}
{{- with .metricRelabelings }}
metricRelabelings:
{{ toYaml . }}
{{- end }}
{{- end }}
