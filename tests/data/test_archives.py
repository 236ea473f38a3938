"""Archives of images and shards of webdataset are read in place, or refused with the way on."""

import io
import os
import tarfile
import zipfile

import pytest
from stream_data import found, numbers, png, stream

from hfgen.data.decoding import Decoding
from hfgen.data.image_batches import image_batches
from hfgen.data.layout import Layout
from hfgen.data.load import load_images
from hfgen.errors import HFGenError, UsageError


def pack(path, members, compression=zipfile.ZIP_DEFLATED, mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(path, mode) as archive:
            for name, content in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return str(path)


def same(data, **options):
    """The images of an archive, read and streamed, by what their pixels say."""
    images, streamed = load_images(data, **options), found(data, **options)
    seen = [int(images.decode(index, 16)[0, 0, 1]) for index in range(len(images))]
    [table] = streamed.dataset.iter(1000)
    assert [png(number) for number in seen] == [record["bytes"] for record in table["image"].to_pylist()]
    assert (streamed.notes, streamed.label_names) == (images.notes, images.label_names)
    assert images.labels is None or table["label"].to_pylist() == images.labels.tolist()
    return images, seen


@pytest.mark.parametrize("name", ["photos.zip", "photos.tar", "Photos.ZIP"])
@pytest.mark.parametrize("top", ["", "photos/", "./"])
def test_an_archive_is_read_as_its_folder(tmp_path, name, top):
    members = {f"{top}{kind}/{n}.png": png(n) for n, kind in enumerate(["cat", "dog", "cat", "dog"])}
    members |= {f"{top}notes.txt": b"?", f"{top}.hidden/9.png": png(9), "__MACOSX/._0.png": b"?"}
    images, seen = same(pack(tmp_path / name, members))
    assert (images.label_names, seen, images.labels.tolist()) == (["cat", "dog"], [0, 2, 1, 3], [0, 0, 1, 1])
    assert images.notes == ["left out: 2 hidden or of the system, 1 .txt"]
    assert images.name_image(1) == "cat/2.png"


def test_shards_of_webdataset(tmp_path):
    for shard in range(2):
        members = {}
        for n in range(20):
            members |= {f"{n:03}.png": png(20 * shard + n), f"{n:03}.json": b"{}", f"{n:03}.cls": str(n % 3).encode()}
        pack(tmp_path / "wds" / f"{shard:05}.tar", members)
    images, seen = same(str(tmp_path / "wds"))
    assert (seen, images.num_classes) == (list(range(40)), 3)
    assert images.labels.tolist() == [n % 20 % 3 for n in range(40)]
    images, seen = same(str(tmp_path / "wds" / "00001.tar"))
    assert (seen, images.num_classes) == (list(range(20, 40)), 3)
    batches = stream(str(tmp_path / "wds"), Layout(40), class_conditional=True)
    [[batch]] = list(batches.steps(0, 1))
    assert [n % 20 % 3 for n in numbers(batch)] == batch["class_labels"].tolist()


@pytest.mark.parametrize(
    "names", [("train.zip", "test.zip"), ("x-train-000.tar", "x-train-001.tar", "x-test-000.tar")]
)
def test_archives_may_be_splits(tmp_path, names):
    for number, name in enumerate(names):
        pack(tmp_path / name, {f"{n}.png": png(10 * number + n) for n in range(3)})
    images, seen = same(str(tmp_path), split="test")
    last = 10 * (len(names) - 1)
    assert (seen, images.splits) == ([last, last + 1, last + 2], ["train", "test"])
    assert len(load_images(str(tmp_path))) == 3 * (len(names) - 1)


@pytest.mark.parametrize("member", ["../x.png", "/etc/x.png", "a/../../x.png", "..\\x.png", "C:\\x.png"])
@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
def test_a_member_that_leads_out_is_refused(tmp_path, name, member):
    data = pack(tmp_path / name, {"a.png": png(1), member: png(2)})
    with pytest.raises(UsageError, match="the member .* of a.(zip|tar) leads out of it"):
        load_images(data)


def test_links_and_devices_in_an_archive_are_not_images(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, kind, to in (("b.png", tarfile.SYMTYPE, "/etc/hosts"), ("c.png", tarfile.LNKTYPE, "a.png")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, to
            archive.addfile(link)
        device = tarfile.TarInfo("d.png")
        device.type = tarfile.FIFOTYPE
        archive.addfile(device)
        member = tarfile.TarInfo("a.png")
        member.size = len(png(1))
        archive.addfile(member, io.BytesIO(png(1)))
    assert same(str(tmp_path / "a.tar"))[1] == [1]


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar.bz2", "a.tar.xz", "a.7z", "a.rar"])
@pytest.mark.parametrize("inside", [False, True])
def test_what_is_compressed_as_a_whole_is_refused_with_the_way_on(tmp_path, name, inside):
    (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(UsageError, match="cannot be read one by one. Unpack it .* give the folder") as error:
        load_images(str(tmp_path if inside else tmp_path / name))
    assert len(str(error.value).splitlines()) == 1


def test_damaged_and_encrypted_archives_are_one_error(tmp_path):
    for name in ("a.zip", "b.tar"):
        (tmp_path / name).write_bytes(b"no archive at all" * 99)
        with pytest.raises(UsageError, match="is not an archive that can be read"):
            load_images(str(tmp_path / name))
    data = pack(tmp_path / "c.zip", {"a.png": png(1)})
    content = bytearray((tmp_path / "c.zip").read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "c.zip").write_bytes(content)
    with pytest.raises(UsageError, match="c.zip is encrypted. Unpack it"):
        load_images(data)


def test_a_member_that_unpacks_without_end_is_read_in_bounds(tmp_path, monkeypatch):
    monkeypatch.setattr("hfgen.data.archives.MOST_MEMBER", 10_000)
    data = pack(tmp_path / "a.zip", {"a.png": png(1), "b.png": bytes(10_000_000)})
    with pytest.raises(HFGenError, match="b.png cannot be read: it unpacks to more than 10,000 bytes"):
        load_images(data)
    data = pack(tmp_path / "b.zip", {"a.png": png(1), "b": bytes(10_000_000)})
    assert len(load_images(data)) == 1


def test_pictures_beside_archives(tmp_path):
    os.makedirs(tmp_path / "data")
    pack(tmp_path / "data" / "0.tar", {f"{n}.png": png(n) for n in range(30)})
    (tmp_path / "preview.png").write_bytes(png(99))
    assert len(load_images(str(tmp_path))) == 30, "one preview beside the shards of a dataset"
    for n in range(30):
        (tmp_path / f"{n}.png").write_bytes(png(n) + bytes(1000))
    images = load_images(str(tmp_path))
    assert (len(images), images.notes) == (31, ["left out: 1 .tar"])


def test_workers_read_archives(tmp_path):
    data = pack(tmp_path / "a.zip", {f"{n}.png": png(n) for n in range(8)})
    batches = image_batches(load_images(data), Decoding(16, num_workers=2), Layout(4), memory_limit=0)
    assert sorted(n for [batch] in batches.steps(0, 2) for n in numbers(batch)) == list(range(8))


def test_archives_with_a_text_table_beside_them(tmp_path):
    with zipfile.ZipFile(tmp_path / "train.zip", "w") as archive:
        archive.writestr("cat/0.png", png(1))
        archive.writestr("dog/0.png", png(2))
    (tmp_path / "train.csv").write_text("id,label\n0,cat\n")
    images = load_images(str(tmp_path))
    assert (len(images), images.label_names) == (2, ["cat", "dog"])
    assert "left out: 1 .csv" in images.notes
