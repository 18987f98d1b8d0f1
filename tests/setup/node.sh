#!/usr/bin/env bash
# A Kubernetes of one node that runs pods: the control plane of controlplane.sh with containerd, kubelet, kube-proxy and
# CoreDNS, all in network, process and mount namespaces of their own. No Docker. Needs root on Linux.
#
#   tests/setup/node.sh run COMMAND...   starts it, runs COMMAND with KUBECONFIG and PATH set, stops it
#   tests/setup/node.sh start            starts it in the background and prints the KUBECONFIG to use
#   tests/setup/node.sh stop             stops that one
#   tests/setup/node.sh load FILE...     imports images (docker-archive) into the node that runs
#
# Out: the node `node-1`, Ready, with Services and DNS. From this machine only the API server can be reached; from the node
#   nothing outside of it can, this machine included, so images have to be loaded. Nothing enforces NetworkPolicy on it.
# When its supervisor ends, however it ends, the kernel ends all processes and mounts of its namespaces; what is left to
#   clean up is a folder below /tmp and a cgroup. One runs at a time, since nodes would share the folder of images.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PATH=$PATH:/usr/sbin:/sbin
. "$here/common.sh"
store=$cache/node/containerd
run=$cache/run/node
cgroup=portcullis-node
# Both ends of the way between this machine and the node. Nobody else's network is likely to be there.
outside=10.213.47.1 inside=10.213.47.2
pods=10.244.0.0/24
dns=10.96.0.10

# ---- Inside of the namespaces: process 1 ----------------------------------------------------------------------------

launch() {
  local name=$1
  shift
  "$@" </dev/null >>"$dir/$name.log" 2>&1 &
  printf '%s\n' "$!" >"$dir/$name.inner"
}

# wait_for NAME TEXT SECONDS COMMAND...: until COMMAND succeeds.
wait_for() {
  local name=$1 text=$2 deadline=$((SECONDS + $3))
  shift 3
  until "$@" >/dev/null 2>&1; do
    if ! kill -0 "$(cat "$dir/$name.inner")" 2>/dev/null; then why="$name ended while it started"; return 1; fi
    if (( SECONDS > deadline )); then why="$text did not come in time"; return 1; fi
    sleep 0.2
  done
}

kube() { "$control/kubectl" --kubeconfig "$dir/k8s/admin.kubeconfig" --request-timeout=5s "$@"; }
containers() { ctr --address "$dir/containerd.sock" --namespace k8s.io "$@"; }

make_network() {
  # What leaves for another machine's network starts in it; nothing begins in here and goes out.
  ip link set lo up
  ip address add "$inside/30" dev up0
  ip link set up0 up
  ip route add default via "$outside"
  sysctl -qw net.ipv4.ip_forward=1
  nft -f - <<'NFT'
table inet portcullis {
  chain out { type filter hook output priority filter; oifname "up0" ct state new drop; }
  chain through { type filter hook forward priority filter; iifname "up0" drop; oifname "up0" drop; }
}
NFT
}

make_files() {
  printf 'nameserver 127.0.0.1\n' >"$dir/resolv.conf"
  mkdir -p "$dir/cni" "$dir/kubelet" "$dir/var-log" "$store"
  # Point to point: with a bridge, answers from a Service's pod to another pod would go past kube-proxy.
  cat >"$dir/cni/10-pods.conflist" <<JSON
{ "cniVersion": "0.4.0", "name": "pods", "plugins": [
  { "type": "ptp", "ipMasq": false,
    "ipam": { "type": "host-local", "dataDir": "$dir/addresses", "ranges": [[{ "subnet": "$pods" }]], "routes": [{ "dst": "0.0.0.0/0" }] } },
  { "type": "portmap", "capabilities": { "portMappings": true } } ] }
JSON
  # restrict_oom_score_adj: without CAP_SYS_RESOURCE runc cannot lower it and fails with an error about something else.
  cat >"$dir/containerd.toml" <<TOML
version = 2
root = "$store"
state = "$dir/containerd"
[grpc]
  address = "$dir/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "$dir/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$dir/cni"
TOML
  cat >"$dir/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $inside
authentication: { anonymous: { enabled: false }, webhook: { enabled: true }, x509: { clientCAFile: "$dir/k8s/pki/ca.crt" } }
authorization: { mode: Webhook }
tlsCertFile: $dir/k8s/pki/kubelet.crt
tlsPrivateKeyFile: $dir/k8s/pki/kubelet.key
containerRuntimeEndpoint: unix://$dir/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /$cgroup
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: []
evictionHard: { memory.available: 50Mi, nodefs.available: 1%, imagefs.available: 1% }
imageGCHighThresholdPercent: 100
clusterDNS: [$dns]
clusterDomain: cluster.local
resolvConf: $dir/resolv.conf
# Pods come and go all the time here, and tests wait for them.
syncFrequency: 10s
kubeAPIQPS: 100
kubeAPIBurst: 200
YAML
}

# Each hierarchy of version 1 has a folder per cgroup; version 2 has one, and a machine with both has both.
cgroups() {
  local hierarchy
  for hierarchy in $(findmnt --noheadings --output TARGET --types cgroup,cgroup2); do echo "$hierarchy/$cgroup"; done
}

make_cgroups() {
  local folder
  for folder in $(cgroups); do
    mkdir -p "$folder"
    # A new cpuset has neither processors nor memory, and nothing can be put into it.
    if [[ -e $folder/cpuset.cpus && -z $(cat "$folder/cpuset.cpus") ]]; then
      cat "${folder%/*}/cpuset.cpus" >"$folder/cpuset.cpus"
      cat "${folder%/*}/cpuset.mems" >"$folder/cpuset.mems"
    fi
  done
}

import() {
  local file mark
  mkdir -p "$store/loaded"
  for file in "$@"; do
    mark=$store/loaded/$(basename "$file")
    # Names in the cache hold a hash of what the image is made from.
    if [[ -e $mark && $file == "$cache"/* ]]; then continue; fi
    containers images import "$file" >/dev/null
    touch "$mark"
  done
}

start_inside() {
  mount --make-rprivate /
  mount --make-rshared /
  # Folders that programs have fixed in them, so that they write into this node's.
  local folder
  for folder in /run/containerd /run/netns /var/lib/kubelet; do mkdir -p "$folder"; mount -t tmpfs none "$folder"; done
  mount --make-rshared /run/netns
  make_files
  mount --bind "$dir/var-log" /var/log
  make_cgroups
  make_network

  launch containerd containerd --config "$dir/containerd.toml" --log-level warn
  mkfifo "$dir/orders"
  exec {orders}<>"$dir/orders"
  PORTCULLIS_TEST_CONTROLPLANE=$control PORTCULLIS_CONTROLPLANE_ADDRESS=$inside \
    bash "$here/controlplane.sh" serve "$dir/k8s" <"$dir/orders" >"$dir/controlplane.log" 2>&1 &
  printf '%s\n' "$!" >"$dir/controlplane.inner"
  wait_for containerd "containerd's answer" 30 containers version || return 1
  import "${images[@]}" || { why="images could not be imported"; return 1; }
  wait_for controlplane "the control plane" 120 grep -qx ready "$dir/controlplane.log" || return 1
  launch kubelet "$node_programs/kubelet" --config "$dir/kubelet.yaml" --kubeconfig "$dir/k8s/node.kubeconfig" \
    --hostname-override=node-1 "--node-ip=$inside" "--root-dir=$dir/kubelet" --v=1
  launch kube-proxy "$node_programs/kube-proxy" --kubeconfig "$dir/k8s/kube-proxy.kubeconfig" --proxy-mode=nftables \
    --hostname-override=node-1 --conntrack-max-per-core=0 --conntrack-min=0
  kube apply -f "$here/node-images/coredns.yaml" >/dev/null || { why="CoreDNS could not be applied"; return 1; }
  wait_for kubelet "the node" 60 kube wait --for=condition=Ready node/node-1 --timeout=1s || return 1
  wait_for kubelet "CoreDNS" 90 kube -n kube-system rollout status deployment/coredns --timeout=1s || return 1
}

# In the order that leaves nothing for another run to trip over: no new pods, no containers, no programs.
stop_inside() {
  trap '' INT TERM HUP
  # What cannot be stopped in order is stopped with the namespaces, and the store is then made anew.
  set +e
  local name tries=100
  for name in kubelet kube-proxy controlplane; do end "$name"; done
  containers tasks list --quiet | xargs -r -n 1 ctr --address "$dir/containerd.sock" --namespace k8s.io tasks delete --force
  while containers containers list --quiet | grep -q . && (( tries-- > 0 )); do
    containers containers list --quiet | xargs -r ctr --address "$dir/containerd.sock" --namespace k8s.io containers delete
    sleep 0.1
  done
  if (( tries > 0 )) && containers version >/dev/null; then
    end containerd
    touch "$store/clean"
  fi
} >>"$dir/stop.log" 2>&1

end() {
  local pid tries=100
  pid=$(cat "$dir/$1.inner")
  if [[ -z $pid ]] || ! kill -s TERM "$pid"; then return; fi
  while kill -0 "$pid" 2>/dev/null && (( tries-- > 0 )); do sleep 0.1; done
}

supervise() {
  dir=$1 control=$2 node_programs=$3
  shift 3
  images=("$@")
  why=
  trap 'stop_inside; exit 0' TERM
  trap '' INT HUP
  if ! start_inside; then
    printf '%s\n' "$why" >"$dir/failed"
    stop_inside
    exit 1
  fi
  touch "$dir/up"
  # Until it is told to stop. As process 1 this shell also takes leave of every orphan.
  while :; do sleep 3600 & wait $! || true; done
}

# ---- Outside --------------------------------------------------------------------------------------------------------

begin() {
  bash "$here/node-packages.sh"
  control=$(bash "$here/install.sh" controlplane)
  node_programs=$(bash "$here/install.sh" cluster-node)
  mapfile -t images < <(bash "$here/node-images.sh" pause coredns)
  (( ${#images[@]} == 2 )) || die "the node's own images could not be built"
  mkdir -p "$cache/node" "$cache/run"
  # Its network, its cgroup and its folders have fixed names: one node a machine, whatever cache it uses.
  exec 8>"$(machine_lock node)"
  flock --nonblock 8 || die "a node runs already (tests/setup/node.sh stop, or wait until its tests end)"
  # A store that was not left in order could hold parts of images, and containers of a node that is gone.
  if [[ ! -e $store/clean ]]; then rm -rf "$store"; fi
  rm -f "$store/clean"
  # Of a node that was killed outright.
  rm -rf /tmp/portcullis-node.*
  remove_cgroups
  ip link delete portcullis0 2>/dev/null || true
  if [[ -n $(ip -oneline address show to 10.213.47.0/30) ]]; then
    die "this machine uses the network 10.213.47.0/30, which the node needs"
  fi
  dir=$(mktemp -d "/tmp/portcullis-node.XXXXXX")
  chmod 0755 "$dir"
  trap finish EXIT
  trap 'end_child; exit 130' INT
  trap 'end_child; exit 143' TERM HUP
  say "Starting a node"
  # With this shell the holder of the namespaces ends, and with that all in them, even if neither can clean up. A session of
  # their own, so that Ctrl-C reaches only this shell.
  setsid setpriv --pdeathsig KILL unshare --net --mount --pid --fork --mount-proc --kill-child=KILL \
    bash "${BASH_SOURCE[0]}" inside "$dir" "$control" "$node_programs" "${images[@]}" \
    8>&- </dev/null >"$dir/supervisor.log" 2>&1 &
  holder=$!
  connect
  local started=$SECONDS
  until [[ -e $dir/up ]]; do
    if [[ -e $dir/failed ]] || ! kill -0 "$holder" 2>/dev/null; then
      show_logs
      die "the node did not start: $(cat "$dir/failed" 2>/dev/null || tail -n 3 "$dir/supervisor.log")"
    fi
    sleep 0.2
  done
  say "  done in $(( SECONDS - started )) s"
  export KUBECONFIG=$dir/k8s/admin.kubeconfig PATH=$control:$PATH PORTCULLIS_NODE=$dir
}

end_child() {
  if [[ -n ${child:-} ]]; then kill -s TERM "$child" 2>/dev/null || true; wait "$child" || true; fi
}

show_logs() {
  local name
  for name in supervisor controlplane containerd kubelet kube-proxy; do
    if [[ -s $dir/$name.log ]]; then say "== last lines of $name.log"; tail -n 15 "$dir/$name.log" >&2; fi
  done
}

# Gives the namespaces, which wait for it, their end of the way to this machine.
connect() {
  local tries=100
  until process=$(cat "/proc/$holder/task/$holder/children" 2>/dev/null) && process=${process%% *} && [[ -n $process ]] \
    && [[ $(readlink "/proc/$process/ns/net") != "$(readlink /proc/self/ns/net)" ]]; do
    (( tries-- > 0 )) || die "no namespaces came up: $(cat "$dir/supervisor.log")"
    sleep 0.1
  done
  ip link add portcullis0 type veth peer name up0 netns "$process"
  ip address add "$outside/30" dev portcullis0
  ip link set portcullis0 up
  touch "$dir/connected"
}

finish() {
  local status=$?
  trap '' INT TERM HUP
  if [[ -n ${process:-} ]] && kill -s TERM "$process" 2>/dev/null; then
    local tries=300
    while kill -0 "$process" 2>/dev/null && (( tries-- > 0 )); do sleep 0.1; done
  fi
  if [[ -n ${holder:-} ]]; then kill -s KILL "$holder" 2>/dev/null || true; wait "$holder" 2>/dev/null || true; fi
  # It goes with the namespace, which the kernel takes down in its own time.
  ip link delete portcullis0 2>/dev/null || true
  remove_cgroups
  rmdir /var/lib/kubelet /run/netns /run/containerd 2>/dev/null || true
  if [[ -n ${PORTCULLIS_NODE_LOGS:-} && $status != 0 ]]; then
    mkdir -p "$PORTCULLIS_NODE_LOGS" && cp "$dir"/*.log "$PORTCULLIS_NODE_LOGS/" && say "Logs of the node: $PORTCULLIS_NODE_LOGS"
  fi
  local tries=50
  until rm -rf "$dir" 2>/dev/null || (( tries-- <= 0 )); do sleep 0.1; done
  exit "$status"
}

remove_cgroups() {
  local folder tries=50
  for folder in $(cgroups); do
    while [[ -d $folder ]] && (( tries-- > 0 )); do
      find "$folder" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.1
    done
  done
}

case ${1:-} in
  inside)
    # Written by the shell outside, once there is a way to it.
    until [[ -e $2/connected ]]; do sleep 0.05; done
    shift
    supervise "$@"
    ;;
  run)
    shift
    (( $# > 0 )) || die "what should run on it? tests/setup/node.sh run COMMAND..."
    begin
    # In the background, so that this shell hears of a signal at once, and passes it on.
    "$@" 8>&- &
    child=$!
    status=0
    wait "$child" || status=$?
    exit "$status"
    ;;
  start)
    if kill -0 "$(cat "$run/pid" 2>/dev/null)" 2>/dev/null; then
      die "it runs already; stop it with tests/setup/node.sh stop, or use KUBECONFIG=$(cat "$run/kubeconfig")"
    fi
    rm -rf "$run"
    mkdir -p "$run"
    nohup bash "${BASH_SOURCE[0]}" run bash -c \
      'printf "%s\n" "$KUBECONFIG" >"$1/kubeconfig"; printf "%s\n" "$PORTCULLIS_NODE" >"$1/dir"; : >"$1/up"
       exec sleep infinity' node "$run" </dev/null >"$run/log" 2>&1 &
    printf '%s\n' "$!" >"$run/pid"
    until [[ -e $run/up ]]; do
      if ! kill -0 "$(cat "$run/pid")" 2>/dev/null; then cat "$run/log" >&2; exit 1; fi
      sleep 0.2
    done
    say "It runs until tests/setup/node.sh stop."
    printf 'export KUBECONFIG=%s\n' "$(cat "$run/kubeconfig")"
    ;;
  stop)
    pid=$(cat "$run/pid" 2>/dev/null) || die "there is none that was started with tests/setup/node.sh start"
    kill "$pid" 2>/dev/null || true
    while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
    rm -rf "$run"
    ;;
  load)
    shift
    dir=${PORTCULLIS_NODE:-$(cat "$run/dir" 2>/dev/null)} || die "there is no node that runs"
    import "$@"
    ;;
  *)
    sed -n '2,15s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac
