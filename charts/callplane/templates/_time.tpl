{{/* A duration as callplane writes them, in milliseconds. Takes `key` and `text`. */}}
{{- define "callplane.milliseconds" -}}
{{- $text := toString .text -}}
{{- if eq $text "0" -}}
0
{{- else if regexMatch "^[0-9]+(ms|s|m|h)$" $text -}}
{{- $units := dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 -}}
{{- mul (regexFind "^[0-9]+" $text | int64) (get $units (regexFind "[a-z]+$" $text)) -}}
{{- else -}}
{{- fail (printf "\n\n%s: `%s` is not a duration; write a whole number and ms, s, m or h, like `90s`\n" .key $text) -}}
{{- end -}}
{{- end -}}

{{/* What callplane takes beyond `drain.delay` and `drain.timeout` (docs/operations.md, Stopping). */}}
{{- define "callplane.drainBound" -}}
2000
{{- end -}}

{{/* The pod's grace in whole seconds: all that stopping may take, rounded up. */}}
{{- define "callplane.grace" -}}
{{- $drain := (include "callplane.config" . | fromYaml).drain | default dict -}}
{{- $delay := include "callplane.milliseconds" (dict "key" "config.drain.delay" "text" (default "0" $drain.delay)) | int64 -}}
{{- $timeout := include "callplane.milliseconds" (dict "key" "config.drain.timeout" "text" (default "20s" $drain.timeout)) | int64 -}}
{{- $margin := include "callplane.milliseconds" (dict "key" "graceMargin" "text" .Values.graceMargin) | int64 -}}
{{- $bound := include "callplane.drainBound" . | int64 -}}
{{- div (add $delay $timeout $bound $margin 999) 1000 -}}
{{- end -}}
