{{/* An image of ours: dict "root" $ "name" "weft/proxy". */}}
{{- define "weft.image" -}}
{{- $registry := .root.Values.image.registry | trimSuffix "/" -}}
{{- $tag := .root.Values.image.tag | default .root.Chart.AppVersion -}}
{{- if $registry }}{{ $registry }}/{{ end }}{{ .name }}:{{ $tag }}
{{- end -}}

{{/* Labels of every object: dict "root" $ "component" "controller". */}}
{{- define "weft.labels" -}}
{{ include "weft.selector" . }}
app.kubernetes.io/part-of: weft
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "weft.selector" -}}
app.kubernetes.io/name: weft-{{ .component }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end -}}

{{/* SPIFFE id of the controller. */}}
{{- define "weft.controllerIdentity" -}}
spiffe://{{ .Values.trustDomain }}/ns/{{ .Release.Namespace }}/sa/weft-controller
{{- end -}}

{{/* What Weft's own containers may do: nothing but run. */}}
{{- define "weft.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
privileged: false
readOnlyRootFilesystem: true
{{- end -}}

{{- define "weft.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* Scheduling of a pod: the component's values. Replicas are kept apart unless an affinity says otherwise. */}}
{{- define "weft.scheduling" -}}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .values.affinity }}
affinity:
  {{- toYaml .values.affinity | nindent 2 }}
{{- else }}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "weft.selector" . | nindent 14 }}
{{- end }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* A disruption budget only makes sense where one replica may be spared. */}}
{{- define "weft.disruptionBudget" -}}
{{- if gt (int .values.replicas) 1 }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: weft-{{ .component }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "weft.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "weft.selector" . | nindent 6 }}
{{- end }}
{{- end -}}

{{/*
The version at which an object of a kind of the Gateway API is rendered; empty where it is not wanted:
dict "root" $ "wanted" .Values.mesh.create "group" "gateway.networking.x-k8s.io" "kind" "XMesh" "versions" (list "v1alpha1").
"auto" renders it at the first version that the cluster serves; "true" always, at the first one where none is known to be
served, as without a cluster (helm template).
*/}}
{{- define "weft.servedVersion" -}}
{{- $wanted := toString .wanted -}}
{{- $found := "" -}}
{{- range .versions -}}
{{- if and (not $found) ($.root.Capabilities.APIVersions.Has (printf "%s/%s/%s" $.group . $.kind)) -}}
{{- $found = . -}}
{{- end -}}
{{- end -}}
{{- if ne $wanted "false" -}}
{{- if $found }}{{ $found }}{{ else if eq $wanted "true" }}{{ first .versions }}{{ end -}}
{{- end -}}
{{- end -}}

{{- define "weft.gatewayClassVersion" -}}
{{- if .Values.gateways.enabled -}}
{{- include "weft.servedVersion" (dict "root" . "wanted" .Values.gateways.createClass "group" "gateway.networking.k8s.io" "kind" "GatewayClass" "versions" (list "v1" "v1beta1")) -}}
{{- end -}}
{{- end -}}

{{- define "weft.meshVersion" -}}
{{- include "weft.servedVersion" (dict "root" . "wanted" .Values.mesh.create "group" "gateway.networking.x-k8s.io" "kind" "XMesh" "versions" (list "v1alpha1" "v1beta1" "v1")) -}}
{{- end -}}

{{/*
Resources of a container, as the API server keeps them: quantities are strings, and what is empty is left out, so that a
server-side apply by another manager finds no difference.
*/}}
{{- define "weft.resources" -}}
{{- $all := dict -}}
{{- range $part := list "requests" "limits" -}}
{{- $quantities := dict -}}
{{- range $name, $quantity := index $.resources $part -}}
{{- if not (kindIs "invalid" $quantity) -}}
{{- $_ := set $quantities $name (toString $quantity) -}}
{{- end -}}
{{- end -}}
{{- if $quantities }}{{ $_ := set $all $part $quantities }}{{ end -}}
{{- end -}}
{{- with .resources.claims }}{{ $_ := set $all "claims" . }}{{ end -}}
{{- toJson $all -}}
{{- end -}}
