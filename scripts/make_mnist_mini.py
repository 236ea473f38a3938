"""Make the built-in dataset `mnist-mini` from full MNIST: the first 1,000 and 200 images of each digit.

    python scripts/make_mnist_mini.py FOLDER_WITH_MNIST_PARQUET

The folder is that of the dataset ylecun/mnist on the Hub. The images stay the PNG files they are there; the rows
keep MNIST's order. The output is the same for the same input, byte for byte, with the same pyarrow.
"""

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).parent.parent / "hfgen" / "data" / "mnist_mini"
PER_DIGIT = {"train": 1000, "test": 200}


def balanced(table: pa.Table, per_digit: int) -> pa.Table:
    """The first `per_digit` rows of each label, in the table's order."""
    labels = table["label"].to_pylist()
    taken: dict[int, int] = {}
    rows = []
    for row, label in enumerate(labels):
        if taken.get(label, 0) < per_digit:
            taken[label] = taken.get(label, 0) + 1
            rows.append(row)
    return table.take(rows)


def main(source: Path) -> None:
    for split, per_digit in PER_DIGIT.items():
        table = balanced(pq.read_table(next((source / "data").glob(f"{split}-*.parquet"))), per_digit)
        pq.write_table(table, HERE / f"{split}.parquet", compression="zstd")
        print(f"{split}: {len(table)} images")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
