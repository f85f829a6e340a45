"""detectron2's mask_rcnn_R_50_FPN_3x with the bilayer head: python train.py COCO_ROOT [KEY VALUE ...]."""

import sys

from detectron2 import model_zoo
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog

from bcnet_core.integrations.detectron2 import BilayerTrainer, add_bcnet_config, register_bilayer_coco

root, *overrides = sys.argv[1:]
for split in ("train", "val"):
    register_bilayer_coco(f"my_{split}", f"{root}/annotations/instances_{split}2017.json", f"{root}/{split}2017")
cfg = get_cfg()
add_bcnet_config(cfg)
cfg.merge_from_file(model_zoo.get_config_file("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"))
cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("my_train",), ("my_val",)
cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(MetadataCatalog.get("my_train").thing_classes)
cfg.MODEL.ROI_MASK_HEAD.NAME = "BilayerMaskRCNNHead"
cfg.merge_from_list(overrides)
trainer = BilayerTrainer(cfg)
trainer.resume_or_load(resume=True)
trainer.train()
