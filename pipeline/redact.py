"""Takes passwords out of text before anybody sees it: logs, errors, statuses and records."""

from __future__ import annotations

import re

HIDDEN = "***"

# Up to the last `@` of the word, for a password may hold `@` and `/` where nobody encoded them.
_USER = re.compile(r"([a-z][a-z0-9+.-]*://)[^\s\"<>]*@", re.IGNORECASE)
_SECRET = re.compile(
    r"(\b[\w-]*(?:password|passwd|secret|token)=|[?&;/_](?:user|usr|pass|pwd|psw|auth|key|api[_-]?key|signature)=)"
    r"[^&#;\s\"<>]+",
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
    return _SECRET.sub(rf"\g<1>{HIDDEN}", _USER.sub(rf"\g<1>{HIDDEN}@", text))
