#!/usr/bin/env bash
# Submit a command as a managed spot job with SkyPilot.
set -euo pipefail

usage() {
  cat <<'END'
Submits `compressed-lm train` or `compress` as a SkyPilot managed job (pip install 'skypilot[gcp]', or another cloud).
SkyPilot finds spot machines in any cloud. After a preemption it starts the command again on others, and the command
continues from what is in the bucket.

  skypilot.sh --bucket URL [options] -- train|compress ARGUMENTS

  --bucket URL   bucket such as gs://BUCKET or s3://BUCKET, mounted as /bucket on every host
  --name NAME    name of the job (default compressed-lm)
  --gpus SPEC    accelerators per host (default H100:8), all in one process
  --cpus N       hosts with N CPUs (N+: at least) and without accelerators
  --nodes N      number of hosts (default 1)
  --infra WHERE  cloud, region or zone, such as gcp/us-central1 (default: the cheapest with these accelerators)
  --on-demand    no spot instances
  --dry-run      print the command without running it
  --help         this text

--store and --out must be below /bucket, or gs:// or s3:// paths, so that the next machine finds what was saved. A
machine may be removed without SIGTERM: save a training run every few minutes (--set train.checkpoint_minutes=10). A
compression job writes what it has every minute; each host is one process, and the last one writes the shards. Give its
--out as gs:// or s3://: a mounted bucket has no locks.

examples:
  launch/skypilot.sh --bucket gs://BUCKET --gpus H100:8 --nodes 2 -- \
    train --store /bucket/stores/c4 --out /bucket/runs/403m --size 403m --mesh 2,8,1
  launch/skypilot.sh --bucket gs://BUCKET --cpus 32+ --nodes 8 -- \
    compress --corpus 'json:gs://BUCKET/c4/*.gz' --codec pieces16-en --out gs://BUCKET/stores/c4
END
}

# shellcheck source=words.sh
. "$(dirname "$0")/words.sh"

bucket='' name=compressed-lm gpus=H100:8 cpus='' nodes=1 infra='' spot=--use-spot dry=''
while [ $# -gt 0 ]; do
  case $1 in
    --bucket) bucket=$2; shift 2 ;;
    --name) name=$2; shift 2 ;;
    --gpus) gpus=$2; shift 2 ;;
    --cpus) gpus=none cpus=$2; shift 2 ;;
    --nodes) nodes=$2; shift 2 ;;
    --infra) infra=$2; shift 2 ;;
    --on-demand) spot=--no-use-spot; shift ;;
    --dry-run) dry=1; shift ;;
    --help | -h) usage; exit ;;
    --) shift; break ;;
    *) fail "unknown option $1; see --help. Put the command after --" ;;
  esac
done
[ -n "$bucket" ] || fail '--bucket is required; see --help'
set_program "$@"

root=$(cd "$(dirname "$0")/.." && pwd)
command=(sky jobs launch "--name=$name" "--workdir=$root" "--gpus=$gpus" "--num-nodes=$nodes" "$spot")
[ -z "$cpus" ] || command+=("--cpus=$cpus" --env JAX=jax)
[ -z "$infra" ] || command+=("--infra=$infra")
command+=(--env "BUCKET=$bucket" --env "PROGRAM=$(quote "${program[@]}")" --yes "$root/launch/skypilot.yaml")
if [ -n "$dry" ]; then quote "${command[@]}"; else exec "${command[@]}"; fi
