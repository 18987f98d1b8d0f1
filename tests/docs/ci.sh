# Job: check policies with pins in continuous integration, from the documentation alone.
steps docs/ci.md

check 'every tool is pinned' bash -c "grep -c definitionDigest policies/server.yaml | grep -x '40'"
