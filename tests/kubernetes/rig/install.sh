#!/usr/bin/env bash
# Installs into the running cluster what a user's has: the CRDs and webhooks of
# Knative Serving, Eventing and KubeRay and, but for `control`, their programs,
# with Kourier and the in-memory channel. Repeat at will.
# Usage: install.sh [control]
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"

SERVING=$(moddir knative.dev/serving $KNATIVE)
EVENTING=$(moddir knative.dev/eventing $KNATIVE)
required() { awk -v module="$1" '$1 == module {print $2; exit}' "$SERVING/go.mod"; }
NETWORKING=$(moddir knative.dev/networking "$(required knative.dev/networking)")
CACHING=$(moddir knative.dev/caching "$(required knative.dev/caching)")
KOURIER_SOURCE=$(moddir knative.dev/net-kourier $KOURIER)
KUBERAY_SOURCE=$(moddir $KUBERAY_MODULE $KUBERAY)
CHANNEL=$EVENTING/config/channels/in-memory-channel
BROKER=$EVENTING/config/brokers/mt-channel-broker

# together FILE... prints manifests as one, with the images that were built and
# with small requests: two cores are to hold all of it, and a Ray.
together() {
  local each
  for each in "$@"; do
    cat "$each"
    printf '\n---\n'
  done | perl -0777 -pe '
    sub image { my ($from, $name) = @_; $name =~ tr#/#-#; "dev.local/$from-$name:rig" }
    s{ko://knative.dev/(serving|eventing)/cmd/([\w/-]+)}{image($1, $2)}ge;
    s{ko://knative.dev/net-kourier/cmd/kourier}{dev.local/kourier:rig}g;
    s{docker.io/envoyproxy/envoy:\S+}{dev.local/envoy:rig}g;
    s{type: LoadBalancer}{type: NodePort}g;
    s{(requests:\s+(?:#.*\s+)*cpu: )\S+}{${1}10m}g;'
}

apply() { k apply --server-side --force-conflicts -f - > /dev/null; }

crds() {
  together "$SERVING"/config/core/300-resources/*.yaml \
    "$NETWORKING"/config/{certificate,domain-claim,ingress,serverlessservice}.yaml "$CACHING/config/image.yaml" \
    "$EVENTING"/config/core/resources/*.yaml "$CHANNEL"/resources/*.yaml \
    "$KUBERAY_SOURCE"/config/crd/bases/*.yaml | apply
  k wait --for=condition=Established crd --all --timeout=60s > /dev/null
}

# settings: what the programs read, and what they may do.
settings() {
  together "$SERVING/config/core/100-namespace.yaml" "$SERVING/config/core/200-serviceaccount.yaml" "$SERVING"/config/core/200-roles/*.yaml \
    "$SERVING"/config/core/configmaps/*.yaml "$NETWORKING/config/config-network.yaml" | apply
  set_in config-network '{"data": {"ingress-class": "kourier.ingress.networking.knative.dev"}}'
  set_in config-domain '{"data": {"example.com": ""}}'
  # Shortened, for the tests: a minute and half a minute are the defaults.
  set_in config-autoscaler '{"data": {"stable-window": "10s", "scale-to-zero-grace-period": "5s"}}'
  together "$EVENTING/config/core/100-namespace.yaml" "$EVENTING"/config/core/200-*.yaml "$EVENTING"/config/core/roles/*.yaml \
    "$CHANNEL"/200-*.yaml "$CHANNEL"/roles/*.yaml "$BROKER"/roles/*.yaml \
    "$EVENTING"/config/core/configmaps/*.yaml "$CHANNEL"/configmaps/*.yaml | apply
  # Sources and transformations that nothing here uses, but the controller
  # wants to know their images.
  apply << 'YAML'
apiVersion: v1
kind: ConfigMap
metadata: {name: eventing-transformations-images, namespace: knative-eventing}
data: {transform-jsonata: dev.local/none}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: eventing-integrations-images, namespace: knative-eventing}
data: {timer-source: dev.local/none, aws-s3-source: dev.local/none, aws-sqs-source: dev.local/none, aws-ddb-streams-source: dev.local/none, log-sink: dev.local/none, aws-s3-sink: dev.local/none, aws-sqs-sink: dev.local/none, aws-sns-sink: dev.local/none, aws-eventbridge-sink: dev.local/none}
YAML
}

set_in() { k patch configmap -n knative-serving "$1" --type merge -p "$2" > /dev/null; }

serving() {
  together "$SERVING/config/core/999-cache.yaml" "$SERVING"/config/core/webhooks/*.yaml \
    "$SERVING"/config/core/deployments/{activator,autoscaler,controller,webhook}.yaml | apply
  together "$KOURIER_SOURCE"/config/{100-namespace,200-bootstrap,200-config,200-serviceaccount,300-controller,300-gateway}.yaml | apply
}

eventing() {
  together "$EVENTING"/config/core/webhooks/*.yaml "$CHANNEL"/webhooks/*.yaml \
    "$EVENTING"/config/core/deployments/{controller,webhook}.yaml "$CHANNEL"/deployments/*.yaml \
    "$BROKER"/deployments/{broker-filter,broker-ingress,controller}.yaml | apply
}

kuberay() {
  k create namespace ray-system --dry-run=client -o yaml | apply
  together "$KUBERAY_SOURCE"/config/rbac/{service_account,leader_election_role,leader_election_role_binding,role,role_binding}.yaml |
    sed -E 's/^(- kind: ServiceAccount)$/\1\n  namespace: ray-system/' |
    k apply -n ray-system --server-side --force-conflicts -f - > /dev/null
  # A tenth of a CPU takes it half a minute to start.
  together "$KUBERAY_SOURCE/config/manager/manager.yaml" |
    sed -E '0,/cpu: 100m/s//cpu: "1"/; s#kuberay/operator#dev.local/kuberay-operator:rig#; s#namespace: system#namespace: ray-system#' | apply
}

# webhook PROGRAM NAMESPACE NAME PORT METRICS-PORT runs a webhook of Knative as a
# process beside the apiserver, and tells the apiserver where: with no node there
# are no pods.
webhook() {
  local program=$1 namespace=$2 name=$3 port=$4 health=$5
  mine "$program" || {
    env SYSTEM_NAMESPACE="$namespace" POD_NAME="$name-0" WEBHOOK_NAME="$name" WEBHOOK_PORT="$port" \
      CONFIG_LOGGING_NAME=config-logging CONFIG_OBSERVABILITY_NAME=config-observability METRICS_DOMAIN=knative.dev/rig \
      SINK_BINDING_SELECTION_MODE=exclusion METRICS_PROMETHEUS_PORT="$health" PROFILING_PORT="$((health + 1))" \
      nsenter --net=/run/netns/$NS setsid "$program" >> "$RIG/out/$program.log" 2>&1 < /dev/null &
    owned record "$RIG/run/pids/$program" $!
  }
  apply << YAML
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: $name-rig, namespace: $namespace, labels: {kubernetes.io/service-name: $name}}
addressType: IPv4
endpoints: [{addresses: [$NODE_IP], conditions: {ready: true}}]
ports: [{name: https-webhook, port: $port, protocol: TCP}]
YAML
}

crds
echo "the CRDs are served after $SECONDS s"
settings
if [ "${1:-}" = control ]; then
  together "$SERVING"/config/core/webhooks/*.yaml "$SERVING/config/core/deployments/webhook.yaml" "$EVENTING"/config/core/webhooks/*.yaml \
    "$EVENTING/config/core/deployments/webhook.yaml" | apply
  webhook serving-webhook knative-serving webhook 8443 9090
  webhook eventing-webhook knative-eventing eventing-webhook 8444 9190
  exit
fi
serving
eventing
kuberay
for namespace in knative-serving kourier-system knative-eventing ray-system; do
  k wait -n $namespace --for=condition=Available deploy --all --timeout=300s > /dev/null
  echo "$namespace is ready after $SECONDS s"
done

# Names inside: the cluster's.
mkdir -p /etc/netns/$NS
echo "nameserver $NODE_IP" > /etc/netns/$NS/resolv.conf
echo '127.0.0.1 localhost' > /etc/netns/$NS/hosts
