#!/usr/bin/env bash
# The counting behind scripts/test: a case that fails, crashes, does not run or is skipped must not pass for a good one.
source "$(dirname "${BASH_SOURCE[0]}")/../support/tap.sh"

# report CASE...: an xml report; a case is NAME=pass, fail, skip, crash (no result) or empty.
report() {
  local entry name kind
  echo '<Catch name="t">'
  for entry in "$@"; do
    name=${entry%=*} kind=${entry#*=}
    echo "    <TestCase name=\"$name\" filename=\"a.cpp\" line=\"7\">"
    case $kind in
      skip) printf '      <Warning>\n        skipped: no GPU\n      </Warning>\n      <OverallResult success="true"/>\n' ;;
      fail) printf '      <Expression success="false" type="CHECK" filename="a.cpp" line="9">\n        <Original>\n          a == b\n        </Original>\n      </Expression>\n      <OverallResult success="false" durationInSeconds="1"/>\n' ;;
      pass) echo '      <OverallResult success="true"/>' ;;
      crash) return ;;
    esac
    echo '    </TestCase>'
  done
  echo '</Catch>'
}

# outcome LIST REPORT: "case:status" for each case.
outcome() {
  rm -f "$TMP/details"
  awk -v suite=s -v details="$TMP/details" -f scripts/catch_results.awk "$@" | awk -F'\t' '{ printf "%s%s:%s", sep, $3, $1; sep = " " }'
}

list() { printf '%s\n' "$@" > "$TMP/list"; }

list a b c
report a=pass b=fail c=skip > "$TMP/xml"
check 'pass, fail and skip are told apart' same 'a:pass b:fail c:skip' "$(outcome "$TMP/list" "$TMP/xml")"
check 'a failure is shown with its place' grep -q 'a.cpp:9: CHECK' "$TMP/details"

report a=pass b=crash > "$TMP/xml"
check 'a crash fails its case and those after it' same 'a:pass b:fail c:fail' "$(outcome "$TMP/list" "$TMP/xml")"
check 'the case that crashed is named' grep -q 'the process ended in this case' "$TMP/details"

: > "$TMP/xml"
check 'no report at all fails every case' same 'a:fail b:fail c:fail' "$(outcome "$TMP/list" "$TMP/xml")"

list 'x <y> "z" & w'
report 'x &lt;y> &quot;z&quot; &amp; w=pass' > "$TMP/xml"
check 'names with markup match' same 'x <y> "z" & w:pass' "$(outcome "$TMP/list" "$TMP/xml")"

finish
