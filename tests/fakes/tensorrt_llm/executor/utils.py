"""The one error that concerns a single request."""


class RequestError(RuntimeError):
    """A request failed; the engine goes on."""
