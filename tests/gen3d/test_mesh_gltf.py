"""glTF of others: everything in it that moves a vertex or changes a colour is followed, or refused by name."""

import base64
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from helpers.gltf_validator import validate
from helpers.gltf_writer import CORNERS, FACES, PLACES, Gltf, png
from helpers.mesh_fields import arrows
from helpers.mesh_looks import BLUE, GREEN, PICTURE, QUARTERS, RED, SAND, is_near, quarters
from PIL import Image

from core2d.app.errors import InputError
from core2d.prior.cameras import gltf_to_world
from gen3d.mesh import TexturedMesh, check_mesh, load_mesh, save_mesh
from gen3d.mesh.export import linear, srgb


def times(colors: np.ndarray, *factors: list[float]) -> np.ndarray:
    """sRGB colours times factors in linear light."""
    return srgb(linear(colors) * np.prod(np.array(factors), axis=0))


def positions_of(gltf: Gltf, path: Path) -> np.ndarray:
    """Where the vertices of a file stand, in the axes of glTF."""
    world = load_mesh(gltf.save(path)).vertices
    return world @ gltf_to_world(torch.eye(3)).numpy().T


# -- arrays ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16])
def test_quantised_arrays_are_what_they_stand_for(dtype: type, normalized: bool, tmp_path: Path) -> None:
    most = int(np.iinfo(dtype).max)
    signed = np.iinfo(dtype).min < 0
    share = CORNERS * 2 if signed else CORNERS + 0.5  # in [-1, 1] or [0, 1]
    size = 1.0 if normalized else 1 / most
    gltf = Gltf()
    transform = {"KHR_texture_transform": {"scale": [1 / most, 1 / most]}} if not normalized else {}
    material = gltf.material(gltf.texture(PICTURE, wrapS=33071, wrapT=33071), extensions=transform)
    attributes = {
        "POSITION": gltf.positions(np.rint(share * most).astype(dtype), normalized=normalized),
        "TEXCOORD_0": gltf.array(np.rint(PLACES * most).astype(dtype), normalized=normalized),
    }
    mesh = gltf.mesh(attributes, gltf.array(FACES.reshape(-1), vertices=False), material=material)
    span = size / (2 if signed else 1)
    gltf.node(mesh=mesh, scale=[span] * 3, translation=[0, 0, 0] if signed else [-0.5, -0.5, -0.5])
    gltf.uses("KHR_mesh_quantization")
    if transform:
        gltf.uses("KHR_texture_transform", required=False)
    path = gltf.save(tmp_path / "quantised.glb")
    assert validate(path)["issues"]["numErrors"] == 0
    mesh = load_mesh(path)
    np.testing.assert_allclose(mesh.bounds[1] - mesh.bounds[0], [0, 1, 1], atol=1e-6)
    assert is_near(quarters(mesh), QUARTERS)


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize(
    ("dtype", "normalized"),
    [(np.uint8, True), (np.uint16, True), (np.float32, False), *((d, False) for d in (np.uint8, np.uint16))],
)
def test_colours_of_vertices_whatever_their_type(dtype: type, normalized: bool, alpha: bool, tmp_path: Path) -> None:
    expected = np.array([RED, GREEN, BLUE, SAND], np.uint8)
    light = linear(expected).astype(np.float64)
    if alpha:
        light = np.concatenate([light, np.full((4, 1), 0.3)], 1)
    values = light.astype(dtype) if dtype is np.float32 else np.rint(light * np.iinfo(dtype).max).astype(dtype)
    gltf = Gltf()
    gltf.node(mesh=gltf.quad(COLOR_0=gltf.array(values, normalized=normalized)))
    mesh = load_mesh(gltf.save(tmp_path / "colours.glb"))
    assert mesh.texture is None and mesh.colors is not None
    assert is_near(mesh.colors, expected, 0 if dtype is not np.uint8 else 5)  # eight bits of linear light are coarse


def test_interleaved_arrays_are_taken_apart(tmp_path: Path) -> None:
    gltf = Gltf()
    colors = linear(np.array([RED, GREEN, BLUE, SAND]))
    rows = np.concatenate([CORNERS, PLACES, colors], 1).astype(np.float32)  # 32 bytes a vertex
    view = gltf.view(bytes(12) + rows.tobytes(), byteStride=32)
    whole = {"bufferView": view, "componentType": 5126, "count": 4}
    bounds = {"min": CORNERS.min(0).tolist(), "max": CORNERS.max(0).tolist()}
    attributes = {
        "POSITION": gltf.add("accessors", {**whole, "byteOffset": 12, "type": "VEC3", **bounds}),
        "TEXCOORD_0": gltf.add("accessors", {**whole, "byteOffset": 24, "type": "VEC2"}),
        "COLOR_0": gltf.add("accessors", {**whole, "byteOffset": 32, "type": "VEC3"}),
    }
    gltf.node(mesh=gltf.mesh(attributes, gltf.array(FACES.reshape(-1), vertices=False)))
    mesh = load_mesh(gltf.save(tmp_path / "rows.glb"))
    assert mesh.colors is not None and mesh.colors.tolist() == [list(c) for c in (RED, GREEN, BLUE, SAND)]
    np.testing.assert_allclose(mesh.vertices, np.roll(CORNERS, 1, axis=1))


@pytest.mark.parametrize("based", [True, False])
def test_sparse_arrays(based: bool, tmp_path: Path) -> None:
    gltf = Gltf()
    rows = np.array([1, 2], np.uint16) if based else np.arange(4, dtype=np.uint16)
    moved = CORNERS + np.array([0, 0, 0.25]) if not based else CORNERS[[1, 2]] - [0, 1, 0]
    index = gltf.positions(CORNERS)
    accessor = gltf.tree["accessors"][index]
    if not based:
        del accessor["bufferView"]
    accessor["sparse"] = {
        "count": len(rows),
        "indices": {"bufferView": gltf.view(rows.tobytes()), "componentType": 5123},
        "values": {"bufferView": gltf.view(moved.astype(np.float32).tobytes())},
    }
    gltf.node(mesh=gltf.mesh({"POSITION": index}, gltf.array(FACES.reshape(-1), vertices=False)))
    expected = moved if not based else np.concatenate([CORNERS[:1], moved, CORNERS[3:]])
    np.testing.assert_allclose(positions_of(gltf, tmp_path / "sparse.glb"), expected, atol=1e-7)


@pytest.mark.parametrize("mode", ["strip", "fan", "no indices", "short indices"])
def test_ways_to_list_triangles(mode: str, tmp_path: Path) -> None:
    gltf = Gltf()
    attributes = {"POSITION": gltf.positions(CORNERS)}
    indices, settings = None, {}
    if mode == "strip":
        indices, settings = gltf.array(np.array([0, 1, 3, 2], np.uint8), vertices=False), {"mode": 5}
    elif mode == "fan":
        settings = {"mode": 6}
    elif mode == "no indices":
        attributes = {"POSITION": gltf.positions(CORNERS[FACES.reshape(-1)])}
    else:
        indices = gltf.array(FACES.reshape(-1).astype(np.uint16), vertices=False)
    gltf.node(mesh=gltf.mesh(attributes, indices, **settings))
    mesh = load_mesh(gltf.save(tmp_path / "triangles.glb"))
    report = check_mesh(mesh)
    assert len(mesh.faces) == 2 and report.area == pytest.approx(1) and report.open_edges == 4 and report.consistent
    np.testing.assert_allclose(mesh.normals(), [[1, 0, 0]] * len(mesh.vertices), atol=1e-6)  # all face the front


# -- colours -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        ({"offset": [0.5, 0]}, [[GREEN, RED], [SAND, BLUE]]),
        ({"offset": [0, 1], "scale": [1, -1]}, [[BLUE, SAND], [RED, GREEN]]),
        ({"scale": [0.5, 0.5]}, [[RED, RED], [RED, RED]]),
        ({"scale": [0.5, 0.5], "offset": [0.5, 0.5]}, [[SAND, SAND], [SAND, SAND]]),
        ({"offset": [0, 1], "rotation": np.pi / 2}, [[BLUE, RED], [SAND, GREEN]]),  # the example of the standard
        ({"offset": [0, 0.5], "rotation": np.pi / 2, "scale": [0.5, 1]}, [[RED, RED], [GREEN, GREEN]]),
    ],
)
def test_texture_transforms(transform: dict, expected: list, tmp_path: Path) -> None:
    gltf = Gltf()
    material = gltf.material(gltf.texture(PICTURE), extensions={"KHR_texture_transform": transform})
    gltf.node(mesh=gltf.quad(material))
    gltf.uses("KHR_texture_transform")
    path = gltf.save(tmp_path / "moved.glb")
    assert validate(path)["issues"]["numErrors"] == 0
    assert is_near(quarters(load_mesh(path)), np.array(expected))


@pytest.mark.parametrize("way", ["texCoord", "transform"])
def test_the_second_texture_coordinates(way: str, tmp_path: Path) -> None:
    gltf = Gltf()
    info: dict = {"texCoord": 1} if way == "texCoord" else {"extensions": {"KHR_texture_transform": {"texCoord": 1}}}
    second = gltf.array(PLACES)
    material = gltf.material(gltf.texture(PICTURE), **info)
    gltf.node(mesh=gltf.quad(material, uv=PLACES * 0.4, TEXCOORD_1=second))
    assert is_near(quarters(load_mesh(gltf.save(tmp_path / "second.glb"))), QUARTERS)


def test_factor_texture_and_colours_are_multiplied(tmp_path: Path) -> None:
    factor, shade = [0.5, 0.9, 0.2], [0.4, 0.5, 0.8]
    for textured in (True, False):
        for colored in (True, False):
            gltf = Gltf()
            attributes: dict = {"COLOR_0": gltf.array(np.array([shade] * 4, np.float32))} if colored else {}
            material = gltf.material(gltf.texture(PICTURE) if textured else None, [*factor, 1.0])
            gltf.node(mesh=gltf.quad(material, **attributes))
            mesh = load_mesh(gltf.save(tmp_path / "product.glb"))
            factors = (factor, shade) if colored else (factor,)
            base = QUARTERS if textured else np.full((2, 2, 3), 255, np.uint8)
            assert is_near(quarters(mesh), times(base, *factors)), (textured, colored)
            assert (mesh.texture is not None) == textured and (mesh.colors is None) == textured


def test_a_texture_times_colours_that_differ_is_painted_anew(tmp_path: Path) -> None:
    gltf = Gltf()
    shades = np.array([[1, 1, 1], [0, 0, 0], [0, 0, 0], [1, 1, 1]], np.float32)  # light falls from top to bottom
    gltf.node(mesh=gltf.quad(gltf.material(gltf.texture(PICTURE)), COLOR_0=gltf.array(shades)))
    found = quarters(load_mesh(gltf.save(tmp_path / "shaded.glb")), cells=4)
    height = np.array([0.875, 0.625, 0.375, 0.125])[:, None, None]
    assert is_near(found, srgb(linear(QUARTERS.repeat(2, 0).repeat(2, 1)) * height), 4)


def test_specular_glossiness(tmp_path: Path) -> None:
    for texture in (True, False):
        gltf = Gltf()
        glossy: dict = {"diffuseFactor": [0.3, 0.6, 0.9, 1.0]}
        if texture:
            glossy["diffuseTexture"] = {"index": gltf.texture(PICTURE)}
        material = gltf.material(factor=[1.0, 0.0, 1.0, 1.0])  # for those who cannot read the other
        gltf.tree["materials"][material]["extensions"] = {"KHR_materials_pbrSpecularGlossiness": glossy}
        gltf.node(mesh=gltf.quad(material))
        gltf.uses("KHR_materials_pbrSpecularGlossiness")
        base = QUARTERS if texture else np.full((2, 2, 3), 255, np.uint8)
        assert is_near(quarters(load_mesh(gltf.save(tmp_path / "glossy.glb"))), times(base, [0.3, 0.6, 0.9]))


@pytest.mark.parametrize(
    ("wrap", "expected"),
    [
        (10497, [[RED, GREEN, RED, GREEN], [BLUE, SAND, BLUE, SAND]] * 2),
        (33648, [[RED, GREEN, GREEN, RED], *[[BLUE, SAND, SAND, BLUE]] * 2, [RED, GREEN, GREEN, RED]]),
        (33071, [[RED, GREEN, GREEN, GREEN], *[[BLUE, SAND, SAND, SAND]] * 3]),
    ],
)  # fmt: skip
def test_what_lies_beyond_a_texture(wrap: int, expected: list, tmp_path: Path) -> None:
    for shift in (0, 4):  # whole periods away, nothing changes
        gltf = Gltf()
        material = gltf.material(gltf.texture(PICTURE, wrapS=wrap, wrapT=wrap))
        gltf.node(mesh=gltf.quad(material, uv=PLACES * 2 - (shift if wrap != 33071 else 0)))
        mesh = load_mesh(gltf.save(tmp_path / "beyond.glb"))
        assert is_near(quarters(mesh, cells=4), np.array(expected))
        again = load_mesh(save_mesh(tmp_path / "again.obj", mesh)[0])
        if wrap != 33071:
            assert mesh.uv is not None and 0 <= mesh.uv.min() and mesh.uv.max() <= 1
            assert is_near(quarters(again, cells=4), np.array(expected))


def test_a_texture_within_its_border_stays_as_it_is(tmp_path: Path) -> None:
    gltf = Gltf()
    gltf.node(mesh=gltf.quad(gltf.material(gltf.texture(PICTURE))))
    mesh = load_mesh(gltf.save(tmp_path / "plain.glb"))
    assert np.array_equal(np.asarray(mesh.texture), PICTURE) and np.array_equal(np.asarray(mesh.uv), PLACES)
    assert np.array_equal(mesh.faces, FACES)


def test_endless_repetition_is_refused_and_much_of_it_made_smaller(tmp_path: Path) -> None:
    for many, is_read in ((1000, True), (1e5, False)):
        gltf = Gltf()
        gltf.node(mesh=gltf.quad(gltf.material(gltf.texture(PICTURE)), uv=PLACES * [many, 1]))
        path = gltf.save(tmp_path / "many.glb")
        if is_read:
            assert np.asarray(load_mesh(path).texture).shape == (32, 8000, 3)
        else:
            with pytest.raises(InputError, match="repeats too often"):
                load_mesh(path)


def test_hard_texels_stay_hard(tmp_path: Path) -> None:
    gltf = Gltf()
    gltf.node(mesh=gltf.quad(gltf.material(gltf.texture(QUARTERS, magFilter=9728, wrapS=33071, wrapT=33071))))
    found = quarters(load_mesh(gltf.save(tmp_path / "hard.glb")), cells=6)
    assert is_near(found, QUARTERS.repeat(3, 0).repeat(3, 1))


def test_looks_side_by_side(tmp_path: Path) -> None:
    """Textures of two sizes, one shown twice, a flat colour, colours per vertex, nothing: each keeps its own."""
    gltf = Gltf()
    small = np.array([[SAND]], np.uint8).repeat(6, 0).repeat(9, 1)
    first, second = gltf.material(gltf.texture(PICTURE)), gltf.material(gltf.texture(small))
    flat = gltf.material(factor=[*linear(np.array(GREEN)).tolist(), 1.0])
    blue = gltf.array(linear(np.array([BLUE, BLUE, RED, RED])))
    meshes = [gltf.quad(first), gltf.quad(second), gltf.quad(flat), gltf.quad(first), gltf.quad(COLOR_0=blue)]
    meshes += [gltf.quad()]
    for index, mesh in enumerate(meshes):
        gltf.node(mesh=mesh, translation=[index * 2.0, 0, 0])
    path = gltf.save(tmp_path / "many.glb")
    for file in (path, save_mesh(tmp_path / "again.glb", load_mesh(path))[0]):
        mesh = load_mesh(file)
        assert len(mesh.faces) == 12 and mesh.texture is not None and max(mesh.texture.shape) < 1200

        def seen(index: int, mesh: TexturedMesh = mesh) -> np.ndarray:
            return quarters(replace(mesh, vertices=mesh.vertices - [0, index * 2.0, 0]))

        assert is_near(seen(0), QUARTERS) and is_near(seen(3), QUARTERS)
        for index, color in ((1, SAND), (2, GREEN), (5, (255, 255, 255))):
            assert is_near(seen(index), np.array(color))
        middle = srgb(linear(np.array(BLUE)) * [[0.75], [0.25]] + linear(np.array(RED)) * [[0.25], [0.75]])
        assert is_near(seen(4), np.array([middle, middle]), 4)


def test_textures_in_other_formats_and_places(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).save(buffer, "WEBP", lossless=True)
    Image.fromarray(PICTURE).save(tmp_path / "Ein Bild.PNG")
    uris = ("data:image/png;base64," + base64.b64encode(png(PICTURE)).decode(), "ein%20bild.png")
    for kind in ("webp", *uris):
        gltf = Gltf()
        texture = gltf.texture(PICTURE)
        gltf.node(mesh=gltf.quad(gltf.material(texture)))
        if kind == "webp":
            image = gltf.add("images", {"bufferView": gltf.view(buffer.getvalue()), "mimeType": "image/webp"})
            gltf.tree["textures"][texture] = {"extensions": {"EXT_texture_webp": {"source": image}}}
            gltf.uses("EXT_texture_webp")
        else:
            gltf.tree["images"] = [{"uri": kind}]
        assert np.array_equal(np.asarray(load_mesh(gltf.save(tmp_path / "other.glb")).texture), PICTURE)


def test_a_texture_that_cannot_be_had_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for image, words in (({"uri": "gone.png"}, "gone.png"), ({"uri": "data:,no"}, "no picture")):
        gltf = Gltf()
        gltf.node(mesh=gltf.quad(gltf.material(gltf.texture(PICTURE), [0.5, 0.5, 0.5, 1.0])))
        gltf.tree["images"] = [image]
        mesh = load_mesh(gltf.save(tmp_path / "half.glb"))
        said = capfd.readouterr().err
        assert said.count("\n") == 1 and words in said and str(tmp_path / "half.glb") in said
        assert mesh.texture is None and is_near(np.asarray(mesh.colors), srgb(np.array([0.5] * 3)))


# -- where things stand ------------------------------------------------------------------------------------------------


def test_nodes_stand_where_trimesh_puts_them(tmp_path: Path) -> None:
    scene = trimesh.Scene()
    body = trimesh.creation.box((1, 2, 3))
    turn = np.asarray(trimesh.transformations.rotation_matrix(0.7, [1, 2, 3], [0.3, 0, 0]))
    scene.add_geometry(body, "a", "box", transform=turn)
    scene.add_geometry(body, "b", "box", parent_node_name="a", transform=np.diag([0.5, 0.5, 0.5, 1]))
    mirror = np.diag([-1.0, 1, 1, 1])
    mirror[0, 3] = -5
    scene.add_geometry(trimesh.creation.icosphere(subdivisions=1), "c", "ball", transform=mirror)
    path = tmp_path / "scene.glb"
    path.write_bytes(bytes(scene.export(file_type="glb")))  # pyright: ignore[reportArgumentType]
    expected, found = trimesh.load_scene(path).to_mesh(), load_mesh(path)
    back = found.vertices @ gltf_to_world(torch.eye(3)).numpy().T
    np.testing.assert_allclose(np.sort(back, 0), np.sort(expected.vertices, 0), atol=1e-5)
    report = check_mesh(found)
    assert report.bodies == 3 and report.outward and report.volume == pytest.approx(expected.volume, rel=1e-5)


def test_what_hangs_from_a_camera_is_there(tmp_path: Path) -> None:
    gltf = Gltf()
    child = gltf.node(top=False, mesh=gltf.quad(), translation=[1, 0, 0])
    camera = gltf.add("cameras", {"type": "perspective", "perspective": {"yfov": 1, "znear": 0.1}})
    gltf.node(camera=camera, children=[child], matrix=[0, 1, 0, 0, -1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 1])
    turned = np.stack([-CORNERS[:, 1], CORNERS[:, 0] + 1, CORNERS[:, 2] + 2], 1)
    np.testing.assert_allclose(positions_of(gltf, tmp_path / "camera.glb"), turned, atol=1e-6)


def test_instances_of_a_mesh(tmp_path: Path) -> None:
    gltf = Gltf()
    half = np.sqrt(0.5)
    instances = {
        "TRANSLATION": gltf.array(np.array([[0, 0, 0], [3, 0, 0]], np.float32)),
        "ROTATION": gltf.array(np.array([[0, 0, 0, 1], [half, 0, 0, half]], np.float32)),
        "SCALE": gltf.array(np.array([[1, 1, 1], [2, 2, 2]], np.float32)),
    }
    extension = {"EXT_mesh_gpu_instancing": {"attributes": instances}}
    gltf.node(mesh=gltf.quad(), translation=[0, 1, 0], extensions=extension)
    gltf.uses("EXT_mesh_gpu_instancing", required=False)
    second = np.stack([CORNERS[:, 0] * 2 + 3, CORNERS[:, 2] + 1, CORNERS[:, 1] * 2], 1)  # y becomes z
    expected = np.concatenate([CORNERS + np.array([0, 1, 0]), second])
    np.testing.assert_allclose(positions_of(gltf, tmp_path / "two.glb"), expected, atol=1e-6)


def test_morph_weights_and_skins_are_at_rest(tmp_path: Path) -> None:
    gltf = Gltf()
    lift = gltf.positions(np.array([[0, 0, 1]] * 4, np.float32))
    bones = gltf.array(np.array([[0, 1, 0, 0]] * 4, np.uint8))
    shares = np.array([[255, 0, 0, 0], [255, 0, 0, 0], [0, 255, 0, 0], [51, 204, 0, 0]], np.uint8)
    mesh = gltf.quad(JOINTS_0=bones, WEIGHTS_0=gltf.array(shares, normalized=True))
    gltf.tree["meshes"][mesh]["primitives"][0]["targets"] = [{"POSITION": lift}]
    gltf.tree["meshes"][mesh]["weights"] = [0.5]
    still, moved = gltf.node(top=False), gltf.node(top=False, translation=[10, 0, 0])
    gltf.node(children=[still, moved])
    binds = np.tile(np.eye(4, dtype=np.float32).reshape(-1), (2, 1))
    binds[1, 12:15] = [-8, 0, 0]  # columns: the second bone was at 8 when the skin was made
    skin = gltf.add("skins", {"joints": [still, moved], "inverseBindMatrices": gltf.array(binds)})
    gltf.node(mesh=mesh, skin=skin, translation=[99, 0, 0])  # a skin goes where its bones go
    expected = CORNERS + np.array([0, 0, 0.5]) + np.array([[0, 0, 0], [0, 0, 0], [2, 0, 0], [1.6, 0, 0]])
    path = tmp_path / "skin.glb"
    np.testing.assert_allclose(positions_of(gltf, path), expected, atol=1e-6)
    issues = validate(path)["issues"]
    assert issues["numErrors"] == 0, issues["messages"]


def test_hidden_nodes_are_left_out(tmp_path: Path) -> None:
    gltf = Gltf()
    below = gltf.node(top=False, mesh=gltf.quad())
    gltf.node(children=[below], extensions={"KHR_node_visibility": {"visible": False}})
    gltf.node(mesh=gltf.quad(), translation=[0, 0, 4])
    np.testing.assert_allclose(positions_of(gltf, tmp_path / "hidden.glb"), CORNERS + np.array([0, 0, 4]))


def test_a_gltf_with_its_arrays_beside_it(tmp_path: Path) -> None:
    gltf = Gltf()
    gltf.node(mesh=gltf.quad(gltf.material(gltf.texture(PICTURE))))
    del gltf.tree["scene"], gltf.tree["scenes"]
    gltf.save(tmp_path / "whole.glb")
    for uri in ("the arrays.bin", "data:application/octet-stream;base64," + base64.b64encode(gltf.blob).decode()):
        (tmp_path / "the arrays.bin").write_bytes(gltf.blob)
        gltf.tree["buffers"][0]["uri"] = uri.replace(" ", "%20")
        (tmp_path / "parts.gltf").write_text(json.dumps(gltf.tree), encoding="utf-8-sig")
        found, expected = load_mesh(tmp_path / "parts.gltf"), load_mesh(tmp_path / "whole.glb")
        assert np.array_equal(found.vertices, expected.vertices) and is_near(quarters(found), QUARTERS)


# -- refusals ----------------------------------------------------------------------------------------------------------


def draco(gltf: Gltf) -> None:
    gltf.uses("KHR_draco_mesh_compression")


def optional_draco(gltf: Gltf) -> None:
    """Named as not required, but there are no other arrays."""
    gltf.uses("KHR_draco_mesh_compression", required=False)
    primitive = gltf.tree["meshes"][0]["primitives"][0]
    primitive["extensions"] = {"KHR_draco_mesh_compression": {"bufferView": 0, "attributes": {"POSITION": 0}}}
    for index in (*primitive["attributes"].values(), primitive["indices"]):
        del gltf.tree["accessors"][index]["bufferView"]


def optional_meshopt(gltf: Gltf) -> None:
    gltf.uses("EXT_meshopt_compression", required=False)
    gltf.tree["buffers"] = [{}, {"byteLength": 48, "extensions": {"EXT_meshopt_compression": {"fallback": True}}}]
    packed = {"EXT_meshopt_compression": {"buffer": 0, "byteLength": 10, "byteStride": 12, "count": 4}}
    positions = gltf.tree["accessors"][gltf.tree["meshes"][0]["primitives"][0]["attributes"]["POSITION"]]
    gltf.tree["bufferViews"][positions["bufferView"]] = {"buffer": 1, "byteLength": 48, "extensions": packed}


def only_ktx(gltf: Gltf) -> None:
    gltf.uses("KHR_texture_basisu", required=False)
    gltf.tree["textures"] = [{"extensions": {"KHR_texture_basisu": {"source": 0}}}]


def unknown(gltf: Gltf) -> None:
    gltf.uses("ACME_bent_space")


REFUSALS: dict[str, tuple[Callable[[Gltf], None], str]] = {
    "draco": (draco, "KHR_draco_mesh_compression (Draco"),
    "optional draco": (optional_draco, "KHR_draco_mesh_compression (Draco"),
    "meshopt": (lambda gltf: gltf.uses("EXT_meshopt_compression"), "EXT_meshopt_compression (meshopt"),
    "optional meshopt": (optional_meshopt, "EXT_meshopt_compression (meshopt"),
    "ktx": (lambda gltf: gltf.uses("KHR_texture_basisu"), "KHR_texture_basisu (KTX2"),
    "only ktx": (only_ktx, "KHR_texture_basisu (KTX2"),
    "unknown": (unknown, "ACME_bent_space"),
    "old": (lambda gltf: gltf.tree["asset"].update(version="1.0"), "glTF 1.0"),
    "loop": (lambda gltf: gltf.tree["nodes"][0].update(children=[0]), "two places"),
    "network": (lambda gltf: gltf.tree.update(buffers=[{"uri": "https://x.org/a.bin"}]), "network"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_followed_is_refused_by_name(name: str, command, tmp_path: Path) -> None:
    change, words = REFUSALS[name]
    gltf = Gltf()
    gltf.node(mesh=gltf.quad(gltf.material(gltf.texture(PICTURE))))
    change(gltf)
    gltf.save(tmp_path / "in.glb")
    if name == "network":
        (tmp_path / "in.gltf").write_text(json.dumps({**gltf.tree, "buffers": [{"uri": "https://x.org/a.bin"}]}))
    source = tmp_path / ("in.gltf" if name == "network" else "in.glb")
    before = sorted(tmp_path.iterdir())
    for line in (("export", source, "-o", tmp_path / "out.obj"), ("render", source, "-o", tmp_path / "out.png")):
        status, told, said = command(*line)
        assert status == 2 and told == {} and said.startswith("error: ") and said.count("\n") == 1 and words in said
    assert command("mesh", "check", source)[0] == 2
    assert sorted(tmp_path.iterdir()) == before


def test_compression_that_may_be_ignored_is(tmp_path: Path) -> None:
    gltf = Gltf()
    mesh = gltf.quad()
    gltf.tree["meshes"][mesh]["primitives"][0]["extensions"] = {"KHR_draco_mesh_compression": {"bufferView": 0}}
    gltf.uses("KHR_draco_mesh_compression", required=False)
    gltf.uses("KHR_materials_unlit")
    gltf.uses("KHR_lights_punctual")
    gltf.node(mesh=mesh)
    np.testing.assert_allclose(positions_of(gltf, tmp_path / "both.glb"), CORNERS)


# -- our own -----------------------------------------------------------------------------------------------------------


def test_one_colour_is_written_as_a_factor_and_comes_back(tmp_path: Path) -> None:
    body = arrows()
    for color in (RED, (255, 255, 255)):
        mesh = replace(body, colors=np.tile(np.array(color, np.uint8), (len(body.vertices), 1)))
        path = save_mesh(tmp_path / "one.glb", mesh)[0]
        material = trimesh.load_scene(path).to_mesh().visual.material  # pyright: ignore
        assert is_near(np.array(material.baseColorFactor)[:3], linear(np.array(color)) * 255, 1)
        assert validate(path)["issues"]["numErrors"] == 0
        assert np.array_equal(np.asarray(load_mesh(path).colors), np.asarray(mesh.colors))
