"""The ground of the measuring scripts: a file of results that survives a kill, and folders in parts of bounded size."""

import dataclasses
import importlib
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from core2d.app.errors import InputError
from core2d.toybox.dataset import draw
from core2d.toybox.scene import still

ROOT = Path(__file__).resolve().parents[2]
SOURCE = {"seed": 1, "code": "abc", "machine": {"cores": 2}, "versions": {}}


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("measure.measure")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "assets" / "toybox-sd"
    (folder / "vae").mkdir(parents=True)
    (folder / "vae" / "model.safetensors").write_bytes(b"one")
    (folder / "README.md").write_text("# A card")
    return folder


class Counter:
    """A measurement that says how often it was taken."""

    def __init__(self, value: float = 30.0) -> None:
        self.value, self.calls = value, 0

    def __call__(self) -> dict[str, float]:
        self.calls += 1
        return {"psnr": self.value, "pictures": 8}


def test_what_was_measured_is_not_measured_again_until_its_source_changes(measure, weights: Path, tmp_path: Path):
    counter = Counter()
    item = measure.Item("vae", "", counter, at_least={"psnr": 27}, needs=(weights,))
    calls = []

    def run(source=SOURCE, fresh=False) -> None:
        assert measure.run_items([item], measure.ResultFile(tmp_path / "a" / "quality.json", "prior"), source, fresh)
        calls.append(counter.calls)

    run()
    run()
    (weights / "README.md").write_text("# Another card")  # no weights
    (weights / "training.json").write_text("[]")
    run()
    assert calls == [1, 1, 1]
    (weights / "vae" / "model.safetensors").write_bytes(b"two")
    run()
    run(SOURCE | {"code": "abd"})
    run(SOURCE | {"code": "abd"}, fresh=True)
    assert calls[3:] == [2, 3, 4]


def test_a_record_holds_numbers_bars_and_their_source(measure, weights: Path, tmp_path: Path):
    bars = {"at_least": {"psnr": 27}, "at_most": {"pictures": 7}}
    results = measure.ResultFile(tmp_path / "quality.json", "prior")
    assert not measure.run_items([measure.Item("vae", "", Counter(), **bars)], results, SOURCE, False)
    record = json.loads((tmp_path / "quality.json").read_text())["items"]["vae"]
    assert record["numbers"] == {"psnr": 30.0, "pictures": 8}
    assert record["bars"] == {"psnr": {"at_least": 27, "passed": True}, "pictures": {"at_most": 7, "passed": False}}
    assert record["passed"] is False and record["seconds"] >= 0 and record["seed"] == 1
    assert not measure.Item("nan", "", Counter(), at_least={"psnr": 1}).bars({"psnr": float("nan")})["psnr"]["passed"]


def test_an_item_that_breaks_loses_nothing_else(measure, tmp_path: Path):
    path = tmp_path / "quality.json"
    first, beside = (measure.Item(name, "", Counter()) for name in ("first", "beside"))

    def interrupted() -> dict[str, float]:
        measure.run_items([beside], measure.ResultFile(path, "prior"), SOURCE, False)  # another process
        raise KeyboardInterrupt

    results = measure.ResultFile(path, "prior")
    with pytest.raises(KeyboardInterrupt):
        measure.run_items([first, measure.Item("second", "", interrupted)], results, SOURCE, False)
    assert list(json.loads(path.read_text())["items"]) == ["first", "beside"]
    results.add("third", {"numbers": {}})
    assert list(json.loads(path.read_text())["items"]) == ["first", "beside", "third"]
    assert [file.name for file in tmp_path.iterdir()] == ["quality.json"]


def test_an_item_waits_for_its_weights(measure, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    counter = Counter()
    item = measure.Item("vae", "", counter, needs=(tmp_path / "vae",))
    assert not measure.run_items([item], measure.ResultFile(tmp_path / "quality.json", "prior"), SOURCE, False)
    assert counter.calls == 0 and "waits for" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "[]", '{"suite": "mesh", "items": {}}'])
def test_a_file_that_is_not_these_results_is_refused(measure, tmp_path: Path, content: str):
    (tmp_path / "quality.json").write_text(content)
    with pytest.raises(InputError, match=r"quality\.json"):
        measure.ResultFile(tmp_path / "quality.json", "prior")


def test_unknown_items_are_refused(measure):
    items = [measure.Item(name, "", Counter()) for name in ("vae", "clip")]
    assert [item.name for item in measure.select(items, ["clip"])] == ["clip"]
    with pytest.raises(InputError, match="the items are vae, clip"):
        measure.select(items, ["vea"])


def test_the_table_tells_values_bars_and_verdicts(measure, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    item = measure.Item("vae", "", Counter(26.123456), at_least={"psnr": 27})
    results = measure.ResultFile(tmp_path / "quality.json", "prior")
    measure.run_items([item], results, SOURCE, False)
    measure.print_table([item], results)
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:] == ["| vae | psnr | 26.12 | >= 27 | **missed** |", "| vae | pictures | 8 |  |  |"]


def test_a_number_that_could_not_be_taken_misses_its_bar(measure):
    item = measure.Item("vae", "", Counter(), at_least={"psnr": 27, "ssim": 0.5})
    record = {"numbers": {"psnr": 30.0}, "bars": item.bars({"psnr": 30.0})}
    assert measure.table({"vae": record}).splitlines()[2:] == [
        "| vae | psnr | 30 | >= 27 | met |", "| vae | ssim | not measured | >= 0.5 | **missed** |"]  # fmt: skip


def test_facts_of_samples_are_kept_beside_the_numbers(measure, tmp_path: Path):
    path, samples = tmp_path / "quality.json", [{"prompt": "a red mug", "right": True}]
    item = measure.Item("meshes", "", lambda: ({"right": 1}, samples), at_least={"right": 1})
    for _ in range(2):  # the second time it is read back
        results = measure.ResultFile(path, "mesh")
        assert measure.run_items([item], results, SOURCE, False)
        assert results.records["meshes"]["samples"] == samples and results.records["meshes"]["numbers"] == {"right": 1}


def test_parts_of_a_measurement_stay_unless_it_is_to_be_fresh(measure, tmp_path: Path):
    kept = tmp_path / "parts"
    kept.mkdir()
    seen = []

    def count() -> dict[str, float]:
        seen.append(kept.exists())
        return {"parts": 1}

    item = measure.Item("meshes", "", count, keeps=kept)
    for source, fresh in ((SOURCE, False), (SOURCE | {"seed": 2}, False), (SOURCE, True)):
        measure.run_items([item], measure.ResultFile(tmp_path / "quality.json", "mesh"), source, fresh)
    assert seen == [True, True, False]


def test_tables_find_their_places_in_the_readme(measure, capsys: pytest.CaptureFixture[str]):
    update = importlib.import_module("update_readme")
    text = "# A\n<!-- quality-mesh -->\nold\n<!-- /quality-mesh -->\nend\n"
    found = update.with_tables(text, {"quality-mesh": "| new |", "speed-mesh": "| lost |"})
    assert found == "# A\n<!-- quality-mesh -->\n\n| new |\n\n<!-- /quality-mesh -->\nend\n"
    assert "no place for speed-mesh" in capsys.readouterr().err


def test_numbers_find_their_places_in_the_readme(measure):
    update = importlib.import_module("update_readme")
    results = {"quality-mesh": {"all": {"numbers": {"right": 0.917, "psnr": 35.84}}}}
    text = "| <!-- n quality-mesh all right % --> of | <!-- n quality-mesh all psnr -->1.2<!-- /n --> dB |"
    once = update.with_numbers(text, results)
    expected = "| <!-- n quality-mesh all right % -->92 %<!-- /n --> of "
    assert once == expected + "| <!-- n quality-mesh all psnr -->35.8<!-- /n --> dB |"
    assert update.with_numbers(once, results) == once
    with pytest.raises(KeyError):
        update.with_numbers("<!-- n quality-mesh all chamfer -->", results)


def test_split_folders_come_back_byte_for_byte(measure, weights: Path, tmp_path: Path):
    content = np.random.default_rng(0).bytes(40_000)
    (weights / "vae" / "model.safetensors").write_bytes(content)
    parts = measure.split_folder(weights, tmp_path / "out", largest=16_384)
    assert len(parts) == 4 and max(part.stat().st_size for part in parts) <= 16_384
    assert {path.name for path in (tmp_path / "out").iterdir()} == {part.name for part in parts} | {"toybox-sd.json"}
    measure.join_folder(tmp_path / "out" / "toybox-sd.json", tmp_path / "joined")
    assert (tmp_path / "joined" / "vae" / "model.safetensors").read_bytes() == content
    assert (tmp_path / "joined" / "README.md").read_text() == "# A card"

    parts[1].write_bytes(parts[0].read_bytes())
    with pytest.raises(InputError, match=r"tar\.001 is missing or damaged"):
        measure.join_folder(tmp_path / "out" / "toybox-sd.json", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_packed_stills_are_drawn_where_the_renderer_draws_them(measure):
    from core2d.kernels.raster import rasterize
    from core2d.toybox.render import render

    clip, faces, offsets = measure.packed_stills(3000, 2)
    seen = rasterize(clip, faces, offsets, 64, 64).mask
    body = torch.from_numpy(render([still(3000, index, kind="object") for index in range(2)], 64, 1).mask) > 0
    assert body.any() and bool((seen | ~body).all())  # a shadow on the ground is seen, too


@pytest.mark.skipif(torch.cuda.is_available(), reason="here the check would start")
def test_the_gpu_check_refuses_without_a_gpu(tmp_path: Path):
    call = [sys.executable, ROOT / "scripts" / "gpu_check.py", "--out", tmp_path / "out", "--runs", tmp_path / "runs"]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: gpu_check needs an NVIDIA GPU that torch can use; this machine has none\n"
    assert list(tmp_path.iterdir()) == []


def test_many_processes_draw_what_one_does(measure, tmp_path: Path):
    check = importlib.import_module("gpu_check")
    scene_of = partial(still, 0)
    check.draw_in_parallel(tmp_path / "many", scene_of, 21, 32)
    many, one = (draw(tmp_path / name, scene_of, 21, 32) for name in ("many", "one"))
    for field in dataclasses.fields(one):
        assert np.array_equal(getattr(many, field.name), getattr(one, field.name)), field.name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many", "one"]


def test_numbers_depend_on_what_their_script_imports_and_on_nothing_else(measure):
    found = {path.relative_to(measure.ROOT).as_posix() for path in measure.imported_files(Path(measure.__file__))}
    own = {"scripts/measure/measure.py", "core2d/app/provenance.py", "core2d/app/errors.py", "core2d/__init__.py"}
    assert own <= found
    assert "core2d/toybox/render.py" in found  # imported inside a function
    assert not any(path.startswith(("gen3d/", "tests/")) for path in found)
    entry = measure.ROOT / "gen3d" / "dreamfusion" / "pipeline.py"
    mesh = {path.relative_to(measure.ROOT / "gen3d").as_posix() for path in measure.imported_files(entry)
            if path.is_relative_to(measure.ROOT / "gen3d")}  # fmt: skip
    assert {"dreamfusion/task.py", "kernels/hash_grid/numba_kernel.py", "mesh/iso.py"} <= mesh
    assert "nerf/task.py" not in mesh
