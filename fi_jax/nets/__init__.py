"""The networks: linen modules with plain keyword arguments, no random draws inside, NHWC."""
