"""A process that uses the stand-in for the Hub, and answers questions."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from hub_server import HubServer
from nursery import Nursery

LOOP = """
import json, sys
for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
"""


class HubChild:
    """Answers questions, one after the other, by the function `answer` of a script.

    Args:
        nursery: where the process comes from.
        hub: what the child takes for the Hub.
        home: an empty folder for its caches.
        script: the source of a function `answer(asked)`; both its argument and its answer are JSON.
        site: a folder of installed plugins.
        environment: further variables.
    """

    def __init__(
        self, nursery: Nursery, hub: HubServer, home: Path, script: str, site: Path | None = None, **environment: str
    ) -> None:
        self.hub = hub
        path = os.pathsep.join(filter(None, [str(site or ""), os.environ.get("PYTHONPATH")]))
        variables = {**hub.environment(home), "PYTHONPATH": path, **environment}
        place = Path(tempfile.mkdtemp(prefix="hub-child-"))
        asked, answered = place / "asked", place / "answered"
        for pipe in (asked, answered):
            os.mkfifo(pipe)
        self.child = nursery.start(script + LOOP, environment=variables, stdin=str(asked), stdout=answered)
        self.asked, self.answered = asked.open("w"), answered.open()  # in the order in which the child opens them

    def ask(self, asked: object) -> Any:
        """The answer, to which `requests` and `commits` of the Hub are added where it is a dict."""
        before = len(self.hub.requests), len(self.hub.commits)
        self.asked.write(json.dumps(asked) + "\n")
        self.asked.flush()
        line = self.answered.readline()
        assert line, self.child.stderr.read_text(encoding="utf-8")
        found = json.loads(line)
        if isinstance(found, dict):
            found |= {"requests": self.hub.requests[before[0] :], "commits": self.hub.commits[before[1] :]}
        return found

    def close(self) -> None:
        """End the process."""
        self.asked.close()
        self.child.nursery.ask({"wait": self.child.pid})
        self.answered.close()
