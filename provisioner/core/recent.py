"""Names asked for lately: a hint which of two ways is the cheaper one to begin with, never a decision."""

import threading
from collections import OrderedDict


class Recent:
    """A bounded memory of names; thread-safe."""

    def __init__(self, most: int = 4096) -> None:
        """Remembers the `most` names that were asked for last."""
        self._most = most
        self._names: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def is_new(self, name: str) -> bool:
        """Tell whether the name was not asked for lately; from now on it was."""
        with self._lock:
            new = name not in self._names
            self._names[name] = None
            self._names.move_to_end(name)
            if len(self._names) > self._most:
                self._names.popitem(last=False)
            return new
