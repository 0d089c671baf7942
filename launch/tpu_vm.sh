#!/bin/bash
# Pretrains on all hosts of a Cloud TPU: bash launch/tpu_vm.sh NAME ZONE WORKDIR [flags of --mode=pretrain]
#
#     bash launch/tpu_vm.sh my-tpu us-central2-b /mnt/shared/runs --variant=rope
#
# Copies the last commit to all workers, installs the requirements there, and runs the same command on each. JAX finds
# the other workers in the TPU's metadata. WORKDIR must be on a file system that all workers have mounted. With
# DRY_RUN=1 the script only prints the commands.
set -euo pipefail
[ $# -ge 3 ] || { echo "usage: $0 NAME ZONE WORKDIR [flags]" >&2; exit 2; }
name=$1 zone=$2 workdir=$3
shift 3

run() {
  if [ -n "${DRY_RUN:-}" ]; then printf '%q ' "$@"; echo; else "$@"; fi
}

archive=$(mktemp)
trap 'rm -f "$archive"' EXIT
git -C "$(dirname "$0")/.." archive --format=tar.gz -o "$archive" HEAD
run gcloud compute tpus tpu-vm scp "$archive" "$name:kgpt_jax.tar.gz" --zone="$zone" --worker=all
train="mkdir -p kgpt_jax && tar -xzf kgpt_jax.tar.gz -C kgpt_jax && cd kgpt_jax"
# The workers' own Python may be 3.10, which is too old for JAX. uv brings Python 3.12.
train+=" && python3 -m pip install -qU --target=.uv uv && .uv/bin/uv venv --seed --allow-existing --python 3.12 .venv"
train+=" && .venv/bin/pip install -q -r requirements.txt -U 'jax[tpu]'"
train+=" && .venv/bin/python -m launch.pretrain --platform=tpu --coordinator=auto $(printf '%q ' "--workdir=$workdir" "$@")"
run gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$train"
