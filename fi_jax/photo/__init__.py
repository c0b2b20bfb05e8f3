"""A person's own photo: read, searched for faces, cut to the network's frame, and mended."""
