{{/*
A pod of `helm test`. It has one container: `helm test --logs` reads no pods with more.
root, name (behind the release's), weight, args, env.
*/}}
{{- define "callplane.testPod" -}}
{{- with .root -}}
apiVersion: v1
kind: Pod
metadata:
  name: "{{ include "callplane.fullname" . }}-{{ $.name }}"
  labels:
    {{- include "callplane.labels" (dict "root" . "component" "test") | nindent 4 }}
  annotations:
    helm.sh/hook: test
    helm.sh/hook-weight: {{ $.weight | quote }}
    helm.sh/hook-delete-policy: before-hook-creation
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  enableServiceLinks: false
  securityContext:
    {{- toYaml .Values.podSecurityContext | nindent 4 }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: {{ $.name }}
      image: {{ include "callplane.image" (dict "image" .Values.image "tag" .Chart.AppVersion) | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      command: [/callplane]
      args: {{- toYaml $.args | nindent 8 }}
      env: {{- toYaml $.env | nindent 8 }}
      securityContext:
        {{- toYaml .Values.securityContext | nindent 8 }}
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
{{- end -}}
{{- end -}}
