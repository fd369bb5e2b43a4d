"""`stagecue bench prefetch`: the DGS and its peers answering the same operation for the same profiles."""
