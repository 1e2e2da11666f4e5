#!/usr/bin/env bash
# Static analysis of the contracts with slither, which must find nothing: a finding is fixed, or explained where it is
# and disabled there. Installs slither from PyPI below .scratch/ the first time. Needs `npm ci` and Python 3.10 or newer.
set -euo pipefail
cd "$(dirname "$0")"

home=$(cd .. && pwd)/.scratch/slither
if ! cmp -s slither-requirements.txt "$home/installed.txt"; then
  echo "slither: installing into $home"
  rm -rf "$home/venv" "$home/installed.txt"
  python3 -m venv "$home/venv"
  "$home/venv/bin/pip" install --quiet --disable-pip-version-check --requirement slither-requirements.txt
  cp slither-requirements.txt "$home/installed.txt"
fi

# slither has forge compile everything anew; in a place of its own, so that the tests keep what they compiled.
export FOUNDRY_OUT="$home/out" FOUNDRY_CACHE_PATH="$home/cache"
PATH="$PWD/node_modules/.bin:$PATH" "$home/venv/bin/slither" . --fail-pedantic
