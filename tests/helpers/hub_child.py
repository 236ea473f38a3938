"""A process whose Hub is the stand-in: huggingface_hub reads HF_ENDPOINT when it is imported, so tests ask a child."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hub_server import HubServer

LOOP = """
import json, sys
for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
"""


class HubChild:
    """Answers questions, one after the other, by the function `answer` of a script.

    Args:
        hub: what the child takes for the Hub.
        home: an empty folder for its caches.
        script: the source of a function `answer(asked)`; both its argument and its answer are JSON.
        site: a folder of installed plugins.
        environment: further variables.
    """

    def __init__(self, hub: HubServer, home: Path, script: str, site: Path | None = None, **environment: str) -> None:
        self.hub = hub
        path = os.pathsep.join(filter(None, [str(site or ""), os.environ.get("PYTHONPATH")]))
        variables = {**hub.environment(home), "PYTHONPATH": path, **environment}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([sys.executable, "-c", script + LOOP], env=variables, **pipes)

    def ask(self, asked: object) -> Any:
        """The answer, to which `requests` and `commits` of the Hub are added where it is a dict."""
        before = len(self.hub.requests), len(self.hub.commits)
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        found = json.loads(self.process.stdout.readline())
        if isinstance(found, dict):
            found |= {"requests": self.hub.requests[before[0] :], "commits": self.hub.commits[before[1] :]}
        return found

    def close(self) -> None:
        """End the process."""
        self.process.communicate()
