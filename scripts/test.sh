#!/usr/bin/env bash
# All checks: style, types, tests with line coverage. Names every tier of tests that it leaves out.
set -euo pipefail
NAME=scripts/test.sh
REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/lib.sh
source "$REPO/scripts/lib.sh"

# Tier -> the Debian packages it needs and the programs that show they are there.
declare -A PACKAGES=(
    [a64fx]="g++-aarch64-linux-gnu qemu-user-static clang-19 llvm-19 libsimde-dev qemu-user debian-archive-keyring"
    [scheduler]="slurm-wlm munge gridengine-master gridengine-exec gridengine-client"
    [browser]="chromium"
)
declare -A PROGRAMS=(
    [a64fx]="aarch64-linux-gnu-g++ qemu-aarch64-static qemu-aarch64 clang++-19 llvm-mca-19"
    [scheduler]="slurmctld munged qconf"
    [browser]="chromium"
)
TIERS=(a64fx scheduler browser)
MINIMUM_COVERAGE=90

usage() {
    cat <<'END'
scripts/test.sh [--require TIER,...] [--only STEP,...] [--venv DIR] [-- PYTEST ARGUMENTS]

Makes a virtual environment, installs all that is needed and passes the checks. Tests run in tiers: the default one, and
a64fx (kernels under an emulated A64FX), scheduler, browser, cuda, which need Debian packages or hardware. As root, the
packages are installed; otherwise a tier that lacks them is left out and named at the end.

  --require TIER,...  a64fx, scheduler, browser: one of these that cannot run is a failure
  --only STEP,...     of lint, types, format, tests (default: all of them)
  --venv DIR          virtual environment to make or use (default: .venv in the clone)
  -- ARGUMENTS        go to pytest (paths, -k, -m, ...); coverage is then not judged
END
}

REQUIRED='' ONLY=lint,types,format,tests VENV=$REPO/.venv PYTEST=()
while (($#)); do
    case $1 in
    --require | --only | --venv)
        [[ $# -ge 2 && -n $2 ]] || give_up "$1 needs a value (see --help)"
        case $1 in
        --require) REQUIRED=$2 ;;
        --only) ONLY=$2 ;;
        --venv) VENV=$(realpath -ms "$2") ;;
        esac
        shift 2
        ;;
    --)
        shift
        PYTEST=("$@")
        break
        ;;
    -h | --help)
        usage
        exit 0
        ;;
    *) give_up "$1 is no option of this script; arguments for pytest go behind -- (see --help)" ;;
    esac
done

within() { [[ ,$2, == *",$1,"* ]]; }
check_names() { # check_names OPTION LIST ALLOWED...
    local option=$1 name
    [[ $2 != *[[:space:]]* ]] || give_up "$option '$2': names stand apart by commas"
    for name in ${2//,/ }; do
        within "$name" "$3" || give_up "$option $name: allowed are ${3//,/, }"
    done
}
check_names --require "$REQUIRED" a64fx,scheduler,browser
check_names --only "$ONLY" lint,types,format,tests

# --- tiers ------------------------------------------------------------------------------------------------------------
has_programs() {
    local program
    for program in ${PROGRAMS[$1]}; do
        command -v "$program" >/dev/null || return 1
    done
}

install_packages() { # as root with apt; quietly, its output only when it fails
    ((EUID == 0)) && command -v apt-get >/dev/null || return 1
    local log
    log=$(mktemp)
    say "installing ${PACKAGES[$1]} for the tier $1"
    # shellcheck disable=SC2086 # the packages are words
    if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        ${PACKAGES[$1]}; } >"$log" 2>&1 </dev/null; then
        tail -n 15 "$log" >&2
        rm "$log"
        return 1
    fi
    rm "$log"
}

LEFT_OUT=() DESELECT=() FAILED=()
choose_tiers() {
    local tier reason
    for tier in "${TIERS[@]}"; do
        reason=''
        if ! grep -rqsE "pytest\.mark\.$tier\b" "$REPO/tests"; then
            reason="no test has this mark yet"
        elif ! has_programs "$tier" && { ! install_packages "$tier" || ! has_programs "$tier"; }; then
            reason="needs Debian's packages ${PACKAGES[$tier]}"
        fi
        if [[ -n $reason ]]; then
            LEFT_OUT+=("$tier: $reason")
            DESELECT+=("$tier")
            if within "$tier" "$REQUIRED"; then
                FAILED+=("tier $tier, which --require names ($reason)")
            fi
        fi
    done
    if ! "$VENV_PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
        LEFT_OUT+=("cuda: torch sees no GPU here")
        DESELECT+=(cuda)
    fi
}

# --- steps ------------------------------------------------------------------------------------------------------------
attempt() { # attempt WHAT COMMAND...: runs it and remembers a failure
    local what=$1
    shift
    heading "$what"
    if ! "$@"; then
        FAILED+=("$what")
    fi
}

lint() { ruff check . && ruff format --check .; }
types() { mypy; }

format() {
    local sources=()
    mapfile -t sources < <(git ls-files -- 'kernels/*.h' 'kernels/*.cpp' 'csrc/*.h' 'csrc/*.cpp')
    ((${#sources[@]} == 0)) || clang-format --dry-run --Werror "${sources[@]}"
}

# What DESELECT leaves of tests with these marks, as pytest's -m wants it.
marks_of() {
    local marks=$1 tier
    for tier in ${DESELECT[@]+"${DESELECT[@]}"}; do
        marks+="${marks:+ and }not $tier"
    done
    say "$marks"
}

# Tests that compile, and those that wait for what is compiled, run beside all other checks, on the cores that those leave
# idle. Where the emulated tree cannot be made (no network), its tests say so and are left out, unless it is required.
BUILDS='' BUILDS_LOG=''
start_builds() {
    BUILDS_LOG=$(mktemp)
    ! within a64fx "$REQUIRED" || export JPLLM_REQUIRE_A64FX=1
    # Behind the others by both measures: where a session has a share of its own, nice counts only within it.
    setsid bash -c 'echo 5 2>/dev/null >/proc/self/autogroup; exec nice -n 5 "$@"' bash \
        python -m pytest -p no:cacheprovider --durations=20 -m "$(marks_of builds)" >"$BUILDS_LOG" 2>&1 </dev/null &
    BUILDS=$!
    # shellcheck disable=SC2064 # this group of processes, whatever the variable is later
    trap "kill -- -$BUILDS 2>/dev/null; rm -f '$BUILDS_LOG'" EXIT
}

end_builds() {
    local failed=0
    wait "$BUILDS" || failed=1
    cat "$BUILDS_LOG"
    trap - EXIT
    rm "$BUILDS_LOG"
    return "$failed"
}

# All other tests; tests of one's choice run one after the other.
tests() {
    local marks
    if ((${#PYTEST[@]})); then
        marks=$(marks_of '')
        python -m pytest ${marks:+-m "$marks"} "${PYTEST[@]}"
        return
    fi
    python -m pytest --durations=40 -m "$(marks_of 'not builds')" --cov=pyjpllm --cov-report=term:skip-covered \
        --cov-fail-under="$MINIMUM_COVERAGE"
}

# A machine that has compiled a file before need not again; within one run, the same kernels are built more than once.
use_compiler_cache() {
    if ! command -v ccache >/dev/null && ((EUID == 0)) && command -v apt-get >/dev/null; then
        { apt-get update -qq && apt-get install -y -qq --no-install-recommends ccache; } >/dev/null 2>&1 </dev/null || true
    fi
    ! command -v ccache >/dev/null || export CMAKE_CXX_COMPILER_LAUNCHER=ccache
}

# --- all of it --------------------------------------------------------------------------------------------------------
check_tools git
heading "environment"
use_compiler_cache
install "$VENV" dev
export PATH=$VENV/bin:$PATH
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
mpi_environment
cd "$REPO"

if within tests "$ONLY"; then
    heading "tiers"
    choose_tiers
    for line in "${LEFT_OUT[@]}"; do
        say "left out: $line"
    done
    ((${#PYTEST[@]})) || start_builds
fi
if within lint "$ONLY"; then attempt "style: ruff" lint; fi
if within types "$ONLY"; then attempt "types: mypy" types; fi
if within format "$ONLY"; then attempt "style of C++: clang-format" format; fi
if within tests "$ONLY"; then
    attempt "tests: pytest" tests
    [[ -z $BUILDS ]] || attempt "tests that compile the kernels, which ran beside all this" end_builds
fi
if ((${#FAILED[@]})); then
    say ""
    for line in "${FAILED[@]}"; do
        complain "failed: $line"
    done
    exit 1
fi
