#!/usr/bin/env bash
# scripts/setup with a made-up apt: it installs what is missing and nothing else, asks for root only then, and says so.
source "$(dirname "${BASH_SOURCE[0]}")/../support/tap.sh"
unset WEFT_SKIP_SETUP
mkdir "$TMP/bin" && chmod 755 "$TMP" "$TMP/bin"
log=$TMP/apt.log
: > "$log" && chmod 666 "$log"

# fake NAME BODY: a command that stands before the real one.
fake() { printf '#!/bin/bash\n%s\n' "$2" > "$TMP/bin/$1" && chmod 755 "$TMP/bin/$1"; }
# lacks PACKAGE...: dpkg-query knows every package that setup asks for but these.
lacks() {
  fake dpkg-query "for p in \"\${@:3}\"; do case \" $* \" in *\" \$p \"*) ;; *) echo \"installed \$p\" ;; esac; done"
}
fake apt-get "echo apt-get \"\$@\" >> $log"
fake sudo "echo sudo >> $log; exec \"\$@\""
setup() { : > "$log" && PATH=$TMP/bin:$PATH scripts/setup "$@"; }

lacks
check 'nothing is missing' setup
check 'then apt-get is not called' test ! -s "$log"

lacks catch2 ninja-build
check 'two packages are missing' setup
check 'the lists are renewed first' grep -q 'apt-get .*update' <(head -1 "$log")
check 'exactly those two are installed' grep -q 'install -y --no-install-recommends ninja-build catch2$' <(sed -n 2p "$log")
check 'and nothing more is done' same 2 "$(wc -l < "$log")"
check '--list names what is missing' grep -qx 'missing   catch2' <(setup --list)
check '--list changes nothing' test ! -s "$log"

lacks chromium catch2
check 'a browser is no part of what Weft needs' setup
check 'so it is not installed' grep -q 'recommends catch2$' "$log"
fake apt-cache 'exit 0'
check 'with --tests it is missing' setup --tests
check 'and installed' grep -q 'recommends catch2 chromium$' "$log"
fake apt-cache 'exit 100'
check 'a distribution that has none' setup --tests
check 'is asked for the rest' grep -q 'recommends catch2$' "$log"
lacks chromium
check 'or for nothing' setup --tests
check 'when nothing else is missing' same 1 "$(wc -l < "$log")"

lacks catch2 ninja-build
fake apt-get 'exit 100'
check 'a failed installation is an error' exits 1 env PATH="$TMP/bin:$PATH" scripts/setup
check 'and names the packages' grep -q '^error: apt-get could not install: ninja-build catch2' "$TMP/stderr"

fake apt-get "echo apt-get \"\$@\" >> $log"
as_user() { PATH=$TMP/bin:$PATH setpriv --reuid=65534 --regid=65534 --clear-groups scripts/setup; }
if ((EUID == 0)) && setpriv --reuid=65534 --regid=65534 --clear-groups test -r scripts/setup 2> /dev/null; then
  : > "$log"
  check 'a user with sudo' as_user
  check 'sudo was used' grep -qx sudo "$log"
  lacks
  : > "$log"
  check 'a user with nothing missing' as_user
  check 'sudo was not used' test ! -s "$log"
else
  skip 'setup as an ordinary user' 'needs root, and a checkout that others can read'
fi

# A system without apt-get: nothing of it on the path.
mkdir "$TMP/no-apt"
for tool in bash dirname sed; do ln -s "$(command -v $tool)" "$TMP/no-apt/$tool"; done
check 'a system without apt' exits 1 env PATH="$TMP/no-apt" scripts/setup
check 'is told what to install' grep -q '^hint: install the equivalents of: g++ cmake' "$TMP/stderr"
check 'an unknown option' exits 2 scripts/setup --frobnicate
check 'setup can be switched off' exits 0 env WEFT_SKIP_SETUP=1 PATH="$TMP/no-apt" scripts/setup

finish
