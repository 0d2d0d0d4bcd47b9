# scripts/catch_results.awk - what became of each test case of one Catch2 binary.
#
#   awk -v suite=NAME -v details=FILE -f catch_results.awk LIST XML
#
# LIST: the names that --list-test-names-only prints. XML: what the xml reporter wrote; empty after an early crash.
# Prints "pass|fail|skip <tab> suite <tab> case <tab> reason" for each name in LIST, in order. A case that did not come to its
# end has failed. A case is skipped when it warned "skipped: REASON" (tests/support/skip.h).
# What failed, and why, goes to the file `details`.

function decode(text) {
  gsub(/&lt;/, "<", text); gsub(/&gt;/, ">", text); gsub(/&quot;/, "\"", text); gsub(/&amp;/, "\\&", text)
  return text
}
function attribute(line, key,    at) {
  at = index(line, " " key "=\"")
  if (at == 0) return ""
  line = substr(line, at + length(key) + 3)
  return decode(substr(line, 1, index(line, "\"") - 1))
}
function trim(text) { sub(/^[ \t]+/, "", text); sub(/[ \t\r]+$/, "", text); return text }

FILENAME == ARGV[1] {
  if (trim($0) != "") names[++count] = trim($0)
  next
}
/^ *<TestCase / {
  name = trim(attribute($0, "name")); text = ""; reason = ""
  started[name] = 1
  next
}
/^ *<Section /             { text = text "    section: " attribute($0, "name") "\n"; next }
/^ *<Expression /          { text = text "    " attribute($0, "filename") ":" attribute($0, "line") ": " attribute($0, "type") "\n"; next }
/^ *<Exception /           { text = text "    " attribute($0, "filename") ":" attribute($0, "line") ": exception\n"; next }
/^ *<Failure /             { text = text "    " attribute($0, "filename") ":" attribute($0, "line") ": FAIL\n"; next }
/^ *<FatalErrorCondition / { text = text "    " attribute($0, "filename") ":" attribute($0, "line") ": crash\n"; next }
/^ *<OverallResult / {
  ok = attribute($0, "success") == "true"
  done[name] = 1
  if (!ok) { failed[name] = 1; report[name] = text }
  if (reason != "") skipped[name] = reason
  name = ""
  next
}
/^ *<\/?[A-Za-z]+( [^>]*)?\/?> *$/ { next }
name != "" {
  line = trim(decode($0))
  if (line ~ /^skipped: /) reason = substr(line, 10)
  if (line != "") text = text "      " line "\n"
}
END {
  for (i = 1; i <= count; i++) {
    name = names[i]
    if (!(name in done)) {
      failed[name] = 1
      report[name] = "    " (name in started ? "the process ended in this case" : "did not run") "\n"
    }
    if (name in failed) {
      print "fail\t" suite "\t" name "\t"
      print "  FAILED " suite ": " name "\n" report[name] >> details
    } else if (name in skipped) {
      print "skip\t" suite "\t" name "\t" skipped[name]
    } else {
      print "pass\t" suite "\t" name "\t"
    }
  }
}
