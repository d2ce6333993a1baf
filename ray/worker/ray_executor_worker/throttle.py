"""Warnings that do not fill the log while the same trouble lasts."""

from __future__ import annotations

import logging
import time

_REPEAT_S = 30.0


class ThrottledLog:
    """Logs each text at most every half minute."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._logged: dict[str, float] = {}

    def warn(self, text: str) -> None:
        """Logs the text, unless it was logged just now."""
        now = time.monotonic()
        self._logged = {t: at for t, at in self._logged.items() if now - at < _REPEAT_S}
        if text not in self._logged:
            self._logged[text] = now
            self._log.warning("%s", text)
