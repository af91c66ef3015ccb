"""A fingerprint reads a bounded part of large data; small data, and old runs, count every byte."""

import hashlib
import json

import pytest

import trees
from torchsaliency.data import as_dataset, fingerprints, open_data
from torchsaliency.data.files import hash_of
from torchsaliency.evaluation import evaluate, make_plan
from torchsaliency.training import finetune, make_finetuning

FACTS = {"model": "builtin/shapes_cnn", "methods": "gradcam", "metrics": "ad", "workers": 0}


@pytest.fixture
def large(tmp_path, monkeypatch):
    """A folder of 60 images, of which the bound holds about a third."""
    for number in range(60):
        trees.image(tmp_path / "star" / f"{number}.png", (8, 6))
    size = (tmp_path / "star" / "0.png").stat().st_size
    monkeypatch.setattr(fingerprints, "READ_WHOLE", 20 * size)
    return tmp_path


def record_reads(data, monkeypatch):
    read = []
    mark = type(data).mark

    def watch(self, sample):
        read.append(sample.id)
        return mark(self, sample)

    monkeypatch.setattr(type(data), "mark", watch)
    return read


def change(path):
    path.write_bytes(path.read_bytes()[:-1] + b"!")


def test_small_data_has_the_fingerprint_of_the_first_version(tmp_path):
    trees.image(tmp_path / "star" / "0.png")
    data = open_data(tmp_path)
    lines = [
        json.dumps(["folder", ["star"], [], ["labels"]]),
        json.dumps(["star/0.png", 0, hash_of(tmp_path / "star" / "0.png")]),
    ]
    assert data.fingerprint() == hashlib.sha256("\n".join(lines).encode()).hexdigest()


def test_as_many_are_read_as_the_bound_holds(large, monkeypatch):
    data = open_data(large)
    read = record_reads(data, monkeypatch)
    first = data.fingerprint()
    assert first.startswith("sampled:")
    assert len(read) == len({*read}) == 20
    drawn = {*read}
    assert first == data.fingerprint() == data.fingerprint(like=first)
    assert {*read} == drawn
    whole = data.fingerprint(like="0" * 64)
    assert len(whole) == 64
    assert {*read} == {sample.id for sample in data.samples}
    # a change of the content is seen where it is read, one of the size everywhere
    seen, other = min(drawn), min({sample.id for sample in data.samples} - drawn)
    change(large / other)
    assert data.fingerprint() == first
    assert data.fingerprint(like=whole) != whole
    (large / other).write_bytes((large / other).read_bytes() + b"!")
    longer = data.fingerprint()
    change(large / seen)
    assert len({first, longer, data.fingerprint()}) == 3


def test_what_is_missed_is_as_often_missed_as_documented(large):
    data = open_data(large)
    sizes = dict.fromkeys(ids(data), fingerprints.READ_WHOLE // 20)
    drawn = {sample.id for sample in fingerprints._draw(data, sizes)}
    missed = [not drawn & {*ids(data.subset(count=3, seed=seed))} for seed in range(1, 501)]
    exact = (40 * 39 * 38) / (60 * 59 * 58)
    assert sum(missed) / 500 == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 500) ** 0.5)
    assert exact < (1 - 20 / 60) ** 3


def ids(data):
    return [sample.id for sample in data.samples]


def test_a_few_are_read_however_large_they_are(large, monkeypatch):
    monkeypatch.setattr(fingerprints, "READ_WHOLE", 1)
    data = open_data(large)
    read = record_reads(data, monkeypatch)
    data.fingerprint()
    assert len(read) == fingerprints.FEWEST_READ


def test_boxes_of_a_table_count_for_all_images(large):
    rows = "".join(f"star/{n}.png,star,0,0,4,{{}}\n" for n in range(60))
    table = large / "labels.csv"
    seen = set()
    for end in (4, 5):
        heads = rows.format(*[4] * 59, end)
        table.write_text(f"file,label,x0,y0,x1,y1\n{heads}")
        seen.add(open_data(large).fingerprint())
    assert len(seen) == 2


def test_of_data_from_python_so_many_images_are_read(monkeypatch):
    data = open_data("shapes:40")
    mine = as_dataset([data[n] for n in range(40)], name="mine")
    read = record_reads(mine, monkeypatch)
    assert len(mine.fingerprint()) == 64
    monkeypatch.setattr(fingerprints, "READ_WHOLE", 20 << 17)
    read.clear()
    assert mine.fingerprint().startswith("sampled:")
    assert len(read) == 20


def test_a_run_of_the_first_version_goes_on(large, tmp_path, monkeypatch):
    plan = make_plan({**FACTS, "data": str(large), "count": 30})
    with monkeypatch.context() as before:
        before.setattr(fingerprints, "READ_WHOLE", 1 << 40)
        begun = evaluate(plan, tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert len(facts["identity"]["fingerprint of the data"]) == 64
    assert evaluate(plan, tmp_path / "run").frame.equals(begun.frame)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert len(facts["identity"]["fingerprint of the data"]) == 64
    evaluate(plan, tmp_path / "new")
    facts = json.loads((tmp_path / "new" / "run.json").read_text())
    assert facts["identity"]["fingerprint of the data"].startswith("sampled:")
    evaluate(plan, tmp_path / "new")


def test_a_fine_tuning_of_the_first_version_goes_on(tmp_path, monkeypatch):
    facts = {"arch": "builtin/shapes_cnn", "head_epochs": 1, "epochs": 0, "workers": 0}
    data = open_data("shapes:64")
    mine = as_dataset([data[n] for n in range(64)], classes=data.classes, name="mine")
    settings = make_finetuning({**facts, "data": mine})
    assert finetune(settings, tmp_path).before == 0
    monkeypatch.setattr(fingerprints, "READ_WHOLE", 20 << 17)
    assert mine.fingerprint().startswith("sampled:")
    assert finetune(settings, tmp_path).before == 1
