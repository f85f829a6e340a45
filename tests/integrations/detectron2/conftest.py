"""Our integration imports detectron2 first, because it silences detectron2's deprecation warnings."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

if find_spec("detectron2") is not None:
    import bcnet_core.integrations.detectron2  # noqa: F401

OF_DETECTRON2 = ("pkg_resources is deprecated", "`torch.jit.script`", "torch.meshgrid")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let detectron2 warn of itself; everything else that warns is an error here, too."""
    for item in items:
        if "integrations/detectron2" in item.path.as_posix():
            for start in OF_DETECTRON2:
                item.add_marker(pytest.mark.filterwarnings(f"ignore:{start}"))
