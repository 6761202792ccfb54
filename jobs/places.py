"""Where things may lie, checked in the settings: folders of this machine, and roots of Delta tables."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import parse_qsl

from pydantic import AfterValidator, Field

from training.masking import SECRET

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*):/")
_PASSWORD = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:/+[^/@\s]*:[^/@\s]*@")
_NAME = re.compile(r"[^\W_][\w .-]{0,99}")
_TABLE = re.compile(r"(\w[\w-]*|`[^`.]+`)(\.(\w[\w-]*|`[^`.]+`)){0,2}")
_CATALOGUE = re.compile(r"^\w+(\.\w+){1,2}$")


def _local(path: str) -> str:
    """A folder that every rank and the driver can open as files."""
    if not path.strip():
        raise ValueError("must name a folder")
    _refuse_unprintable(path)
    if match := _SCHEME.match(path):
        raise ValueError(
            f"must be a folder of the file system, for files in it are locked and renamed; {match[1]}:// is a URL; "
            "mount it and name the mount, or use a local or network disk"
        )
    return path


def _refuse_unprintable(path: str) -> None:
    """No file system takes a null character, and text with halves of characters (surrogates) is none."""
    if not path.isprintable():
        raise ValueError("must be a name that can be printed; it holds a line break, a null or half a character")


def without_password(place: str) -> str:
    """A place that may stand in files that people pass on, in errors and in bundles."""
    query = place.partition("?")[2] if _SCHEME.match(place) else ""
    if _PASSWORD.match(place) or any(SECRET.search(name) for name, _ in parse_qsl(query, keep_blank_values=True)):
        raise ValueError(
            "must hold no password, key or token, which would be shown and kept; give it to the store's own "
            "configuration (spark.hadoop.fs.*, AWS_ACCESS_KEY_ID and the like)"
        )
    return place


def _root(root: str) -> str:
    """A folder, or a folder in an object store."""
    without_password(root)
    if not root.strip():
        raise ValueError("must name a folder or an object store's URL")
    _refuse_unprintable(root)
    if _CATALOGUE.match(root):
        raise ValueError(
            "looks like a catalogue's schema, and tables are found by path; name the folder or URL that holds them "
            f"(tables.catalogue={root} names them in the schema too), or write ./{root} for a local folder"
        )
    if match := _SCHEME.match(root):
        place = root[match.end() :].lstrip("/")
        if "://" not in root:
            raise ValueError(f"a URL needs two slashes after its scheme: {match[1]}://bucket/folder")
        if match[1] != "file" and not place.partition("/")[2].strip("/"):
            raise ValueError(
                "must be a folder in the bucket, for the folder beside it holds raw data; "
                f"write {match[1]}://{place.strip('/') or 'bucket'}/tables"
            )
    return root


def _table_name(name: str) -> str:
    """A catalogue's name of a table."""
    if not _TABLE.fullmatch(name):
        raise ValueError(
            "must be a table's name of up to three parts, e.g. main.shop.events; a part with other characters "
            "stands in backticks; a folder goes into path"
        )
    return name


def _schema(name: str) -> str:
    """A catalogue's schema."""
    if not _TABLE.fullmatch(name) or len(re.findall(r"[^.`]+", name)) > 2:
        raise ValueError(
            "must be a schema's name of up to two parts, e.g. main.shop; a part with other characters stands in "
            "backticks; tables get their names in it"
        )
    return name


def _name(name: str) -> str:
    """A name that is a part of a folder's name."""
    if name and not _NAME.fullmatch(name):
        raise ValueError(
            "must be a name of 1 to 100 letters, digits, blanks, dots, hyphens and underscores that begins with a "
            "letter or digit, for folders are named by it"
        )
    return name


def _file(path: str) -> str:
    """A file that a process opens as it stands."""
    if not path.strip() or _SCHEME.match(path):
        raise ValueError("must be a file of the file system; copy it there, or mount what holds it and name the mount")
    _refuse_unprintable(path)
    return path


AttachmentName = Annotated[str, Field(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
LocalFile = Annotated[str, AfterValidator(_file)]
LocalFolder = Annotated[str, AfterValidator(_local)]
FolderName = Annotated[str, AfterValidator(_name)]
TablesRoot = Annotated[str, AfterValidator(_root)]
SourcePath = Annotated[str, AfterValidator(without_password)]
SchemaName = Annotated[str, AfterValidator(_schema)]
TableName = Annotated[str, AfterValidator(_table_name)]
