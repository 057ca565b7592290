#!/usr/bin/env bash
# Submit a command on TPUs to Google Kubernetes Engine with xpk.
set -euo pipefail

usage() {
  cat <<'END'
Submits `compressed-lm train` or `compress` to a GKE cluster that `xpk cluster create` made (pip install xpk).

  gke_xpk.sh --cluster CLUSTER --name NAME --image IMAGE [options] -- train|compress ARGUMENTS

  --cluster CLUSTER  the cluster
  --name NAME        name of the workload
  --image IMAGE      image with compressed-lm: docker build -f launch/Dockerfile -t IMAGE . && docker push IMAGE
  --storage NAME     bucket with text or tokens; attach it to the cluster first:
                     xpk storage attach NAME --cluster=CLUSTER --type=gcsfuse --bucket=BUCKET --size=100 \
                       --mount-point=/bucket --readonly=false --auto-mount=false
  --zone ZONE, --project PROJECT   (default: those of gcloud config)
  --type TYPE        TPU type (default v5litepod-16, a v5e 4x4)
  --slices N         slices (default 1), for train
  --priority P       very-low, low, medium, high or very-high (default medium)
  --restarts N       restarts after preemptions and aborts (default 20)
  --grace S          seconds to save before a pod is removed (default 120)
  --spot             spot nodes, on clusters that provision nodes automatically
  --dry-run          print the command without running it
  --help             this text

Each host is one process. xpk restarts a run that exits with status 42 or 127 to 255, such as 143 (saved on SIGTERM)
and 134 (JAX lost a process); it continues from what is in --out, which must be a gs:// path. It does not restart after
status 1 or 2: these errors would occur again. Processes of `compress` do not wait for each other: each uses the chips
of its host alone.

examples:
  launch/gke_xpk.sh --cluster tpus --name paper-2b --image gcr.io/PROJECT/compressed-lm \
    --type v5litepod-256 --storage BUCKET -- \
    train --store /bucket/stores/c4 --out gs://BUCKET/runs/2b --size 2b --mesh 4,64,1
  launch/gke_xpk.sh --cluster tpus --name c4-eiw32 --image gcr.io/PROJECT/compressed-lm --type v5litepod-16 -- \
    compress --corpus 'json:gs://BUCKET/c4/*.gz' --codec gs://BUCKET/codecs/eiw32 --out gs://BUCKET/stores/c4
END
}

# shellcheck source=words.sh
. "$(dirname "$0")/words.sh"

cluster='' name='' image='' storage='' zone='' project='' type=v5litepod-16 slices=1 priority=medium restarts=20 grace=120
spot='' dry=''
while [ $# -gt 0 ]; do
  case $1 in
    --cluster) cluster=$2; shift 2 ;;
    --name) name=$2; shift 2 ;;
    --image) image=$2; shift 2 ;;
    --storage) storage=$2; shift 2 ;;
    --zone) zone=$2; shift 2 ;;
    --project) project=$2; shift 2 ;;
    --type) type=$2; shift 2 ;;
    --slices) slices=$2; shift 2 ;;
    --priority) priority=$2; shift 2 ;;
    --restarts) restarts=$2; shift 2 ;;
    --grace) grace=$2; shift 2 ;;
    --spot) spot=1; shift ;;
    --dry-run) dry=1; shift ;;
    --help | -h) usage; exit ;;
    --) shift; break ;;
    *) fail "unknown option $1; see --help. Put the command after --" ;;
  esac
done
[ -n "$cluster" ] && [ -n "$name" ] && [ -n "$image" ] || fail '--cluster, --name and --image are required; see --help'
set_program "$@"
[ "${program[0]}" = train ] || [ "$slices" = 1 ] ||
  fail 'compress takes one slice, since a host knows its number only within its slice; give a larger --type. See --help'

command=(xpk workload create "--cluster=$cluster" "--workload=$name" "--docker-image=$image" "--tpu-type=$type"
  "--num-slices=$slices" "--priority=$priority" "--max-restarts=$restarts"
  "--termination-grace-period-seconds=$grace")
[ -z "$storage" ] || command+=("--storage=$storage")
[ -z "$zone" ] || command+=("--zone=$zone")
[ -z "$project" ] || command+=("--project=$project")
[ -z "$spot" ] || command+=(--spot)
# exec replaces the shell, so that the SIGTERM of xpk reaches the program.
run="exec compressed-lm $(quote "${program[@]}")"
# shellcheck disable=SC2016
[ "${program[0]}" = train ] || run='case $TPU_WORKER_HOSTNAMES in *,*) export '"$one_tpu_host ;; esac; $run"
command+=("--command=$run")
if [ -n "$dry" ]; then quote "${command[@]}"; else exec "${command[@]}"; fi
