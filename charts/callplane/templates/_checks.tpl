{{/* What the schema can't tell: values that do not go together. Each message names the value. */}}

{{- define "callplane.refuse" -}}
{{- fail (printf "\n\n%s\n" .) -}}
{{- end -}}

{{- define "callplane.checks" -}}
{{- $config := include "callplane.config" . | fromYaml -}}
{{- $own := .Values.config.redis | default dict -}}
{{- $redis := include "callplane.hasRedis" . -}}
{{- if not $config.stacks -}}
{{- include "callplane.refuse" "config.stacks: say which SIP stack is steered, such as\n  --set 'config.stacks[0].name=main,config.stacks[0].mi=udp:10.0.0.5:8080,config.stacks[0].mi_http=http://10.0.0.5:8888/mi'\nor, for a trial, --set simulatedStack.enabled=true" -}}
{{- end -}}
{{- if and .Values.redis.embedded.enabled (or $own.address $own.sentinels) -}}
{{- include "callplane.refuse" "redis.embedded.enabled: there is another Redis in config.redis; one of the two is meant" -}}
{{- end -}}
{{- if and $own.address $own.sentinels -}}
{{- include "callplane.refuse" "config.redis.address: stands beside config.redis.sentinels; one of the two is meant" -}}
{{- end -}}
{{- if and (include "callplane.many" .) (not $redis) -}}
{{- include "callplane.refuse" "replicas: more than one pod want a Redis that they share. Set config.redis.address (or config.redis.sentinels), or for a trial redis.embedded.enabled=true, or replicas=1, which loses what runs whenever the pod restarts" -}}
{{- end -}}
{{- if and (has ($config.leadership | default "") (list "kubernetes" "redis")) (not $redis) -}}
{{- include "callplane.refuse" (printf "config.leadership: `%s` wants a Redis: set config.redis.address, or leave it out" $config.leadership) -}}
{{- end -}}
{{- if and (eq ($config.leadership | default "") "standalone") $redis -}}
{{- include "callplane.refuse" "config.leadership: `standalone` takes every pod for the only one; leave it out where there is a Redis" -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled .Values.keda.enabled -}}
{{- include "callplane.refuse" "keda.enabled: autoscaling.enabled scales the same pods; one of the two is meant" -}}
{{- end -}}
{{- range $name, $scaler := dict "autoscaling" .Values.autoscaling "keda" .Values.keda -}}
{{- if and $scaler.enabled (gt (int $scaler.minReplicas) (int $scaler.maxReplicas)) -}}
{{- include "callplane.refuse" (printf "%s.minReplicas: %d is more than %s.maxReplicas, %d" $name (int $scaler.minReplicas) $name (int $scaler.maxReplicas)) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (not (or .Values.autoscaling.cpu .Values.autoscaling.connections .Values.autoscaling.commandsPerSecond)) -}}
{{- include "callplane.refuse" "autoscaling.cpu: nothing is left to scale by; set cpu, connections or commandsPerSecond" -}}
{{- end -}}
{{- if and .Values.keda.enabled (or .Values.keda.connections .Values.keda.commandsPerSecond) (not .Values.keda.prometheus) -}}
{{- include "callplane.refuse" "keda.prometheus: say where Prometheus answers, like http://prometheus.monitoring:9090" -}}
{{- end -}}
{{- if and .Values.keda.enabled (not (or .Values.keda.connections .Values.keda.commandsPerSecond .Values.keda.triggers)) -}}
{{- include "callplane.refuse" "keda.connections: nothing is left to scale by; set connections, commandsPerSecond or triggers" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
{{- include "callplane.refuse" "ingress.hosts: name at least one host" -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) -}}
{{- include "callplane.refuse" "httpRoute.parentRefs: name the Gateway" -}}
{{- end -}}
{{- if ne (empty .Values.redis.tls.certKey) (empty .Values.redis.tls.keyKey) -}}
{{- include "callplane.refuse" "redis.tls.certKey: goes together with redis.tls.keyKey" -}}
{{- end -}}
{{- if and .Values.redis.embedded.enabled .Values.redis.tls.existingSecret -}}
{{- include "callplane.refuse" "redis.tls.existingSecret: the Redis of redis.embedded speaks no TLS" -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled (eq .Values.events.reach "hostNetwork") (or .Values.redis.embedded.enabled .Values.simulatedStack.enabled) -}}
{{- include "callplane.refuse" "networkPolicy.enabled: pods in the nodes' network (events.reach=hostNetwork) have no addresses of their own, so redis.embedded and simulatedStack could not let them in" -}}
{{- end -}}
{{- range $key, $address := dict "config.listen.address" $config.listen.address "config.admin.listen" $config.admin.listen -}}
{{- if regexMatch "^(127\\.|\\[::1\\]|localhost:)" $address -}}
{{- include "callplane.refuse" (printf "%s: `%s` can't be reached from outside the pod; leave it out, or write an address like 0.0.0.0" $key $address) -}}
{{- end -}}
{{- end -}}
{{- range $n, $stack := $config.stacks -}}
{{- if eq (include "callplane.port" $stack.events | int) 0 -}}
{{- include "callplane.refuse" (printf "config.stacks[%d].events: `%s` has no fixed port; the chart opens it by its number" $n $stack.events) -}}
{{- end -}}
{{- end -}}
{{- range .Values.extraEnv -}}
{{- if regexMatch "^CALLPLANE_(DRAIN|ADMIN|LISTEN)__|^CALLPLANE_STACKS__[0-9]+__EVENTS$|^CALLPLANE_(CONFIG|LEADERSHIP)$|^CALLPLANE_REDIS__(ADDRESS|SENTINELS)$|^CALLPLANE_KUBERNETES__" .name -}}
{{- include "callplane.refuse" (printf "extraEnv: `%s` would change what the chart relies on; set it under `config`" .name) -}}
{{- end -}}
{{- if regexMatch "^(POD_NAME|POD_NAMESPACE|POD_IP|HOST_IP|POD_INDEX)$" .name -}}
{{- include "callplane.refuse" (printf "extraEnv: `%s` is set by the chart" .name) -}}
{{- end -}}
{{- end -}}
{{- if eq .Values.events.reach "perPodService" -}}
{{- $most := include "callplane.most" . | int -}}
{{- $each := .Values.events.perPodService -}}
{{- range $key := list "clusterIPs" "loadBalancerIPs" "nodePorts" -}}
{{- $given := get $each $key -}}
{{- if and $given (lt (len $given) $most) -}}
{{- include "callplane.refuse" (printf "events.perPodService.%s: there may be %d pods, and only %d stand here" $key $most (len $given)) -}}
{{- end -}}
{{- end -}}
{{- if and $each.nodePorts (gt (len $config.stacks) 1) -}}
{{- include "callplane.refuse" "events.perPodService.nodePorts: serves one stack; leave it out, and the cluster chooses" -}}
{{- end -}}
{{- if and (eq $each.type "NodePort") (not .Values.events.advertise) -}}
{{- include "callplane.refuse" "events.advertise: with NodePort say where the stack finds each pod, like udp:$(HOST_IP):3006$(POD_INDEX)" -}}
{{- end -}}
{{- end -}}
{{- if and (ne .Values.events.reach "perPodService") (contains "$(POD_INDEX)" .Values.events.advertise) -}}
{{- include "callplane.refuse" "events.advertise: only pods of events.reach=perPodService have a POD_INDEX" -}}
{{- end -}}
{{- if and (empty .Values.test.caller | ne (empty .Values.test.callee)) -}}
{{- include "callplane.refuse" "test.caller: goes together with test.callee" -}}
{{- end -}}
{{- $_ := include "callplane.grace" . -}}
{{- end -}}
