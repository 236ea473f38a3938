"""`python -m hfgen VERB`; and what `hfgen evaluate --num_processes` starts several times."""

import sys
from pathlib import Path

if __name__ == "__main__" and not __package__:
    # Run as a file, Python puts this folder first on the path, where `hfgen` itself could not be found.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

if __name__ == "__main__":
    from hfgen.commands.main import main
    from hfgen.processes.child import follow_launcher

    follow_launcher()
    main()
