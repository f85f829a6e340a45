"""A feature pyramid over a model of timm, whose library is imported only where such a backbone is built."""

from __future__ import annotations

import difflib
import inspect
from typing import Any

import torch
from torch import Tensor, nn

from bcnet_core.config.choices import TIMM, BackboneName
from bcnet_core.errors import BCNetError, usage_error
from bcnet_core.model.pixels import PixelFormat
from bcnet_core.model.pyramids import FINEST, Levels, build_pyramid, freeze, run_pyramid, strides_of

ANY_SIZE = {"strict_img_size": False, "drop_path_rate": 0.0}
"""Arguments of those models that have them: images of any size; no random choice but those of the images' seeds."""
STAGE_STRIDES = (4, 8, 16, 32)
"""Strides of the stages after the stem."""
PROBE = (96, 160)
"""Height and width of an image that a model must take: not square, not the size of its pretraining."""


class TimmBackbone(nn.Module):
    """A model of timm under torchvision's feature pyramid.

    Its weights keep timm's names, under `body`.

    Args:
        body: the model, without what no level reads.
        indices: the feature maps that the levels up to P5 are made from, as timm counts them.
        modules: names in `body` of the modules that end stages 1, 2, ...
        widths: channels of these maps.
        out_channels: C, of every pyramid level.
        levels: of the pyramid, see `build_pyramid`.
        frozen_stages: number of stages that do not train; stem and four stages are counted.
        frozen_norm: whether BatchNorm does not train in the others either; other norms always do.
        pixels: that the weights expect.
    """

    size_divisor = 32

    def __init__(
        self,
        body: nn.Module,
        out_channels: int,
        *,
        indices: list[int],
        modules: list[str],
        widths: list[int],
        levels: Levels,
        frozen_stages: int,
        frozen_norm: bool,
        pixels: PixelFormat,
    ) -> None:
        super().__init__()
        from timm.layers.norm_act import freeze_batch_norm_2d

        self.body, self.indices, self.stage_ends = body, indices, modules
        self.strides, self.pixels = strides_of(levels), pixels
        self.fpn = build_pyramid(widths, out_channels, levels)
        freeze(
            self, self.parameter_stages(), freeze_batch_norm_2d, frozen_stages=frozen_stages, frozen_norm=frozen_norm
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Extract the pyramid.

        Args:
            images: (B, 3, H, W) float, normalized; H and W divisible by 32.

        Returns:
            Five levels, (B, C, H / stride, W / stride) each, rounded up, for the strides in `strides`.
        """
        maps = self.body.forward_intermediates(  # type: ignore[operator]  # a method of every model of timm
            images, indices=self.indices, output_fmt="NCHW", intermediates_only=True
        )
        return run_pyramid(self.fpn, maps)

    def parameter_stages(self) -> dict[str, int]:
        """Return the stage of every parameter of the feature extractor, below the pyramid; the stem is 0.

        Stage k ends with the map of stride 2^(k + 1). What lies between two of the modules that give these maps belongs
        to the later one, what lies before the first to the stem.
        """
        stages: dict[str, int] = {}
        ended = 0
        for layer, module in self.body.named_modules():
            inside = [k for k, end in enumerate(self.stage_ends, 1) if f"{layer}.".startswith(f"{end}.")]
            ended = inside[0] if inside else ended
            stage = inside[0] if inside else min(ended + 1, len(self.stage_ends)) if ended else 0
            names = (f"{layer}.{name}".lstrip(".") for name, _ in module.named_parameters(recurse=False))
            stages |= {f"body.{name}": stage for name in names}
        return stages


def build_timm_backbone(
    name: BackboneName, out_channels: int, *, levels: Levels, frozen_stages: int, frozen_norm: bool
) -> TimmBackbone:
    """Build a backbone with fresh weights; see `TimmBackbone`.

    Raises:
        BCNetError: if timm is missing or does not know the name, or the model gives no pyramid for images of any size.
    """
    pixels = timm_pixels(name)
    with torch.device("meta"):
        options = _accepted_options(_feature_model(name).model)
        plan = _feature_model(name, **options)
    info = plan.feature_info
    maps = dict(zip(info.reduction(), zip(plan.out_indices, info.module_name(), strict=True), strict=True))  # the last
    wanted = [stride for stride in STAGE_STRIDES if stride >= 2 ** FINEST[levels]]
    _check_maps(name, plan, wanted)
    model = _feature_model(name, out_indices=[maps[stride][0] for stride in wanted], **options)
    return TimmBackbone(
        model.model,
        out_channels,
        indices=list(model.out_indices),
        modules=[maps[stride][1] for stride in STAGE_STRIDES if stride in maps],
        widths=model.feature_info.channels(),
        levels=levels,
        frozen_stages=frozen_stages,
        frozen_norm=frozen_norm,
        pixels=pixels,
    )


def timm_pixels(name: BackboneName) -> PixelFormat:
    """Return the pixels that the published weights of a model of timm expect.

    Raises:
        BCNetError: if timm is missing or does not know the name.
    """
    timm = require_timm()
    short = name.removeprefix(TIMM)
    try:
        settings = timm.models.get_pretrained_cfg(short) if timm.is_model(short) else None
    except RuntimeError:  # a known model with an unknown tag
        settings = None
    if settings is None:
        near = timm.list_pretrained(f"{short.partition('.')[0]}.*")[:3]
        near = near or difflib.get_close_matches(short, [*timm.list_models(), *timm.list_pretrained()], n=3)
        hints = [f"did you mean: {' · '.join(TIMM + other for other in near)}"] if near else []
        raise usage_error(f"timm {timm.__version__} has no model `{short}`", *hints)
    mean, std = ([255 * value for value in values] for values in (settings.mean, settings.std))
    return PixelFormat((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))


def require_timm() -> Any:  # noqa: ANN401  (a module without types)
    """Import timm.

    Raises:
        BCNetError: if it is not installed.
    """
    try:
        import timm
    except ImportError as error:
        raise usage_error(
            f"backbones named {TIMM}NAME need the package `{error.name}`", "install it: pip install 'bcnet[timm]'"
        ) from None
    return timm


def _feature_model(name: BackboneName, **options: Any) -> Any:  # noqa: ANN401  (timm's wrapper has no types)
    """Build a model of timm that returns feature maps, with fresh weights.

    Raises:
        BCNetError: if the model is a classifier only.
    """
    short = name.removeprefix(TIMM)
    try:
        return require_timm().create_model(short, pretrained=False, features_only=True, feature_cls="getter", **options)
    except (RuntimeError, TypeError, AttributeError):  # no feature maps, or none that keep the model's own names
        raise _refusal(name, "it gives no feature maps") from None


def _accepted_options(model: nn.Module) -> dict[str, Any]:
    known = inspect.signature(type(model)).parameters
    return {key: value for key, value in ANY_SIZE.items() if key in known}


def _check_maps(name: BackboneName, model: Any, strides: list[int]) -> None:  # noqa: ANN401
    """Require a model on the meta device to give maps of some strides for an image that is not square.

    Raises:
        BCNetError: if it does not.
    """
    given = model.feature_info.reduction()
    if not set(strides) <= set(given):
        raise _refusal(name, f"its maps have the strides {_listed(given)}, not {_listed(strides)}")
    height, width = PROBE
    try:
        maps = model.eval()(torch.empty(1, 3, height, width, device="meta"))
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise _refusal(name, "it does not take images of any size" + (f" ({reason})" if reason else "")) from None
    sizes = [(height // stride, width // stride) for stride in given]
    if [tuple(x.shape[-2:]) for x in maps] != sizes:
        raise _refusal(name, "its convolutions are not padded, so that its maps do not lie over the image")
    modules = dict(model.model.named_modules())
    if not all(module in modules for module in model.feature_info.module_name()):
        raise _refusal(name, "timm does not say which of its layers end its stages")


def _listed(values: list[int]) -> str:
    return ", ".join(map(str, values))


def _refusal(name: BackboneName, reason: str) -> BCNetError:
    return usage_error(
        f"`{name}` has no feature pyramid: {reason}",
        "take a ConvNeXt, Swin, EfficientNet, RegNet or ResNet, for example timm/convnext_tiny",
    )
