"""Where the local stack keeps things, and which account its servers run under."""

import os
import pwd
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from deploy.local.process import Account

ROOT = Path(__file__).resolve().parents[2]
_PLAIN = re.compile(r"[\w/.+@%-]+", re.ASCII)  # RabbitMQ's scripts do not quote, a library path splits at colons


@dataclass(frozen=True)
class Places:
    """The folders of one checkout. Everything is below `.local`, but for `servers` where that cannot be (see there)."""

    root: Path
    account: Account | None  # what servers that refuse root run under; None when we are not root

    @classmethod
    def of(cls, root: Path = ROOT) -> "Places":
        places = cls(root, _server_account())
        places.local.mkdir(exist_ok=True)
        return places

    @property
    def local(self) -> Path:
        return self.root / ".local"

    @property
    def logs(self) -> Path:
        return self.local / "logs"

    @property
    def run(self) -> Path:
        return self.local / "run"

    @property
    def tools(self) -> Path:
        return self.local / "tools"

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"

    @property
    def servers(self) -> Path:
        """The folder for programs and data of Postgres and RabbitMQ, made when it is missing.

        It is `.local/servers`, unless the servers cannot work there: we are root, they run under another account, and
        that account may not enter the checkout (`/root` is usually closed); or RabbitMQ's scripts choke on the path.
        Then it is a folder under /var/tmp that `.local/servers-at` names.
        """
        inside = self.local / "servers"
        if _PLAIN.fullmatch(str(inside)) and (self.account is None or _everyone_may_enter(self.root)):
            return _made(inside)
        pointer = self.local / "servers-at"
        if not pointer.exists():
            pointer.write_text(tempfile.mkdtemp(prefix="parley-", dir="/var/tmp"))
        return _made(Path(pointer.read_text()))

    @property
    def outside(self) -> Path | None:
        """The folder outside the checkout that `servers` uses, if it does."""
        pointer = self.local / "servers-at"
        return Path(pointer.read_text()) if pointer.exists() else None


def _made(folder: Path) -> Path:
    for each in (folder.parent, folder):
        if not each.exists() or each.name in {".local", folder.name}:
            each.mkdir(exist_ok=True)
            each.chmod(each.stat().st_mode | 0o711)  # whatever the umask says: the servers' account passes through
    return folder


def _everyone_may_enter(folder: Path) -> bool:
    return all(each.stat().st_mode & 0o001 for each in (folder, *folder.parents))


def _server_account() -> Account | None:
    """None for an ordinary user; for root the account `postgres`, or `nobody` where no Postgres was ever installed."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    return None
