"""Texts without the secrets that URLs and settings in them may hold, for messages and files."""

from __future__ import annotations

import re

# Names of a URL's parameters whose values nobody but the server should see.
SECRET = re.compile("user|pass|pwd|secret|token|key|auth|credential|sig", re.IGNORECASE)
_USER = re.compile(r"\b([A-Za-z][\w+.-]*:/*)([^\s:/@'\"]*:)?[^\s'\"]*@")
_PARAMETER = re.compile(rf"([?&;]\w*(?:{SECRET.pattern})[\w-]*=)[^&\s'\"]+", re.IGNORECASE)
# A setting's value, by a name that says that it is a secret; and what a request is let in by.
_SETTING = re.compile(
    r"((?:secret|passw|pwd|token(?!s|iz)|credential|account.?key|access.?key)[\w.\-]{0,60}"
    r"['\"]?[ \t]{0,9}[=:][ \t]{0,9}['\"]?)(?!\*\*\*)[^\s'\",;&})]+",
    re.IGNORECASE,
)
_BEARER = re.compile(r"((?:bearer|basic)[ \t]+)[\w.~+/=\-]{8,}", re.IGNORECASE)
LINE = 4_000  # signs of a line that are looked at; the rest of it is left out


def masked_lines(text: str) -> str:
    """The lines of a long text, a trace's, without secrets: of URLs, of settings, and of requests."""
    whole = text.encode("utf-8", "backslashreplace").decode()  # halves of signs can be written nowhere
    lines = (masked(line[:LINE]) for line in whole.splitlines())
    return "\n".join(_BEARER.sub(r"\1***", _SETTING.sub(r"\1***", line)) for line in lines)


def masked(text: str) -> str:
    """The text with *** for what stands before a URL's host, but for a user's name, and for secret parameters."""
    return _PARAMETER.sub(r"\1***", _USER.sub(r"\1\2***@", text))
