"""Files: atomic writes, whole synced lines, tolerant reading.

Every file of a run is written through `write_bytes` (temporary name in the same folder, flush, fsync, replace, fsync of
the folder), grows by whole, synced lines through `append_jsonl`, or is made by one process only through `create`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import uuid
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from benchmark.errors import UserError

MOST_UNPACKED = 256 * 2**20  # bytes
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EXDEV, errno.EMLINK)


class DamagedFile(ValueError):
    """A file exists but its content is not what was written; the message names it."""


def write_bytes(path: str | Path, data: bytes) -> None:
    """Replace `path` with `data`: after a crash at any moment the old or the new content is there, whole."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    _write_new(temporary, data)
    try:
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def write_text(path: str | Path, text: str) -> None:
    """Atomically write `text` as UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: Mapping[str, Any] | list[Any]) -> None:
    """Atomically write JSON that depends on the value only: sorted keys, shortest floats, NaN and infinity as null."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: Mapping[str, Any] | list[Any]) -> bytes:
    """What `write_json` writes."""
    return (json.dumps(_plain(value), sort_keys=True, indent=1, allow_nan=False) + "\n").encode()


def create(path: str | Path, data: bytes) -> None:
    """Make a file that must not exist yet: of any number of processes, on any number of machines, one succeeds.

    It is there with its content or not at all: a link to a file that was written before. A file system without links
    opens it exclusively; after a crash it may then hold less than `data`. Raises FileExistsError.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        _write_new(temporary, data)
        try:
            os.link(temporary, path)
        except FileNotFoundError:  # who made `path` removed the leftovers of others
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        except FileExistsError:
            if _links(temporary) != 2:  # else it is ours: a network lost the answer, and asked again
                raise
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            _write_new(path, data)
    finally:
        with suppress(OSError):
            temporary.unlink()
    try:
        sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise


def _links(path: Path) -> int:
    """How many names the file has: 0 when it is gone."""
    try:
        return path.stat().st_nlink
    except FileNotFoundError:
        return 0


def _write_new(path: Path, data: bytes) -> None:
    """Write and sync a file that does not exist; nothing is left of it where that fails."""
    made = path.open("xb")
    try:
        with made as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise


def append_jsonl(path: str | Path, record: Mapping[str, Any]) -> None:
    """Append one record as a whole line, synced. A torn last line, left by a crash, is cut off first."""
    path = Path(path)
    line = json.dumps(_plain(record), sort_keys=True, separators=(",", ":"), allow_nan=False).encode() + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    created = not path.exists()
    with _open_to_append(path) as file:
        file.seek(0)
        data = file.read()
        whole = _whole_lines(data)
        if len(whole) < len(data):
            file.truncate(len(whole))
        if whole and not whole.endswith(b"\n"):
            line = b"\n" + line
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
    if created:
        sync_folder(path.parent)


def append_text(path: str | Path, text: str) -> None:
    """Append lines for people to read: whole after a crash but for the last one."""
    with _open_to_append(Path(path)) as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def _open_to_append(path: Path) -> BinaryIO:
    """Open a regular file, made when missing. Raises OSError for a symbolic link or a pipe: a stranger's leads away."""
    guards = [getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC")]
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | guards[0] | guards[1] | guards[2], 0o666)
    file = os.fdopen(descriptor, "a+b")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return file


def unlinked(folder: Path) -> Path:
    """`folder`, a part of a results folder in which files will be written.

    Raises UserError if it is a symbolic link: in a stranger's results it would have files elsewhere replaced.
    """
    if folder.is_symlink():
        raise UserError(f"{folder} is a symbolic link: results are written through none; put a folder in its place.")
    return folder


def read_bytes(path: str | Path) -> bytes:
    """The content of a regular file: a pipe or a device, in a stranger's folder, would never end.

    Raises FileNotFoundError, or DamagedFile.
    """
    # not through `open`, which takes twice as long, and there may be ten thousand runs; to open a pipe would wait
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise DamagedFile(f"{path} is damaged: it is no regular file.")
        parts = []
        while part := os.read(descriptor, about.st_size + 1):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def read_json(path: str | Path) -> Any:
    """Read a JSON file. Raises FileNotFoundError, or DamagedFile when it does not parse."""
    data = read_bytes(path)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{path} is damaged: {error}.") from error


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """Read the records of a line file (.gz: compressed); [] when there is none. A torn last line is dropped.

    Raises DamagedFile when any other line is not a JSON object: records are never dropped silently from the middle.
    """
    path = Path(path)
    try:
        data = read_bytes(path)
        data = _decompressed(data) if path.suffix == ".gz" else data
    except FileNotFoundError:
        return []
    except zlib.error as error:
        raise DamagedFile(f"{path} is damaged: {error}.") from error
    records = []
    for number, line in enumerate(_whole_lines(data).splitlines(), start=1):
        record = _parse_object(line)
        if record is None:
            raise DamagedFile(f"{path} is damaged: line {number} is not a JSON object.")
        records.append(record)
    return records


def _decompressed(data: bytes) -> bytes:
    """Of gzip; a small file of a stranger may claim to hold a terabyte."""
    stream = zlib.decompressobj(wbits=31)
    content = stream.decompress(data, MOST_UNPACKED)
    if not stream.eof:
        raise zlib.error("it is cut short" if len(content) < MOST_UNPACKED else "it holds more than any run does")
    return content


def config_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of the canonical JSON of `config`; run names carry its first 10 characters.

    The order of keys does not matter, nor does 1 against 1.0 in a float field: whole floats are written as integers.
    """
    canonical = json.dumps(
        _plain(config, whole_floats=True), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _plain(value: Any, whole_floats: bool = False) -> Any:
    """`value` in JSON's own types; numbers that JSON cannot hold become None."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item, whole_floats) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, whole_floats) for item in value]
    if isinstance(value, float):
        if not np.isfinite(value):
            return None
        return int(value) if whole_floats and value.is_integer() else value
    return str(value) if isinstance(value, Path) else value


def _parse_object(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _whole_lines(data: bytes) -> bytes:
    """`data` without a torn last line; a crash can tear no other, because each append is synced before the next."""
    body = data[:-1] if data.endswith(b"\n") else data
    start = body.rfind(b"\n") + 1
    return data if _parse_object(body[start:]) is not None else data[:start]


def sync_folder(folder: Path) -> None:
    """Have the names of its files outlast a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems cannot sync a folder
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


def mapping(value: Any) -> dict[str, Any]:
    """`value` if it is a dict, else {}: what a file holds may be anything."""
    return value if isinstance(value, dict) else {}
