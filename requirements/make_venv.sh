#!/bin/sh
# Make the virtual environment named by the first argument with any Python from 3.11 on; keep a working one as it is.
# PYTHON=/path/to/python chooses the interpreter.
set -eu
venv=$1

if [ -x "$venv/bin/python" ] && "$venv/bin/python" -c 'import sys' 2>/dev/null; then
    exit 0
fi

recent='import sys; sys.exit(sys.version_info < (3, 11))'
for candidate in ${PYTHON:-python3.11 python3 python3.12 python3.13 python3.14 python}; do
    if "$candidate" -c "$recent" 2>/dev/null; then
        echo "making $venv with $("$candidate" -V)"
        if "$candidate" -m venv --clear "$venv"; then
            exit 0
        fi
        echo "\"$candidate -m venv\" failed: on Debian and Ubuntu install the package python3-venv" >&2
        exit 1
    fi
done
echo "Python 3.11 or newer was not found (tried: ${PYTHON:-python3.11 python3 and newer}); install it or set PYTHON=" >&2
exit 1
