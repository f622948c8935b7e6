# shellcheck shell=bash
# What quickstart.sh and test.sh share: looking for tools, the virtual environment, the installation.
# Sourced, never run. Needs REPO (the clone) and NAME (the script's name, for messages); sets PYTHON, VENV_PYTHON.

say() { printf '%s\n' "$*"; }

# Steps are headed on standard output, so that a log reads like the terminal.
heading() { printf '\n== %s\n' "$*"; }

# Mistakes of the user's and things that are missing: one line each on standard error, exit 2.
complain() { printf '%s: %s\n' "$NAME" "$*" >&2; }
give_up() {
    complain "$*"
    exit 2
}

# The first Python >= 3.10 on the PATH, or nothing.
find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11 python3.10; do
        if [[ -n $candidate ]] && command -v "$candidate" >/dev/null &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
}

# check_tools [PROGRAM...]: one line for each thing that is missing, with the Debian package that brings it; exit 2 if
# there was any. A PROGRAM more is in the Debian package of its name.
check_tools() {
    local missing=0 header program
    PYTHON=$(find_python)
    if [[ -z $PYTHON ]]; then
        complain "no Python 3.10 or newer on the PATH: install Debian's package python3 (or set PYTHON to one)"
        missing=1
    else
        if ! "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null; then
            complain "$PYTHON cannot make virtual environments: install Debian's package python3-venv"
            missing=1
        fi
        header=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h
        if [[ ! -f $header ]]; then
            complain "$header is missing: install Debian's package python3-dev"
            missing=1
        fi
    fi
    if [[ -n ${CXX:-} ]]; then
        if ! command -v "${CXX%% *}" >/dev/null; then
            complain "no C++ compiler: CXX is '$CXX', which is not on the PATH"
            missing=1
        fi
    elif command -v g++ >/dev/null; then
        export CXX=g++
    elif command -v clang++ >/dev/null; then
        export CXX=clang++
    else
        complain "no C++ compiler: install Debian's package g++ (or clang)"
        missing=1
    fi
    for program in "$@"; do
        if ! command -v "$program" >/dev/null; then
            complain "$program is missing: install Debian's package $program"
            missing=1
        fi
    done
    ((missing == 0)) || exit 2
}

# A hash of what an installation is made from: `run` installs a copy of everything, `dev` builds only the extension in
# place and sees every change of a Python file by itself.
installation_hash() {
    local inputs=(pyproject.toml setup.py constraints.txt CMakeLists.txt kernels csrc)
    [[ $1 == dev ]] || inputs+=(pyjpllm)
    (
        cd "$REPO" || exit
        printf '%s %s %s\n' "$("$VENV_PYTHON" -c 'import sys; print(sys.version)')" "$CXX" "$REPO"
        find "${inputs[@]}" -type f ! -name '*.so' ! -name '*.pyc' ! -path '*/build/*' -print0 |
            LC_ALL=C sort -z | xargs -0 sha256sum
    ) | sha256sum | cut -d ' ' -f 1
}

# pip in the environment: its output goes to a log, whose end is shown when it fails.
quiet_pip() {
    local log=$VENV/install.log
    local pip=("$VENV_PYTHON" -m pip --no-input --disable-pip-version-check)
    if ! (cd "$REPO" && "${pip[@]}" "$@") >>"$log" 2>&1 </dev/null; then
        tail -n 25 "$log" >&2
        complain "pip $* failed; the whole of its output is in $log"
        exit 1
    fi
}

is_stamped() { [[ -e $1 && $(<"$1") == "$2" ]]; }

# install DIR run|dev: a virtual environment in DIR with the project in it. A second call is quick; one that was
# interrupted starts the environment anew, since half of a package would look like a whole one.
install() {
    local VENV=$1 kind=$2 stamp begun wanted
    stamp=$VENV/.pyjpllm-$kind begun=$VENV/.pyjpllm-begun
    VENV_PYTHON=$VENV/bin/python
    if [[ -e $VENV && ! -e $VENV/pyvenv.cfg ]] && [[ ! -d $VENV || -n $(ls -A "$VENV") ]] && [[ ! -e $begun ]]; then
        give_up "$VENV is there and is no virtual environment: name another folder with --venv"
    fi
    if [[ -e $begun ]] || ! "$VENV_PYTHON" -m pip --version >/dev/null 2>&1; then
        say "making a virtual environment in $VENV"
        mkdir -p "$VENV" && : >"$begun"
        "$PYTHON" -m venv --clear "$VENV" || give_up "$PYTHON -m venv failed: install Debian's package python3-venv"
    fi
    wanted=$(installation_hash "$kind")
    # An installation for development has all that a run needs.
    if is_stamped "$stamp" "$wanted" || is_stamped "$VENV/.pyjpllm-dev" "$(installation_hash dev)"; then
        say "$VENV is up to date"
        return
    fi
    rm -f "$VENV"/.pyjpllm-*
    : >"$begun"
    say "installing into $VENV (PyTorch and what else is needed: some 300 MB; the log is $VENV/install.log)"
    # PyTorch first and by itself: with its version settled, nothing else asks for another build of it.
    quiet_pip install -c constraints.txt torch
    say "building and installing pyjpllm"
    if [[ $kind == dev ]]; then
        quiet_pip install -c constraints.txt -e '.[dev]'
    else
        quiet_pip install -c constraints.txt '.[mpi,hf,corpus]'
    fi
    printf '%s\n' "$wanted" >"$stamp.tmp" && mv "$stamp.tmp" "$stamp"
    rm "$begun"
}

# What Open MPI needs to start as root, as in a container, and to leave alone the threads of a rank.
mpi_environment() {
    if ((EUID == 0)); then
        export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    fi
}
