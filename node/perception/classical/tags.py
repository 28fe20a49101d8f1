"""Fiducial tags: the families that OpenCV's module aruco defines, as models without a network."""

from node.perception.models.model import Classical, Model
from node.perception.preprocess.geometry import PreprocessSpec

_SIZES = (4, 5, 6, 7)
_COUNTS = (50, 100, 250, 1000)
_DICTIONARIES = {
    **{f"apriltag{code}": f"DICT_APRILTAG_{code}" for code in ("36h11", "36h10", "25h9", "16h5")},
    **{
        f"aruco{size}x{size}_{count}": f"DICT_{size}X{size}_{count}"
        for size in _SIZES
        for count in _COUNTS
    },
    "aruco_mip_36h12": "DICT_ARUCO_MIP_36h12",
    "aruco_original": "DICT_ARUCO_ORIGINAL",
}
"""OpenCV's names of the families, by the names of their models."""
NAMES = tuple(_DICTIONARIES)
"""Names of the models."""
_WARM_UP_PX = (720, 1280)


def load(name: str) -> Model:
    """Returns the model of a family, one of NAMES.

    Each tag is a class: its id is the number of the tag, its name the family and the number, such
    as `apriltag36h11:17`, so that tag 17 of another family never passes for it.
    """
    # Deferred: OpenCV takes a tenth of a second, and a list of names needs none.
    from node.perception.classical.tag_detector import ReadTags, TagDetector, TagFamily

    family = TagFamily(name, _DICTIONARIES[name])
    return Model(
        name=name,
        build=None,
        preprocess=PreprocessSpec(
            resize_short_px=_WARM_UP_PX[0], crop_px=_WARM_UP_PX, interpolation="bilinear",
            mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), fit="none", color="bgr",
        ),
        label_names=family.label_names,
        digest=family.digest,
        task="detect",
        decoder="tags",
        output_order=(0, 1, 2),
        classical=Classical(
            runtime=lambda: TagDetector(family),
            task=lambda config: ReadTags(family.label_names, config),
        ),
    )  # fmt: skip
