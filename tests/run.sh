#!/usr/bin/env bash
# Installs what is missing, builds, runs the tests. The full run takes under 45 minutes on 2 cores, --quick under 5 after
# the build.
set -euo pipefail

usage() {
  cat <<'EOF'
usage: tests/run.sh [--quick] [--help]

  --quick   the release build's tests that aren't marked slow; without it also the slow ones, a build without LLVM, the
            tests under AddressSanitizer and UndefinedBehaviorSanitizer, and the style of the sources

Every stage runs, whatever failed before it; the exit status is 0 only if all passed.
EOF
}

quick=0
for argument in "$@"; do
  case "$argument" in
    --quick) quick=1 ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; printf "tests: error: unknown option '%s'\n" "$argument" >&2; exit 1 ;;
  esac
done

cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="${XDG_CACHE_HOME:-$HOME/.cache}/llmir/venv/bin/python"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export CCACHE_BASEDIR=$PWD
failed=()

# stage NAME COMMAND...: runs the command, remembers the name if it fails.
stage() {
  local name=$1 begin=$SECONDS
  shift
  printf '\n=== %s\n' "$name"
  if "$@"; then
    printf '=== %s: passed in %d s\n' "$name" $((SECONDS - begin))
  else
    failed+=("$name")
    printf '=== %s: FAILED after %d s\n' "$name" $((SECONDS - begin))
  fi
}

# build PRESET [-DOPTION...]: configures and builds; prints the compiler's output only where something failed.
build() {
  local preset=$1 folder=build log status=0
  shift
  [[ "$preset" == release ]] || folder="build-$preset"
  mkdir -p "$folder"
  log="$folder/build.log"
  { cmake --preset "$preset" -DLLMIR_BUILD_TESTS=ON -DLLMIR_BUILD_BENCHMARKS=ON "$@" && cmake --build "$folder"; } > "$log" 2>&1 || status=$?
  ((status == 0)) || { tail -n 60 "$log"; printf 'the whole log is %s\n' "$log"; }
  return "$status"
}

# As many at a time as there are cores; tests of several ranks or threads say so with the property PROCESSORS.
unit_tests() { ctest --test-dir "$1" -j "$(nproc)" --output-on-failure --no-tests=error "${@:2}" | grep -v -E '^ *(Start|[0-9]+/[0-9]+ .* Passed )' ; return "${PIPESTATUS[0]}"; }

end_to_end_tests() { "$python" -m pytest -q -p no:cacheprovider tests/e2e tests/layering "$@"; }

# Of jobs that mpirun starts, Open MPI's own leaks are suppressed by name; nothing of LLMIR's is. Names need whole stacks
# there: Open MPI is built without frame pointers and unloads some of its modules before leaks are looked for. Elsewhere the
# short way of walking the stack at each allocation does, and the tests take a fifth of the time.
# LLVM's allocators poison memory in the code that its headers bring into ours, and unpoison it in Debian's library, which
# isn't instrumented and doesn't: so poisoning by hand is off. What malloc and the stack give is checked all the same.
sanitized_tests() {
  local suppressions=$PWD/tests/sanitizers
  local options=detect_leaks=1:abort_on_error=0:exitcode=66:detect_stack_use_after_return=1:allow_user_poisoning=0
  export LSAN_OPTIONS=suppressions=$suppressions/lsan.supp:print_suppressions=0
  export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
  build asan-ubsan -DLLMIR_BUILD_BENCHMARKS=OFF &&
    ASAN_OPTIONS=$options unit_tests build-asan-ubsan -LE "slow|lit" -E "^comm_conformance/" &&
    ASAN_OPTIONS=$options:fast_unwind_on_malloc=0 unit_tests build-asan-ubsan -LE slow -R "^comm_conformance/" &&
    ASAN_OPTIONS=$options:fast_unwind_on_malloc=0 LLMIR_TEST_BUILD=$PWD/build-asan-ubsan end_to_end_tests -m sanitizer
}

without_llvm() {
  local folder=build-no-planner log=build-no-planner/build.log
  mkdir -p "$folder"
  # CMake is told not to see MLIR and LLVM, as on a machine that doesn't have them.
  { cmake -G Ninja -S . -B "$folder" -DCMAKE_BUILD_TYPE=Release -DLLMIR_BUILD_PLANNER=OFF -DLLMIR_BUILD_BENCHMARKS=OFF \
      -DCMAKE_DISABLE_FIND_PACKAGE_MLIR=ON -DCMAKE_DISABLE_FIND_PACKAGE_LLVM=ON && cmake --build "$folder"; } > "$log" 2>&1 ||
    { tail -n 60 "$log"; return 1; }
  [[ -x "$folder/bin/llmir-exec" && -x "$folder/bin/llmir-inspect" && ! -e "$folder/bin/llmir-plan" ]] ||
    { printf 'expected llmir-exec and llmir-inspect, and no llmir-plan, in %s/bin\n' "$folder"; return 1; }
}

style() {
  local status=0
  git ls-files '*.h' '*.cc' '*.cpp' | xargs clang-format-22 --dry-run -Werror || status=1
  git ls-files '*.sh' .ci/run | xargs shellcheck || status=1
  return "$status"
}

launch/install.sh --tests --model
if ((quick)); then
  stage "build" build release
  stage "unit tests" unit_tests build -LE slow
  stage "end-to-end tests" end_to_end_tests -m "not slow and not long"
else
  stage "build" build release
  stage "style" style
  stage "unit tests" unit_tests build
  stage "build without LLVM" without_llvm
  stage "tests under sanitizers" sanitized_tests
  stage "end-to-end tests" end_to_end_tests -m "not long"
fi

if ((${#failed[@]})); then
  printf '\ntests: FAILED: %s\n' "$(printf '%s; ' "${failed[@]}")"
  exit 1
fi
printf '\ntests: all stages passed in %d s\n' "$SECONDS"
