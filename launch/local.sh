#!/usr/bin/env bash
# Run several processes of one command on this machine.
set -euo pipefail

usage() {
  cat <<'END'
Trains or compresses with several processes on this machine, like a pod with several hosts.

  local.sh [options] -- train|compress ARGUMENTS

  --processes N   number of processes (default 2)
  --devices M     virtual CPU devices per process (default 4)
  --gpus          one GPU per process, instead of CPU devices
  --port P        port of process 0 (default 29400); concurrent runs need different ports
  --grace S       seconds to save and exit after SIGTERM or Ctrl-C, before SIGKILL (default 120)
  --dry-run       print the commands without running them
  --help          this text

Output lines of process I start with [I]. SIGTERM and Ctrl-C are sent to all processes: the run saves and exits, and the
same command resumes it. If one process of `train` fails, the others are stopped; those of `compress` are not, since
each has its own share of the documents. The exit status is the largest of the processes that were not stopped by this
script. COMPRESSED_LM sets the program to run (default compressed-lm).

One process of `compress` uses all cores; give `--workers` so that several processes share them.

examples, 2 processes x 4 virtual devices, and 2 processes of 4 workers each:
  launch/local.sh --processes 2 --devices 4 -- train --store stores/c4 --out runs/two --size micro --mesh 4,2,1
  launch/local.sh --processes 2 -- compress --corpus 'json:c4/*.gz' --codec pieces16-en --out stores/c4 --workers 4
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
    *) fail "unknown option $1; see --help. Put the command after --" ;;
  esac
done
set_program "$@"

command=("${COMPRESSED_LM:-compressed-lm}" "${program[@]}")
IFS=, read -r -a visible <<<"${CUDA_VISIBLE_DEVICES:-}"

# Sets the array `settings` to the environment variables of process $1.
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

set -m # a process group per process, so that Ctrl-C in the terminal reaches only this script
pipes=$(mktemp -d)
pids=() readers=() worst=0 stopped='' ending='' deadline=0

# Stops all processes: SIGTERM now, SIGKILL after $1 seconds to those still running.
end() {
  ending=1 deadline=$((SECONDS + $1))
  kill -TERM ${pids[@]+"${pids[@]}"} 2>/dev/null || true
}
trap 'stopped=1; [ -n "$ending" ] || end "$grace"' TERM INT

for ((i = 0; i < processes; i++)); do
  set_environment "$i"
  mkfifo "$pipes/$i"
  # Drop the line that Gloo prints for each connected group of CPU devices.
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
      kill -KILL -- "-${pids[$i]}" 2>/dev/null || true # child processes that still run
      unset "pids[$i]"
      left=$((left - 1))
      # After a failure this script stops the other processes, so their statuses do not count.
      if [ -z "$ending" ] || [ -n "$stopped" ]; then
        [ "$status" -le "$worst" ] || worst=$status
      fi
      if [ "$status" -ne 0 ] && [ -z "$ending" ] && [ "$left" -gt 0 ] && [ "${program[0]}" = train ]; then
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
