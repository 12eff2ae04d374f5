"""OBJ and PLY of others: colours and pictures however they are named, and a word where one is missing."""

import struct
from pathlib import Path

import numpy as np
import pytest
import trimesh
from helpers.mesh_fields import arrows
from helpers.mesh_looks import BLUE, GREEN, PICTURE, QUARTERS, RED, SAND, is_near, quarters
from PIL import Image

from core2d.app.errors import InputError
from gen3d.mesh import TexturedMesh, check_mesh, load_mesh, save_mesh
from gen3d.mesh.export import srgb

SQUARE = """v -.5 .5 0
v -.5 -.5 0
v .5 -.5 0
v .5 .5 0
vt 0 1
vt 0 0
vt 1 0
vt 1 1
"""
FACE = "f 1/1 2/2 3/3 4/4\n"


def square(folder: Path, mtl: str, names: tuple[str, str] = ("square.obj", "square.mtl")) -> Path:
    """A square metre of the material `m`, whose MTL is given, beside a picture."""
    (folder / "textures").mkdir(exist_ok=True)
    Image.fromarray(PICTURE).save(folder / "textures" / "four.png")
    Image.fromarray(PICTURE).save(folder / "Four Colours.png")
    (folder / names[1]).write_text(f"newmtl other\nKd 0 0 1\nnewmtl m\nKd 0.8 0.8 0.8\n{mtl}\n")
    (folder / names[0]).write_text(f"mtllib {names[1]}\nusemtl m\n{SQUARE}{FACE}")
    return folder / names[0]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("map_Kd textures/four.png", QUARTERS),
        ("map_Kd textures\\four.png", QUARTERS),
        ("map_Kd .\\textures\\four.png", QUARTERS),
        ("map_Kd TEXTURES/Four.PNG", QUARTERS),
        ("map_Kd Four Colours.png", QUARTERS),
        ('map_Kd "Four Colours.png"', QUARTERS),
        ("map_Kd four colours.png   # painted by hand", QUARTERS),
        ("map_Kd C:\\Users\\Ann\\Four Colours.png", QUARTERS),
        ("map_Kd /home/ann/Four Colours.png", QUARTERS),
        ("\tMAP_KD\ttextures/four.png  \r", QUARTERS),
        ("map_Kd -s 1 1 1 textures/four.png", QUARTERS),
        ("map_Kd -blendu on -blendv off -cc off -texres 32 -imfchan m Four Colours.png", QUARTERS),
        ("map_Kd -mm 0 1 -clamp on -bm 1.0 -t 0 0 0 textures/four.png", QUARTERS),
        ("map_Kd -mm 0.5 0.5 textures/four.png", 127.5 + QUARTERS / 2),
        ("map_Kd -o 0.5 textures/four.png", QUARTERS[:, ::-1]),
        ("map_Kd -o 0 0.5 0 textures/four.png", QUARTERS[::-1]),
        ("map_Kd -s 0.5 0.5 -o 0.5 0 textures/four.png", [[SAND] * 2] * 2),
        ("map_Kd -s -1 1 1 textures/four.png", QUARTERS[:, ::-1]),
    ],
)
def test_a_picture_however_it_is_named(line: str, expected: np.ndarray, tmp_path: Path, capfd) -> None:
    mesh = load_mesh(square(tmp_path, line))
    assert is_near(quarters(mesh), np.array(expected)) and capfd.readouterr().err == ""


def test_a_picture_repeats_unless_it_is_clamped(tmp_path: Path) -> None:
    repeated = load_mesh(square(tmp_path, "map_Kd -s 2 2 textures/four.png"))
    assert is_near(quarters(repeated, 4), np.tile(QUARTERS, (2, 2, 1)))
    clamped = load_mesh(square(tmp_path, "map_Kd -s 2 1 -clamp on textures/four.png"))
    assert is_near(quarters(clamped, 4)[1::2], QUARTERS[:, [0, 1, 1, 1]])


@pytest.mark.parametrize("mtl", ["map_Kd gone.png", "map_Kd textures", "map_Kd notes.txt", "map_Kd -s 1 1 1 gone.png"])
def test_a_picture_that_is_missing_is_told_and_the_colour_stays(mtl: str, command, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    path = square(tmp_path, mtl, ("a square.obj", "its colours.mtl"))
    status, told, said = command("export", path, "-o", tmp_path / "out.glb")
    name = mtl.split()[-1]
    assert status == 0 and told["metrics"] == {"faces": 2}
    assert said.count("\n") == 1 and name in said and str(tmp_path / "its colours.mtl") in said
    assert is_near(quarters(load_mesh(tmp_path / "out.glb")), srgb(np.array([0.8] * 3)))


@pytest.mark.parametrize(
    ("mtl", "expected"),
    [
        ("Kd 0.8 0.1 0.1", [0.8, 0.1, 0.1]),
        ("kd .8 1e-1 +.1 # red", [0.8, 0.1, 0.1]),
        ("Kd 0.25", [0.25] * 3),
        ("Kd 2 -1 0.5", [1, 0, 0.5]),
        ("# nothing else", [0.8] * 3),
    ],
)
def test_kd_is_the_base_colour(mtl: str, expected: list, tmp_path: Path) -> None:
    path = square(tmp_path, mtl)
    mesh = load_mesh(path)
    assert mesh.texture is None and is_near(np.asarray(mesh.colors), srgb(np.array(expected)), 0)
    written = trimesh.load_scene(save_mesh(tmp_path / "out.glb", mesh)[0]).to_mesh().visual.material  # pyright: ignore
    np.testing.assert_allclose(written.baseColorFactor[:3] / 255, expected, atol=0.005)


def test_spectra_are_told(tmp_path: Path, capfd) -> None:
    mesh = load_mesh(square(tmp_path, "newmtl m\nKd spectral red.rfl"))
    assert mesh.colors is None and "spectral red.rfl" in capfd.readouterr().err


def test_materials_that_are_missing_are_told(tmp_path: Path, capfd) -> None:
    path = square(tmp_path, "")
    path.write_text(path.read_text().replace("usemtl m", "usemtl paint"))
    assert load_mesh(path).colors is None
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "paint" in said and "square.mtl" in said
    path.write_text(path.read_text().replace("square.mtl", "gone.mtl"))
    assert load_mesh(path).colors is None
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "gone.mtl" in said


@pytest.mark.parametrize("library", ["SQUARE.MTL", ".\\square.mtl", "two words.mtl", "first.mtl square.mtl"])
def test_libraries_however_they_are_named(library: str, tmp_path: Path, capfd) -> None:
    path = square(tmp_path, "Kd 1 0 0")
    (tmp_path / "first.mtl").write_text("newmtl m\nKd 0 1 0\n")
    (tmp_path / "two words.mtl").write_bytes(b"\xef\xbb\xbfnewmtl m\r\nKd 1 0 0\r\n")
    path.write_text(path.read_text().replace("square.mtl", library))
    assert is_near(np.asarray(load_mesh(path).colors), np.array([255, 0, 0]), 0) and capfd.readouterr().err == ""


def test_every_material_keeps_its_look(tmp_path: Path) -> None:
    """A picture, a colour, a name with spaces, no material at all, and a face without texture coordinates."""
    path = square(tmp_path, "map_Kd textures/four.png\nnewmtl deep red\nKd 0.5 0 0")
    corners = ((-0.5, 0.5), (-0.5, -0.5), (0.5, -0.5), (0.5, 0.5))
    moved = [f"v {x + 2 * step} {y} 0\n" for step in range(1, 4) for x, y in corners]
    faces = "usemtl deep red\nf 5 6 7 8\nusemtl m\nf 9 10 11 12\nusemtl\nf -4//1 -3//1 -2//1 -1//1\nvn 0 0 1\n"
    path.write_text(path.read_text() + "".join(moved) + faces)
    mesh = load_mesh(path)
    assert len(mesh.faces) == 8
    expected = (QUARTERS, srgb(np.array([0.5, 0, 0])), srgb(np.array([0.8] * 3)), np.array([255] * 3))
    for step, look in enumerate(expected):
        place = TexturedMesh(mesh.vertices - [0, 2 * step, 0], mesh.faces, mesh.uv, mesh.texture)
        assert is_near(quarters(place), look), step


def test_numbers_however_they_are_written(tmp_path: Path) -> None:
    """Rows counted from the end, a face before its vertices, remarks, broken lines, polygons, CRLF, a w, a third uv."""
    text = (
        "# a roof\no roof\nv 0 0 0 1.0\nv 2 0 0\nv 2 1e0 0 # corner\nf -3 -2 -1\n"
        "g wall\ns off\nv 0 1 1\nv 0 3 1\nv \\\n-1 3 1\nv -1 1 1\nvt 0 0 0\nvt 1\nvt 1 1\nf -4/1 -3/2 \\\n-2/3 -1/1\n"
        "l 1 2\np 1\nf 8 9 10 11 12\nv 0 0 5\nv 1 0 5\nv 1 1 5\nv .5 2 5\nv 0 1 5\n"
    )
    (tmp_path / "a.obj").write_bytes(text.replace("\n", "\r\n").encode("latin-1") + "# gr\xfcn\n".encode("latin-1"))
    mesh = load_mesh(tmp_path / "a.obj")
    report = check_mesh(mesh)
    assert len(mesh.faces) == 1 + 2 + 3 and report.bodies == 3 and report.consistent
    assert report.area == pytest.approx(1 + 2 + 1.5)
    assert mesh.bounds.tolist() == [[0, -1, 0], [5, 2, 3]]  # our axes: z x y of the file


@pytest.mark.parametrize("face", ["f 1 2 5", "f 1 2 0", "f 1 2 -5", "f 1/9 2/1 3/1", "f a b c", "v 1 2"])
def test_faces_of_nothing_are_refused(face: str, command, tmp_path: Path) -> None:
    path = square(tmp_path, "map_Kd textures/four.png")
    path.write_text(path.read_text() + face + "\n")
    status, _, said = command("export", path, "-o", tmp_path / "out.glb")
    assert status == 2 and said.startswith("error: ") and not (tmp_path / "out.glb").exists()
    with pytest.raises(InputError, match="cannot be read as a mesh"):
        load_mesh(path)


def test_colours_of_vertices_in_an_obj(tmp_path: Path) -> None:
    rows = [[*vertex, *color] for vertex, color in zip(np.eye(3), (RED, GREEN, BLUE), strict=True)]
    for scale in (1, 255):
        lines = ["v " + " ".join(f"{v:.6f}" for v in [*row[:3], *np.array(row[3:]) / scale]) for row in rows]
        (tmp_path / "rgb.obj").write_text("\n".join([*lines, "v 0 0 0", "f 1 2 3", "f 1 2 4", "mtllib no.mtl"]))
        colors = np.asarray(load_mesh(tmp_path / "rgb.obj").colors)
        assert sorted(colors.tolist()) == sorted([*map(list, (RED, GREEN, BLUE)), [255] * 3])


# -- PLY ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["uchar", "ushort", "float"])
@pytest.mark.parametrize("places", [False, True])
def test_colours_of_vertices_in_a_ply(kind: str, places: bool, tmp_path: Path) -> None:
    code, most = {"uchar": ("B", 255), "ushort": ("H", 65535), "float": ("f", 1)}[kind]
    header = "ply\nformat binary_little_endian 1.0\nelement vertex 3\nproperty float x\nproperty float y\n"
    header += "property float z\n" + "".join(f"property {kind} {name}\n" for name in ("red", "green", "blue"))
    header += "property float s\nproperty float t\n" if places else ""
    content = (header + "element face 1\nproperty list uchar int vertex_indices\nend_header\n").encode()
    for vertex, color in zip(np.eye(3), (RED, GREEN, BLUE), strict=True):
        values = np.array(color) / 255 * most
        numbers = values.tolist() if kind == "float" else np.rint(values).astype(int).tolist()
        content += struct.pack(f"<3f3{code}", *vertex, *numbers) + struct.pack("<2f", 0.5, 0.5) * places
    (tmp_path / "rgb.ply").write_bytes(content + struct.pack("<B3i", 3, 0, 1, 2))
    mesh = load_mesh(tmp_path / "rgb.ply")
    assert np.array_equal(mesh.vertices, np.eye(3)) and np.asarray(mesh.colors).tolist() == [
        list(color) for color in (RED, GREEN, BLUE)
    ]


def test_the_picture_of_a_ply(tmp_path: Path, capfd) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "Four Colours.png")
    corners = ((-0.5, 0.5, 0, 1), (-0.5, -0.5, 0, 0), (0.5, -0.5, 1, 0), (0.5, 0.5, 1, 1))
    for name in ("four colours.png", "gone.png"):
        header = f"ply\nformat ascii 1.0\ncomment TextureFile {name}\nelement vertex 4\n"
        header += "".join(f"property float {word}\n" for word in ("x", "y", "z", "s", "t"))
        header += "element face 2\nproperty list uchar int vertex_indices\nend_header\n"
        rows = "".join(f"0 {y} {z} {u} {v}\n" for y, z, u, v in corners)
        (tmp_path / "four.ply").write_text(header + rows + "3 0 1 2\n3 0 2 3\n")
        mesh = load_mesh(tmp_path / "four.ply")
        said = capfd.readouterr().err
        if name == "gone.png":
            assert mesh.texture is None and said.count("\n") == 1 and "gone.png was not found" in said
        else:
            assert is_near(quarters(mesh), QUARTERS) and said == ""


def test_colours_of_faces_in_a_ply(tmp_path: Path) -> None:
    body = arrows()
    colors = np.tile([*SAND, 255], (len(body.faces), 1))
    painted = trimesh.Trimesh(body.vertices, body.faces, face_colors=colors, process=False)
    painted.export(tmp_path / "faces.ply")
    assert is_near(np.asarray(load_mesh(tmp_path / "faces.ply").colors), np.array(SAND), 0)
