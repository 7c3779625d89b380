{{/* The pod template of callplane's servers, for the Deployment and for the StatefulSet. */}}

{{/* What a pod knows of itself. Its name is that of the Lease's holder. */}}
{{- define "callplane.env" -}}
{{- $config := include "callplane.config" . | fromYaml -}}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: POD_IP
  valueFrom:
    fieldRef:
      fieldPath: status.podIP
- name: HOST_IP
  valueFrom:
    fieldRef:
      fieldPath: status.hostIP
{{- if eq .Values.events.reach "perPodService" }}
- name: POD_INDEX
  valueFrom:
    fieldRef:
      fieldPath: metadata.labels['apps.kubernetes.io/pod-index']
{{- end }}
- name: CALLPLANE_CONFIG
  value: "{{ include "callplane.folder" . }}/callplane.yml"
{{- range $n, $stack := $config.stacks }}
{{- $where := include "callplane.advertise" (dict "root" $ "stack" $stack) }}
{{- if and $where (not $stack.advertise) }}
- name: "CALLPLANE_STACKS__{{ $n }}__ADVERTISE"
  value: {{ $where | quote }}
{{- end }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Where a stack sends a pod's events, if callplane does not know by itself. Takes `root` and `stack`. */}}
{{- define "callplane.advertise" -}}
{{- $port := include "callplane.port" .stack.events -}}
{{- $events := .root.Values.events -}}
{{- if $events.advertise -}}
{{- $events.advertise | replace "$(EVENTS_PORT)" $port -}}
{{- else if eq $events.reach "perPodService" -}}
{{- $transport := regexFind "^(tcp|udp)" .stack.events | default "udp" -}}
{{- printf "%s:$(POD_NAME).$(POD_NAMESPACE).svc.%s:%s" $transport $events.perPodService.clusterDomain $port -}}
{{- end -}}
{{- end -}}

{{- define "callplane.pod" -}}
{{- $config := include "callplane.config" . | fromYaml -}}
{{- $selector := dict "root" . "component" "server" -}}
metadata:
  annotations:
    checksum/callplane: {{ include "callplane.config" . | sha256sum }}
    kubectl.kubernetes.io/default-container: callplane
    {{- with .Values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  labels:
    {{- include "callplane.podLabels" $selector | nindent 4 }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "callplane.serviceAccount" . | quote }}
  automountServiceAccountToken: {{ not (empty (include "callplane.byLease" .)) }}
  # Variables for Services would only look like configuration.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "callplane.grace" . }}
  {{- if eq .Values.events.reach "hostNetwork" }}
  hostNetwork: true
  dnsPolicy: ClusterFirstWithHostNet
  {{- end }}
  securityContext:
    {{- toYaml .Values.podSecurityContext | nindent 4 }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  {{- with .Values.runtimeClassName }}
  runtimeClassName: {{ . | quote }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if .Values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- toYaml .Values.topologySpreadConstraints | nindent 4 }}
  {{- else if include "callplane.many" . }}
  topologySpreadConstraints:
    {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - maxSkew: 1
      topologyKey: {{ . | quote }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "callplane.selector" $selector | nindent 10 }}
      {{- if ne $.Values.events.reach "perPodService" }}
      matchLabelKeys: [pod-template-hash]
      {{- end }}
    {{- end }}
  {{- end }}
  containers:
    - name: callplane
      image: {{ include "callplane.image" (dict "image" .Values.image "tag" .Chart.AppVersion) | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      command: [/callplane]
      args: [serve]
      env:
        {{- include "callplane.env" . | nindent 8 }}
      ports:
        - name: clients
          containerPort: {{ include "callplane.port" $config.listen.address }}
        - name: operations
          containerPort: {{ include "callplane.port" $config.admin.listen }}
        {{- range $n, $stack := $config.stacks }}
        - name: "events-{{ $n }}"
          containerPort: {{ include "callplane.port" $stack.events }}
          protocol: {{ hasPrefix "tcp:" $stack.events | ternary "TCP" "UDP" }}
        {{- end }}
      startupProbe:
        httpGet: {path: /livez, port: operations}
        {{- toYaml .Values.probes.startup | nindent 8 }}
      readinessProbe:
        httpGet: {path: /readyz, port: operations}
        {{- toYaml .Values.probes.readiness | nindent 8 }}
      livenessProbe:
        httpGet: {path: /livez, port: operations}
        {{- toYaml .Values.probes.liveness | nindent 8 }}
      lifecycle:
        preStop:
          exec:
            command: [/callplane, drain]
      securityContext:
        {{- toYaml .Values.securityContext | nindent 8 }}
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      volumeMounts:
        - name: config
          mountPath: {{ include "callplane.folder" . }}
          readOnly: true
        {{- if .Values.redis.existingSecret }}
        - name: redis
          mountPath: {{ include "callplane.redisFolder" . }}
          readOnly: true
        {{- end }}
        {{- if .Values.redis.tls.existingSecret }}
        - name: redis-tls
          mountPath: {{ include "callplane.tlsFolder" . }}
          readOnly: true
        {{- end }}
        {{- with .Values.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: config
      configMap:
        name: {{ include "callplane.fullname" . | quote }}
    {{- with .Values.redis }}
    {{- if .existingSecret }}
    - name: redis
      secret:
        secretName: {{ .existingSecret | quote }}
        defaultMode: 288 # 0440
        items:
          - key: {{ .passwordKey | quote }}
            path: {{ .passwordKey | quote }}
          {{- with .sentinelPasswordKey }}
          - key: {{ . | quote }}
            path: {{ . | quote }}
          {{- end }}
    {{- end }}
    {{- with .tls }}
    {{- if .existingSecret }}
    - name: redis-tls
      secret:
        secretName: {{ .existingSecret | quote }}
        defaultMode: 288 # 0440
        items:
          {{- range compact (list .caKey .certKey .keyKey) }}
          - key: {{ . | quote }}
            path: {{ . | quote }}
          {{- end }}
    {{- end }}
    {{- end }}
    {{- end }}
    {{- with .Values.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}
