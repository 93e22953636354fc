"""Every error that crosses a module border, grouped by what its reader can do about it.

    ParleyError                  code (a stable slug), message (fit to show to the user)
    ├── RejectedError            the caller can fix it              HTTP 4xx · consumer: drop, never retry
    │   ├── InvalidInputError 400     ├── NotAuthenticatedError 401   ├── PermissionDeniedError 403
    │   ├── NotFoundError 404         ├── ConflictError 409           ├── TooLargeError 413
    │   ├── KeyReusedError 422        └── LimitExceededError 429
    ├── UnavailableError         something we need is failing       HTTP 503, Retry-After · consumer: later
    │   ├── DatabaseUnavailableError  ├── BrokerUnavailableError
    │   └── ModelUnavailableError     └── ToolServerUnavailableError
    └── AttemptError             this attempt cannot finish         the job's end state
        ├── ModelRefusedError         └── AttemptTimeoutError

A tool that fails is no error but a value that the model is told. Anything else is a bug: 500, its traceback in the log.
"""

from typing import Any


class ParleyError(Exception):
    """Base of all. `param` names the input field at fault, `details` holds more facts fit to show."""

    def __init__(
        self, code: str, message: str, *, param: str | None = None, details: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.details = details


class RejectedError(ParleyError):
    """The request cannot be carried out as it is; sending it again unchanged gives the same."""


class InvalidInputError(RejectedError):
    """A field is missing, malformed or out of its range; the message names the field, the limit and the way out."""


class NotAuthenticatedError(RejectedError):
    """No credential, or one that does not hold."""


class PermissionDeniedError(RejectedError):
    """The caller is known and must not do this."""


class NotFoundError(RejectedError):
    """No such thing, or somebody else's: the two are never told apart."""


class ConflictError(RejectedError):
    """The thing is in a state that forbids this."""


class KeyReusedError(RejectedError):
    """An idempotency key came again with another request body."""


class TooLargeError(RejectedError):
    """The request is larger than a limit."""


class LimitExceededError(RejectedError):
    """Too much at once, or too soon."""

    def __init__(self, code: str, message: str, *, retry_after_seconds: float = 1.0, param: str | None = None) -> None:
        super().__init__(code, message, param=param)
        self.retry_after_seconds = retry_after_seconds


class UnavailableError(ParleyError):
    """Something we need is failing; the same request may succeed later."""

    def __init__(self, code: str, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(code, message)
        self.retry_after_seconds = retry_after_seconds


class DatabaseUnavailableError(UnavailableError):
    """Postgres cannot be reached, or does not answer in time."""

    def __init__(self) -> None:
        super().__init__(
            "database_unavailable", "The service cannot reach its database; please try again.", retry_after_seconds=2.0
        )


class BrokerUnavailableError(UnavailableError):
    """RabbitMQ cannot be reached, is blocked, or did not confirm in time: whether a message arrived is unknown."""


class ModelUnavailableError(UnavailableError):
    """The model endpoint failed in a way that may pass: 429, 5xx, a timeout, a cut or unreadable stream."""


class ToolServerUnavailableError(UnavailableError):
    """A tool server cannot be asked for its tools."""


class AttemptError(ParleyError):
    """This job cannot be finished, however often it is tried."""


class ModelRefusedError(AttemptError):
    """The model endpoint refuses this request: a setting, a key or the request itself is wrong."""


class AttemptTimeoutError(AttemptError):
    """The turn took longer than its limit."""
