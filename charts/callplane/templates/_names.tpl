{{/* The names of the objects, and the labels by which they are found. */}}

{{- define "callplane.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 48 | trimAll "-" -}}
{{- end -}}

{{/* Short enough for what is hung on: `-simulated-stack`, the number of a pod. A release's name may have dots, a Service's not. */}}
{{- define "callplane.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 46 | trimAll "-" -}}
{{- else if contains (include "callplane.name" .) .Release.Name -}}
{{- .Release.Name | replace "." "-" | trunc 46 | trimAll "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "callplane.name" .) | replace "." "-" | trunc 46 | trimAll "-" -}}
{{- end -}}
{{- end -}}

{{- define "callplane.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "callplane.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* By these pods are selected: never changed by an upgrade. Takes `root` and `component`. */}}
{{- define "callplane.selector" -}}
app.kubernetes.io/name: {{ include "callplane.name" .root | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* The labels of an object. Takes `root` and `component`. */}}
{{- define "callplane.labels" -}}
{{ include "callplane.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: callplane
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The labels of a server's pods: a new chart of the same version replaces none. */}}
{{- define "callplane.podLabels" -}}
{{ include "callplane.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: callplane
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* An image: `repository@digest`, or `repository:tag`. Takes `image` and `tag`, the one to fall back on. */}}
{{- define "callplane.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (default .tag .image.tag) -}}
{{- end -}}
{{- end -}}

{{/* The families of addresses of a Service. */}}
{{- define "callplane.families" -}}
{{- $families := dict -}}
{{- with .Values.ipFamilyPolicy -}}
{{- $_ := set $families "ipFamilyPolicy" . -}}
{{- end -}}
{{- with .Values.ipFamilies -}}
{{- $_ := set $families "ipFamilies" . -}}
{{- end -}}
{{- if $families -}}
{{- toYaml $families -}}
{{- end -}}
{{- end -}}
