#!/usr/bin/env bash
# Submit a training run as a managed spot job with SkyPilot.
set -euo pipefail

usage() {
  cat <<'END'
Submits a training run as a SkyPilot managed job (pip install 'skypilot[gcp]', or another cloud). SkyPilot finds spot
GPUs in any cloud and restarts the run on another machine after a preemption.

  skypilot.sh --bucket URL [options] -- ARGUMENTS OF `compressed-lm train`

  --bucket URL   bucket such as gs://BUCKET or s3://BUCKET, mounted as /bucket on every host
  --name NAME    name of the job (default compressed-lm)
  --gpus SPEC    accelerators per host (default H100:8), all in one process
  --nodes N      number of hosts (default 1)
  --infra WHERE  cloud, region or zone, such as gcp/us-central1 (default: the cheapest with these accelerators)
  --on-demand    no spot instances
  --dry-run      print the command without running it
  --help         this text

--store and --out must be below /bucket, so that the next machine resumes from the newest checkpoint. A machine may be
removed without SIGTERM, so also save every few minutes: --set train.checkpoint_minutes=10.

example:
  launch/skypilot.sh --bucket gs://BUCKET --gpus H100:8 --nodes 2 -- \
    --store /bucket/stores/c4 --out /bucket/runs/403m --size 403m --mesh 2,8,1
END
}

# shellcheck source=words.sh
. "$(dirname "$0")/words.sh"

bucket='' name=compressed-lm gpus=H100:8 nodes=1 infra='' spot=--use-spot dry=''
while [ $# -gt 0 ]; do
  case $1 in
    --bucket) bucket=$2; shift 2 ;;
    --name) name=$2; shift 2 ;;
    --gpus) gpus=$2; shift 2 ;;
    --nodes) nodes=$2; shift 2 ;;
    --infra) infra=$2; shift 2 ;;
    --on-demand) spot=--no-use-spot; shift ;;
    --dry-run) dry=1; shift ;;
    --help | -h) usage; exit ;;
    --) shift; break ;;
    *) fail "unknown option $1; see --help. Put the arguments of compressed-lm train after --" ;;
  esac
done
[ -n "$bucket" ] || fail '--bucket is required; see --help'
[ $# -gt 0 ] || fail 'no arguments for compressed-lm train after --; see --help'

root=$(cd "$(dirname "$0")/.." && pwd)
command=(sky jobs launch "--name=$name" "--workdir=$root" "--gpus=$gpus" "--num-nodes=$nodes" "$spot")
[ -z "$infra" ] || command+=("--infra=$infra")
command+=(--env "BUCKET=$bucket" --env "TRAIN=$(quote train "$@" --distributed=on)" --yes "$root/launch/skypilot.yaml")
if [ -n "$dry" ]; then quote "${command[@]}"; else exec "${command[@]}"; fi
