"""Everything a client raises on purpose.

ClientError
├── InvalidStep        the caller's own data or order of calls; nothing was sent (a ValueError)
├── RequestRefused     the server would not take one STEP; the session lives on
├── SessionRefused     the server would not take this simulator; the client is over
├── StepTimeout        no answer before the caller's deadline (a TimeoutError)
└── ServerClosed       the server ended for good; the client is over
"""

from __future__ import annotations

from sim_clients.protocol import Error


class ClientError(Exception):
    """Base: the message is one sentence that names what was expected, what came, the remedy."""


class InvalidStep(ClientError, ValueError):
    """The caller's data does not fit what was declared; nothing was sent and nothing changed."""


class RequestRefused(ClientError):
    """The server refused one STEP and forgot it. Its lanes carry on with the next step.

    Attributes:
        code: one of `sim_clients.protocol.ErrorCode`.
        seq: the number of the refused STEP, used again by the next one.
    """

    def __init__(self, error: Error):
        super().__init__(f"the server refused this step ({error.code}): {error.text}")
        self.code = error.code
        self.seq = error.seq


class SessionRefused(ClientError):
    """The server ended or never began this session; repeating will not help.

    Attributes:
        code: one of `sim_clients.protocol.ErrorCode`.
    """

    def __init__(self, code: str, text: str):
        super().__init__(f"the server refused this simulator ({code}): {text}")
        self.code = code


class StepTimeout(ClientError, TimeoutError):
    """The answer did not come before the deadline. It may still come later."""


class ServerClosed(ClientError):
    """The server said that it will not come back."""
