"""Brings the files of a data set, from wherever they can be had, and vouches for every byte.

Whatever the source, a file is used only if its SHA-256 is the one written in the source code. The sources, in
turn: $PHIN_DATA, the cache, a folder of the system, public mirrors, and a last resort of the data set's own.
"""

import gzip
import http.client
import logging
import os
import secrets
import sys
import threading
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from phin.errors import PhinError

log = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
READ_SECONDS = 10.0


class Damaged(Exception):
    """A file that is not the one it should be; the message says why."""


def data_folder() -> Path | None:
    """The folder in which a user keeps data sets: $PHIN_DATA.

    Raises:
        PhinError: It is set to something that is not a folder.
    """
    if not (value := os.environ.get("PHIN_DATA")):
        return None
    if not os.path.isdir(folder := Path(value).expanduser()):
        raise PhinError(f"PHIN_DATA={value} is not a folder; correct it or unset it")
    return folder


def cache_folder() -> Path:
    """The folder for fetched files: $PHIN_CACHE, or `phin` in the platform's cache folder."""
    if value := os.environ.get("PHIN_CACHE"):
        return Path(value).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "phin"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "phin"


def write_atomic(path: Path, payload: bytes) -> None:
    """Write a file whole or not at all: readers and crashes never see a part of it.

    Raises:
        PhinError: It cannot be written, e.g. on a full disk; what stood there before still does.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as file:
                file.write(payload)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise PhinError(
            f"cannot write {path}: {error.strerror or error}; make room or set PHIN_CACHE to another folder"
        ) from error


def download(url: str) -> bytes:
    """The body of a URL.

    A name server that does not answer can block for a minute, and no timeout of Python's ends that; so the
    connection is made in a thread that is left behind.

    Raises:
        OSError: No connection within `CONNECT_SECONDS`, no data for `READ_SECONDS`, or a refusal.
    """
    outcome: list[Any] = []

    def connect() -> None:
        try:
            outcome.append(urllib.request.urlopen(url, timeout=READ_SECONDS))
        except urllib.error.HTTPError as error:
            with error:
                outcome.append(OSError(f"{error.code} {error.reason}"))
        except (OSError, http.client.HTTPException) as error:
            outcome.append(OSError(str(getattr(error, "reason", error))))

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    if not outcome:
        raise TimeoutError(f"no answer within {CONNECT_SECONDS:g} s")
    if isinstance(outcome[0], OSError):
        raise outcome[0]
    log.info("Fetching %s", url)
    try:
        with outcome[0] as response:
            return response.read()
    except http.client.HTTPException as error:
        raise OSError(f"the transfer broke off: {error!r}") from error


@dataclass(frozen=True)
class Files:
    """The files of a data set.

    Attributes:
        title: The data set's name, for messages.
        folder: Their folder inside $PHIN_DATA and the cache.
        sums: The SHA-256 of each file, uncompressed.
        compressed: Whether they are handed around as NAME.gz.
        flat: Whether they may lie in $PHIN_DATA itself too.
        system: A folder in which a package of the system puts them.
        mirrors: URLs that the files' names are appended to.
        last_resort: Brings all of them in another way.
        advice: What a user can do when nothing worked.
    """

    title: str
    folder: str
    sums: Mapping[str, str]
    compressed: bool = False
    flat: bool = False
    system: Path | None = None
    mirrors: tuple[str, ...] = ()
    last_resort: Callable[[], Mapping[str, bytes]] | None = None
    advice: str = ""

    def find(self) -> str | None:
        """Where the files are now, without fetching or checking them; none unless all are there."""
        paths = [next(self._places(name), None) for name in self.sums]
        return None if None in paths else ", ".join(sorted({str(path.parent) for path in paths if path}))

    def read(self) -> dict[str, bytes]:
        """All files, uncompressed and verified; what has to be fetched is cached.

        Raises:
            PhinError: A file in $PHIN_DATA is not what it should be, or no source has what is missing.
        """
        payloads = {name: payload for name in self.sums if (payload := self._local(name)) is not None}
        missing = [name for name in self.sums if name not in payloads]
        failures: list[str] = []
        for source, fetch in self._sources():
            if not missing:
                break
            try:
                for name, payload in fetch(missing):
                    self._verify(name, payload)
                    write_atomic(cache_folder() / self.folder / name, payload)
                    payloads[name] = payload
            except (OSError, Damaged) as error:
                log.info("%s: %s", source, error)
                failures.append(f"{source}: {error}")
            missing = [name for name in missing if name not in payloads]
        if missing:
            suffix = ".gz" if self.compressed else ""
            raise PhinError(
                f"{self.title} cannot be had here ({'; '.join(failures) or 'it is not for download'}); "
                f"put {', '.join(name + suffix for name in missing)} into a folder {self.folder}/ "
                f"and set PHIN_DATA to the folder that holds it{self.advice}"
            )
        return {name: payloads[name] for name in self.sums}

    def _sources(self) -> Iterator[tuple[str, Callable[[Iterable[str]], Iterator[tuple[str, bytes]]]]]:
        for mirror in self.mirrors:
            yield urlsplit(mirror).netloc, lambda names, mirror=mirror: self._from_mirror(mirror, names)
        if self.last_resort is not None:
            fetch_all = self.last_resort
            yield "the package index", lambda names: ((n, p) for n, p in fetch_all().items() if n in names)

    def _from_mirror(self, mirror: str, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        for name in names:
            file = name + ".gz" if self.compressed else name
            body = download(mirror + file)
            yield name, _gunzip(body) if self.compressed else body

    def _verify(self, name: str, payload: bytes) -> None:
        if (found := sha256(payload).hexdigest()) != self.sums[name]:
            raise Damaged(f"the SHA-256 of {name} is {found}, expected {self.sums[name]}")

    def _cached(self, name: str) -> Path:
        return cache_folder() / self.folder / name

    def _own(self, name: str) -> Iterator[Path]:
        if folder := data_folder():
            yield from _existing(folder / self.folder, name)
            if self.flat:
                yield from _existing(folder, name)

    def _places(self, name: str) -> Iterator[Path]:
        yield from self._own(name)
        yield from _existing(self._cached(name).parent, name)
        if self.system:
            yield from _existing(self.system, name)

    def _local(self, name: str) -> bytes | None:
        own = next(self._own(name), None)
        for path in self._places(name):
            try:
                raw = path.read_bytes()
                payload = _gunzip(raw) if path.name != name else raw
                self._verify(name, payload)
            except (OSError, Damaged) as error:
                if path == own:
                    raise PhinError(
                        f"{path} is not the {self.title} file: {error}; "
                        "replace it, or delete it or unset PHIN_DATA to have it fetched"
                    ) from error
                log.warning("%s is damaged, so it is fetched anew (%s)", path, error)
            else:
                return payload
        return None


def _existing(folder: Path, name: str) -> Iterator[Path]:
    """The file in a folder, as it is or compressed."""
    return (path for path in (folder / name, folder / f"{name}.gz") if os.path.isfile(path))


def _gunzip(raw: bytes) -> bytes:
    try:
        return gzip.decompress(raw)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise Damaged(f"it is cut short or not gzip ({error})") from error
