"""A dataset on the Hub is asked for once, within seconds, before `datasets` looks for it; and what its errors mean."""

import ast
import contextlib
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from hfgen.data.builtin import BUILT_IN_FOLDERS as BUILT_IN
from hfgen.errors import UsageError, did_you_mean, first_line

TIMEOUT = 10.0  # seconds, for a question to the Hub
QUIET = 2.0  # seconds, after which the terminal says that the Hub is asked


@contextlib.contextmanager
def asked_first(name: str, is_cached: bool) -> Iterator[None]:
    """Ask the Hub whether it has a dataset; where it is not reached, what is in the cache is read in the `with` block.

    `datasets` would try again for half a minute.

    Raises:
        UsageError: there is no such dataset, or this account may not read it, or neither Hub nor cache have it.
    """
    import datasets
    import httpx2
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    say = threading.Timer(QUIET, lambda: print(f"Asking the Hub for the dataset {name} ...", file=sys.stderr))
    say.daemon = True
    say.start()
    try:
        HfApi().dataset_info(name, timeout=TIMEOUT)
    except OfflineModeIsEnabled:
        pass  # `datasets` looks into its cache at once
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 403, 404):
            raise UsageError(why_not_found(name, None, error)) from error
    except (httpx2.HTTPError, OSError) as error:
        if not is_cached:
            raise UsageError(_not_reached(name, error)) from error
        print(f"The Hub is not reached ({first_line(error)}); {name} is read from the cache.", file=sys.stderr)
        before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
        try:
            yield
        finally:
            constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before
        return
    finally:
        say.cancel()
    yield


def _not_reached(name: str, error: Exception) -> str:
    return (
        f"The Hub is not reached, and the dataset {name!r} is neither a folder nor in the cache: {first_line(error)}\n"
        f"Built-in datasets, which need no network: {', '.join(BUILT_IN)}."
    )


def why_not_found(name: str, config_name: str | None, error: Exception) -> str:
    """Return what an error of `datasets` or of the Hub means for the user.

    Args:
        config_name: the configuration that was asked for.
    """
    first, text = first_line(error), str(error)
    if (script := re.search(r"[Dd]ataset scripts are no longer supported, but found (\S+)", text)) is not None:
        return (
            f"The dataset {name!r} is a program ({script[1]}), which is not run.\n"
            "The Hub may hold its images as parquet, too:\n"
            f"  hf download {name} --repo-type dataset --revision refs/convert/parquet --local-dir FOLDER\n"
            "Then give --dataset_name FOLDER; or look for another copy on the Hub."
        )
    if (configs := _configurations(text)) is not None:
        if config_name is None:
            return f"{name!r} has several configurations: {', '.join(configs)}. Choose with --dataset_config_name."
        near = did_you_mean(config_name, configs)
        return (
            f"{name!r} has no configuration {config_name!r}.{near} It has {', '.join(configs)}: --dataset_config_name."
        )
    if Path(name).expanduser().exists():
        return f"The dataset {name!r} cannot be read: {first}\nA folder must hold images or parquet files."
    if "is a gated dataset" in text or type(error).__name__ == "GatedRepoError":
        return (
            f"The dataset {name!r} is gated on the Hub: accept its terms on https://huggingface.co/datasets/{name},\n"
            "then log in with that account: `hf auth login`."
        )
    if "OfflineModeIsEnabled" in text + type(error).__name__:
        return (
            f"The dataset {name!r} is neither a folder nor in the cache, and HF_HUB_OFFLINE forbids to ask the Hub.\n"
            "Fetch it once with a network, or name another cache by --cache_dir."
        )
    if "doesn't contain any data files" in text or "No (supported) data files" in text:
        return f"The dataset {name!r} on the Hub holds no files that `datasets` reads: {first}"
    return (
        f"There is no dataset {name!r}: no such folder, and it could not be loaded from the Hub: {first}\n"
        "A private one needs an account that may read it: `hf auth login`. "
        f"Built-in datasets, which need no network: {', '.join(BUILT_IN)}."
    )


def _configurations(text: str) -> list[str] | None:
    """Return the configurations that an error of `datasets` lists, where one must be chosen among them."""
    if not re.search("[Cc]onfig name is missing|BuilderConfig .* not found", text):
        return None
    try:
        listed = ast.literal_eval(text[text.index("[") : text.index("]") + 1])
    except (ValueError, SyntaxError):
        return None
    return [str(name) for name in listed]
