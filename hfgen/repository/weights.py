"""The files of a component's weights: their names, the check that they are safetensors, and the shapes in them."""

import re
from pathlib import Path

from safetensors import SafetensorError, safe_open

from hfgen.errors import LoadError, first_line
from hfgen.files import MOST_TABLE, read_json
from hfgen.settings.model_configs import config_class_of

Shapes = dict[str, tuple[int, ...]]
LONGEST_HEADER = 25_000_000  # bytes; huggingface_hub's bound, too
POINTER = b"version https://git-lfs"
AGAIN = "Fetch it again (force_download=True), or save it again."
# As diffusers and transformers name weights, whole, in shards, or the index of shards; older versions of diffusers put
# the variant behind the number of the shard.
WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)"
    r"(?:(?:-\d+-of-\d+)?(?:\.(?P<variant>[\w-]+?))?(?:-\d+-of-\d+)?\.(?:safetensors|bin)"
    r"|\.(?:safetensors|bin)\.index(?:\.(?P<of_shards>[\w-]+))?\.json)"
)


def variant_of(name: str) -> str | None:
    """Variant in the name of a file of weights; None if it has none, or is not such a file.

    >>> variant_of("unet/model.bf16-00001-of-00002.safetensors"), variant_of("unet/model-00001-of-00002.safetensors")
    ('bf16', None)
    """
    match = WEIGHTS.fullmatch(name.rpartition("/")[2])
    return (match["variant"] or match["of_shards"]) if match else None


def weights_name(class_: type) -> str:
    """Stem of the weight files of a model's class: transformers and diffusers name them differently."""
    return "diffusion_pytorch_model" if config_class_of(class_) is None else "model"  # transformers' name


def saved_shapes(folder: Path, variant: str | None, stem: str) -> Shapes:
    """Tensor name -> shape, read from the headers of a component's safetensors files.

    Args:
        variant: read the files of this variant, if the folder has them.
        stem: `weights_name` of the component's class.

    Raises:
        LoadError: there are no files, one is missing or not safetensors, or a header does not fit the file's length.
    """
    files = _weight_files(folder, variant, stem) or _weight_files(folder, None, stem)
    if not files:
        raise LoadError(f"The component {folder.name!r} has no weights: {folder.name}/*.safetensors is missing.")
    return {key: shape for file in files for key, shape in _header(file).items()}


def _header(file: Path) -> Shapes:
    """Read one header; safetensors itself refuses tensors that overlap, leave holes, or do not end with the file."""
    name = f"{file.parent.name}/{file.name}"
    if not file.exists():
        raise LoadError(f"The weights of {file.parent.name!r} are incomplete: {name} is missing.")
    _check_start(file, name)
    try:
        with safe_open(file, "np") as tensors:
            return {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}
    except (SafetensorError, OSError) as error:
        raise LoadError(f"{name} is truncated or damaged: {first_line(error)}\n{AGAIN}") from error


def _check_start(file: Path, name: str) -> None:
    """Refuse files that are only named safetensors; real ones begin with the length of their header."""
    if not file.is_file():
        raise LoadError(f"{name} is not a regular file.")
    with file.open("rb") as opened:
        start = opened.read(256)
    if is_pickled(start):
        raise LoadError(
            f"{name} is a pickle named as safetensors; reading a pickle can run code, so it was not read.\n"
            "Do not load this model unless you trust who made it; if you do, save it again as safetensors."
        )
    if start.startswith(POINTER):
        raise LoadError(f"{name} only points to the weights, which git has not fetched: run `git lfs pull` there.")
    length = int.from_bytes(start[:8], "little")
    if length > LONGEST_HEADER:
        raise LoadError(
            f"{name} is truncated or damaged: its header has {length:,} bytes, hfgen reads at most "
            f"{LONGEST_HEADER:,}.\n{AGAIN}"
        )


def is_pickled(start: bytes) -> bool:
    """Return True if a file starts as a pickle of protocol 2 to 5, or as torch's archive of one."""
    return bool(re.match(rb"\x80[\x02-\x05][c\x8a}\]\x95(]", start)) or (start[:2] == b"PK" and b"data.pkl" in start)


def _weight_files(folder: Path, variant: str | None, stem: str) -> list[Path]:
    dot_variant = f".{variant}" if variant else ""
    shards, whole = folder / f"{stem}.safetensors.index{dot_variant}.json", folder / f"{stem}{dot_variant}.safetensors"
    whole_first = stem == "model"  # of both, transformers reads the whole file, diffusers the shards
    if shards.exists() and not (whole_first and whole.exists()):
        try:
            weight_map = read_json(shards, MOST_TABLE)["weight_map"]
            names = sorted(set(weight_map.values()))
            if not names or not all(name.endswith(".safetensors") and Path(name).name == name for name in names):
                raise ValueError("it names files that are not safetensors beside it")
            return [folder / name for name in names]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LoadError(f"{folder.name}/{shards.name} is damaged: {first_line(error)}") from error
    return [whole] if whole.exists() else []


def check_names(folder: Path, variant: str | None) -> None:
    """Refuse file names without a dot beside a variant: diffusers looks for the variant behind the first dot."""
    undotted = [path.name for path in folder.iterdir() if "." not in path.name]
    if variant and undotted:
        raise LoadError(f"A variant cannot be loaded beside {folder.name}/{undotted[0]}; move that file away.")
