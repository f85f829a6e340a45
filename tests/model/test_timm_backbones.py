import subprocess
import sys

import pytest
import torch
from torch import nn

from bcnet_core import BCNetError
from bcnet_core.config.data import DataConfig
from bcnet_core.config.model import ModelConfig
from bcnet_core.config.schema import Recipe
from bcnet_core.distributed import GlobalBatchNorm2d, share_statistics
from bcnet_core.engine.estimate import estimate_memory
from bcnet_core.model.backbones import Backbone, build_backbone, freezes_norm, pixel_format
from bcnet_core.model.detectors import Detector, build_detector
from bcnet_core.model.timm_backbones import TimmBackbone
from bcnet_core.weights.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from bcnet_core.weights.export import export_detector
from bcnet_core.weights.loading import load_weights, model_shapes, shapes_of
from tests.conftest import REPO
from tests.model.test_detectors import CATEGORIES, images, targets

LITE = "timm/tf_efficientnet_lite0"
MODELS = (LITE, "timm/convnext_atto", "timm/regnety_002", "timm/resnet18d", "timm/swin_tiny_patch4_window7_224")
SIZE = 96, 160


def recipe(backbone: str, detector: str = "fcos", **settings: object) -> Recipe:
    small = {"channels": 32, "tower_convs": 1, "anchor_scale": 4, "score_threshold": 0.0, "detections_per_image": 5}
    model = {"backbone": backbone, "detector": detector, **small, **settings}
    return Recipe(data=DataConfig(min_size=64, max_size=96), model=ModelConfig.model_validate(model))


def build(backbone: str, detector: str = "fcos", **settings: object) -> Detector:
    torch.manual_seed(0)
    return build_detector(recipe(backbone, detector, **settings), CATEGORIES)


def backbone_of(name: str, **settings: object) -> Backbone:
    return build_backbone(name, out_channels=16, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", MODELS)
def test_levels_have_their_strides_and_every_weight_is_read(name: str) -> None:
    backbone = backbone_of(name)
    features = backbone(torch.rand(2, 3, *SIZE))
    assert backbone.strides == (8, 16, 32, 64, 128)
    assert [x.shape for x in features] == [(2, 16, -(-SIZE[0] // s), -(-SIZE[1] // s)) for s in backbone.strides]
    torch.stack([x.sum() for x in features]).sum().backward()
    unread = [key for key, value in backbone.named_parameters() if value.grad is None]
    assert not unread, "several processes cannot train a weight that no loss depends on"


@pytest.mark.parametrize("name", ["resnet18d", "dla46_c"])  # the latter's maps begin at stride 2, but count from 1
def test_the_features_are_timms(name: str) -> None:
    import timm

    backbone = backbone_of(f"timm/{name}", levels="p2_p6").eval()
    assert isinstance(backbone, TimmBackbone) and backbone.strides == (4, 8, 16, 32, 64)
    theirs = timm.create_model(name, pretrained=False, features_only=True).eval()
    theirs.load_state_dict(backbone.body.state_dict(), strict=False)
    image, seen = torch.rand(1, 3, *SIZE), []
    backbone.fpn.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs[0].values()))
    with torch.no_grad():
        backbone(image)
        expected = theirs(image)[-4:]
    assert len(seen) == 4
    for one, other in zip(seen, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("detector", ["fcos", "faster_rcnn"])
@pytest.mark.parametrize("name", [LITE, "timm/convnext_atto"])
def test_a_detector_trains_and_comes_back_from_a_checkpoint(name: str, detector: str, tmp_path: object) -> None:
    model = build(name, detector, mask_proposals="jittered")
    losses = model(images((64, 64), (64, 80)), [targets(2), targets(1)], [0, 1])
    torch.stack(list(losses.values())).sum().backward()
    used = [value.grad is not None for value in model.parameters() if value.requires_grad]
    assert all(loss.isfinite() for loss in losses.values()) and all(used)
    path = tmp_path / "x.pt"  # type: ignore[operator]
    chosen = recipe(name, detector, mask_proposals="jittered")
    save_checkpoint(path, Checkpoint(1, chosen.model_dump(mode="json"), CATEGORIES, model.state_dict(), {}))
    other = build_detector(chosen, CATEGORIES)
    load_weights(other, chosen, read_checkpoint(path), path)
    picture = images((70, 90))[0].permute(1, 2, 0).numpy()
    one, two = (each.eval().predict([picture])[0] for each in (model, other))
    assert len(one.boxes) == 5 and torch.equal(one.boxes, two.boxes) and torch.equal(one.scores, two.scores)


@pytest.mark.parametrize("name", [*MODELS[:4], pytest.param(MODELS[4], marks=pytest.mark.slow)])
def test_shapes_and_memory_are_known_without_allocating(name: str) -> None:
    chosen = recipe(name)
    assert model_shapes(chosen, classes=2) == shapes_of(build_detector(chosen, CATEGORIES).state_dict())
    assert estimate_memory(chosen, num_classes=2, processes=1).activations > 0


def test_stages_end_with_the_maps_of_the_pyramid() -> None:
    backbone = backbone_of(LITE)
    stages = backbone.parameter_stages()
    assert stages.keys() == {name for name, _ in backbone.named_parameters() if name.startswith("body.")}
    blocks = {name.split(".")[2]: stage for name, stage in stages.items() if name.startswith("body.blocks.")}
    assert stages["body.conv_stem.weight"] == 0
    assert blocks == {"0": 0, "1": 1, "2": 2, "3": 3, "4": 3, "5": 4, "6": 4}


@pytest.mark.parametrize("name", [LITE, "r18"])
def test_norms_train_by_a_key_but_for_those_of_frozen_stages(name: str) -> None:
    frozen = backbone_of(name)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in frozen.modules())
    trained = backbone_of(name, frozen_norm=False, frozen_stages=2)
    stages = trained.parameter_stages()
    assert {stage for key, stage in stages.items() if trained.get_parameter(key).requires_grad} == {2, 3, 4}
    norms = [key for key, module in trained.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and {stages[f"{key}.weight"] for key in norms} == {2, 3, 4}
    missing = trained.load_state_dict(frozen.state_dict(), strict=False).missing_keys
    assert all(key.endswith("num_batches_tracked") for key in missing), "one file of weights fits both"
    frozen.load_state_dict(trained.state_dict())


def test_norms_with_an_activation_share_their_statistics() -> None:
    plain = backbone_of(LITE, frozen_norm=False)
    shared = backbone_of(LITE, frozen_norm=False)
    shared.load_state_dict(plain.state_dict())
    share_statistics(shared)
    norms = [module for module in shared.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and all(isinstance(module, GlobalBatchNorm2d) for module in norms)
    image = torch.rand(2, 3, *SIZE)
    for one, other in zip(plain(image), shared(image), strict=True):
        assert torch.equal(one, other)
    assert plain.state_dict().keys() == shared.state_dict().keys()


def test_a_recipe_says_whether_its_norms_are_frozen() -> None:
    assert freezes_norm(recipe(LITE).model)
    assert not freezes_norm(recipe(LITE, frozen_norm=False, frozen_stages=0).model)
    assert not freezes_norm(recipe("timm/convnext_atto").model)


def test_pixels_are_those_of_the_published_weights() -> None:
    assert pixel_format(LITE, "caffe") == ((127.5,) * 3, (127.5,) * 3, False)
    assert pixel_format("timm/resnet18d", "caffe").mean == pytest.approx((123.675, 116.28, 103.53))


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("convnxt_tiny", r"timm [\d.]+ has no model `convnxt_tiny`", "did you mean: timm/convnext_tiny · "),
        ("resnet18.nobody", r"has no model `resnet18.nobody`", "did you mean: timm/resnet18.a1_in1k · "),
        ("vit_tiny_patch16_224", "its maps have the strides 16, 16, 16, not 8, 16, 32", "take a ConvNeXt"),
        ("maxvit_tiny_tf_224", "it does not take images of any size", "take a ConvNeXt"),
        ("inception_v3", "its convolutions are not padded", "take a ConvNeXt"),
        ("halonet26t", "it does not take images of any size$", "take a ConvNeXt"),
        ("hrnet_w18_small", "timm does not say which of its layers end its stages", "take a ConvNeXt"),
        ("hardcorenas_a", "it gives no feature maps", "take a ConvNeXt"),
    ],
)
def test_models_without_a_pyramid_are_refused(name: str, message: str, hint: str) -> None:
    with pytest.raises(BCNetError, match=message) as caught:
        backbone_of(f"timm/{name}")
    assert caught.value.exit_code == 2 and caught.value.hints[0].startswith(hint)


def test_without_timm_one_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(BCNetError, match="need the package `timm`") as caught:
        backbone_of(LITE)
    assert caught.value.hints == ("install it: pip install 'bcnet[timm]'",)
    assert backbone_of("tiny").strides == (8, 16, 32)


def test_other_backbones_do_not_import_timm() -> None:
    code = "import sys, bcnet_core.weights.importing as i; from bcnet_core.model.backbones import build_backbone\n"
    code += "build_backbone('r18', out_channels=8); print('timm' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPO).stdout
    assert shown.strip() == "False"


@pytest.mark.slow
@pytest.mark.parametrize("form", ["torchscript", "onnx"])
@pytest.mark.parametrize("name", MODELS)
def test_a_detector_is_exported(name: str, form: str, tmp_path: object) -> None:
    model = build(name).eval()
    check = export_detector(model, tmp_path / "x", form=form, height=96, width=128)  # type: ignore[operator, arg-type]
    assert check.instances == check.alike == 15


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_half_precision_and_compilation_work(name: str) -> None:
    model = build(name)
    model.backbone.compile(backend="eager")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(images((64, 64)), [targets(2)], [0])
    torch.stack(list(losses.values())).sum().backward()
    assert all(loss.isfinite() for loss in losses.values())
