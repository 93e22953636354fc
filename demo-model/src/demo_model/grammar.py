"""What a person's sentence wants: plain English to intents, by ordered rules.

`understand` strips politeness, cuts a message into the commands it joins, and tries the rules of each kind from the most
telling to the least; the first that makes an intent wins. What no rule reads is tried once more with slips of the keyboard
in the command words corrected, and is `Talk(UNKNOWN)` after that: nothing is guessed.
"""

# ruff: noqa: E501 - a rule is one line, however long its pattern

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from functools import lru_cache

from demo_model import dates, items, references
from demo_model.intents import (
    Add,
    Changes,
    Complete,
    Delete,
    Everything,
    Intent,
    It,
    Named,
    NewTask,
    Priority,
    Ref,
    Reopen,
    Show,
    Status,
    Talk,
    Topic,
    Update,
    UseTool,
)
from demo_model.words import ERRANDS, NOT_REPORTS, PAST, TO_DO_VERBS, one_slip_apart

MESSAGE_LENGTH_MAX = 3000  # characters; a longer message is no command, and patterns cost time
COMMANDS_MAX = 8  # in one message; what follows belongs to the last one
COURTESIES_MAX = 8  # "ok so could you please just …" has five
CORRECTED_LENGTH_MAX = 200  # of a message whose slips are corrected

_I = re.IGNORECASE
_Rule = tuple[re.Pattern[str], Callable[[re.Match[str], date], Intent | None]]


@lru_cache(maxsize=1024)  # each round of a turn asks again
def understand(message: str, today: date) -> tuple[Intent, ...]:
    """The intents of a message, in the order said; never empty."""
    message = _normal(message)
    if not message or len(message) > MESSAGE_LENGTH_MAX:
        return (Talk(Topic.UNKNOWN),)
    if items.is_listing(message):
        return (_command(message, today),)
    intents = [_command(part, today) for part in _commands_in(message, today)]
    intents = [intent for intent in intents if not _is_chatter(intent)] or intents[:1]
    return tuple(_joined(intents))


def read_new_task(message: str, today: date) -> NewTask:
    """A message that answers "what should the task be called?"."""
    return items.read(_normal(message), today)


def read_reference(message: str) -> Ref:
    """A message that answers "which one?"."""
    text = _polite(_normal(message)).strip(" .!?")
    text = re.sub(r"^(?:i\s+(?:mean|meant)|it's|it\s+is|that's|make\s+it|only|just)\s+", "", text, flags=_I)
    return references.read(text)


def read_changes(message: str, today: date) -> Changes | None:
    """A message that answers "what should I change about it?": "the due date to Friday", "call it …"."""
    text = _polite(_normal(message)).strip(" .!?")
    if day := dates.whole(text, today):
        return Changes(due=day)
    if priority := items.priority_of(text):
        return Changes(priority=priority)
    if match := re.match(
        r"^(?:(?:change|set|make|move)\s+)?(?:the\s+|its\s+)?(?P<what>due\s+date|deadline|date|priority|title|name|description|notes?)"
        r"\s*(?:to|:|is|should\s+be)\s*(?P<value>.+)$",
        text,
        _I,
    ):
        return _change_of(match["what"].lower(), match["value"], today)
    return None


# Cleaning and cutting

_BEFORE = re.compile(
    r"""^(?:
      (?:please|pls|hey|hi|hello|ok(?:ay)?|alright|so|now|also|and|then|great|cool|perfect|nice|thanks|thank\s+you|yes|yeah|yep|sure|well|oh
        |um|actually|just|yo|no|wait|sorry|there|parley|bot|assistant|good\s+(?:morning|afternoon|evening)|again|quick(?:ly)?|kindly
        |one\s+more\s+thing|oops|hmm|btw|by\s+the\s+way)\b(?!\s*[-'])[\s,:!.-]+
      |(?:can|could|would|will|can't|couldn't)\s+(?:you|u|we|i)\s+(?:please\s+|kindly\s+|just\s+|maybe\s+|also\s+)*(?:help\s+me\s+(?:to\s+)?)?
      |i(?:'d|\s+would)\s+(?:like|love|want)\s+(?:you\s+)?to\s+|i\s+(?:want|need)\s+you\s+to\s+|let's\s+|let\s+us\s+|let\s+me\s+(?=see\b|know\b|have\b|look\b)|go\s+ahead\s+and\s+
      |help\s+me\s+(?:to\s+)?(?=\w)|i\s+think\s+|i\s+guess\s+|you\s+(?:can|could|should|may)\s+(?:also\s+)?
      |i\s+(?:want|wish|need)\s+to\s+(?=(?:add|delete|remove|see|view|list|rename|mark|update|check\s+off|cross\s+off|know|change|create\s+a|reopen)\b)
    )""",
    _I | re.VERBOSE,
)
_AFTER = re.compile(
    r"(?:[\s,]+(?:please|pls|thanks|thank\s+you|thx|ty|for\s+me|if\s+you\s+(?:can|could|would)|will\s+you|would\s+you|ok(?:ay)?|right\s+now))+(?=[\s.!?]*$)",
    _I,
)
_GERUND = re.compile(
    r"^(?:would|do)\s+you\s+mind\s+(?P<verb>add|delet|remov|show|list|mark|check|renam|chang|updat|mov|putt|tick|cross|creat)ing\b",
    _I,
)
_GERUND_VERBS = {
    "delet": "delete",
    "remov": "remove",
    "renam": "rename",
    "chang": "change",
    "updat": "update",
    "mov": "move",
    "putt": "put",
    "creat": "create",
}
_OPENER = (
    r"(?:add|put|create|remind\s+me|delete|remove|drop|scrap|mark|check\s+off|tick\s+off|cross\s+off|complete|finish|rename|show|list|move|change|set|make\s+(?:it|that|the|number)"
    r"|reopen|update|push|postpone|reschedule|tell\s+me|what's|what\s+(?:is|do|are)|get\s+rid\s+of|give\s+it|call\s+it)\b"
)
_FULL_STOP = re.compile(rf"(?:[.!?;]\s+|[.!?;]?\s*\n+\s*|,?\s+(?:and\s+)?then\s+|,\s+and\s+(?={_OPENER}))", _I)
_AND = re.compile(
    rf"\s*(?:,|\band\b|\bbut\b)\s+(?:then\s+|also\s+|please\s+|can\s+you\s+|could\s+you\s+)*(?={_OPENER})", _I
)
# After "add …", "and remove the trash" may well be the task itself: only these start another command.
_AND_AFTER_ADD = re.compile(
    r"\s*(?:,|\band\b)\s+(?:then\s+|also\s+|please\s+)*(?=(?:add\b(?!\s+up)|remind\s+me|create\s+a|mark\b.*\b(?:done|complete|completed)\b|show\s+me\s+(?:my|the|all)|list\s+(?:my|all)"
    r"|make\s+it\s+(?:high|low|urgent|due)|set\s+(?:it|its|the\s+(?:due|priority))\b|(?:delete|remove|complete)\s+(?:the\s+)?(?:\w+\s+one|number|task|first|second|third|last)\b))",
    _I,
)


def _normal(message: str) -> str:
    text = message.translate(str.maketrans("\u2019\u2018\u201c\u201d\u00ab\u00bb\u2013\u2014", '\'\'""""--'))
    text = re.sub(r"(?<!\w)'([^']+)'(?!\w)", r'"\1"', text)  # 'milk' is a quoted title as "milk" is
    return re.sub(r"[ \t]+", " ", text).strip()


def _polite(text: str) -> str:
    """Without the words of courtesy around it, but never empty."""
    text = _GERUND.sub(lambda match: _GERUND_VERBS.get(match["verb"].lower(), match["verb"]), text)
    for _ in range(COURTESIES_MAX):
        shorter = _BEFORE.sub("", _AFTER.sub("", text), count=1).strip()
        if shorter == text or not shorter.strip(" .!?,"):
            break
        text = shorter
    return text


def _commands_in(message: str, today: date) -> list[str]:
    """The message cut where one command ends and another begins, if all the parts make sense."""
    sentences = [part for part in _FULL_STOP.split(message, maxsplit=COMMANDS_MAX - 1) if part.strip(" .!?,")]
    parts = [part for sentence in sentences for part in _joined_in(sentence, today)]
    if 0 < len(parts) <= COMMANDS_MAX and all(_recognised(part, today) for part in parts):
        return parts
    return _joined_in(message, today)


def _joined_in(sentence: str, today: date) -> list[str]:
    """The commands of one sentence ("… and mark it as done"); the sentence itself if the first part is none."""
    parts: list[str] = []
    start = 0
    for cut in _AND.finditer(sentence):
        head = sentence[start : cut.start()]
        intent = _by_rules(_polite(head), today)
        if intent is None or (isinstance(intent, Add) and not _AND_AFTER_ADD.match(sentence, cut.start())):
            continue
        parts.append(head)
        start = cut.end()
        if len(parts) == COMMANDS_MAX - 1:
            break
    parts.append(sentence[start:])
    return parts if _recognised(parts[-1], today) else [sentence]


def _recognised(text: str, today: date) -> bool:
    intent = _by_rules(_polite(text), today)
    return intent is not None and not (isinstance(intent, Add | Complete) and intent.weak and len(text.split()) < 2)  # noqa: PLR2004


def _is_chatter(intent: Intent) -> bool:
    return isinstance(intent, Talk) and intent.topic in {
        Topic.GREETING, Topic.THANKS, Topic.PRAISE, Topic.GOODBYE, Topic.YES, Topic.NO, Topic.WELLBEING
    }  # fmt: skip


def _joined(intents: list[Intent]) -> list[Intent]:
    """Neighbouring adds become one, and "it" in a later command is what the command before spoke of."""
    result: list[Intent] = []
    for intent in intents:
        before = result[-1] if result else None
        if isinstance(intent, Add) and isinstance(before, Add):
            result[-1] = Add(before.items + intent.items)
        elif (
            isinstance(intent, Complete | Reopen | Delete | Update)
            and isinstance(before, Complete | Reopen | Update)
            and isinstance(intent.ref, It)
        ):
            result.append(replace(intent, ref=before.ref))
        else:
            result.append(intent)
    return result


def _command(text: str, today: date) -> Intent:
    polite = _polite(text)
    intent = _by_kind(_TALK, text, today) or _by_rules(polite, today)
    if intent is None and len(polite) <= CORRECTED_LENGTH_MAX:
        intent = _by_rules(_corrected(polite), today)
    return intent or Talk(Topic.UNKNOWN)


@lru_cache(maxsize=256)  # cutting a message asks for the same part several times
def _by_rules(text: str, today: date) -> Intent | None:
    asked = text.rstrip(" .!").endswith("?")
    kinds = (_TALK, _QUESTIONS if asked else [], _UPDATE, _COMPLETE, _DELETE, _ADD_PLAIN, _SHOW, _ADD_HINTED)
    return next((intent for rules in kinds if (intent := _by_kind(rules, text, today)) is not None), None)


def _by_kind(rules: list[_Rule], text: str, today: date) -> Intent | None:
    stripped = text.strip().rstrip(" .!?,") or text
    for pattern, build in rules:
        if (match := pattern.match(stripped)) and (intent := build(match, today)) is not None:
            return intent
    return None


_LEXICON = [
    "delete",
    "remove",
    "complete",
    "finish",
    "rename",
    "change",
    "update",
    "mark",
    "show",
    "list",
    "remind",
    "create",
    "tasks",
    "task",
    "everything",
    "first",
    "second",
    "third",
    "done",
    "today",
    "tomorrow",
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "friday",
    "saturday",
    "sunday",
    "priority",
    "due",
    "what",
    "open",
    "completed",
    "finished",
]


def _corrected(text: str) -> str:
    """Command words with one slip put right ("delte", "remvoe"), in a sentence nothing else explains."""
    words = text.split(" ")
    if len(words) > 1 and words[0].lower() in {"ad", "addd", "dad"}:
        words[0] = "add"
    return " ".join(
        next((known for known in _LEXICON if len(word) > 3 and one_slip_apart(word.lower(), known)), word)  # noqa: PLR2004 - "the"
        if word.lower() not in _LEXICON
        else word
        for word in words
    )


# Talk


def _talk(topic: Topic, pattern: str) -> _Rule:
    return re.compile(rf"^(?:{pattern})$", _I | re.DOTALL), lambda _match, _today: Talk(topic)


def _use_tool(match: re.Match[str], _today: date) -> Intent:
    return UseTool(match["name"], match["arguments"] or "{}")


_TALK: list[_Rule] = [
    (re.compile(r"^(?:call|use|run|invoke)\s+(?:the\s+)?tool\s+[\"`']?(?P<name>[\w.-]+)[\"`']?(?:\s*(?:with)?\s*(?P<arguments>\{.*\}))?$", _I | re.DOTALL), _use_tool),
    _talk(
        Topic.IDENTITY,
        r"(?:who|what)(?:'s|\s+are|\s+r|\s+is)\s+(?:you|u|this|parley)(?:\s+(?:exactly|really|anyway|then))?|who\s+am\s+i\s+(?:talking|speaking|chatting)\s+(?:to|with)"
        r"|(?:are|r)\s+(?:you|u)\s+(?!there|ok|done|sure|able|free|busy).*|(?:which|what)\s+(?:\w+\s+)?(?:model|llm|ai)\b.*|what's\s+your\s+name|what\s+is\s+your\s+name|who\s+(?:made|built|wrote|created|trained)\s+you"
        r"|(?:introduce|tell\s+me\s+about)\s+yourself|is\s+this\s+(?:chat)?gpt.*|am\s+i\s+(?:talking|speaking)\s+(?:to|with)\s+.*",
    ),
    _talk(Topic.MESSAGES_COUNT, r"how\s+many\s+(?:messages|times|things)\s+(?:have|did)\s+i\s+(?:sent?|writ\w+|wrote|typed?|messaged?|said|say|asked?)\b.*"),
    _talk(
        Topic.MESSAGE_FIRST,
        r"what\s+(?:did|have)\s+i\s+(?:say|said|ask(?:ed)?|tell\s+you|told\s+you|writ\w+|wrote|sen[dt])\s+(?:you\s+)?(?:first|at\s+(?:first|the\s+(?:start|beginning))|in\s+the\s+beginning|originally|initially).*"
        r"|what\s+(?:was|is|were)\s+(?:the|my)\s+(?:very\s+)?first\s+(?:thing|message|question|words?|request)\b.*",
    ),
    _talk(
        Topic.MESSAGE_BEFORE,
        r"what\s+(?:did|have)\s+i\s+(?:just\s+)?(?:say|said|ask(?:ed)?|tell\s+you|told\s+you|writ\w+|wrote|sen[dt])(?:\s+(?:you|to\s+you))?(?:\s+(?:for|about))?(?:\s+(?:before|last|just\s+now|earlier|a\s+(?:moment|minute)\s+ago|previously|last\s+time|right\s+before).*)?"
        r"|what\s+(?:was|is)\s+my\s+(?:last|previous)\s+(?:message|question|request)\b.*",
    ),
    _talk(
        Topic.HELP,
        r"help(?:\s+me)?|(?:what|which\s+things)\s+(?:all\s+)?(?:can|could|do)\s+(?:you|i|u)\s+(?:do|say|ask|understand|type|know)\b(?!.*\b(?:have|need|left|due)\b).*|how\s+(?:does|do)\s+(?:this|it|i|you)\s+(?:work|use)\b.*"
        r"|how\s+do\s+i\s+(?:add|delete|remove|complete|use|change|mark)\b.*|(?:show\s+(?:me\s+)?)?(?:commands|options|instructions|examples)|(?:i\s+need\s+)(?:some\s+)?help|\?+|what\s+now|how\s+to\s+use\s+(?:this|you)",
    ),
    _talk(Topic.TODAY, r"what(?:'s|\s+is)?\s+(?:day|date|the\s+date|the\s+day|today's\s+date|today)(?:\s+(?:is|today|it|is\s+it))*(?:\s+today)?|which\s+day\s+is\s+(?:it|today).*"),
    _talk(Topic.WELLBEING, r"(?:hi|hello|hey)?[\s,]*(?:how\s+are\s+(?:you|things)|how's\s+(?:it\s+going|life|everything)|how\s+do\s+you\s+do|what's\s+up|sup|you\s+ok(?:ay)?|are\s+you\s+(?:there|ok|sure))(?:\s+(?:doing|today|now))*"),
    _talk(Topic.GREETING, r"(?:hi+|hello+|hey+|hiya|howdy|yo|greetings|good\s+(?:morning|afternoon|evening|day)|morning|hallo|ping|test(?:ing)?)(?:[\s,!]+(?:there|parley|bot|again|everyone|you|assistant|all|hello|hi))*"),
    _talk(Topic.THANKS, r"(?:(?:ok(?:ay)?|great|perfect|cool|nice|awesome|wonderful)[\s,!.]+)?(?:many\s+thanks|thanks?|thank\s+(?:you|u)|thx|ty|cheers|much\s+appreciated|i\s+appreciate\s+(?:it|that))(?:\s+(?:so|very)\s+much|\s+a\s+(?:lot|million|bunch)|\s+for\s+(?:your|the|all)\s+.*|[\s,!]+(?:bot|parley|again|you|man|great|good\s+job|bye))*"),
    _talk(Topic.GOODBYE, r"(?:ok(?:ay)?[\s,]+)?(?:good\s*bye|bye+|bye\s+bye|see\s+(?:you|ya)|good\s*night|later|cya|take\s+care|talk\s+(?:to\s+you\s+)?later|that's\s+(?:all|it)(?:\s+for\s+(?:now|today))?|that\s+(?:is|will\s+be)\s+all)(?:[\s,!]+(?:later|soon|tomorrow|bot|then|parley|thanks))*"),
    _talk(Topic.NO, r"no+|nope|nah|no\s+thanks?(?:\s+you)?|never\s*mind|nvm|forget\s+(?:it|that)|scratch\s+that|cancel(?:\s+that)?|stop|none(?:\s+of\s+(?:them|these|those))?|neither|don't|do\s+not|better\s+not|no,?\s+(?:don't|leave\s+(?:it|them)|keep\s+(?:it|them)|never\s*mind).*|leave\s+(?:it|them)(?:\s+(?:alone|as\s+(?:it\s+is|they\s+are)))?|keep\s+(?:it|them)"),
    _talk(Topic.YES, r"(?:yes+|yep|yeah|yup|ya|sure(?:\s+thing)?|ok(?:ay)?|of\s+course|go\s+(?:ahead|for\s+it)|do\s+it|please\s+do|correct|right|exactly|absolutely|definitely|i'm\s+sure|y|confirm(?:ed)?|that's\s+right|that\s+one,?\s+yes)(?:[\s,!.]+(?:yes|please|do\s+(?:it|that)|go\s+ahead|delete\s+(?:them|it|all|everything)(?:\s+all)?|i'm\s+sure|sure|all\s+of\s+them))*"),
    _talk(Topic.PRAISE, r"(?:that's\s+|you're\s+|you\s+are\s+)?(?:great|perfect|cool|nice|awesome|good(?:\s+(?:job|bot|work))?|well\s+done|excellent|wonderful|lovely|super|amazing|brilliant|fantastic|nice\s+one|got\s+it|i\s+see|alright|fine|haha+|lol)(?:[\s,!]+(?:job|work|bot|thanks?))*"),
]  # fmt: skip


# Show

_PAST_WORDS = "|".join(sorted(PAST, key=len, reverse=True))
_NOUNS = r"(?:(?:to-?do|task)\s+lists?|tasks?|to-?dos?|to\s+do(?:s|\s+list)?|lists?|items|things|stuff|reminders|agenda|everything|all|entries|plate|schedule)"
_STATES = r"(?:left|remaining|pending|outstanding|open|done|completed?|finished|due|overdue|late|unfinished|urgent|important|still|to\s+do)"
_DONE = re.compile(
    r"\b(?:done|completed?|finished|accomplished|ticked\s+off|checked\s+off|crossed\s+off|got\s+done|achieved)\b", _I
)
_NOT_DONE = re.compile(
    r"\b(?:open|left|remaining|remains|pending|outstanding|still|unfinished|incomplete|uncompleted|undone|active|due|overdue|late|next|need|have\s+to|supposed|should|must|plate|agenda"
    r"|(?:not|haven't|hasn't|isn't|aren't|to\s+be|yet\s+to\s+be)\s+(?:\w+\s+)?(?:done|completed?|finished)|to\s+do(?!\s+list)(?!s)|do\s+(?:today|tomorrow|now|this|on))\b",
    _I,
)
_ABOUT = re.compile(
    r"\b(?:anything|something|tasks?|to-?dos?|items?|things?)\s+(?:about|with|containing|mentioning|related\s+to|regarding|involving)\s+(?:the\s+)?(?P<about>.+)$",
    _I,
)


def _show(match: re.Match[str], today: date) -> Intent:
    text = match.string
    overdue = re.search(r"\b(?:overdue|late|past\s+due|past\s+their)\b", text, _I)
    about = _ABOUT.search(text)
    due_from, due_to = (None, today - timedelta(days=1)) if overdue else _interval("" if about else text, today)
    status = _status(text)
    if due_to and status is Status.ALL:
        status = Status.OPEN
    return Show(status, due_from, due_to, _priority_filter(text), about["about"].strip() if about else "")


def _status(text: str) -> Status:
    if _NOT_DONE.search(text):
        return Status.OPEN
    return Status.DONE if _DONE.search(text) else Status.ALL


def _priority_filter(text: str) -> Priority | None:
    if match := re.search(r"\b(high|top|low|normal|medium)[\s-]priority\b|\b(urgent|important)\b", text, _I):
        return items.priority_of(match[0])
    return None


def _interval(text: str, today: date) -> tuple[date | None, date | None]:
    """The days asked about. "Today" includes what is overdue: it has to be done too."""
    if re.search(r"\b(?:today|tonight)\b", text, _I):
        return None, today
    monday = today - timedelta(days=today.weekday())
    if match := re.search(r"\b(?P<which>this|next|the)\s+(?:coming\s+)?week\b", text, _I):
        start = monday + timedelta(days=7) if match["which"].lower() == "next" else today
        return start, (start - timedelta(days=start.weekday())) + timedelta(days=6)
    if found := dates.find(text, today):
        by = re.match(r"(?:due\s+)?(?:by|until|till|before)\b", text[found.start :].strip(), _I)
        return None if by else found.day, found.day
    return None, None


def _show_one(match: re.Match[str], _today: date) -> Intent:
    return Show(about=_about_text(match["about"]))


def _whether_done(match: re.Match[str], today: date) -> Intent | None:
    """ "did I pay the rent?"."""
    verb = match["verb"].lower()
    return _show_one(match, today) if verb in ERRANDS or verb in PAST else None


def _about_text(text: str) -> str:
    """The words of a reference, to look for in a list."""
    ref = references.read(text)
    return ref.text if isinstance(ref, Named) else ""


def _rule(pattern: str, build: Callable[[re.Match[str], date], Intent | None]) -> _Rule:
    return re.compile(rf"^(?:{pattern})$", _I | re.DOTALL), build


_SHOW: list[_Rule] = [
    _rule(rf"(?:list|show|display|see|view|read|print|get|give|tell|pull\s+up|bring\s+up|check|look\s+at|go\s+over|run\s+through|recap|know|open)\b(?!\s+off\b).*\b(?:{_NOUNS}|{_STATES})\b.*", _show),
    _rule(rf"(?:what|what's|whats|which|how's|how\s+is|how\s+many|how\s+much|do\s+(?:i|we)|have\s+(?:i|we)|is\s+(?:there|anything)|are\s+there|anything|any|am\s+i|is\s+everything)\b.*\b(?:{_NOUNS}|{_STATES}|next)\b.*", _show),
    _rule(r"what(?:'s|\s+is|\s+do|\s+am|\s+have|\s+did|\s+should|\s+must|\s+are|\s+else)?\s+(?:(?:i|we|else|my)\b.*\b(?:do|doing|get\s+done|finish(?:ed)?|complete[d]?|planned?|plans|up|accomplish(?:ed)?)\b|(?:up|on|planned|coming\s+up|for|happening)\b).*", _show),
    _rule(rf"(?:(?:my|the|all|open|done|completed|finished|remaining|pending|overdue|urgent|current|whole|full|high[\s-]priority|low[\s-]priority|today's)\s+)*{_NOUNS}(?:\s+(?:so\s+far|for\s+(?:today|tomorrow|this\s+week)|today|tomorrow|left|again))*", _show),
    _rule(r"(?:do|have|is|are|show|find|list|search|look)\b.*\b(?:anything|something|tasks?|to-?dos?|items?)\s+(?:about|with|containing|mentioning|regarding)\s+.+", _show),
    _rule(r"(?:search|find|look)\s+(?:for\s+)?(?P<about>.+)", _show_one),
    _rule(r"remind\s+me\s+(?:what|which|of\s+(?:my|the)\s+(?:tasks|list|to-?dos))\b.*", _show),
    _rule(r"(?:list|show|overdue|open|agenda|status|summary|overview|list\s+(?:them|it)|show\s+(?:me\s+)?(?:them|it))(?:\s+again)?", _show),
]  # fmt: skip
_QUESTIONS: list[_Rule] = [
    _rule(rf"(?:is|are|was)\s+(?!there\b|anything\b|everything\b|it\b|that\b|this\b)(?P<about>.+?)\s+(?:done|finished|complete[d]?|ready|open|{_PAST_WORDS}|still\s+\w+|(?:still\s+)?on\s+(?:my|the)\s+(?:to-?do\s+)?list|due)(?:\s+(?:yet|already))?", _show_one),
    _rule(r"(?:did|have)\s+i\s+(?:already\s+)?(?:do|done|finish(?:ed)?|complete[d]?|add(?:ed)?)\s+(?!anything|everything|all\b|so\b|today|yet)(?P<about>.+?)(?:\s+(?:yet|already))?", _show_one),
    _rule(r"(?:did|have)\s+i\s+(?:already\s+|ever\s+)?(?P<verb>[a-z]+)(?:\s+up)?\s+(?P<about>.+?)(?:\s+(?:yet|already))?", _whether_done),
    _rule(r"when(?:'s|\s+is|\s+was)\s+(?P<about>.+?)\s+due", _show_one),
    _rule(r"when\s+(?:do|must|should)\s+i\s+(?:have\s+to\s+|need\s+to\s+)?(?P<about>.+)", _show_one),
]  # fmt: skip


# Update

_REF = r"(?P<ref>.+?)"
_STATEMENT = r"(?!(?:what|which|who|when|how|is|are|do|does|anything|something|nothing|add|new|create|remind|to-?do|task\s*:|put|show|list|see|delete|remove|clear|drop|erase|get)\b)"
_DATE_NAME = r"(?:due\s+date|deadline|due|date)"
_NOTE_NAME = r"(?:description|notes?|comment|details?|info)"


def _change_of(what: str, value: str, today: date) -> Changes | None:
    value = value.strip(" \"'.")
    if what in {"title", "name", "text", "wording"}:
        return Changes(title=value)
    if what == "priority":
        priority = items.priority_of(value)
        return Changes(priority=priority) if priority else None
    if what.startswith(("due", "deadline", "date")):
        day = dates.whole(value, today)
        return Changes(due=day) if day else None
    return Changes(description=value)


def _named_change(match: re.Match[str], today: date) -> Intent | None:
    changes = _change_of(" ".join(match["what"].lower().split()), match["value"], today)
    if changes is None or match["ref"].lower() in {"a", "an", "another"}:
        return None  # "make a note to …" adds
    return Update(references.read(match["ref"]), changes)


def _rename(match: re.Match[str], _today: date) -> Intent:
    return Update(references.read(match["ref"]), Changes(title=match["value"].strip(" \"'.")))


def _describe(match: re.Match[str], _today: date) -> Intent:
    return Update(references.read(match["ref"]), Changes(description=match["value"].strip(" \"'")))


def _change_to(match: re.Match[str], today: date) -> Intent:
    """ "change X to Y": Y says whether it is a date, a priority, a state or a title."""
    ref, value = references.read(match["ref"]), match["value"]
    if re.fullmatch(r"(?:done|completed?|finished)", value, _I):
        return Complete(ref)
    if re.fullmatch(r"(?:open|not\s+done|undone|incomplete|pending)", value, _I):
        return Reopen(ref)
    day = dates.whole(value, today)
    priority = None if day else items.priority_of(value)
    if day or priority:
        return Update(ref, Changes(due=day, priority=priority))
    return Update(ref, Changes(title=value.strip(" \"'.")))


def _shift(match: re.Match[str], _today: date) -> Intent:
    days = dates.days_of(match["count"], match["unit"])
    earlier = re.search(r"\b(?:forward|earlier|ahead)\b|^bring\b", match.string, _I)
    return Update(references.read(match["ref"]), Changes(shift_days=-days if earlier else days))


def _move(match: re.Match[str], today: date) -> Intent | None:
    """ "move X to Friday", with any wording between the two as long as a date ends the sentence."""
    rest = match["rest"].removesuffix(" instead")
    found = dates.at_end(rest, today)
    if found is None:
        return None
    before = re.sub(
        rf"(?:\s+(?:back|forward|out|off|up|to|until|till|for|on|by|so\s+(?:that\s+)?it\s+is|to\s+be|a|the|{_DATE_NAME}|of|from\s+\w+))+$",
        "",
        rest[: found.start].rstrip(" ,"),
        flags=_I,
    )
    before = re.sub(rf"^(?:the\s+)?{_DATE_NAME}\s+(?:of|for|on)\s+", "", before, flags=_I)
    owner = re.fullmatch(rf"(?P<owner>.+?)(?:'s)?\s+{_DATE_NAME}", before, _I)
    ref = references.read(owner["owner"] if owner else before)
    if not before or (
        isinstance(ref, Named)
        and match["verb"].lower() in {"schedule", "plan"}
        and not before.lower().startswith("the ")
    ):
        return None  # "schedule dentist for Friday" adds
    if match["verb"].lower() in {"set", "make"} and re.search(r"\b(?:reminders?|tasks?\s+(?:to|for))\b", before, _I):
        return None  # "set a reminder for …" adds
    return Update(ref, Changes(due=found.day))


def _due(match: re.Match[str], today: date) -> Intent | None:
    day = dates.whole(match["date"], today)
    return Update(references.read(match["ref"]), Changes(due=day)) if day else None


def _prioritise(match: re.Match[str], _today: date) -> Intent | None:
    priority = items.priority_of(match["value"])
    return Update(references.read(match["ref"]), Changes(priority=priority)) if priority else None


def _mark_priority(match: re.Match[str], _today: date) -> Intent | None:
    if re.search(r"\bon\s+(?:my|the)\s+.*list\b", match["ref"], _I):
        return None  # "put X on my list with high priority" adds
    return Update(references.read(match["ref"]), Changes(priority=_said_priority(match["value"])))


def _raise_or_lower(match: re.Match[str], _today: date) -> Intent:
    lower = match["verb"].lower() in {"lower", "reduce", "decrease", "drop"}
    return Update(references.read(match["ref"]), Changes(priority=Priority.LOW if lower else Priority.HIGH))


def _lower(match: re.Match[str], _today: date) -> Intent:
    return Update(references.read(match["ref"]), Changes(priority=Priority.LOW))


def _not_yet(match: re.Match[str], _today: date) -> Intent | None:
    """ "I haven't bought the milk"."""
    verb = match["verb"].lower()
    if verb not in PAST and not verb.endswith("ed"):
        return None
    return Reopen(references.read(match["ref"], "" if verb in {"finished", "completed", "done"} else verb))


def _reopen(match: re.Match[str], _today: date) -> Intent:
    return Reopen(references.read(match["ref"]))


def _vague(match: re.Match[str], _today: date) -> Intent:
    return Update(references.read(match["ref"]))


_UPDATE: list[_Rule] = [
    (re.compile(rf"^(?:remove|delete|clear|drop|take\s+away|unset)\s+(?:the\s+)?(?:{_DATE_NAME}|priority|{_NOTE_NAME})\s+(?:of|from|for|on)\s+.+$", _I), lambda _m, _t: Talk(Topic.CLEARING)),
    _rule(rf"add\s+(?:(?:a|the|this|another|some)\s+)?{_NOTE_NAME}\s+\"(?P<value>.+)\"\s+(?:to|on|for)\s+{_REF}", _describe),
    _rule(rf"(?:add|put|leave|attach)\s+(?:(?:a|the|this|another|some)\s+)?{_NOTE_NAME}\s+(?:to|on|for)\s+{_REF}\s*(?::|\bthat\s+says\b|\bsaying\b|,|\s-|\bthat\b)\s*(?P<value>.+)", _describe),
    _rule(rf"(?:add|append)\s+\"?(?P<value>.+?)\"?\s+(?:to|as)\s+(?:the\s+)?{_NOTE_NAME}\s+(?:of|for|on)\s+{_REF}", _describe),
    _rule(rf"describe\s+{_REF}\s+as\s+(?P<value>.+)", _describe),
    _rule(rf"{_NOTE_NAME}\s+(?:on|for|of)\s+{_REF}\s*:\s*(?P<value>.+)", _describe),
    _rule(rf"rename\s+{_REF}\s+(?:to|as|into|-+>|=>)\s+(?P<value>.+)", _rename),
    _rule(rf"{_REF}\s+should\s+(?:rather\s+)?(?:be\s+(?:called|named|titled)|say|read)\s+(?P<value>.+)", _rename),
    _rule(r"call\s+(?P<ref>it|that|this|(?:that|this)\s+one|(?:task|number)\s+\d+|the\s+\w+\s+(?:one|task))\s+(?P<value>.+?)(?:\s+instead)?", _rename),
    _rule(rf"(?:replace|swap)\s+{_REF}\s+(?:with|by|for)\s+(?P<value>.+)", _rename),
    _rule(rf"(?:change|set|edit|update|make|put|move|switch)\s+(?:the\s+)?(?P<what>name|title|text|wording|{_DATE_NAME}|priority|{_NOTE_NAME})\s+(?:of|for|on)\s+{_REF}\s+(?:to|into|at|as|:)\s*(?P<value>.+)", _named_change),
    _rule(rf"(?:change|set|edit|update|make|put|move|switch)\s+{_REF}(?:'s)?\s+(?P<what>name|title|text|wording|{_DATE_NAME}|priority|{_NOTE_NAME})\s+(?:to|into|at|as|:)\s*(?P<value>.+)", _named_change),
    _rule(rf"(?:the\s+)?(?P<what>name|title|{_DATE_NAME}|priority|{_NOTE_NAME})\s+(?:of|for|on)\s+{_REF}\s+(?:is|should\s+be|has\s+to\s+be|must\s+be)(?:\s+now)?\s+(?P<value>.+)", _named_change),
    _rule(rf"(?:give|add|put)\s+{_REF}\s+(?:a\s+|the\s+)?(?:due\s+date|deadline)\s+(?:of\s+|on\s+|for\s+)?(?P<date>.+)", _due),
    _rule(rf"(?:add|set|put|give)\s+(?:a|the)\s+(?:due\s+date|deadline)\s+(?:of\s+|on\s+)?(?P<date>.+?)\s+(?:to|on|for)\s+{_REF}", _due),
    _rule(rf"(?:give)\s+{_REF}\s+(?:a\s+)?(?P<value>(?:high|low|top|normal)(?:er)?\s+priority)", _prioritise),
    _rule(rf"(?:raise|increase|bump(?:\s+up)?|lower|reduce|decrease)\s+(?:the\s+)?priority\s+(?:of|for|on)\s+{_REF}".replace("(?:raise|", "(?P<verb>raise|", 1), _raise_or_lower),
    _rule(rf"(?P<verb>prioriti[sz]e)\s+{_REF}", _raise_or_lower),
    _rule(rf"(?:move|push|postpone|shift|delay|bring|defer|put\s+off|extend|reschedule)\s+{_REF}\s+(?:back\s+|forward\s+|out\s+|off\s+)?(?:by\s+)?(?P<count>{dates.COUNT})\s+(?:more\s+)?(?P<unit>day|week|month)s?(?:\s+(?:later|earlier|back|forward|ahead))?", _shift),
    _rule(r"(?P<verb>move|push|postpone|reschedule|shift|delay|bring|defer|put\s+off|schedule|plan|set|change|make|extend|update|snooze)\s+(?P<rest>.+)", _move),
    _rule(rf"{_STATEMENT}{_REF}\s*(?:\s(?:is|are|was)|'s)\s+(?:now\s+|actually\s+|only\s+)?(?P<date>due\s+.+)", _due),
    _rule(rf"{_REF}\s+(?:has\s+to|should|needs?\s+to|must|can)\s+(?:be\s+(?:done|finished|ready|completed)|wait)\s+(?P<date>(?:by|until|till|on|before)\s+.+)", _due),
    _rule(rf"(?:make|mark|set|flag|change|treat|consider|put)\s+{_REF}\s+(?P<value>(?:(?:as|to|a|at|with|of|very|really)\s+)*(?:(?:high|top|highest|low|lowest|normal|medium|regular)(?:[\s-]priority)?|priority\s+\w+|urgent|important|critical|not\s+(?:so\s+|that\s+)?(?:urgent|important)))",
          _mark_priority),
    _rule(rf"{_STATEMENT}{_REF}\s*(?:\s(?:is|are)|'s)\s+(?:now\s+|actually\s+)?(?:really\s+|very\s+|super\s+)?(?P<value>(?:high|top|low|normal)[\s-]priority|urgent|important|critical|not\s+(?:so\s+|that\s+)?(?:urgent|important))", _prioritise),
    _rule(rf"{_STATEMENT}{_REF}\s+(?:isn't|aren't)\s+(?:so\s+|that\s+|really\s+|very\s+)?(?:urgent|important)(?:\s+any\s*more)?", _lower),
    _rule(rf"(?:reopen|re-open|uncheck|untick|unmark|undo|reactivate|restore)\s+{_REF}", _reopen),
    _rule(rf"(?:mark|set|flag)\s+{_REF}\s+(?:as\s+|back\s+(?:as\s+|to\s+)?|to\s+)?(?:not\s+(?:yet\s+)?(?:done|complete|completed|finished)|undone|open(?:\s+again)?|incomplete|unfinished|to\s+do|pending)", _reopen),
    _rule(rf"{_REF}\s*(?:\s(?:is|are|was|were)\s*(?:not|n't)|\s?(?:isn't|aren't|wasn't|is\s+not))\s+(?:really\s+|actually\s+|yet\s+)?(?:done|finished|complete|completed)(?:\s+(?:yet|after\s+all))?", _reopen),
    _rule(rf"i\s+(?:haven't|have\s+not)\s+(?:actually\s+|really\s+|yet\s+)*(?P<verb>[a-z]+)\s+{_REF}(?:\s+(?:yet|after\s+all))?", _not_yet),
    _rule(rf"i\s+(?:did\s+not|didn't)\s+(?:actually\s+|really\s+|yet\s+)*(?:finish|complete|do|get\s+to)\s+{_REF}(?:\s+(?:yet|after\s+all))?", _reopen),
    _rule(rf"put\s+{_REF}\s+back(?:\s+(?:on|to|onto)\s+(?:my|the)\s+(?:to-?do\s+)?list)?", _reopen),
    _rule(rf"(?:change|edit|update|turn|switch)\s+{_REF}\s+(?:to|into)\s+(?P<value>.+)", _change_to),
    _rule(rf"(?:update|edit|change)\s+{_REF}\s*:\s+(?P<value>.+)", _change_to),
    _rule(rf"(?:update|edit|change|modify)\s+{_REF}", _vague),
]  # fmt: skip


def _said_priority(text: str) -> Priority | None:
    return items.priority_of(re.sub(r"^(?:(?:as|to|a|at|with|of)\s+)+", "", text, flags=_I))


# Complete

_FINISHED = r"(?:done|completed?|finished|closed|accomplished|ticked\s+off|checked\s+off)"
_WHEN = r"(?:\s+(?:today|already|yesterday|this\s+(?:morning|afternoon|evening)|last\s+night|now|earlier|just\s+now|a\s+(?:minute|moment)\s+ago|again))?"
_SOFT = r"(?:(?:just|already|finally|now|also|actually|even|successfully|have)\s+)*"


def _complete(match: re.Match[str], _today: date) -> Intent | None:
    words = match["ref"].strip()
    if re.fullmatch(r"(?:i|we|you|what|that's\s+it|well|all|almost|half)", words, _I):
        return None
    return Complete(references.read(words))


def _reported(match: re.Match[str], _today: date) -> Intent | None:
    """ "I bought the milk": the verb is a report if it is a past form; it may be in the title too."""
    verb = match["verb"].lower()
    if verb in NOT_REPORTS or (verb not in PAST and not verb.endswith("ed")):
        return None
    ref = match["ref"]
    weak = "subject" in match.re.groupindex and not match["subject"]
    if verb in {"finished", "completed", "done", "did"}:
        return Complete(references.read(ref), weak)
    place = references.read(ref)
    return Complete(place if isinstance(place, It) else Named(_bare_object(ref), verb), weak)


def _bare_object(text: str) -> str:
    ref = references.read(text)
    return ref.text if isinstance(ref, Named) else text


_COMPLETE: list[_Rule] = [
    _rule(rf"(?:mark|set|flag|tick|check|count|put|make)\s+{_REF}\s+(?:off\s+)?(?:as\s+|to\s+|off\s+as\s+)?{_FINISHED}", _complete),
    _rule(rf"mark\s+(?:as\s+)?{_FINISHED}\s*:?\s+{_REF}", _complete),
    _rule(rf"(?:check|tick|cross|strike|scratch|knock)\s+off\s+{_REF}", _complete),
    _rule(rf"(?:check|tick|cross|strike|scratch|knock)\s+{_REF}\s+(?:off|out)(?:\s+(?:of\s+|from\s+)?(?:my|the)\s+(?:to-?do\s+)?list)?", _complete),
    _rule(rf"(?:complete|finish|close|tick|resolve|check)\s+(?!tasks?$|off\b|my\s+list|the\s+list){_REF}", _complete),
    _rule(rf"(?:i'm|i\s+am|im|we're|we\s+are)?\s*(?:all\s+|already\s+|just\s+|finally\s+)*(?:done|finished|through)\s+with\s+{_REF}{_WHEN}", _complete),
    _rule(r"(?:i'm\s+)?(?:done|finished|completed)", lambda _match, _today: Complete(It())),
    _rule(rf"{_FINISHED}\s*:\s*{_REF}", _complete),
    _rule(rf"(?:done|finished|completed)\s+(?!tasks?$|items?$|ones?$|to-?dos?$|list$|today$|so\s+far$){_REF}{_WHEN}", _complete),
    _rule(rf"{_STATEMENT}(?!(?:did|i|we|get|need|want)\b)(?!.*\b(?:need|want|have)s?\s+to\b){_REF}\s*(?:\s(?:is|are|was|were|has\s+been|have\s+been|got|gets)|'s)\s+(?:all\s+|now\s+|already\s+|finally\s+|both\s+)*(?:{_FINISHED}|ready|{_PAST_WORDS}|taken\s+care\s+of|sorted|handled|over\s+with){_WHEN}", _complete),
    _rule(rf"(?!(?:what|which|how|show|list|get|all|my|i|we)\b){_REF}[\s:,-]+(?:done|completed|finished|✓|✔|✅){_WHEN}", _complete),
    _rule(r"(?P<subject>i|we)(?:'ve|\s+have|\s*ve)?\s+" + _SOFT + rf"(?P<verb>[a-z]+)(?:\s+(?:up|out|off|back|in|for|with|to))?\s+{_REF}{_WHEN}", _reported),
    _rule(rf"{_SOFT}(?P<subject>)(?P<verb>[a-z]+)(?!\s+(?:i|you|we)\b)(?:\s+(?:up|out|off|back|in|for|with|to))?\s+{_REF}{_WHEN}", _reported),
]  # fmt: skip


# Delete

_FROM_LIST = r"(?:\s+(?:from|off(?:\s+of)?|on|in)\s+(?:my|the|this)\s+(?:to-?do\s+|task\s+)?list)?"


def _delete(match: re.Match[str], _today: date) -> Intent:
    ref = references.read(match["ref"])
    if (
        match["verb"].lower() == "clear"
        and isinstance(ref, Named)
        and re.fullmatch(r"(?:to-?do\s+)?(?:list|tasks)", ref.text, _I)
    ):
        ref = Everything()
    return Delete(ref)


def _delete_ref(match: re.Match[str], _today: date) -> Intent:
    return Delete(references.read(match["ref"]))


_DELETE: list[_Rule] = [
    _rule(rf"(?P<verb>delete|remove|drop|scrap|erase|discard|ditch|cancel|purge|get\s+rid\s+of|throw\s+(?:out|away)|forget\s+about|clear(?:\s+out)?|wipe|strike|kill)\s+{_REF}{_FROM_LIST}", _delete),
    _rule(rf"(?:take|get)\s+{_REF}\s+off(?:\s+of)?(?:\s+(?:my|the)\s+(?:to-?do\s+)?list)?", _delete_ref),
    _rule(rf"(?:i|we)\s+(?:don't|do\s+not|no\s+longer|won't)\s+(?:actually\s+)?(?:need|want|have)(?:\s+to)?\s+{_REF}(?:\s+(?:anymore|any\s+more|any\s+longer|after\s+all|now))?", _delete_ref),
    _rule(rf"{_REF}\s+(?:is|are)\s+(?:no\s+longer|not)\s+(?:needed|necessary|relevant|required)(?:\s+(?:anymore|any\s+more))?", _delete_ref),
]  # fmt: skip


# Add

_TASK_NOUN = r"(?P<noun>tasks?|to-?dos?|to\s+do(?:s|\s+items?)?|items?|reminders?|things?|entry|entries)"
_ADJECTIVES = r"(?P<adjectives>(?:(?:me|a|an|another|one|more|the|some|my|these|those|following|new|few|couple|of|next|\d{1,2}|two|three|four|five|urgent|important|quick|(?:high|low|top|normal|medium)[\s-]priority)\s+)*)"
_LIST_NAME = (
    r"(?:(?:my|the|our|this)\s+)?(?:(?:to-?do|task|shopping|grocery|to\s+do)\s+)?(?:list|to-?dos?|tasks|agenda)"
)


def _add_noun(match: re.Match[str], today: date) -> Intent:
    """ "add a task: …", "create two reminders: …": the noun's number says whether the body is a list."""
    plural = match["noun"].lower().endswith("s") or re.search(r"\b(?:these|following)\b", match["adjectives"], _I)
    body = match["body"].strip()
    if (plural and (":" in match[0] or match["adjectives"].strip())) or items.is_listing(body):
        listed = items.read_list(body, today)
    else:
        listed = (items.read(body, today),)
    urgent = _priority_filter(match["adjectives"])
    return Add(tuple(replace(item, priority=item.priority or urgent) for item in listed) or (NewTask(""),))


def _add_body(match: re.Match[str], today: date) -> Intent | None:
    body = match["body"].strip()
    if tail := match.groupdict().get("tail"):
        body = f"{body} {tail.strip()}"
    if items.is_listing(body):
        return Add(items.read_list(body, today))
    quoted = re.fullmatch(r"\"[^\"]+\"(?:\s*(?:,|and|,\s*and)\s*\"[^\"]+\")+", body)
    if quoted:
        return Add(tuple(items.read(part, today) for part in re.findall(r"\"[^\"]+\"", body)))
    return Add((items.read(body, today),))


def _add_dated(match: re.Match[str], today: date) -> Intent | None:
    """ "I have a dentist appointment on Friday" is a task only with its day."""
    item = items.read(match["body"], today)
    return Add((item,)) if item.due and item.title else None


def _add_when_first(match: re.Match[str], today: date) -> Intent | None:
    """ "Tomorrow I need to call mom"."""
    day = dates.whole(match["date"], today)
    return Add((replace(items.read(match["body"], today), due=day),)) if day else None


def _add_bare(match: re.Match[str], today: date) -> Intent | None:
    """ "call mom", "read the contract on Friday": a to-do without any command word. "write a poem" is none."""
    verb, item = match["verb"].lower(), items.read(match[0], today)
    return Add((item,), weak=True) if verb in ERRANDS or (item.due and verb in TO_DO_VERBS) else None


_ADD_PLAIN: list[_Rule] = [
    _rule(r"add\s+(?:another(?:\s+one)?|one\s+more)\s*:\s*(?P<body>.+)", _add_body),
    _rule(rf"(?:add|create|insert|enter|include|append|put(?:\s+in)?|make|start|set(?:\s+up)?|new|open|log|note\s+down|write\s+down|jot\s+down|record|track|give|set\s+me)\s+{_ADJECTIVES}{_TASK_NOUN}\b(?:\s+(?:to|on|onto|in)\s+{_LIST_NAME})?\s*(?::|-|,)?\s*(?:(?:called|named|titled|saying|that\s+says|with\s+the\s+title|to|for|about|of|that)\b)?\s*:?\s*(?P<body>.*)", _add_noun),
    _rule(r"(?P<adjectives>(?:(?:new|another)\s+)?)(?P<noun>task|to-?do|reminder|todo\s+item)\s*(?::|-)\s*(?P<body>.+)", _add_noun),
    _rule(rf"(?:add|put|stick|throw|get|place|jot|write|include|append|insert|log|note|have)\s+(?P<body>.+?)\s+(?:down\s+)?(?:to|on|onto|in|into)\s+{_LIST_NAME}(?!\s+of\b)(?P<tail>\b.*)", _add_body),
    _rule(r"add\s+to\s+(?:my|the)\s+(?:to-?do\s+)?(?:list|tasks|to-?dos)\s*:?\s*(?P<body>.+)", _add_body),
    _rule(r"(?:add|jot\s+down|write\s+down|note\s+down|put\s+down|append|insert)\s*:?\s+(?!up\b)(?P<body>.+)", _add_body),
    _rule(r"(?:schedule|plan)\s+(?P<body>.+)", _add_body),
    _rule(r"(?!remind\s+me\s+(?:what|which|of\s+(?:my|the))\b)(?:remind\s+me|reminder|remember|don't\s+(?:let\s+me\s+)?forget|do\s+not\s+(?:let\s+me\s+)?forget|make\s+sure\s+(?:that\s+)?i(?:\s+don't\s+forget)?|note\s+to\s+self|(?:make|take)\s+a\s+note|note|memo)\b\s*(?::|-|,)?\s*(?:(?:to|about|that|of)\b)?\s*(?P<body>.+)", _add_body),
]  # fmt: skip
_DUTY = r"(?:need\s+to|have\s+to|must|should|gotta|got\s+to|ought\s+to|want\s+to|will\s+have\s+to|am\s+supposed\s+to|wanna|plan\s+to|'ll\s+have\s+to|'ve\s+got\s+to)"
_ADD_HINTED: list[_Rule] = [
    _rule(rf"(?:i|we)(?:'ve|\s+have)?\s*(?:(?:also|still|really|just|probably)\s+)*{_DUTY}\s+(?P<body>.+)", _add_body),
    _rule(r"(?:also\s+)?(?:need\s+to|have\s+to|gotta|must|got\s+to)\s+(?P<body>.+)", _add_body),
    _rule(rf"(?P<date>.+?),?\s+(?:i|we)(?:'ve)?\s*(?:also\s+|still\s+|really\s+)?{_DUTY}\s+(?P<body>.+)", _add_when_first),
    _rule(r"(?:i|we)\s+(?:also\s+|still\s+)?need\s+(?!help|you|advice|to\b|a\s+break)(?P<body>.+)", _add_body),
    _rule(r"(?:i|we)(?:\s+have|'ve\s+got|\s+got)\s+(?:(?:a|an|the|my)\s+)?(?P<body>.+)", _add_dated),
    _rule(r"(?:there's|there\s+is)\s+(?:a|an|the|my)\s+(?P<body>.+)", _add_dated),
    _rule(r"(?P<verb>[a-z]+)\s+(?!me\b).+", _add_bare),
]  # fmt: skip
