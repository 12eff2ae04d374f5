"""gen3d: the 2D prior lifted into space.

Names are imported when they are first used, so `import gen3d` costs nothing.
"""

from typing import TYPE_CHECKING

from core2d import __version__ as __version__
from core2d import lazy_names

if TYPE_CHECKING:
    from gen3d.data.scene import load_scene as load_scene
    from gen3d.data.single_picture import read_subject as read_subject
    from gen3d.dreamfusion.pipeline import text_to_mesh as text_to_mesh
    from gen3d.dreamfusion.recipe import QUALITIES as QUALITIES
    from gen3d.dreamfusion.recipe import DreamFusionConfig as DreamFusionConfig
    from gen3d.dreamfusion.task import DreamFusionTask as DreamFusionTask
    from gen3d.mesh import TexturedMesh as TexturedMesh
    from gen3d.mesh import check_mesh as check_mesh
    from gen3d.mesh import load_mesh as load_mesh
    from gen3d.mesh import render_mesh as render_mesh
    from gen3d.mesh import save_mesh as save_mesh
    from gen3d.zero123.image_to_3d.recipe import IMAGE_QUALITIES as IMAGE_QUALITIES
    from gen3d.zero123.image_to_3d.recipe import ImageTo3DConfig as ImageTo3DConfig
    from gen3d.zero123.image_to_3d.task import image_to_3d as image_to_3d
    from gen3d.zero123.model import Zero123 as Zero123
    from gen3d.zero123.pipeline import NovelViews as NovelViews
    from gen3d.zero123.pipeline import orbit_views as orbit_views
    from gen3d.zero123.pipeline import view_by as view_by


_HOME = {
    "DreamFusionConfig": "gen3d.dreamfusion.recipe",
    "DreamFusionTask": "gen3d.dreamfusion.task",
    "IMAGE_QUALITIES": "gen3d.zero123.image_to_3d.recipe",
    "ImageTo3DConfig": "gen3d.zero123.image_to_3d.recipe",
    "NovelViews": "gen3d.zero123.pipeline",
    "QUALITIES": "gen3d.dreamfusion.recipe",
    "TexturedMesh": "gen3d.mesh",
    "Zero123": "gen3d.zero123.model",
    "check_mesh": "gen3d.mesh",
    "image_to_3d": "gen3d.zero123.image_to_3d.task",
    "load_mesh": "gen3d.mesh",
    "load_scene": "gen3d.data.scene",
    "orbit_views": "gen3d.zero123.pipeline",
    "read_subject": "gen3d.data.single_picture",
    "render_mesh": "gen3d.mesh",
    "save_mesh": "gen3d.mesh",
    "text_to_mesh": "gen3d.dreamfusion.pipeline",
    "view_by": "gen3d.zero123.pipeline",
}

__getattr__, __dir__ = lazy_names(_HOME, globals())
