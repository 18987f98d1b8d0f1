#!/usr/bin/env bash
# Builds the documentation's site into target/docs and checks its links and anchors, offline. `make docs` runs it.
#
# The first run builds mdbook from source into the cache, which takes some minutes.
set -euo pipefail
cd "$(dirname "$0")/../.."

programs=$(bash tests/setup/install.sh mdbook lychee)
mdbook=$(sed -n 1p <<<"$programs")/bin/mdbook
lychee=$(sed -n 2p <<<"$programs")/bin/lychee

rm -rf target/docs
"$mdbook" build
# The page for unknown addresses has links from the top of the site, which a folder does not have.
"$lychee" --offline --include-fragments --no-progress --exclude-path target/docs/404.html --exclude-path target/docs/print.html \
  'target/docs/**/*.html'
printf 'The site is in %s\n' "$PWD/target/docs/index.html"
