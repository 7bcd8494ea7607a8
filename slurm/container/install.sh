#!/bin/sh
# The container's installation, also run by a test in a plain virtual environment.
#   install.sh PREFIX SOURCE [more options of pip, such as --no-index --find-links WHEELS where there is no network]
set -eu
prefix=$1
source=$2
shift 2
python3 -m venv "$prefix"
"$prefix/bin/pip" install --quiet --disable-pip-version-check --no-cache-dir --no-compile \
    -c "$source/constraints.txt" "$@" "${source}[mpi]"
