"""The work behind `core2d verify`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core2d.adapters.lora_files import IN_A_FOLDER
from core2d.app.program import Outcome
from core2d.systems.verify import folders
from core2d.systems.verify.contents import Contents, read_contents
from core2d.systems.verify.kinds import Kind, kind_of
from core2d.systems.verify.loaders import Answer, answers
from core2d.systems.verify.recipe import VerifyRecipe

FEW = 5  # names that are shown to a person
NO_LOADER = "no kind of model that is known here: every loader would leave all of it"


def follow(recipe: VerifyRecipe) -> Outcome:
    """Follow `core2d verify`: exit status 1 where something would be lost silently, or is not finite."""
    recipe.check()
    path = recipe.file.expanduser()
    weights = [path / name for name in IN_A_FOLDER if (path / name).is_file()]
    found = (
        _of_folder(path) if path.is_dir() and not weights else _of_file(weights[0] if weights else path, recipe.model)
    )
    return Outcome([], found if recipe.json else in_words(found), status=int(not found["ok"]))


def _of_file(path: Path, model: str | None) -> dict[str, Any]:
    """What is found out about a file."""
    contents = read_contents(path)
    kind = kind_of(contents.shapes)
    said, facts = ({}, {}) if kind is None else answers(contents, kind, model)
    return {**_described(kind), **facts, **_values([contents]), **_judged({path.name: said}, [contents], kind is None)}


def _of_folder(folder: Path) -> dict[str, Any]:
    """What is found out about a folder of diffusers, part by part."""
    said: dict[str, dict[str, Answer]] = {}
    held: list[Contents] = []
    made_for = None
    for name, (part, kind) in folders.parts_of(folder).items():
        contents = folders.contents_of(part)
        held += contents
        shapes = {tensor: shape for one in contents for tensor, shape in one.shapes.items()}
        said[name] = folders.answers(shapes, folders.comparison(part, kind, shapes))
        known = kind_of(shapes)
        if name in ("unet", folder.name) and known is not None:
            made_for = known.made_for
    whole = Kind("folder of diffusers", ", ".join(said), made_for)
    return {**_described(whole), **_values(held), **_judged(said, held, not said)}


def _described(kind: Kind | None) -> dict[str, Any]:
    if kind is None:
        return {"kind": None, "details": NO_LOADER, "made_for": None}
    return {"kind": kind.name, "details": kind.details, "made_for": kind.made_for}


def _values(held: Sequence[Contents]) -> dict[str, Any]:
    """Counts and types of the tensors."""
    types: dict[str, int] = {}
    for contents in held:
        for dtype in contents.dtypes.values():
            word = str(dtype).removeprefix("torch.")
            types[word] = types.get(word, 0) + 1
    odd = {name: dtype for contents in held for name, dtype in contents.odd_types().items()}
    return {"tensors": sum(types.values()), "types": types, "odd_types": odd}


def _judged(said: Mapping[str, Mapping[str, Answer]], held: Sequence[Contents], unknown: bool) -> dict[str, Any]:
    """What loaders do, what is not finite, and whether all is well."""
    broken = [name for contents in held for name in contents.not_finite()]
    lost = [loader for part in said.values() for loader, answer in part.items() if answer.loses_silently]
    loaders = {part: {loader: _plain(answer) for loader, answer in each.items()} for part, each in said.items()}
    told = next(iter(loaders.values()), {}) if len(loaders) < 2 else loaders
    return {"loaders": told, "not_finite": broken, "ok": not (broken or lost or unknown)}


def _plain(answer: Answer) -> dict[str, Any]:
    return {
        "taken": answer.taken, "dropped": list(answer.dropped), "of_no_use": answer.idle,
        "rescaled": [list(one) for one in answer.rescaled], "error": answer.error, "silently": answer.loses_silently,
    }  # fmt: skip


# -- for a person --------------------------------------------------------------------------------------------------


def in_words(found: Mapping[str, Any]) -> dict[str, str]:
    """The same as a few lines: what it is, then a line for each loader."""
    kind = found["kind"] or "unknown"
    lines = {"it is": f"{kind} ({found['details']})" if found["details"] else kind}
    lines["made for"] = found["made_for"] or found.get("fits") or "not told by names and shapes"
    types = ", ".join(f"{count} {dtype}" for dtype, count in found["types"].items())
    lines["tensors"] = types + (f"; of odd type: {_few(list(found['odd_types']))}" if found["odd_types"] else "")
    if "scale" in found:
        scale = found["scale"]
        lines["scale (alpha / rank)"] = (
            f"{scale['min']:.4g} to {scale['max']:.4g}, median {scale['median']:.4g}, of {scale['layers']} layers; "
            f"{scale['without_alpha']} say no alpha of their own"
        )
    for name, entry in found["loaders"].items():
        parts = {name: entry} if "taken" in entry else {f"{name}, {loader}": one for loader, one in entry.items()}
        lines |= {part: _loader_in_words(one, "ComfyUI" in part) for part, one in parts.items()}
    lines["NaN or infinite"] = _few(found["not_finite"])
    lines["verdict"] = "nothing is lost silently" if found["ok"] else _why(found)
    return lines


def _loader_in_words(entry: Mapping[str, Any], naming: bool) -> str:
    if entry["error"]:
        return f"refuses it, with an error: {entry['error']}"
    if naming:
        total = entry["taken"] + len(entry["dropped"]) + entry["of_no_use"]
        return f"naming: {entry['taken']} of {total} names are written as there"
    said = f"takes {entry['taken']}"
    if entry["of_no_use"]:
        said += f", leaves {entry['of_no_use']} that nothing computes with"
    if entry["dropped"]:
        how = "SILENTLY" if entry["silently"] else "and says so"
        said += f", drops {len(entry['dropped'])} {how}: {_few(entry['dropped'])}"
    if entry["rescaled"]:
        name, asked, used = entry["rescaled"][0]
        said += (f", SILENTLY applies {len(entry['rescaled'])} layers with another scale: {name} with {used:.4g}, and "
                 f"the file says {asked:.4g}")  # fmt: skip
    return said


def _few(names: Sequence[str]) -> str:
    if not names:
        return "none"
    return ", ".join(names[:FEW]) + (f" and {len(names) - FEW} more" if len(names) > FEW else "")


def _why(found: Mapping[str, Any]) -> str:
    if found["not_finite"]:
        return f"damaged: {len(found['not_finite'])} tensors are not finite"
    return NO_LOADER if found["kind"] is None else "something would be lost silently"
