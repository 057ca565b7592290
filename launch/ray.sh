#!/usr/bin/env bash
# Submit a compression job to a Ray cluster.
set -euo pipefail

usage() {
  cat <<'END'
Submits `compressed-lm compress ... --engine ray` to a Ray cluster that runs (`ray start --head`, `ray up`, KubeRay),
and shows its output. Needs `pip install 'ray[default]'` here and on the head node.

  ray.sh [options] -- compress ARGUMENTS

  --address URL   job server of the cluster (default: RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265)
  --name NAME     submission id, for `ray job logs NAME` and `ray job stop NAME`
  --dry-run       print the command without running it
  --help          this text

All nodes need compressed-lm with the extra `ray`, in the same version (launch/Dockerfile with --build-arg
EXTRAS=gcs,ray), and must reach the corpus, the codec and --out under the same paths: an object store, or a shared file
system. The driver runs on the head node; --engine ray and --ray_address auto are added. Units of workers and nodes that
die are encoded by others. If the driver dies, submit the same command again: it continues after what is in --out.

example:
  launch/ray.sh --address http://10.0.0.2:8265 -- \
    compress --corpus 'json:gs://BUCKET/c4/*.gz' --codec pieces16-en --out gs://BUCKET/stores/c4
END
}

# shellcheck source=words.sh
. "$(dirname "$0")/words.sh"

address='' name='' dry=''
while [ $# -gt 0 ]; do
  case $1 in
    --address) address=$2; shift 2 ;;
    --name) name=$2; shift 2 ;;
    --dry-run) dry=1; shift ;;
    --help | -h) usage; exit ;;
    --) shift; break ;;
    *) fail "unknown option $1; see --help. Put the command after --" ;;
  esac
done
set_program "$@"
[ "${program[0]}" = compress ] || fail 'only compress runs on Ray; for train see README.md. See --help'

command=(ray job submit)
[ -z "$address" ] || command+=("--address=$address")
[ -z "$name" ] || command+=("--submission-id=$name")
command+=(-- compressed-lm compress --engine ray --ray_address auto "${program[@]:1}")
if [ -n "$dry" ]; then quote "${command[@]}"; else exec "${command[@]}"; fi
