"""Texts without the secrets that URLs in them may hold, for messages and files."""

from __future__ import annotations

import re

# Names of a URL's parameters whose values nobody but the server should see.
SECRET = re.compile("user|pass|pwd|secret|token|key|auth|credential|sig", re.IGNORECASE)
_USER = re.compile(r"\b([A-Za-z][\w+.-]*:/*)([^\s:/@'\"]*:)?[^\s'\"]*@")
_PARAMETER = re.compile(rf"([?&;]\w*(?:{SECRET.pattern})[\w-]*=)[^&\s'\"]+", re.IGNORECASE)


def masked(text: str) -> str:
    """The text with *** for what stands before a URL's host, but for a user's name, and for secret parameters."""
    return _PARAMETER.sub(r"\1***", _USER.sub(r"\1\2***@", text))
