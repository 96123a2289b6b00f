"""How a run is asked to stop."""

import signal
import threading
from types import FrameType
from typing import Any


class StopRequest:
    """Turns the first SIGTERM or SIGINT into a flag; the second one meets the previous handlers again.

    A context manager, which puts the previous handlers back on exit.

    Attributes:
        requested: whether a signal came.
    """

    def __init__(self):
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # elsewhere Python does not allow handlers
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _request(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())
