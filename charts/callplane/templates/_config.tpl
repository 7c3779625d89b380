{{/* callplane's configuration: what follows from the chart's values, and `config` over it. */}}

{{- define "callplane.folder" -}}
/etc/callplane
{{- end -}}

{{- define "callplane.redisFolder" -}}
/run/secrets/callplane/redis
{{- end -}}

{{- define "callplane.tlsFolder" -}}
/run/secrets/callplane/redis-tls
{{- end -}}

{{/* All addresses. `[::]` takes IPv4 too where there is both. */}}
{{- define "callplane.any" -}}
{{- if has "IPv6" .Values.ipFamilies -}}
[::]
{{- else -}}
0.0.0.0
{{- end -}}
{{- end -}}

{{/* The port at the end of an address. */}}
{{- define "callplane.port" -}}
{{- regexFind "[0-9]+$" . -}}
{{- end -}}

{{/* A mapping without the keys that say nothing: a default may be written as it stands in the file of all keys. */}}
{{- define "callplane.said" -}}
{{- $said := dict -}}
{{- range $key, $value := . -}}
{{- if kindIs "map" $value -}}
{{- $_ := set $said $key (include "callplane.said" $value | fromYaml) -}}
{{- else if not (kindIs "invalid" $value) -}}
{{- $_ := set $said $key $value -}}
{{- end -}}
{{- end -}}
{{- toYaml $said -}}
{{- end -}}

{{/* What is known of Redis beside what stands in `config.redis`. */}}
{{- define "callplane.redisKnown" -}}
{{- $redis := dict -}}
{{- if .Values.redis.embedded.enabled -}}
{{- $_ := set $redis "address" (printf "%s-redis:6379" (include "callplane.fullname" .)) -}}
{{- end -}}
{{- if .Values.redis.existingSecret -}}
{{- $_ := set $redis "password_file" (printf "%s/%s" (include "callplane.redisFolder" .) .Values.redis.passwordKey) -}}
{{- with .Values.redis.sentinelPasswordKey -}}
{{- $_ := set $redis "sentinel_password_file" (printf "%s/%s" (include "callplane.redisFolder" $) .) -}}
{{- end -}}
{{- end -}}
{{- with .Values.redis.tls -}}
{{- if .existingSecret -}}
{{- $folder := include "callplane.tlsFolder" $ -}}
{{- $_ := set $redis "tls_ca_file" (printf "%s/%s" $folder .caKey) -}}
{{- if .certKey -}}
{{- $_ := set $redis "tls_cert_file" (printf "%s/%s" $folder .certKey) -}}
{{- end -}}
{{- if .keyKey -}}
{{- $_ := set $redis "tls_key_file" (printf "%s/%s" $folder .keyKey) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml $redis -}}
{{- end -}}

{{/* The stacks: each with the port of its events. */}}
{{- define "callplane.stacks" -}}
{{- $own := .Values.config.stacks -}}
{{- if and (not $own) .Values.simulatedStack.enabled -}}
{{- $own = list dict -}}
{{- end -}}
{{- $stacks := list -}}
{{- range $n, $stack := $own -}}
{{- $known := dict "events" (printf "%s:%s:%d" $.Values.events.transport (include "callplane.any" $) (add $.Values.events.port $n)) -}}
{{- if and $.Values.simulatedStack.enabled (eq $n 0) -}}
{{- $host := printf "%s-simulated-stack" (include "callplane.fullname" $) -}}
{{- $_ := set $known "name" "simulated" -}}
{{- $_ := set $known "mi" (printf "udp:%s:8080" $host) -}}
{{- $_ := set $known "mi_http" (printf "http://%s:8888/mi" $host) -}}
{{- end -}}
{{- $stacks = append $stacks (mergeOverwrite $known (include "callplane.said" $stack | fromYaml)) -}}
{{- end -}}
{{- toYaml $stacks -}}
{{- end -}}

{{/* The console's own pages behind an Ingress or a Gateway, which callplane can't know to be its own. */}}
{{- define "callplane.origins" -}}
{{- $origins := list -}}
{{- if .Values.ingress.enabled -}}
{{- $secure := list -}}
{{- range .Values.ingress.tls -}}
{{- $secure = concat $secure (.hosts | default list) -}}
{{- end -}}
{{- range .Values.ingress.hosts -}}
{{- $origins = append $origins (printf "%s://%s" (ternary "https" "http" (has . $secure)) .) -}}
{{- end -}}
{{- end -}}
{{- if .Values.httpRoute.enabled -}}
{{- range .Values.httpRoute.hostnames -}}
{{- $origins = append $origins (printf "%s://%s" (ternary "https" "http" $.Values.httpRoute.tls) .) -}}
{{- end -}}
{{- end -}}
{{- $plain := list -}}
{{- range $origins | uniq -}}
{{- if not (contains "*" .) -}}
{{- $plain = append $plain . -}}
{{- end -}}
{{- end -}}
{{- toYaml $plain -}}
{{- end -}}

{{/* The whole. */}}
{{- define "callplane.config" -}}
{{- $own := include "callplane.said" .Values.config | fromYaml -}}
{{- $any := include "callplane.any" . -}}
{{- $known := dict
    "listen" (dict "address" (printf "%s:5059" $any))
    "admin" (dict "listen" (printf "%s:9090" $any) "control" "127.0.0.1:9091") -}}
{{- $redis := include "callplane.redisKnown" . | fromYaml -}}
{{- if $redis -}}
{{- $_ := set $known "redis" $redis -}}
{{- end -}}
{{- $origins := include "callplane.origins" . | fromYamlArray -}}
{{- if and $origins (not (hasKey ($own.listen | default dict) "origins")) -}}
{{- $_ := set $known.listen "origins" $origins -}}
{{- end -}}
{{- $stacks := include "callplane.stacks" . | fromYamlArray -}}
{{- if $stacks -}}
{{- $_ := set $own "stacks" $stacks -}}
{{- end -}}
{{- $whole := mergeOverwrite $known $own -}}
{{- $shared := $whole.redis | default dict -}}
{{- if and (or $shared.address $shared.sentinels) (not $whole.leadership) -}}
{{- $_ := set $whole "leadership" "kubernetes" -}}
{{- end -}}
{{- if eq ($whole.leadership | default "") "kubernetes" -}}
{{- $lease := dict "lease" (include "callplane.fullname" .) -}}
{{- $_ := set $whole "kubernetes" (mergeOverwrite $lease ($whole.kubernetes | default dict)) -}}
{{- end -}}
{{- toYaml $whole -}}
{{- end -}}

{{/* Whether there is a Redis: `true` or nothing. */}}
{{- define "callplane.hasRedis" -}}
{{- $redis := (include "callplane.config" . | fromYaml).redis | default dict -}}
{{- if or $redis.address $redis.sentinels }}true{{ end -}}
{{- end -}}

{{/* Whether pods lead by a Lease: `true` or nothing. */}}
{{- define "callplane.byLease" -}}
{{- if eq ((include "callplane.config" . | fromYaml).leadership | default "") "kubernetes" }}true{{ end -}}
{{- end -}}

{{/* Whether there may be more than one pod: `true` or nothing. */}}
{{- define "callplane.many" -}}
{{- if gt (include "callplane.most" . | int) 1 }}true{{ end -}}
{{- end -}}

{{/* The most pods there may be. */}}
{{- define "callplane.most" -}}
{{- if .Values.autoscaling.enabled -}}
{{- .Values.autoscaling.maxReplicas -}}
{{- else if .Values.keda.enabled -}}
{{- .Values.keda.maxReplicas -}}
{{- else -}}
{{- .Values.replicas -}}
{{- end -}}
{{- end -}}
