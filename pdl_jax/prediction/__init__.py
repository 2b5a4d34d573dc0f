"""Images in, label maps, segments, files and shards out."""
