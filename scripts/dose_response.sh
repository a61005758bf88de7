#!/usr/bin/env bash
# The dose-response study, all of it, as docs/results.md reports it:  scripts/dose_response.sh CIFAR10 [OUT]
#   CIFAR10   class folders train/<class>/* and test/<class>/* (docs/data.md says how to get them)
#   OUT       where data and runs go (default runs/dose_response)
# Environment: AT_A_TIME (runs side by side, default one a core), SEEDS, DOSES, ARMS (see below): DOSES=0.5 gives the leaderboard of
# all remedies at one dose; RATES="3e-4 3e-3" tries further peak rates, and the report takes each arm's best on images held out for
# it. A run that is finished is not run again and one that was interrupted goes on, so this may be stopped
# and started at any time. A run whose answers by image are there counts as finished, its checkpoint may be gone: the study so far,
# unpacked from docs/studies/dose_response.tar.xz into OUT/runs, is carried on and not repeated.
set -euo pipefail
source=$(cd "${1:?usage: scripts/dose_response.sh CIFAR10 [OUT]}" && pwd)
cd "$(dirname "$0")/.."
out=${2:-runs/dose_response}
python=${PYTHON:-.venv/bin/python}
seeds=${SEEDS:-0 1 2 3 4 5 6 7}
doses=${DOSES:-1 0.5 0.6 0.7 0.25 0 0.8 0.9}
many_seeds=${MANY_SEEDS:-0.7 0.6 0.5}   # the doses of the fall, where seeds spread most, have all seeds; the others three
arms=${ARMS:-plain attnscale featscale featscale_dc attnscale+featscale neutreno centered_attention gfsa contranorm layerscale}
rates=${RATES:-}
depth=${DEPTH:-12}
epochs=${EPOCHS:-8}
images=${IMAGES:-1000}
at_a_time=${AT_A_TIME:-$(nproc)}
setting=""  # another budget is another study: its runs are not averaged with these
[ "$epochs $images" = "8 1000" ] || setting="_${images}x$epochs"
runs="$out/runs$setting"
data="$out/data"
[ "$images" = 1000 ] || data="$out/data_$images"
export OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1 python out runs data rates depth epochs

# Images of a class by name: the first 1,000 train, the next 500 are held out for choices (rates), those behind them train too where
# IMAGES asks for more; accuracy is that of all test images.
subset() { # part lines into
  local class
  for class in "$source/$1"/*/; do
    mkdir -p "$3/$(basename "$class")"
    find "$class" -type f | sort | sed -n "$2" | xargs -I{} cp -n {} "$3/$(basename "$class")/"
  done
}
write() { # name part lines
  [ -f "$data/$1.beton" ] && return
  subset "$2" "$3" "$data/$1"
  $python scripts/write_ffcv.py source="$data/$1" out="$data/$1.beton" mode=raw >/dev/null
}
if [ "$images" -gt 1000 ]; then write train train "1,1000p;1501,$((images + 500))p"; else write train train "1,${images}p"; fi
write held_out train 1001,1500p
write val test 1,1000p
mkdir -p "$data/held_out_root" && ln -sfn ../held_out.beton "$data/held_out_root/val.beton"
ln -sfn ../held_out.beton.json "$data/held_out_root/val.beton.json"

run() { # seed dose arm [rate]
  local flags name="r$2-$3-s$1${4:+-lr$4}"
  [ "$depth" = 12 ] || name="$name-d$depth"
  case "$3" in
    plain) flags="" ;;
    layerscale) flags="layerscale={init:0.1}" ;; # its paper's start at up to 18 blocks
    featscale_dc) flags="featscale={dc:-0.9}" ;; # s starts where it parts the tokens of an untrained network
    featscale_dc_*) flags="featscale={dc:-${3#featscale_dc_}}" ;; # or elsewhere: featscale_dc_1 at -1
    *) flags="$(tr + '\n' <<<"$3" | sed 's/$/=true/' | tr '\n' ' ')" ;;
  esac
  if [ -f "$runs/$name/evaluation/ffcv-val-predictions.npz" ] && [ ! -d "$runs/$name/checkpoints" ]; then return; fi
  # shellcheck disable=SC2086  # the flags are words of their own
  $python train.py experiment=dose_response data.root="$data" out="$runs" name="$name" \
    depth="$depth" epochs="$epochs" seed="$1" skip_gain="$2" ${4:+recipe.lr="$4"} $flags >>"$out/log.txt" 2>&1 && predict "$runs/$name" "$3" ||
    echo "failed: $* (see $out/log.txt)"
}
evaluate() { # run, part, folder of the results, the file that it leaves there, further words
  [ -f "$1/$3/$4" ] ||
    $python eval.py checkpoint="$1" data=ffcv data.root="$data/$2" out="$1/$3" device=cpu "${@:5}" >>"$out/log.txt" 2>&1
}
predict() { # run, arm: its answers by image, for the report, what it does without its learned values, and what to choose by
  evaluate "$1" . evaluation ffcv-val-predictions.npz && case "$2" in
    *attnscale* | *featscale*) evaluate "$1" . evaluation ffcv-val-zeroed.json zero_learned=true predictions=false ;;
  esac && if [ -n "$rates" ]; then evaluate "$1" held_out_root held_out ffcv-val.json predictions=false; fi
}
export -f run evaluate predict

for seed in $seeds; do # a seed is a whole grid: the study can be read while it grows
  for dose in $doses; do
    [ "$seed" -lt 3 ] || [[ " $many_seeds " == *" $dose "* ]] || continue
    for arm in $arms; do
      echo "$seed $dose $arm"
      for rate in $rates; do echo "$seed $dose $arm $rate"; done
    done
  done
done | xargs -P "$at_a_time" -I{} bash -c 'run {}'
if [ -z "$rates" ]; then # the recipe's rate for all, also where others have been tried before
  $python scripts/report.py runs="['$runs/*-s?','$runs/*-s?-d*']" out="$out/report$setting"
else
  $python scripts/report.py runs="$runs/*" choose=recipe.lr out="$out/report$setting"
fi
