"""The comparison on real crowds: the recommended recipe against Mask R-CNN as others build it, in equal time."""
