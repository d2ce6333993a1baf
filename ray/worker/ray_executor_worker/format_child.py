"""Checks proposals against their format, and finds their votes, in a process of its own.

A caller's schema or expression can take for ever: (a+)+ on thirty characters
does. So the replica's process does not run it. One check that takes longer than
a second, or much memory, ends this process; the replica starts another. It has
no part of this package, and nothing of the node's environment.

It reads a check a line, in JSON, and writes a line for each: null, or why the
text does not fit; for a vote its answer and why there is none.
"""

from __future__ import annotations

import hashlib
import json
import re
import resource
import signal
import sys
from typing import Any, Optional

CHECK_S = 1.0
_MEMORY_BYTES = 1024 * 1024 * 1024
_ANSWER_BYTES = 1024


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


def answer(kind: str, spec: str, text: str) -> tuple[Optional[str], str]:
    """What a text answers, or why it answers nothing."""
    found, why = _at_pointer(spec, text) if kind == "answer_pointer" else _group(spec, text)
    if found is None:
        return None, why
    return brief(found) or None, "the answer is empty"


def brief(found: str) -> str:
    """An answer as it is compared: trimmed, and a long one by its digest."""
    data = found.strip().encode("utf-8", errors="replace")
    if len(data) <= _ANSWER_BYTES:
        return data.decode("utf-8")
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _group(spec: str, text: str) -> tuple[Optional[str], str]:
    match = re.search(spec, text)
    if match is None:
        return None, "the expression does not match"
    found = match[1] if match.re.groups else match[0]
    return found, "the group is no part of the match"


def _at_pointer(spec: str, text: str) -> tuple[Optional[str], str]:
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        return None, f"it is not JSON: {error}"
    for token in spec.split("/")[1:]:
        name = token.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and re.fullmatch("0|[1-9][0-9]{0,8}", name, re.ASCII):
            value = value[int(name)] if int(name) < len(value) else None
        else:
            value = None
    if value is None:
        return None, "it has no value at the pointer"
    if isinstance(value, str):
        return value, ""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")), ""


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _against(schema: Any, value: Any) -> Optional[str]:
    import jsonschema  # noqa: PLC0415 - a tenth of a second, for schemas alone
    from jsonschema_specifications import REGISTRY  # noqa: PLC0415

    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    # This registry retrieves nothing. The default one would fetch what a schema refers to.
    error = next(kind(schema, registry=REGISTRY).iter_errors(value), None)
    return None if error is None else f"{error.json_path}: {error.message}"


def _answered(kind: str, spec: Any, text: str) -> Any:
    if kind.startswith("answer_"):
        found, why = answer(kind, spec, text)
        return found, why[:300]
    misfit = check(kind, spec, text)
    return misfit and misfit[:300]


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
            found = _answered(asked["kind"], asked["spec"], asked["text"])
        except Exception as error:  # noqa: BLE001 - a schema is a caller's program
            why = f"it cannot be checked: {type(error).__name__}: {error}"[:300]
            found = (None, why) if asked["kind"].startswith("answer_") else why
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
