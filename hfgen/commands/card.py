"""hfgen card RUN"""

from pathlib import Path

import click

from hfgen.commands.options import refuse_given
from hfgen.errors import CheckError, UsageError


@click.command("card", short_help="Render or check the card of a run.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--check", is_flag=True, help="Change nothing; check the card, and exit with 3 if it is not true.")
@click.option(
    "--num_redrawn", type=click.IntRange(1), default=8, show_default=True, help="Pictures sampled again by --check."
)
@click.option("--snippets/--no_snippets", default=True, help="Run the card's snippets in --check.")
def command(run: Path, check: bool, num_redrawn: int, snippets: bool) -> None:
    """Render the card of RUN, the folder of a finished run, from its files; or check the one that is there.

    --check renders the card again and compares each line, compares the results' weights with the model's, samples some
    of the card's pictures again from their seeds, and runs its snippets in a fresh process.
    """
    from diffusers.utils import logging

    from hfgen.cards.card import write_card
    from hfgen.evaluation.card_check import check_card, report

    if not run.is_dir():
        raise UsageError(f"{run} is not a folder; a card is rendered from the folder of a finished run.")
    if not check:
        refuse_given(["num_redrawn", "snippets"], "without --check")
        return click.echo(write_card(run))
    logging.disable_progress_bar()
    failed = report(check_card(run, num_redrawn, snippets), click.echo)
    if failed:
        raise CheckError(f"The card of {run} is not true: {failed} of its checks did not hold; see above.")
    return None
