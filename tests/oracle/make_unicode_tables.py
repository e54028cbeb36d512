#!/usr/bin/env python3
"""Writes data/unicode_tables.inc: how Python changes the case of a character (str.lower, str.upper).

  python3 tests/oracle/make_unicode_tables.py > data/unicode_tables.inc
"""
import sys
import unicodedata


def simple(change):
    pairs = [(c, ord(change(chr(c))) - c) for c in range(128, 0x110000)
             if not 0xD800 <= c < 0xE000 and len(change(chr(c))) == 1 and change(chr(c)) != chr(c)]
    rows, i = [], 0
    while i < len(pairs):
        first, delta = pairs[i]
        best = (first, first, 1, delta, 1)
        for step in (1, 2):
            k, last = i + 1, first
            while k < len(pairs) and pairs[k] == (last + step, delta):
                last, k = pairs[k][0], k + 1
            if k - i > best[4]:
                best = (first, last, step, delta, k - i)
        rows.append(best[:4])
        i += best[4]
    return rows


def main():
    print("// Made by tests/oracle/make_unicode_tables.py with Unicode %s. {first, last, step, added}"
          % unicodedata.unidata_version)
    for name, change in (("kLower", str.lower), ("kUpper", str.upper)):
        rows = ["{0x%x, 0x%x, %d, %d}" % r for r in simple(change)]
        print("constexpr CaseRange %s[] = {" % name)
        for i in range(0, len(rows), 4):
            print("    " + ", ".join(rows[i:i + 4]) + ",")
        print("};")
    print("// Characters whose upper case is several characters.")
    print("constexpr CaseString kUpperStrings[] = {")
    rows = []
    for c in range(128, 0x110000):
        if not 0xD800 <= c < 0xE000 and len(chr(c).upper()) > 1:
            text = "".join("\\x%02x" % b for b in chr(c).upper().encode())
            rows.append('{0x%x, "%s"}' % (c, text))
    for i in range(0, len(rows), 3):
        print("    " + ", ".join(rows[i:i + 3]) + ",")
    print("};")


if __name__ == "__main__":
    sys.exit(main())
