"""Whose token it is, and where it may write: asked before a training, and for a repository's full name."""

import pytest
from hub_server import READER, TOKEN
from pushing import copied, training

from hfgen.cards.parts import marked, unmarked
from hfgen.cards.without_run import with_address
from hfgen.hub.access import why_not
from hfgen.testing import make_data

GRANTS = [{"entity": {"type": "org", "name": "club"}, "permissions": ["repo.content.read", "repo.write"]}]


def account(role="write", orgs=(), **token):
    return {"name": "me", "orgs": list(orgs), "auth": {"accessToken": {"role": role, **token}}}


CLUB = [{"name": "club", "roleInOrg": "contributor"}, {"name": "readers", "roleInOrg": "read"}]
ACCOUNTS = [
    (account(), "me/x", None),
    (account(), "x", None),
    (account(orgs=CLUB), "club/x", None),
    ({"name": "me"}, "me/x", None),
    (account("read"), "me/x", "its role is `read`"),
    (account(orgs=CLUB), "readers/x", "its role is `read`"),
    (account(), "they/x", "it is of 'me', not of 'they'"),
    (account(orgs=CLUB), "they/x", "it is of 'me', who belongs to club, readers, not to 'they'"),
    (account("fineGrained", CLUB, fineGrained={"scoped": GRANTS}), "club/x", None),
    (account("fineGrained", CLUB, fineGrained={"scoped": GRANTS}), "me/x", "fine-grained token without `repo.write`"),
    (account("fineGrained", CLUB), "me/x", "fine-grained token without `repo.write`"),
]


@pytest.mark.parametrize(("who", "repo_id", "says"), ACCOUNTS)
def test_where_an_account_may_write(who, repo_id, says):
    found = why_not(who, repo_id)
    assert found is None if says is None else says in found


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data") / "few.npz", 8, 1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--hub_token", READER], "the token may not write to me/r: it is of 'a-reader'"),
        (["--hub_token", "hf_wrong"], "The token is not valid"),
        (["--hub_model_id", "they/r"], "the token may not write to they/r: it is of 'me'"),
    ],
)
def test_a_token_that_may_not_write_is_told_before_the_training(hub, hfgen, data, tmp_path, options, says):
    done = hfgen(*training(data, tmp_path / "r", "--hub_model_id", "me/r", *options), code=2)
    assert says in done["err"]
    assert "--push_to_hub" in done["err"]
    assert not (tmp_path / "r").exists()
    assert [request.path for request in done["requests"]] == ["/api/whoami-v2"]


def test_a_hub_that_is_not_reached_is_a_warning(hub, hfgen, data, tmp_path):
    with hub.gone():
        done = hfgen(*training(data, tmp_path / "r"), code=1)
    assert "warning: the Hub was not reached" in done["err"]
    assert "was not pushed to" in done["err"].splitlines()[-2] + done["err"].splitlines()[-3]
    assert (tmp_path / "r" / "model_index.json").is_file()


def test_the_published_card_names_the_whole_repository(hub, run, copy, hfgen):
    hfgen("push", run, "bare", "--bundle_code")
    card = hub.files("me/bare")["README.md"].decode()
    assert card.count('from_pretrained("me/bare"') == 2
    assert "hfgen sample me/bare --seed" in card
    assert '"bare"' not in card
    hfgen("push_to_hub", run, "bare-too", "{}")
    assert 'from_pretrained("me/bare-too")' in hub.files("me/bare-too")["README.md"].decode()
    name = next(line for line in (copy / "README.md").read_text().splitlines() if line.startswith("# "))
    (copy / "README.md").write_text((copy / "README.md").read_text() + "\n## Limitations\n\nNo faces.\n")
    hfgen("push", copy, "edited")
    card = hub.files("me/edited")["README.md"].decode()
    assert 'from_pretrained("me/edited")' in card
    assert "hfgen sample me/edited --seed" in card
    assert unmarked(card).endswith("No faces.\n")
    assert name in card


def test_a_card_without_a_run_is_addressed_and_stays_marked():
    text = marked('# out\n\n`from_pretrained("out")`, `from_pretrained("other")`, out of')
    wanted = marked('# me/out\n\n`from_pretrained("me/out")`, `from_pretrained("other")`, out of')
    assert with_address(text, "me/out") == wanted
    assert with_address("no title", "me/out") == "no title"


def test_the_token_is_asked_of_the_hub_only_where_it_must_be(hfgen, run):
    done = hfgen("push", run, "me/full", "--token", f" {TOKEN}\r")
    assert not [request for request in done["requests"] if "whoami" in request.path]


LIMITS = "\n## Limitations\n\nNo faces.\n"


def test_a_card_that_was_edited_on_the_hub_is_not_lost(hub, run, hfgen, tmp_path):
    hfgen("push", run, "me/colleague")
    hfgen("push", run, "me/colleague", "--commit_message", "Again")
    card = hub.files("me/colleague")["README.md"].decode()
    edited = card.replace("library_name: hfgen", "library_name: hfgen\nlicense: mit") + LIMITS
    hub.repositories["me/colleague"].commit("main", "main", hub.new_folder(), {"README.md": edited.encode()}, [])
    for words in (["push", run, "me/colleague"], ["push_to_hub", run, "me/colleague", "{}"]):
        done = hfgen(*words, code=2)
        assert "README.md in me/colleague was edited there" in done["err"]
        assert "--overwrite_card" in done["err"]
        assert not done["commits"]
    assert hub.files("me/colleague")["README.md"].decode() == edited
    merged = copied(run, tmp_path / "merged")
    (merged / "README.md").write_text(edited + "\nAnd more.\n")
    hfgen("push", merged, "me/colleague")
    assert "No faces." in hub.files("me/colleague")["README.md"].decode()
    hfgen("push", run, "me/colleague", "--overwrite_card")  # the card there is hfgen's own again
    assert "No faces." not in hub.files("me/colleague")["README.md"].decode()


def test_a_card_of_others_is_replaced_only_if_asked(hub, run, hfgen, tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\nMade on the page.\n")
    hub.add("me/made", tmp_path)
    assert "README.md in me/made was edited there, or is not of hfgen" in hfgen("push", run, "me/made", code=2)["err"]
    hfgen("push", run, "me/made", "--overwrite_card")
    assert "Made on the page" not in hub.files("me/made")["README.md"].decode()
