#!/bin/bash
# Runs a command on several hosts that are network namespaces of this machine, with mpirun between
# them over TCP. Needs root, iproute2 and Open MPI.
#
#   tests/cluster/hosts.sh [--rate RATE] [--sent FILE] RANKS[,RANKS...] -- PROGRAM [ARGUMENTS]
#
# RANKS: ranks of each host, so 2,2 are two hosts of two ranks each. RATE: of every host's link, as
# tc writes it (1gbit); without it the links are as fast as memory. FILE: gets the bytes that each
# host's link has sent, packets' headers included, a line per host. Hosts, links and processes go
# away with the script, however it ends. Exit status: mpirun's; 75 where hosts can't be made.
set -euo pipefail

# mpirun's way to start its daemon on another host: hosts.sh --enter HOST COMMAND...
if [ "${1:-}" = --enter ]; then
  shift
  holder=$(cat "$LLMIR_HOSTS/$1")
  shift
  exec nsenter --target "$holder" --net --uts --mount --wdns="$PWD" sh -c "$*"
fi

usage() { sed -n '5,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }
rate=
sent=
while [[ "${1:-}" =~ ^--(rate|sent)$ ]]; do
  [ $# -ge 2 ] || usage
  if [ "$1" = --rate ]; then rate=$2; else sent=$2; fi
  shift 2
done
if [ $# -lt 3 ] || [ "$2" != -- ]; then usage; fi
IFS=, read -ra ranks <<<"$1"
shift 2
for count in "${ranks[@]}"; do [[ $count =~ ^[1-9][0-9]*$ ]] || usage; done

fail() { echo "hosts.sh: $*; run as root on Linux with iproute2, and with CAP_NET_ADMIN in a container" >&2; exit 75; }
for tool in ip tc nsenter unshare mpirun; do
  command -v $tool >/dev/null || fail "$tool is not installed"
done

job=llmir$$
switch=$job-switch
state=$(mktemp -d)
names=()
mpirun_pid=
# shellcheck disable=SC2317  # called by the trap
clean() {
  trap '' INT TERM
  [ -z "$mpirun_pid" ] || kill "$mpirun_pid" 2>/dev/null || true
  local name pid
  for name in "${names[@]}"; do
    # All that runs on the host has been started by this script.
    for pid in $(ip netns pids "$name" 2>/dev/null); do kill -KILL "$pid" 2>/dev/null || true; done
    ip netns del "$name" 2>/dev/null || true
    rm -rf "/etc/netns/$name"
  done
  ip netns del "$switch" 2>/dev/null || true
  rm -rf "$state"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

ip netns add "$switch" 2>"$state/error" || fail "no network namespace: $(cat "$state/error")"
ip -n "$switch" link add bridge type bridge 2>"$state/error" || fail "no bridge: $(cat "$state/error")"
ip -n "$switch" link set bridge up
: >"$state/hosts"
hosts=
for i in "${!ranks[@]}"; do
  name=$job-$((i + 1))
  names+=("$name")
  echo "10.81.0.$((i + 1)) $name" >>"$state/hosts"
  hosts+=${hosts:+,}$name:${ranks[i]}
done
for i in "${!ranks[@]}"; do
  name=${names[i]}
  ip netns add "$name"
  mkdir -p "/etc/netns/$name"
  { echo "127.0.0.1 localhost"; cat "$state/hosts"; } >"/etc/netns/$name/hosts"
  ip link add eth0 netns "$name" type veth peer name "port$i" netns "$switch" 2>"$state/error" ||
    fail "no link: $(cat "$state/error")"
  ip -n "$switch" link set "port$i" master bridge up
  ip -n "$name" addr add "10.81.0.$((i + 1))/24" dev eth0
  ip -n "$name" link set eth0 up
  ip -n "$name" link set lo up
  if [ -n "$rate" ]; then
    ip netns exec "$name" tc qdisc add dev eth0 root tbf rate "$rate" burst 256kb latency 20ms 2>"$state/error" ||
      fail "no link of $rate: $(cat "$state/error")"
  fi
  # What others enter: its namespaces are the host.
  ip netns exec "$name" unshare --uts sh -c "hostname $name && echo \$\$ >$state/$name && exec sleep infinity" \
    </dev/null >/dev/null 2>&1 &
  disown
done
for name in "${names[@]}"; do
  for _ in $(seq 200); do [ -s "$state/$name" ] && break; sleep 0.02; done
  [ -s "$state/$name" ] || fail "host $name has not started"
done

export LLMIR_HOSTS=$state OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
self=$(realpath "$0")
nsenter --target "$(cat "$state/${names[0]}")" --net --uts --mount --wdns="$PWD" \
  mpirun --mca plm rsh --mca plm_rsh_agent "$self --enter" --mca btl self,vader,tcp \
  --mca btl_tcp_if_include eth0 --mca oob_tcp_if_include eth0 --bind-to none --host "$hosts" "$@" &
mpirun_pid=$!
status=0
wait $mpirun_pid || status=$?
mpirun_pid=
if [ -n "$sent" ]; then
  for name in "${names[@]}"; do
    ip netns exec "$name" cat /sys/class/net/eth0/statistics/tx_bytes
  done >"$sent"
fi
exit $status
