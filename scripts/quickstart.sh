#!/usr/bin/env bash
# The main job end to end: Japanese text, tokenizer, training on MPI ranks, evaluation, a model that transformers loads.
set -euo pipefail
NAME=scripts/quickstart.sh
STARTED_IN=$PWD
REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/lib.sh
source "$REPO/scripts/lib.sh"

usage() {
    cat <<'END'
scripts/quickstart.sh [--text FILE...] [--work DIR] [--ranks N] [--steps N] [--venv DIR]

Trains a small Japanese language model from raw text, in about ten minutes on two cores, and tells what came out.
Interrupted at any moment, the same command goes on where it was.

  --text FILE...  your own text (plain text with blank lines between documents, JSON Lines or Parquet with a `text`
                  field) in place of Japanese manuals from Debian's packages
  --work DIR      where everything goes (default: quickstart in the clone)
  --ranks N       MPI ranks (default: 2)
  --steps N       training steps (default: those of scripts/quickstart/config.toml)
  --venv DIR      virtual environment to make or use (default: .venv in the clone)
END
}

TEXT=() WORK=$REPO/quickstart RANKS=2 STEPS='' VENV=$REPO/.venv
need_value() { [[ $# -ge 2 && -n $2 && $2 != --* ]] || give_up "$1 needs a value (see --help)"; }
need_number() { [[ $2 =~ ^[1-9][0-9]*$ ]] || give_up "$1 $2: a whole number from 1 is needed"; }
while (($#)); do
    case $1 in
    --text)
        need_value "$@"
        shift
        while (($#)) && [[ $1 != --* ]]; do
            [[ -f $1 && -r $1 ]] || give_up "--text $1: no such file, or not readable"
            TEXT+=("$(realpath "$1")")
            shift
        done
        continue
        ;;
    --work) need_value "$@" && WORK=$(realpath -m "$2") ;;
    --venv) need_value "$@" && VENV=$(realpath -ms "$2") ;;
    --ranks) need_value "$@" && need_number "$@" && RANKS=$2 ;;
    --steps) need_value "$@" && need_number "$@" && STEPS=$2 ;;
    -h | --help)
        usage
        exit 0
        ;;
    *) give_up "$1 is no option of this script (see --help)" ;;
    esac
    shift 2
done

# --- one at a time, and nothing left behind ---------------------------------------------------------------------------
mkdir -p "$WORK/.done" || give_up "--work $WORK: cannot make this folder"
exec 9>"$WORK/.lock"
if command -v flock >/dev/null && ! flock -n 9; then
    # What the script started holds the lock as well, also for the moment that it outlives a killed script.
    say "a quickstart is at work in $WORK; waiting up to two minutes for it to end"
    flock -w 120 9 || give_up "$WORK is in use by another quickstart"
fi

# What the results depend on may not change half-way.
wanted=$(printf 'text %s\nsteps %s\n' "${TEXT[*]-}" "$STEPS")
if [[ -e $WORK/.arguments && $(<"$WORK/.arguments") != "$wanted" ]]; then
    give_up "$WORK holds a quickstart with other --text or --steps: name another folder with --work, or remove it"
fi
printf '%s\n' "$wanted" >"$WORK/.arguments.tmp" && mv "$WORK/.arguments.tmp" "$WORK/.arguments"

# SIGTERM for a child whose script is killed: nothing goes on computing unseen.
tied() {
    if command -v setpriv >/dev/null; then
        setpriv --pdeathsig TERM "$@"
    else
        "$@"
    fi
}

run() {
    say "\$ $*"
    tied "$@"
}

step() { # step NAME HEADING: starts a step unless it is done; its function is step_NAME
    local started=$SECONDS
    if [[ -e $WORK/.done/$1 ]]; then
        return
    fi
    heading "$2"
    "step_$1"
    printf '%s\n' "$((SECONDS - started))" >"$WORK/.done/$1.tmp" && mv "$WORK/.done/$1.tmp" "$WORK/.done/$1"
}

# More ranks than cores are allowed; ranks are not bound, so that they share what the machine has left.
MPI=(--oversubscribe --bind-to none)

# --- the steps, each whole or started anew ----------------------------------------------------------------------------
step_text() {
    tied "$VENV_PYTHON" "$REPO/scripts/quickstart/prepare.py" pages . ${TEXT[@]+--text "${TEXT[@]}"}
}

step_clean() {
    local pipeline=corpus.toml
    ((${#TEXT[@]} == 0)) || pipeline=own-text.toml
    cp "$REPO/scripts/quickstart/$pipeline" corpus.toml
    rm -rf corpus
    run jpllm corpus build corpus.toml --run corpus
    tied "$VENV_PYTHON" "$REPO/scripts/quickstart/prepare.py" split .
}

step_tokenizer() {
    rm -rf tokenizer
    run jpllm tokenizer train text/train.jsonl --out tokenizer --vocab-size 4096 --kind bpe
}

step_tokens() {
    rm -rf tokens && mkdir tokens
    run jpllm tokenizer encode text/train.jsonl --tokenizer tokenizer --out tokens/train
    run jpllm tokenizer encode text/heldout.jsonl --tokenizer tokenizer --out tokens/heldout
}

step_train() {
    local overrides=()
    [[ -z $STEPS ]] || overrides+=("train.steps=$STEPS" "schedule.warmup_steps=$((STEPS / 15))")
    # BF16 is quicker only where the processor multiplies it.
    if grep -qsE 'avx512_bf16|amx_bf16|[[:space:]]bf16' /proc/cpuinfo; then
        overrides+=(precision.dtype=bf16)
    fi
    cp "$REPO/scripts/quickstart/config.toml" config.toml
    run mpirun -n "$RANKS" "${MPI[@]}" jpllm train config.toml ${overrides[@]+"${overrides[@]}"} --run run
}

step_evaluate() {
    say "\$ mpirun -n $RANKS jpllm evaluate run --text text/heldout.jsonl --baseline xz --json > evaluation.json"
    # MPI libraries put their own complaints on standard output too: only the JSON is kept.
    tied mpirun -n "$RANKS" "${MPI[@]}" jpllm evaluate run --text text/heldout.jsonl --baseline xz --json |
        sed -n '/^{$/,/^}$/p' >evaluation.json.tmp
    mv evaluation.json.tmp evaluation.json
}

step_convert() {
    rm -rf hf
    run jpllm convert run hf
}

step_generate() {
    say "\$ python scripts/quickstart/generate_hf.py hf"
    tied python "$REPO/scripts/quickstart/generate_hf.py" hf | tee samples.txt.tmp
    mv samples.txt.tmp samples.txt
}

step_report() {
    run jpllm report run
}

summary() {
    heading "done"
    STARTED_IN=$STARTED_IN "$VENV_PYTHON" "$REPO/scripts/quickstart/summary.py" "$WORK" "$VENV"
}

# --- all of it --------------------------------------------------------------------------------------------------------
started=$SECONDS
check_tools git
heading "environment"
install "$VENV" run
export PATH=$VENV/bin:$PATH
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
mpi_environment
cd "$WORK"
finished=no
[[ -e .done/report ]] && again=yes || again=no
trap '[[ $finished == yes ]] || say "$NAME: not finished; the same command goes on where it was" >&2' EXIT

step text "text: fetch and extract"
step clean "pipeline: prose, no line twice; whole documents held out"
step tokenizer "tokenizer: 4,096 pieces"
step tokens "token files"
step train "training on $RANKS ranks"
step evaluate "held-out text: bits per byte"
step convert "export to Hugging Face"
step generate "generating from the export with transformers"
step report "report"
finished=yes
summary
if [[ $again == yes ]]; then
    say "(everything was done before; to start anew, name another folder with --work)"
else
    say "($((SECONDS - started)) s this time)"
fi
