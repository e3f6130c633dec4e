#!/usr/bin/env bash
# Wheel and sdist, as they would be published: built, weighed, installed where the repository cannot be seen, run.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath -s "${1:-.venv/bin/python}")
rm -rf dist
"$python" -m build --no-isolation --outdir dist . >/dev/null
for file in dist/*; do
    size=$(stat -c %s "$file")
    echo "$file: $((size / 1000)) kB"
    [ "$size" -lt 100000000 ] || { echo "$file is larger than 100 MB"; exit 1; }
done
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
# Nothing is borrowed from the tested environment: what the wheel does not ask for must not be needed.
"$python" -m venv "$place/venv"
wheel=$(realpath dist/*.whl) constraints=$(realpath constraints.txt)
cd "$place"
unset PYTHONPATH
"$place/venv/bin/python" -m pip install --quiet -c "$constraints" "$wheel" 2>/dev/null ||
    "$place/venv/bin/python" -m pip install -c "$constraints" "$wheel"
"$place/venv/bin/python" -m pip check
"$place/venv/bin/python" -c "import medldm; assert '$place' in medldm.__file__, medldm.__file__"
told=$("$place/venv/bin/medldm" --version)
echo "$told"
case "$wheel" in *"-${told##* }-"*) ;; *) echo "$wheel says another version than medldm --version"; exit 1 ;; esac
"$place/venv/bin/medldm" models
"$place/venv/bin/medldm" demo demo_result --no-progress
ls demo_result
