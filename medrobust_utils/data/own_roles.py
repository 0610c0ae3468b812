"""One's own data (``folder:PATH``) in place of a paper's data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..core.errors import DataError, ProtocolError
from .imageset import ImageSet
from .own import PREFIX


def with_own_data(settings: Mapping, role: str, part: str) -> tuple[Mapping, str]:
    """Settings in which ``folder:PATH``, given as DATASET, stands in for a paper's set, ``part``.

    Everything else (sizes, epochs, flips) stays as it is for the set that it stands in for. Only
    arms on that set under an honest split remain.

    Returns:
        The settings and the role; unchanged for any other DATASET.
    """
    if not role.startswith(PREFIX):
        return settings, role
    like = {"role": part, "split": "honest"}
    arms = [arm for arm in settings["arms"] if all(arm.get(k, v) == v for k, v in like.items())]
    if not arms:
        raise ProtocolError(f"this profile has no arm with an honest split on {part}.")
    return {**settings, "arms": arms, "datasets": {**settings["datasets"], part: role}}, part


def own_folder(settings: Mapping, role: str) -> str:
    """``folder:PATH`` where one's own data stand for a role, else nothing."""
    name = settings["datasets"][role]
    return name if name.startswith(PREFIX) else ""


def whole_images(data: ImageSet) -> ImageSet:
    """``data`` if its labels are of whole images, else DataError."""
    if data.segmentation:
        raise DataError(
            f"{data.name} has a class for every pixel; this paper classifies whole images. "
            "Notebook 04 takes label maps."
        )
    return data


def question(data: ImageSet, wanted: Sequence[str], role: str, *, two: bool) -> list[str]:
    """Which classes of one's own data are positive, or none where every class is one.

    Args:
        wanted: what the profile says, for the set of the paper or by an override.
        two: whether two classes are needed; the second of two is then the positive one.

    Raises:
        DataError: for label maps, or where nobody said what is positive.
    """
    whole_images(data)
    if set(wanted) <= set(data.classes) and (wanted or not (two or data.multi_label)):
        return list(wanted)
    if len(data.classes) == 2 and not data.multi_label:
        return [data.classes[1]] if two else []
    kinds = "findings" if data.multi_label else "classes"
    raise DataError(
        f"{data.name} has {len(data.classes)} {kinds}; say which are positive, e.g. "
        f"SET='positive.{role}=[{data.classes[-1]}]'. There are: {', '.join(data.classes)}."
    )
