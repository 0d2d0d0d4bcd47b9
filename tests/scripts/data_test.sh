#!/usr/bin/env bash
# weft data: from a text to token files, and what inspect says about them.
source "$(dirname "${BASH_SOURCE[0]}")/../support/tap.sh"

text=configs/data/genesis.txt
tokenize() { "$WEFT" data tokenize "$@"; }
inspect() { "$WEFT" data inspect "$@"; }

check 'tokenize with a held-out part' \
  tokenize --out "$TMP/a/train.bin" --val_out "$TMP/a/val.bin" --val_fraction 0.1 "$text"
check 'the training tokens of configs/data come from its text' cmp "$TMP/a/train.bin" configs/data/tiny.train.bin
check 'the validation tokens of configs/data come from its text' cmp "$TMP/a/val.bin" configs/data/tiny.val.bin

# A token file of llm.c: 256 int32 of header (magic 20240801, version 7, tokens), then uint32 tokens.
words() { od -An -v -t u4 -w4 "$1" | tr -d ' '; }
printf 'ab\xff' > "$TMP/short.txt"
: > "$TMP/empty.txt"
check 'tokenize two documents' tokenize --out "$TMP/two.bin" "$TMP/short.txt" "$TMP/empty.txt"
check 'the file is what llm.c writes' same "20240801 7 5 256 97 98 255 256" "$(words "$TMP/two.bin" | sed -n '1,3p;257,$p' | paste -sd' ')"

check 'the text comes back from the tokens' cmp "$text" <(
  tokenize --out "$TMP/whole.bin" "$text" > /dev/null
  words "$TMP/whole.bin" | tail -n +258 | awk '{ printf "%c", $1 }')

# The trigram entropy of the text, counted by awk.
expected=$(tr '\n' '\001' < "$text" | fold -b -w 1 | awk '
  { if (NR > 2) { context[a b]++; trigram[a b $0]++; n++ } a = b; b = $0 }
  END { for (t in trigram) h -= trigram[t] * log(trigram[t] / context[substr(t, 1, 2)]); printf "%.4f", h / n }')
check 'inspect prints the trigram entropy on a line of its own' \
  same "trigram entropy: $expected nats/byte" "$(inspect --entropy 3 "$TMP/whole.bin" | grep entropy)"
check 'inspect counts documents' grep -qx 'documents         5' <(inspect configs/data/tiny.val.bin)
check 'inspect as JSON' grep -q '"tokens": 5,' <(inspect --json "$TMP/two.bin")

check 'a missing text is an I/O error' exits 74 "$WEFT" data tokenize --out "$TMP/x.bin" "$TMP/none.txt"
check 'a failed run leaves no token file' test ! -e "$TMP/x.bin"
check 'a text too short to hold out a part' exits 2 "$WEFT" data tokenize --out "$TMP/x.bin" --val_out "$TMP/y.bin" "$TMP/short.txt"
check 'one file for both parts' exits 2 "$WEFT" data tokenize --out "$TMP/x.bin" --val_out "$TMP/x.bin" "$text"
check 'a share out of range' exits 2 "$WEFT" data tokenize --out "$TMP/x.bin" --val_out "$TMP/y.bin" --val_fraction 0.9 "$text"
head -c 2000 "$TMP/whole.bin" > "$TMP/cut.bin"
check 'a truncated token file is an I/O error' exits 74 "$WEFT" data inspect "$TMP/cut.bin"
check 'a text is no token file' exits 74 "$WEFT" data inspect "$text"
check 'an order of entropy out of range' exits 2 "$WEFT" data inspect --entropy 9 "$TMP/whole.bin"

finish
