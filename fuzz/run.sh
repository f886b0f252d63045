#!/usr/bin/env bash
# Runs every fuzz target for so many seconds each (60 by default), on the stable toolchain, without a sanitizer: there is no
# `unsafe` here to watch. Goes on after a finding, and ends with 1 if there was one. `fuzz/run.sh 60 wire keys` runs these alone.
set -uo pipefail
cd "$(dirname "$0")"

command -v cargo-fuzz >/dev/null || {
    echo "needs cargo-fuzz: cargo install --locked cargo-fuzz" >&2
    exit 1
}
seconds=${1:-60}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(cargo fuzz list)

# The binaries are run as they are built here: `cargo fuzz run` would build anew whenever a source is touched meanwhile.
cargo fuzz build --sanitizer none || exit 1
built="target/$(rustc -vV | sed -n 's/^host: //p')/release"
found=0
printf '%-12s %12s %10s %10s %8s\n' target executions coverage features corpus
for target in "${targets[@]}"; do
    # What is found out on the way stays here; `seeds` is what the tests go through.
    mkdir -p "corpus/$target" "artifacts/$target"
    log="corpus/$target.log"
    "$built/$target" "corpus/$target" "seeds/$target" -artifact_prefix="artifacts/$target/" \
        -max_total_time="$seconds" -timeout=10 -max_len=4096 -rss_limit_mb=2048 \
        -print_final_stats=1 >"$log" 2>&1 || {
        found=1
        echo "$target: a finding, in fuzz/artifacts/$target:" >&2
        grep -E '^thread|panicked|SUMMARY|Test unit written|^ *(left|right):' -A1 "$log" | tail -n 20 >&2
    }
    last=$(grep -E '\scov: ' "$log" | tail -n 1)
    field() { sed -nE "s/.*$1: ([0-9]+).*/\1/p" <<<"$last"; }
    executions=$(sed -nE 's/^stat::number_of_executed_units: ([0-9]+)/\1/p' "$log")
    printf '%-12s %12s %10s %10s %8s\n' "$target" "${executions:--}" "$(field cov)" "$(field ft)" "$(field corp)"
done
exit $found
