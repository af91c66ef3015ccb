"""The vocabulary: target, layer, trace, maps, masking, method, explanation, registry. Pure torch."""
