"""Loading a single diffusers model, such as an AutoencoderKL, from a folder that holds no pipeline."""

from typing import Any, TypeVar

from diffusers import ModelMixin
from transformers import PreTrainedModel

from hfgen.errors import LoadError, UsageError
from hfgen.files import refuse_links_out
from hfgen.repository.checks import FETCHING, check_component, check_dtype, read_config
from hfgen.repository.fit import incomplete
from hfgen.repository.index import CONFIG
from hfgen.repository.model_folder import ModelFolder

Model = TypeVar("Model", bound=ModelMixin | PreTrainedModel)
HOW = ("dtype", "variant", "low_cpu_mem_usage")


def load_model(folder: ModelFolder, class_: type[Model], **options: Any) -> Model:
    """Load the single model of a folder, from safetensors only, in eval mode.

    Args:
        options: `dtype`, `variant` and `low_cpu_mem_usage`, as in diffusers' `from_pretrained`; those that say which
            repository the folder comes from (`revision`, `token` ...) are ignored.

    Raises:
        UsageError: another option, such as one that runs the repository's code.
        LoadError: the model is of another class, or its files are missing, damaged or pickled.
    """
    for name, value in options.items():
        if name not in (*FETCHING, *HOW) and (name, value) != ("use_safetensors", True):
            raise UsageError(f"A single {class_.__name__} cannot be loaded with the option {name!r}.")
    check_dtype(options.get("dtype"))
    _check_files(folder, class_)
    check_component(folder, "model", class_, options.get("variant"))
    how = {name: value for name, value in options.items() if name in HOW}
    model, info = class_.from_pretrained(str(folder), use_safetensors=True, output_loading_info=True, **how)
    if info["missing_keys"]:
        raise LoadError(incomplete("model", set(info["missing_keys"]), len(model.state_dict())))
    return model.eval()


def _check_files(folder: ModelFolder, class_: type) -> None:
    if not (folder.path / CONFIG).is_file():
        raise LoadError(f"{folder} has no {CONFIG}.")
    if any(folder.path.glob("*.bin")) and not any(folder.path.glob("*.safetensors")):
        raise LoadError(
            "The weights are pickled, and reading a pickle can run code; hfgen reads safetensors only.\n"
            "If you trust them, save them again with plain diffusers:\n"
            f"  {class_.__name__}.from_pretrained(..., use_safetensors=False).save_pretrained(...)"
        )
    refuse_links_out(folder, folder.path / CONFIG)
    config = read_config(folder.path / CONFIG, class_)
    architectures = config.get("architectures")  # of transformers
    named = architectures[0] if isinstance(architectures, list) and architectures else None
    class_name = config.get("_class_name", named)
    if class_name != class_.__name__:
        raise LoadError(f"The folder holds a model of class {class_name!r}, not an {class_.__name__}.")
