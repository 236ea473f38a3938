#!/usr/bin/env bash
# A plugin's life, as its author and its users meet it: hfgen and the examples as wheels in a clean environment, listed,
# trained, sampled, tested, and missed after one is gone; and a plugin that hfgen writes. PYTHON chooses the interpreter
# (default: python3), INSTALL the command that installs, COMPILED an archive of what Python has compiled of the packages.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset HFGEN_PLUGINS PYTHONPATH
export PIP_DISABLE_PIP_VERSION_CHECK=1 HF_HUB_OFFLINE=1

step() { printf '\n== %s\n' "$*"; }
fail() { printf 'examples/check.sh: %s\n' "$*" >&2; exit 1; }

step "build the wheels, from a copy: setuptools leaves build/ behind, and would pack an old one"
mkdir "$work/source" "$work/empty"
git -C "$repo" ls-files -z --cached --others --exclude-standard |
    tar -C "$repo" --create --null --ignore-failed-read --files-from - | tar -C "$work/source" --extract
"${PYTHON:-python3}" -m venv "$work/venv"
export PATH="$work/venv/bin:$PATH" VIRTUAL_ENV="$work/venv"
${INSTALL:-pip install -qq} "setuptools>=77" wheel
pip wheel -qq --no-deps --no-build-isolation --wheel-dir "$work/wheels" "$work/source" "$work"/source/examples/hfgen-*
ls "$work/wheels"

step "install them in a clean environment"
constraints=()
if [ -f "$repo/constraints.txt" ]; then constraints=(-c "$repo/constraints.txt"); fi
${INSTALL:-pip install -qq} "${constraints[@]}" torch==2.13.0 "$work"/wheels/*.whl pytest pytest-timeout
if [ -n "${COMPILED:-}" ]; then
    tar --extract --skip-old-files --file "$COMPILED" --directory "$(python -c 'import site; print(*site.getsitepackages())')"
fi
pip check
cd "$work/empty" # so that the wheels are what is tested

step "list"
hfgen list | grep -c -e '^gmmn ' -e '^cfm ' -e '^point_flow ' | grep -x 3
hfgen list datasets | grep '^two-moons '
hfgen plugins --check

step "train"
hfgen train gmmn --dataset_name mnist-mini --max_train_steps 30 --output_dir run

step "in a fresh process, the run loads and samples, and the plugins' own tests pass"
cat >test_a_run.py <<'PYTHON'
from hfgen import HFGenPipeline


def test_it_loads_and_samples():
    pipeline = HFGenPipeline.from_pretrained("run")
    images = pipeline(seeds=range(16)).images
    assert (type(pipeline).__name__, len(images), images[0].size) == ("GMMNPipeline", 16, (28, 28))
PYTHON
cp "$work"/source/examples/hfgen-*/tests/test_*.py .
pytest -q -W error --timeout=300 .

step "a plugin that hfgen writes installs and is found"
hfgen plugins new brand-new
${INSTALL:-pip install -qq} --no-deps ./hfgen-brand-new
hfgen list | grep '^brand-new '

step "without the plugin, the same folder is one clear error"
pip uninstall -qq --yes hfgen-gmmn
status=0
message=$(hfgen sample run --output again.png 2>&1) || status=$?
printf '%s\n' "$message"
[ "$status" = 1 ] || fail "exit code $status instead of 1"
grep -q "GMMNPipeline.*hfgen-gmmn" <<<"$message" || fail "the error names neither the class nor its distribution"
[ ! -e again.png ] || fail "an image was drawn without the family"

step "all of it holds"
