"""Which task is meant: words to a reference, and a reference's words to the tasks whose titles fit."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from demo_model.intents import Everything, It, Named, Numbers, Ref, Status
from demo_model.words import alike, content_words, stem

_I = re.IGNORECASE
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_CARDINALS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NOUN = r"(?:\s+(?:one|ones|tasks?|items?|to-?dos?|entry|entries|thing))?"
_ON_LIST = r"(?:\s+(?:from|on|in|of|off)\s+(?:my|the|this)\s+(?:to-?do\s+|task\s+)?list)?"
_PLACE = (
    rf"(?:(?:the|my)\s+)?(?:(?:number|no\.?|nr\.?|task|item|to-?do|entry|the\s+one\s+at)\s*(?:number\s+|no\.?\s*)?#?\s*(?P<digits>\d{{1,3}}|{'|'.join(_CARDINALS)})"
    rf"|#?(?P<bare>\d{{1,3}})(?:st|nd|rd|th)?|(?P<ordinal>{'|'.join(_ORDINALS)}|last|final))(?:'s)?{_NOUN}{_ON_LIST}"
)
_ONE_PLACE = re.compile(_PLACE, _I)
_AND = re.compile(r"\s*(?:,\s*and\s+|,|&|\+|\s+and\s+(?:also\s+)?)\s*", _I)
_FIRST_OF = re.compile(rf"(?:the\s+)?first\s+(?P<count>\d{{1,2}}|{'|'.join(_CARDINALS[1:])}){_NOUN}{_ON_LIST}", _I)
_LAST_OF = re.compile(_FIRST_OF.pattern.replace("first", "last", 1), _I)
_IT = re.compile(
    rf"(?:it|that|this|(?:that|this|the\s+same)\s+(?:one|task|item|to-?do|thing)|the\s+(?:task|one|item|to-?do))(?:'s)?{_ON_LIST}",
    _I,
)
_THEM = re.compile(
    rf"(?:them|them\s+all|these|those|both|both\s+of\s+(?:them|these|those)|(?:these|those|both)\s+(?:ones|tasks|items)?){_ON_LIST}",
    _I,
)
_ALL = re.compile(
    r"(?:(?:all|every|each)(?:\s+of)?(?:\s+(?:the|my|them|it|these|those|our))*|everything|the\s+(?:whole|entire)\s+(?:lot|list)|(?:my|the)(?=\s+\w+\s+(?:tasks|to-?dos|items|ones)\b)"
    r"|(?:my|the)(?=\s+(?:(?:whole|entire)\s+)?(?:to-?do\s+)?list$)|(?=(?:open|done|completed|finished|remaining)\s+(?:tasks|to-?dos|items|ones)$))"
    r"\s*(?:(?P<done>(?:that(?:\s+is|\s+are|\s+i|'s)\s+)?(?:done|completed?|finished))|(?P<open>open|remaining|pending|unfinished|outstanding|incomplete))?"
    r"\s*(?:tasks?|to-?dos?|items?|things?|ones?|(?:whole\s+|entire\s+)?(?:to-?do\s+)?list)?"
    r"(?:\s+(?:that\s+(?:is|are)\s+|i(?:'ve|\s+have)?\s+)?(?:already\s+)?(?P<late_done>done|completed|finished))?(?:\s+(?:on|from|in|off)\s+(?:my|the)\s+(?:to-?do\s+)?list)?",
    _I,
)
_WRAPPING = re.compile(
    r"^(?:(?:the|my|our|that|this)\s+)?(?:(?:task|item|to-?do|reminder|one|entry)\s+)?(?:(?:called|named|titled|about|for|to|with|of|saying)\s+)?",
    _I,
)
_WRAPPED = re.compile(
    rf"(?:\s+(?:one|ones|tasks?|items?|to-?dos?|reminder|entry|thing))?{_ON_LIST}(?:\s+(?:too|as\s+well|already|now|instead))?$",
    _I,
)


def read(text: str, verb: str = "") -> Ref:
    """The reference that these words make. What is no pronoun, number or "all" is taken for words of a title."""
    text = text.strip(" .,!?:;").strip()
    for pattern, ref in ((_IT, It()), (_THEM, It(several=True))):
        if pattern.fullmatch(text):
            return ref
    if places := _places(text):
        return Numbers(places)
    if match := _ALL.fullmatch(text):
        done = match["done"] or match["late_done"]
        return Everything(Status.DONE if done else Status.OPEN if match["open"] else Status.ALL)
    quoted = re.search(r"\"([^\"]+)\"", text)
    return Named(quoted[1].strip() if quoted else _bare(text) or text, verb)


def _bare(text: str) -> str:
    return _WRAPPED.sub("", _WRAPPING.sub("", text, count=1), count=1).strip(" .,:;'\"")


def _places(text: str) -> tuple[int, ...]:
    if match := _FIRST_OF.fullmatch(text):
        return tuple(range(1, _count(match["count"]) + 1))
    if match := _LAST_OF.fullmatch(text):
        return tuple(range(-_count(match["count"]), 0))
    stripped = re.sub(r"^(?:tasks|numbers|items)\s+(?=\d)", "", text, flags=_I)
    matches = [_ONE_PLACE.fullmatch(part) for part in _AND.split(stripped)]
    places = tuple(_place(match) for match in matches if match is not None)
    return places if len(places) == len(matches) else ()


def _count(word: str) -> int:
    return int(word) if word.isdigit() else _CARDINALS.index(word.lower()) + 1


def _place(match: re.Match[str]) -> int:
    said = (match["digits"] or match["bare"] or match["ordinal"]).lower()
    if said.isdigit():
        return int(said)
    if said in {"last", "final"}:
        return -1
    return (_ORDINALS if said in _ORDINALS else _CARDINALS).index(said) + 1


# Titles


@dataclass(frozen=True, slots=True)
class Fit:
    """The indexes of the texts that fit; `sure` is false where only some of the words are there."""

    indexes: tuple[int, ...]
    sure: bool


def fitting(named: Named, texts: Sequence[str]) -> Fit:
    """The texts that a name fits best: the whole title, else all its words, else at least half of them.

    What was done ("I *bought* the milk") decides between texts, but is never enough where a thing was named.
    """
    same = [i for i, text in enumerate(texts) if _plain(text) == _plain(named.text)]
    if same:
        return Fit(tuple(same), sure=True)
    wanted = content_words(named.text)
    hits = [_hits(wanted, content_words(text)) for text in texts]
    best = max(hits, default=0)
    chosen = [i for i, count in enumerate(hits) if count == best]
    if best == 0 or best * 2 < len(wanted):
        return Fit((), sure=False)
    if named.verb:
        with_verb = [i for i in chosen if _hits([stem(named.verb)], content_words(texts[i]))]
        chosen = with_verb or chosen
    return Fit(tuple(chosen), sure=best == len(wanted))


def parts(named: Named) -> list[Named]:
    """ "milk and bread" as two names; one name alone gives nothing."""
    names = [Named(bare, named.verb) for part in _AND.split(named.text) if (bare := _bare(part))]
    return names if len(names) > 1 else []


def _hits(wanted: Iterable[str], present: Sequence[str]) -> int:
    return sum(any(alike(word, other) for other in present) for word in wanted)


def _plain(text: str) -> str:
    return " ".join(text.lower().strip(" .!\"'").split())
