"""The vocabulary, in pure torch: target, layer, trace, maps, masking, method, explanation."""
