"""Files: right axes, right colours, valid, whole or absent, and back again."""

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from helpers.gltf_validator import validate
from helpers.mesh_fields import ARROWS, BOX, arrows, checker, mug, psnr, quad, soft

from core2d.app.errors import InputError
from core2d.prior.cameras import degrees, orbit
from gen3d.mesh import MESH_SUFFIXES, TexturedMesh, build_mesh, check_mesh, load_mesh, render_mesh, save_mesh

VIEWS = orbit(degrees([20, 200]), degrees([25, 25]), 2.6)
Y_UP = {"up": (0, 1.0, 0), "front": (0, 0, 0.7), "left": (0.4, 0, 0)}  # glTF: front +Z, left side +X


@pytest.fixture(scope="module")
def painted() -> TexturedMesh:
    return build_mesh(soft(mug, 200.0), checker, BOX, 48, face_budget=2500, texture_size=512)[0]


def raw(path: Path) -> trimesh.Trimesh:
    """What stands in a file, axes as they are."""
    return trimesh.load_scene(path, process=False).to_mesh()


def tree_of(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    (length,) = struct.unpack_from("<I", content, 12)
    return json.loads(content[20 : 20 + length])


def has_point(vertices: np.ndarray, point: tuple[float, ...]) -> bool:
    return bool((np.abs(vertices - np.array(point)).max(1) < 1e-6).any())


@pytest.mark.parametrize("suffix", MESH_SUFFIXES)
def test_arrows_land_right(suffix: str, tmp_path: Path) -> None:
    (path,) = [file for file in save_mesh(tmp_path / f"arrows{suffix}", arrows()) if file.suffix == suffix]
    expected = Y_UP if suffix in (".glb", ".obj") else ARROWS
    written = raw(path)
    for name, tip in expected.items():
        assert has_point(written.vertices, tip), name
    assert written.volume == pytest.approx(check_mesh(arrows()).volume)  # no mirror
    back = load_mesh(path)
    for index, (name, tip) in enumerate(ARROWS.items()):
        assert has_point(back.vertices, tip), name
        if suffix != ".stl":
            at = np.abs(back.vertices - np.array(tip)).max(1).argmin()
            assert back.colors is not None and back.colors[at].tolist() == (np.eye(3)[index] * 255).tolist()
    assert check_mesh(back).volume == pytest.approx(check_mesh(arrows()).volume)


@pytest.mark.parametrize("suffix", MESH_SUFFIXES)
def test_a_mesh_comes_back(suffix: str, painted: TexturedMesh, tmp_path: Path) -> None:
    before = check_mesh(painted)
    files = save_mesh(tmp_path / "deep" / f"a mug #1{suffix}", painted)
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == sorted(path.name for path in files)
    back = load_mesh(files[0])
    after = check_mesh(back)
    assert after.problems == before.problems == ()
    assert (after.faces, after.euler, after.bodies) == (before.faces, before.euler, before.bodies)
    assert after.volume == pytest.approx(before.volume, rel=1e-6) and after.bounds == before.bounds
    if suffix in (".glb", ".obj"):
        assert np.array_equal(back.texture, painted.texture)  # pyright: ignore[reportArgumentType]
        assert after.texture_coverage == pytest.approx(before.texture_coverage)
        found, expected = render_mesh(back, VIEWS, 96), render_mesh(painted, VIEWS, 96)
        assert psnr(found, expected) > 50
    else:
        assert back.uv is back.texture is None and (back.colors is None) == (suffix == ".stl")


def test_from_format_to_format(painted: TexturedMesh, tmp_path: Path) -> None:
    mesh, expected = painted, render_mesh(painted, VIEWS, 96)
    for name in ("1.glb", "2.obj", "3.glb", "4.ply", "5.glb", "6.obj", "7.ply"):
        mesh = load_mesh(save_mesh(tmp_path / name, mesh)[0])
        report = check_mesh(mesh)
        assert report.problems == () and report.faces == len(painted.faces)
        if name == "3.glb":
            assert psnr(render_mesh(mesh, VIEWS, 96), expected) > 50
        if name == "4.ply":
            colors = mesh.colors
    assert mesh.colors is not None and mesh.texture is None
    lost = np.abs(mesh.colors.astype(int).mean(0) - colors.astype(int).mean(0))  # pyright: ignore
    assert lost.max() < 1e-6


@pytest.mark.parametrize("suffix", [".glb", ".obj"])
def test_a_texture_stands_upright_in_a_file(suffix: str, tmp_path: Path) -> None:
    texture = np.random.default_rng(1).integers(0, 256, (8, 8, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    path = save_mesh(tmp_path / f"quad{suffix}", quad(texture))[0]
    camera = orbit(0.0, 0.0, 3.0)
    assert psnr(render_mesh(load_mesh(path), camera, 96), render_mesh(quad(texture), camera, 96)) > 60
    if suffix == ".obj":  # v counts from the bottom: the corner at the top has 1
        rows = [line.split() for line in path.read_text().splitlines()]
        corners = {tuple(row[1:]) for row in rows if row[0] == "vt"}
        top = {row[1].split("/")[1] for row in rows if row[0] == "f"}
        assert corners == {("0", "1"), ("1", "1"), ("1", "0"), ("0", "0")} and top == {"1"}
        assert next(row[1:] for row in rows if row[0] == "vt") == ["0", "1"]
    else:
        content, tree = path.read_bytes(), tree_of(path)
        view = tree["bufferViews"][tree["accessors"][tree["meshes"][0]["primitives"][0]["attributes"]["TEXCOORD_0"]]
                                   ["bufferView"]]  # fmt: skip
        start = content.index(b"BIN\0") + 4 + view["byteOffset"]
        uv = np.frombuffer(content[start : start + view["byteLength"]], "<f4").reshape(-1, 2)
        assert uv.tolist() == [[0, 0], [1, 0], [1, 1], [0, 1]]  # glTF counts from the top


def test_a_glb_is_valid_and_says_what_it_should(painted: TexturedMesh, tmp_path: Path) -> None:
    path = save_mesh(tmp_path / "mug.glb", painted)[0]
    issues = validate(path)["issues"]
    assert issues["numErrors"] == issues["numWarnings"] == 0, issues["messages"]
    tree = tree_of(path)
    primitive = tree["meshes"][0]["primitives"][0]
    position = tree["accessors"][primitive["attributes"]["POSITION"]]
    low, high = painted.bounds.tolist()
    assert position["min"] == [low[1], low[2], low[0]] and position["max"] == [high[1], high[2], high[0]]
    material = tree["materials"][primitive["material"]]["pbrMetallicRoughness"]
    assert material == {"metallicFactor": 0, "roughnessFactor": 1, "baseColorTexture": {"index": 0}}
    assert tree["images"][0]["mimeType"] == "image/png" and "uri" not in json.dumps(tree)
    assert set(primitive["attributes"]) == {"POSITION", "NORMAL", "TEXCOORD_0"}


def test_other_glbs_are_valid_too(painted: TexturedMesh, tmp_path: Path) -> None:
    flat = replace(painted, uv=None, texture=None, faces=np.concatenate([painted.faces, [[0, 0, 0]]]))
    for index, mesh in enumerate((arrows(), replace(arrows(), colors=None), flat)):
        issues = validate(save_mesh(tmp_path / f'näme "{index}".glb', mesh)[0])["issues"]
        assert issues["numErrors"] == issues["numWarnings"] == 0, issues["messages"]


def test_the_validator_would_notice(tmp_path: Path) -> None:
    path = save_mesh(tmp_path / "arrows.glb", arrows())[0]
    path.write_bytes(path.read_bytes().replace(b'"max":[', b'"may":['))
    assert validate(path)["issues"]["numErrors"] > 0


def test_the_same_mesh_gives_the_same_bytes(painted: TexturedMesh, tmp_path: Path) -> None:
    for suffix in MESH_SUFFIXES:
        first = save_mesh(tmp_path / "1" / f"mug{suffix}", painted)
        second = save_mesh(tmp_path / "2" / f"mug{suffix}", painted)
        assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("suffix", MESH_SUFFIXES)
def test_nothing_half_written_stays(
    suffix: str, failure: BaseException, painted: TexturedMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_mesh(tmp_path / f"mug{suffix}", arrows())[0]
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    write = Path.write_bytes
    writes = []

    def fail_on_the_last(self: Path, content: bytes) -> int:
        writes.append(self)
        if len(writes) == (3 if suffix == ".obj" else 1):
            write(self, content[:100])
            raise failure
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", fail_on_the_last)
    with pytest.raises(type(failure)):
        save_mesh(path, painted)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_outputs_that_cannot_be_written(painted: TexturedMesh, tmp_path: Path) -> None:
    (tmp_path / "folder.glb").mkdir()
    (tmp_path / "mug_texture.png").mkdir()
    (tmp_path / "file").touch()
    for name, words in {
        "mug.fbx": "must end in one of .glb, .obj, .ply, .stl",
        "folder.glb": "it is a folder",
        "mug.obj": "mug_texture.png: it is a folder",
        "file/mug.glb": "cannot write",
    }.items():
        with pytest.raises(InputError, match=words):
            save_mesh(tmp_path / name, painted)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.glb", "mug_texture.png"]


def test_inputs_that_cannot_be_read(painted: TexturedMesh, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no mesh at"):
        load_mesh(tmp_path / "absent.glb")
    with pytest.raises(InputError, match=r"must end in one of \.glb, \.gltf"):
        load_mesh(tmp_path / "mug.blend")
    whole = save_mesh(tmp_path / "whole.glb", painted)[0].read_bytes()
    huge = whole.replace(f'"count":{len(painted.vertices)}'.encode(), b'"count":9999999999')
    for suffix, content in (
        *((suffix, content) for suffix in MESH_SUFFIXES for content in (b"", b"\0\xff not a mesh" * 40)),
        (".glb", whole[: len(whole) // 2]),
        (".glb", huge),
        (".obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\n"),
        (".obj", b"v 0 0 0\nv 1 0 nan\nv 0 1 0\nf 1 2 3\n"),
        (".obj", b"v 0 0 0\nv 1 0 0\nf 1 2 9\n"),
    ):
        path = tmp_path / f"bad{suffix}"
        path.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read as a mesh") as caught:
            load_mesh(path)
        assert "\n" not in str(caught.value)
