"""What keeps streams running: workers for partitions, and who looks after them."""
