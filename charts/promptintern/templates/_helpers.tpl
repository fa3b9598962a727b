{{/* The name of all objects in the release's namespace. */}}
{{- define "promptintern.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The name of cluster-scoped objects. Releases that are limited to namespaces may share a release name. */}}
{{- define "promptintern.clusterName" -}}
{{- include "promptintern.fullname" . }}{{ if .Values.namespaces }}-{{ .Release.Namespace }}{{ end -}}
{{- end -}}

{{- define "promptintern.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "promptintern.fullname" .) -}}
{{- end -}}

{{/* The operator's user name at the API server. */}}
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

{{/* The labels that select the operator's pods. The pod of `helm test` has another component. */}}
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

{{/* Security contexts of a pod and of its container, for Pod Security "restricted". */}}
{{- define "promptintern.podSecurity" -}}
runAsNonRoot: true
{{- with .Values.runAsUser }}
runAsUser: {{ int64 . }}
runAsGroup: {{ int64 . }}
{{- end }}
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

{{/* The size of a pod as JSON. Numbers, which --set may produce, become text, which the operator reads. */}}
{{- define "promptintern.podSize" -}}
{{- $size := dict "cpu" (toString .cpu) "memory" (toString .memory) }}
{{- with .ephemeralStorage }}
{{- $_ := set $size "ephemeralStorage" (toString .) }}
{{- end }}
{{- toJson $size -}}
{{- end -}}

{{/* The value `pods` as JSON. Helm drops a value that is set to null only if it has a default. The kubelet would replace
     "$(NAME)" by the value of a variable of the operator. */}}
{{- define "promptintern.pods" -}}
{{- $pods := dict "runAsUser" .Values.pods.runAsUser }}
{{- range $name, $value := .Values.pods }}
{{- if kindIs "map" $value }}
{{- $kept := dict }}
{{- range $key, $text := $value }}
{{- if not (kindIs "invalid" $text) }}
{{- $_ := set $kept $key $text }}
{{- end }}
{{- end }}
{{- $_ := set $pods $name $kept }}
{{- else if and (ne $name "runAsUser") (ne (toString $value) "") }}
{{- $_ := set $pods $name $value }}
{{- end }}
{{- end }}
{{- toJson $pods | replace "$" "$$" -}}
{{- end -}}

{{/* An entry of the value `dns` as an egress rule of a NetworkPolicy, in JSON. */}}
{{- define "promptintern.dnsRule" -}}
{{- $rule := dict }}
{{- $peer := pick . "namespaceSelector" "podSelector" }}
{{- if .cidr }}
{{- $peer = dict "ipBlock" (pick . "cidr" "except") }}
{{- end }}
{{- if $peer }}
{{- $_ := set $rule "to" (list $peer) }}
{{- end }}
{{- $ports := list }}
{{- range $protocol := list "UDP" "TCP" }}
{{- range $.ports }}
{{- $ports = append $ports (dict "protocol" $protocol "port" .) }}
{{- end }}
{{- end }}
{{- if $ports }}
{{- $_ := set $rule "ports" $ports }}
{{- end }}
{{- toJson $rule -}}
{{- end -}}

{{/* The operator's rights on jobs and their dependents. None of them reads a Secret. */}}
{{- define "promptintern.rules" -}}
- apiGroups: [promptintern.dev]
  resources: [promptinternjobs]
  verbs: [get, list, watch, delete]  # delete: ttlSecondsAfterFinished
# The Role of each head pod grants this, too, and RBAC lets nobody grant a right that it does not have.
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
# Server-side apply needs patch, and create if the object does not exist yet.
- apiGroups: [""]
  resources: [configmaps, serviceaccounts]
  verbs: [create, patch]
# A ConfigMap is immutable, so a changed job gets another one.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [delete]
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

{{/* The right to see whether KubeRay is installed and new enough, and when that changes. */}}
{{- define "promptintern.definitionRules" -}}
- apiGroups: [apiextensions.k8s.io]
  resources: [customresourcedefinitions]
  verbs: [get, list, watch]
{{- end -}}

{{/* The part of a policy's binding that limits the policy to the served namespaces. */}}
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

{{- /* CEL that holds if a request gives the annotation that requests a retry a new value. */ -}}
{{- define "promptintern.asksForRetry" -}}
object.metadata.?annotations['promptintern.dev/retry'].orValue('') != oldObject.metadata.?annotations['promptintern.dev/retry'].orValue('')
{{- end -}}
