# shellcheck shell=bash
# What make, run and mpirun share: where the emulated tree is, and how a command starts in it. Sourced, never run.
# Needs NAME (the script's name, for messages); sets REPO, A64FX, ROOT, SITE.

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=scripts/lib.sh
source "$REPO/scripts/lib.sh"

A64FX=$(realpath -ms "${JPLLM_A64FX:-$REPO/build/a64fx}")
ROOT=$A64FX/root
SITE=$ROOT/usr/local/lib/python3.11/dist-packages

check_emulator() {
    command -v qemu-aarch64-static >/dev/null ||
        give_up "qemu-aarch64-static is missing: apt-get install qemu-user-static"
}

# tree_hash PATH...: of the files below these paths of the working tree, without what builds leave there.
tree_hash() {
    (cd "$REPO" && find "$@" -type f ! -name '*.so' ! -name '*.pyc' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum) |
        sha256sum | cut -d ' ' -f 1
}

# What the compiled module is made from; commands run here see the Python files as they are.
kernels_hash() { tree_hash setup.py CMakeLists.txt kernels csrc; }

# emulation BITS: a process of this environment, and what it starts, is an A64FX with vectors of that many bits.
emulation() {
    export QEMU_CPU=a64fx QEMU_LD_PREFIX=$ROOT
    [[ $1 == 512 ]] || QEMU_CPU=a64fx,sve512=off
    unset PYTHONHOME PYTHONPATH VIRTUAL_ENV LD_LIBRARY_PATH LD_PRELOAD
}

# command_line WORD...: sets COMMAND, what this machine must start so that the emulator runs these words.
command_line() {
    local path=$1 interpreter
    case $1 in
    python | python3 | python3.11) path=$ROOT/usr/bin/python ;;
    */*) ;;
    *)
        path=$SITE/bin/$1
        [[ -e $path ]] || path=$ROOT/usr/bin/$1
        ;;
    esac
    [[ -f $path && -r $path ]] ||
        give_up "$1: no such command in the emulated tree (python, pytest, jpllm, ... or a path)"
    if [[ $path == "$ROOT/usr/bin/python" ]]; then
        COMMAND=("$path")
    elif [[ $(od -An -tx1 -N4 "$path") == ' 7f 45 4c 46' ]]; then
        [[ $(od -An -tx1 -j18 -N2 "$path") == ' b7 00' ]] || give_up "$1: a program, but not for aarch64"
        read -ra COMMAND <<<"${JPLLM_QEMU:-qemu-aarch64-static}"
        COMMAND+=("$path")
    else
        IFS= read -r interpreter <"$path" || :
        [[ $interpreter == '#!'*python* ]] || give_up "$1: neither a program for aarch64 nor a script of Python's"
        COMMAND=("$ROOT/usr/bin/python" "$path")
    fi
    COMMAND+=("${@:2}")
}

# options WORD...: takes --vl BITS from the front; sets BITS and WORDS, the rest.
options() {
    BITS=512
    while (($#)); do
        case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        --vl)
            [[ ${2:-} == 512 || ${2:-} == 256 ]] || give_up "--vl ${2:-}: allowed are 512, 256"
            BITS=$2
            shift 2
            ;;
        *) break ;;
        esac
    done
    (($#)) || give_up "a command is needed (see --help)"
    WORDS=("$@")
}

# The tree must be there, and its kernels those of the working tree.
check_tree() {
    check_emulator
    [[ -e $A64FX/made ]] || give_up "no emulated tree in $A64FX: run scripts/a64fx/make"
    [[ $(<"$A64FX/made") == "$(kernels_hash)" ]] ||
        complain "the kernels have changed since scripts/a64fx/make; the older ones run"
}
