#!/usr/bin/env bash
# Run a command on one TPU slice of Google Cloud with gcloud and ssh.
set -euo pipefail

usage() {
  cat <<'END'
Runs `compressed-lm train` or `compress` on all hosts of a TPU slice, and requests a new slice after a preemption.

  tpu_vm.sh ACTION --name NAME --zone ZONE [options] -- train|compress ARGUMENTS

actions
  run      create, install and start; after a preemption delete and repeat; delete when the command is finished
  create   request the slice as a queued resource and wait until it is active
  install  copy the committed tree (git HEAD) and the tokens of --store to every host, and install with libtpu
  start    start the command on every host and show the output
  delete   delete the slice

options
  --name NAME        name of the queued resource and of its node
  --zone ZONE        zone such as us-west4-a
  --project PROJECT  (default: that of gcloud config)
  --type TYPE        accelerator type (default v5litepod-16, a v5e 4x4)
  --runtime VERSION  software of the hosts (default: set by the type)
  --store URL        gs:// folder of a token store, copied to the folder `tokens` of every host
  --spot             spot slice, which may be preempted
  --attempts N       most slices that `run` requests (default 20)
  --keep             `run` keeps the slice when the command is finished
  --dry-run          print the commands without running them
  --help             this text

--out must be a gs:// path: the next slice continues from what is there. `run` must keep running until the command is
finished, so start it in tmux on a machine that stays on. Each host is one process. For `compress` it takes its number
from the metadata server, uses the chips of its host alone, and does not wait for the others.

examples:
  launch/tpu_vm.sh run --name clm --zone us-west4-a --type v5litepod-256 --spot \
    --store gs://BUCKET/stores/c4 -- train --store tokens --out gs://BUCKET/runs/2b --size 2b --mesh 4,64,1
  launch/tpu_vm.sh run --name c4 --zone us-west4-a --type v5litepod-64 --spot -- \
    compress --corpus 'json:gs://BUCKET/c4/*.gz' --codec gs://BUCKET/codecs/eiw32 --out gs://BUCKET/stores/c4
END
}

# shellcheck source=words.sh
. "$(dirname "$0")/words.sh"

run() { if [ -n "$dry" ]; then quote "$@"; else "$@"; fi; }

[ $# -gt 0 ] || { usage >&2; exit 2; }
case $1 in
  run | create | install | start | delete) action=$1; shift ;;
  --help | -h) usage; exit ;;
  *) fail "unknown action $1; expected run, create, install, start or delete. See --help" ;;
esac
name='' zone='' project='' type=v5litepod-16 runtime='' store='' spot='' attempts=20 keep='' dry='' program=()
while [ $# -gt 0 ]; do
  case $1 in
    --name) name=$2; shift 2 ;;
    --zone) zone=$2; shift 2 ;;
    --project) project=$2; shift 2 ;;
    --type) type=$2; shift 2 ;;
    --runtime) runtime=$2; shift 2 ;;
    --store) store=$2; shift 2 ;;
    --spot) spot=1; shift ;;
    --attempts) attempts=$2; shift 2 ;;
    --keep) keep=1; shift ;;
    --dry-run) dry=1; shift ;;
    --help | -h) usage; exit ;;
    --) shift; break ;;
    *) fail "unknown option $1; see --help. Put the command after --" ;;
  esac
done
[ -n "$name" ] && [ -n "$zone" ] || fail '--name and --zone are required; see --help'
case $action in
  run | start) set_program "$@" ;;
esac
if [ -z "$runtime" ]; then # https://cloud.google.com/tpu/docs/runtimes
  case $type in
    v6e-*) runtime=v2-alpha-tpuv6e ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
    *) runtime=tpu-ubuntu2204-base ;;
  esac
fi
where=("--zone=$zone")
[ -z "$project" ] || where+=("--project=$project")
resources=(gcloud compute tpus queued-resources)
vm=(gcloud compute tpus tpu-vm)
archive=compressed_lm.tar.gz
root=$(cd "$(dirname "$0")/.." && pwd)

# The images have Python 3.10; uv installs 3.12.
remote_install="python3 -m pip install --quiet --user uv && python3 -m uv venv --quiet --clear --python 3.12 ~/venv && \
python3 -m uv pip install --quiet --python ~/venv/bin/python \"compressed_lm[gcs,tpu] @ file://\$HOME/$archive\""
[ -z "$store" ] ||
  remote_install+=" && mkdir -p tokens && gcloud storage rsync --recursive $(quote "$store") tokens"
remote_start="exec ~/venv/bin/compressed-lm $(quote ${program[@]+"${program[@]}"})"
if [ "${program[0]:-}" = compress ]; then # ssh has no variables with the number of the host
  # shellcheck disable=SC2016
  metadata='curl -fsS -H Metadata-Flavor:Google "http://${GCE_METADATA_IP:-metadata.google.internal}/computeMetadata/v1'
  remote_start="id=\$($metadata/instance/attributes/agent-worker-number\") && \
hosts=\$($metadata/instance/attributes/worker-network-endpoints\" | tr , '\\n' | grep -c .) && \
export COMPRESSED_LM_PROCESS_ID=\$id COMPRESSED_LM_NUM_PROCESSES=\$hosts && \
{ [ \$hosts = 1 ] || export $one_tpu_host; } && $remote_start"
fi

state() { "${resources[@]}" describe "$name" "${where[@]}" '--format=value(state.state)' 2>/dev/null || echo ABSENT; }

create() {
  local options=("--node-id=$name" "--accelerator-type=$type" "--runtime-version=$runtime")
  [ -z "$spot" ] || options+=(--spot)
  run "${resources[@]}" create "$name" "${where[@]}" "${options[@]}" || return
  if [ -n "$dry" ]; then
    echo '# every 30 seconds until it prints ACTIVE:'
    quote "${resources[@]}" describe "$name" "${where[@]}" '--format=value(state.state)'
    return
  fi
  local now=''
  until [ "$now" = ACTIVE ]; do
    case $now in FAILED | SUSPENDED | SUSPENDING | ABSENT) return 1 ;; esac
    sleep 30
    now=$(state)
    echo "tpu_vm.sh: $(date +%T) the queued resource $name is $now" >&2
  done
}

install() {
  run git -C "$root" archive --format=tar.gz --prefix=compressed_lm/ "--output=/tmp/$archive" HEAD &&
    run "${vm[@]}" scp "/tmp/$archive" "$name:$archive" --worker=all "${where[@]}" &&
    run "${vm[@]}" ssh "$name" --worker=all "${where[@]}" "--command=$remote_install"
}

start() { run "${vm[@]}" ssh "$name" --worker=all "${where[@]}" "--command=$remote_start"; }

delete() { run "${resources[@]}" delete "$name" "${where[@]}" --force --quiet; }

if [ "$action" != run ]; then
  "$action"
  exit
fi
if [ -n "$dry" ]; then
  create; install; start
  echo "# after a preemption, at most $attempts times: run the last command below, then repeat from the first"
  if [ -n "$keep" ]; then echo '# the slice is kept when the command is finished'; fi
  delete
  exit
fi
for ((attempt = 1; attempt <= attempts; attempt++)); do
  now=$(state)
  case $now in
    ACTIVE | ABSENT) ;;
    *) delete ;;
  esac
  status=0
  { [ "$now" = ACTIVE ] || create; } && install && start || status=$?
  if [ "$status" -eq 0 ]; then
    [ -n "$keep" ] || delete
    exit
  fi
  sleep 60 # the state is updated some time after a preemption
  now=$(state)
  [ "$now" != ACTIVE ] || fail "status $status, and the slice is alive: this is not a preemption, see the messages above. \
'$0 delete --name $name --zone $zone' deletes the slice"
  [ "$now" != ABSENT ] || fail "status $status, and no slice was created; see the messages above"
  echo "tpu_vm.sh: $name is $now after slice $attempt of $attempts; requesting another" >&2
done
fail "$attempts slices were lost before the end; run the same command again to resume"
