"""The algorithms: one dataflow operator a file. They know packets and tensors, and nothing of clusters or brokers."""
