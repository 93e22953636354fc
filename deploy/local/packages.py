"""Debian and Ubuntu packages, unpacked into a folder instead of installed: no root, and the system stays as it is."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from deploy.local import process
from deploy.local.terminal import Failure, last_line, say

# Needed for the packages' installation or for optional parts (just-in-time compilation), but not by the servers.
_SKIPPED = re.compile(
    r"libllvm|libz3|lib.*-perl$|perl|libperl|adduser|cron|dbus|debconf|init-system|libpam-|libproc|libsystemd-|locales"
    r"|libc-|libc6|logrotate|libpopt|netbase|postgresql-(client-)?common|postgresql$|postgresql-contrib$|procps|sensible|socat"
    r"|libwrap|ssl-cert|systemd|tzdata|ucf|psmisc|lsb-base|sysvinit"
)
_LISTED = re.compile(r"^'[^']+' (?P<name>[^_]+)_(?P<version>[^_]+)_[^_]+\.deb (?P<bytes>\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Package:
    name: str
    version: str
    size_bytes: int


@dataclass(frozen=True)
class Unpacked:
    """A folder with the files of unpacked packages, laid out as below `/`."""

    folder: Path

    def holds(self, package: str) -> bool:
        return package in self._names()

    @property
    def loader_path(self) -> str:
        """Where the dynamic linker finds the unpacked libraries."""
        return ":".join(str(path) for path in sorted(self.folder.glob("usr/lib/*-linux-*")))

    def add(self, packages: Sequence[str]) -> None:
        """Fetch `packages` with everything that they need and this system lacks, and unpack it here.

        Raises Failure when a package source does not answer or does not have them.
        """
        scratch = self.folder.with_name("packages.new")
        shutil.rmtree(scratch, ignore_errors=True)
        apt = _Apt.at(scratch)
        wanted = list(needed(apt.listing_of(packages)))
        megabytes = sum(package.size_bytes for package in wanted) // 1_000_000
        say("packages", f"fetching {', '.join(packages)}: {len(wanted)} packages, {megabytes} MB")
        with ThreadPoolExecutor(max_workers=2) as pool:
            list(pool.map(self._unpack, apt.download([f"{each.name}={each.version}" for each in wanted])))
        for script in self._erlang_scripts():
            rewrite_erlang_root(script, self.folder / "usr/lib/erlang")
        self._record(packages)
        shutil.rmtree(scratch)
        say("packages", "unpacked")

    def add_alone(self, package: str) -> None:
        """Fetch and unpack `package` without anything that it depends on: enough for a program that is one file.

        Raises Failure as `add` does.
        """
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = self.folder.with_name(f"{self.folder.name}.new")
        shutil.rmtree(scratch, ignore_errors=True)
        apt = _Apt.at(scratch)
        say("packages", f"fetching {package}")
        apt.update()
        for archive in apt.download([package]):
            self._unpack(archive)
        shutil.rmtree(scratch)

    def _unpack(self, archive: Path) -> None:
        self.folder.mkdir(exist_ok=True)
        done = process.run(["dpkg-deb", "-x", archive, self.folder], environment=os.environ, directory=archive.parent)
        if done.returncode:
            raise Failure(f"could not unpack {archive.name}: {last_line(done.stdout)}")

    def _erlang_scripts(self) -> Iterator[Path]:
        yield from self.folder.glob("usr/lib/erlang/bin/erl")
        yield from self.folder.glob("usr/lib/erlang/erts-*/bin/erl")

    def _names(self) -> list[str]:
        record = self.folder / "unpacked"
        return record.read_text().split() if record.exists() else []

    def _record(self, packages: Iterable[str]) -> None:
        (self.folder / "unpacked").write_text("\n".join(sorted({*self._names(), *packages})) + "\n")


def are_available() -> bool:
    """Whether this system has Debian packages at all."""
    return all(shutil.which(tool) for tool in ("apt-get", "dpkg-deb"))


def needed(listing: str) -> Iterator[Package]:
    """The packages of an `apt-get install --print-uris` listing that a server needs to run from a folder."""
    for match in _LISTED.finditer(listing):
        if not _SKIPPED.match(match["name"]):
            version = match["version"].replace("%3a", ":").replace("%3A", ":")
            yield Package(match["name"], version, int(match["bytes"]))


def rewrite_erlang_root(script: Path, erlang: Path) -> None:
    """Make Erlang's launch script, which names its root folder, start what lies in `erlang`."""
    script.write_text(script.read_text().replace("ROOTDIR=/usr/lib/erlang\n", f"ROOTDIR={erlang}\n"))


@dataclass(frozen=True)
class _Apt:
    """apt-get with lists and a cache of its own: it needs no root and no lock of the system's."""

    folder: Path
    options: tuple[str, ...]

    @classmethod
    def at(cls, folder: Path) -> "_Apt":
        for name in ("lists/partial", "cache/archives/partial", "archives"):
            (folder / name).mkdir(parents=True)
        settings = {
            "Dir::State::lists": folder / "lists",
            "Dir::Cache": folder / "cache",
            "Debug::NoLocking": "1",
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
        }
        return cls(folder, tuple(f"-o{name}={value}" for name, value in settings.items()))

    def update(self) -> "subprocess.CompletedProcess[str]":
        return self._run("update")

    def listing_of(self, packages: Sequence[str]) -> str:
        update = self.update()
        listing = self._run("install", "--print-uris", "--yes", "--no-install-recommends", *packages)
        if listing.returncode:
            reason = last_line(update.stdout if update.returncode else listing.stdout)
            raise Failure(f"could not find the packages {', '.join(packages)} (apt-get: {reason}): check the network")
        return listing.stdout

    def download(self, packages: Sequence[str]) -> list[Path]:
        """Packages by their names, or as `name=version`."""
        done = self._run("download", *packages)
        if done.returncode:
            raise Failure(
                f"could not download packages (apt-get: {last_line(done.stdout)}): check the network, try again"
            )
        return sorted((self.folder / "archives").glob("*.deb"))

    def _run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        environment = os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
        command = ["apt-get", "-qq", *self.options, *arguments]
        return process.run(command, environment=environment, directory=self.folder / "archives")
