"""The errors that calls raise: one class for each code of the service."""

from __future__ import annotations

from typing import Optional


class RayExecutorError(Exception):
    """A call failed.

    ``code`` is the service's word for the reason, for example ``not_found``.
    ``message`` says what is wrong and what to do. ``field`` is the field of the
    request, or the dependency, at fault; empty if there is none.
    ``deliberation_id`` is the deliberation concerned; empty if there is none.
    ``retry_after`` is the number of seconds after which the server expects
    that repeating helps; None where repeating does not help, or not that soon.
    """

    code = "unknown"

    def __init__(
        self,
        message: str,
        *,
        field: str = "",
        deliberation_id: str = "",
        retry_after: Optional[float] = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.deliberation_id = deliberation_id
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[object, ...]:
        # Exception's own calls the class with the message alone.
        return (type(self), (self.message,), self.__dict__)


class InvalidArgument(RayExecutorError):
    """A field of the request is out of its range; ``field`` names it."""

    code = "invalid_argument"


class Conflict(RayExecutorError):
    """The deliberation id already belongs to another request."""

    code = "conflict"


class TooLarge(RayExecutorError):
    """The request is above a limit of the server, or the reply above ``max_response_bytes``."""

    code = "too_large"


class NotFound(RayExecutorError):
    """There is no deliberation with this id, or no longer: the journal retains them for days."""

    code = "not_found"


class LimitReached(RayExecutorError):
    """A rate or capacity limit is reached; see ``retry_after``."""

    code = "limit_reached"


class Unavailable(RayExecutorError):
    """The server, or what it needs, cannot be reached. Repeating the call is safe.

    The outcome of a submit is unknown: submit again with this error's
    ``deliberation_id``, and there is one deliberation at most.
    """

    code = "unavailable"


class DeadlineExceeded(RayExecutorError, TimeoutError):
    """The call did not succeed within its timeout. Repeating the call is safe.

    The outcome of a submit is unknown: submit again with this error's
    ``deliberation_id``, and there is one deliberation at most.
    """

    code = "deadline_exceeded"


class Unauthenticated(RayExecutorError):
    """The token is missing or not valid."""

    code = "unauthenticated"


class PermissionDenied(RayExecutorError):
    """The token does not permit the call."""

    code = "permission_denied"


class Unimplemented(RayExecutorError):
    """The server does not serve the method."""

    code = "unimplemented"


class InternalError(RayExecutorError):
    """The server failed in a way that it did not expect, or its reply cannot be read."""

    code = "internal"


_CLASSES: dict[str, type[RayExecutorError]] = {
    known.code: known
    for known in (
        InvalidArgument,
        Conflict,
        TooLarge,
        NotFound,
        LimitReached,
        Unavailable,
        DeadlineExceeded,
        Unauthenticated,
        PermissionDenied,
        Unimplemented,
        InternalError,
    )
}


def error_class(code: str) -> type[RayExecutorError]:
    """Returns the class of a code; an unknown code is an InternalError."""
    return _CLASSES.get(code, InternalError)
