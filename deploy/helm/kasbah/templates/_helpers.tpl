{{/* Names are those of the release, cut so that a suffix and the ordinal of a pod still fit. */}}
{{- define "kasbah.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "kasbah.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "kasbah.labels" -}}
{{ include "kasbah.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "kasbah.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* What the profile `restricted` of Kubernetes wants of a container, and a file system to read only. */}}
{{- define "kasbah.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end -}}

{{/* kasbah.yaml: what values say, and what the chart knows better. */}}
{{- define "kasbah.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $server := $config.server | default dict -}}
{{- $_ := set $server "listen" (printf "%s:8080" .Values.bindAddress) -}}
{{- if .Values.metrics.enabled -}}
{{- $_ := set $server "metrics" (dict "listen" (printf "%s:9464" .Values.bindAddress)) -}}
{{- end -}}
{{- $secrets := dict -}}
{{- range $name, $_ := .Values.secrets -}}
{{- $_ := set $secrets $name (dict "file" (printf "/run/secrets/kasbah/%s" $name)) -}}
{{- end -}}
{{- if .Values.tls.secretName -}}
{{- $_ := set $secrets "tls" (dict "file" "/run/secrets/tls/tls.key") -}}
{{- $tls := dict "certificate_file" "/run/secrets/tls/tls.crt" "private_key" "tls" -}}
{{- if .Values.tls.clientCaSecretName -}}
{{- $_ := set $tls "client_ca_file" "/run/secrets/client-ca/ca.crt" -}}
{{- $_ := set $tls "client_certificates" "optional" -}}
{{- end -}}
{{- $_ := set $server "tls" $tls -}}
{{- end -}}
{{- $_ := set $config "server" $server -}}
{{- if $secrets -}}
{{- $_ := set $config "secrets" $secrets -}}
{{- end -}}
{{ toYaml $config }}
{{- end -}}

{{/* Seconds a pod has from SIGTERM and preStop to its end: more than requests under way may take. */}}
{{- define "kasbah.grace" -}}
{{- $limits := (.Values.config.server | default dict).limits | default dict -}}
{{- $drain := 30 -}}
{{- if hasKey $limits "drain_timeout_seconds" -}}
{{- $drain = int $limits.drain_timeout_seconds -}}
{{- end -}}
{{- add $drain (int .Values.preStopSeconds) 15 -}}
{{- end -}}
