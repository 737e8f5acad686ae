#!/bin/sh
# Makes the environment that .venv names, from the lock of the Python that is there.
#   PYTHON  the Python to take; else that of .venv, else the first of 3.13, 3.12, 3.11 that runs
#   GPU     1 installs the CUDA libraries too, 0 does not; else as said the last time, else 1 where
#           there is an NVIDIA driver
# Each has an environment of its own, such as .venv-3.12 or .venv-3.12-gpu; .venv links to the last.
set -eu
cd "$(dirname "$0")/.."
# What a user has set for other projects would install into, or find packages in, other places.
unset PYTHONHOME PYTHONPATH PIP_TARGET PIP_PREFIX
export PIP_USER=0

fail() {
  echo "error: $1" >&2
  exit 2
}

# Prints the version of a Python, such as 3.12; fails if it does not run (as shims of pyenv do).
version() {
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

has_venv() {
  "$1" -c 'import ensurepip, venv' 2>/dev/null
}

have() {
  command -v "$1" >/dev/null 2>&1
}

lane_of() {
  case "$1" in
    3.11) echo classic ;;
    3.12 | 3.13) echo current ;;
    *) return 1 ;;
  esac
}

install="install one: 'sudo apt install python3.12-venv' (Ubuntu 24.04; python3.11-venv in Debian 12, \
python3.13-venv in 13), 'conda create --name ixi python=3.12 && conda activate ixi', or uv, which \
fetches it: 'pipx install uv'"

python="${PYTHON:-}"
if [ -n "$python" ]; then
  found="$(version "$python")" || fail "PYTHON=$python does not run; name another Python, or $install"
  lane_of "$found" >/dev/null ||
    fail "PYTHON=$python is Python $found, the project needs 3.11, 3.12 or 3.13; $install"
elif found="$(version .venv/bin/python)" && lane_of "$found" >/dev/null; then
  python="$(.venv/bin/python -c 'import sys; print(sys.base_prefix)')/bin/python$found"
else
  bare=
  for found in 3.13 3.12 3.11; do
    [ "$(version "python$found")" = "$found" ] || continue
    if has_venv "python$found"; then python="python$found"; break; fi
    bare="${bare:-$found}"
  done
  if [ -z "$python" ]; then
    found="${bare:-3.12}" python="python$found"
    [ -n "$bare" ] || have uv || fail "no Python 3.11, 3.12 or 3.13 on the PATH runs; $install"
  fi
fi
lane="$(lane_of "$found")"

gpu="${GPU:-$(cat .venv.gpu 2>/dev/null || true)}"
if [ -z "$gpu" ]; then
  if nvidia-smi >/dev/null 2>&1 || [ -d /proc/driver/nvidia ]; then gpu=1; else gpu=0; fi
fi
case "$gpu" in
  0) lock="requirements/$lane.lock" folder=".venv-$found" with= ;;
  1) lock="requirements/$lane-gpu.lock" folder=".venv-$found-gpu" with=", with CUDA" ;;
  *) fail "GPU=$gpu: GPU is 0 or 1" ;;
esac
asked="$(cat "$lock" setup.cfg pyproject.toml | cksum) of $lock in $(pwd -P)"

is_ready() {
  [ "$(cat "$folder/installed" 2>/dev/null)" = "$asked" ] &&
    [ "$(version "$folder/bin/python")" = "$found" ]
}

# An environment that was whole is brought up to date, so that what its user put there stays.
was_whole() {
  case "$(cat "$folder/installed" 2>/dev/null)" in *" in $(pwd -P)") ;; *) return 1 ;; esac
  [ "$(version "$folder/bin/python")" = "$found" ]
}

make_empty() {
  [ ! -e "$folder" ] || [ -e "$folder/installed" ] ||
    fail "$folder was not made by make setup, which needs that name: move it away or delete it"
  has_venv "$python" || have uv ||
    fail "$python cannot make environments: 'sudo apt install python$found-venv'"
  rm -rf "$folder"
  mkdir "$folder"
  echo unfinished >"$folder/installed"
  if has_venv "$python"; then
    "$python" -m venv "$folder"
  else
    if version "$python" >/dev/null; then from="$python"; else from="$found"; fi
    uv venv --quiet --no-project --seed --allow-existing --python "$from" "$folder"
  fi
}

fill() {
  release="$(sed -n 's/^tensorflow==\([^ ]*\).*/\1/p' "$lock")"
  echo "making the $lane lane in $folder: Python $found, TensorFlow $release$with"
  [ "$(uname -s)" = Linux ] || echo "note: tested on Linux only, WSL2 included" >&2
  was_whole || make_empty
  echo unfinished >"$folder/installed"
  set -- "$folder/bin/python" -m pip install --quiet --disable-pip-version-check
  "$@" --require-hashes -r "$lock"
  "$@" --no-deps --no-build-isolation -e .
  echo "$asked" >"$folder/installed"
}

link() {
  if [ -d .venv ] && [ ! -L .venv ]; then
    [ ! -e .venv-old ] || fail ".venv and .venv-old are folders: move one away or delete it"
    mv .venv .venv-old
    echo "note: .venv is a link now; the environment that was there is in .venv-old" >&2
  fi
  ln -sfn "$folder" .venv
}

if ! is_ready || [ "$(readlink .venv)" != "$folder" ]; then
  # Of two makes at once the second waits; where there is no flock (macOS), it does not.
  exec 9>.venv.lock
  ! have flock || flock -n 9 || { echo "another make is setting up: waiting" && flock 9; }
  is_ready || fill
  link
fi
[ -z "${GPU:-}" ] || [ "$(cat .venv.gpu 2>/dev/null)" = "$GPU" ] || echo "$GPU" >.venv.gpu
