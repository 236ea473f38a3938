"""Labels of a dataset become classes 0, 1, 2 ..., with their names."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hfgen.data.sources import DataSource, class_columns_of
from hfgen.errors import UsageError


def labels_of(source: DataSource, dataset: Any) -> tuple[Tensor | None, list[str] | None]:
    wanted, found = source.label_column, class_columns_of(source, dataset)
    column = wanted or next((c for c in [*found, "label", "labels"] if c in dataset.features), None)
    if column is None:
        return None, None
    values = np.asarray(dataset[column][:])
    if not np.issubdtype(values.dtype, np.integer) or values.min() < 0:
        if wanted is None:
            return None, None  # a column that happens to be called label need not hold labels
        raise UsageError(f"{source.name}: the labels in {column!r} are not class numbers 0, 1, 2 ...")
    return torch.from_numpy(values.astype(np.int64)), getattr(dataset.features[column], "names", None)
