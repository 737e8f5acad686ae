#!/bin/sh
# Makes the environment that .venv names, from the lock of the Python that is there.
#   PYTHON  the Python to take; without it that of .venv, else the newest of those below that runs
#   GPU     1 installs the CUDA libraries too, 0 does not; without it the NVIDIA driver decides
# Each Python has an environment of its own, .venv-3.12 and so on, and .venv links to the last one.
set -eu
pythons="3.13 3.12 3.11"
pip="-m pip install --quiet --disable-pip-version-check"

# Prints the version of a Python, such as 3.12; fails if it does not run (as shims of pyenv do).
version() {
  "$1" -c 'import sys, venv, ensurepip; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

fail() {
  echo "error: $1" >&2
  exit 2
}

python="${PYTHON:-}"
maker=venv
if [ -n "$python" ]; then
  found="$(version "$python")" || fail "'$python' does not run as a Python with venv and pip"
elif [ -e .venv/installed ] && found="$(version .venv/bin/python)"; then
  python=.venv/bin/python
else
  for number in $pythons; do
    if found="$(version "python$number")"; then python="python$number"; break; fi
  done
  if [ -z "$python" ]; then
    command -v uv >/dev/null 2>&1 || fail "no Python 3.11, 3.12 or 3.13 that runs is on the PATH; install one: \
'sudo apt install python3.12 python3.12-venv' (Debian, Ubuntu), 'conda create -n ixi python=3.12' or \
'pip install uv'; or name it: make PYTHON=/path/to/python3.12"
    maker=uv found=3.12
  fi
fi
case "$found" in
  3.11) lane=classic ;;
  3.12 | 3.13) lane=current ;;
  *) fail "'$python' is Python $found; Python 3.11, 3.12 or 3.13 is needed: make PYTHON=/path/to/python3.12" ;;
esac
case "$(uname -s)" in
  Linux) ;;
  *) echo "note: only Linux is tested, WSL2 included" >&2 ;;
esac

gpu="${GPU:-}"
if [ -z "$gpu" ]; then
  if nvidia-smi >/dev/null 2>&1 || [ -d /proc/driver/nvidia ]; then gpu=1; else gpu=0; fi
fi
lock="requirements/$lane.lock"
if [ "$gpu" = 1 ]; then lock="requirements/$lane-gpu.lock"; fi

folder=".venv-$found"
asked="$(cat "$lock" setup.cfg pyproject.toml | cksum) $lock"
if [ "$(cat "$folder/installed" 2>/dev/null)" != "$asked" ]; then
  echo "making the $lane lane in $folder: Python $found, $(sed -n 's/^\(tensorflow\)==\([^ ]*\).*/\1 \2/p' "$lock")$( [ "$gpu" = 1 ] && echo ', with CUDA')"
  rm -f "$folder/installed"
  if [ "$maker" = uv ]; then uv venv --quiet --seed --python "$found" "$folder"; else
    [ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
  fi
  # shellcheck disable=SC2086 # several words
  "$folder/bin/python" $pip --require-hashes -r "$lock"
  # shellcheck disable=SC2086
  "$folder/bin/python" $pip --no-deps --no-build-isolation -e .
  echo "$asked" >"$folder/installed"
fi
if [ "$(readlink .venv 2>/dev/null)" != "$folder" ]; then
  # An environment of an earlier version of the project is a folder.
  rm -rf .venv
  ln -s "$folder" .venv
fi
