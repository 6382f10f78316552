"""limbeck.sources.faces: persons in one split only, pairs as the file says or made the same in every run."""

from __future__ import annotations

import json
import zipfile
from itertools import combinations
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from limbeck.errors import LimbeckError
from limbeck.sources import places
from limbeck.sources.faces import FaceData, FaceSet, load_faces, made_pairs, parse_pairs
from limbeck.sources.faces.pairs import ten_folds


def write(root: Path, persons: int = 14, each: int = 4, size: int = 16, first: int = 0) -> Path:
    """Made faces: each person a coarse pattern of colours, each picture of it with noise."""
    for person in range(first, first + persons):
        generator = np.random.default_rng(person)
        pattern = np.kron(generator.integers(0, 256, (4, 4, 3)), np.ones((size // 4, size // 4, 1)))
        for number in range(1, each + 1):
            pixels = (pattern + generator.normal(0, 25, pattern.shape)).clip(0, 255).astype(np.uint8)
            path = root / f"p{person:02}" / f"p{person:02}_{number:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return root


def splits(data: FaceData) -> dict[str, FaceSet]:
    return {"train": data.train, "validation": data.validation, "test": data.test}


def same_person(split: FaceSet) -> None:
    assert split.pairs is not None
    assert torch.equal(split.labels[split.pairs.first] == split.labels[split.pairs.second], split.pairs.same)


def test_nobody_is_in_two_splits(tmp_path: Path) -> None:
    """A model that is measured on persons it was trained on; splits or pairs that are others in the next run."""
    root = write(tmp_path)
    data, again = load_faces(f"folder:{root}", validation=0.3), load_faces(f"folder:{root}", validation=0.3)
    persons = {name: set(split.classes) for name, split in splits(data).items()}
    for one, other in combinations(persons.values(), 2):
        assert not one & other
    assert set().union(*persons.values()) == {f"p{person:02}" for person in range(14)}
    assert data.train.pairs is None
    for name in ("validation", "test"):
        mine, theirs = splits(data)[name], splits(again)[name]
        same_person(mine)
        assert torch.equal(mine.ids, theirs.ids)
        assert mine.pairs is not None
        assert theirs.pairs is not None
        assert torch.equal(mine.pairs.first, theirs.pairs.first)
        assert torch.equal(mine.pairs.second, theirs.pairs.second)
    assert data.classes == ()
    batch = data.test.__getitems__([0, 1])
    assert batch.keys() == {"inputs", "labels", "ids", "views"}
    assert batch["inputs"].abs().max() <= 1.0


def test_made_pairs_are_balanced_and_share_no_person_between_folds() -> None:
    """A threshold that is chosen on a person on whom it is tried; pairs that are there twice or of a picture itself."""
    labels = torch.arange(40).repeat_interleave(3)
    pairs = made_pairs(labels, [f"p{at}" for at in range(40)], torch.arange(120), "faces")
    assert torch.equal(labels[pairs.first] == labels[pairs.second], pairs.same)
    assert bool((pairs.first != pairs.second).all())
    keys = [tuple(sorted(pair)) for pair in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)]
    assert len(set(keys)) == len(keys)
    assert int(pairs.same.sum()) == 120  # three of each person
    owners = [set(labels[pairs.first[mine]].tolist()) | set(labels[pairs.second[mine]].tolist())
              for mine in (pairs.folds == fold for fold in range(10))]  # fmt: skip
    assert all(not one & other for one, other in combinations(owners, 2))
    for fold in range(10):
        mine = pairs.same[pairs.folds == fold]
        assert int(mine.sum()) == int((~mine).sum()) == 12
    with pytest.raises(LimbeckError, match="at least four persons"):
        made_pairs(torch.tensor([0, 0, 1, 1, 2]), ["a", "b", "c"], torch.arange(5), "faces")
    with pytest.raises(LimbeckError, match="2 pictures are of unknown persons"):
        made_pairs(torch.cat([labels, torch.tensor([-1, -1])]), [f"p{at}" for at in range(40)], torch.arange(122), "f")


def test_a_pairs_file_says_who_is_tested(tmp_path: Path) -> None:
    """A pair of other pictures than the line names; a person of the file who stays in training; folds that are lost."""
    root = write(tmp_path / "faces", each=3)
    lines = []
    for fold in range(2):
        people = [f"p{2 * fold:02}", f"p{2 * fold + 1:02}"]
        lines += [f"{person}\t1\t3" for person in people] + [f"{people[0]}\t{at}\t{people[1]}\t2" for at in (1, 2)]
    path = tmp_path / "pairs.txt"
    path.write_text("2\t2\n" + "\n".join(lines) + "\n")
    data = load_faces(f"folder:{root}", pairs=str(path), validation=0.4)
    assert set(data.test.classes) == {"p00", "p01", "p02", "p03"}
    assert not set(data.train.classes) & set(data.test.classes)
    same_person(data.test)
    pairs = data.test.pairs
    assert pairs is not None
    assert pairs.folds.tolist() == [0] * 4 + [1] * 4
    assert pairs.same.tolist() == [True, True, False, False] * 2
    pixels = np.asarray(Image.open(root / "p01" / "p01_0003.png")).transpose(2, 0, 1)
    assert np.array_equal(data.test.pixels(pairs.second[1:2])[0].numpy(), pixels)


def test_other_forms_of_pairs() -> None:
    """Paths with 1 or 0 read as LFW's numbers; folds of a file that says none."""
    pictures = [f"p{person}/p{person}_{number:04}.jpg" for person in range(4) for number in range(1, 31)]
    listed, folds = parse_pairs("p0/p0_0001.jpg, p0/p0_0002, 1\np1/p1_0001.jpg p2/p2_0001.jpg 0", "pairs", pictures)
    assert [(line.first, line.same) for line in listed] == [(pictures[0], True), (pictures[30], False)]
    assert folds.tolist() == [0, 0]
    blocks = "".join(f"p0 1 {at}\n" for at in range(2, 12)) + "".join(f"p0 1 p1 {at}\n" for at in range(2, 12))
    shuffled = "".join(f"p0 1 {at}\np0 1 p1 {at}\n" for at in range(2, 30))
    for text, least, most in ((blocks + blocks, 2, 2), (shuffled, 2, 3), ("28\n" + shuffled, 2, 3)):
        listed, folds = parse_pairs(text, "pairs", pictures)
        same = np.array([line.same for line in listed])
        for kind in (same, ~same):
            counts = np.bincount(folds[kind], minlength=10)
            assert (len(counts), counts.min(), counts.max()) == (10, least, most)
        assert parse_pairs(text, "pairs", pictures)[1].tolist() == folds.tolist()
    kept = parse_pairs("2 10\n" + blocks + blocks, "pairs", pictures)[1]
    assert kept.tolist() == [0] * 20 + [1] * 20


def test_folds_do_not_follow_the_order_of_a_file() -> None:
    """A fold of neighbours, which are of few persons as files are sorted by name; every tenth line, which of a file
    with ten lines a person is one picture's."""
    same = np.arange(600) < 300
    folds = ten_folds(same)
    for begin in range(0, 600, 100):
        assert len(np.unique(folds[begin : begin + 100])) == 10
    for fold in range(10):
        mine = np.flatnonzero(folds == fold)
        assert (int(same[mine].sum()), len(mine)) == (30, 60)
        assert len(np.unique(mine % 10)) > 5


def test_labelled_hides_persons(tmp_path: Path) -> None:
    """Labels hidden by picture, so that all persons are known; numbers of persons that nobody knows; other persons for
    another share."""
    data = load_faces(f"folder:{write(tmp_path, persons=20)}")
    half = data.train.knowing(0.5)
    known = half.labels >= 0
    hidden = {name for name in data.train.classes if name not in half.classes}
    assert len(half.classes) == len(hidden) == len(data.train.classes) // 2
    for at in range(len(half)):
        name = data.train.classes[int(data.train.labels[at])]
        assert bool(known[at]) == (name in half.classes)
        if known[at]:
            assert half.classes[int(half.labels[at])] == name
    assert torch.equal(half.ids, data.train.ids)
    assert set(data.train.knowing(3).classes) <= set(half.classes)
    with pytest.raises(LimbeckError, match="from 2 to"):
        data.train.knowing(1)


def test_subsets_keep_the_pairs_among_them(tmp_path: Path) -> None:
    """Pairs of positions that are others in a subset."""
    test = load_faces(f"folder:{write(tmp_path)}").test
    few = test.subset(torch.arange(0, len(test), 2))
    same_person(few)
    assert few.pairs is not None
    assert test.pairs is not None
    assert 0 < len(few.pairs) < len(test.pairs)


def test_splits_of_the_author_and_unknown_persons(tmp_path: Path) -> None:
    """A split that is cut anew; a person who is in training and in test; pictures of nobody in particular."""
    root = tmp_path / "faces"
    write(root / "train", persons=6)
    write(root / "val", persons=4, first=6)
    write(root / "test", persons=4, first=10)
    (root / "train" / "unlabelled").mkdir()
    Image.new("L", (16, 16), 90).save(root / "train" / "unlabelled" / "grey.png")
    Image.new("RGBA", (20, 16), (10, 20, 30, 40)).save(root / "train" / "unlabelled" / "clear.png")
    data = load_faces(f"folder:{root}")
    assert [len(split.classes) for split in splits(data).values()] == [6, 4, 4]
    assert int((data.train.labels < 0).sum()) == 2
    assert data.train.__getitems__([0])["inputs"].shape == (1, 3, 16, 16)
    write(root / "test", persons=1, first=2)
    with pytest.raises(LimbeckError, match=r"'p02' is in test and in train \(1 persons"):
        load_faces(f"folder:{root}")
    other = write(tmp_path / "others", persons=4, first=20)
    assert set(load_faces(f"folder:{root}", test=str(other)).test.classes) == {"p20", "p21", "p22", "p23"}


def test_pairs_of_unknown_persons_are_refused(tmp_path: Path) -> None:
    """Two pictures of nobody in particular taken for one person."""
    root = write(tmp_path / "faces", persons=12, each=2)
    (root / "unlabelled").mkdir()
    for name in ("a", "b"):
        Image.new("L", (16, 16), 90).save(root / "unlabelled" / f"{name}.png")
    path = tmp_path / "pairs.txt"
    lines = ["p00 1 2", "p01 1 2", "p00 1 p01 2", "p00 2 p01 1", "p02 1 2", "p03 1 2"]
    for named, same in (("unlabelled/b", 1), ("p00/p00_0001", 0)):
        path.write_text("\n".join([*lines, f"unlabelled/a {named} {same}"]))
        with pytest.raises(LimbeckError, match=r"line 7: nobody knows who is in 'unlabelled/a\.png'"):
            load_faces(f"folder:{root}", pairs=str(path), validation=0.4)


@pytest.mark.parametrize("unknown", [None, "-1"])
def test_a_data_set_of_unknown_persons(tmp_path: Path, unknown: str | None) -> None:
    """Test pictures without a name counted as those of one person."""
    persons = [f"p{at // 2}" for at in range(24)]
    pictures = [Image.fromarray(np.full((16, 16, 3), 5 * at, np.uint8)) for at in range(24)]

    def part(names: list[str | None], first: int) -> datasets.Dataset:
        columns = {"image": pictures[first : first + len(names)], "label": names}
        return datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())

    train = part([*persons[:14], unknown, unknown], 0)
    for names, said in ((persons[16:], None), ([*persons[16:22], unknown, unknown], "2 pictures of the test split")):
        folder = tmp_path / f"set{said is None}"
        datasets.DatasetDict({"train": train, "test": part(list(names), 16)}).save_to_disk(str(folder))
        if said is None:
            assert int((load_faces(f"datasets:{folder}", validation=0.5).train.labels < 0).sum()) == 2
        else:
            with pytest.raises(LimbeckError, match=said):
                load_faces(f"datasets:{folder}", validation=0.5)


def test_a_turned_and_a_broken_picture(tmp_path: Path) -> None:
    """A photo that lies on its side, and a file that ends too soon without its name in the error."""
    root = write(tmp_path)
    upright = Image.new("RGB", (16, 16), (255, 0, 0))
    upright.paste((0, 0, 255), (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    turned = root / "p00" / "p00_0001.png"
    upright.rotate(90).save(turned, exif=exif)
    data = load_faces(f"folder:{root}")
    at = {int(one): (split, place) for split in splits(data).values() for place, one in enumerate(split.ids)}
    from limbeck.sources.ids import text_ids

    split, place = at[int(text_ids(["p00/p00_0001.png"])[0])]
    assert np.array_equal(split.pixels(torch.tensor([place]))[0].numpy(), np.asarray(upright).transpose(2, 0, 1))
    turned.write_bytes(turned.read_bytes()[:40])
    with pytest.raises(LimbeckError, match=r"p00_0001\.png: not a readable image"):
        load_faces(f"folder:{root}")


def test_lfw_as_it_is_shared(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of another person under a name, or folds that are not ten; read without decoding all of it."""
    path = data_root / "vision" / "lfw_aligned112.zip"
    if not path.is_file():
        pytest.skip(f"{path} not found: set LIMBECK_DATA")
    from limbeck.sources.faces.reading import read_lfw

    monkeypatch.setenv(places.VARIABLE, str(data_root))
    found = read_lfw()
    train, test = found.parts["train"], found.parts["test"]
    assert (len(train.encoded), len(set(train.persons))) == (2327, 593)
    assert (len(test.encoded), len(set(test.persons))) == (1583, 844)
    assert not set(train.persons) & set(test.persons)
    assert found.pairs is not None
    lines, folds = parse_pairs(*found.pairs, test.paths)
    same = np.array([line.same for line in lines])
    assert [np.bincount(folds[kind]).tolist() for kind in (same, ~same)] == [[60] * 10, [60] * 10]
    assert all((line.first.partition("/")[0] == line.second.partition("/")[0]) == line.same for line in lines)


def test_a_small_lfw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zip that is broken or missing, without a word of which file."""
    monkeypatch.setenv(places.VARIABLE, str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(LimbeckError, match=r"lfw_aligned112\.zip is not in .*LIMBECK_DATA"):
        load_faces("lfw")
    write(tmp_path / "made", persons=14, each=2)
    names = sorted(path.relative_to(tmp_path / "made").as_posix() for path in (tmp_path / "made").rglob("*.png"))
    lines = ["p00\t1\t2", "p01\t1\t2", "p00\t1\tp01\t2", "p01\t1\tp00\t2"]
    with zipfile.ZipFile(tmp_path / "lfw_aligned112.zip", "w") as archive:
        archive.writestr("train.txt", "\n".join(names[4:]))
        archive.writestr("test.txt", "\n".join(names[:4]))
        archive.writestr("pairs_test.txt", "\n".join(lines))
        for name in names:
            archive.write(tmp_path / "made" / name, f"images/{name}")
    data = load_faces("lfw", size=16, validation=0.4)
    assert data.test.classes == ("p00", "p01")
    assert len(data.test.pairs or ()) == 4
    assert data.test.aligned_on is not None
    assert set(data.test.aligned_on.ids.tolist()) == set(data.train.ids.tolist())
    (tmp_path / "lfw_aligned112.zip").write_bytes(b"not a zip")
    with pytest.raises(LimbeckError, match=r"lfw_aligned112\.zip: cannot read train\.txt"):
        load_faces("lfw")


def test_a_data_set(tmp_path: Path) -> None:
    """A column of persons that is taken for classes which training must have."""
    root = tmp_path / "set"
    for split, persons, first in (("train", 9, 0), ("test", 4, 9)):
        write(root / split, persons=persons, first=first)
    data = load_faces(f"datasets:{root}", validation=0.4)
    assert len(data.test.classes) == 4
    assert not set(data.train.classes) & set(data.validation.classes)
    same_person(data.test)
    with pytest.raises(LimbeckError, match="has no names of pictures"):
        load_faces(f"datasets:{root}", pairs="pairs.txt")


def test_mistakes_are_named(tmp_path: Path) -> None:
    """Each in one line that says where."""
    root = write(tmp_path / "faces", persons=12, each=2)
    path = tmp_path / "pairs.txt"
    for text, said in (
        ("p00 1 2\np00 1 p01 9", r"line 2: there is no picture 'p01/p01_0009'"),
        ("p00 1 2\np00 1 p01", r"line 2: expected NAME 1 4"),
        ("p00/p00_0001.png p01/p01_0001.png 1\np00 1 p01 1", "line 1: says that .* show one person"),
        ("p00 1 2\np01 1 2", "all pairs are of one kind"),
        (
            "2 1\np00 1 2\np00 1 p01 2\np01 1 2",
            "says 2 folds of 1 pairs .* 4 lines, .* are 3: 1 are missing",
        ),
        ("1\np00 1 2\np00 1 p01 2\np01 1 2", "first line says 1 fold of 1 pairs .*, 2 lines, .* 3: 1 are too many"),
        ("", "no pairs in it"),
    ):
        path.write_text(text)
        with pytest.raises(LimbeckError, match=said):
            load_faces(f"folder:{root}", pairs=str(path))
    with pytest.raises(LimbeckError, match="not a readable pairs file"):
        load_faces(f"folder:{root}", pairs=str(tmp_path / "nowhere.txt"))
    with pytest.raises(LimbeckError, match="is not known as faces; did you mean 'lfw'"):
        load_faces("lwf")
    with pytest.raises(LimbeckError, match="no such folder"):
        load_faces(f"folder:{tmp_path / 'nowhere'}")
    with pytest.raises(LimbeckError, match=r"data\.test: is of folder"):
        load_faces("lfw", test="x")
    few = write(tmp_path / "few", persons=4)
    with pytest.raises(LimbeckError, match="cannot hold out 4 of 4 persons"):
        load_faces(f"folder:{few}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(LimbeckError, match="the train split is empty"):
        load_faces(f"folder:{tmp_path / 'empty'}")
    json.dumps(load_faces(f"folder:{root}", validation=0.4).test.prepared_as())  # plain values, as manifests write them
