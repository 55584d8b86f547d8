"""Open zip archives that are whole: a cut one may end in an archive that it contained, and pass for that."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO


def open_zip(file: Path | IO[bytes]) -> zipfile.ZipFile:
    """Open an archive that starts with its first entry. Raises zipfile.BadZipFile for any other file."""
    archive = zipfile.ZipFile(file)
    if min((i.header_offset for i in archive.infolist()), default=0) != 0:
        archive.close()
        raise zipfile.BadZipFile("its table of contents is that of an archive inside of it; the end is cut off")
    return archive
