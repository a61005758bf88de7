#!/usr/bin/env bash
# The whole of vitaos in miniature, in some minutes on a CPU: scripts/demo.sh [OUT, default runs/demo]
# Sets up, writes scikit-learn's handwritten digits through FFCV, and trains DeiTs of 8 layers at two doses: the ordinary network
# (skip_gain=1) and one that oversmooths (skip_gain=0.4 of the residual around attention), each plain, with AttnScale,
# FeatScale, FeatScale that starts at s = -0.9, and NeuTRENO; a network that oversmooths needs a smaller rate. Evaluates the
# checkpoints and shows what the dose does, and what a remedy does against it, in a table and a picture. What is finished is not
# run again.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/demo}
scripts/setup.sh
export OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1 python=.venv/bin/python out
started=$SECONDS

# One training: its name, then the words of the command.
train() {
  local name=$1 status
  shift
  set +e
  $python train.py data=digits data.root=data data.workers=1 device=cpu out="$out" name="$name" evaluate_every=2 \
    monitor.every=7 depth=8 "$@" 2>&1 | sed -u "s/^/$(printf '%-17s' "$name") /"
  status=${PIPESTATUS[0]}
  return "$status"
}
export -f train

echo "== train (two or more at a time) =="
at_a_time=$($python -c 'import os; print(max(1, min(8, len(os.sched_getaffinity(0)))))')
xargs -P "$at_a_time" -I{} bash -c 'train {}' <<'END'
r0.4_plain        skip_gain=0.4 recipe.lr=3e-4
r0.4_neutreno     skip_gain=0.4 recipe.lr=3e-4 neutreno=true
r0.4_featscale_dc skip_gain=0.4 recipe.lr=3e-4 featscale={dc:-0.9}
r0.4_attnscale    skip_gain=0.4 recipe.lr=3e-4 attnscale=true
r0.4_featscale    skip_gain=0.4 recipe.lr=3e-4 featscale=true
r1_plain          skip_gain=1   recipe.lr=1e-3
r1_neutreno       skip_gain=1   recipe.lr=1e-3 neutreno=true
r1_featscale_dc   skip_gain=1   recipe.lr=1e-3 featscale={dc:-0.9}
r1_attnscale      skip_gain=1   recipe.lr=1e-3 attnscale=true
r1_featscale      skip_gain=1   recipe.lr=1e-3 featscale=true
END

echo "== evaluate =="
names=$(cd "$out" && ls -d r[0-9]*_* | sed "s|^|$out/|" | paste -sd,)
$python eval.py -m checkpoint="$names" device=cpu | grep -v HYDRA

echo "== compare =="
$python scripts/report.py runs="$out/r*_*" out="$out/report" >/dev/null
sed -n '/^| r | technique/,/^$/p' "$out/report/report.md"
echo "r: how much of the residual around attention is kept; similarity: of tokens behind the last block, before → after training"
echo "picture: $(ls "$out"/report/dose_deit*.png)   the rest: $out/report"
echo "done in $((SECONDS - started)) s after set-up"
