#!/usr/bin/env bash
# From a bare Debian 12 to an answer: installs what is missing, builds, plans the model, runs it on N ranks of this host.
set -euo pipefail

usage() {
  cat <<'EOF'
usage: launch/quickstart.sh [--prompt TEXT] [--ranks N] [--help]

  --prompt TEXT   the question (default: "What is the capital of France?")
  --ranks N       processes to split the model over, 1 to 9 (default: 2)

The model is SmolLM2-135M-Instruct. The plan is written to build/quickstart/<N>-ranks.plan.fb. What is there already
is not done again: a second start takes seconds.
EOF
}

fail() { printf 'quickstart: error: %s\n' "$*" >&2; exit 1; }

prompt="What is the capital of France?"
ranks=2
while (($#)); do
  case "$1" in
    --prompt | --ranks)
      (($# > 1)) || fail "$1 needs a value; see launch/quickstart.sh --help"
      if [[ "$1" == --prompt ]]; then prompt=$2; else ranks=$2; fi
      shift 2
      ;;
    --prompt=*) prompt=${1#*=}; shift ;;
    --ranks=*) ranks=${1#*=}; shift ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; fail "unknown option '$1'" ;;
  esac
done
[[ "$ranks" =~ ^[1-9]$ ]] ||
  fail "--ranks: got '$ranks', expected a number from 1 to 9 (the model has 9 query heads, the unit in which it is split)"

cd "$(dirname "${BASH_SOURCE[0]}")/.."
model="${XDG_CACHE_HOME:-$HOME/.cache}/llmir/models/SmolLM2-135M-Instruct.Q4_1.gguf"
build_log=build/quickstart/build.log
plan="build/quickstart/$ranks-ranks.plan.fb"
child=
# Each stage is a process group of its own (set -m), so that Ctrl-C ends it with all its processes. Its standard input is
# empty: a background group that read the terminal would be stopped.
set -m
run() {
  local status=0
  "$@" < /dev/null &
  child=$!
  wait "$child" || status=$?
  child=
  return "$status"
}
cleanup() {
  local status=$?
  trap - EXIT INT TERM
  if [[ -n "$child" ]]; then
    kill -TERM -- "-$child" 2> /dev/null || true
    wait "$child" 2> /dev/null || true
  fi
  exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

printf '[1/4] install what is missing\n'
launch/install.sh --model # in the foreground: sudo may ask for a password

printf '[2/4] build (the first time takes some minutes)\n'
mkdir -p build/quickstart
configure=(cmake --preset release)
# A build folder that the tests configured keeps its settings: switching them to and fro would only configure twice.
[[ -f build/CMakeCache.txt ]] || configure+=(-DLLMIR_BUILD_TESTS=OFF -DLLMIR_BUILD_BENCHMARKS=OFF)
run "${configure[@]}" > "$build_log" 2>&1 || fail "CMake could not configure: $(tail -n 5 "$build_log")
The whole log is $build_log. If the machine changed since the last build, remove build/ and start again."
run cmake --build build --target llmir-plan llmir-exec llmir-inspect > "$build_log" 2>&1 ||
  fail "the build failed: $(tail -n 15 "$build_log")
The whole log is $build_log."

printf '[3/4] plan SmolLM2-135M-Instruct for %s rank(s)\n' "$ranks"
# The options, the model and the planner decide the plan; it is made again when one of them changed.
# bf16, because this small model answers the default question wrongly with activations in int8, which weights of 4 or 8 bits
# bring with them: the first word is a close call (llama.cpp on the same file says the same).
options=(--tp "$ranks" --weights bf16 --context 2048 --max-batch 4 --kv-memory 536870912)
if [[ ! -f "$plan" || "$plan" -ot "$model" || "$plan" -ot build/bin/llmir-plan ||
  "$(cat "$plan.options" 2> /dev/null)" != "${options[*]}" ]]; then
  run build/bin/llmir-plan "$model" -o "$plan" "${options[@]}" > build/quickstart/plan.log ||
    fail "llmir-plan could not plan the model (see the line above)"
  printf '%s\n' "${options[*]}" > "$plan.options"
fi

printf '[4/4] run\n'
mpirun=(mpirun --bind-to none)
# Open MPI refuses root unless told twice, and more ranks than cores unless told once.
if (($(id -u) == 0)); then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
if ((ranks > $(nproc))); then mpirun+=(--oversubscribe); fi
run "${mpirun[@]}" -n "$ranks" build/bin/llmir-exec "$plan" --chat --prompt "$prompt" ||
  fail "the run failed (see the line above)"
