"""Words compared the way people mean them: tense, plural, small slips of the keyboard."""

# ruff: noqa: SIM905 - a list of words reads best as words

import re

# Past form → what one would have put on the list.
PAST = {
    "bought": "buy", "brought": "bring", "built": "build", "called": "call", "came": "come", "chose": "choose",
    "did": "do", "done": "do", "drew": "draw", "drove": "drive", "fed": "feed", "filed": "file", "found": "find",
    "gave": "give", "got": "get", "gotten": "get", "hung": "hang", "held": "hold", "led": "lead", "left": "leave",
    "made": "make", "met": "meet", "paid": "pay", "picked": "pick", "ran": "run", "rang": "ring", "sent": "send",
    "sold": "sell", "spoke": "speak", "swept": "sweep", "taught": "teach", "told": "tell", "took": "take",
    "went": "go", "withdrew": "withdraw", "wrote": "write", "written": "write", "taken": "take",
}  # fmt: skip
# Forms in -ed that do not report something done.
NOT_REPORTS = frozenset(
    "wanted needed liked loved hoped decided asked tried added deleted removed changed forgot wished planned"
    " intended used meant supposed expected wondered noticed moved renamed heard received interested confused bored"
    " tired need feed speed red bed shed seed weed embed hundred".split()
)
# Verbs with which a to-do begins even without a day: nobody asks a chat to do these.
ERRANDS = frozenset(
    "buy call phone ring email mail pay order pick clean tidy wash water walk feed renew repair fix paint visit meet"
    " pack submit return bake iron vacuum mow collect fetch charge replace".split()
)
# Verbs with which one begins that names a day: "read the contract on Friday".
TO_DO_VERBS = ERRANDS | frozenset(
    "text message send book drop write read review prepare plan organise organize schedule study learn practise"
    " practice cook file print sign post ship deliver bring get take install back download upload research draft"
    " proofread translate wrap cancel ask tell invite reply contact".split()
)
_STOP = frozenset(
    "the a an my our your this that these those it its one ones task tasks item items todo to-do to do entry reminder"
    " called named titled about with for or of on in at from please thing things i we is are just"
    " and".split()
)
_WORD = re.compile(r"[^\W_]+(?:[-'][^\W_]+)*")
_FUZZY_LENGTH_MIN = 4
_VOWELS = "aeiou"


def content_words(text: str) -> list[str]:
    """The words that tell one task from another, stemmed. Where nothing else is left, the small words."""
    words = [word.lower().removesuffix("'s") for word in _WORD.findall(text)]
    return [stem(word) for word in words if word not in _STOP] or [stem(word) for word in words]


def stem(word: str) -> str:
    """A common form for "calls", "called", "calling" and "call"; need not be a word itself."""
    if word in PAST:
        return PAST[word].rstrip("e")
    for ending in ("ing", "ied", "ies", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):  # noqa: PLR2004 - "bed"
            word = word.removesuffix(ending) + ("y" if ending.startswith("ie") else "")
            if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "ls" + _VOWELS:  # noqa: PLR2004 - "submitted"
                word = word[:-1]
            break
    return word.rstrip("e") if len(word) > 2 else word  # noqa: PLR2004 - "be"


def alike(one: str, other: str) -> bool:
    """Whether two stems are the same word, allowing one slip in words that are long enough."""
    if one == other:
        return True
    if min(len(one), len(other)) < _FUZZY_LENGTH_MIN:
        return False
    return one.startswith(other) or other.startswith(one) or one_slip_apart(one, other)


def one_slip_apart(one: str, other: str) -> bool:
    """Whether one letter missing, added, wrong, or two neighbours swapped makes one word the other."""
    if abs(len(one) - len(other)) > 1 or one == other:
        return False
    at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    head, tail = one[at:], other[at:]
    return (
        head[1:] == tail
        or head == tail[1:]
        or head[1:] == tail[1:]
        or (head[:2] == tail[:2][::-1] and head[2:] == tail[2:])
    )
