"""The command `gen3d`."""

from collections.abc import Sequence

from core2d.app.program import Command, run_program

EVERY_RUN = "gen3d.commands"  # these ask the system that a run is of, and so stand above all systems
COMMANDS = {
    "text-to-mesh": Command("gen3d.dreamfusion", "TextToMeshRecipe"),
    "image-to-3d": Command("gen3d.zero123.image_to_3d", "ImageTo3DRecipe"),
    "novel-views": Command("gen3d.zero123", "NovelViewsRecipe"),
    "bench-guidance": Command("gen3d.bench_guidance", "BenchGuidanceRecipe"),
    "nerf": Command("gen3d.nerf", "NerfRecipe"),
    "eval": Command("gen3d.nerf", "EvalRecipe", "evaluate"),
    "export": Command("gen3d.results", "ExportRecipe", "export", EVERY_RUN),
    "render": Command("gen3d.results", "RenderRecipe", "render", EVERY_RUN),
    "mesh check": Command("gen3d.results", "MeshCheckRecipe", "check", EVERY_RUN),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `gen3d` with `arguments` (those of the process by default)."""
    run_program("gen3d", "The 2D diffusion prior of core2d, lifted into space.", COMMANDS, arguments)


if __name__ == "__main__":
    main()
