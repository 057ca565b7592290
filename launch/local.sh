#!/usr/bin/env bash
# Several processes of one run on this machine.
set -euo pipefail

usage() {
  cat <<'END'
Trains with several processes on this machine, as a pod does with several hosts.

  local.sh [options] -- ARGUMENTS OF `compressed-lm train`

  --processes N   processes (default 2)
  --devices M     virtual CPU devices in each (default 4)
  --gpus          one GPU for each process, instead of CPU devices
  --port P        port of process 0 on this machine (default 29400); runs at the same time need different ones
  --grace S       seconds to save and end in after SIGTERM or Ctrl-C, before SIGKILL (default 120)
  --dry-run       print the commands, run nothing
  --help          this text

Lines of process I begin with [I]. SIGTERM and Ctrl-C go to all: the run saves and ends; the same command goes on where
it was. When one process fails the others are ended too. The status is the worst of those that ended by themselves.
COMPRESSED_LM names the program (default compressed-lm).

example, 2 processes x 4 virtual devices:
  launch/local.sh --processes 2 --devices 4 -- --store stores/c4 --out runs/two --size micro --mesh 4,2,1
END
}

# shellcheck source=words.sh
. "$(dirname "$0")/words.sh"

processes=2 devices=4 gpus='' port=29400 grace=120 dry=''
while [ $# -gt 0 ]; do
  case $1 in
    --processes) processes=$2; shift 2 ;;
    --devices) devices=$2; shift 2 ;;
    --gpus) gpus=1; shift ;;
    --port) port=$2; shift 2 ;;
    --grace) grace=$2; shift 2 ;;
    --dry-run) dry=1; shift ;;
    --help | -h) usage; exit ;;
    --) shift; break ;;
    *) fail "$1 is no option; see --help. Arguments of compressed-lm train come after --" ;;
  esac
done
[ $# -gt 0 ] || fail 'no arguments for compressed-lm train after --; see --help'

command=("${COMPRESSED_LM:-compressed-lm}" train "$@" --distributed=on)
IFS=, read -r -a visible <<<"${CUDA_VISIBLE_DEVICES:-}"

# Sets the array `settings` to the environment of process $1.
set_environment() {
  settings=("COMPRESSED_LM_COORDINATOR=127.0.0.1:$port" "COMPRESSED_LM_NUM_PROCESSES=$processes"
    "COMPRESSED_LM_PROCESS_ID=$1")
  if [ -n "$gpus" ]; then
    settings+=("CUDA_VISIBLE_DEVICES=${visible[$1]:-$1}")
  else
    settings+=(JAX_PLATFORMS=cpu "JAX_NUM_CPU_DEVICES=$devices")
  fi
}

if [ -n "$dry" ]; then
  for ((i = 0; i < processes; i++)); do
    set_environment "$i"
    echo "$(quote env "${settings[@]}" "${command[@]}") &"
  done
  echo wait
  exit
fi

set -m # each process leads a group of its own, so that the Ctrl-C of the terminal comes to this script only
pipes=$(mktemp -d)
pids=() readers=() worst=0 stopped='' ending='' deadline=0

# Ends all processes: SIGTERM now, SIGKILL to what is left after $1 seconds.
end() {
  ending=1 deadline=$((SECONDS + $1))
  kill -TERM ${pids[@]+"${pids[@]}"} 2>/dev/null || true
}
trap 'stopped=1; [ -n "$ending" ] || end "$grace"' TERM INT

for ((i = 0; i < processes; i++)); do
  set_environment "$i"
  mkfifo "$pipes/$i"
  # Gloo tells of each group of CPU devices that it connected.
  sed -u -e '/\[Gloo\] Rank .* connected/d' -e "s/^/[$i] /" <"$pipes/$i" &
  readers+=($!)
  env "${settings[@]}" "${command[@]}" >"$pipes/$i" 2>&1 </dev/null &
  pids+=($!)
done

left=$processes
while [ "$left" -gt 0 ]; do
  for ((i = 0; i < processes; i++)); do
    if [ -n "${pids[$i]:-}" ] && ! kill -0 "${pids[$i]}" 2>/dev/null; then
      status=0
      wait "${pids[$i]}" || status=$?
      kill -KILL -- "-${pids[$i]}" 2>/dev/null || true # what it started and left behind
      unset "pids[$i]"
      left=$((left - 1))
      # The others of a failed run were ended from here; their statuses say nothing.
      if [ -z "$ending" ] || [ -n "$stopped" ]; then
        [ "$status" -le "$worst" ] || worst=$status
      fi
      if [ "$status" -ne 0 ] && [ -z "$ending" ] && [ "$left" -gt 0 ]; then
        echo "local.sh: process $i ended with status $status; ending the others" >&2
        end 5
      fi
    fi
  done
  if [ "$left" -gt 0 ]; then
    [ -z "$ending" ] || [ "$SECONDS" -lt "$deadline" ] || kill -KILL "${pids[@]}" 2>/dev/null || true
    sleep 0.2
  fi
done
wait "${readers[@]}" || true
rm -r "$pipes"
exit "$worst"
