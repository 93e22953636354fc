"""What a sentence can mean: the vocabulary between the grammar and the dialogue."""

from dataclasses import dataclass
from datetime import date
from enum import StrEnum


class Status(StrEnum):
    ALL = "all"
    OPEN = "open"
    DONE = "done"


class Priority(StrEnum):
    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


# Which task is meant


@dataclass(frozen=True, slots=True)
class It:
    """ "it", "that one": the task spoken of last; `several` for "them" and "both"."""

    several: bool = False


@dataclass(frozen=True, slots=True)
class Numbers:
    """ "the first one", "2 and 3": places in the list shown last, from 1, or from the end: -1 is the last."""

    places: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Everything:
    """ "all of them", "my finished tasks"."""

    status: Status = Status.ALL


@dataclass(frozen=True, slots=True)
class Named:
    """ "the milk one": words of the title. `verb` is what was done ("I bought …"), which may be in the title."""

    text: str
    verb: str = ""


Ref = It | Numbers | Everything | Named


# What is wanted


@dataclass(frozen=True, slots=True)
class NewTask:
    title: str
    description: str = ""
    due: date | None = None
    priority: Priority | None = None


@dataclass(frozen=True, slots=True)
class Add:
    """Add these tasks. One without a title: the title has to be asked for.

    `weak` where only the form speaks for it ("call mom on Friday"): as an answer to a question it is something else.
    """

    items: tuple[NewTask, ...]
    weak: bool = False


@dataclass(frozen=True, slots=True)
class Show:
    """List tasks: of a status, due in an interval of days, of a priority, with a word in the title."""

    status: Status = Status.ALL
    due_from: date | None = None
    due_to: date | None = None
    priority: Priority | None = None
    about: str = ""


@dataclass(frozen=True, slots=True)
class Complete:
    ref: Ref
    weak: bool = False


@dataclass(frozen=True, slots=True)
class Reopen:
    ref: Ref


@dataclass(frozen=True, slots=True)
class Delete:
    ref: Ref
    confirmed: bool = False


@dataclass(frozen=True, slots=True)
class Changes:
    """What to change; None stays as it is. `shift_days` moves the due date by so many days."""

    title: str | None = None
    description: str | None = None
    due: date | None = None
    shift_days: int | None = None
    priority: Priority | None = None


@dataclass(frozen=True, slots=True)
class Update:
    """Change a task. Without any change: what to change has to be asked for."""

    ref: Ref
    changes: Changes = Changes()


@dataclass(frozen=True, slots=True)
class UseTool:
    """ "call the tool NAME with {…}": any offered tool, by name. `arguments` is JSON text."""

    name: str
    arguments: str


class Topic(StrEnum):
    GREETING = "greeting"
    WELLBEING = "wellbeing"
    THANKS = "thanks"
    PRAISE = "praise"
    GOODBYE = "goodbye"
    IDENTITY = "identity"
    HELP = "help"
    TODAY = "today"
    MESSAGES_COUNT = "messages_count"
    MESSAGE_FIRST = "message_first"
    MESSAGE_BEFORE = "message_before"
    CLEARING = "clearing"  # taking a due date, a priority or a description away: no tool does it
    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Talk:
    topic: Topic


Intent = Add | Show | Complete | Reopen | Delete | Update | UseTool | Talk
