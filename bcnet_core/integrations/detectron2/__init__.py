"""detectron2 with the bilayer head: importing this registers it there; README.md says how to install detectron2.

Registered are the mask head `BilayerMaskRCNNHead`, the RoI heads `BilayerROIHeads` and `BilayerCascadeROIHeads`, the
meta architecture `BilayerFCOS` and the backbones it needs.
"""

import logging
import warnings

with warnings.catch_warnings():  # detectron2 scripts functions when it is imported, which torch advises against
    warnings.simplefilter("ignore")
    import detectron2.modeling  # noqa: F401

# What detectron2 does in ways that today's torch advises against, which no user of it can change.
warnings.filterwarnings("ignore", message="torch.meshgrid", category=UserWarning)
logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)

from bcnet_core.integrations.detectron2.config import add_bcnet_config
from bcnet_core.integrations.detectron2.cropped_masks import CroppedMasks
from bcnet_core.integrations.detectron2.data import BilayerDatasetMapper, register_bilayer_coco
from bcnet_core.integrations.detectron2.fcos import BilayerFCOS, bilayer_fcos
from bcnet_core.integrations.detectron2.heads import (
    BilayerCascadeROIHeads,
    BilayerMaskRCNNHead,
    BilayerROIHeads,
    add_bilayer_head,
)
from bcnet_core.integrations.detectron2.trainer import BilayerTrainer

__all__ = [
    "BilayerCascadeROIHeads",
    "BilayerDatasetMapper",
    "BilayerFCOS",
    "BilayerMaskRCNNHead",
    "BilayerROIHeads",
    "BilayerTrainer",
    "CroppedMasks",
    "add_bcnet_config",
    "add_bilayer_head",
    "bilayer_fcos",
    "register_bilayer_coco",
]
