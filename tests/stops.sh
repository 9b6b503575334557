#!/usr/bin/env bash
# Asks running jobs to stop, at random moments, and holds each to its promise: exit code 75, one line that says how to
# go on, a checkpoint whose every byte is good (or nothing to save, before the first step), no process left behind.
#
#   tests/stops.sh [--count N] [--seed S] [--with-slurm] [--build DIR]
#
# N stops (200): in turn under launch, mpirun and srun, on 2 and 4 ranks, some in the start, the others while steps,
# saves and validations alternate; each goes on from the checkpoint of the one before. The model is configs/demo.yaml's,
# the text Tessera's own sources. Some are asked thirty times. srun where Slurm runs; --with-slurm installs it (Debian's
# slurm-wlm and munge, as root) and runs it for this script alone. About six seconds a stop on two cores.
set -uo pipefail
cd "$(dirname "$0")/.."
root=$PWD
count=200 seed=$RANDOM with_slurm="" build=build/release
while [ $# -gt 0 ]; do
  case $1 in
    --count) count=$2; shift 2 ;;
    --seed) seed=$2; shift 2 ;;
    --with-slurm) with_slurm=yes; shift ;;
    --build) build=$2; shift 2 ;;
    *) echo "stops.sh: unknown option '$1'" >&2; exit 2 ;;
  esac
done
tessera=$(realpath "$build/launch/tessera") || exit 1
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
work=$(mktemp -d /tmp/tessera-stops.XXXXXX)
daemons=()
end() {
  [ ${#daemons[@]} -eq 0 ] || kill "${daemons[@]}" 2>/dev/null
  rm -rf "$work"
}
trap end EXIT

# A cluster of one node, this machine.
start_slurm() {
  if ! command -v slurmd >/dev/null || ! command -v munged >/dev/null; then
    apt-get update >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      slurm-wlm munge >/dev/null || { echo "stops.sh: cannot install slurm-wlm and munge" >&2; exit 1; }
  fi
  if ! munge -n >/dev/null 2>&1; then
    mkdir -p /run/munge && chown munge /run/munge
    su munge -s /bin/sh -c "/usr/sbin/munged --pid-file=/run/munge/munged.pid"
    for _ in $(seq 50); do munge -n >/dev/null 2>&1 && break; sleep 0.1; done
    daemons+=("$(cat /run/munge/munged.pid)")
  fi
  mkdir -p "$work/slurm/state" "$work/slurm/spool"
  cat >"$work/slurm/slurm.conf" <<END
ClusterName=stops
SlurmctldHost=$(hostname)
AuthType=auth/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmUser=root
StateSaveLocation=$work/slurm/state
SlurmdSpoolDir=$work/slurm/spool
SlurmctldPidFile=$work/slurm/slurmctld.pid
SlurmdPidFile=$work/slurm/slurmd.pid
SlurmctldLogFile=$work/slurm/slurmctld.log
SlurmdLogFile=$work/slurm/slurmd.log
SlurmctldPort=$((20000 + RANDOM % 10000))
SlurmdPort=$((30000 + RANDOM % 10000))
SlurmdParameters=config_overrides
NodeName=$(hostname) CPUs=8 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
END
  export SLURM_CONF=$work/slurm/slurm.conf
  slurmctld && slurmd || { echo "stops.sh: Slurm does not start; see $work/slurm" >&2; trap - EXIT; exit 1; }
  for _ in $(seq 100); do [ -s "$work/slurm/slurmd.pid" ] && [ -s "$work/slurm/slurmctld.pid" ] && break; sleep 0.1; done
  daemons+=("$(cat "$work/slurm/slurmd.pid")" "$(cat "$work/slurm/slurmctld.pid")")
}
[ -z "$with_slurm" ] || start_slurm
ways=(launch mpirun)
if timeout 20 srun --mpi=pmix -n 2 true 2>/dev/null; then ways+=(srun); else echo "no Slurm here: without srun (--with-slurm)"; fi

random() { awk -v n="$RANDOM" -v low="$1" -v high="$2" 'BEGIN { printf "%.3f", low + (high - low) * n / 32768 }'; }
RANDOM=$seed
echo "$count stops under ${ways[*]}; seed $seed"

cd "$work"
(cd "$root" && git ls-files '*.h' '*.cpp' '*.md' 2>/dev/null || find "$root" -name '*.h' -o -name '*.md') |
  (cd "$root" && xargs cat) >corpus.txt
"$tessera" tokenizer train --vocab-size 8192 --out tokenizer.json corpus.txt >prepare.log 2>&1 &&
  "$tessera" data prepare --tokenizer tokenizer.json --out train.h5 --valid-fraction 0.01 corpus.txt >>prepare.log 2>&1 ||
  { cat prepare.log >&2; exit 1; }

# Steps short enough that a few seconds meet steps, saves and validations.
training=("$root/configs/demo.yaml" train.steps=100000000 train.global_batch=4 train.micro_batch=1 train.threads=1
  checkpoint.every=4 checkpoint.keep=2 log.every=1 log.eval_every=3)
ranks_there() { pgrep -f -- "$tessera train .*checkpoint.dir=$1 " | while read -r pid; do
  [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = tessera ] && echo "$pid"; done | wc -l; }
steps_logged() { grep -c '^ *step' output 2>/dev/null || true; }
until_true() {  # SECONDS COMMAND…
  local until=$((SECONDS + $1)); shift
  until "$@"; do [ $SECONDS -lt "$until" ] && kill -0 "$job" 2>/dev/null || return 1; sleep 0.02; done
}
all_there() { [ "$(ranks_there "$dir")" -ge "$ranks" ]; }
is_launched() {  # the program has begun: SIGTERM is blocked
  local blocked; blocked=$(sed -n 's/^SigBlk:\t//p' "/proc/$job/status" 2>/dev/null)
  [ $((0x${blocked:-0} & 0x4000)) -ne 0 ]
}
is_stepping() { grep -q '^ *step' output 2>/dev/null; }

failed=0
declare -A done_well
for ((i = 0; i < count; ++i)); do
  way=${ways[i % ${#ways[@]}]}
  ranks=$((i / ${#ways[@]} % 2 * 2 + 2))
  dir=$way-$ranks
  moment=run
  [ $((RANDOM % 4)) -ne 0 ] || moment=start
  train=("${training[@]}" "checkpoint.dir=$dir" "log.dir=logs")
  case $way in
    launch) command=("$tessera" launch -n "$ranks" "${train[@]}"); signals=(TERM INT USR1 HUP) ;;
    mpirun) command=(mpirun -n "$ranks" --oversubscribe --bind-to none --mca mpi_yield_when_idle 1 "$tessera" train "${train[@]}")
            signals=(USR1) ;;
    srun) command=(srun --mpi=pmix -n "$ranks" --overcommit "$tessera" train "${train[@]}"); signals=(USR1) ;;
  esac
  signal=${signals[RANDOM % ${#signals[@]}]}
  "${command[@]}" >output 2>&1 </dev/null &
  job=$!
  # mpirun and srun pass nothing on before their ranks are there; launch keeps a request from its own start on.
  if [ "$way" = launch ]; then until_true 20 is_launched; else until_true 60 all_there; fi
  if [ $moment = start ]; then delay=$(random 0 1.5); else until_true 90 is_stepping; delay=$(random 0 4); fi
  sleep "$delay"
  times=1
  [ $((RANDOM % 5)) -ne 0 ] || times=30
  for ((k = 0; k < times; ++k)); do kill -"$signal" $job 2>/dev/null; [ $times -eq 1 ] || sleep 0.02; done
  code=hangs
  for ((k = 0; k < 1200; ++k)); do kill -0 $job 2>/dev/null || { wait $job; code=$?; break; }; sleep 0.05; done
  wrong=""
  [ "$code" = 75 ] || wrong="exit code $code"
  grep -q 'run the same command again to resume' output || wrong+="; not told how to go on"
  ! grep -qE '^-----|^mpirun |MPI_ABORT' output || wrong+="; Open MPI's talk"
  for ((k = 0; k < 100; ++k)); do [ "$(ranks_there "$dir")" -eq 0 ] && break; sleep 0.05; done
  [ "$(ranks_there "$dir")" -eq 0 ] || wrong+="; ranks are left"
  if grep -q 'nothing to save' output; then
    place=start
  else
    place=$moment
    "$tessera" checkpoint inspect --verify "$dir" >inspect.log 2>&1 || wrong+="; checkpoint: $(tail -1 inspect.log)"
    step=$(sed -n 's/.*asked to stop: saved at step \([0-9]*\).*/\1/p' output)
    [ -e "$dir/step-$(printf %08d "${step:-0}")/manifest.json" ] || wrong+="; no checkpoint of step '$step'"
  fi
  if [ -n "$wrong" ]; then
    failed=$((failed + 1))
    echo "stop $i: $way, $ranks ranks, $signal x $times, $delay s into the $moment: ${wrong#; }"
    tail -8 output | sed 's/^/    /'
    [ "$code" != hangs ] || { kill -KILL $job; pkill -KILL -f "checkpoint.dir=$dir "; rm -rf "$dir"; }
  else
    done_well[$way-$ranks-$place]=$((${done_well[$way-$ranks-$place]:-0} + 1))
  fi
done
for key in "${!done_well[@]}"; do echo "  $key: ${done_well[$key]}"; done | sort
left=$(find /dev/shm -maxdepth 1 \( -name 'vader_segment.*' -o -path "/dev/shm/tessera.$(id -u)/*" \) -newer tokenizer.json 2>/dev/null | wc -l)
echo "$((count - failed)) of $count stops were good; $left segments of shared memory are left; $SECONDS s"
[ $failed -eq 0 ] && [ "$left" -eq 0 ]
