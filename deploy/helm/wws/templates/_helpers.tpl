{{- define "wws.name" -}}
{{ printf "%s-installer" .Release.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "wws.selector" -}}
app.kubernetes.io/name: wws-installer
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "wws.labels" -}}
{{ include "wws.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}
