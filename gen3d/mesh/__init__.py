"""From a field to a file: iso-surface, clean-up, UV, texture, GLB/OBJ/PLY/STL, checks.

    mesh, build = build_mesh(density, color, bounds)
    save_mesh("mug.glb", mesh)
    pictures = render_mesh(load_mesh("mug.glb"), orbit(azimuth, elevation, radius))

A field is two functions of points (n, 3) and a box; how it is represented does not matter here.
"""

from gen3d.mesh.build import Build as Build
from gen3d.mesh.build import build_mesh as build_mesh
from gen3d.mesh.check import MeshReport as MeshReport
from gen3d.mesh.check import check_mesh as check_mesh
from gen3d.mesh.clean import Cleaning as Cleaning
from gen3d.mesh.export import MESH_SUFFIXES as MESH_SUFFIXES
from gen3d.mesh.export import save_mesh as save_mesh
from gen3d.mesh.load import load_mesh as load_mesh
from gen3d.mesh.mesh import TexturedMesh as TexturedMesh
from gen3d.mesh.render import render_mesh as render_mesh
