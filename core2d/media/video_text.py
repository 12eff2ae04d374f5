"""What a video says of itself: the prompt and the seed that it was made from, as JSON in a comment."""

from __future__ import annotations

import json
import re
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

from core2d.app.outputs import atomic_path
from core2d.media.ffmpeg import told

FACTS = "video.json"  # in a folder of frames


def read_video_text(path: str | Path) -> dict[str, Any]:
    """What `write_video` was told to say in a file or folder; empty where there is nothing, or no video."""
    try:
        said = _said_in(Path(path))
    except (OSError, ValueError):  # damaged, or a comment of another program
        return {}
    return said if isinstance(said, dict) else {}


def add_text(path: Path, said: bytes) -> None:
    """Put a comment into a GIF, or a text chunk into an APNG, behind its header: ffmpeg writes neither."""
    with atomic_path(path) as longer, path.open("rb") as source, longer.open("wb") as target:
        if path.suffix.lower() == ".gif":
            header = source.read(13)
            has_palette, bits = header[10] >> 7, (header[10] & 7) + 1
            header += source.read(3 << bits if has_palette else 0)
            blocks = b"".join(bytes([len(said[i : i + 255])]) + said[i : i + 255] for i in range(0, len(said), 255))
            added = b"\x21\xfe" + blocks + b"\0"
        else:
            header = source.read(8 + 25)  # signature and IHDR
            chunk = b"iTXt" + b"comment\0\0\0\0\0" + said
            added = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        target.write(header + added)
        shutil.copyfileobj(source, target)


def _said_in(path: Path) -> Any:
    if path.is_dir():
        return json.loads((path / FACTS).read_bytes()).get("text", {})
    if path.suffix.lower() in (".gif", ".apng"):
        from PIL import Image

        with Image.open(path, formats=("GIF", "PNG")) as image:
            said: Any = image.info.get("comment", "{}")
        return json.loads(said.decode() if isinstance(said, bytes) else said)
    facts = told(["-i", str(path.resolve()), "-f", "ffmetadata", "-"]) or ""
    found = re.search(r"^comment=((?:\\\n|[^\n])*)", facts, re.MULTILINE | re.IGNORECASE)
    return json.loads(re.sub(r"\\(.)", r"\1", found[1], flags=re.DOTALL)) if found else {}
