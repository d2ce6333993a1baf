"""Checks answers against their response formats, in a process of its own.

A caller's schema or expression can take for ever: (a+)+ on thirty characters
does. So the replica's process does not run it. One check that takes longer than
a second, or much memory, ends this process; the replica starts another. It has
no part of this package, and nothing of the node's environment.

It reads a check a line, in JSON, and writes a line for each: null, or why the
text does not fit.
"""

from __future__ import annotations

import json
import re
import resource
import signal
import sys
from typing import Any, Optional

CHECK_S = 1.0
_MEMORY_BYTES = 1024 * 1024 * 1024


def check(kind: str, spec: Any, text: str) -> Optional[str]:
    """Why a text does not fit; None where it does."""
    if kind == "choice":
        return None if text.strip() in spec else "it is none of the choices"
    if kind == "regex":
        try:
            pattern = re.compile(spec)
        except re.error:  # RE2 has syntax that Python has not: the server's check is the only one
            return None
        return None if pattern.fullmatch(text) else "it does not match the expression"
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        return f"it is not JSON: {error}"
    if kind == "json_object":
        return None if isinstance(value, dict) else "it is no JSON object"
    return _against(json.loads(spec), value)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _against(schema: Any, value: Any) -> Optional[str]:
    import jsonschema  # noqa: PLC0415 - a tenth of a second, for schemas alone
    from jsonschema_specifications import REGISTRY  # noqa: PLC0415

    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    # This registry retrieves nothing. The default one would fetch what a schema refers to.
    error = next(kind(schema, registry=REGISTRY).iter_errors(value), None)
    return None if error is None else f"{error.json_path}: {error.message}"


def main() -> None:
    """Answers until its input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The default action ends the process, whatever Python is doing. The timer counts
    # the process's own time: a busy node is not the form's fault.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["kind"] == "json_schema":
            import jsonschema  # noqa: F401, PLC0415 - before the timer starts
        signal.setitimer(signal.ITIMER_PROF, CHECK_S)
        try:
            found = check(asked["kind"], asked["spec"], asked["text"])
        except Exception as error:  # noqa: BLE001 - a schema is a caller's program
            found = f"it cannot be checked: {type(error).__name__}: {error}"
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(json.dumps(found and found[:300]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
