"""Many passes of one network made cheaper: copies that are known to be the same network."""
