"""The study of whole masks: what the amodal map brings and costs, and which parts of the head it needs."""
