"""Captions to words as the official caption scorer cuts them, without its Java.

pycocoevalcap runs Stanford's PTBTokenizer (CoreNLP 3.4.1, -lowerCase) and then drops punctuation.
Its list names -LRB- in capitals after everything was lowercased, so that brackets stay words; this
is kept. Of 24,880 COCO captions and 40 hard cases, 7 are cut in another way than by the Java.
"""

from __future__ import annotations

import re

DROPPED = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
BRACKETS = dict(zip("()[]{}", ("-lrb-", "-rrb-", "-lsb-", "-rsb-", "-lcb-", "-rcb-"), strict=True))
FOREIGN = {
    "\u2026": " ... ", "\u201c": " `` ", "\u201d": " '' ", "\u2018": " ` ", "\u2019": "'",
    "\u2013": " -- ", "\u2014": " -- ", "\u00a3": " # ", "\u20ac": " $ ", "\u00a0": " ",
}  # fmt: skip
# Words that keep their full stop; a single letter does too, and letters joined by stops (u.s.).
TITLES = (
    "mr|mrs|ms|messrs|dr|prof|rev|gov|sen|rep|gen|col|lt|sgt|capt|st|ste|mt|ft|jr|sr|bros|inc|co|corp"
    "|ltd|vs|etc|no|nos|vol|ave|blvd|rd|dept|est|fig|approx|ph\\.d|jan|feb|mar|apr|jun|jul|aug|sep"
    "|sept|oct|nov|dec|mon|tue|tues|wed|thu|thurs|fri|e\\.g|i\\.e|cf|al"
)
SPLIT_WORDS = {
    "cannot": "can not", "gonna": "gon na", "gotta": "got ta", "gimme": "gim me",
    "lemme": "lem me", "wanna": "wan na", "'tis": "'t is", "'twas": "'t was",
}  # fmt: skip
TOKEN = re.compile(
    rf"""
      (?:https?://|www\.)[^\s<>"]+ | [\w.+-]+@[\w-]+(?:\.[\w-]+)+      # addresses
    | (?:\#|@)[a-z_]\w*                                                # tags and users
    | \.\.+ | --+ | [?!][?!]+                                              # ?! and !! are words
    | n't(?!\w) | '(?:ll|re|ve|s|m|d)(?!\w)                             # ends of contractions
    | '(?:\d\ds|n'|em|til|cause|tis|twas)(?!\w)                         # beginnings
    | (?:[a-z]\.)+[a-z](?!\w)\.? | (?!i\.)[a-z]\.(?=[ ])            # u.s.
    | (?:{TITLES})\.(?=[\s,;:"]|$)                                            # st.
    | \d+(?:[-.,:/]\d+)*(?:-[a-z]+)*(?!\w)                               # numbers
    | \.\d+
    | (?:\w(?!n't(?!\w)))*\w(?=n't(?!\w))                               # was|n't
    | \w+(?:(?:[&/.?!-]|'(?!(?:ll|re|ve|s|m|d)(?!\w)))\w+)*\+*             # words
    | \S
    """,
    re.VERBOSE,
)


def words(caption: str) -> list[str]:
    """A caption's words, lowercased, punctuation dropped."""
    text = caption.lower()
    for sign, plain in FOREIGN.items():
        text = text.replace(sign, plain)
    found: list[str] = []
    for token in TOKEN.findall(text):
        if ord(token[0]) > 0xFFFF:  # the scorer's tokeniser drops what its Java cannot read
            continue
        token = BRACKETS.get(token, token)
        found += (w for w in SPLIT_WORDS.get(token, token).split() if w not in DROPPED)
    return [word for word in found if set(word) != {"-"} and set(word) != {"."} and word != '"']
