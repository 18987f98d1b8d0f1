#!/usr/bin/env bash
# A real Kubernetes control plane on loopback: etcd, kube-apiserver, kube-controller-manager and kube-scheduler, with
# certificates, RBAC, node authorization and admission as a cluster has them. No kubelet: Pods are scheduled, not run.
#
#   tests/setup/controlplane.sh run COMMAND...   starts it, runs COMMAND with KUBECONFIG and PATH set, stops it
#   tests/setup/controlplane.sh start            starts it in the background and prints the KUBECONFIG to use
#   tests/setup/controlplane.sh stop             stops that one
#   tests/setup/controlplane.sh serve DIR        for programs: lives while its standard input is open. Prints `ready`, then
#                                                answers each line `start NAME`, `stop NAME` (SIGTERM) or `kill NAME`
#                                                (SIGKILL) of its input with `ok` or `error: …`; NAME is a program.
#
# Takes: PORTCULLIS_TEST_CONTROLPLANE, a folder with the programs (default: what install.sh controlplane builds);
#   PORTCULLIS_ETCD_QUOTA, bytes etcd may hold before it refuses writes (default: etcd's own, 2 GiB);
#   PORTCULLIS_CONTROLLER_RATE, requests a second that each controller of the controller manager makes at most (default:
#   200, so that tests need not wait for it; its own default is 20);
#   PORTCULLIS_CONTROLPLANE_ADDRESS, where the API server listens (default: 127.0.0.1). With an address of its own it can be
#   reached from pods, and a node's programs find their certificates and kubeconfigs (kubelet, kube-proxy): node.sh does this.
# Makes below DIR: *.kubeconfig (admin, node), NAME.log, NAME.pid, audit.log (one JSON line for each write that did not come
#   from the control plane itself), pki/. When it stops, all of DIR is removed; the logs stay if DIR/failed exists.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
programs=(etcd kube-apiserver kube-controller-manager kube-scheduler)
# One node is known to the control plane by this name: who plays its kubelet has its certificate.
node=node-1
address=${PORTCULLIS_CONTROLPLANE_ADDRESS:-127.0.0.1}
rate=${PORTCULLIS_CONTROLLER_RATE:-200}
users=(admin kube-controller-manager kube-scheduler node)
if [[ $address != 127.0.0.1 ]]; then users+=(kube-proxy); fi

. "$here/common.sh"

find_programs() {
  bin=${PORTCULLIS_TEST_CONTROLPLANE:-}
  if [[ -z $bin ]]; then bin=$(bash "$here/install.sh" controlplane); fi
  local program
  for program in "${programs[@]}" kubectl; do
    [[ -x $bin/$program ]] || die "there is no $program in $bin; build the programs with tests/setup/install.sh controlplane"
  done
  command -v openssl >/dev/null || die "openssl is missing; on Debian or Ubuntu: apt-get install openssl"
}

# certificate NAME SUBJECT [SECTION]: pki/NAME.crt and pki/NAME.key, signed by the authority of this control plane.
certificate() {
  local name=$1 subject=$2 section=${3:-client}
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -config "$dir/pki/openssl.cnf" \
    -subj "$subject" -keyout "$dir/pki/$name.key" -out "$dir/pki/$name.csr"
  openssl x509 -req -in "$dir/pki/$name.csr" -CA "$dir/pki/ca.crt" -CAkey "$dir/pki/ca.key" -CAcreateserial \
    -days 30 -sha256 -extfile "$dir/pki/openssl.cnf" -extensions "$section" -out "$dir/pki/$name.crt"
  rm "$dir/pki/$name.csr"
}

make_pki() {
  mkdir "$dir/pki"
  cat >"$dir/pki/openssl.cnf" <<CNF
[req]
distinguished_name = name
prompt = no
[name]
CN = unused
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = IP:$address, IP:127.0.0.1, IP:10.96.0.1, DNS:$node, DNS:localhost, DNS:kubernetes.default.svc
[client]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = clientAuth
CNF
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -config "$dir/pki/openssl.cnf" -extensions ca \
    -subj "/CN=portcullis-test-authority" -days 30 -sha256 -keyout "$dir/pki/ca.key" -out "$dir/pki/ca.crt"
  openssl ecparam -name prime256v1 -genkey -noout -out "$dir/pki/service-accounts.key"
  openssl ec -in "$dir/pki/service-accounts.key" -pubout -out "$dir/pki/service-accounts.pub"
  certificate kube-apiserver "/CN=kube-apiserver" server
  certificate admin "/O=system:masters/CN=portcullis-test-admin"
  certificate kube-controller-manager "/CN=system:kube-controller-manager"
  certificate kube-scheduler "/CN=system:kube-scheduler"
  certificate node "/O=system:nodes/CN=system:node:$node"
  if [[ $address == 127.0.0.1 ]]; then return; fi
  certificate kube-proxy "/CN=system:kube-proxy"
  # What the kubelet shows to the API server, and the API server to the kubelet, for logs, exec and port-forward.
  certificate kubelet "/O=system:nodes/CN=system:node:$node" server
  certificate kubelet-client "/O=system:masters/CN=kube-apiserver-kubelet-client"
}

make_kubeconfigs() {
  local user
  for user in "${users[@]}"; do
    cat >"$dir/$user.kubeconfig" <<YAML
apiVersion: v1
kind: Config
clusters: [{ name: portcullis-test, cluster: { server: "https://$address:$port", certificate-authority: "$dir/pki/ca.crt" } }]
users: [{ name: "$user", user: { client-certificate: "$dir/pki/$user.crt", client-key: "$dir/pki/$user.key" } }]
contexts: [{ name: portcullis-test, context: { cluster: portcullis-test, user: "$user" } }]
current-context: portcullis-test
YAML
  done
}

# Writes only, and none of the control plane's own: what is left is what a test did and what the operator did.
make_audit_policy() {
  cat >"$dir/audit-policy.yaml" <<'YAML'
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - { level: None, users: ["system:apiserver", "system:kube-controller-manager", "system:kube-scheduler"] }
  - { level: None, userGroups: ["system:serviceaccounts:kube-system", "system:nodes"] }
  - { level: None, verbs: [get, list, watch] }
  - { level: Metadata }
YAML
}

command_of() {
  case $1 in
    # A socket in a folder of our own: nobody else can reach it, and no port has to be found.
    etcd)
      command=("$bin/etcd" --data-dir "$dir/etcd" --listen-client-urls "unix://$dir/etcd.sock"
        --advertise-client-urls http://127.0.0.1:0 --listen-peer-urls http://127.0.0.1:0
        --unsafe-no-fsync --log-level warn --quota-backend-bytes "${PORTCULLIS_ETCD_QUOTA:-0}")
      ;;
    kube-apiserver)
      command=("$bin/kube-apiserver" "--etcd-servers=unix://$dir/etcd.sock"
        "--bind-address=$address" "--secure-port=$port" "--advertise-address=$address"
        "--tls-cert-file=$dir/pki/kube-apiserver.crt" "--tls-private-key-file=$dir/pki/kube-apiserver.key"
        "--client-ca-file=$dir/pki/ca.crt" --service-account-issuer=https://kubernetes.default.svc
        "--service-account-key-file=$dir/pki/service-accounts.pub"
        "--service-account-signing-key-file=$dir/pki/service-accounts.key"
        --service-cluster-ip-range=10.96.0.0/16 --authorization-mode=Node,RBAC
        --enable-admission-plugins=NodeRestriction --allow-privileged=true --profiling=false
        "--audit-policy-file=$dir/audit-policy.yaml" "--audit-log-path=$dir/audit.log")
      if [[ $address == 127.0.0.1 ]]; then
        # No pod could use it as the endpoint of the Service `kubernetes`.
        command+=(--endpoint-reconciler-type=none)
      else
        command+=("--kubelet-client-certificate=$dir/pki/kubelet-client.crt" "--kubelet-client-key=$dir/pki/kubelet-client.key"
          "--kubelet-certificate-authority=$dir/pki/ca.crt" --kubelet-preferred-address-types=InternalIP)
      fi
      ;;
    kube-controller-manager)
      command=("$bin/kube-controller-manager" "--kubeconfig=$dir/kube-controller-manager.kubeconfig" --secure-port=0
        "--root-ca-file=$dir/pki/ca.crt" "--service-account-private-key-file=$dir/pki/service-accounts.key"
        --use-service-account-credentials --leader-elect=false "--kube-api-qps=$rate" "--kube-api-burst=$((rate * 3 / 2))"
        --profiling=false)
      if [[ $address == 127.0.0.1 ]]; then
        # Pods have loopback addresses then, which endpoints may not have: the controllers would fail at every change.
        command+=("--controllers=*,-endpoints-controller,-endpointslice-controller,-endpointslice-mirroring-controller")
      fi
      ;;
    kube-scheduler)
      command=("$bin/kube-scheduler" "--kubeconfig=$dir/kube-scheduler.kubeconfig" --secure-port=0
        --leader-elect=false --kube-api-qps=200 --kube-api-burst=400 --profiling=false)
      ;;
    *) return 1 ;;
  esac
}

pid_of() { cat "$dir/$1.pid" 2>/dev/null || true; }
alive() { local pid; pid=$(pid_of "$1"); [[ -n $pid ]] && kill -0 "$pid" 2>/dev/null; }

launch() {
  local command
  command_of "$1"
  # Memory is not scarce for so small a cluster, and processor time is.
  export GOGC=400
  # Where the kernel can do it, nothing outlives this script even when it is killed outright.
  if command -v setpriv >/dev/null; then command=(setpriv --pdeathsig KILL "${command[@]}"); fi
  "${command[@]}" </dev/null >>"$dir/$1.log" 2>&1 &
  printf '%s\n' "$!" >"$dir/$1.pid"
  # So that the shell does not print a line about each that it ends.
  disown
}

# end NAME SIGNAL: sends it, and SIGKILL when that did not do in ten seconds.
end() {
  local pid tries=100
  pid=$(pid_of "$1")
  if [[ -z $pid ]]; then return; fi
  kill -s "$2" "$pid" 2>/dev/null || true
  while kill -0 "$pid" 2>/dev/null && (( tries-- > 0 )); do sleep 0.1; done
  kill -s KILL "$pid" 2>/dev/null || true
  rm -f "$dir/$1.pid"
}

kube() { "$bin/kubectl" --kubeconfig "$dir/admin.kubeconfig" --request-timeout=5s "$@"; }

# wait_for NAME TEXT COMMAND...: until COMMAND succeeds; fails when program NAME ended or after 90 s.
wait_for() {
  local name=$1 text=$2 deadline=$((SECONDS + 90))
  shift 2
  until "$@" >/dev/null 2>&1; do
    if ! alive "$name"; then why="$name ended while it started"; return 1; fi
    if (( SECONDS > deadline )); then why="$text did not come within 90 s"; return 1; fi
    # Asked more often, kubectl would take the time that the program needs to start.
    sleep 0.4
  done
}

api_server_ready() { wait_for kube-apiserver "the API server's readiness" kube get --raw /readyz; }

# Everything, with the port that was free when the API server took it.
start_all() {
  local tries=5
  make_pki 2>"$dir/pki.log" || { why="certificates could not be made: $(tail -n 1 "$dir/pki.log")"; return 1; }
  make_audit_policy
  launch etcd
  while :; do
    port=$((20000 + (RANDOM * 32768 + RANDOM) % 12000))
    make_kubeconfigs
    launch kube-apiserver
    if api_server_ready; then break; fi
    grep -q 'address already in use' "$dir/kube-apiserver.log" && (( tries-- > 0 )) || return 1
  done
  launch kube-controller-manager
  launch kube-scheduler
  # Pods cannot be created before this account is there.
  wait_for kube-controller-manager "the default service account" kube get serviceaccount default --namespace default
  printf '%s\n' "$port" >"$dir/port"
}

stop_all() {
  trap '' INT TERM HUP
  local name
  # Nothing of it is needed any more, so nothing is asked to finish.
  for name in kube-scheduler kube-controller-manager kube-apiserver etcd; do end "$name" KILL; done
  if [[ -e $dir/failed ]]; then
    rm -rf "$dir/etcd" "$dir/pki" "$dir/pods" "$dir"/*.kubeconfig "$dir"/etcd.sock*
  else
    rm -rf "$dir" || { sleep 1; rm -rf "$dir"; }
  fi
}

begin() {
  umask 077
  dir=$(mkdir -p "$1" && cd "$1" && pwd)
  chmod 700 "$dir"
  why=
  printf '%s\n' "$$" >"$dir/supervisor.pid"
  trap stop_all EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  if start_all; then return; fi
  local name
  for name in "${programs[@]}"; do
    if [[ -s $dir/$name.log ]]; then say "== last lines of $dir/$name.log"; tail -n 12 "$dir/$name.log" >&2; fi
  done
  touch "$dir/failed"
  die "the control plane did not start: $why"
}

serve() {
  find_programs
  begin "$1"
  echo ready
  local verb name
  while read -r verb name; do
    if ! command_of "$name"; then echo "error: there is no program '$name'"; continue; fi
    case $verb in
      start)
        if alive "$name"; then echo "error: $name runs already"; continue; fi
        launch "$name"
        if [[ $name == kube-apiserver ]] && ! api_server_ready; then echo "error: $why"; continue; fi
        echo ok
        ;;
      stop) end "$name" TERM; echo ok ;;
      kill) end "$name" KILL; echo ok ;;
      *) echo "error: '$verb' is none of start, stop, kill" ;;
    esac
  done
}

detached=$cache/run/controlplane

case ${1:-} in
  run)
    shift
    (( $# > 0 )) || die "what should run in it? tests/setup/controlplane.sh run COMMAND..."
    find_programs
    begin "$(mktemp -d "${TMPDIR:-/tmp}/portcullis.XXXXXX")"
    status=0
    KUBECONFIG=$dir/admin.kubeconfig PATH=$bin:$PATH "$@" || status=$?
    exit "$status"
    ;;
  serve)
    [[ -n ${2:-} ]] || die "where? tests/setup/controlplane.sh serve DIR"
    serve "$2"
    ;;
  start)
    if kill -0 "$(cat "$detached/supervisor.pid" 2>/dev/null)" 2>/dev/null; then
      die "it runs already; stop it with tests/setup/controlplane.sh stop, or use KUBECONFIG=$detached/admin.kubeconfig"
    fi
    find_programs
    rm -rf "$detached"
    mkdir -p "$detached"
    # A pipe that nobody closes stands for the input of a program that uses it.
    mkfifo "$detached/input"
    PORTCULLIS_TEST_CONTROLPLANE=$bin nohup bash "${BASH_SOURCE[0]}" serve "$detached" \
      <>"$detached/input" >"$detached/supervisor.log" 2>&1 &
    until [[ -e $detached/port ]]; do
      if ! kill -0 $! 2>/dev/null; then cat "$detached/supervisor.log" >&2; exit 1; fi
      sleep 0.1
    done
    say "It runs until tests/setup/controlplane.sh stop. Its programs are in $bin."
    printf 'export KUBECONFIG=%s\n' "$detached/admin.kubeconfig"
    ;;
  stop)
    pid=$(cat "$detached/supervisor.pid" 2>/dev/null) || die "there is none that was started with tests/setup/controlplane.sh start"
    kill "$pid" 2>/dev/null || true
    while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
    ;;
  *)
    sed -n '2,19s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac
