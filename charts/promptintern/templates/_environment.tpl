{{/* The operator's settings as promptintern_operator/settings.py reads them. Structured values are JSON. */}}
{{- define "promptintern.environment" -}}
- name: PROMPTINTERN_POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: PROMPTINTERN_OPERATOR_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: PROMPTINTERN_NAMESPACES
  value: {{ join "," .Values.namespaces | quote }}
- name: PROMPTINTERN_LEADER_ELECTION
  value: {{ .Values.leaderElection | quote }}
- name: PROMPTINTERN_LEASE_NAME
  value: {{ include "promptintern.fullname" . }}
- name: PROMPTINTERN_LEASE_SECONDS
  value: {{ .Values.leaseSeconds | quote }}
- name: PROMPTINTERN_CONCURRENCY
  value: {{ .Values.concurrency | quote }}
- name: PROMPTINTERN_SILENCE_SECONDS
  value: {{ .Values.silenceSeconds | quote }}
- name: PROMPTINTERN_PROBE_PORT
  value: {{ .Values.ports.probes | quote }}
- name: PROMPTINTERN_METRICS_PORT
  value: {{ .Values.ports.metrics | quote }}
- name: PROMPTINTERN_TRAINER_IMAGE
  value: {{ .Values.trainer.image | default (printf "promptintern/trainer:%s" .Chart.AppVersion) | quote }}
- name: PROMPTINTERN_IMAGE_PULL_POLICY
  value: {{ .Values.trainer.imagePullPolicy }}
- name: PROMPTINTERN_RAY_VERSION
  value: {{ .Values.trainer.rayVersion | quote }}
{{- with .Values.defaultStorage }}
{{- if .uri }}
{{- $storage := dict "uri" .uri }}
{{- range $name := list "endpoint" "region" "addressingStyle" "serverSideEncryption" "kmsKeyId" "secretName" }}
{{- with get $.Values.defaultStorage $name }}
{{- $_ := set $storage $name . }}
{{- end }}
{{- end }}
- name: PROMPTINTERN_DEFAULT_STORAGE
  value: {{ toJson $storage | quote }}
{{- else if or .endpoint .region .addressingStyle .serverSideEncryption .kmsKeyId .secretName }}
{{- fail "defaultStorage.uri: is required if any other field of defaultStorage is set" }}
{{- end }}
{{- end }}
- name: PROMPTINTERN_DNS
  value: {{ toJson .Values.dns | quote }}
- name: PROMPTINTERN_EGRESS
  value: {{ toJson .Values.egress | quote }}
- name: PROMPTINTERN_KUBERAY_NAMESPACE
  value: {{ .Values.kuberayNamespace | quote }}
- name: PROMPTINTERN_CHECKS_IN_QUEUE
  value: {{ .Values.kueue.checksInQueue | quote }}
- name: PROMPTINTERN_PODS
  value: {{ include "promptintern.pods" . | quote }}
{{- range $role := list "head" "worker" "preflight" }}
- name: PROMPTINTERN_{{ upper $role }}_SIZE
  value: {{ include "promptintern.podSize" (get $.Values.podSizes $role) | quote }}
{{- end }}
- name: PROMPTINTERN_STUCK_SECONDS
  value: {{ .Values.timing.stuckSeconds | quote }}
- name: PROMPTINTERN_QUEUE_SECONDS
  value: {{ .Values.timing.queueSeconds | quote }}
- name: PROMPTINTERN_RETRY_SECONDS
  value: {{ .Values.timing.retrySeconds | quote }}
- name: PROMPTINTERN_RETRY_SECONDS_MAX
  value: {{ .Values.timing.retrySecondsMax | quote }}
{{- end -}}
