{{/* Name of everything in the release's namespace. */}}
{{- define "promptintern.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Name of what belongs to the cluster. Several releases that are limited to namespaces may have one name. */}}
{{- define "promptintern.clusterName" -}}
{{- include "promptintern.fullname" . }}{{ if .Values.namespaces }}-{{ .Release.Namespace }}{{ end -}}
{{- end -}}

{{- define "promptintern.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "promptintern.fullname" .) -}}
{{- end -}}

{{/* The operator as the API server knows it. */}}
{{- define "promptintern.user" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "promptintern.serviceAccount" . }}
{{- end -}}

{{- define "promptintern.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "promptintern.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* The operator's pods; the test's pod has another component. */}}
{{- define "promptintern.podSelector" -}}
{{ include "promptintern.selector" . }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "promptintern.labels" -}}
{{ include "promptintern.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* Of a pod and of its container: Pod Security "restricted". */}}
{{- define "promptintern.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "promptintern.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* A pod's size as JSON. Numbers given by --set become text, which is what the operator reads. */}}
{{- define "promptintern.podSize" -}}
{{- dict "cpu" (toString .cpu) "memory" (toString .memory) | toJson -}}
{{- end -}}

{{/* What the operator may do to jobs and to what belongs to them. Nothing here reads a Secret. */}}
{{- define "promptintern.rules" -}}
- apiGroups: [promptintern.dev]
  resources: [promptinternjobs]
  verbs: [get, list, watch, delete]  # delete: ttlSecondsAfterFinished
# Also what the Role of each head pod grants: RBAC lets nobody grant what it has not.
- apiGroups: [promptintern.dev]
  resources: [promptinternjobs/status]
  verbs: [patch]
- apiGroups: [ray.io]
  resources: [rayjobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [kueue.x-k8s.io]
  resources: [workloads]
  verbs: [list, watch]
# Server-side apply asks for patch, and for create where there is nothing yet.
- apiGroups: [""]
  resources: [configmaps, serviceaccounts]
  verbs: [create, patch]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [create, patch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [create, patch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end -}}

{{/* Whether KubeRay is there and new enough, and when that changes. */}}
{{- define "promptintern.definitionRules" -}}
- apiGroups: [apiextensions.k8s.io]
  resources: [customresourcedefinitions]
  verbs: [get, list, watch]
{{- end -}}

{{/* Of a policy's binding: where it holds, if not everywhere. */}}
{{- define "promptintern.policyNamespaces" -}}
{{- with .Values.namespaces -}}
matchResources:
  namespaceSelector:
    matchExpressions:
      - key: kubernetes.io/metadata.name
        operator: In
        values: {{ toJson . }}
{{- end -}}
{{- end -}}
