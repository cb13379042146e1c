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

{{/* The exporter's configuration, as text. */}}
{{- define "sched_exporter.config" -}}
{{- $config := kindIs "string" .Values.config | ternary .Values.config (toYaml .Values.config) }}
{{- /* Ignores comments. */}}
{{- if and (regexMatch "(?m)^[^#\n]*node\\.labels" $config) (not .Values.nodeLabels.enabled) }}
{{- fail "config uses node.labels, which requires nodeLabels.enabled: true" }}
{{- end }}
{{- $config }}
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
{{- if .honorLabels }}
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
