"""What detectron2 does in ways that today's libraries advise against; everything else that warns is an error here, too."""

from __future__ import annotations

import pytest

OF_DETECTRON2 = ("pkg_resources is deprecated", "`torch.jit.script`", "torch.meshgrid")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "integrations/detectron2" in item.path.as_posix():
            for start in OF_DETECTRON2:
                item.add_marker(pytest.mark.filterwarnings(f"ignore:{start}"))
