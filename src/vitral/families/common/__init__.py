"""What the family files share: reading a config, the frame around a list of blocks, the language of name maps."""
