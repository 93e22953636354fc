{{/* What templates share. Helpers that take more than the root take a dict with `root`. */}}

{{- define "parley.fullname" -}}
{{- default .Release.Name .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* What is of this release; with `component`: of that service. */}}
{{- define "parley.selector" -}}
app.kubernetes.io/name: parley
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{- define "parley.labels" -}}
{{ include "parley.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "parley.meta" -}}
name: {{ include "parley.fullname" .root }}-{{ .component }}
labels: {{- include "parley.labels" . | nindent 2 }}
{{- end -}}

{{/* What all pods have. Service links are off: a service called `gateway` would set GATEWAY_PORT. */}}
{{- define "parley.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .root.Values.pods.user }}
  runAsGroup: {{ .root.Values.pods.group }}
  fsGroup: {{ .root.Values.pods.group }}
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.pods.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.pods.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.pods.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* Over zones and nodes, as evenly as the cluster can. */}}
{{- define "parley.spread" -}}
topologySpreadConstraints:
{{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "parley.selector" $ | nindent 8 }}
{{- end }}
{{- end -}}

{{/* What all containers have; `image` is the service's. */}}
{{- define "parley.container" -}}
image: {{ printf "%s-%s:%s" .root.Values.image.repository .image (default .root.Chart.AppVersion .root.Values.image.tag) | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  capabilities: {drop: [ALL]}
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* The service's own words: `live` starts it anew, `ready` lets requests to it. */}}
{{- define "parley.probes" -}}
startupProbe:
  httpGet: {path: /health/live, port: {{ . }}}
  periodSeconds: 2
  timeoutSeconds: 5
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /health/live, port: {{ . }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /health/ready, port: {{ . }}}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
{{- end -}}

{{/* A variable with a value, as the services read it: lists and objects are JSON. */}}
{{- define "parley.variable" -}}
- name: {{ .name }}
  value: {{ if kindIs "string" .value }}{{ .value | quote }}{{ else }}{{ .value | toJson | quote }}{{ end }}
{{- end -}}

{{- define "parley.secret" -}}
- name: {{ .name }}
  valueFrom:
    secretKeyRef: {name: {{ .secret }}, key: {{ default .name .key }}{{ if .optional }}, optional: true{{ end }}}
{{- end -}}

{{/* Of the Secret that the operator makes up; a container may start without those that are optional. */}}
{{- define "parley.secrets" -}}
{{- range .required }}
{{ include "parley.secret" (dict "name" . "secret" $.root.Values.secretName) }}
{{- end }}
{{- range .optional }}
{{ include "parley.secret" (dict "name" . "secret" $.root.Values.secretName "optional" true) }}
{{- end }}
{{- end -}}

{{- define "parley.settings" -}}
{{- range $name, $value := . }}
{{ include "parley.variable" (dict "name" $name "value" $value) }}
{{- end }}
{{- end -}}

{{/* What every service of ours reads. */}}
{{- define "parley.common" -}}
{{- include "parley.settings" (dict "PARLEY_PROFILE" "production" "LOG_FORMAT" "json" "LOG_LEVEL" .Values.logLevel) }}
{{- end -}}

{{/* Of the services that take part in a trace; the headers may hold the collector's key. */}}
{{- define "parley.tracing" -}}
{{- with .Values.tracing }}
{{- if .endpoint }}
{{- include "parley.settings" (dict "OTEL_EXPORTER_OTLP_ENDPOINT" .endpoint "OTEL_TRACES_SAMPLER_ARG" .part) }}
{{- include "parley.settings" .settings }}
{{- include "parley.secrets" (dict "root" $ "optional" (list "OTEL_EXPORTER_OTLP_HEADERS")) }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "parley.broker" -}}
{{- $root := .root -}}
{{- include "parley.settings" (dict "JOURNAL_PARTITION_COUNT" $root.Values.partitionCount) }}
{{- if $root.Values.caSecret.name }}
{{- include "parley.settings" (dict "TLS_CA_FILE" "/etc/parley/ca/ca.crt") }}
{{- end }}
{{- $url := printf "%s_RABBITMQ_URL" .prefix }}
{{- if not $root.Values.rabbitmq.urlSecret }}
{{- $secret := printf "%s-%s-user-credentials" $root.Values.rabbitmq.cluster .user }}
{{ include "parley.secret" (dict "name" (printf "%s_RABBITMQ_USER" .prefix) "secret" $secret "key" "username") }}
{{ include "parley.secret" (dict "name" (printf "%s_RABBITMQ_PASSWORD" .prefix) "secret" $secret "key" "password") }}
{{ include "parley.variable" (dict "name" $url "value" (printf "amqp://$(%s_RABBITMQ_USER):$(%s_RABBITMQ_PASSWORD)@%s:5672/" .prefix .prefix $root.Values.rabbitmq.cluster)) }}
{{- else }}
{{ include "parley.secret" (dict "name" $url "secret" $root.Values.rabbitmq.urlSecret) }}
{{- end }}
{{- end -}}

{{/* The address of the cluster's primary, checked by the cluster's own authority. */}}
{{- define "parley.postgresAddress" -}}
{{ .Values.postgres.cluster }}-rw:5432/{{ .Values.postgres.database }}?sslmode=verify-full&sslrootcert=/etc/parley/postgres/ca.crt
{{- end -}}

{{/* The connection of a service: `prefix` of its variables, `role` in the database. */}}
{{- define "parley.database" -}}
{{- $root := .root -}}
{{- $url := printf "%s_DATABASE_URL" .prefix }}
{{- if not $root.Values.postgres.urlSecret }}
{{- $password := printf "%s_DATABASE_PASSWORD" .prefix }}
{{ include "parley.secret" (dict "name" $password "secret" $root.Values.postgres.roleSecret) }}
{{ include "parley.variable" (dict "name" $url "value" (printf "postgresql://%s:$(%s)@%s" .role $password (include "parley.postgresAddress" $root))) }}
{{- else }}
{{ include "parley.secret" (dict "name" $url "secret" $root.Values.postgres.urlSecret) }}
{{- end }}
{{- end -}}

{{- define "parley.model" -}}
{{- $baseUrl := default (printf "http://%s-demo-model:8091/v1" (include "parley.fullname" .)) .Values.model.baseUrl -}}
{{- include "parley.settings" (dict "OPENAI_BASE_URL" $baseUrl "MODEL" (default "demo" .Values.model.name)) }}
{{- if .Values.toolServers.configMap }}
{{- include "parley.settings" (dict "TOOL_SERVERS_FILE" "/etc/parley/tools/tool-servers.json") }}
{{- end }}
{{- end -}}

{{/* Empty where chat completions, which go from the gateway straight to the model, are switched off. */}}
{{- define "parley.gatewayAsksTheModel" -}}
{{- if ne (toString (get .Values.gateway.settings "GATEWAY_COMPLETIONS_ENABLED")) "false" }}yes{{ end }}
{{- end -}}

{{- define "parley.egress" -}}
{{- with .Values.webhooks }}
{{- include "parley.settings" (dict "EGRESS_PORTS" .ports "EGRESS_ALLOWS_HTTP" .allowsHttp "EGRESS_ALLOWED" .allowed) }}
{{- end }}
{{- end -}}

{{/* Of the cluster's Secret the certificate alone: its key is there, too. */}}
{{- define "parley.volumes" -}}
{{- if not .root.Values.postgres.urlSecret }}
- name: postgres-ca
  secret:
    secretName: {{ .root.Values.postgres.cluster }}-ca
    items: [{key: ca.crt, path: ca.crt}]
{{- end }}
{{- if .root.Values.caSecret.name }}
- name: ca
  secret:
    secretName: {{ .root.Values.caSecret.name }}
    items: [{key: {{ .root.Values.caSecret.key }}, path: ca.crt}]
{{- end }}
{{- if and .tools .root.Values.toolServers.configMap }}
- name: tools
  configMap: {name: {{ .root.Values.toolServers.configMap }}}
{{- end }}
- name: tmp
  emptyDir: {sizeLimit: 64Mi}
{{- end -}}

{{- define "parley.mounts" -}}
{{- if not .root.Values.postgres.urlSecret }}
- {name: postgres-ca, mountPath: /etc/parley/postgres, readOnly: true}
{{- end }}
{{- if .root.Values.caSecret.name }}
- {name: ca, mountPath: /etc/parley/ca, readOnly: true}
{{- end }}
{{- if and .tools .root.Values.toolServers.configMap }}
- {name: tools, mountPath: /etc/parley/tools, readOnly: true}
{{- end }}
- {name: tmp, mountPath: /tmp}
{{- end -}}

{{- define "parley.publicHost" -}}
{{- (urlParse (required "gateway.publicUrl must be given for an ingress or a route: https://chat.example" .Values.gateway.publicUrl)).host | splitList ":" | first -}}
{{- end -}}
