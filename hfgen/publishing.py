"""A finished run's folder -> a repository on the Hub."""

import json
import shutil
import tempfile
from pathlib import Path

import yaml
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from hfgen import __version__, run_folder
from hfgen.arguments import TrainingArguments, read_config_file
from hfgen.card import without_folders
from hfgen.errors import HFGenError, UsageError

KEPT_HERE = ("checkpoints", "logs", "best", ".*")  # of a run folder: what is of no use to others


def require_token(arguments: TrainingArguments) -> None:
    """Raise a UsageError where something is to be pushed and nobody is logged in: before the training, not after."""
    if arguments.push_to_hub and not (arguments.hub_token or get_token()):
        raise UsageError("--push_to_hub needs a token: `hf auth login`, or the variable HF_TOKEN.")


def public_copy(folder: Path, target: Path) -> Path:
    """A run's folder as it is published: without checkpoints and logs, of local paths the last name only."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns(*KEPT_HERE))
    facts = json.loads((folder / run_folder.ENVIRONMENT).read_text(encoding="utf-8"))
    config = without_folders(read_config_file(folder / run_folder.CONFIG), facts["data"]["dataset_id"])
    run_folder.write_text(target / run_folder.CONFIG, yaml.safe_dump(config, sort_keys=False))
    return target


def push(folder: Path, arguments: TrainingArguments) -> str:
    """Push the model, its card, pictures and config as one commit; return the address.

    Of local paths the config tells the last name only.

    Raises:
        HFGenError: the Hub cannot be reached or refuses; the folder is as it was.
    """
    name = arguments.hub_model_id or folder.resolve().name
    api = HfApi(token=arguments.hub_token, library_name="hfgen", library_version=__version__)
    try:
        with tempfile.TemporaryDirectory() as temporary:
            public = public_copy(folder, Path(temporary) / "model")
            repository = api.create_repo(name, private=arguments.hub_private_repo or None, exist_ok=True)
            api.upload_folder(
                repo_id=repository.repo_id, folder_path=public, commit_message=f"Trained with hfgen {__version__}"
            )
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise HFGenError(
            f"The model was not pushed to {name}: {first_line}\n"
            f"It is complete in {folder}; to push it again:\n"
            f"  hf upload {name} {folder} --exclude 'checkpoints/*' 'logs/*' 'best/*' '.*' {run_folder.CONFIG}"
        ) from error
    return str(repository)
