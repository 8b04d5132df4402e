"""Takes passwords out of text before anybody sees it: logs, errors, statuses and records."""

from __future__ import annotations

import re

HIDDEN = "***"

_WORD = re.compile(r"[^\s\"<>]+")
_SECRET = re.compile(
    r"((?<![\w-])[\w-]*(?:password|passwd|secret|token)="
    r"|[?&;/_](?:user|usr|pass|pwd|psw|auth|key|api[_-]?key|signature)=)[^&#;\s\"<>]+",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """``text`` without the user and password of any URL in it, and without the values of its telling parameters.

    Where it is not clear what belongs to a password, more is hidden rather than less: in
    ``rtsp://host/a@b`` the host goes too.

    Example:
        >>> redact("cannot open rtsp://admin:s3cret@cam.lan/live?channel=1&pwd=abc")
        'cannot open rtsp://***@cam.lan/live?channel=1&pwd=***'
    """
    return _SECRET.sub(rf"\g<1>{HIDDEN}", _WORD.sub(_without_user, text))


def _without_user(word: re.Match[str]) -> str:
    """A word without what is between the first ``://`` and the last ``@``: nobody may have encoded a password."""
    scheme, mark, rest = word[0].partition("://")
    _, at, host = rest.rpartition("@")
    return f"{scheme}{mark}{HIDDEN}@{host}" if at else word[0]
