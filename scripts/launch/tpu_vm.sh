#!/usr/bin/env bash
# Trains on Cloud TPU: creates the TPU, installs this checkout and trains on all of its hosts, creates
# it again after a preemption and resumes, copies the results here and deletes the TPU.
usage='usage: scripts/launch/tpu_vm.sh --name=NAME --zone=ZONE --type=TYPE --runtime=VERSION
         [--create_flag=FLAG]... [--keep] [--dry_run] -- --config=... --workdir=gs://BUCKET/RUN ...

  --type, --runtime  such as v5litepod-16 and v2-alpha-tpuv5-lite
  --create_flag      for the request, such as --spot or --network=NAME; any number
  --keep             do not delete the TPU in the end
  --dry_run          print every command of a run that is preempted once, and do nothing
  after --           the flags of train.py; results are copied to runs/RUN'
set -euo pipefail
cd "$(dirname "$0")/../.."

fail() {
  printf '%s\n' "$1" >&2
  exit "${2:-2}"
}

name='' zone='' type='' runtime='' keep=false dry_run=false create_flags=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  case $1 in
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --runtime=*) runtime=${1#*=} ;;
    --create_flag=*) create_flags+=("${1#*=}") ;;
    --keep) keep=true ;;
    --dry_run) dry_run=true ;;
    *) fail "$usage" ;;
  esac
  shift
done
[ -n "$name" ] && [ -n "$zone" ] && [ -n "$type" ] && [ -n "$runtime" ] && [ $# -gt 1 ] || fail "$usage"
shift
workdir=''
for flag in "$@"; do
  case $flag in --workdir=*) workdir=${flag#*=} ;; esac
done
case $workdir in
  gs://*/*) ;;
  *) fail 'error: --workdir must be gs://BUCKET/RUN: the disks of a TPU end with it' ;;
esac
workdir=${workdir%/} wheels=build/launch
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
wheel=metriclt_jax-$version-py3-none-any.whl

# Runs a command, or prints it.
call() {
  if $dry_run; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

tpus() { call gcloud compute tpus "$1" "$2" "$name" --zone="$zone" "${@:3}"; }
on_all_hosts() { tpus tpu-vm ssh --worker=all --command="$1"; }

# Sets `state` to that of the TPU (tpu-vm state) or of the request for it (queued-resources state.state).
played='ABSENT WAITING_FOR_RESOURCES ACTIVE PREEMPTED SUSPENDED ABSENT ACTIVE' # by the dry run
look() {
  local errors
  if $dry_run; then
    tpus "$1" describe --format="value($2)"
    state=${played%% *} played=${played#* }
    return
  fi
  errors=$(mktemp)
  if ! state=$(tpus "$1" describe --format="value($2)" 2>"$errors"); then
    state=UNKNOWN
    if grep -qi 'not.found' "$errors"; then state=ABSENT; else cat "$errors" >&2; fi
  fi
  rm -f "$errors"
}

# Returns when the TPU is there. A preempted one is deleted first, which is the way to get another.
create() {
  while look queued-resources state.state; do
    case $state in
      ACTIVE) return ;;
      ABSENT)
        tpus queued-resources create --node-id="$name" --accelerator-type="$type" \
          --runtime-version="$runtime" ${create_flags[@]+"${create_flags[@]}"}
        ;;
      SUSPENDED) tpus queued-resources delete --force --quiet ;;
      FAILED) fail "error: Cloud TPU cannot create $name, as 'gcloud compute tpus queued-resources describe' tells" ;;
      *) call sleep 30 ;;
    esac
  done
}

# The package with the tested versions of its dependencies, and a Python that is new enough.
install() {
  call gcloud compute tpus tpu-vm scp "$wheels/$wheel" scripts/launch/requirements.lock "$name:" \
    --zone="$zone" --worker=all &&
    on_all_hosts "python3 -m pip install --user --quiet uv \
&& python3 -m uv venv --quiet --allow-existing --python=3.11 metriclt \
&& python3 -m uv pip install --quiet --python=metriclt/bin/python --constraint=requirements.lock \
'./${wheel}[tpu,gcs]'"
}

# Programs that one host compiled are there for all, and after a preemption.
train() {
  on_all_hosts "JAX_COMPILATION_CACHE_DIR=${workdir%/*}/compiled_programs \
metriclt/bin/metriclt-train --distributed $(printf '%q ' "$@")"
}

call python3 -m pip wheel --quiet --no-deps --wheel-dir="$wheels" . # once: a run must not change
while true; do
  create
  code=0
  { install && train "$@"; } || code=$?
  case $dry_run$played in
    truePREEMPTED*) code=255 && echo '# as if the TPU were preempted now' ;;
  esac
  [ $code -eq 0 ] && break
  if [ $code -ne 75 ]; then # 75: saved, run the same command again
    call sleep 60           # until the state tells of a preemption
    look tpu-vm state
    [ "$state" != READY ] || fail "error: exit code $code, see docs/pods.md; the TPU $name still runs" $code
  fi
done
home=runs/${workdir##*/}
call mkdir -p "$home"
call gcloud storage rsync --recursive "$workdir" "$home"
$keep || tpus queued-resources delete --force --quiet
