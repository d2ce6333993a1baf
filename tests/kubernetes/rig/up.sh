#!/usr/bin/env bash
# Starts etcd, the apiserver and, but for `control`, the rest of a node:
# controller manager, scheduler, containerd, kubelet, kube-proxy, CoreDNS.
# All run in the network namespace $NS, from where nothing gets out. Repeat at
# will: what runs is left alone. Usage: up.sh [control]
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"

STATE=$RIG/state
PKI=$STATE/pki
mkdir -p "$PKI" "$RIG/run/pids"

network() {
  [ -e /run/netns/$NS ] || ip netns add $NS
  inside ip link set lo up
  inside ip link show node0 > /dev/null 2>&1 || {
    inside ip link add node0 type bridge
    inside ip addr add $NODE_IP/32 dev node0
    inside ip link set node0 up
  }
  # The addresses of services need some route before they are translated.
  inside ip route show default | grep -q . || inside ip route add default dev node0 src $NODE_IP
  inside sysctl -qw net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1 net.ipv4.conf.all.route_localnet=1
}

# certificate NAME SUBJECT [ALTERNATIVE NAMES]
certificate() {
  [ -f "$PKI/$1.crt" ] && return
  openssl req -newkey rsa:2048 -nodes -keyout "$PKI/$1.key" -subj "$2" -out "$PKI/$1.csr" 2> /dev/null
  openssl x509 -req -in "$PKI/$1.csr" -CA "$PKI/ca.crt" -CAkey "$PKI/ca.key" -CAcreateserial -days 365 -out "$PKI/$1.crt" \
    -extfile <(printf 'extendedKeyUsage=serverAuth,clientAuth\n%s\n' "${3:+subjectAltName=$3}") 2> /dev/null
}

pki() {
  [ -f "$PKI/ca.crt" ] ||
    openssl req -x509 -newkey rsa:2048 -nodes -days 365 -keyout "$PKI/ca.key" -out "$PKI/ca.crt" -subj /CN=rig-ca 2> /dev/null
  [ -f "$PKI/sa.key" ] || {
    openssl genrsa -out "$PKI/sa.key" 2048 2> /dev/null
    openssl rsa -in "$PKI/sa.key" -pubout -out "$PKI/sa.pub" 2> /dev/null
  }
  local service=kubernetes.default.svc
  certificate apiserver /CN=kube-apiserver "IP:127.0.0.1,IP:$NODE_IP,IP:10.201.0.1,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:$service,DNS:$service.cluster.local"
  certificate admin /O=system:masters/CN=admin
  certificate kubelet /O=system:nodes/CN=system:node:rig "IP:$NODE_IP,DNS:rig"
  certificate aggregator /CN=front-proxy
}

# kubeconfig FILE CERTIFICATE
kubeconfig() {
  cat > "$1" << YAML
apiVersion: v1
kind: Config
clusters: [{name: rig, cluster: {server: "https://$NODE_IP:6443", certificate-authority: $PKI/ca.crt}}]
users: [{name: user, user: {client-certificate: $PKI/$2.crt, client-key: $PKI/$2.key}}]
contexts: [{name: rig, context: {cluster: rig, user: user}}]
current-context: rig
YAML
}

# put FILE writes it where it differs: kube-proxy ends itself when its file is
# written anew.
put() {
  cat > "$1.new"
  if cmp -s "$1.new" "$1"; then rm "$1.new"; else mv "$1.new" "$1"; fi
}

# start PROGRAM ARGUMENT... keeps its process id, and its log in $RIG/out.
start() {
  mine "$1" && return
  nsenter --net=/run/netns/$NS setsid "$@" >> "$RIG/out/$1.log" 2>&1 < /dev/null &
  owned record "$RIG/run/pids/$1" $!
  patiently mine "$1"
}

control() {
  start etcd --data-dir "$STATE/etcd" --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380 --unsafe-no-fsync=true
  # Aggregator routing: webhooks are called at their endpoints, which works
  # without kube-proxy.
  start kube-apiserver --etcd-servers=http://127.0.0.1:2379 \
    --bind-address=0.0.0.0 --advertise-address=$NODE_IP --secure-port=6443 \
    --tls-cert-file="$PKI/apiserver.crt" --tls-private-key-file="$PKI/apiserver.key" --client-ca-file="$PKI/ca.crt" \
    --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true \
    --service-account-issuer=https://kubernetes.default.svc.cluster.local \
    --service-account-key-file="$PKI/sa.pub" --service-account-signing-key-file="$PKI/sa.key" \
    --service-cluster-ip-range=$SERVICES --enable-aggregator-routing=true \
    --kubelet-client-certificate="$PKI/admin.crt" --kubelet-client-key="$PKI/admin.key" \
    --kubelet-preferred-address-types=InternalIP \
    --requestheader-client-ca-file="$PKI/ca.crt" --requestheader-allowed-names=front-proxy \
    --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group \
    --requestheader-extra-headers-prefix=X-Remote-Extra- \
    --proxy-client-cert-file="$PKI/aggregator.crt" --proxy-client-key-file="$PKI/aggregator.key"
  patiently k get --raw=/readyz
}

containers() {
  put "$STATE/cni/10-rig.conflist" << JSON
{"cniVersion": "0.4.0", "name": "rig", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true, "promiscMode": false,
   "ipam": {"type": "host-local", "dataDir": "$STATE/cnidata", "ranges": [[{"subnet": "10.202.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
JSON
  # Without CAP_SYS_RESOURCE runc fails on a negative oom_score_adj.
  put "$STATE/containerd.toml" << TOML
version = 2
root = "$STATE/containerd"
state = "$RIG/run/containerd"
[grpc]
  address = "$SOCK"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "dev.local/pause:rig"
  stream_server_address = "127.0.0.1"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$STATE/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
TOML
  start containerd --config "$STATE/containerd.toml"
  patiently ctr -a "$SOCK" version
  "$HERE/images.sh"
}

node() {
  echo "nameserver $NODE_IP" > "$STATE/resolv.conf"
  put "$STATE/kubelet.yaml" << YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $NODE_IP
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $PKI/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $PKI/kubelet.crt
tlsPrivateKeyFile: $PKI/kubelet.key
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
clusterDNS: [$NODE_IP]
clusterDomain: cluster.local
resolvConf: $STATE/resolv.conf
containerRuntimeEndpoint: unix://$SOCK
podLogsDir: $STATE/pod-logs
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: "200Mi", nodefs.available: "1%", imagefs.available: "1%"}
maxPods: 80
YAML
  start kubelet --config="$STATE/kubelet.yaml" --kubeconfig="$STATE/kubelet.kubeconfig" --root-dir="$STATE/kubelet" \
    --hostname-override=rig --node-ip=$NODE_IP --cert-dir="$STATE/kubelet-pki"
  put "$STATE/Corefile" << COREFILE
cluster.local:53 {
  bind $NODE_IP
  errors
  kubernetes cluster.local {
    kubeconfig $KUBECONFIG
  }
}
COREFILE
  start coredns -conf "$STATE/Corefile"
  # It may not write the conntrack settings of the kernel: 0 leaves them.
  put "$STATE/kube-proxy.yaml" << YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
bindAddress: $NODE_IP
mode: iptables
clusterCIDR: $PODS
clientConnection: {kubeconfig: $KUBECONFIG}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
hostnameOverride: rig
YAML
  start kube-proxy --config="$STATE/kube-proxy.yaml"
  patiently k get node rig
  k wait --for=condition=Ready node/rig --timeout=90s > /dev/null
}

network
pki
kubeconfig "$KUBECONFIG" admin
kubeconfig "$STATE/kubelet.kubeconfig" kubelet
control
echo "the apiserver answers after $SECONDS s"
[ "${1:-}" = control ] && exit

mkdir -p "$STATE/cni"
start kube-controller-manager --kubeconfig="$KUBECONFIG" --root-ca-file="$PKI/ca.crt" \
  --service-account-private-key-file="$PKI/sa.key" --cluster-cidr=$PODS --allocate-node-cidrs=true \
  --service-cluster-ip-range=$SERVICES --leader-elect=false --bind-address=127.0.0.1
start kube-scheduler --kubeconfig="$KUBECONFIG" --leader-elect=false --bind-address=127.0.0.1
containers
node
echo "the node is ready after $SECONDS s"
