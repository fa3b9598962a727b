#!/bin/sh
# Creates a kind cluster with KubeRay, an S3 server, the operator and a first job: `tools/kind.sh up`; `down` deletes it.
set -eu
cd "$(dirname "$0")/.."

cluster=promptintern
team=team-a
kuberay_version=1.5.1
s3_image=versity/versitygw:v1.8.0

for program in docker kind kubectl helm; do
    command -v "$program" >/dev/null 2>&1 || { echo "make kind-up needs $program; install it first" >&2; exit 1; }
done

if [ "${1:-}" = down ]; then
    exec kind delete cluster --name "$cluster"
fi

kind get clusters 2>/dev/null | grep -qx "$cluster" || kind create cluster --config kind-config.yaml --wait 120s
kubectl config use-context "kind-$cluster" >/dev/null

docker build --quiet -f operator/Dockerfile -t promptintern/operator:dev .
docker build --quiet -f trainer/Dockerfile -t promptintern/trainer:dev .
kind load docker-image --name "$cluster" promptintern/operator:dev promptintern/trainer:dev

helm upgrade --install kuberay-operator kuberay-operator --repo https://ray-project.github.io/kuberay-helm/ \
    --version "$kuberay_version" --namespace kuberay --create-namespace --wait

# An S3 server with one account, whose random keys are stored only in Secrets.
kubectl create namespace s3 --dry-run=client -o yaml | kubectl apply -f -
kubectl get namespace "$team" >/dev/null 2>&1 || kubectl create namespace "$team"
if ! kubectl -n "$team" get secret s3 >/dev/null 2>&1; then
    access=$(head -c 9 /dev/urandom | base64 | tr -dc 'a-zA-Z0-9')
    secret=$(head -c 30 /dev/urandom | base64 | tr -dc 'a-zA-Z0-9')
    for namespace in s3 "$team"; do
        kubectl -n "$namespace" create secret generic s3 \
            --from-literal=AWS_ACCESS_KEY_ID="$access" --from-literal=AWS_SECRET_ACCESS_KEY="$secret"
    done
fi
kubectl -n s3 apply -f - <<YAML
apiVersion: apps/v1
kind: Deployment
metadata: {name: s3, labels: {app: s3}}
spec:
  selector: {matchLabels: {app: s3}}
  template:
    metadata: {labels: {app: s3}}
    spec:
      initContainers:
        - name: bucket
          image: $s3_image
          command: [mkdir, -p, /data/runs]
          volumeMounts: [{name: data, mountPath: /data}]
      containers:
        - name: s3
          image: $s3_image
          args: [--port, ":7070", posix, /data]
          env:
            - {name: ROOT_ACCESS_KEY_ID, valueFrom: {secretKeyRef: {name: s3, key: AWS_ACCESS_KEY_ID}}}
            - {name: ROOT_SECRET_ACCESS_KEY, valueFrom: {secretKeyRef: {name: s3, key: AWS_SECRET_ACCESS_KEY}}}
          ports: [{containerPort: 7070}]
          readinessProbe: {tcpSocket: {port: 7070}}
          volumeMounts: [{name: data, mountPath: /data}]
      volumes: [{name: data, emptyDir: {}}]
---
apiVersion: v1
kind: Service
metadata: {name: s3}
spec: {selector: {app: s3}, ports: [{port: 7070}]}
YAML
kubectl -n s3 rollout status deployment/s3 --timeout 120s

helm upgrade --install promptintern charts/promptintern --namespace promptintern-system --create-namespace --wait \
    --set image.repository=promptintern/operator,image.tag=dev,trainer.image=promptintern/trainer:dev \
    --set defaultStorage.uri=s3://runs/jobs,defaultStorage.endpoint=http://s3.s3:7070,defaultStorage.region=us-east-1 \
    --set defaultStorage.secretName=s3 \
    --set podSizes.head.cpu=500m,podSizes.head.memory=3Gi,podSizes.worker.cpu=1,podSizes.worker.memory=3Gi \
    --set podSizes.preflight.cpu=500m,podSizes.preflight.memory=2Gi

kubectl -n "$team" apply -f examples/quickstart.yaml
echo "watch the job: kubectl -n $team get pij -w"
